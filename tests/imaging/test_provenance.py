"""Pictures that PULSE writes: all or nothing, with text that comes back."""

import os
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image

from cli.errors import UserError
from imaging.pictures import list_pictures, read_picture
from imaging.provenance import (
    ALIGNED_FROM,
    ALIGNED_SHA256,
    aligned_sources,
    picture_text,
    storable,
    write_png,
)
from safe_files import sha256

RED = (200, 30, 40)


def saved(path: Path, colour=(0, 0, 0), **options) -> Path:
    Image.new("RGB", (4, 4), colour).save(path, **options)
    return path


def test_text_comes_back_in_any_script_and_no_metadata_is_written(tmp_path):
    picture = Image.new("RGB", (4, 4), RED)
    picture.info = {"icc_profile": b"x", "exif": b"y", "dpi": (72, 72)}
    name = os.fsdecode(b"caf\xe9.png")
    text = {"pulse:seed": "1", "pulse:name": "Jürgen 写真", "pulse:bytes": name, "long": "x" * 4000}
    write_png(tmp_path / "a.png", picture, text)
    assert picture_text(tmp_path / "a.png") == {**text, "pulse:bytes": storable(name)}
    with Image.open(tmp_path / "a.png") as written:
        assert written.getpixel((0, 0)) == RED
        assert not {"icc_profile", "exif", "dpi"} & set(written.info)


def test_text_is_empty_for_what_is_no_png_or_cannot_be_read(tmp_path):
    assert picture_text(saved(tmp_path / "a.jpg", comment="x")) == {}
    assert picture_text(tmp_path / "missing.png") == {}
    os.mkfifo(tmp_path / "pipe.png")
    assert picture_text(tmp_path / "pipe.png") == {}
    assert picture_text(saved(tmp_path / "b.png")) == {}


def test_a_text_bomb_is_not_inflated(tmp_path):
    path = saved(tmp_path / "a.png")
    bomb = b"zTXt" + b"key\0\0" + zlib.compress(b"x" * 300_000_000)
    length, check = struct.pack(">I", len(bomb) - 4), struct.pack(">I", zlib.crc32(bomb))
    whole, header = path.read_bytes(), 33  # bytes of signature and IHDR
    path.write_bytes(whole[:header] + length + bomb + check + whole[header:])
    assert picture_text(path).get("key", "") == ""
    with pytest.raises(UserError, match="(?i)too large"):  # and not for a chunk that is damaged
        read_picture(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.png"
    write_png(path, Image.new("RGB", (4, 4), RED), {})
    before = path.read_bytes()
    with pytest.raises(OSError):
        write_png(path, Image.new("F", (4, 4)), {})  # a mode that PNG cannot hold
    with pytest.raises(OSError):
        write_png(path / "b.png", Image.new("RGB", (4, 4)), {})  # in a file
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(OSError):
        write_png(tmp_path / "folder.png", Image.new("RGB", (4, 4)), {})
    assert path.read_bytes() == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.png", "folder.png"]


@pytest.mark.parametrize("letter", ["n", "é", "写", "🙂"])  # of 1, 2, 3 and 4 bytes
def test_a_name_as_long_as_the_file_system_allows_can_be_written(tmp_path, letter):
    path = tmp_path / (letter * (251 // len(letter.encode())) + ".png")
    write_png(path, Image.new("RGB", (4, 4), RED), {})
    assert read_picture(path).getpixel((0, 0)) == RED


def test_a_photograph_is_a_source_only_with_the_content_that_was_aligned(tmp_path):
    photo = saved(tmp_path / "anna.jpg", RED)
    marks = {ALIGNED_FROM: "anna.jpg", ALIGNED_SHA256: sha256(photo)}
    for face in (0, 1):
        write_png(tmp_path / f"anna_{face}.png", Image.new("RGB", (4, 4)), marks)
    saved(tmp_path / "other.png")
    faces = [tmp_path / "anna_0.png", tmp_path / "anna_1.png"]
    assert aligned_sources(list_pictures(tmp_path)[0]) == {"anna.jpg": faces}
    saved(tmp_path / "anna.jpg", "blue")
    assert aligned_sources(list_pictures(tmp_path)[0]) == {}
    photo.unlink()
    assert aligned_sources(list_pictures(tmp_path)[0]) == {}
