"""One training step of a StyleGAN: what training.train repeats.

Discriminators (adversaries.py), style mixing, an average over the weights, and searches
(search_loss.py) beside samples where their weight is above 0. Convolutions in bfloat16 where the
device is faster with it, all else in float32. Nothing here waits for the device.
"""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import UserError
from generators.networks import Networks
from stylegan import G_mapping, G_synthesis
from training.adversaries import adam, adversaries, autocast, load_optimiser, set_rate
from training.dataset import to_range
from training.replay import Replay
from training.search_loss import PRIOR_DRAWS, Searches
from training.train_settings import TrainSettings

COUNTED = ("images", "images_before", "hours_before", "seconds", "log")


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
            }
        ).to(device, memory_format=torch.channels_last)
        self.averaged = copy.deepcopy(self.networks).requires_grad_(False)
        self.synthesize = self.networks["synthesis"]
        self.adversaries = adversaries(s, self.random, features)
        self.optimisers = {name: each.optimiser for name, each in self.adversaries.items()}
        self.optimisers["generator"] = adam(self.networks.parameters(), s.learning_rate)
        self.rates = {
            name: float(each.param_groups[0]["lr"]) for name, each in self.optimisers.items()
        }
        sizes = self.networks["synthesis"].layer_sizes
        self.searches = Searches(s.batch_size // 2, sizes, s.dlatent_size, s.search_side, device)
        self.images, self.seconds = 0, 0.0  # of this training
        self.images_before, self.hours_before = 0, 0.0  # of the generator it began with
        self.log: list[dict] = []
        self.replay = Replay(device, self.random) if device.type == "cuda" else None

    def scale_rates(self, factor: float) -> None:
        """Every learning rate becomes `factor` of the settings'."""
        for name, optimiser in self.optimisers.items():
            set_rate(optimiser, factor * self.rates[name])

    def compile(self) -> None:
        """Compiled networks, which share their weights with the plain ones; the first step takes a
        minute longer.
        """
        self.synthesize = torch.compile(self.networks["synthesis"], dynamic=False)
        critic = self.adversaries["critic"]
        critic.compiled = torch.compile(critic.network, dynamic=False)

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
        with autocast(self.device):
            return self.synthesize(w, noise).float()

    def step(self, train_generator: bool = True) -> dict[str, Tensor]:
        """One batch for the discriminators and one for the generator; returns their losses."""
        s = self.settings
        lazily = s.r1_every if self.images // s.batch_size % s.r1_every == 0 else 0
        if self.replay is not None and train_generator and not s.search_weight:
            figures = self.replay(lazily, lambda: self._learn(lazily, True))
        else:  # searches begin and end in Python
            figures = self._learn(lazily, train_generator)
        self.images += s.batch_size
        self._average()
        return figures

    def _learn(self, lazily: int, train_generator: bool) -> dict[str, Tensor]:
        """One step of every network. lazily: see Adversary.learn.

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
        for name, adversary in self.adversaries.items():
            learned = adversary.learn(real, fake.detach(), lazily)
            figures |= {f"{name}_{figure}": value for figure, value in learned.items()}
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
            optimiser = self.optimisers["generator"]
            optimiser.zero_grad()
            parameters = list(self.networks.parameters())
            torch.autograd.backward(list(pulls), list(pulls.values()), inputs=parameters)
            optimiser.step()
            if number:
                searches.advance(gradients)
        return figures

    def _pull(self, fake: Tensor, figures: dict[str, Tensor]) -> Tensor:
        """The gradient of the generator's loss at its pictures, (B, 3, S, S): that of the critic,
        and that of the projected discriminators scaled to `projected_weight` times its norm.
        """
        pulls = {}
        for name, adversary in self.adversaries.items():
            pulls[name], figures[f"{name}_generator_loss"] = adversary.pull(fake)
        pull, other = pulls["critic"], pulls.get("projected")
        if other is None:
            return pull
        ratio = pull.norm() / other.norm().clamp(min=1e-12)
        figures["pull_ratio"] = ratio
        return pull + self.settings.projected_weight * ratio * other

    @torch.no_grad()
    def _average(self) -> None:
        # younger weights count more at the beginning, when all change fast
        seen = self.images_before + self.images
        half_life = min(self.settings.ema_images, max(seen / 2, 1))
        keep = 0.5 ** (self.settings.batch_size / half_life)
        for name, network in self.averaged.items():
            present = list(self.networks[name].parameters())
            torch._foreach_lerp_(list(network.parameters()), present, 1 - keep)

    def files(self) -> dict[str, dict[str, Tensor]]:
        """The weights of the adversaries by name, in float16: what is needed to train on from a
        generator without its checkpoint.
        """
        return {
            name: {key: x.half().cpu() for key, x in each.network.state_dict().items()}
            for name, each in self.adversaries.items()
        }

    def start_from(
        self,
        networks: Networks,
        trained: Networks | None = None,
        **adversaries: dict[str, Tensor] | None,
    ) -> None:
        """Weights of a generator's file, which has a mapping network, instead of random ones, and
        of `files` those that are given. trained: the weights whose average `networks` is, where
        they were kept. Raises: UserError where they do not fit.
        """
        for file in filter(None, (networks, trained)):
            config = {**file.synthesis.config, "mapping_layers": len(file.mapping)}
            for name, value in asdict(self.settings).items():
                if config.get(name, value) != value:
                    raise UserError(
                        f"the generator to start from has {name} {config[name]}, not {value}: set "
                        f"-{name} {config[name]}, or widen it by python -m training.grow"
                    )
        for name, state in adversaries.items():
            if state is None or name not in self.adversaries:
                continue
            try:
                self.adversaries[name].network.load_state_dict(state)
            except (TypeError, RuntimeError):
                raise UserError(
                    f"the {name} to start from does not fit: give the {name}.pt that was written "
                    f"beside the generator"
                ) from None
        self.images_before = int(networks.about.get("images_seen", 0))
        self.hours_before = float(networks.about.get("hours", 0))
        try:
            for name in ("synthesis", "mapping"):
                self.averaged[name].load_state_dict(getattr(networks, name).state_dict())
                self.networks[name].load_state_dict(getattr(trained or networks, name).state_dict())
        except RuntimeError:
            raise UserError(
                "the generator to start from has layers of other widths than a training gives "
                "them: give another generator"
            ) from None

    def state_dict(self) -> dict:
        """Everything that the next step depends on; loads with weights_only=True."""
        return {
            "settings": asdict(self.settings),
            "networks": self.networks.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimisers["generator"].state_dict(),
            "adversaries": {name: each.state_dict() for name, each in self.adversaries.items()},
            "searches": self.searches.state_dict(),
            "random": self.random.get_state(),
            "device": self.device.type,
            **{name: getattr(self, name) for name in COUNTED},
        }

    def load_state_dict(self, state: dict) -> None:
        """Go on from `state`; projected discriminators start again where it has none. Raises:
        LookupError, TypeError, ValueError or RuntimeError where it is no such state.
        """
        self.networks.load_state_dict(state["networks"])
        self.averaged.load_state_dict(state["averaged"])
        load_optimiser(self.optimisers["generator"], state["optimiser"])
        for name, adversary in self.adversaries.items():
            if name in state["adversaries"]:
                adversary.load_state_dict(state["adversaries"][name])
        self.scale_rates(1.0)  # may be other ones than before
        self.searches.load_state_dict(state["searches"])
        for name in COUNTED:
            setattr(self, name, state[name])
        if state["device"] == self.device.type:
            self.random.set_state(state["random"])
        else:  # another kind of generator; never the sequence of the beginning again
            self.random.manual_seed(self.settings.seed + self.images)
