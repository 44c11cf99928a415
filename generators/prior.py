"""The prior that the search walks on: a Gaussian fitted to what a mapping network makes of random
latents.

A fit belongs to one mapping network: it is kept in the cache under the SHA-256 of that network's
tensors.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from cli.errors import UserError
from cli.signals import heed_signals
from generators.networks import read_prior
from generators.safe_loading import load_torch
from safe_files import atomic_write
from stylegan import LEAKY_SLOPE, G_mapping


def fit_prior(
    mapping: G_mapping, draws: int = 1_000_000, chunk: int = 10_000, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """mean and unbiased std, each (d,), of LeakyReLU(5)(mapping(z)) over `draws` z ~ N(0, I).

    LeakyReLU(5) undoes the mapping's last LeakyReLU(0.2), so that what is fitted is nearly
    Gaussian. Chunks of a multiple of 16 rows give the same z as one draw of all; sums are kept in
    float64.
    """
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(mapping.dlatent_size, dtype=torch.float64)
    squares = torch.zeros_like(total)
    bar = tqdm(total=draws, unit="latent", unit_scale=True, desc="prior fit", disable=None)
    with torch.no_grad(), bar:
        for first in range(0, draws, chunk):
            heed_signals()
            rows = min(chunk, draws - first)
            z = torch.randn(rows, mapping.latent_size, generator=random)
            x = F.leaky_relu(mapping(z), 1 / LEAKY_SLOPE).double()  # (rows, d)
            total += x.sum(0)
            squares += x.square().sum(0)
            bar.update(rows)
    mean = total / draws
    std = ((squares - draws * mean.square()) / (draws - 1)).sqrt()
    return mean.float(), std.float()


def tensors_sha256(state: dict[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values of the tensors, in the order of their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        values = state[name].detach().cpu().float().contiguous()
        digest.update(f"{name} {tuple(values.shape)}\n".encode())
        digest.update(values.numpy().tobytes())
    return digest.hexdigest()


def cached_prior(mapping: G_mapping, cache_dir: Path) -> tuple[Tensor, Tensor]:
    """The prior fit of a mapping network, from `cache_dir` under its SHA-256, or computed and kept
    there. Raises: OSError where it cannot be kept.
    """
    path = cache_dir / f"gaussian_fit_{tensors_sha256(mapping.state_dict())}.pt"
    if path.is_file():
        with contextlib.suppress(UserError):  # damaged: computed again
            return read_prior(load_torch(path), mapping.dlatent_size)
    mean, std = fit_prior(mapping)
    with atomic_write(path) as file:
        torch.save({"mean": mean, "std": std}, file)
    return mean, std
