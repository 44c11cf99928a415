"""Pixels of any mode become 8-bit sRGB, transparent parts over white."""

from __future__ import annotations

import io
from contextlib import suppress

import numpy as np
from PIL import Image, ImageCms

from cli.errors import UserError

# Of an nclx profile (ITU-T H.273): linear RGB → linear sRGB, both for white D65.
PRIMARIES = {
    9: ((1.6605, -0.5876, -0.0728), (-0.1246, 1.1329, -0.0083), (-0.0182, -0.1006, 1.1187)),
    12: ((1.2249, -0.2249, 0.0), (-0.0421, 1.0421, 0.0), (-0.0196, -0.0786, 1.0983)),
}  # 9: BT.2020, 12: Display P3
BITS_PER_SAMPLE = 258  # the tag of a TIFF file
ROWS = 256  # that are converted at a time


def over_white(picture: Image.Image) -> Image.Image:
    """Any mode → a fresh RGB picture in sRGB, transparent parts over white."""
    profile, nclx = picture.info.get("icc_profile"), picture.info.get("nclx", {})
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
    picture = _in_srgb(picture, profile)
    if nclx.get("color_primaries") in PRIMARIES:
        picture = _from_primaries(picture, PRIMARIES[nclx["color_primaries"]])
    if alpha is not None:
        result = Image.new("RGB", picture.size, "white")
        result.paste(picture, mask=alpha)
        return result
    picture.info = {}
    return picture


def _from_16_bits(picture: Image.Image) -> Image.Image:
    values = np.asarray(picture)
    bits = getattr(picture, "tag_v2", {}).get(BITS_PER_SAMPLE)
    if values.min() < 0 or values.max() > 65535 or bits == (32,):
        raise UserError("it has 32-bit pixels, which have no fixed range: save it as 8 or 16 bits")
    grey = np.empty(values.shape, np.uint8)
    for top in range(0, len(values), ROWS):
        rows = values[top : top + ROWS].astype(np.int64)
        grey[top : top + ROWS] = (rows + 128) // 257  # value / 257, rounded
    grey = Image.fromarray(grey)
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


def _from_primaries(picture: Image.Image, matrix: tuple) -> Image.Image:
    """RGB of other primaries, with sRGB's curve, in sRGB."""
    values = np.arange(256) / 255
    linear = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    linear, result = linear.astype(np.float32), picture.copy()
    for top in range(0, picture.height, ROWS):
        box = (0, top, picture.width, min(top + ROWS, picture.height))
        rgb = linear[np.asarray(picture.crop(box))] @ np.array(matrix, np.float32).T
        rgb = rgb.clip(0, 1)
        rgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
        result.paste(Image.fromarray((255 * rgb + 0.5).astype(np.uint8)), box)
    return result
