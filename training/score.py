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
from pathlib import Path

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from generators.formats import read_networks
from generators.load import DEMO
from imaging.provenance import write_png
from training.dataset import load_faces
from training.face_scores import face_share
from training.pixel_distance import memorised_share, sliced_wasserstein
from training.samples import sample_grid, samples

ROOT = Path(__file__).resolve().parent.parent


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
