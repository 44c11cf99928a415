"""Picture files of any kind and origin: listed, read safely, as tensors and back.

    pictures, others = list_pictures(Path("input"))
    LR = to_tensor(read_picture(pictures[0]))             # (3, h, w) in [0, 1]

Whatever a file holds, `read_picture` returns 8-bit sRGB or raises UserError with one sentence.
"""

from __future__ import annotations

import logging
import math
import os
import stat
import sys
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, features

from cli.errors import UserError
from cli.progress import some
from imaging import foreign
from imaging.colours import over_white
from imaging.heif import read_heif

if TYPE_CHECKING:
    import torch  # only the tensor functions need it, and listing files must not wait for it

# Never opened: EPS goes to Ghostscript, which runs programs, IPTC and WMF pass their content on to
# other decoders, HEIF, where another program taught it to Pillow, may crash (heif.py does not), and
# the rest are formats that Pillow can name but not decode.
REFUSED_FORMATS = {"EPS", "IPTC", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "HEIF"}

FACES_CSV = "faces.csv"  # align_face.py's table, beside its faces: not worth a word

# EXIF orientation → what turns the picture upright; 1 is upright.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
ORIENTATION = 0x0112  # the EXIF tag

# Pillow logs some damage instead of raising; without a handler it would be printed.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def _formats() -> list[str]:
    Image.init()
    return [name for name in Image.ID if name not in REFUSED_FORMATS]


@contextmanager
def _decoding() -> Iterator[None]:
    """Around Pillow's decoders, which damaged files break in many ways: SyntaxError, struct.error,
    IndexError, AttributeError, … All become OSError. Nothing of our own belongs in the block: a
    mistake in it would pass for a damaged file.
    """
    try:
        yield
    except (OSError, MemoryError, UserError, Image.DecompressionBombError):
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


def most_pixels() -> float:
    """The limit: Pillow's, from which on it refuses to open a file, 179 million pixels."""
    return 2 * Image.MAX_IMAGE_PIXELS if Image.MAX_IMAGE_PIXELS else math.inf


def _require_regular(path: Path) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
        raise UserError("it is not a regular file: give a picture file")


