"""Widen a generator, and give it twice the resolution, before it is trained on.

    python -m training.grow -start demo64 -critic demo/critic64.pt -output_dir grown \\
      -resolution 128 -fmap_base 2048 -fmap_max 256 -critic_base 4096 -critic_max 256

Writes generator.pt and critic.pt for python -m training.train -start and -critic, with the same
flags. Wider layers compute what the narrow ones did: each channel is there several times, and what
reads it shares its weights out among the copies (Net2Net, Chen 2016), at random, so that the copies
part as they learn. A new block at twice the resolution learns to make the old pictures, enlarged,
and a new block of the discriminator to give the next one what it had before.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from cli.signals import heed_signals
from fast.device import choose_device
from generators.formats import Networks
from generators.load import save_generator, weight_file
from generators.prior import fit_prior
from safe_files import atomic_write, require_folder_writable
from stylegan import LEAKY_SLOPE, EqualisedConv, G_synthesis
from training.discriminator import Discriminator
from training.inputs import (
    load_weights,
    read_generator,
    require_at_least,
    require_inputs_kept,
)
from training.train_settings import require_channels

BATCH, LEARNING_RATE = 16, 5e-3  # of a new block
FIRST = {"from_rgb.weight", "from_rgb.bias"}  # of a discriminator


def widened(weight: Tensor, shape: torch.Size, name: str, random: torch.Generator) -> Tensor:
    """The stored tensor `name` of a layer, for a layer of `shape` that computes the same of inputs
    whose channels are there several times. Raises: UserError where `shape` is no multiple.
    """
    if ".style_mod.lin." in name:  # factors and offsets: each half by itself, of a w as before
        halves = (
            _repeated(half, len(half) * shape[0] // len(weight), 0) for half in weight.chunk(2)
        )
        wide = torch.cat(list(halves))
    elif name.endswith("const"):
        wide = _repeated(weight, shape[1], 1)
    elif weight.ndim == 1:
        wide = _repeated(weight, shape[0], 0)
    else:
        # the discriminator's last convolution reads one channel more, of which there is one
        single = 1 if name == "conv.weight" else 0
        wide = _repeated(weight, shape[0], 0)
        channels = weight.shape[1] - single
        body = _repeated(wide[:, :channels], shape[1] - single, 1)
        copies = body.shape[1] // channels
        shares = torch.rand(len(body), copies, channels, generator=random) + 0.5
        shares = (shares / shares.sum(1, keepdim=True)).flatten(1)  # of the copies, 1 in all
        body = body * shares.view(*body.shape[:2], *[1] * (body.ndim - 2))
        # what a layer multiplies stored weights with falls with the root of what it reads
        wide = torch.cat([body, wide[:, channels:]], 1) * (shape[1] / weight.shape[1]) ** 0.5
    if wide.shape != shape:
        raise UserError(f"{name}, {tuple(weight.shape)}, cannot be widened to {tuple(shape)}")
    return wide


def _repeated(x: Tensor, number: int, dim: int) -> Tensor:
    """Repeated along `dim` to `number` entries, or as often as they hold it whole."""
    times = [1] * x.ndim
    times[dim] = max(number // x.shape[dim], 1)
    return x.repeat(times)


def take_over(
    network: nn.Module, state: dict[str, Tensor], random: torch.Generator
) -> list[nn.Parameter]:
    """Give `network` what `state` has of it, widened; returns the parameters that it has not."""
    own = network.state_dict()
    for key in [key for key in own if key in state]:  # in order, as `random` is drawn from
        own[key] = widened(state[key].float(), own[key].shape, key, random)
    network.load_state_dict(own)
    return [value for name, value in network.named_parameters() if name not in state]


@torch.no_grad()
def pass_through(source: G_synthesis, synthesis: G_synthesis, random: torch.Generator) -> None:
    """Begin the last block of `synthesis`, at twice the resolution of `source`, near one that
    enlarges what it is given, and paint as `source` does; where the widths are no multiples, it
    stays random.
    """
    old, new = (list(network.blocks.values())[-1] for network in (source, synthesis))
    channels = len(old.conv1.weight)
    if len(new.conv1.weight) % channels:
        return
    for conv in (new.conv0_up, new.conv1):
        fan_out, fan_in = conv.weight.shape[:2]
        same = torch.arange(fan_out)[:, None] % channels == torch.arange(fan_in) % channels
        conv.weight.mul_(0.1)
        # half a unit of what comes in, over its copies, and an offset that keeps most of it on the
        # straight side of the LeakyReLU; the norm that follows takes scale and offset away
        conv.weight[:, :, 1, 1] += 0.5 / conv.scale * same / same.sum(1, keepdim=True)
        conv.bias.fill_(1.0)
    new.epi1.style_mod.lin.weight.mul_(0.1)
    for layer, like, name in (
        (new.epi2.style_mod.lin, old.epi2.style_mod.lin, ".style_mod.lin."),
        (synthesis.torgb, source.torgb, "torgb"),
    ):
        for parameter, value in zip(layer.parameters(), like.parameters(), strict=True):
            parameter.copy_(widened(value.cpu(), parameter.shape, name, random))


def renumbered(critic: dict[str, Tensor], new: int) -> dict[str, Tensor]:
    """The state dict of a discriminator, with `new` blocks before its first one."""
    state = {}
    for key, value in critic.items():
        if not (new and key.startswith("from_rgb")):
            state[re.sub(r"(?<=^blocks\.)\d+", lambda n: str(int(n[0]) + new), key)] = value
    return state


def fit(parameters: list[nn.Parameter], steps: int, loss: Callable[[], Tensor], what: str) -> None:
    """Adam on `loss()`, with a rate that falls to nothing; tells how it goes. Where a network was
    only widened, nothing is left to learn.
    """
    if not parameters:
        return
    for parameter in parameters:
        parameter.requires_grad_()
    optimiser = torch.optim.Adam(parameters, lr=LEARNING_RATE, betas=(0.9, 0.99))
    for step in range(steps):
        heed_signals()
        optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
        value = loss()
        optimiser.zero_grad()
        value.backward(inputs=parameters)
        optimiser.step()
        if step % max(steps // 4, 1) == 0 or step == steps - 1:
            tell(f"{what}, step {step}: {value.item():.5f}")


class Growth:
    """From the networks of one size to those of another, and what both make of the same latents."""

    def __init__(self, source: Networks, synthesis: G_synthesis, device: torch.device, seed: int):
        self.device = device
        self.draws = torch.Generator(device).manual_seed(seed)
        self.source = source.synthesis.to(device).requires_grad_(False)
        self.mapping = source.mapping.to(device).requires_grad_(False)
        self.synthesis = synthesis
        state = self.source.state_dict()
        self.scale = synthesis.resolution // self.source.resolution
        if self.scale > 1:
            state = {key: value for key, value in state.items() if not key.startswith("torgb")}
        random = torch.Generator().manual_seed(seed)
        self.new = take_over(synthesis, {k: v.cpu() for k, v in state.items()}, random)
        if self.scale == 2:
            pass_through(self.source, synthesis, random)
        synthesis.to(device).requires_grad_(False)

    @torch.no_grad()
    def inputs(self, number: int = BATCH) -> tuple[Tensor, list[Tensor], Tensor]:
        """w and noise for the new generator, and the old one's pictures of them, enlarged."""

        def draw(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=self.draws, device=self.device)

        w = self.mapping(draw(number, self.mapping.dlatent_size))
        w = w[:, None].expand(-1, self.synthesis.num_layers, -1)
        noise = [draw(number, 1, r, r) for r in self.synthesis.layer_sizes]
        layers = self.source.num_layers
        pictures = self.source(w[:, :layers], noise[:layers])
        return w, noise, self.enlarged(pictures)

    def enlarged(self, pictures: Tensor) -> Tensor:
        if self.scale == 1:
            return pictures
        return F.interpolate(pictures, scale_factor=self.scale, mode="bicubic", align_corners=False)

    def fit_generator(self, steps: int) -> None:
        def loss() -> Tensor:
            w, noise, wanted = self.inputs()
            return F.mse_loss(self.synthesis(w, noise), wanted)

        fit(self.new, steps, loss, "new block of the generator")

    def take_critic(self, state: dict[str, Tensor], critic: Discriminator) -> None:
        """Fill `critic` from the state dict of the old generator's one, but for its new block.
        Raises: UserError where that is the critic of another generator.
        """
        new = self.scale.bit_length() - 1
        learned = [f"blocks.{number}." for number in range(new)] + ["from_rgb."] * new
        differ = critic.state_dict().keys() ^ renumbered(state, new).keys()
        if FIRST - state.keys() or not all(key.startswith(tuple(learned)) for key in differ):
            raise UserError(
                "-critic is no discriminator of the size that -start has: give the one that was "
                "trained beside it"
            )
        random = torch.Generator().manual_seed(1)
        self.new_of_critic = take_over(critic, renumbered(state, new), random)
        self.critic = critic.to(self.device).requires_grad_(False)
        old = EqualisedConv(12, len(state["from_rgb.weight"]), kernel=1)
        old.load_state_dict({k[9:]: v for k, v in state.items() if k.startswith("from_rgb.")})
        self.old_from_rgb = old.to(self.device).requires_grad_(False)

    def fit_critic(self, steps: int) -> None:
        """The critic's new block learns to give on what the old first layer made of the picture at
        its size.
        """
        critic, old, new = self.critic, self.old_from_rgb, self.scale.bit_length() - 1

        def loss() -> Tensor:
            pictures = self.inputs()[2]
            # grain that photographs have and enlarged pictures have not
            pictures = pictures + 0.1 * torch.randn_like(pictures)
            small = F.avg_pool2d(pictures, self.scale)
            wanted = F.leaky_relu(old(F.pixel_unshuffle(small, 2)), LEAKY_SLOPE)
            x = F.leaky_relu(critic.from_rgb(F.pixel_unshuffle(pictures, 2)), LEAKY_SLOPE)
            x = critic.blocks[:new](x)
            return F.mse_loss(x, _repeated(wanted, x.shape[1], 1))

        fit(self.new_of_critic, steps, loss, "new block of the discriminator")


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("start", "demo, demo64 or a one-file generator with its mapping network", "demo64")
    flags.flag("critic", "the critic.pt beside it", type=Path)
    flags.flag("output_dir", "where generator.pt and critic.pt go", "grown", type=Path)
    flags.flag("resolution", "pixels a side, the generator's or twice as many", 128, type=int)
    flags.flag("fmap_base", "channels, as in training.train", 2048, type=int)
    flags.flag("fmap_max", "channels, as in training.train", 256, type=int)
    flags.flag("critic_base", "channels, as in training.train", 4096, type=int)
    flags.flag("critic_max", "channels, as in training.train", 256, type=int)
    flags.flag("steps", "by which each new block learns, on batches of 16", 1000, type=int)
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    return flags


