"""How good a small generator of faces is, without any pretrained network.

    python -m training.score -generator demo -data faces/train -val faces/val

(a) the share of 1,000 samples, enlarged to 256 pixels, in which dlib's frontal detector (no
upsampling) finds exactly one face, and the same share of real faces put through the same sizes;
(b) the sliced Wasserstein distance of Laplacian-pyramid patches to the training faces, beside that
between two halves of those; (c) the share of unseen faces, downscaled to 16 pixels, for which the
search at its defaults ends within eps, and the mean L2; (d) memorisation: the share of 500 samples
that lie nearer to a training face than unseen faces do at their 10th percentile (RMSE of pixels in
[0, 255], mirrored faces included), and the same share of the training faces, each held against the
others.
"""

from __future__ import annotations

import csv
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from generators.formats import read_networks
from generators.load import DEMO
from imaging.provenance import write_png
from stylegan import G_mapping, G_synthesis
from training.dataset import load_faces

ROOT = Path(__file__).resolve().parent.parent

ENLARGED = 256  # pixels at which faces are looked for
PATCHES = 64  # of a picture, at each level of its pyramid
DIRECTIONS = 256


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


# ------------------------------------------------------------ (a) faces


def face_share(pictures: Tensor) -> float:
    """The share of (N, 3, S, S), uint8, in which dlib finds exactly one face."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    found = 0
    for picture in pictures:
        large = Image.fromarray(picture.permute(1, 2, 0).numpy())
        large = large.resize((ENLARGED, ENLARGED), Image.Resampling.BICUBIC)
        found += len(detector(np.asarray(large), 0)) == 1
    return found / len(pictures)


# ------------------------------------------------------------ (b) sliced Wasserstein distance


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
        a, b = (patches(level, random) for level in (of_made, of_real))
        mean, std = b.mean(dim=(0, 1)), b.std(dim=(0, 1))  # each (C,)
        a, b = (((x - mean) / std).flatten(1) for x in (a, b))
        directions = torch.randn(a.shape[1], DIRECTIONS, generator=random).to(device)
        a, b = ((x @ F.normalize(directions, dim=0)).sort(dim=0).values for x in (a, b))
        distances.append((a - b).abs().mean().item())
    return 1000 * statistics.fmean(distances)


# ------------------------------------------------------------ (c) the search on unseen faces


def search_share(generator: str, val: Path, seed: int = 0) -> tuple[int, int, float]:
    """How many unseen faces, at 16 pixels, run.py at its defaults explains within eps, of how many,
    and the mean L2.

    Raises: UserError with what a command said.
    """
    with tempfile.TemporaryDirectory() as folder:
        LR, runs = Path(folder) / "input", Path(folder) / "runs"
        common = ["-cache_dir", str(Path(folder) / "cache")]
        for script, *flags in (
            ("align_face.py", "-mode", "resize", "-input_dir", val, "-output_dir", LR)
            + ("-output_size", 16),
            ("run.py", "-input_dir", LR, "-output_dir", runs, "-generator", generator)
            + ("-seed", seed, "-device", "cpu"),
        ):
            command = [sys.executable, str(ROOT / script), *map(str, flags), *common]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise UserError(f"{script}: {done.stderr.strip().splitlines()[-1]}")
        with open(runs / "results.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    within = sum(row["within_eps"] == "True" for row in rows)
    return within, len(rows), statistics.fmean(float(row["l2"]) for row in rows)


# ------------------------------------------------------------ (d) memorisation


def nearest(pictures: Tensor, faces: Tensor) -> Tensor:
    """RMSE of each picture (N, 3, S, S), uint8, to the nearest of `faces` and their mirror images:
    (N,), pixels in [0, 255]. Where both are one tensor, of each to the nearest of the others.
    """
    flat = pictures.float().flatten(1)
    closest = torch.full((len(flat),), torch.inf)
    for candidates in (faces, faces.flip(3)):
        distance = torch.cdist(flat, candidates.float().flatten(1))
        if pictures is faces:
            distance.fill_diagonal_(torch.inf)
        closest = torch.minimum(closest, distance.min(dim=1).values)
    return closest / flat.shape[1] ** 0.5


def memorised_share(made: Tensor, val: Tensor, train: Tensor) -> float:
    """The share of `made` nearer to a training face than 90 % of the unseen ones are."""
    threshold = nearest(val, train).quantile(0.1)
    return (nearest(made, train) < threshold).float().mean().item()


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("generator", "demo or a one-file generator with its mapping network", "demo")
    flags.flag("data", "folder of the training faces", required=True, type=Path)
    flags.flag("val", "folder of faces that were not trained on", required=True, type=Path)
    flags.flag("samples", "for (a); half as many for (d)", 1000, type=int)
    flags.flag("parts", "of a, b, c and d", "abcd")
    flags.flag("grid", "write a grid of the samples of seeds 0 to 31 to this PNG", type=Path)
    return flags


def main() -> int:
    args = parser().parse_args()
    networks = read_networks(DEMO if args.generator == "demo" else Path(args.generator))
    if networks.mapping is None:
        raise UserError(f"{args.generator} has no mapping network to draw samples with")
    size = networks.synthesis.resolution
    train, val = load_faces(args.data, size), load_faces(args.val, size, fewest=2)
    made = samples(networks.synthesis, networks.mapping, range(max(args.samples, 32)))
    if args.grid:
        write_png(args.grid, sample_grid(made[:32]), {"Description": "samples, seeds 0 to 31"})
    if "a" in args.parts:
        share, real = face_share(made[: args.samples]), face_share(train[: args.samples])
        tell(f"(a) exactly one face: {share:.1%} of samples, {real:.1%} of real faces")
    if "b" in args.parts:
        number = min(len(made), len(train) // 2)
        distance = sliced_wasserstein(made[:number], train[::2][:number])
        halves = sliced_wasserstein(train[1::2][:number], train[::2][:number])
        tell(f"(b) sliced Wasserstein: {distance:.1f}, two halves of the real {halves:.1f}")
    if "d" in args.parts:
        share = memorised_share(made[: args.samples // 2], val, train)
        real = memorised_share(train, val, train)
        tell(
            f"(d) nearer to a training face than 90 % of unseen faces are: {share:.1%} of samples, "
            f"{real:.1%} of the training faces to the others"
        )
    if "c" in args.parts:
        generator = args.generator if args.generator == "demo" else Path(args.generator).resolve()
        within, number, l2 = search_share(str(generator), args.val)
        tell(f"(c) search within eps: {within} of {number}, mean L2 {l2:.5f}")
    return OK


if __name__ == "__main__":
    run_command(main)
