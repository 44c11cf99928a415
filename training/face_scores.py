"""Whether samples are faces: what dlib finds in them."""

from __future__ import annotations

import numpy as np
from PIL import Image
from torch import Tensor

ENLARGED = 256  # pixels at which faces are looked for


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
