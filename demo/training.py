"""One training step of a StyleGAN: what train.py repeats.

Non-saturating loss, lazy R1, augmentation of all that the discriminator sees, style mixing, an
average over the weights; and reconstructions beside samples (see Encoder).
"""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass, field

import torch
import torch.nn.functional as F
from dataset import to_range
from discriminator import Discriminator, Encoder, augment
from torch import Tensor

from bicubic import BicubicDownSample
from formats import Networks
from stylegan import G_mapping, G_synthesis

LR_SIDE = 16  # the size at which the encoder sees faces, and reconstructions are compared


def _setting(default, help: str):
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class TrainSettings:
    """What a checkpoint is bound to: one with other settings is not gone on from."""

    resolution: int = _setting(64, "pixels a side; 128 takes four times the time an image")
    fmap_base: int = _setting(1024, "channels at 2^k pixels are fmap_base / 2^(k - 1)")
    fmap_max: int = _setting(128, "and at most so many")
    dlatent_size: int = _setting(512, "width of a latent")
    mapping_layers: int = _setting(4, "of the mapping network; 8 learn too slowly on a CPU")
    batch_size: int = _setting(32, "pictures in a batch")
    learning_rate: float = _setting(2.5e-3, "of Adam, with betas (0, 0.99)")
    r1_weight: float = _setting(1.0, "of half the squared gradient of D on real pictures")
    r1_every: int = _setting(16, "batches between which R1 is applied, so many times stronger")
    mixing: float = _setting(0.9, "share of samples of which some layers have another w")
    reconstruction: float = _setting(
        100.0, "weight of the distance to real faces downscaled to 16 pixels; 0 for a plain GAN"
    )
    ema_images: int = _setting(10_000, "half-life, in images, of the average over the weights")
    seed: int = _setting(0, "of everything random")

    def check(self) -> None:
        """Raises: ValueError, one sentence, for a value that nothing can be trained with."""
        size = self.resolution
        if size < 2 * LR_SIDE or size & (size - 1):
            raise ValueError(f"resolution must be a power of two from {2 * LR_SIDE} on, not {size}")
        for name in ("fmap_base", "fmap_max", "dlatent_size", "mapping_layers", "r1_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.batch_size < 4 or self.batch_size % 4:
            raise ValueError(f"batch_size must be a multiple of 4, not {self.batch_size}")


class Training:
    """Networks, optimisers, random state and counters; `step()` trains on one batch."""

    def __init__(self, settings: TrainSettings, faces: Tensor, device: torch.device):
        self.settings, self.faces, self.device = settings, faces, device
        s = settings
        torch.manual_seed(s.seed)
        self.random = torch.Generator().manual_seed(s.seed)
        self.networks = torch.nn.ModuleDict(
            {
                "synthesis": G_synthesis(
                    s.dlatent_size, 3, s.resolution, s.fmap_base, fmap_max=s.fmap_max
                ),
                "mapping": G_mapping(s.dlatent_size, s.mapping_layers),
                "encoder": Encoder(s.dlatent_size),
                "discriminator": Discriminator(s.resolution),
            }
        ).to(device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.networks)
        del self.averaged["encoder"], self.averaged["discriminator"]
        self.averaged.requires_grad_(False)
        self.downscale = BicubicDownSample(s.resolution // LR_SIDE)
        own = dict(self.networks)
        critic = own.pop("discriminator").parameters()
        makers = [parameter for network in own.values() for parameter in network.parameters()]
        self.optimisers = {
            # lazy regularisation: D takes 17 steps for 16 (Karras 2020)
            "discriminator": self._adam(critic, s.r1_every / (s.r1_every + 1)),
            "generator": self._adam(makers, 1.0),
        }
        self.synthesize = self.networks["synthesis"]
        self.judge = self.networks["discriminator"]
        self.images = 0
        self.seconds = 0.0
        self.log: list[dict] = []

    def _adam(self, parameters, share: float) -> torch.optim.Adam:
        rate = self.settings.learning_rate * share
        return torch.optim.Adam(list(parameters), lr=rate, betas=(0.0, 0.99**share))

    def compile(self) -> None:
        """Compiled networks, which share their weights with the plain ones; the first step takes a
        minute longer.
        """
        self.synthesize = torch.compile(self.networks["synthesis"])
        self.judge = torch.compile(self.networks["discriminator"])

    def draw(self, *shape: int) -> Tensor:
        """N(0, 1) from this training's own generator, one sequence on every device."""
        return torch.randn(*shape, generator=self.random).to(self.device)

    def real_batch(self) -> Tensor:
        """Random faces, every second one mirrored: (B, 3, S, S) in [-1, 1]."""
        B = self.settings.batch_size
        chosen = torch.randint(len(self.faces), (B,), generator=self.random)
        faces = to_range(self.faces[chosen].to(self.device))
        mirrored = (torch.rand(B, 1, 1, 1, generator=self.random) < 0.5).to(self.device)
        faces = torch.where(mirrored, faces.flip(3), faces)
        return faces.contiguous(memory_format=torch.channels_last)

    def make(self, real: Tensor) -> tuple[Tensor, Tensor | None]:
        """A batch of made pictures, half of them samples (some with mixed styles), half
        reconstructions of real faces from their LR; and the mean squared LR distance of the
        latter.
        """
        s, mapping = self.settings, self.networks["mapping"]
        layers = self.networks["synthesis"].num_layers
        encoded = len(real) // 2 if s.reconstruction else 0
        sampled = len(real) - encoded
        w = mapping(self.draw(sampled, s.dlatent_size))[:, None].repeat(1, layers, 1)  # (B, L, d)
        other = mapping(self.draw(sampled, s.dlatent_size))[:, None]
        first = torch.randint(1, layers, (sampled, 1), generator=self.random)
        unmixed = torch.rand(sampled, 1, generator=self.random) >= s.mixing
        first = first.masked_fill(unmixed, layers).to(self.device)
        mixed = torch.arange(layers, device=self.device) >= first  # (B, L)
        w = torch.where(mixed[:, :, None], other, w)
        LR = None
        if encoded:
            LR = self.downscale(real[:encoded])
            codes = mapping(self.networks["encoder"](LR))
            w = torch.cat([w, codes[:, None].expand(-1, layers, -1)])
        noise = [self.draw(len(w), 1, r, r) for r in self.networks["synthesis"].layer_sizes]
        fake = self.synthesize(w, noise)
        if not encoded:
            return fake, None
        # in [0, 1], as the search measures it
        return fake, ((self.downscale(fake[sampled:]) - LR) / 2).square().mean()

    def step(self, train_generator: bool = True) -> dict[str, Tensor]:
        """One batch for the discriminator and one for the generator; returns their losses."""
        s = self.settings
        real = self.real_batch()
        with torch.set_grad_enabled(train_generator):
            fake, distance = self.make(real)
        figures = {}

        critic = self.optimisers["discriminator"]
        self.networks["discriminator"].requires_grad_(True)
        on_real = self.judge(augment(real, self.random))
        on_fake = self.judge(augment(fake.detach(), self.random))
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        figures["loss_D"] = loss.detach()
        figures["real_share"] = (on_real > 0).float().mean()  # 0.5: cannot tell; 1: overfits
        critic.zero_grad()
        loss.backward()
        critic.step()
        if self.images // s.batch_size % s.r1_every == 0:
            seen = augment(real, self.random).detach().requires_grad_()
            output = self.networks["discriminator"](seen).sum()  # compiled has no second gradient
            (gradient,) = torch.autograd.grad(output, seen, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
            critic.zero_grad()
            (s.r1_weight / 2 * s.r1_every * penalty).backward()
            critic.step()
            figures["r1"] = penalty.detach()

        if train_generator:
            self.networks["discriminator"].requires_grad_(False)
            loss = F.softplus(-self.judge(augment(fake, self.random))).mean()
            figures["loss_G"] = loss.detach()
            if distance is not None:
                loss = loss + s.reconstruction * distance
                figures["lr_distance"] = distance.detach()
            maker = self.optimisers["generator"]
            maker.zero_grad()
            loss.backward()
            maker.step()
        self.images += s.batch_size
        self._average()
        return figures

    @torch.no_grad()
    def _average(self) -> None:
        # younger weights count more at the beginning, when all change fast
        half_life = min(self.settings.ema_images, max(self.images / 2, 1))
        keep = 0.5 ** (self.settings.batch_size / half_life)
        for name, network in self.averaged.items():
            present = list(self.networks[name].parameters())
            torch._foreach_lerp_(list(network.parameters()), present, 1 - keep)

    def critic(self) -> dict[str, dict[str, Tensor]]:
        """The networks that a generator was trained against and with, in float16: what is needed to
        train on from a generator without its checkpoint.
        """
        return {
            name: {
                key: value.half().cpu() for key, value in self.networks[name].state_dict().items()
            }
            for name in ("discriminator", "encoder")
        }

    def start_from(self, networks: Networks, critic: dict | None = None) -> None:
        """Generator weights of a file, and where it is at hand its `critic`, instead of random
        ones. Raises: ValueError where they do not fit.
        """
        there = {**networks.synthesis.config, "mapping_layers": len(networks.mapping or ())}
        for name, value in asdict(self.settings).items():
            if name in there and there[name] != value:
                raise ValueError(
                    f"the generator to start from has {name} {there[name]}, not {value}: set "
                    f"-{name} {there[name]}"
                )
        for name in ("discriminator", "encoder") if critic is not None else ():
            try:
                self.networks[name].load_state_dict(critic[name])
            except (KeyError, TypeError, RuntimeError):
                raise ValueError(
                    f"the critic to start from has no {name} that fits: give the critic.pt that "
                    f"was written beside the generator"
                ) from None
        for name in ("synthesis", "mapping"):
            state = getattr(networks, name).state_dict()
            self.networks[name].load_state_dict(state)
            self.averaged[name].load_state_dict(state)

    def state_dict(self) -> dict:
        """Everything that the next step depends on; loads with weights_only=True."""
        return {
            "settings": asdict(self.settings),
            "networks": self.networks.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": {name: each.state_dict() for name, each in self.optimisers.items()},
            "random": self.random.get_state(),
            "images": self.images,
            "seconds": self.seconds,
            "log": self.log,
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`. Raises: KeyError, RuntimeError or ValueError where it is no such
        state.
        """
        self.networks.load_state_dict(state["networks"])
        self.averaged.load_state_dict(state["averaged"])
        for name, optimiser in self.optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        self.random.set_state(state["random"])
        self.images, self.seconds, self.log = state["images"], state["seconds"], state["log"]
