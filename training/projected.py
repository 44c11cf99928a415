"""Discriminators of features rather than of pixels (Sauer et al., "Projected GANs Converge Faster",
NeurIPS 2021): a frozen network sees the pictures, fixed random convolutions mix its features across
channels and across scales, and a small discriminator at each scale learns from the mixture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.efficientnet import EfficientNetLite

WIDTHS = (64, 128, 256, 256)  # channels of the mixtures at 1/4, 1/8, 1/16 and 1/32 of the size
HEAD_WIDTH = 256  # channels of a discriminator at most


class RandomProjection(nn.Module):
    """Fixed: features of each scale by 1×1 convolutions to WIDTHS channels; then, from the smallest
    scale on, each mixed by a 3×3 convolution, enlarged, and added to the next larger one.
    """

    def __init__(self, channels: list[int], seed: int):
        super().__init__()
        random = torch.Generator().manual_seed(seed)

        def kernel(fan_in: int, fan_out: int, size: int) -> Tensor:
            deviation = (fan_in * size * size) ** -0.5  # keeps the variance
            return torch.randn(fan_out, fan_in, size, size, generator=random) * deviation

        for i, (fan_in, width) in enumerate(zip(channels, WIDTHS, strict=True)):
            narrower = WIDTHS[max(i - 1, 0)]
            self.register_buffer(f"channel_{i}", kernel(fan_in, width, 1), persistent=False)
            self.register_buffer(f"scale_{i}", kernel(width, narrower, 3), persistent=False)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        mixed, x = [], None
        for i in reversed(range(len(features))):
            y = F.conv2d(features[i], getattr(self, f"channel_{i}"))
            if x is not None:
                x = F.interpolate(x, size=y.shape[2:], mode="bilinear", align_corners=False)
                y = (x + y) / 2**0.5
            mixed.append(y)
            x = F.conv2d(y, getattr(self, f"scale_{i}"), padding=1) if i else None
        return mixed[::-1]


class SpectralConv(nn.Module):
    """A convolution divided by its largest singular value (Miyato et al., 2018), which one step of
    power iteration follows at every call. In float32 within autocast too.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, stride: int = 1):
        super().__init__()
        deviation = (fan_in * kernel * kernel) ** -0.5
        self.weight = nn.Parameter(torch.randn(fan_out, fan_in, kernel, kernel) * deviation)
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.register_buffer("u", F.normalize(torch.randn(fan_out), dim=0))
        self.stride, self.padding = stride, (kernel - stride + 1) // 2

    def forward(self, x: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)  # products spelled out: autocast would round matmul's
        with torch.no_grad():
            v = F.normalize((matrix * self.u[:, None]).sum(0), dim=0)
            u = F.normalize((matrix * v).sum(1), dim=0)
            self.u.copy_(u)
        sigma = (u[:, None] * matrix * v).sum()
        return F.conv2d(x, self.weight / sigma, self.bias, self.stride, self.padding)


def head(channels: int, size: int) -> nn.Sequential:
    """A discriminator of features (B, C, r, r): halved down to 4×4, then a logit at each place."""
    layers: list[nn.Module] = []
    while size > 4 or not layers:
        halves = size > 4
        layers += [
            SpectralConv(channels, HEAD_WIDTH, 4 if halves else 3, 2 if halves else 1),
            # of the present batch, in training and after it: there is no other use of a head
            nn.BatchNorm2d(HEAD_WIDTH, track_running_stats=False),
            nn.LeakyReLU(0.2),
        ]
        channels, size = HEAD_WIDTH, size // 2 if halves else size
    return nn.Sequential(*layers, SpectralConv(channels, 1, 3))


class ProjectedDiscriminator(nn.Module):
    """Pictures (B, 3, S, S) in [-1, 1] → logits (B, n), of all scales and places; S from 64 on.

    Only the heads have parameters, and a state. Hinge loss: real above 1, generated below -1.
    """

    def __init__(self, network: EfficientNetLite, resolution: int, seed: int = 0):
        super().__init__()
        self.network = network
        channels = [stage[-1].project.weight.shape[0] for stage in network.scale_stages()]
        self.projection = RandomProjection(channels, seed)
        self.heads = nn.ModuleList(
            head(width, resolution // 2 ** (i + 2)) for i, width in enumerate(WIDTHS)
        )
        self.to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> Tensor:
        mixed = self.projection(self.network.scales(pictures))
        logits = [head(x) for head, x in zip(self.heads, mixed, strict=True)]
        return torch.cat([x.flatten(1) for x in logits], dim=1)


def hinge(on_real: Tensor, on_fake: Tensor) -> Tensor:
    """The discriminators' loss, a scalar."""
    return F.relu(1 - on_real).mean() + F.relu(1 + on_fake).mean()
