"""kid: how far samples lie from photographs as a network sees them that training does not use, the
kernel distance (Binkowski 2018) of the pooled features of EfficientNet-lite1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from cli.signals import heed_signals
from training.dataset import to_range
from training.efficientnet import EfficientNetLite

SEEN_AT = 240  # pixels that EfficientNet-lite1 was trained at


@torch.no_grad()
def pooled_features(network: EfficientNetLite, pictures: Tensor, chunk: int = 50) -> Tensor:
    """(N, 3, S, S) uint8, resized to SEEN_AT → (N, 1280), on the network's device."""
    device = network.stem.weight.device
    features = []
    for part in pictures.split(chunk):
        heed_signals()
        x = F.interpolate(to_range(part.to(device)), SEEN_AT, mode="bicubic", antialias=True)
        features.append(network.pooled(x.clamp(-1, 1)))
    return torch.cat(features)


def kernel_distance(a: Tensor, b: Tensor) -> float:
    """The unbiased squared maximum mean discrepancy of features (N, d) and (M, d) under the kernel
    (x·y/d + 1)³, times 1000.
    """
    a, b = a.double(), b.double()

    def kernel(x: Tensor, y: Tensor) -> Tensor:
        return (x @ y.T / x.shape[1] + 1) ** 3

    def within(x: Tensor) -> Tensor:  # without the pairs of a picture with itself
        k, n = kernel(x, x), len(x)
        return (k.sum() - k.diagonal().sum()) / (n * (n - 1))

    return 1000 * (within(a) + within(b) - 2 * kernel(a, b).mean()).item()
