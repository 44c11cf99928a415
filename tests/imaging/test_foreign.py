"""Files that are photographs elsewhere are refused for what they are, whatever their name."""

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from cli.errors import UserError
from imaging.foreign import (
    DNG_VERSION,
    OTHERS,
    PHOTOMETRIC,
    PICTURES,
    RAW_SUFFIXES,
    REDUCED,
    SUB_IMAGES,
    SUBFILE_TYPE,
    ForeignFile,
    brands,
    is_heif,
)
from imaging.pictures import list_pictures, read_picture

PREVIEW, PICTURE = Image.new("RGB", (160, 125), "red"), Image.new("RGB", (640, 500), "blue")
NOISE = np.random.default_rng(0).bytes(3000)


def tiff(path: Path, *images: Image.Image, tags: dict | None = None, **options) -> Path:
    """A TIFF of these images; `tags` are the first one's."""
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in (tags or {}).items():
        info[tag] = value
    first, *others = images
    first.save(path, "TIFF", tiffinfo=info, **options)
    for image in others:
        with TiffImagePlugin.AppendingTiffWriter(str(path)) as file:
            image.encoderinfo = {}
            image.save(file, "TIFF")
    return path


def first_directory(content: bytes) -> tuple[int, int]:
    """Of a TIFF in Intel's byte order: where its first entry is, and where the next image is."""
    at = int.from_bytes(content[4:8], "little")
    return at + 2, at + 2 + 12 * int.from_bytes(content[at : at + 2], "little")


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def everywhere(content: bytes, suffix: str, folder: Path) -> list[Path]:
    """The same file under its own name, under a JPEG's and under none."""
    paths = [folder / f"own{suffix}", folder / f"own{suffix.upper()}.jpg", folder / "bare"]
    for path in paths:
        path.write_bytes(content)
    return paths


@pytest.mark.parametrize(
    "tags",
    [
        {DNG_VERSION: b"\1\4\0\0", SUBFILE_TYPE: REDUCED},
        {SUBFILE_TYPE: REDUCED},  # as NEF and ARW
        {},  # nothing but that the other image is far larger
    ],
)
def test_a_tiff_whose_first_image_is_a_preview_is_refused_whatever_its_name(tmp_path, tags):
    content = tiff(tmp_path / "made", PREVIEW, PICTURE, tags=tags).read_bytes()
    for path in everywhere(content, ".tif", tmp_path):
        assert "export it as JPEG" in refusal(path), path
        assert path in list_pictures(tmp_path)[0]


def test_motorolas_byte_order_is_understood(tmp_path):
    grey, tags = Image.new("I;16B", (160, 125)), {DNG_VERSION: b"\1\4\0\0"}
    path = tiff(tmp_path / "a.tif", grey, tags=tags)
    assert path.read_bytes()[:2] == b"MM"
    assert refusal(path) == "it is a camera raw file (DNG): export it as JPEG"


def test_a_big_tiff_is_looked_through_too(tmp_path):
    path = tiff(tmp_path / "a.tif", PREVIEW, tags={DNG_VERSION: b"\1\4\0\0"}, big_tiff=True)
    if path.read_bytes()[2] != 43:
        pytest.skip("this Pillow writes no BigTIFF")
    assert refusal(path) == "it is a camera raw file (DNG): export it as JPEG"


def test_a_sub_image_is_looked_at_too(tmp_path):
    path = tiff(tmp_path / "a.tif", PREVIEW, PICTURE)
    content = bytearray(path.read_bytes())
    # An entry that Pillow can do without becomes a pointer to the second page, which is no page
    # any more: so most raw files refer to their picture.
    _, link = first_directory(content)
    entry = SUB_IMAGES.to_bytes(2, "little") + b"\4\0\1\0\0\0" + content[link : link + 4]
    content[link - 12 : link + 4] = entry + bytes(4)
    path.write_bytes(content)
    with Image.open(path) as opened:
        assert opened.n_frames == 1 and opened.size == PREVIEW.size
    assert "preview" in refusal(path)
    content[link - 4 : link] = b"\xff" * 4  # a pointer to nowhere is no reason
    path.write_bytes(content)
    assert read_picture(path).size == PREVIEW.size


def test_sensor_data_that_pillow_cannot_open_are_named(tmp_path):
    path = tiff(tmp_path / "a", Image.new("L", (64, 64)))
    content = path.read_bytes()
    before = PHOTOMETRIC.to_bytes(2, "little") + b"\3\0\1\0\0\0\1\0"
    assert content.count(before) == 1
    path.write_bytes(content.replace(before, before[:8] + (32803).to_bytes(2, "little")))
    assert list_pictures(path) == ([path], [])
    assert refusal(path) == "it is a camera raw file: export it as JPEG"


