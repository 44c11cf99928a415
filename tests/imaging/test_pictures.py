"""Any file becomes 8-bit sRGB or one sentence."""

import os
import random
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import PIL
import pytest
import torch
from conftest import ROOT
from PIL import Image, ImageCms, ImageDraw, PngImagePlugin, TiffImagePlugin

from cli.errors import UserError
from imaging import pictures
from imaging.colours import over_white
from imaging.pictures import (
    clashes,
    list_pictures,
    read_picture,
    to_picture,
    to_tensor,
)
from imaging.provenance import picture_text

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RED, WHITE = (200, 30, 40), (255, 255, 255)


def saved(folder: Path, name: str, picture: Image.Image, **options) -> Path:
    picture.save(folder / name, **options)
    return folder / name


def png_chunk(kind: bytes, content: bytes) -> bytes:
    check = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = b"".join(chunks) + png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + body


def pixel(path: Path, at=(0, 0)) -> tuple[int, int, int]:
    picture = read_picture(path)
    assert picture.mode == "RGB" and picture.info == {} and not picture.getexif()
    return picture.getpixel(at)


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_picture(path)
    reason = str(caught.value)
    assert reason and "\n" not in reason and path.name not in reason
    return reason


# ------------------------------------------------------------ every mode, known colours


@pytest.mark.parametrize(
    ("name", "picture", "expected"),
    [
        ("grey.png", Image.new("L", (3, 2), 77), (77, 77, 77)),
        ("bit.png", Image.new("1", (3, 2), 1), WHITE),
        ("rgb.bmp", Image.new("RGB", (3, 2), RED), RED),
        ("la.png", Image.new("LA", (3, 2), (100, 128)), (177, 177, 177)),
        ("rgba.png", Image.new("RGBA", (3, 2), (0, 100, 200, 51)), (204, 224, 244)),
        ("clear.webp", Image.new("RGBA", (3, 2), (0, 0, 0, 0)), WHITE),
        ("16.png", Image.fromarray(np.full((2, 3), 25700, np.uint16)), (100, 100, 100)),
        ("16.tif", Image.fromarray(np.full((2, 3), 65535, np.uint16)), WHITE),
        pytest.param(
            *("ycc.tif", Image.new("RGB", (3, 2), RED).convert("YCbCr"), RED),
            marks=pytest.mark.skipif(
                int(PIL.__version__.split(".")[0]) < 13,
                reason="before Pillow 13 an uncompressed YCbCr TIFF is refused as truncated",
            ),
        ),
        ("lab.tif", Image.new("LAB", (3, 2), (255, 128, 128)), WHITE),
        ("cmyk.tif", Image.new("CMYK", (3, 2), (0, 255, 255, 0)), (255, 0, 0)),
        ("palette.gif", Image.new("RGB", (3, 2), RED).quantize(4), RED),
    ],
)
def test_every_mode_becomes_its_own_colour(tmp_path, name, picture, expected):
    assert np.allclose(pixel(saved(tmp_path, name, picture)), expected, atol=2)


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("HSV", (0, 255, 200), (200, 0, 0)),
        ("RGBX", (*RED, 0), RED),
        ("PA", (0, 0), WHITE),
        ("La", (50, 128), (177, 177, 177)),  # premultiplied: 50 is 100 at half alpha
        ("RGBa", (50, 50, 50, 128), (177, 177, 177)),
    ],
)
def test_modes_that_only_rare_formats_hold_are_read_too(mode, colour, expected):
    assert np.allclose(over_white(Image.new(mode, (3, 2), colour)).getpixel((0, 0)), expected)


def test_cmyk_jpeg_has_the_colours_of_print(tmp_path):
    path = saved(tmp_path, "a.jpg", Image.new("CMYK", (16, 16), (0, 255, 255, 0)), quality=95)
    assert np.allclose(pixel(path), (255, 0, 0), atol=3)


