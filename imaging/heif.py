"""HEIF photographs (HEIC), as telephones and some cameras store them, by the package pi-heif."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from PIL import Image

from cli.errors import UserError
from imaging.foreign import AS_JPEG, HEAD, SEQUENCE_BRANDS, ForeignFile, brands

DECODER = Path(__file__).with_name("heif_decoder.py")
PATIENCE = 300  # seconds for one photograph
HDR_TRANSFERS = {16, 18}  # of an nclx profile: PQ and hybrid log-gamma


def read_heif(path: Path, most_pixels: float) -> Image.Image:
    """The primary image of a HEIF file, turned upright: the rotation that its EXIF data speak of is
    done. info: icc_profile or nclx, the colours, as far as the file states them.

    Raises: OSError where it is damaged; DecompressionBombError beyond `most_pixels`; ForeignFile
    where pi-heif is missing; UserError where it is HDR.
    """
    command = [sys.executable, str(DECODER), str(most_pixels)]
    try:
        with open(path, "rb", buffering=0) as file:  # so that the process reads where this seeks
            head = file.read(HEAD)
            file.seek(0)
            done = subprocess.run(command, stdin=file, capture_output=True, timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        raise OSError(f"its decoder took more than {PATIENCE} s") from None
    if done.returncode:
        raise OSError(f"its decoder ended with status {done.returncode}")
    end = done.stdout.index(b"\n") + 1
    about, content = json.loads(done.stdout[:end]), memoryview(done.stdout)[end:]
    if about.get("error") == "import":
        raise ForeignFile(
            f"it is HEIC, and pi-heif, which reads that, cannot be imported ({about['why']}): "
            f"`pip install pi-heif` installs it, or {AS_JPEG}"
        )
    if about.get("error") == "pixels":
        raise Image.DecompressionBombError
    if "error" in about and brands(head) & SEQUENCE_BRANDS:
        raise ForeignFile(
            "it is a sequence of images, none of which can be read here: export one as JPEG"
        )
    if "error" in about:
        raise OSError(about["error"])
    mode, profile, nclx = about["mode"], bytes(content[: about["profile"]]), about["nclx"] or {}
    if nclx.get("transfer_characteristics") in HDR_TRANSFERS and not profile:
        raise UserError(f"it is HDR, whose pixels have no fixed range: {AS_JPEG}")
    pixels = content[len(profile) :]
    picture = Image.frombytes(mode, about["size"], pixels, "raw", mode, about["stride"])
    picture.info = {"icc_profile": profile} if profile else {"nclx": nclx}
    return picture
