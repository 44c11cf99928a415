"""What a generator makes of seeds, as a tensor and as a picture to look at."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor

from cli.signals import heed_signals
from stylegan import G_mapping, G_synthesis


@torch.no_grad()
def samples(
    synthesis: G_synthesis, mapping: G_mapping, seeds: Sequence[int], chunk: int = 32
) -> Tensor:
    """One sample of each seed, with its noise: (N, 3, S, S), uint8, on the CPU.

    Drawn on the CPU in the order z, noise 0 … L − 1, so that a seed shows one face on every device.
    """
    device = next(synthesis.parameters()).device
    made = []
    for first in range(0, len(seeds), chunk):
        heed_signals()
        z, noise = [], []
        for seed in seeds[first : first + chunk]:
            random = torch.Generator().manual_seed(seed)
            z.append(torch.randn(1, synthesis.dlatent_size, generator=random))
            noise.append([torch.randn(1, 1, r, r, generator=random) for r in synthesis.layer_sizes])
        w = mapping(torch.cat(z).to(device))[:, None].expand(-1, synthesis.num_layers, -1)
        maps = [torch.cat(layer).to(device) for layer in zip(*noise, strict=True)]
        made.append(((synthesis(w, maps) + 1) * 127.5).clamp(0, 255).round().byte().cpu())
    return torch.cat(made)


def sample_grid(pictures: Tensor, columns: int = 8, scale: int = 2) -> Image.Image:
    """(N, 3, S, S) uint8 → one picture, row by row, each enlarged `scale` times (bicubic)."""
    size = scale * pictures.shape[-1]
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * size, rows * size), "white")
    for i, picture in enumerate(pictures):
        tile = Image.fromarray(picture.permute(1, 2, 0).numpy())
        tile = tile.resize((size, size), Image.Resampling.BICUBIC)
        grid.paste(tile, (i % columns * size, i // columns * size))
    return grid
