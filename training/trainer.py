"""One training step of a StyleGAN: what training.train repeats.

Non-saturating loss, lazy R1, augmentation of all that the discriminator sees, style mixing, an
average over the weights; discriminators of features (projected.py) and searches (search_loss.py)
beside samples, where their weights are above 0. Convolutions in bfloat16 where the device is faster
with it, all else in float32. Nothing here waits for the device.
"""

from __future__ import annotations

import contextlib
import copy
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cli.errors import UserError
from fast.precision import has_bfloat16
from generators.formats import Networks
from stylegan import G_mapping, G_synthesis
from training.augmentation import Augmentation
from training.dataset import to_range
from training.discriminator import Discriminator
from training.efficientnet import load_efficientnet
from training.projected import ProjectedDiscriminator, hinge
from training.search_loss import PRIOR_DRAWS, Searches
from training.train_settings import TrainSettings


class Training:
    """Networks, optimisers, random state and counters; `step()` trains on one batch.

    features: the weights of EfficientNet-lite0 that the projected discriminators see through, or
    None for those of the installed package. Raises: UserError where they are needed and missing.
    """

    def __init__(
        self,
        settings: TrainSettings,
        faces: Tensor,
        device: torch.device,
        features: Path | None = None,
    ):
        self.settings, self.faces, self.device = settings, faces.to(device), device
        s = settings
        torch.manual_seed(s.seed)
        self.random = torch.Generator(device).manual_seed(s.seed)
        self.networks = torch.nn.ModuleDict(
            {
                "synthesis": G_synthesis(
                    s.dlatent_size, 3, s.resolution, s.fmap_base, fmap_max=s.fmap_max
                ),
                "mapping": G_mapping(s.dlatent_size, s.mapping_layers),
                "discriminator": Discriminator(s.resolution, s.critic_base, s.critic_max),
            }
        ).to(device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.networks)
        del self.averaged["discriminator"]
        self.averaged.requires_grad_(False)
        sizes = self.networks["synthesis"].layer_sizes
        self.searches = Searches(s.batch_size // 2, sizes, s.dlatent_size, device)
        self.makers = [
            parameter
            for name in ("synthesis", "mapping")
            for parameter in self.networks[name].parameters()
        ]
        critic = self.networks["discriminator"].parameters()
        # lazy regularisation: D takes 17 steps for 16 (Karras 2020)
        share = s.r1_every / (s.r1_every + 1)
        self.optimisers = {
            "discriminator": self._adam(critic, s.learning_rate * share, 0.99**share),
            "generator": self._adam(self.makers, s.learning_rate),
        }
        self.augment = Augmentation(s.ada_target, s.ada_images, self.random)
        self.projected: ProjectedDiscriminator | None = None
        if s.projected_weight:
            network = load_efficientnet(features, 0, device)
            self.projected = ProjectedDiscriminator(network, s.resolution, s.seed).to(device)
            heads = self.projected.heads.parameters()
            self.optimisers["projected"] = self._adam(heads, s.projected_learning_rate)
            self.projected_augment = Augmentation(s.ada_target, s.ada_images, self.random)
        self.rates = {name: each.param_groups[0]["lr"] for name, each in self.optimisers.items()}
        self.synthesize = self.networks["synthesis"]
        self.judge = self.networks["discriminator"]
        self.images, self.seconds = 0, 0.0  # of this training
        self.images_before, self.hours_before = 0, 0.0  # of the generator it began with
        self.log: list[dict] = []

    def _adam(self, parameters, rate: float, beta: float = 0.99) -> torch.optim.Adam:
        fused = self.device.type == "cuda"
        return torch.optim.Adam(list(parameters), lr=rate, betas=(0.0, beta), fused=fused)

    def scale_rates(self, factor: float) -> None:
        """Every learning rate becomes `factor` of the settings'."""
        for name, optimiser in self.optimisers.items():
            optimiser.param_groups[0]["lr"] = factor * self.rates[name]

    def compile(self) -> None:
        """Compiled networks, which share their weights with the plain ones; the first step takes a
        minute longer.
        """
        self.synthesize = torch.compile(self.networks["synthesis"], dynamic=False)
        self.judge = torch.compile(self.networks["discriminator"], dynamic=False)

    def autocast(self):
        """bfloat16 for convolutions, where the device has it."""
        kind = self.device.type
        fast = kind == "cuda" or (kind == "cpu" and has_bfloat16())
        return torch.autocast(kind, torch.bfloat16) if fast else contextlib.nullcontext()

    def draw(self, *shape: int) -> Tensor:
        """N(0, 1) from this training's own generator, on its device."""
        return torch.randn(*shape, generator=self.random, device=self.device)

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.random, device=self.device)

    def whole(self, low: int, high: int, *shape: int) -> Tensor:
        """Integers from `low` to below `high`."""
        return torch.randint(low, high, shape, generator=self.random, device=self.device)

    def real_batch(self) -> Tensor:
        """Random faces, every second one mirrored: (B, 3, S, S) in [-1, 1]."""
        B = self.settings.batch_size
        faces = to_range(self.faces[self.whole(0, len(self.faces), B)])
        faces = torch.where(self.uniform(B, 1, 1, 1) < 0.5, faces.flip(3), faces)
        return faces.contiguous(memory_format=torch.channels_last)

    def mixed(self, number: int) -> Tensor:
        """w (number, L, d) of random latents; most have another latent from some layer on."""
        s, mapping = self.settings, self.networks["mapping"]
        layers = self.networks["synthesis"].num_layers
        w = mapping(self.draw(number, s.dlatent_size))[:, None].expand(-1, layers, -1)
        other = mapping(self.draw(number, s.dlatent_size))[:, None]
        first = self.whole(1, layers, number, 1)
        first = first.masked_fill(self.uniform(number, 1) >= s.mixing, layers)
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

    def doubt_features(self, pictures: Tensor) -> Tensor:
        """What the projected discriminators say of them, augmented: (B, n)."""
        seen = self.projected_augment(pictures)
        with self.autocast():
            return self.projected(seen).float()

    def step(self, train_generator: bool = True) -> dict[str, Tensor]:
        """One batch for the discriminators and one for the generator; returns their losses.

        With searches, half of the generator's batch are samples, half the present pictures of the
        searches, whose older half the discriminators see as well.
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
        fake = made
        if number:
            fake = torch.cat([made[: len(real) - number], made[len(real) - number // 2 :]])
        self._train_discriminators(real, fake.detach(), figures)
        if train_generator:
            pulls = {fake: self._pull(fake.detach(), figures)}
            if number:
                total, distance = searches.judge(searched_w, made[-number:])
                # the searches move by their own loss alone, whatever the discriminators think
                variables = searches.searched()
                gradients = torch.autograd.grad(total.sum(), variables, retain_graph=True)
                weights = searches.weights()
                left = distance.clamp(min=searches.settings.eps / 2)  # nearer is not asked for
                pulls[s.search_weight * (weights * left).sum() / weights.sum()] = None
                if (ended := searches.ended(distance.detach())) is not None:
                    figures["search_l2"] = ended.mean()
                    figures["within_eps"] = (ended <= searches.settings.eps).float().mean()
            maker = self.optimisers["generator"]
            maker.zero_grad()
            torch.autograd.backward(list(pulls), list(pulls.values()), inputs=self.makers)
            maker.step()
            if number:
                searches.advance(gradients)
        self.images += s.batch_size
        self._average()
        return figures

    def _pull(self, fake: Tensor, figures: dict[str, Tensor]) -> Tensor:
        """The gradient of the generator's loss at its pictures, (B, 3, S, S): that of the pixel
        discriminator, and that of the projected ones scaled to `projected_weight` times its norm.
        """
        fake.requires_grad_()
        self.networks["discriminator"].requires_grad_(False)
        loss = F.softplus(-self.doubt(fake)).mean()
        figures["loss_G"] = loss.detach()
        (pull,) = torch.autograd.grad(loss, fake)
        if self.projected is not None:
            self.projected.heads.requires_grad_(False)
            loss = -self.doubt_features(fake).mean()
            figures["projected_G"] = loss.detach()
            (other,) = torch.autograd.grad(loss, fake)
            ratio = pull.norm() / other.norm().clamp(min=1e-12)
            figures["pull_ratio"] = ratio
            pull = pull + self.settings.projected_weight * ratio * other
        return pull

    def _train_discriminators(self, real: Tensor, fake: Tensor, figures: dict[str, Tensor]) -> None:
        s = self.settings
        self.networks["discriminator"].requires_grad_(True)
        on_real, on_fake = self.doubt(real), self.doubt(fake)
        loss = F.softplus(-on_real).mean() + F.softplus(on_fake).mean()
        figures["loss_D"] = loss.detach()
        self.augment.see(on_real)
        figures["sign_on_real"] = self.augment.sign.clone()  # 0: cannot tell; 1: overfits
        self._descend("discriminator", loss)
        adapts = self.images // s.batch_size % s.r1_every == 0
        if adapts:
            seen = self.augment(real).detach().requires_grad_()
            with self.autocast():  # compiled has no second gradient
                output = self.networks["discriminator"](seen).sum()
            (gradient,) = torch.autograd.grad(output, seen, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
            self._descend("discriminator", s.r1_weight / 2 * s.r1_every * penalty)
            figures["r1"] = penalty.detach()
            self.augment.adapt(s.r1_every * s.batch_size)
        if self.projected is not None:
            self.projected.heads.requires_grad_(True)
            on_real, on_fake = self.doubt_features(real), self.doubt_features(fake)
            loss = hinge(on_real, on_fake)
            figures["projected_D"] = loss.detach()
            self.projected_augment.see(on_real)
            figures["projected_sign"] = self.projected_augment.sign.clone()
            self._descend("projected", loss)
            if adapts:
                self.projected_augment.adapt(s.r1_every * s.batch_size)

    def _descend(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    @torch.no_grad()
    def _average(self) -> None:
        # younger weights count more at the beginning, when all change fast
        half_life = min(self.settings.ema_images, max(self.images / 2, 1))
        keep = 0.5 ** (self.settings.batch_size / half_life)
        for name, network in self.averaged.items():
            present = list(self.networks[name].parameters())
            torch._foreach_lerp_(list(network.parameters()), present, 1 - keep)

    def files(self) -> dict[str, dict[str, Tensor]]:
        """By name, in float16, what is needed to train on from a generator without its checkpoint:
        `critic`, the discriminator, and `projected`, the heads of those of features.
        """
        networks = {"critic": self.networks["discriminator"]}
        if self.projected is not None:
            networks["projected"] = self.projected.heads
        return {
            name: {key: value.half().cpu() for key, value in network.state_dict().items()}
            for name, network in networks.items()
        }

    def start_from(
        self,
        networks: Networks,
        critic: dict | None = None,
        projected: dict | None = None,
        trained: Networks | None = None,
    ) -> None:
        """Generator weights of a file, and where given its `critic` and its `projected` heads,
        instead of random ones. trained: the weights whose average `networks` is, where they were
        kept. Raises: UserError where they do not fit.
        """
        for file in filter(None, (networks, trained)):
            config = {**file.synthesis.config, "mapping_layers": len(file.mapping or ())}
            for name, value in asdict(self.settings).items():
                if config.get(name, value) != value:
                    raise UserError(
                        f"the generator to start from has {name} {config[name]}, not {value}: set "
                        f"-{name} {config[name]}, or widen it by python -m training.grow"
                    )
        for network, state, name in (
            (self.networks["discriminator"], critic, "critic"),
            (self.projected and self.projected.heads, projected, "projected"),
        ):
            if network is None or state is None:
                continue
            try:
                network.load_state_dict(state)
            except (TypeError, RuntimeError):
                raise UserError(
                    f"the {name} to start from does not fit: give the {name}.pt that was written "
                    f"beside the generator"
                ) from None
        self.images_before = int(networks.about.get("images_seen", 0))
        self.hours_before = float(networks.about.get("hours", 0))
        for name in ("synthesis", "mapping"):
            self.averaged[name].load_state_dict(getattr(networks, name).state_dict())
            self.networks[name].load_state_dict(getattr(trained or networks, name).state_dict())

    def state_dict(self) -> dict:
        """Everything that the next step depends on; loads with weights_only=True."""
        state = {
            "settings": asdict(self.settings),
            "networks": self.networks.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimisers": {name: each.state_dict() for name, each in self.optimisers.items()},
            "searches": self.searches.state_dict(),
            "random": self.random.get_state(),
            "device": self.device.type,
            "images": self.images,
            "images_before": self.images_before,
            "hours_before": self.hours_before,
            "augmentation": self.augment.state_dict(),
            "seconds": self.seconds,
            "log": self.log,
        }
        if self.projected is not None:
            state["projected"] = self.projected.heads.state_dict()
            state["projected_augmentation"] = self.projected_augment.state_dict()
        return state

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`; projected discriminators start anew where it has none. Raises:
        KeyError, RuntimeError or ValueError where it is no such state.
        """
        self.networks.load_state_dict(state["networks"])
        self.averaged.load_state_dict(state["averaged"])
        if self.projected is not None and "projected" in state:
            self.projected.heads.load_state_dict(state["projected"])
            self.projected_augment.load_state_dict(state["projected_augmentation"])
        for name, optimiser in self.optimisers.items():
            if name != "projected" or "projected" in state:
                optimiser.load_state_dict(state["optimisers"][name])
        self.scale_rates(1.0)  # may be other ones than before
        self.searches.load_state_dict(state["searches"])
        self.augment.load_state_dict(state["augmentation"])
        for name in ("images", "images_before", "hours_before", "seconds", "log"):
            setattr(self, name, state[name])
        if state["device"] == self.device.type:
            self.random.set_state(state["random"])
        else:  # another kind of generator; never the sequence of the beginning again
            self.random.manual_seed(self.settings.seed + self.images)
