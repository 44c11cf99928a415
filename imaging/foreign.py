"""Files that hold no picture which can be read here, although their owners may think so: camera
raw, formats that Pillow does not know, videos, documents. Known by content; by name as well where
the content says nothing.
"""

from __future__ import annotations

import struct
from contextlib import suppress
from typing import BinaryIO

from PIL import Image

from cli.errors import UserError

HEAD = 1024  # bytes that say what a file is
AS_JPEG = "export it as JPEG"

# fmt: off
RAW_SUFFIXES = {
    ".3fr", ".arw", ".bay", ".cap", ".cr2", ".cr3", ".crw", ".dcr", ".dcs", ".dng", ".drf", ".eip",
    ".erf", ".fff", ".gpr", ".iiq", ".k25", ".kc2", ".kdc", ".lfp", ".lfr", ".mdc", ".mef", ".mos",
    ".mrw", ".nef", ".nrw", ".orf", ".ori", ".pef", ".ptx", ".qtk", ".raf", ".raw", ".rw2", ".rwl",
    ".rwz", ".sr2", ".srf", ".srw", ".sti", ".x3f",
}
# fmt: on
HEIF_SUFFIXES = {".heic", ".heics", ".heif", ".heifs", ".hif", ".avci"}
# Pictures to a user, even where they cannot be read here: refused by name, not skipped.
SUFFIXES = (
    RAW_SUFFIXES
    | HEIF_SUFFIXES
    | {".avif", ".avifs", ".webp", ".jp2", ".jxl", ".jxr", ".wdp", ".hdp", ".svg", ".svgz", ".eps"}
    | {".ps", ".psb", ".xcf", ".exr", ".hdr", ".bpg", ".flif"}
)

# (where, what stands there, what the file is, what to do): pictures to a user
PICTURES = (
    (0, b"FUJIFILMCCD-RAW", "a camera raw file (Fujifilm RAF)", AS_JPEG),
    (8, b"CR\x02", "a camera raw file (Canon CR2)", AS_JPEG),
    (4, b"ftypcrx ", "a camera raw file (Canon CR3)", AS_JPEG),
    (6, b"HEAPCCDR", "a camera raw file (Canon CRW)", AS_JPEG),
    (0, b"IIRO", "a camera raw file (Olympus ORF)", AS_JPEG),
    (0, b"IIRS", "a camera raw file (Olympus ORF)", AS_JPEG),
    (0, b"MMOR", "a camera raw file (Olympus ORF)", AS_JPEG),
    (0, b"IIU\0", "a camera raw file (Panasonic RW2)", AS_JPEG),
    (0, b"\0MRM", "a camera raw file (Minolta MRW)", AS_JPEG),
    (0, b"FOVb", "a camera raw file (Sigma X3F)", AS_JPEG),
    (8, b"IIII", "a camera raw file (Phase One IIQ)", AS_JPEG),
    (8, b"MMMM", "a camera raw file (Phase One IIQ)", AS_JPEG),
    (0, b"\xff\x0a", "JPEG XL", AS_JPEG),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL", AS_JPEG),
    (0, b"II\xbc", "JPEG XR", AS_JPEG),
    (0, b"BPG\xfb", "BPG", AS_JPEG),
    (0, b"FLIF", "FLIF", "export it as PNG"),
    (0, b"8BPS\0\x02", "a large Photoshop document (PSB)", AS_JPEG),
    (0, b"gimp xcf", "a GIMP project (XCF)", "export it as PNG"),
    (0, b"v/1\x01", "OpenEXR, whose pixels have no fixed range", AS_JPEG),
    (0, b"#?RADIANCE", "Radiance HDR, whose pixels have no fixed range", AS_JPEG),
    (0, b"#?RGBE", "Radiance HDR, whose pixels have no fixed range", AS_JPEG),
    (0, b"%!PS", "PostScript", AS_JPEG),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript (EPS)", AS_JPEG),
)
# No pictures: named only where they bear a picture's name.
OTHERS = (
    (0, b"%PDF-", "a PDF document", "export the page as JPEG"),
    (4, b"ftyp", "a video, or a picture of a kind unknown here", "export the frame as JPEG"),
    (4, b"moov", "a video (QuickTime)", "export a frame as JPEG"),
    (4, b"mdat", "a video (QuickTime)", "export a frame as JPEG"),
    (0, b"\x1a\x45\xdf\xa3", "a video (Matroska or WebM)", "export a frame as JPEG"),
    (8, b"AVI LIST", "a video (AVI)", "export a frame as JPEG"),
    (0, b"\0\0\x01\xba", "a video (MPEG)", "export a frame as JPEG"),
    (0, b"PK\x03\x04", "an archive (zip), or a document that is one", "unpack or export it"),
    (0, b"\x1f\x8b", "a compressed file (gzip)", "unpack it"),
    (0, b"7z\xbc\xaf", "an archive (7z)", "unpack it"),
    (0, b"Rar!", "an archive (RAR)", "unpack it"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "run `git lfs pull`"),
    (0, b"bplist00", "a property list, such as iCloud's of a file elsewhere", "download the file"),
    (0, b"\0\x05\x16\x07", "macOS's notes on a file (AppleDouble)", "copy the file itself"),
)
HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
SEQUENCE_BRANDS = {b"msf1", b"hevc", b"hevx", b"hevm", b"hevs"}
AVIF_BRANDS = {b"avif", b"avis"}

