"""A folder of aligned faces becomes one tensor of small pictures."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cli.errors import UserError
from cli.progress import tell
from imaging.pictures import list_pictures, read_picture

FEWEST = 64  # pictures; a discriminator knows fewer by heart at once


def load_faces(folder: Path, size: int, fewest: int = FEWEST) -> Tensor:
    """The square pictures of a folder at `size` pixels (Lanczos), sorted by name: (N, 3, size,
    size), uint8.

    What is no picture, is not square or is smaller than `size` is named on stderr and passed over.
    Raises: UserError where the folder cannot be read or fewer than `fewest` pictures remain.
    """
    try:
        paths, others = list_pictures(folder)
    except OSError as error:
        raise UserError(
            f"-data {folder} cannot be read ({error.strerror}): name a folder of aligned faces"
        ) from None
    refused = {path: "it is no picture" for path in others}
    faces = []
    for path in paths:
        try:
            picture = read_picture(path)
        except UserError as error:
            refused[path] = str(error)
            continue
        if picture.width != picture.height:
            refused[path] = (
                f"it is {picture.width}×{picture.height}, not square: align_face.py makes squares"
            )
        elif picture.width < size:
            refused[path] = f"it is {picture.width} pixels wide, and {size} are trained"
        else:
            small = picture.resize((size, size), Image.Resampling.LANCZOS)
            faces.append(torch.from_numpy(np.array(small)).permute(2, 0, 1))
    for path, reason in refused.items():
        tell(f"passed over: {path}: {reason}", file=sys.stderr)
    if len(faces) < fewest:
        raise UserError(
            f"-data {folder} holds {len(faces)} pictures that can be used, and at least "
            f"{fewest} are needed: name a folder of aligned faces"
        )
    return torch.stack(faces)


def fingerprint(faces: Tensor) -> str:
    """SHA-256 of the pictures' pixels: whether a checkpoint was trained on these."""
    return hashlib.sha256(faces.numpy().tobytes()).hexdigest()


def to_range(faces: Tensor) -> Tensor:
    """uint8 → float32 in [-1, 1], the generator's range."""
    return faces.float() / 127.5 - 1
