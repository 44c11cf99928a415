"""Folders of aligned faces become one tensor of small pictures."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from cli.errors import UserError
from cli.progress import tell
from cli.signals import heed_signals
from imaging.pictures import list_pictures, read_picture

FEWEST = 64  # pictures; a discriminator knows fewer by heart at once


def load_faces(
    folders: Sequence[Path],
    size: int,
    fewest: int = FEWEST,
    prefix: str = "",
    most: int | None = None,
) -> Tensor:
    """The square pictures of folders at `size` pixels (Lanczos), of each sorted by name, and those
    of .npy files that hold such tensors: (N, 3, size, size), uint8.

    prefix: of a folder, pictures whose names begin with it; most: so many at most, spread evenly.
    What is no picture, is not square or is smaller than `size` is named on stderr and skipped.
    Raises: UserError where a folder cannot be read or fewer than `fewest` pictures remain.
    """
    faces = torch.cat(
        [
            _of_array(path, size) if path.suffix == ".npy" else _of_folder(path, size, prefix, most)
            for path in folders
        ]
    )
    if len(faces) < fewest:
        raise UserError(
            f"{' and '.join(map(str, folders))} holds {len(faces)} pictures that can be used, and "
            f"at least {fewest} are needed: name a folder of aligned faces"
        )
    return faces


def _of_folder(folder: Path, size: int, prefix: str, most: int | None) -> Tensor:
    try:
        paths, others = list_pictures(folder)
    except OSError as error:
        raise UserError(
            f"{folder} cannot be read ({error.strerror}): name a folder of aligned faces"
        ) from None
    for path in others:
        tell(f"skipped: {path}: it is no picture", file=sys.stderr)
    paths = [path for path in paths if path.name.startswith(prefix)]
    if most is not None:
        paths = paths[:: max(len(paths) // most, 1)][:most]
    faces = [torch.empty(0, 3, size, size, dtype=torch.uint8)]
    with ThreadPoolExecutor() as threads:  # decoding leaves the interpreter free
        read = threads.map(partial(read_face, size=size), paths)
        for path, face in zip(paths, read, strict=True):
            heed_signals()
            if isinstance(face, Tensor):
                faces.append(face[None])
            else:
                tell(f"skipped: {path}: {face}", file=sys.stderr)
    return torch.cat(faces)


def _of_array(path: Path, size: int) -> Tensor:
    try:
        faces = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise UserError(f"{path} cannot be read ({error}): name a folder or .npy") from None
    if not isinstance(faces, np.ndarray):
        raise UserError(f"{path} is an archive of arrays: give one of them, as a .npy")
    if faces.dtype != np.uint8 or faces.shape[1:] != (3, size, size):
        raise UserError(
            f"{path} holds {faces.dtype} {faces.shape}, not uint8 (N, 3, {size}, {size}): "
            f"make it again"
        )
    return torch.from_numpy(faces)


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