def main() -> int:
    args = parser().parse_args()
    require_at_least("steps", args.steps, 0)
    require_folder_writable(args.output_dir, "-output_dir")
    require_inputs_kept(
        [args.output_dir / "generator.pt", args.output_dir / "critic.pt"],
        [
            ("the generator to start from", weight_file(args.start)),
            ("what -critic names", args.critic),
        ],
    )
    device = choose_device(args.device)
    source = read_generator(args.start)
    size = source.synthesis.resolution
    if args.resolution not in (size, 2 * size):
        raise UserError(
            f"-resolution {args.resolution} is not what {args.start} can grow to: give {2 * size}, "
            f"or {size}, which only widens it"
        )
    channels = args.fmap_base, args.fmap_max, args.critic_base, args.critic_max
    require_channels(args.resolution, *channels)
    torch.manual_seed(0)
    width = source.synthesis.dlatent_size
    synthesis = G_synthesis(width, 3, args.resolution, args.fmap_base, fmap_max=args.fmap_max)
    growth = Growth(source, synthesis, device, seed=0)
    files = {}
    if args.critic:  # refused, if it is, before anything learns
        critic = Discriminator(args.resolution, args.critic_base, args.critic_max)
        growth.take_critic(load_weights(args.critic, "critic"), critic)
    growth.fit_generator(args.steps)
    if args.critic:
        growth.fit_critic(args.steps)
        files = {key: value.half().cpu() for key, value in critic.state_dict().items()}
    prior = source.prior or fit_prior(source.mapping.cpu())
    grown = (
        f"{source.about.get('name', args.start)}, grown to {args.resolution} pixels, not trained"
    )
    about = {**source.about, "name": grown}
    networks = Networks(synthesis.cpu().half(), source.mapping.cpu().half(), about=about)
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        save_generator(networks, prior, args.output_dir / "generator.pt")
        if files:
            with atomic_write(args.output_dir / "critic.pt") as file:
                torch.save(files, file)
    except OSError as error:
        raise UserError(f"{args.output_dir} cannot be written ({error.strerror})") from None
    tell(f"written: {args.output_dir / 'generator.pt'}")
    return OK


if __name__ == "__main__":
    run_command(main)
