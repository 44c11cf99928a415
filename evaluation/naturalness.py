"""Whether the pictures of one search are as natural as those of another.

    python -m evaluation.naturalness paper quick -faces PHOTOGRAPHS

paper and quick are folders of run.py's results for the same LR, those outside eps among them;
PHOTOGRAPHS are real faces. Of each folder: the share of pictures, enlarged to 256 pixels, in which
dlib finds exactly one face, with Wilson's 95 % interval; and two distances to the real faces in
features of EfficientNet-lite1, which training does not use: the kernel distance, and the Fréchet
distance |μ₁ − μ₂|² + tr(C₁ + C₂ − 2·(C₁C₂)^½), in the 16 directions in which the real faces
differ most. Of each folder but the first, how much larger its Fréchet distance is than the first
one's, with the 95 % interval of a bootstrap over the LR.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from cli.signals import heed_signals
from evaluation.intervals import wilson
from imaging.pictures import read_picture
from training.dataset import load_faces
from training.efficientnet import load_efficientnet
from training.face_scores import face_share
from training.feature_distance import kernel_distance, pooled_features

AXES = 16  # of fewer than a hundred pictures, a covariance of more is mostly chance
RESAMPLES = 200


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """Between the Gaussians of features (N, d) and (M, d)."""
    a, b = a.double(), b.double()
    C_a, C_b = a.T.cov(), b.T.cov()
    # tr (C₁C₂)^½ is the sum of the roots of the eigenvalues, which are not negative
    roots = torch.linalg.eigvals(C_a @ C_b).real.clamp(min=0).sqrt().sum()
    return ((a.mean(0) - b.mean(0)).square().sum() + C_a.trace() + C_b.trace() - 2 * roots).item()


def principal_axes(features: Tensor, number: int) -> Tensor:
    """(d, number): the directions in which (N, d) vary most."""
    centred = (features - features.mean(0)).double()
    return torch.linalg.svd(centred, full_matrices=False).Vh[:number].T.to(features.dtype)


def bootstrap(first: Tensor, other: Tensor, real: Tensor, seed: int = 0) -> tuple[float, float]:
    """The 95 % interval of the Fréchet distance of other to real less that of first, over resamples
    of the pairs of rows of first and other, (N, d) each.
    """
    random = torch.Generator().manual_seed(seed)
    more = []
    for _ in range(RESAMPLES):
        heed_signals()
        rows = torch.randint(len(first), (len(first),), generator=random)
        more.append(frechet_distance(other[rows], real) - frechet_distance(first[rows], real))
    low, high = torch.tensor(more).quantile(torch.tensor([0.025, 0.975])).tolist()
    return low, high


def results_in(folder: Path) -> dict[str, Path]:
    """The pictures of a folder of results, on either side of eps, by their names."""
    return {
        path.name: path for side in (folder / "outside_eps", folder) for path in side.glob("*.png")
    }


def _pixels(path: Path) -> Tensor:
    """(S, S, 3), uint8. Raises: UserError."""
    heed_signals()
    return torch.from_numpy(np.array(read_picture(path)))


def read_results(folders: list[Path]) -> list[Tensor]:
    """Of each folder the pictures of the names that all of them have, (N, 3, S, S), uint8. Raises:
    UserError where they have fewer than AXES + 1 in common, or of different sizes.
    """
    found = [results_in(folder) for folder in folders]
    names = sorted(set.intersection(*map(set, found)))
    if len(names) <= AXES:
        raise UserError(
            f"{', '.join(map(str, folders))} have {len(names)} pictures of the same names: at "
            f"least {AXES + 1} are needed, of the same LR"
        )
    pictures = [[_pixels(paths[name]) for name in names] for paths in found]
    sizes = {picture.shape[:2] for each in pictures for picture in each}
    if len(sizes) > 1:
        shown = ", ".join(f"{width}×{height}" for height, width in sorted(sizes))
        raise UserError(f"the pictures have different sizes ({shown}): give results of one size")
    return [torch.stack(each).permute(0, 3, 1, 2) for each in pictures]


def parser() -> Parser:
    flags = Parser(__doc__)
    about = "folders of results of the same LR"
    flags.add_argument("runs", metavar="RUNS", nargs="+", type=Path, help=about)
    flags.flag("faces", "folder of real faces", required=True, type=Path)
    return flags


def main() -> int:
    args = parser().parse_args()
    sets = read_results(args.runs)
    faces = load_faces([args.faces], sets[0].shape[-1], fewest=AXES + 1)
    network = load_efficientnet(None, 1, torch.device("cpu"))
    real, *features = (pooled_features(network, pictures) for pictures in (faces, *sets))
    axes = principal_axes(real, AXES)
    on_axes = [seen @ axes for seen in (real, *features)]
    for folder, pictures, seen, x in zip(args.runs, sets, features, on_axes[1:], strict=True):
        heed_signals()
        share = face_share(pictures)
        low, high = wilson(round(share * len(pictures)), len(pictures))
        tell(f"{folder}: {len(pictures)} pictures, held against {len(faces)} real faces")
        tell(f"  exactly one face: {share:.1%} ({low:.1%} to {high:.1%})")
        distance = frechet_distance(x, on_axes[0])
        line = f"  Fréchet distance: {distance:.2f}"
        if seen is not features[0]:
            more = distance - frechet_distance(on_axes[1], on_axes[0])
            low, high = bootstrap(on_axes[1], x, on_axes[0])
            line += f", {more:+.2f} ({low:+.2f} to {high:+.2f}) against {args.runs[0]}"
        tell(line)
        tell(f"  kernel distance: {kernel_distance(seen, real):.1f}")
    return OK


if __name__ == "__main__":
    run_command(main)
