"""The measures of evaluate.py.

    consistency(HR, LR)          # mean squared difference of DS(HR) and LR
    psnr(consistency(HR, LR))    # in dB, infinite where nothing differs

Pictures are tensors (3, h, w) with values in [0, 1]. SSIM, LPIPS and NIQE are computed by other
packages: each is loaded at its first use, and left out, with one sentence, where it is missing.
Nothing is ever downloaded.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import itertools
import math
import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from bicubic import BicubicDownSample
from cli.errors import UserError, is_mistake

# Smaller differences are what float64 arithmetic leaves of equal pixels.
ROUNDING = 1e-9


def pixels(picture: Image.Image) -> Tensor:
    """(3, h, w), float64, in [0, 1]."""
    values = np.array(picture.convert("RGB"), dtype=np.float64) / 255  # (h, w, 3)
    return torch.from_numpy(values).permute(2, 0, 1)


def mean_square(a: Tensor, b: Tensor) -> float:
    """The mean squared difference of two tensors of one shape; exactly 0 for equal ones."""
    difference = (a - b).double()
    return difference.where(difference.abs() > ROUNDING, 0).square().mean().item()


def consistency(HR: Tensor, LR: Tensor) -> float:
    """The L2 of PULSE: the mean squared difference of DS(HR), not clamped, and LR.

    HR (3, S, S), LR (3, h, h). Raises: UserError where HR is no multiple of LR.
    """
    factor = HR.shape[-1] // LR.shape[-1]
    if HR.shape[-2:] != (factor * LR.shape[-2], factor * LR.shape[-1]) or factor < 2:
        raise UserError(
            f"it is {HR.shape[-1]}×{HR.shape[-2]}, no multiple of the LR's "
            f"{LR.shape[-1]}×{LR.shape[-2]}"
        )
    return mean_square(BicubicDownSample(factor)(HR[None])[0], LR)


def psnr(l2: float) -> float:
    """10·log10(1/L2) in dB; infinite for 0."""
    return math.inf if l2 == 0 else -10 * math.log10(l2)


def rmse(a: Tensor, b: Tensor) -> float:
    """The root of the mean squared difference."""
    return math.sqrt(mean_square(a, b))


def mean_over_pairs(pictures: Iterable[Image.Image], distance: Callable) -> float | None:
    """The mean of distance(a, b), of `pixels`, over all pairs of pictures: their diversity.

    None where there is no pair, or `distance` gives None.
    """
    distances = []
    for a, b in itertools.combinations(pictures, 2):
        if (value := distance(pixels(a), pixels(b))) is None:
            return None
        distances.append(value)
    return fmean(distances) if distances else None


class ExternalMetric:
    """A metric of another package. Call it with pictures: a number, or None where it is left out.

    title: as tables show it. min_side: the smallest side of a picture that it can judge. load:
    returns the function, and the name and version of what computes it.
    """

    def __init__(self, title: str, min_side: int, load: Callable[[], tuple[Callable, str]]):
        self.title, self.min_side, self.load = title, min_side, load
        self.function: Callable | None = None
        self.made_by = ""  # package and version, once it was used
        self.failure = ""  # why it cannot be used at all
        self.too_small = self.no_number = 0  # pictures, or pairs, that it could not judge

    def __call__(self, *pictures: Tensor) -> float | None:
        if min(pictures[0].shape[-2:]) < self.min_side:
            self.too_small += 1
            return None
        if self.failure:
            return None
        try:
            if self.function is None:
                self.function, self.made_by = self.load()
            with torch.inference_mode():
                value = float(self.function(*(picture[None].float() for picture in pictures)))
        except UserError as error:
            self.failure = str(error)
        except Exception as error:  # another package may break in any way
            if is_mistake(error):
                raise
            why = textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" …")
            self.failure = f"its package or its weights failed ({why}): reinstall them"
        else:
            if math.isfinite(value):
                return value
            self.no_number += 1
        return None

    @property
    def left_out(self) -> str:
        """One sentence on what was not judged, and why; empty where everything was."""
        if self.failure:
            return f"{self.title} is left out: {self.failure}."
        if self.too_small:
            return f"{self.title} is left out for pictures of less than {self.min_side} pixels."
        return f"{self.title} gave no number {self.no_number} times." if self.no_number else ""


def ssim() -> ExternalMetric:
    """SSIM of two pictures (Wang et al., 2004; Gaussian window of 11 pixels), by torchmetrics."""

    def load():
        version = _require("torchmetrics")
        from torchmetrics.functional.image import structural_similarity_index_measure

        return partial(structural_similarity_index_measure, data_range=1.0), version

    return ExternalMetric("SSIM", 11, load)


def lpips() -> ExternalMetric:
    """LPIPS of two pictures (Zhang et al., 2018; AlexNet), by torchmetrics, where the weights of
    torchvision's AlexNet lie in torch.hub's cache.
    """

    def load():
        version = _require("torchmetrics")
        from torchvision.models import AlexNet_Weights

        url = AlexNet_Weights.DEFAULT.url
        _require_file(Path("checkpoints", url.rsplit("/")[-1]), url)
        from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

        metric = LearnedPerceptualImagePatchSimilarity("alex", normalize=True)

        def distance(a, b):
            metric.reset()
            return metric(a, b)

        return distance, f"AlexNet, {version}"

    return ExternalMetric("LPIPS", 31, load)  # AlexNet's second pooling needs 3×3 of its first


def niqe() -> ExternalMetric:
    """NIQE of one picture (Mittal et al., 2013), by pyiqa, where its parameters lie in torch.hub's
    cache.
    """

    def load():
        version = _require("pyiqa")
        import pyiqa

        name = "niqe_modelparameters.mat"
        source = f"https://huggingface.co/chaofengc/IQA-PyTorch-Weights/resolve/main/{name}"
        _require_file(Path("pyiqa", name), source)
        return pyiqa.create_metric("niqe", device=torch.device("cpu")), version

    return ExternalMetric("NIQE", 192, load)  # 2×2 blocks of 96 pixels: of one no covariance


def _require(package: str) -> str:
    """Import it; returns its name and version. Raises: UserError where it is missing."""
    try:
        importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        what = f"the package {package} is not installed (pip install {package})"
        raise UserError(what) from None
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"{package} of unknown version"


def _require_file(name: Path, source: str) -> None:
    """Raises: UserError where `name` is missing in torch.hub's folder."""
    path = Path(torch.hub.get_dir()) / name
    if not path.is_file():
        raise UserError(f"{path} is missing, and nothing is downloaded: fetch it from {source}")
