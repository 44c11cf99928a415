"""What the generator is trained against: a residual discriminator of pixels."""

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
    size, which cost most, are not needed. At r pixels there are min(base / r, channels_max)
    channels.
    """

    def __init__(self, resolution: int, base: int = 2048, channels_max: int = 128):
        super().__init__()
        sizes = [2**k for k in range(int(math.log2(resolution)) - 1, 1, -1)]  # S/2 … 4
        widths = [min(base // size, channels_max) for size in sizes]
        self.from_rgb = EqualisedConv(12, widths[0], kernel=1)
        self.blocks = nn.Sequential(*map(ResidualBlock, widths[:-1], widths[1:]))
        channels = widths[-1]
        self.conv = EqualisedConv(channels + 1, channels, kernel=3)
        self.dense = EqualisedLinear(16 * channels, channels, gain=GAIN)
        self.out = EqualisedLinear(channels, 1, gain=1.0)

    def forward(self, picture: Tensor) -> Tensor:
        x = F.leaky_relu(self.from_rgb(F.pixel_unshuffle(picture, 2)), LEAKY_SLOPE)
        x = minibatch_stddev(self.blocks(x))
        x = F.leaky_relu(self.conv(x), LEAKY_SLOPE)  # (B, C, 4, 4)
        x = F.leaky_relu(self.dense(x.flatten(1)), LEAKY_SLOPE)
        return self.out(x)[:, 0]
