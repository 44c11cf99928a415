"""A program: a HEIF file on stdin becomes, on stdout, a line of JSON, the colour profile and the
pixels of its primary image. A process of its own, because a damaged file can crash the decoder.

    python heif_decoder.py MOST_PIXELS < anna.heic

The line holds size, mode and stride as Pillow's raw decoder takes them, the length of the profile,
and the nclx profile; or error, which is "import", "pixels" or what the decoder says.
"""

import json
import sys
from typing import BinaryIO


def decode(file: BinaryIO, most_pixels: float, out: BinaryIO) -> None:
    """Write to `out` what the module docstring says. Raises: what a damaged file makes of it."""
    import pi_heif

    for name in ("THUMBNAILS", "DEPTH_IMAGES", "AUX_IMAGES"):  # not wanted, so not looked at
        setattr(pi_heif.options, name, False)
    images = pi_heif.HeifFile(file, convert_hdr_to_8bit=True, remove_stride=False)
    picture = images[images.primary_index]
    width, height = picture.size
    if width * height > most_pixels:
        raise OverflowError
    profile = picture.info.get("icc_profile") or b""
    pixels = picture.data  # decodes it, turned upright, which settles size and stride
    about = {
        "size": picture.size,
        "mode": picture.mode,
        "stride": picture.stride,
        "profile": len(profile),
        "nclx": picture.info.get("nclx_profile"),
    }
    out.write(json.dumps(about).encode() + b"\n" + profile)
    out.write(pixels)


def main() -> None:
    out = sys.stdout.buffer
    try:
        decode(sys.stdin.buffer, float(sys.argv[1]), out)
    except ImportError as error:
        answer = {"error": "import", "why": str(error)}
    except OverflowError:
        answer = {"error": "pixels"}
    except Exception as error:  # whatever a damaged file makes of it: the caller says so
        answer = {"error": str(error) or type(error).__name__}
    else:
        return
    out.write(json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
