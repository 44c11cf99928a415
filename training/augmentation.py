"""The augmentation of all that a discriminator sees, which the generator does not learn."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def augment(x: Tensor, random: torch.Generator, p: float | Tensor = 1.0) -> Tensor:
    """Colour, translation and cutout, differentiable, each with probability `p`, drawn again for
    every picture (DiffAugment, Zhao 2020; with p below 1 as Karras 2020 has it).

    Real and generated pictures go through the same, so that the generator does not learn it. x (B,
    3, S, S) in [-1, 1], on the device of `random`.
    """
    B, _, S, _ = x.shape

    def chosen() -> Tensor:  # by this augmentation, (B, 1)
        return torch.rand(B, 1, generator=random, device=x.device) < p

    def uniform(low: float, high: float, without: float) -> Tensor:
        values = torch.rand(B, 1, generator=random, device=x.device) * (high - low) + low
        return torch.where(coloured, values, without).view(B, 1, 1, 1)

    def whole(low: int, high: int) -> Tensor:  # both included
        return torch.randint(low, high + 1, (B, 1), generator=random, device=x.device)

    coloured = chosen()
    x = x + uniform(-0.5, 0.5, without=0)  # brightness
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * uniform(0, 2, without=1)  # saturation
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * uniform(0.5, 1.5, without=1)  # contrast

    reach = S // 8
    moved = chosen()
    down, across = (whole(-reach, reach).masked_fill(~moved, 0) for _ in range(2))
    position = torch.arange(S, device=x.device)
    rows, columns = position + down + reach, position + across + reach  # (B, S)
    x = F.pad(x, (reach,) * 4)  # mid-grey beyond the edge
    # not indexed at once: the gradient of that sorts its indices
    x = x.gather(2, rows[:, None, :, None].expand(-1, x.shape[1], -1, x.shape[3]))
    x = x.gather(3, columns[:, None, None, :].expand(-1, x.shape[1], S, -1))

    # a square of S/2 pixels around a random centre becomes mid-grey
    nowhere, cut = -S, chosen()
    centre_y = whole(0, S).masked_fill(~cut, nowhere)
    in_rows = (position - centre_y).abs() < S // 4  # (B, S)
    in_columns = (position - whole(0, S)).abs() < S // 4
    return x.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], 0)


class Augmentation(nn.Module):
    """`augment` with a probability that rises where the discriminator knows the real pictures too
    well, and falls where it does not (ADA, Karras 2020).

    target: the mean sign of its output on real pictures at which the probability stays; images: in
    which it goes from 0 to 1 at the fastest. All of it stays on the device, which nothing waits
    for.
    """

    def __init__(self, target: float, images: int, random: torch.Generator):
        super().__init__()
        self.target, self.images, self.random = target, images, random
        self.register_buffer("p", torch.zeros((), device=random.device))
        # over some batches
        self.register_buffer("sign", torch.full((), target, device=random.device))

    def forward(self, pictures: Tensor) -> Tensor:
        return augment(pictures, self.random, self.p)

    def see(self, on_real: Tensor) -> None:
        """What the discriminator says of a batch of real pictures, any shape."""
        self.sign.lerp_(on_real.detach().sign().mean(), 0.1)

    def adapt(self, seen: int) -> None:
        """`seen` images have been seen since the last call."""
        step = torch.where(self.sign > self.target, seen / self.images, -seen / self.images)
        self.p.add_(step).clamp_(0, 1)
