"""What a generator is trained against: discriminators, each with its loss, its optimiser and its
augmentation. That of pixels, the critic, is always one of them; those of features (projected.py)
are beside it where their weight is above 0.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fast.precision import has_bfloat16
from training.augmentation import Augmentation
from training.discriminator import Discriminator
from training.efficientnet import load_efficientnet
from training.projected import ProjectedDiscriminator, hinge
from training.train_settings import TrainSettings


def autocast(device: torch.device):
    """bfloat16 for convolutions, where the device is faster with it."""
    fast = device.type == "cuda" or (device.type == "cpu" and has_bfloat16())
    return torch.autocast(device.type, torch.bfloat16) if fast else contextlib.nullcontext()


def adam(parameters: Iterable[nn.Parameter], rate: float, beta: float = 0.99) -> torch.optim.Adam:
    parameters = list(parameters)
    device = parameters[0].device
    if device.type != "cuda":
        return torch.optim.Adam(parameters, rate, betas=(0.0, beta), fused=False)
    rate = torch.tensor(rate, device=device)  # where a recorded step reads it
    return torch.optim.Adam(parameters, rate, betas=(0.0, beta), fused=True, capturable=True)


def set_rate(optimiser: torch.optim.Adam, rate: float) -> None:
    group = optimiser.param_groups[0]
    if isinstance(group["lr"], Tensor):
        group["lr"].fill_(rate)
    else:
        group["lr"] = rate


def load_optimiser(optimiser: torch.optim.Adam, state: dict) -> None:
    """`state` as kept on whatever device, with the learning rate and the kernels of `optimiser`."""
    own = optimiser.param_groups[0]
    kept = {name: own[name] for name in ("lr", "fused", "capturable", "foreach")}
    optimiser.load_state_dict({**state, "param_groups": [{**state["param_groups"][0], **kept}]})


class Adversary:
    """A network of pictures (B, 3, S, S) in [-1, 1] → (B, …), how real, and what it learns by.

    loss: of what it says of real and generated pictures; generator_loss: of the latter; r1_weight:
    of half the squared gradient on real pictures, 0 for none.
    """

    def __init__(
        self,
        network: nn.Module,
        loss: Callable[[Tensor, Tensor], Tensor],
        generator_loss: Callable[[Tensor], Tensor],
        optimiser: torch.optim.Adam,
        augment: Augmentation,
        r1_weight: float = 0.0,
    ):
        self.network, self.loss, self.generator_loss = network, loss, generator_loss
        self.optimiser, self.augment, self.r1_weight = optimiser, augment, r1_weight
        self.compiled = network

    def doubt(self, pictures: Tensor) -> Tensor:
        """What the network says of them, augmented."""
        seen = self.augment(pictures)
        with autocast(seen.device):
            return self.compiled(seen).float()

    def learn(self, real: Tensor, fake: Tensor, lazily: int) -> dict[str, Tensor]:
        """One step of the network. lazily: 0, or the number of steps for which R1 and the
        augmentation's probability are brought up to date.
        """
        self.network.requires_grad_(True)
        on_real, on_fake = self.doubt(real), self.doubt(fake)
        loss = self.loss(on_real, on_fake)
        self.augment.see(on_real)
        self._descend(loss)
        figures = {"loss": loss.detach(), "sign_on_real": self.augment.sign.clone()}
        if lazily and self.r1_weight:
            seen = self.augment(real).detach().requires_grad_()
            with autocast(seen.device):  # compiled has no second gradient
                output = self.network(seen).sum()
            (gradient,) = torch.autograd.grad(output, seen, create_graph=True)
            penalty = gradient.square().sum(dim=(1, 2, 3)).mean()
            self._descend(self.r1_weight / 2 * lazily * penalty)
            figures["r1"] = penalty.detach()
        if lazily:
            self.augment.adapt(lazily * len(real))
        return figures

    def _descend(self, loss: Tensor) -> None:
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()

    def pull(self, fake: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of the generator's loss at its pictures, and the loss."""
        self.network.requires_grad_(False)
        loss = self.generator_loss(self.doubt(fake.requires_grad_()))
        (gradient,) = torch.autograd.grad(loss, fake)
        return gradient, loss.detach()

    def state_dict(self) -> dict:
        parts = ("network", "optimiser", "augment")
        return {part: getattr(self, part).state_dict() for part in parts}

    def load_state_dict(self, state: dict) -> None:
        for part, value in state.items():
            if part == "optimiser":
                load_optimiser(self.optimiser, value)
            else:
                getattr(self, part).load_state_dict(value)


def non_saturating(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The critic's loss (Goodfellow 2014), a scalar."""
    return F.softplus(-on_real).mean() + F.softplus(on_fake).mean()


def adversaries(
    s: TrainSettings, random: torch.Generator, features: Path | None
) -> dict[str, Adversary]:
    """`critic` and, where the settings want them, `projected`, on the device of `random`.

    features: weights of EfficientNet-lite0, or None for the installed ones. Raises: UserError.
    """
    device = random.device
    network = Discriminator(s.resolution, s.critic_base, s.critic_max)
    network.to(device, memory_format=torch.channels_last)
    # lazy regularisation: 17 steps for 16 (Karras 2020)
    share = s.r1_every / (s.r1_every + 1)
    made = {
        "critic": Adversary(
            network,
            non_saturating,
            lambda on_fake: F.softplus(-on_fake).mean(),
            adam(network.parameters(), s.learning_rate * share, 0.99**share),
            Augmentation(s.ada_target, s.ada_images, random),
            s.r1_weight,
        )
    }
    if s.projected_weight:
        seen = load_efficientnet(features, 0, device)
        network = ProjectedDiscriminator(seen, s.resolution, s.seed).to(device)
        made["projected"] = Adversary(
            network,
            hinge,
            lambda on_fake: -on_fake.mean(),
            adam(network.parameters(), s.projected_learning_rate),
            Augmentation(s.ada_target, s.ada_images, random),
        )
    return made
