"""One training step of a StyleGAN: what training.train repeats.

Non-saturating loss, lazy R1, augmentation of all that the discriminator sees, style mixing, an
average over the weights; and searches beside samples (search_loss.py). Convolutions in bfloat16
where the device is faster with it, all else in float32.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import asdict

import torch
import torch.nn.functional as F
from torch import Tensor

from cli.errors import UserError
from fast.precision import has_bfloat16
from generators.formats import Networks
from stylegan import G_mapping, G_synthesis
from training.dataset import to_range
from training.discriminator import Augmentation, Discriminator
from training.search_loss import PRIOR_DRAWS, Searches
from training.train_settings import TrainSettings


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
                "discriminator": Discriminator(s.resolution),
            }
        ).to(device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.networks)
        del self.averaged["discriminator"]
        self.averaged.requires_grad_(False)
        sizes = self.networks["synthesis"].layer_sizes
        self.searches = Searches(s.batch_size // 2, sizes, s.dlatent_size, device)
        own = dict(self.networks)
        critic = own.pop("discriminator").parameters()
        self.makers = [parameter for network in own.values() for parameter in network.parameters()]
        self.optimisers = {
            # lazy regularisation: D takes 17 steps for 16 (Karras 2020)
            "discriminator": self._adam(critic, s.r1_every / (s.r1_every + 1)),
            "generator": self._adam(self.makers, 1.0),
        }
        self.synthesize = self.networks["synthesis"]
        self.judge = self.networks["discriminator"]
        self.images, self.seconds = 0, 0.0  # of this training
        self.images_before, self.hours_before = 0, 0.0  # of the generator it began with
        self.augment = Augmentation(s.ada_target, s.ada_images, self.random, device)
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

    def autocast(self):
        """bfloat16 for convolutions, where the device has it."""
        kind = self.device.type
        fast = kind == "cuda" or (kind == "cpu" and has_bfloat16())
        return torch.autocast(kind, torch.bfloat16) if fast else contextlib.nullcontext()

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

    def mixed(self, number: int) -> Tensor:
        """w (number, L, d) of random latents; most have another latent from some layer on."""
        s, mapping = self.settings, self.networks["mapping"]
        layers = self.networks["synthesis"].num_layers
        w = mapping(self.draw(number, s.dlatent_size))[:, None].expand(-1, layers, -1)
        other = mapping(self.draw(number, s.dlatent_size))[:, None]
        first = torch.randint(1, layers, (number, 1), generator=self.random)
        unmixed = torch.rand(number, 1, generator=self.random) >= s.mixing
        first = first.masked_fill(unmixed, layers).to(self.device)
        changed = torch.arange(layers, device=self.device) >= first  # (number, L)
        return torch.where(changed[:, :, None], other, w)

    def noise(self, number: int) -> list[Tensor]:
        return [self.draw(number, 1, r, r) for r in self.networks["synthesis"].layer_sizes]

    def make(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        with self.autocast():
            return self.synthesize(w, noise).float()

    def doubt(self, pictures: Tensor) -> Tensor:
        """What the discriminator says of them, augmented: (B,)."""
        seen = self.augment(pictures)
        with self.autocast():
            return self.judge(seen).float()

    def step(self, train_generator: bool = True) -> dict[str, Tensor]:
        """One batch for the discriminator and one for the generator; returns their losses.

        Half of the generator's batch are samples, half the present pictures of the searches, whose
        older half the discriminator sees as well.
        """
        s, searches = self.settings, self.searches
        real = self.real_batch()
        figures = {}
        number = len(real) // 2 if train_generator and s.search_weight else 0
        with torch.set_grad_enabled(train_generator):
            w, noise = self.mixed(len(real) - number), self.noise(len(real) - number)
            if number:
                searches.follow(self.networks["mapping"], self.draw(PRIOR_DRAWS, s.dlatent_size))
                searches.renew(real[:number], self.draw)
                searched_w, searched_noise = searches.inputs()
                w = torch.cat([w, searched_w])
                noise = [torch.cat(maps) for maps in zip(noise, searched_noise, strict=True)]
            made = self.make(w, noise)
        fake = torch.cat([made[: len(real) - number], made[len(real) - number // 2 :]])
        self._train_discriminator(real, fake.detach(), figures)
        if train_generator:
            self.networks["discriminator"].requires_grad_(False)
            loss = F.softplus(-self.doubt(fake)).mean()
            figures["loss_G"] = loss.detach()
            if number:
                total, distance = searches.judge(searched_w, made[-number:])
                # the searches move by their own loss alone, whatever the discriminator thinks
                variables = searches.searched()
                gradients = torch.autograd.grad(total.sum(), variables, retain_graph=True)
                weights = searches.weights()
                left = distance.clamp(min=searches.settings.eps / 2)  # nearer is not asked for
                loss = loss + s.search_weight * (weights * left).sum() / weights.sum()
                if (ended := searches.ended(distance.detach())) is not None:
                    figures["search_l2"] = ended.mean()
                    figures["within_eps"] = (ended <= searches.settings.eps).float().mean()
            maker = self.optimisers["generator"]
            maker.zero_grad()
            loss.backward(inputs=self.makers)
            maker.step()
            if number:
                searches.advance(gradients)
        self.images += s.batch_size
        self._average()
        return figures

    def _train_discriminator(self, real: Tensor, fake: Tensor, figures: dict[str, Tensor]) -> None:
        s, critic = self.settings, self.optimisers["discriminator"]
        self.networks["discriminator"].requires_grad_(True)
        on_real, on_fake = self.doubt(real), self.doubt(fake)
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        figures["loss_D"] = loss.detach()
        self.augment.see(on_real)
        figures["sign_on_real"] = self.augment.sign.clone()  # 0: cannot tell; 1: overfits
        critic.zero_grad()
        loss.backward()
        critic.step()
        if self.images // s.batch_size % s.r1_every == 0:
            seen = self.augment(real).detach().requires_grad_()
            with self.autocast():  # compiled has no second gradient
                output = self.networks["discriminator"](seen).sum()
            (gradient,) = torch.autograd.grad(output, seen, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
            critic.zero_grad()
            (s.r1_weight / 2 * s.r1_every * penalty).backward()
            critic.step()
            figures["r1"] = penalty.detach()
            self.augment.adapt(s.r1_every * s.batch_size)

    @torch.no_grad()
    def _average(self) -> None:
        # younger weights count more at the beginning, when all change fast
        half_life = min(self.settings.ema_images, max(self.images / 2, 1))
        keep = 0.5 ** (self.settings.batch_size / half_life)
        for name, network in self.averaged.items():
            present = list(self.networks[name].parameters())
            torch._foreach_lerp_(list(network.parameters()), present, 1 - keep)

    def critic(self) -> dict[str, Tensor]:
        """The discriminator, in float16: what is needed to train on from a generator without its
        checkpoint.
        """
        state = self.networks["discriminator"].state_dict()
        return {key: value.half().cpu() for key, value in state.items()}

    def start_from(self, networks: Networks, critic: dict | None = None) -> None:
        """Generator weights of a file, and where it is at hand its `critic`, instead of random
        ones. Raises: UserError where they do not fit.
        """
        there = {**networks.synthesis.config, "mapping_layers": len(networks.mapping or ())}
        for name, value in asdict(self.settings).items():
            if name in there and there[name] != value:
                raise UserError(
                    f"the generator to start from has {name} {there[name]}, not {value}: set "
                    f"-{name} {there[name]}"
                )
        if critic is not None:
            try:
                self.networks["discriminator"].load_state_dict(critic)
            except (TypeError, RuntimeError):
                raise UserError(
                    "the critic to start from does not fit: give the critic.pt that was written "
                    "beside the generator"
                ) from None
        self.images_before = int(networks.about.get("images_seen", 0))
        self.hours_before = float(networks.about.get("hours", 0))
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
            "searches": self.searches.state_dict(),
            "random": self.random.get_state(),
            "images": self.images,
            "images_before": self.images_before,
            "hours_before": self.hours_before,
            "augmentation": self.augment.state_dict(),
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
            rate = optimiser.param_groups[0]["lr"]  # may be another one than before
            optimiser.load_state_dict(state["optimisers"][name])
            optimiser.param_groups[0]["lr"] = rate
        self.searches.load_state_dict(state["searches"])
        self.augment.load_state_dict(state["augmentation"])
        self.random.set_state(state["random"])
        for name in ("images", "images_before", "hours_before", "seconds", "log"):
            setattr(self, name, state[name])
