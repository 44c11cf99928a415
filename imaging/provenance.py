"""PNG files that PULSE writes, and what marks them: results as imaginary, by a sentence for people
and IPTC's source type for programs; faces of align_face.py by the photograph that they are of.

    write_png(Path("runs/a.png"), to_picture(HR), {"Description": IMAGINARY}, XMP)
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from PIL import Image, PngImagePlugin

from cli.errors import UserError
from imaging.pictures import opened
from safe_files import atomic_write, sha256

IMAGINARY = "An imaginary face made by PULSE. This person does not exist."
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
   xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
# PNG text chunks that mark a face cut out by align_face.py: the photograph's file name, which of
# its faces, and its SHA-256, so that another photograph of that name is not mistaken for it.
ALIGNED_FROM = "pulse:aligned"
ALIGNED_FACE = "pulse:face"
ALIGNED_SHA256 = "pulse:aligned_sha256"


def write_png(path: Path, picture: Image.Image, text: dict[str, str], xmp: str = "") -> None:
    """Write `picture` with `text` chunks and an XMP packet, so that `path` is whole or untouched.

    Raises: OSError (no room, no permission); nothing is left behind then.
    """
    with atomic_write(path) as file:
        encode_png(file, picture, text, xmp)


def encode_png(file: BinaryIO, picture: Image.Image, text: dict[str, str], xmp: str = "") -> None:
    """The same into an open file. Raises: OSError."""
    chunks = PngImagePlugin.PngInfo()
    for key, value in text.items():
        chunks.add_text(key, storable(value))  # as iTXt where Latin-1 does not suffice
    if xmp:
        chunks.add_itxt("XML:com.adobe.xmp", xmp)
    bare = picture.copy()
    bare.info = {}  # Pillow would write a profile, resolution or EXIF found there
    bare.save(file, "PNG", pnginfo=chunks)


def picture_text(path: Path) -> dict[str, str]:
    """The text chunks before the pixels of a PNG file; {} for other files and unreadable ones."""
    with (
        suppress(OSError, MemoryError, UserError, Image.DecompressionBombError),
        opened(Path(path), ["PNG"]) as picture,
    ):
        return {k: str(v) for k, v in picture.info.items() if isinstance(v, str)}
    return {}


def storable(name: str) -> str:
    """`name` as a text chunk holds it: bytes of a file name that are not UTF-8 become escapes."""
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def aligned_sources(pictures: list[Path]) -> dict[str, list[Path]]:
    """Photographs in `pictures` whose faces, cut out by align_face.py, are in `pictures` too: from
    the photograph's file name to the files of its faces. Content counts, not only the name.
    """
    names = {storable(picture.name): picture for picture in pictures}
    sources: dict[str, list[Path]] = {}
    for picture in pictures:
        marks = picture_text(picture)
        photo = names.get(marks.get(ALIGNED_FROM, ""))
        if photo is None or photo.parent != picture.parent:
            continue
        with suppress(OSError):  # one that cannot be read is left to read_picture
            if sha256(photo) == marks.get(ALIGNED_SHA256):
                sources.setdefault(photo.name, []).append(picture)
    return sources
