"""A folder of aligned faces becomes one tensor of small pictures."""

from __future__ import annotations

import hashlib
import itertools
import sys
from concurrent.futures import ThreadPoolExecutor
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
    """The square pictures of a folder at `size` pixels (Lanczos), sorted by name, or of a .npy file
    that holds them: (N, 3, size, size), uint8.

    What is no picture, is not square or is smaller than `size` is named on stderr and passed over.
    Raises: UserError where the folder cannot be read or fewer than `fewest` pictures remain.
    """
    if folder.suffix == ".npy":
        return _load_array(folder, size)
    try:
        paths, others = list_pictures(folder)
    except OSError as error:
        raise UserError(
            f"-data {folder} cannot be read ({error.strerror}): name a folder of aligned faces"
        ) from None
    for path in others:
        tell(f"passed over: {path}: it is no picture", file=sys.stderr)
    faces = []
    with ThreadPoolExecutor() as threads:  # decoding leaves the interpreter free
        for path, face in zip(
            paths, threads.map(read_face, paths, itertools.repeat(size)), strict=True
        ):
            if isinstance(face, Tensor):
                faces.append(face)
            else:
                tell(f"passed over: {path}: {face}", file=sys.stderr)
    if len(faces) < fewest:
        raise UserError(
            f"-data {folder} holds {len(faces)} pictures that can be used, and at least "
            f"{fewest} are needed: name a folder of aligned faces"
        )
    return torch.stack(faces)


def _load_array(path: Path, size: int) -> Tensor:
    try:
        faces = torch.from_numpy(np.load(path, allow_pickle=False))
    except (OSError, ValueError) as error:
        raise UserError(f"-data {path} cannot be read ({error}): name a folder or .npy") from None
    if faces.dtype != torch.uint8 or faces.shape[1:] != (3, size, size):
        raise UserError(
            f"-data {path} holds {faces.dtype} {tuple(faces.shape)}, not uint8 (N, 3, {size}, "
            f"{size}): make it anew"
        )
    return faces


def read_face(path: Path, size: int) -> Tensor | str:
    """A picture at `size` pixels, (3, size, size), uint8, or why it cannot be trained on."""
    try:
        picture = read_picture(path)
    except UserError as error:
        return str(error)
    if picture.width != picture.height:
        return f"it is {picture.width}×{picture.height}, not square: align_face.py makes squares"
    if picture.width < size:
        return f"it is {picture.width} pixels wide, and {size} are trained"
    small = picture.resize((size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def fingerprint(faces: Tensor) -> str:
    """SHA-256 of the pictures' pixels: whether a checkpoint was trained on these."""
    return hashlib.sha256(faces.numpy().tobytes()).hexdigest()


def to_range(faces: Tensor) -> Tensor:
    """uint8 → float32 in [-1, 1], the generator's range."""
    return faces.float() / 127.5 - 1