@contextmanager
def opened(path: Path, formats: list[str]) -> Iterator[Image.Image]:
    """A picture that Pillow reads, of which only the header is read; no warnings while it is open.

    Raises: OSError where the file cannot be read, or its header not be understood;
    DecompressionBombError beyond most_pixels(); UserError for what is no regular file;
    ForeignFile for what cannot be read here.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _require_regular(path)
        with open(path, "rb") as file:
            head = file.read(foreign.HEAD)
            foreign.require_known_kind(head)
            foreign.require_first_image_is_the_picture(file, head, Path(path).suffix.lower())
            if foreign.is_avif(head) and not features.check("avif"):
                sentence = f"it is AVIF, which this Pillow cannot read: {foreign.AS_JPEG}"
                raise foreign.ForeignFile(sentence)
            file.seek(0)
            with _decoding():
                picture = Image.open(file, formats=formats)
            with picture:
                yield picture


def _is_heif(path: Path) -> bool:
    """Whether it is a regular file of HEIF. Raises: OSError, UserError."""
    _require_regular(path)
    with open(path, "rb") as file:
        return foreign.is_heif(file.read(foreign.HEAD))


@contextmanager
def _stderr_silenced(picture: Image.Image) -> Iterator[None]:
    """libtiff prints damage to file descriptor 2 itself, beside failing."""
    with ExitStack() as restore:
        with suppress(OSError):  # a program without stderr
            if picture.format == "TIFF":
                stderr = os.dup(2)
                restore.callback(os.close, stderr)
                restore.callback(os.dup2, stderr, 2)
                with open(os.devnull, "wb") as null:
                    os.dup2(null.fileno(), 2)
        yield


def _is_picture(path: Path, suffixes: set[str], formats: list[str]) -> bool:
    if path.suffix.lower() in suffixes:
        return True
    try:
        if _is_heif(path):
            return True
        with opened(path, formats):
            return True
    except Image.DecompressionBombError:
        return True
    except foreign.ForeignFile as error:
        return error.is_picture
    except (OSError, MemoryError):
        return False


def list_pictures(path: Path) -> tuple[list[Path], list[Path]]:
    """The pictures directly in the folder `path` (or `path` itself, a file), and the other files.

    Both sorted by name. A picture has content that Pillow or pi-heif recognises, content that is a
    picture elsewhere, or the suffix of a picture: read_picture says what is wrong with those.
    Hidden files, subfolders and FACES_CSV are skipped; what is no regular file (a pipe, a
    device) is among the others.

    Raises: FileNotFoundError, or another OSError where the folder cannot be listed.
    """
    path = Path(path)
    files = [path]
    if stat.S_ISDIR(os.stat(path).st_mode):
        visible = (file for file in path.iterdir() if not file.name.startswith("."))
        files = sorted(visible, key=lambda file: file.name)
    formats = _formats()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    suffixes |= foreign.SUFFIXES
    pictures, others = [], []
    for file in files:
        if os.path.isdir(file) or file.name == FACES_CSV:
            continue
        # What does not exist is a broken link: read_picture says so.
        readable = os.path.isfile(file) or not os.path.exists(file)
        (pictures if readable and _is_picture(file, suffixes, formats) else others).append(file)
    return pictures, others


def pictures_in(
    folder: Path, flag: str, what: str, may_be_empty: bool = False
) -> tuple[list[Path], list[Path]]:
    """`list_pictures` of the folder, or of the one picture, that a flag names.

    what: which pictures belong in it. Raises: UserError, naming flag and folder, where it cannot
    be listed or, unless it may be empty, holds no picture.
    """
    place, advice = f"{flag} {folder}", f"put {what} there, or name another folder"
    try:
        pictures, others = list_pictures(folder)
    except OSError as error:
        raise UserError(f"{place} cannot be read ({error.strerror}): {advice}") from None
    if not pictures and not may_be_empty:
        only = f", only {some(others)}" if others else ""
        below = [path for path in sorted(Path(folder).glob("[!.]*")) if path.is_dir()]
        only += f" (its subfolders are not searched: {some(below)})" if below else ""
        raise UserError(f"{place} holds no picture{only}: {advice}")
    return pictures, others


def is_readable(path: Path) -> bool:
    """Whether read_picture reads it; it is decoded for that."""
    try:
        read_picture(path, reduce=True)
    except UserError:
        return False
    return True


def clashes(pictures: list[Path], what: str) -> dict[Path, str]:
    """Of pictures that share a name but for the suffix, those that cannot be done, with the reason:
    it cannot be read, or another one of that name can be read as well.

    what: what two of them would do, with {stem} for their name.
    """
    named: dict[str, list[Path]] = {}
    for picture in pictures:
        stem = picture.stem  # Windows and macOS take a name in capitals for the same
        named.setdefault(stem if sys.platform == "linux" else stem.casefold(), []).append(picture)
    reasons = {}
    for alike in named.values():
        readable = []
        for picture in alike if len(alike) > 1 else ():
            try:
                read_picture(picture, reduce=True)
                readable.append(picture)
            except UserError as error:
                reasons[picture] = str(error)
        for picture in readable if len(readable) > 1 else ():
            others = ", ".join(other.name for other in readable if other != picture)
            would = what.format(stem=picture.stem)
            reasons[picture] = f"{others} would {would}: rename one of them"
    return reasons


def read_picture(path: Path, reduce: bool = False) -> Image.Image:
    """The first frame of `path` as 8-bit sRGB, upright, alpha over white, without any metadata.

    16-bit grey is scaled to 8 bits; colours are converted from a usable ICC profile. Refused:
    floating-point pixels, which have no fixed range, camera raw and other files whose first image
    is not the picture, and more than most_pixels() pixels (before decoding).

    reduce: a JPEG of more than half as many is decoded at half its width and height.
    Raises: UserError, whatever is wrong with the file.
    """
    path = Path(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return over_white(_decoded(path, reduce))
    except UserError:
        raise
    except Image.DecompressionBombError:
        limit = f"{most_pixels() / 1e6:.0f} million"
        reason = f"it has more than {limit} pixels, the limit: make it smaller first"
    except Image.UnidentifiedImageError:
        reason = foreign.by_suffix(path.suffix.lower()) or (
            "it is not a picture, or damaged beyond recognition: open and save it again elsewhere"
        )
        if path.stat().st_size == 0:
            reason = "it is empty (0 bytes): copy it again from where it came"
    except MemoryError:
        reason = "it does not fit into memory: make it smaller first"
    except (OSError, ValueError) as error:  # ValueError: a conversion that Pillow refuses
        if isinstance(error, OSError) and error.strerror:
            reason = f"it cannot be opened ({error.strerror}): see to it that it can be read"
        else:
            why = textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" …")
            reason = f"it is damaged or cut off ({why}): copy it again or save it again elsewhere"
    raise UserError(reason)


def _decoded(path: Path, reduce: bool) -> Image.Image:
    """The first frame of `path` in its own mode, upright. Raises: as `opened` does."""
    if _is_heif(path):
        return read_heif(path, most_pixels())
    with opened(path, _formats()) as picture:
        foreign.require_composite(picture)
        if reduce and picture.width * picture.height > most_pixels() / 2:
            picture.draft(None, (picture.width // 2, picture.height // 2))
        with _stderr_silenced(picture), _decoding():
            picture.load()
        return _turned_upright(picture)


def _turned_upright(picture: Image.Image) -> Image.Image:
    orientation = None
    with suppress(OSError), _decoding():  # damaged EXIF says nothing about the pixels
        orientation = picture.getexif().get(ORIENTATION)
    turn = UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """(3, h, w) float32 in [0, 1]."""
    import torch

    pixels = np.array(picture.convert("RGB"))  # (h, w, 3) in 0 … 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def to_picture(tensor: torch.Tensor) -> Image.Image:
    """(3, h, w), clamped to [0, 1], rounded to the nearest of 256 values; on any device."""
    pixels = tensor.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
