"""Picture files of any kind and origin: listed, read safely, as tensors and back.

    pictures, others = list_pictures(Path("input"))
    LR = to_tensor(read_picture(pictures[0]))             # (3, h, w) in [0, 1]

Whatever a file holds, `read_picture` returns 8-bit sRGB or raises UserError with one sentence.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageCms

from cli.errors import UserError
from cli.progress import some

if TYPE_CHECKING:
    import torch  # only the tensor functions need it, and listing files must not wait for it

# Never opened: EPS goes to Ghostscript, which runs programs, IPTC and WMF pass their content on to
# other decoders, and the rest are formats that Pillow can name but not decode.
REFUSED_FORMATS = {"EPS", "IPTC", "WMF", "BUFR", "GRIB", "HDF5", "MPEG"}
# Pictures to a user, even where this Pillow cannot read them: refused by name, not passed over.
FOREIGN_SUFFIXES = {".heic", ".heif", ".avif", ".webp", ".jp2", ".jxl", ".svg", ".eps", ".ps"}

# What Pillow raises, before it decodes, for more pixels than its limit.
TOO_MANY_PIXELS = (Image.DecompressionBombWarning, Image.DecompressionBombError)

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
    except (OSError, MemoryError, *TOO_MANY_PIXELS):
        raise
    except Exception as error:
        raise OSError(str(error) or type(error).__name__) from error


@contextmanager
def opened(path: Path, formats: list[str]) -> Iterator[Image.Image]:
    """A picture of which only the header is read; no warnings while it is open.

    Raises: OSError where the file cannot be read, or its header not be understood; one of
    TOO_MANY_PIXELS; UserError for what is no regular file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        if not stat.S_ISREG(os.stat(path).st_mode):  # opening a pipe would wait for ever
            raise UserError("it is not a regular file: give a picture file")
        with open(path, "rb") as file:
            with _decoding():
                picture = Image.open(file, formats=formats)
            with picture:
                yield picture


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
        with opened(path, formats):
            return True
    except TOO_MANY_PIXELS:
        return True
    except (OSError, MemoryError):
        return False


def list_pictures(path: Path) -> tuple[list[Path], list[Path]]:
    """The pictures directly in the folder `path` (or `path` itself, a file), and the other files.

    Both sorted by name. A picture has content that Pillow recognises, or the suffix of a picture
    format: read_picture says what is wrong with the latter. Hidden files and subfolders are passed
    over; what is no regular file (a pipe, a device) is among the others.

    Raises: FileNotFoundError, or another OSError where the folder cannot be listed.
    """
    path = Path(path)
    files = [path]
    if stat.S_ISDIR(os.stat(path).st_mode):
        visible = (file for file in path.iterdir() if not file.name.startswith("."))
        files = sorted(visible, key=lambda file: file.name)
    formats = _formats()
    suffixes = {suffix for suffix, name in Image.registered_extensions().items() if name in formats}
    suffixes |= FOREIGN_SUFFIXES
    pictures, others = [], []
    for file in files:
        if os.path.isdir(file):
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


def read_picture(path: Path) -> Image.Image:
    """The first frame of `path` as 8-bit sRGB, upright, alpha over white, without any metadata.

    16-bit grey is scaled to 8 bits; colours are converted from a usable ICC profile. Refused:
    floating-point pixels, which have no fixed range, and more than Image.MAX_IMAGE_PIXELS pixels
    (before decoding).

    Raises: UserError, whatever is wrong with the file.
    """
    path = Path(path)
    try:
        with opened(path, _formats()) as picture:
            with _stderr_silenced(picture), _decoding():
                picture.load()
            return _over_white(_turned_upright(picture))
    except UserError:
        raise
    except TOO_MANY_PIXELS:
        limit = f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million"
        reason = f"it has more than {limit} pixels, the limit: make it smaller first"
    except Image.UnidentifiedImageError:
        reason = (
            "it is not a picture, or damaged beyond recognition: open and save it anew elsewhere"
        )
        if path.stat().st_size == 0:
            reason = "it is empty (0 bytes): copy it again from where it came"
        elif path.suffix.lower() in FOREIGN_SUFFIXES:
            reason = f"{path.suffix.lower()} files cannot be read here: convert it to JPEG or PNG"
    except MemoryError:
        reason = "it does not fit into memory: make it smaller first"
    except (OSError, ValueError) as error:  # ValueError: a conversion that Pillow refuses
        if isinstance(error, OSError) and error.strerror:
            reason = f"it cannot be opened ({error.strerror}): see to it that it can be read"
        else:
            why = textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" …")
            reason = f"it is damaged or cut off ({why}): copy it again or save it anew elsewhere"
    raise UserError(reason)


