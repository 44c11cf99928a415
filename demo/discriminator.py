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


def augment(x: Tensor, random: torch.Generator) -> Tensor:
    """Colour, translation and cutout, differentiable, drawn anew for every picture (DiffAugment,
    Zhao 2020).

    Real and generated pictures go through the same, so that the generator does not learn it. x (B,
    3, S, S) in [-1, 1] on any device; `random` is on the CPU.
    """
    B, _, S, _ = x.shape

    def uniform(low: float, high: float) -> Tensor:
        values = torch.rand(B, 1, 1, 1, generator=random) * (high - low) + low
        return values.to(x.device)

    def whole(low: int, high: int) -> Tensor:  # both included
        return torch.randint(low, high + 1, (B, 1), generator=random).to(x.device)

    x = x + uniform(-0.5, 0.5)  # brightness
    grey = x.mean(dim=1, keepdim=True)
    x = grey + (x - grey) * uniform(0, 2)  # saturation
    middle = x.mean(dim=(1, 2, 3), keepdim=True)
    x = middle + (x - middle) * uniform(0.5, 1.5)  # contrast

    reach = S // 8
    rows = torch.arange(S, device=x.device) + whole(-reach, reach) + reach  # (B, S)
    columns = torch.arange(S, device=x.device) + whole(-reach, reach) + reach
    padded = F.pad(x, (reach,) * 4).permute(0, 2, 3, 1)  # mid-grey beyond the edge
    picture = torch.arange(B, device=x.device)[:, None, None]
    x = padded[picture, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)

    # a square of S/2 pixels around a random centre becomes mid-grey
    position, centre_y, centre_x = torch.arange(S, device=x.device), whole(0, S), whole(0, S)
    in_rows = (position - centre_y).abs() < S // 4  # (B, S)
    in_columns = (position - centre_x).abs() < S // 4
    return x.masked_fill(in_rows[:, None, :, None] & in_columns[:, None, None, :], 0)