def test_a_16_bit_value_is_rounded_not_cut_in_either_byte_order(tmp_path):
    values = np.array([[0, 128, 129, 385, 386, 65535]], np.uint16)
    rows = b"\0" + values.astype(">u2").tobytes()
    (tmp_path / "a.png").write_bytes(png(6, 1, 16, 0, rows))
    (tmp_path / "a.pgm").write_bytes(b"P5 6 1 65535\n" + values.astype(">u2").tobytes())
    big = Image.frombytes("I;16B", (6, 1), values.astype(">u2").tobytes())
    saved(tmp_path, "a.tif", big)
    for name in ("a.png", "a.pgm", "a.tif"):
        grey = np.asarray(read_picture(tmp_path / name))[0, :, 0]
        assert grey.tolist() == [0, 0, 1, 1, 2, 255], name


def test_transparency_of_png_without_an_alpha_channel_lies_over_white(tmp_path):
    cases = {
        "grey.png": png(2, 1, 8, 0, b"\0\x10\x20", png_chunk(b"tRNS", b"\0\x10")),
        "rgb.png": png(
            2, 1, 8, 2, b"\0\x10\x10\x10\x20\x20\x20", png_chunk(b"tRNS", b"\0\x10" * 3)
        ),
        "16.png": png(2, 1, 16, 0, b"\0\x10\x10\x20\x20", png_chunk(b"tRNS", b"\x10\x10")),
        "1.png": png(2, 1, 1, 0, b"\0\x40", png_chunk(b"tRNS", b"\0\0")),
        "palette.png": png(
            2,
            1,
            8,
            3,
            b"\0\0\1",
            png_chunk(b"PLTE", b"\x10\x10\x10\x20\x20\x20"),
            png_chunk(b"tRNS", b"\0"),
        ),
    }
    for name, content in cases.items():
        (tmp_path / name).write_bytes(content)
        assert pixel(tmp_path / name) == WHITE, name
        assert pixel(tmp_path / name, (1, 0)) == (WHITE if name == "1.png" else (32, 32, 32)), name


def test_a_16_bit_rgb_png_with_transparency_is_read(tmp_path):
    rows = b"\0" + struct.pack(">6H", 0x1010, 0x1010, 0x1010, 0x8080, 0x8080, 0x8080)
    transparent = png_chunk(b"tRNS", struct.pack(">3H", 0x1010, 0x1010, 0x1010))
    (tmp_path / "a.png").write_bytes(png(2, 1, 16, 2, rows, transparent))
    assert pixel(tmp_path / "a.png", (1, 0)) == (128, 128, 128)