def _turned_upright(picture: Image.Image) -> Image.Image:
    orientation = None
    with suppress(OSError), _decoding():  # damaged EXIF says nothing about the pixels
        orientation = picture.getexif().get(ORIENTATION)
    turn = UPRIGHT.get(orientation)
    return picture if turn is None else picture.transpose(turn)


def _over_white(picture: Image.Image) -> Image.Image:
    """Any mode → a fresh RGB picture in sRGB, transparent parts over white."""
    profile = picture.info.get("icc_profile")
    if picture.mode == "F":
        raise UserError(
            "it has floating-point pixels, which have no fixed range: save it as 8 bits"
        )
    if picture.mode.startswith("I"):
        picture = _from_16_bits(picture)
    elif picture.mode in ("La", "RGBa"):  # colours multiplied by alpha already
        picture = picture.convert(picture.mode.upper())
    elif picture.mode == "PA" or picture.mode == "P" and "transparency" in picture.info:
        picture = picture.convert("RGBA")
    elif picture.mode in ("1", "L", "RGB") and "transparency" in picture.info:
        picture = picture.convert("RGBA" if picture.mode == "RGB" else "LA")
    alpha = None
    if picture.mode in ("LA", "RGBA"):
        alpha = picture.getchannel("A")
        picture = picture.convert(picture.mode[:-1])
    result = Image.new("RGB", picture.size, "white")  # new, so that it has no metadata
    result.paste(_in_srgb(picture, profile), mask=alpha)
    return result


def _from_16_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture).astype(np.int64)
    if values.min() < 0 or values.max() > 65535:
        raise UserError("it has 32-bit pixels, which have no fixed range: save it as 8 or 16 bits")
    grey = Image.fromarray(((values + 128) // 257).astype(np.uint8))  # value / 257, rounded
    transparent = picture.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    alpha = Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
    return Image.merge("LA", (grey, alpha))


def _in_srgb(picture: Image.Image, profile: object) -> Image.Image:
    """Converted from the ICC profile; by Pillow's own rules where it is missing or unusable."""
    if isinstance(profile, bytes):  # a damaged TIFF holds anything there
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
            space = source.profile.xcolor_space.strip()
        except (OSError, UnicodeDecodeError):
            return picture.convert("RGB")
        mode = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}.get(space)
        like_rgb = mode == "RGB" and picture.mode not in ("CMYK", "LAB")
        if like_rgb or (mode == "L" and picture.mode == "1"):
            picture = picture.convert(mode)
        if picture.mode == mode:
            with suppress(ImageCms.PyCMSError):  # one without what the conversion needs
                return ImageCms.profileToProfile(
                    picture,
                    source,
                    ImageCms.createProfile("sRGB"),
                    renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC,
                    outputMode="RGB",
                    flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
                )
    return picture.convert("RGB")


def to_tensor(picture: Image.Image) -> torch.Tensor:
    """(3, h, w) float32 in [0, 1]."""
    import torch

    pixels = np.array(picture.convert("RGB"))  # (h, w, 3) in 0 … 255
    return torch.from_numpy(pixels).permute(2, 0, 1).contiguous().float() / 255


def to_picture(tensor: torch.Tensor) -> Image.Image:
    """(3, h, w), clamped to [0, 1], rounded to the nearest of 256 values; on any device."""
    pixels = tensor.detach().float().clamp(0, 1).mul(255).round().byte()
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().cpu().numpy())
