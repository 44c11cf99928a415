"""What the generator is trained against: a residual discriminator, and the augmentation of all that
it sees.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan import LEAKY_SLOPE, EqualisedConv, EqualisedLinear

GAIN = math.sqrt(2)


class ResidualBlock(nn.Module):
    """(B, C, r, r) → (B, C', r/2, r/2): 3×3, halved by averaging, 3×3; a 1×1 on the halved input
    is added.
    """

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.conv0 = EqualisedConv(fan_in, fan_in, kernel=3)
        self.conv1 = EqualisedConv(fan_in, fan_out, kernel=3)
        self.skip = EqualisedConv(fan_in, fan_out, kernel=1, gain=1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.avg_pool2d(F.leaky_relu(self.conv0(x), LEAKY_SLOPE), 2)
        y = F.leaky_relu(self.conv1(y), LEAKY_SLOPE)
        return (y + self.skip(F.avg_pool2d(x, 2))) / GAIN  # the variance stays what it was


def minibatch_stddev(x: Tensor, group: int = 4) -> Tensor:
    """One more channel, the standard deviation over groups of pictures, averaged: (B, C, r, r) →
    (B, C + 1, r, r). By it a discriminator sees that a batch varies too little (Karras 2018).
    """
    group = math.gcd(len(x), group)
    deviation = x.view(group, -1, *x.shape[1:])  # pictures i, i + B/group, … form a group
    deviation = (deviation.var(dim=0, unbiased=False) + 1e-8).sqrt().mean(dim=(1, 2, 3))
    deviation = deviation.repeat(group).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:])
    return torch.cat([x, deviation], dim=1)


class Discriminator(nn.Module):
    """(B, 3, S, S) in [-1, 1] → (B,): how real.

    The first layer sees the picture pixel-unshuffled, (B, 12, S/2, S/2): the convolutions at full
    size, which cost most, are not needed.
    """

    def __init__(self, resolution: int, channels: int = 64, channels_max: int = 128):
        super().__init__()
        self.from_rgb = EqualisedConv(12, channels, kernel=1)
        blocks = []
        for _ in range(int(math.log2(resolution)) - 3):  # down to 4×4
            wider = min(2 * channels, channels_max)
            blocks.append(ResidualBlock(channels, wider))
            channels = wider
        self.blocks = nn.Sequential(*blocks)
        self.conv = EqualisedConv(channels + 1, channels, kernel=3)
        self.dense = EqualisedLinear(16 * channels, channels, gain=GAIN)
        self.out = EqualisedLinear(channels, 1, gain=1.0)

    def forward(self, picture: Tensor) -> Tensor:
        x = F.leaky_relu(self.from_rgb(F.pixel_unshuffle(picture, 2)), LEAKY_SLOPE)
        x = minibatch_stddev(self.blocks(x))
        x = F.leaky_relu(self.conv(x), LEAKY_SLOPE)  # (B, C, 4, 4)
        x = F.leaky_relu(self.dense(x.flatten(1)), LEAKY_SLOPE)
        return self.out(x)[:, 0]


def augment(x: Tensor, random: torch.Generator, p: float = 1.0) -> Tensor:
    """Colour, translation and cutout, differentiable, each with probability `p`, drawn anew for
    every picture (DiffAugment, Zhao 2020; with p below 1 as Karras 2020 has it).

    Real and generated pictures go through the same, so that the generator does not learn it. x (B,
    3, S, S) in [-1, 1] on any device; `random` is on the CPU.
    """
    B, _, S, _ = x.shape

    def chosen() -> Tensor:  # by this augmentation, (B, 1)
        return torch.rand(B, 1, generator=random) < p

    def uniform(low: float, high: float, without: float) -> Tensor:
        values = torch.rand(B, 1, generator=random) * (high - low) + low
        values = torch.where(coloured, values, torch.full_like(values, without))
        return values.view(B, 1, 1, 1).to(x.device)

    def whole(low: int, high: int) -> Tensor:  # both included
        return torch.randint(low, high + 1, (B, 1), generator=random)

    coloured = chosen()
    x = x + uniform(-0.5, 0.5, without=0)  # brightness
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * uniform(0, 2, without=1)  # saturation
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * uniform(0.5, 1.5, without=1)  # contrast

    reach = S // 8
    moved = chosen()
    down, across = (whole(-reach, reach).masked_fill(~moved, 0).to(x.device) for _ in range(2))
    position = torch.arange(S, device=x.device)
    rows, columns = position + down + reach, position + across + reach  # (B, S)
    padded = F.pad(x, (reach,) * 4).permute(0, 2, 3, 1)  # mid-grey beyond the edge
    picture = torch.arange(B, device=x.device)[:, None, None]
    x = padded[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    # a square of S/2 pixels around a random centre becomes mid-grey
    nowhere, cut = -S, chosen()
    centre_y = whole(0, S).masked_fill(~cut, nowhere).to(x.device)
    in_rows = (position - centre_y).abs() < S // 4  # (B, S)
    in_columns = (position - whole(0, S).to(x.device)).abs() < S // 4
    return x.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], 0)


class Augmentation:
    """`augment` with a probability that rises where the discriminator knows the real pictures too
    well, and falls where it does not (ADA, Karras 2020).

    target: the mean sign of its output on real pictures at which the probability stays; images: in
    which it goes from 0 to 1 at the fastest.
    """

    def __init__(self, target: float, images: int, random: torch.Generator, device):
        self.target, self.images, self.random = target, images, random
        self.p = 0.0
        self.sign = torch.full((), target, device=device)  # over some batches

    def __call__(self, pictures: Tensor) -> Tensor:
        return augment(pictures, self.random, self.p)

    def see(self, on_real: Tensor) -> None:
        """What the discriminator says of a batch of real pictures, (B,)."""
        self.sign.lerp_(on_real.detach().sign().mean(), 0.1)

    def adapt(self, seen: int) -> None:
        """Call seldom, it waits for the device: `seen` images have been seen since."""
        change = seen / self.images * (1 if self.sign.item() > self.target else -1)
        self.p = min(max(self.p + change, 0.0), 1.0)

    def state_dict(self) -> dict:
        return {"p": self.p, "sign": self.sign}

    def load_state_dict(self, state: dict) -> None:
        self.p = state["p"]
        self.sign.copy_(state["sign"])
