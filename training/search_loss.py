"""Searches that run while a generator learns: real faces at 16 pixels or so, each on its way
through the search of PULSE.py at its defaults, one step with every training step.

A GAN alone learns faces, not to be searched: an unseen face may have no latents, or none that 100
steps find. So the generator is shown how its own searches end, and what their pictures lack of the
faces that are searched for becomes a loss of its weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from bicubic import BicubicDownSample
from loss import geocross, l2
from search_settings import Settings, lr_multiplier
from SphericalOptimizer import SphericalOptimizer
from stylegan import LEAKY_SLOPE

GROUPS = 4  # they start a quarter of a search apart, so that a batch always holds some of each age
PRIOR_DRAWS = 256  # latents by which the prior fit follows the mapping network, each step
PRIOR_KEPT = 0.98  # of the fit so far


class Group:
    """Searches of one age: v, the noise maps, their optimiser, and the LR they look for."""

    def __init__(self, LR: Tensor, v: Tensor, noise: list[Tensor], settings: Settings):
        self.LR, self.v, self.noise, self.settings = LR, v.requires_grad_(), noise, settings
        roles = settings.noise_roles(len(noise))
        for maps, role in zip(noise, roles, strict=True):
            maps.requires_grad_(role == "trainable")
        self.searched = [self.v, *(maps for maps in noise if maps.requires_grad)]
        self.age = 0
        self.optimiser = SphericalOptimizer(
            torch.optim.Adam, self.searched, lr=settings.learning_rate
        )

    def advance(self, gradients: list[Tensor]) -> None:
        """One step of the search along `gradients`, one for each of `searched`."""
        s = self.settings
        for variable, gradient in zip(self.searched, gradients, strict=True):
            variable.grad = gradient
        rate = s.learning_rate * lr_multiplier(s.lr_schedule, self.age, s.steps)
        self.optimiser.opt.param_groups[0]["lr"] = rate
        self.optimiser.step()
        self.age += 1

    def state_dict(self) -> dict:
        return {
            "age": self.age,
            "LR": self.LR,
            "v": self.v.detach(),
            "noise": [maps.detach() for maps in self.noise],
            "radii": self.optimiser.radii,
            "optimiser": self.optimiser.opt.state_dict(),
        }

    @classmethod
    def from_state(cls, state: dict, device: torch.device, settings: Settings) -> Group:
        LR, v, *noise = (x.to(device) for x in (state["LR"], state["v"], *state["noise"]))
        group = cls(LR, v, noise, settings)
        group.age = state["age"]
        group.optimiser.radii = [radius.to(device) for radius in state["radii"]]
        group.optimiser.opt.load_state_dict(state["optimiser"])
        return group


class Searches:
    """`number` searches, for faces at `side` pixels, on a generator of `layer_sizes` and latent
    width `dlatent_size`.
    """

    def __init__(self, number: int, layer_sizes: list[int], dlatent_size: int, side: int, device):
        self.settings = Settings()
        self.each = number // GROUPS
        self.layer_sizes, self.dlatent_size, self.device = layer_sizes, dlatent_size, device
        self.side, self.downscale = side, BicubicDownSample(layer_sizes[-1] // side)
        self.groups: list[Group] = []
        self.prior: tuple[Tensor, Tensor] | None = None  # mean and std, each (d,)

    @torch.no_grad()
    def follow(self, mapping: torch.nn.Module, z: Tensor) -> None:
        """Let the prior fit (SPEC section 2) follow the mapping network, by its latents of z."""
        x = F.leaky_relu(mapping(z), 1 / LEAKY_SLOPE)
        fit = x.mean(0), x.std(0)
        if self.prior is None:
            self.prior = fit
        for kept, new in zip(self.prior, fit, strict=True):
            kept.lerp_(new, 1 - PRIOR_KEPT)

    def renew(self, real: Tensor, draw) -> None:
        """Replace the searches that have ended by ones for `real` (number, 3, S, S) in [-1, 1], of
        which as many are taken as are needed. `draw(*shape)` is N(0, 1) on the device.
        """
        stagger = self.settings.steps // GROUPS
        for i in range(GROUPS):
            if i < len(self.groups) and self.groups[i].age < self.settings.steps:
                continue
            LR = (self.downscale(real[i * self.each : (i + 1) * self.each]) + 1) / 2
            v = draw(self.each, len(self.layer_sizes), self.dlatent_size)
            noise = [draw(self.each, 1, r, r) for r in self.layer_sizes]
            group = Group(LR.clamp(0, 1), v, noise, self.settings)
            if i < len(self.groups):
                self.groups[i] = group
            else:
                group.age = i * stagger  # the first ones: younger than they look
                self.groups.append(group)
        self.groups.sort(key=lambda group: group.age)

    def inputs(self) -> tuple[Tensor, list[Tensor]]:
        """w (number, L, d) and L noise maps (number, 1, r, r), youngest searches first."""
        mean, std = self.prior
        v = torch.cat([group.v for group in self.groups])
        noise = zip(*(group.noise for group in self.groups), strict=True)
        return F.leaky_relu(v * std + mean, LEAKY_SLOPE), [torch.cat(maps) for maps in noise]

    def judge(self, w: Tensor, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """The search's loss of `pictures` (number, 3, S, S) in [-1, 1] made of w, and their L2:
        each (number,), pixels in [0, 1].
        """
        LR = torch.cat([group.LR for group in self.groups])
        distance = l2((self.downscale(pictures) + 1) / 2 - LR)
        return 100 * distance.clamp(min=self.settings.eps) + 0.05 * geocross(w), distance

    def weights(self) -> Tensor:
        """(number,): how much each search counts for the generator, the older the more."""
        ages = [group.age for group in self.groups for _ in range(self.each)]
        return (torch.tensor(ages, device=self.device) / self.settings.steps).square()

    def searched(self) -> list[Tensor]:
        """All variables, in the order in which `advance` takes their gradients."""
        return [variable for group in self.groups for variable in group.searched]

    def advance(self, gradients: list[Tensor]) -> None:
        """One step of every search."""
        for group in self.groups:
            number = len(group.searched)
            group.advance(list(gradients[:number]))
            gradients = gradients[number:]

    def ended(self, distance: Tensor) -> Tensor | None:
        """The L2 of the searches at their last iterate, (each,), or None where there are none."""
        at_end = [group.age == self.settings.steps - 1 for group in self.groups]
        return distance.view(GROUPS, -1)[at_end.index(True)] if any(at_end) else None

    def state_dict(self) -> dict:
        return {"groups": [group.state_dict() for group in self.groups], "prior": self.prior}

    def load_state_dict(self, state: dict) -> None:
        """Searches for faces of another size begin anew."""
        self.groups = [
            Group.from_state(each, self.device, self.settings)
            for each in state["groups"]
            if each["LR"].shape[-1] == self.side
        ]
        if state["prior"] is not None:
            self.prior = tuple(each.to(self.device) for each in state["prior"])