def test_the_first_frame_is_read(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in (RED, "blue")]
    for name in ("a.gif", "a.tif", "a.png", "a.webp"):
        lossless = {"lossless": True} if name == "a.webp" else {}
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], **lossless)
        assert pixel(tmp_path / name) == RED, name


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "tif"])
def test_every_exif_orientation_is_turned_upright(tmp_path, kind):
    upright = Image.new("RGB", (48, 32), "white")
    ImageDraw.Draw(upright).rectangle((0, 0, 15, 15), fill="black")  # the upper left corner
    turn_away = {  # the inverse of what each orientation asks for
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    for orientation, turn in turn_away.items():
        exif = Image.Exif()
        exif[pictures.ORIENTATION] = orientation
        stored = upright if turn is None else upright.transpose(turn)
        read = read_picture(saved(tmp_path, f"{orientation}.{kind}", stored, exif=exif))
        assert read.size == (48, 32), orientation
        assert read.getpixel((7, 7))[0] < 30 and read.getpixel((40, 7))[0] > 225, orientation
        assert read.getpixel((7, 25))[0] > 225, orientation


def test_an_icc_profile_is_converted_from(tmp_path):
    # sRGB with red and blue swapped: what is stored as red is seen as blue.
    profile = bytearray(SRGB)
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    picture = Image.new("RGB", (4, 4), (255, 0, 0))
    assert np.allclose(
        pixel(saved(tmp_path, "a.png", picture, icc_profile=bytes(profile))), (0, 0, 255), atol=2
    )
    alpha = saved(tmp_path, "b.png", picture.convert("RGBA"), icc_profile=bytes(profile))
    assert np.allclose(pixel(alpha), (0, 0, 255), atol=2)


def test_an_srgb_profile_changes_nothing(tmp_path):
    colours = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    read = read_picture(saved(tmp_path, "a.png", colours, icc_profile=SRGB))
    assert np.abs(np.asarray(read).astype(int) - np.asarray(colours)).max() <= 1


@pytest.mark.parametrize(
    "profile",
    [
        b"no profile at all",
        b"\0" * 200,
        SRGB[:16] + b"\xc7\xff\0\0" + SRGB[20:],  # a colour space whose name is no text
        SRGB.replace(b"rTRC", b"none"),  # nothing to convert red with
    ],
)
def test_an_unusable_profile_is_passed_over(tmp_path, profile):
    path = saved(tmp_path, "a.png", Image.new("RGB", (4, 4), RED), icc_profile=profile)
    assert pixel(path) == RED


@pytest.mark.parametrize(("kind", "value"), [(2, "text"), (3, 5), (5, 2.0), (12, 1.5)])
@pytest.mark.parametrize("tag", [34675, pictures.ORIENTATION])  # profile, orientation
def test_a_tiff_tag_of_the_wrong_type_is_passed_over(tmp_path, tag, kind, value):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[tag], tags.tagtype[tag] = value, kind
    path = saved(tmp_path, "a.tif", Image.new("RGB", (4, 4), RED), tiffinfo=tags)
    assert pixel(path) == RED


def test_a_mistake_of_ours_is_not_taken_for_damage(tmp_path, monkeypatch):
    path = saved(tmp_path, "a.png", Image.new("RGB", (4, 4), RED), icc_profile=SRGB)
    with monkeypatch.context() as without:
        without.delattr(ImageCms, "Flags")  # as in Pillow 10.2
        with pytest.raises(AttributeError):
            read_picture(path)
    monkeypatch.setattr(pictures, "UPRIGHT", None)
    with pytest.raises(AttributeError):
        read_picture(path)


def test_any_error_of_a_decoder_is_damage(tmp_path, monkeypatch):
    def broken(*args, **options):
        raise AttributeError("no such thing")

    path = saved(tmp_path, "a.png", Image.new("RGB", (4, 4), RED))
    with monkeypatch.context() as damaged:
        damaged.setattr(PngImagePlugin.PngImageFile, "load", broken)
        assert "damaged or cut off (no such thing)" in refusal(path)
    with monkeypatch.context() as damaged:
        damaged.setattr(PngImagePlugin.PngImageFile, "getexif", broken)
        assert pixel(path) == RED
    path = path.rename(tmp_path / "no_suffix")
    monkeypatch.setattr(Image, "open", broken)
    assert list_pictures(path) == ([], [path])
    assert picture_text(path) == {}
    assert "damaged" in refusal(path)


def test_a_profile_for_other_colours_is_passed_over(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    path = saved(tmp_path, "a.png", Image.new("RGB", (4, 4), RED), icc_profile=lab)
    assert pixel(path) == RED


# ------------------------------------------------------------ what cannot be read


def test_a_bomb_is_refused_before_it_is_decoded_and_silently(tmp_path, recwarn, capfd):
    (tmp_path / "a.png").write_bytes(png(100_000, 100_000, 8, 2, b""))
    (tmp_path / "b.png").write_bytes(png(13_378, 13_378, 8, 2, b""))
    for name in ("a.png", "b.png"):
        assert refusal(tmp_path / name) == (
            "it has more than 179 million pixels, the limit: make it smaller first"
        )
    assert len(list_pictures(tmp_path)[0]) == 2
    (tmp_path / "a.png").rename(tmp_path / "no_suffix")
    assert tmp_path / "no_suffix" in list_pictures(tmp_path)[0]
    assert not recwarn.list and capfd.readouterr() == ("", "")


def test_files_that_are_no_pictures_are_refused_with_the_reason(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    assert "empty" in refusal(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("I am a text")
    assert "not a picture" in refusal(tmp_path / "b.png")
    (tmp_path / "c.heic").write_bytes(b"no HEIC")
    assert "export it as JPEG" in refusal(tmp_path / "c.heic")
    assert "cannot be opened" in refusal(tmp_path / "missing.png")
    assert "regular" in refusal(tmp_path)


def test_floating_point_and_32_bit_pixels_are_refused(tmp_path):
    assert "floating" in refusal(saved(tmp_path, "f.tif", Image.new("F", (4, 4), 0.5)))
    assert "32-bit" in refusal(saved(tmp_path, "i.tif", Image.new("I", (4, 4), 70000)))
    assert "32-bit" in refusal(saved(tmp_path, "n.tif", Image.new("I", (4, 4), -1)))
    assert "32-bit" in refusal(saved(tmp_path, "d.tif", Image.new("I", (4, 4), 200)))  # of 8 bits


@pytest.mark.parametrize("kind", ["png", "jpg", "bmp", "webp", "tif"])
def test_a_picture_that_was_cut_off_is_refused(tmp_path, kind):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8))
    path = saved(tmp_path, f"a.{kind}", noise)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "damaged" in refusal(path)


def test_postscript_never_reaches_ghostscript(tmp_path):
    program = tmp_path / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    program.chmod(0o755)
    saved(tmp_path, "a.eps", Image.new("RGB", (4, 4)))
    (tmp_path / "a.eps").rename(tmp_path / "a.png")
    code = (
        "import sys\nfrom imaging import pictures\n"
        "try: pictures.read_picture(sys.argv[1])\nexcept ValueError: print('no')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.png")],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "no\n" and not (tmp_path / "ran").exists()


@pytest.mark.parametrize("kind", ["png", "jpg", "webp", "bmp", "gif", "tif", "tga", "ico"])
def test_random_damage_gives_a_picture_or_a_sentence_and_nothing_else(
    tmp_path, kind, recwarn, capfd
):
    chance = random.Random(kind)
    noise = np.random.default_rng(1).integers(0, 256, (24, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    options = {"exif": exif} if kind in ("png", "jpg", "webp", "tif") else {}
    options |= {"compression": "tiff_lzw"} if kind == "tif" else {}
    whole = saved(tmp_path, f"whole.{kind}", Image.fromarray(noise), **options).read_bytes()
    path = tmp_path / f"a.{kind}"
    descriptors = Path("/proc/self/fd")
    before = len(list(descriptors.iterdir())) if descriptors.is_dir() else 0
    for _ in range(60):
        damaged = bytearray(whole)
        for _ in range(chance.choice([1, 2, 8, 40])):
            where = chance.randrange(min(len(damaged), chance.choice([40, 400, 10**9])))
            damaged[where] = chance.choice([0, 1, 255, chance.randrange(256)])
        if chance.random() < 0.3:
            del damaged[chance.randrange(len(damaged)) :]
        path.write_bytes(damaged)
        try:
            assert read_picture(path).mode == "RGB"
        except UserError as error:
            assert str(error) and path.name not in str(error)
        list_pictures(path)
        picture_text(path)
    assert not recwarn.list and capfd.readouterr() == ("", "")
    if before:
        assert len(list(descriptors.iterdir())) == before


def test_108_million_pixels_are_read_and_a_jpeg_of_them_at_half_its_size(tmp_path, recwarn):
    size = (12_000, 9_000)  # a telephone's; Pillow itself warns of it
    bit = saved(tmp_path, "a.png", Image.new("1", size, 1))
    assert read_picture(bit).size == size
    photo = Image.new("L", size, 200)
    photo.paste(30, (0, 0, 6000, 9000))
    jpeg = saved(tmp_path, "a.jpg", photo)
    assert read_picture(jpeg).size == size
    half = read_picture(jpeg, reduce=True)
    assert half.size == (6_000, 4_500)
    assert (half.getpixel((2_900, 9))[0], half.getpixel((3_100, 9))[0]) == (30, 200)
    assert not recwarn.list


def test_a_jpeg_below_half_the_limit_keeps_every_pixel(tmp_path, monkeypatch):
    jpeg = saved(tmp_path, "a.jpg", Image.new("RGB", (40, 30), RED))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30)
    assert read_picture(jpeg, reduce=True).size == (40, 30)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40 * 30 - 1)
    assert read_picture(jpeg, reduce=True).size == (20, 15)


# ------------------------------------------------------------ folders


def test_a_folder_is_listed_by_name_without_hidden_files_and_subfolders(tmp_path):
    for name in ("b.png", "a.jpg", ".hidden.png"):
        saved(tmp_path, name, Image.new("RGB", (2, 2)))
    saved(tmp_path, "c.png", Image.new("RGB", (2, 2))).rename(tmp_path / "no_suffix")
    (tmp_path / "empty.PNG").touch()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder.png").mkdir()
    saved(tmp_path / "folder.png", "inside.png", Image.new("RGB", (2, 2)))
    (tmp_path / "link.png").symlink_to("b.png")
    (tmp_path / "broken.png").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.png")
    pictures, others = list_pictures(tmp_path)
    listed = ["a.jpg", "b.png", "broken.png", "empty.PNG", "link.png", "no_suffix"]
    assert [path.name for path in pictures] == listed
    assert [path.name for path in others] == ["notes.txt", "pipe.png"]
    assert "cannot be opened" in refusal(tmp_path / "broken.png")


def test_one_file_can_stand_for_a_folder(tmp_path):
    path = saved(tmp_path, "a.png", Image.new("RGB", (2, 2)))
    (tmp_path / "a.txt").write_text("hello")
    assert list_pictures(path) == ([path], [])
    assert list_pictures(tmp_path / "a.txt") == ([], [tmp_path / "a.txt"])
    with pytest.raises(FileNotFoundError):
        list_pictures(tmp_path / "missing")


def test_a_file_that_cannot_be_read_is_nobodys_rival(tmp_path):
    read = Image.new("RGB", (2, 2))
    alone = saved(tmp_path, "alone.png", read)
    raw, one, two = tmp_path / "a.NEF", saved(tmp_path, "a.jpg", read), tmp_path / "b.heic"
    for path in (raw, two):
        path.write_bytes(b"no picture")
    assert clashes([alone, raw, one], "be {stem}.png") == {raw: refusal(raw)}
    other = saved(tmp_path, "a.png", read)
    assert clashes([raw, one, other, two], "be {stem}.png") == {
        raw: refusal(raw),
        one: "a.png would be a.png: rename one of them",
        other: "a.jpg would be a.png: rename one of them",
    }


def test_files_are_listed_without_importing_torch():
    code = "import sys; from imaging import pictures as p; p.list_pictures('.'); "
    code += "sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# ------------------------------------------------------------ tensors


def test_tensor_and_picture_are_inverse_and_values_are_rounded():
    picture = Image.fromarray(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    tensor = to_tensor(picture)
    assert tensor.shape == (3, 16, 16) and tensor.dtype == torch.float32
    assert tensor.min() == 0 and tensor.max() == 1
    assert np.array_equal(np.asarray(to_picture(tensor)), np.asarray(picture))
    values = torch.tensor([-1.0, 0.4 / 255, 0.6 / 255, 254.6 / 255, 7.0]).expand(3, 1, 5)
    assert np.asarray(to_picture(values))[0, :, 0].tolist() == [0, 0, 1, 255, 255]
    assert to_picture(values.half().requires_grad_()).getpixel((4, 0)) == WHITE
