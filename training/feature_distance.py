"""How far samples lie from real faces as networks see them that training did not use.

kid: the kernel distance (Binkowski et al. 2018) of EfficientNet-lite1's pooled features. fd: the
Fréchet distance of dlib's face descriptors, which see who it is rather than how good the picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from training.dataset import to_range
from training.efficientnet import EfficientNetLite

SEEN_AT = 128  # pixels at least; smaller pictures are enlarged


@torch.no_grad()
def pooled_features(network: EfficientNetLite, pictures: Tensor, chunk: int = 100) -> Tensor:
    """(N, 3, S, S) uint8 → (N, 1280), on the network's device."""
    device = network.stem.weight.device
    features = []
    for part in pictures.split(chunk):
        x = to_range(part.to(device))
        if x.shape[-1] < SEEN_AT:
            x = F.interpolate(x, size=SEEN_AT, mode="bicubic", align_corners=False).clamp(-1, 1)
        features.append(network.pooled(x))
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