# TIFF tags and values
SUBFILE_TYPE, WIDTH, HEIGHT, PHOTOMETRIC, SUB_IMAGES, DNG_VERSION = 254, 256, 257, 262, 330, 50706
TAGS = {SUBFILE_TYPE, WIDTH, HEIGHT, PHOTOMETRIC, SUB_IMAGES, DNG_VERSION}
REDUCED = 1  # a bit of the subfile type: a smaller version of another image of the file
SENSOR_DATA = {32803, 34892}  # photometric: colour filter array, linear raw
INTEGERS = {1: "B", 3: "H", 4: "L", 13: "L", 16: "Q", 18: "Q"}  # field type → for struct
VERSION_INFO = 1057  # a resource of a Photoshop document
MOST_IMAGES, MOST_VALUES = 100, 100  # of a TIFF that are looked at

Tags = dict[int, tuple[int, ...]]


class ForeignFile(UserError):
    """A file that is refused for what it is. is_picture: it is one to its owner."""

    def __init__(self, sentence: str, is_picture: bool = True):
        super().__init__(sentence)
        self.is_picture = is_picture


def brands(head: bytes) -> set[bytes]:
    """Major and compatible brands of an ISO base media file; empty for other files."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[8:12]} | {head[at : at + 4] for at in range(16, end - 3, 4)}


def is_heif(head: bytes) -> bool:
    """Whether it is a HEIF file of HEVC images, as cameras and telephones store photographs."""
    found = brands(head)
    return bool(found & HEIF_BRANDS or found & {b"mif1", b"msf1"} and not found & AVIF_BRANDS)


def is_avif(head: bytes) -> bool:
    return bool(brands(head) & AVIF_BRANDS)


def require_known_kind(head: bytes) -> None:
    """Raises: ForeignFile where the first bytes of a file say that it cannot be read here."""
    for at, magic, what, advice in PICTURES:
        if head.startswith(magic, at) and (at != 8 or head[:2] in (b"II", b"MM")):
            raise ForeignFile(f"it is {what}: {advice}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html")):
        sentence = "it is a web page, not the picture it was to be: download that again"
        raise ForeignFile(sentence, is_picture=False)
    if text.startswith(b"<svg") or text.startswith((b"<?xml", b"<!")) and b"<svg" in text:
        raise ForeignFile("it is a vector drawing (SVG): export it as PNG")
    if is_heif(head) or is_avif(head):
        return
    for at, magic, what, advice in OTHERS:
        if head.startswith(magic, at):
            raise ForeignFile(f"it is {what}: {advice}", is_picture=False)


def by_suffix(suffix: str) -> str | None:
    """What to say of a file with nothing but its suffix (lower case) to go by."""
    if suffix in RAW_SUFFIXES:
        return f"it is a camera raw file ({suffix[1:].upper()}): {AS_JPEG}"
    if suffix in SUFFIXES:
        return f"it is damaged, or {suffix} of a kind unknown here: copy it again, or {AS_JPEG}"
    return None


def require_first_image_is_the_picture(file: BinaryIO, head: bytes, suffix: str) -> None:
    """Camera raw files are TIFF files, most of them with a small preview in front, which Pillow
    would take for the picture. What is damaged is left for Pillow to refuse.

    file: its position is changed. Raises: ForeignFile.
    """
    if head[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return
    if suffix in RAW_SUFFIXES:
        raise ForeignFile(by_suffix(suffix))
    images = _tiff_images(file, head)
    if any(DNG_VERSION in tags for tags in images[:1]):
        raise ForeignFile(f"it is a camera raw file (DNG): {AS_JPEG}")
    if any(SENSOR_DATA.intersection(tags.get(PHOTOMETRIC, ())) for tags in images):
        raise ForeignFile(f"it is a camera raw file: {AS_JPEG}")
    if len(images) > 1:
        first, *others = images
        reduced = first.get(SUBFILE_TYPE, (0,))[0] & REDUCED
        if reduced or max(map(_pixels, others)) >= 4 * _pixels(first):
            raise ForeignFile(
                f"its first image is only a preview of another, as in camera raw files: {AS_JPEG}"
            )


def require_composite(picture: Image.Image) -> None:
    """Raises: ForeignFile for a Photoshop document that was saved without a picture of the whole,
    in whose place is a white one.
    """
    for number, _, content in getattr(picture, "resources", ()):
        if number == VERSION_INFO and content[4:5] == b"\0":
            raise ForeignFile(f"it is a Photoshop document of its layers alone: {AS_JPEG}")


def _tiff_images(file: BinaryIO, head: bytes) -> list[Tags]:
    """The TAGS of every image of a TIFF, the first one in front; without those that are damaged."""
    order, big = "<" if head[:2] == b"II" else ">", b"+" in head[:4]
    images: list[Tags] = []
    seen: set[int] = {0}
    start = head.ljust(HEAD, b"\0")
    waiting = list(struct.unpack_from(order + ("Q" if big else "L"), start, 8 if big else 4))
    while waiting and len(images) < MOST_IMAGES:
        if (offset := waiting.pop(0)) not in seen:
            seen.add(offset)
            with suppress(struct.error, OSError, OverflowError):
                tags, following = _image_tags(file, offset, order, big)
                images.append(tags)
                waiting += [following, *tags.get(SUB_IMAGES, ())]
    return images


def _image_tags(file: BinaryIO, offset: int, order: str, big: bool) -> tuple[Tags, int]:
    """The TAGS of the image at `offset` that hold integers, and where the next image is."""

    def read(form: str) -> tuple:
        return struct.unpack(order + form, file.read(struct.calcsize(order + form)))

    file.seek(offset)
    (number,) = read("Q" if big else "H")
    fields = [read("HHQ8s" if big else "HHL4s") for _ in range(min(number, 10_000))]
    (following,) = read("Q" if big else "L")
    tags: Tags = {}
    for tag, kind, count, content in fields:
        if tag in TAGS and kind in INTEGERS and count:
            form = f"{min(count, MOST_VALUES)}{INTEGERS[kind]}"
            if (size := struct.calcsize(order + form)) <= len(content):
                tags[tag] = struct.unpack(order + form, content[:size])
            else:
                file.seek(*struct.unpack(order + ("Q" if big else "L"), content))
                tags[tag] = read(form)
    return tags, following


def _pixels(tags: Tags) -> int:
    return tags.get(WIDTH, (0,))[0] * tags.get(HEIGHT, (0,))[0]
