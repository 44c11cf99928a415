"""How far samples lie from training faces by their pixels: sliced Wasserstein distance of patches,
and the share of samples that are nearly training faces.
"""

from __future__ import annotations

import statistics

import torch
import torch.nn.functional as F
from torch import Tensor

from cli.signals import heed_signals

PATCHES = 64  # of a picture, at each level of its pyramid
DIRECTIONS = 256


def laplacian_pyramid(x: Tensor) -> list[Tensor]:
    """x (N, 3, S, S) → differences between each size and the next smaller one, S … 32, and the
    rest at 16 pixels.
    """
    levels = []
    while x.shape[-1] > 16:
        small = F.avg_pool2d(x, 2)
        large = F.interpolate(small, scale_factor=2, mode="bilinear", align_corners=False)
        levels.append(x - large)
        x = small
    return [*levels, x]


def patches(level: Tensor, random: torch.Generator, size: int = 7) -> Tensor:
    """Random 7×7 patches, PATCHES of each picture, (N·PATCHES, 49, C)."""
    N, C, S, _ = level.shape
    y, x = torch.randint(S - size + 1, (2, N, PATCHES, 1, 1), generator=random).to(level.device)
    offset = torch.arange(size, device=level.device)
    picture = torch.arange(N, device=level.device)[:, None, None, None]
    level = level.permute(0, 2, 3, 1)
    chosen = level[picture, y + offset[:, None], x + offset]  # (N, PATCHES, 7, 7, C)
    return chosen.reshape(-1, size * size, C)


def sliced_wasserstein(made: Tensor, real: Tensor, seed: int = 0) -> float:
    """Between two sets of pictures (N, 3, S, S), uint8, times 1000, the mean over the levels of
    their Laplacian pyramids (Karras 2018).

    At each level both sets of patches are normalised by the mean and deviation of the real ones,
    projected onto random directions and sorted; the distance is the mean difference in rank.
    Computed on the device of `real`.
    """
    random = torch.Generator().manual_seed(seed)
    number = min(len(made), len(real))
    device = real.device
    sets = [laplacian_pyramid(x[:number].to(device).float()) for x in (made, real)]
    distances = []
    for of_made, of_real in zip(*sets, strict=True):
        heed_signals()
        a, b = (patches(level, random) for level in (of_made, of_real))
        mean, std = b.mean(dim=(0, 1)), b.std(dim=(0, 1))  # each (C,)
        a, b = (((x - mean) / std).flatten(1) for x in (a, b))
        directions = torch.randn(a.shape[1], DIRECTIONS, generator=random).to(device)
        a, b = ((x @ F.normalize(directions, dim=0)).sort(dim=0).values for x in (a, b))
        distances.append((a - b).abs().mean().item())
    return 1000 * statistics.fmean(distances)


def nearest(pictures: Tensor, faces: Tensor, step: int = 0, chunk: int = 500) -> Tensor:
    """RMSE of each picture (N, 3, S, S), uint8, to the nearest of `faces` and their mirror images:
    (N,), pixels in [0, 255]. With a step, `pictures` are faces[::step], each held against the
    other faces.
    """
    flat = pictures.float().flatten(1)
    own = torch.arange(len(flat))[:, None] * step if step else torch.tensor(-1)
    closest = torch.full((len(flat),), torch.inf)
    for numbers in torch.arange(len(faces)).split(chunk):
        heed_signals()
        part = faces[numbers].float()
        for candidates in (part, part.flip(3)):
            distance = torch.cdist(flat, candidates.flatten(1)).masked_fill(
                numbers == own, torch.inf
            )
            closest = torch.minimum(closest, distance.min(dim=1).values)
    return closest / flat.shape[1] ** 0.5


def memorised_shares(made: Tensor, val: Tensor, train: Tensor, most: int = 2000) -> list[float]:
    """The share of `made` nearer to a training face than 90 % of the unseen ones are, and that of
    the training faces to the others; of very many faces about `most`, spread evenly.
    """
    threshold = nearest(val, train).quantile(0.1)
    step = max(len(train) // most, 1)
    distances = nearest(made, train), nearest(train[::step], train, step)
    return [(distance < threshold).float().mean().item() for distance in distances]
