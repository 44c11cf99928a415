"""HEIC is read like JPEG: by content, upright, in sRGB; what is damaged costs a sentence, not the
process.
"""

import io
import random
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image, ImageCms, ImageDraw
from test_damaged_pictures import damaged

from cli.errors import UserError
from imaging import heif, heif_decoder, pictures
from imaging.pictures import list_pictures, read_picture

pillow_heif = pytest.importorskip("pillow_heif", reason="only pillow-heif can make HEIC files")

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def heic(picture: Image.Image, **options) -> bytes:
    file = io.BytesIO()
    pillow_heif.from_pillow(picture).save(file, **{"quality": 100, "chroma": 444, **options})
    return file.getvalue()


def marked(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """White, black in its upper left corner."""
    picture = Image.new("RGB", size, "white")
    ImageDraw.Draw(picture).rectangle((0, 0, 31, 31), fill="black")
    return picture


def refusal(path) -> str:
    with pytest.raises(UserError) as caught:
        read_picture(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.HEIC", "a.heif", "a.jpg", "a.png", "a"])
def test_heic_is_read_whatever_its_name(tmp_path, name):
    (tmp_path / name).write_bytes(heic(Image.new("RGB", (96, 64), (200, 30, 40))))
    assert list_pictures(tmp_path) == ([tmp_path / name], [])
    read = read_picture(tmp_path / name)
    assert (read.mode, read.size, read.info) == ("RGB", (96, 64), {})
    assert np.allclose(read.getpixel((50, 30)), (200, 30, 40), atol=3)
    assert not read.getexif()


def test_pillow_itself_is_left_as_it_was(tmp_path):
    (tmp_path / "a.heic").write_bytes(heic(marked()))
    code = (
        "import sys; from PIL import Image; from imaging.pictures import read_picture\n"
        "assert read_picture(sys.argv[1]).size == (96, 64)\n"
        "sys.exit('pi_heif' in sys.modules or 'HEIF' in Image.OPEN)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.heic")]
    assert subprocess.run(command, cwd=ROOT, timeout=60).returncode == 0


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_rotation_is_done_once_although_exif_and_the_container_both_tell_it(
    tmp_path, orientation
):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    turn_away = {**{same: same for same in (2, 3, 4, 5, 7)}, 6: 8, 8: 6}
    turn = pictures.UPRIGHT.get(turn_away.get(orientation))
    stored = marked() if turn is None else marked().transpose(turn)
    path = tmp_path / "a.heic"
    path.write_bytes(heic(stored, exif=exif.tobytes()))
    read = read_picture(path)
    assert read.size == (96, 64)
    corners = [read.getpixel(at)[0] for at in ((12, 12), (84, 12), (12, 52), (84, 52))]
    assert corners[0] < 30 and min(corners[1:]) > 225, corners


def test_colours_are_converted_from_an_icc_profile(tmp_path):
    profile = bytearray(SRGB)  # red and blue swapped: what is stored as red is seen as blue
    red, blue = profile.index(b"rXYZ"), profile.index(b"bXYZ")
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    picture = Image.new("RGB", (96, 64), (250, 5, 5))
    picture.info["icc_profile"] = bytes(profile)
    (tmp_path / "a.heic").write_bytes(heic(picture))
    assert np.allclose(read_picture(tmp_path / "a.heic").getpixel((9, 9)), (5, 5, 250), atol=4)


@pytest.mark.parametrize(
    ("primaries", "expected"),
    [(1, (200, 100, 100)), (12, (216, 95, 97)), (9, (240, 76, 97))],  # BT.709, P3, BT.2020
)
def test_colours_are_converted_from_an_nclx_profile(tmp_path, primaries, expected):
    content = heic(
        Image.new("RGB", (96, 64), (200, 100, 100)),
        save_nclx_profile=True,
        color_primaries=primaries,
        transfer_characteristics=13,
        matrix_coefficients=6,
        full_range_flag=1,
    )
    (tmp_path / "a.heic").write_bytes(with_nclx(content, primaries, 13))
    assert np.allclose(read_picture(tmp_path / "a.heic").getpixel((9, 9)), expected, atol=4)


def with_nclx(content: bytes, primaries: int, transfer: int) -> bytes:
    """`content` with these values in its nclx profile."""
    assert content.count(b"colrnclx") == 1
    at = content.index(b"colrnclx") + 8
    values = primaries.to_bytes(2, "big") + transfer.to_bytes(2, "big")
    return content[:at] + values + content[at + 4 :]


def test_hdr_is_refused(tmp_path):
    content = heic(marked(), save_nclx_profile=True, full_range_flag=1)
    for transfer in (16, 18):
        (tmp_path / "a.hif").write_bytes(with_nclx(content, 9, transfer))
        assert "it is HDR" in refusal(tmp_path / "a.hif")


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (Image.new("RGBA", (96, 64), (0, 100, 200, 51)), (204, 224, 244)),
        (Image.new("L", (96, 64), 77), (77, 77, 77)),
    ],
)
def test_transparency_lies_over_white_and_grey_is_grey(tmp_path, picture, expected):
    (tmp_path / "a.heic").write_bytes(heic(picture))
    assert np.allclose(read_picture(tmp_path / "a.heic").getpixel((9, 9)), expected, atol=3)