@pytest.mark.parametrize("suffix", sorted(RAW_SUFFIXES))
def test_raw_suffixes_are_refused_by_name_and_not_passed_over(tmp_path, suffix):
    unknown = tmp_path / f"unknown{suffix}"
    unknown.write_bytes(NOISE)
    plain = tiff(tmp_path / "plain.tif", PREVIEW).rename(tmp_path / f"plain{suffix.upper()}")
    assert list_pictures(tmp_path) == ([plain, unknown], [])
    for path in (plain, unknown):
        assert refusal(path) == (
            f"it is a camera raw file ({suffix[1:].upper()}): export it as JPEG"
        )
    # A JPEG is a JPEG, whatever its name.
    PICTURE.save(tmp_path / "a", "JPEG")
    assert read_picture((tmp_path / "a").rename(unknown)).size == PICTURE.size


@pytest.mark.parametrize(("at", "magic", "what", "advice"), PICTURES + OTHERS)
def test_content_says_what_a_file_is(tmp_path, at, magic, what, advice):
    content = b"II*\0\x10\0\0\0"[:at].ljust(at, b"\0") + magic + NOISE
    named, bare = tmp_path / "named.jpg", tmp_path / "bare"
    for path in (named, bare):
        path.write_bytes(content)
    is_picture = (at, magic, what, advice) in PICTURES
    assert list_pictures(tmp_path) == (([bare, named], []) if is_picture else ([named], [bare]))
    assert refusal(named) == f"it is {what}: {advice}"
    with pytest.raises(ForeignFile) as caught:
        read_picture(bare)
    assert caught.value.is_picture == is_picture


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"<!DOCTYPE html><html><body>404</body>", "web page"),
        (b"\n <html lang='en'>", "web page"),
        (b'<?xml version="1.0"?>\n<!-- a drawing --><svg xmlns="x"/>', "SVG"),
        (b"<svg/>", "SVG"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom", "video"),
    ],
)
def test_text_and_videos_with_a_pictures_name_are_named(tmp_path, content, word):
    (tmp_path / "a.png").write_bytes(content)
    assert word in refusal(tmp_path / "a.png")


def test_a_multi_page_tiff_and_a_lone_reduced_image_are_read_as_before(tmp_path):
    pages = tiff(tmp_path / "pages.tif", PICTURE, PREVIEW, PICTURE)
    assert read_picture(pages).getpixel((0, 0)) == (0, 0, 255)
    alike = tiff(tmp_path / "alike.tif", PREVIEW, PREVIEW.resize((200, 150)))
    assert read_picture(alike).size == PREVIEW.size
    alone = tiff(tmp_path / "alone.tif", PREVIEW, tags={SUBFILE_TYPE: REDUCED})
    assert read_picture(alone).size == PREVIEW.size


def test_a_loop_of_images_ends(tmp_path):
    path = tiff(tmp_path / "a.tif", PREVIEW)
    content = bytearray(path.read_bytes())
    _, link = first_directory(content)
    content[link : link + 4] = content[4:8]
    path.write_bytes(content)
    assert read_picture(path).size == PREVIEW.size


@pytest.mark.parametrize("has_composite", [True, False])
def test_a_photoshop_document_without_a_picture_of_the_whole_is_refused(tmp_path, has_composite):
    version = b"\0\0\0\1" + bytes([has_composite]) + bytes(8)
    resource = b"8BIM" + struct.pack(">HHL", 1057, 0, len(version)) + version + b"\0"
    header = b"8BPS" + struct.pack(">H6xHLLHH", 1, 3, 2, 2, 8, 3)
    sections = struct.pack(">L", 0) + struct.pack(">L", len(resource)) + resource
    pixels = struct.pack(">LH", 0, 0) + bytes([200] * 4 + [30] * 4 + [40] * 4)
    path = tmp_path / "a.psd"
    path.write_bytes(header + sections + pixels)
    if has_composite:
        assert read_picture(path).getpixel((1, 1)) == (200, 30, 40)
    else:
        assert "its layers alone" in refusal(path)


def test_brands_tell_heic_from_avif_and_video():
    assert is_heif(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    assert is_heif(b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic")
    assert not is_heif(b"\0\0\0\x18ftypmif1\0\0\0\0mif1avif")
    assert not is_heif(b"\0\0\0\x18ftypisom\0\0\0\0isomavc1")
    assert not is_heif(b"")
    assert brands(b"\xff\xff\xff\xffftyp") == {b""}