def test_of_several_images_the_primary_one_is_read(tmp_path):
    file = io.BytesIO()
    images = pillow_heif.from_pillow(Image.new("RGB", (64, 64), "red"))
    images.add_from_pillow(Image.new("RGB", (96, 64), "blue"))
    images.save(file, primary_index=1)
    (tmp_path / "a.heic").write_bytes(file.getvalue())
    assert read_picture(tmp_path / "a.heic").size == (96, 64)


def test_more_pixels_than_the_limit_are_refused_before_decoding(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(heic(marked()))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 2)
    assert read_picture(tmp_path / "a.heic").size == (96, 64)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 96 * 64 // 2 - 1)
    assert "the limit" in refusal(tmp_path / "a.heic")


def test_without_pi_heif_heic_is_refused_with_advice(tmp_path, monkeypatch):
    (tmp_path / "no" / "pi_heif").mkdir(parents=True)
    (tmp_path / "no" / "pi_heif" / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "no"))
    (tmp_path / "a").write_bytes(heic(marked()))
    assert list_pictures(tmp_path) == ([tmp_path / "a"], [])
    assert refusal(tmp_path / "a") == (
        "it is HEIC, and pi-heif, which reads that, cannot be imported (not here): "
        "`pip install pi-heif` installs it, or export it as JPEG"
    )


@pytest.mark.timed
def test_a_crash_of_the_decoder_and_one_that_never_ends_are_sentences(tmp_path, monkeypatch):
    (tmp_path / "a.heic").write_bytes(heic(marked()))
    decoder = tmp_path / "decoder.py"
    monkeypatch.setattr(heif, "DECODER", decoder)
    decoder.write_text("import os; os.abort()")
    assert "its decoder ended with status" in refusal(tmp_path / "a.heic")
    decoder.write_text("import time; time.sleep(600)")
    monkeypatch.setattr(heif, "PATIENCE", 0.5)
    started = time.monotonic()
    assert "its decoder took more than" in refusal(tmp_path / "a.heic")
    assert time.monotonic() - started < 10


def test_damage_that_crashes_pi_heif_is_a_sentence(tmp_path):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = 6
    content = heic(marked(), exif=exif.tobytes())
    at = content.index(b"Exif", content.index(b"infe"))
    path = tmp_path / "a.heic"
    path.write_bytes(content[:at] + b"\xff\xfe\xfd\xfc" + content[at + 4 :])
    code = "import sys, pi_heif; pi_heif.open_heif(sys.argv[1])"
    alone = subprocess.run([sys.executable, "-c", code, str(path)], timeout=60)
    if alone.returncode >= 0:
        pytest.skip("this pi-heif does not crash where the name of a metadata item is no text")
    assert "damaged or cut off (its decoder ended with status" in refusal(path)


def test_a_truncated_or_damaged_heic_is_read_or_refused_with_a_sentence(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole, chance, path = heic(Image.fromarray(noise)), random.Random(0), tmp_path / "a.heic"
    for part in (2, 3, 10):
        path.write_bytes(whole[: len(whole) // part])
        assert "damaged or cut off" in refusal(path)
    for _ in range(10):
        path.write_bytes(damaged(whole, chance))
        try:
            assert read_picture(path).mode == "RGB"
        except UserError as error:
            assert "\n" not in str(error)


def test_a_sequence_without_a_still_image_is_named(tmp_path):
    content = bytearray(heic(marked()))
    content[8:12] = b"hevc"
    (tmp_path / "a.heics").write_bytes(content)
    assert read_picture(tmp_path / "a.heics").size == (96, 64)
    content = content.replace(b"pitm", b"free")  # no primary image
    (tmp_path / "a.heics").write_bytes(content)
    assert "sequence of images" in refusal(tmp_path / "a.heics")


def test_the_decoder_answers_in_this_process_as_in_its_own(tmp_path):
    out, content = io.BytesIO(), heic(marked())
    heif_decoder.decode(io.BytesIO(content), 1e6, out)
    (tmp_path / "a.heic").write_bytes(content)
    line, _, pixels = out.getvalue().partition(b"\n")
    assert b'"size": [96, 64]' in line
    assert pixels == heif.read_heif(tmp_path / "a.heic", 1e6).tobytes()
    with pytest.raises(OverflowError):
        heif_decoder.decode(io.BytesIO(content), 1e3, out)
