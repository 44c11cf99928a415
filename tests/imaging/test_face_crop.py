"""The crop of a face against golden numbers; squares; where faces are."""

import importlib.util

import numpy as np
import pytest
from conftest import GOLDEN
from PIL import Image
from scipy.ndimage import gaussian_filter

from cli.errors import UserError
from imaging import face_crop
from imaging.face_crop import (
    FaceFinder,
    align,
    central_square,
    downscale,
    installed_landmark_model,
    landmark_model,
)

ARRAYS = np.load(GOLDEN / "align.npz")


def golden_photo(n: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(ARRAYS[f"width{n}"]), np.arange(ARRAYS[f"height{n}"]))
    red = np.rint(127.5 * (1 + np.sin(x / 17 + y / 31)))
    green = np.rint(127.5 * (1 + np.cos(x / 23 - y / 13)))
    blue = 255 * ((x // 8 + y // 8) % 2)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


@pytest.mark.parametrize("n", range(4))  # 1 and 3 reach beyond the photograph, 3 is reduced first
def test_the_crop_has_the_published_pixels(n):
    crop = align(golden_photo(n), ARRAYS[f"landmarks{n}"])
    assert crop.size == (1024, 1024)
    small = np.asarray(crop.resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - ARRAYS[f"crop64_{n}"]).max() <= 2
    single = np.asarray(crop)[32::64, 32::64].astype(int)
    assert (np.abs(single - ARRAYS[f"crop_every_64th_pixel_{n}"]) <= 3).mean() >= 0.99


@pytest.mark.parametrize(("h", "w", "sigma"), [(9, 40, 0.01), (1, 60, 20.0), (301, 703, 40.0)])
def test_a_wide_blur_is_a_gaussian_to_half_a_grey_level(h, w, sigma):
    chance = np.random.default_rng(0)
    plane = (chance.random((h, w)) * 128 + 127 * (np.arange(w) > w // 3)).astype(np.float32)
    blurred = face_crop._blurred(plane, sigma)
    assert blurred.shape == (h, w) and blurred.dtype == np.float32
    assert np.abs(blurred - gaussian_filter(plane, sigma)).max() < 0.5


@pytest.mark.parametrize(
    ("size", "output_size", "side"),
    [
        ((100, 80), 16, 80),
        ((95, 150), 16, 80),
        ((33, 32), 16, 32),
        ((16, 30), 16, 16),
        ((9, 7), 0, 7),
    ],
)
def test_the_central_square_has_a_side_that_can_be_downscaled(size, output_size, side):
    square = central_square(Image.new("RGB", size), output_size)
    assert square.size == (side, side)


def test_the_central_square_is_central():
    photo = Image.new("RGB", (96, 32), "red")
    photo.paste("blue", (32, 0, 64, 32))
    assert central_square(photo, 16).getcolors() == [(32 * 32, (0, 0, 255))]


def test_a_square_too_small_to_be_downscaled_is_refused():
    with pytest.raises(UserError, match="31 pixels"):
        central_square(Image.new("RGB", (31, 200)), 16)


def test_downscaling_clamps_the_overshoot_and_keeps_flat_colours():
    edge = Image.new("RGB", (256, 256), "white")
    edge.paste("black", (0, 0, 128, 256))
    row = np.asarray(downscale(edge, 32))[16, :, 0]
    assert row[:12].tolist() == [0] * 12 and row[20:].tolist() == [255] * 12


def test_a_face_searched_on_a_reduced_copy_is_placed_in_the_photograph(
    astronaut, monkeypatch, tmp_path
):
    finder = FaceFinder(tmp_path)
    (exact,) = finder.find(astronaut)
    monkeypatch.setattr(face_crop, "DETECT_PIXELS", astronaut.width * astronaut.height / 4)
    (reduced,) = finder.find(astronaut)
    assert 0 < np.abs(reduced.landmarks - exact.landmarks).mean() < 3  # pixels
    assert exact.width == pytest.approx(91, abs=3) and exact.score > 1
    assert reduced.width == pytest.approx(91, rel=0.25)


def test_the_installed_landmark_model_is_used(tmp_path):
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("face_recognition_models is not installed")
    installed = installed_landmark_model()
    assert installed is not None  # or every test of faces would be skipped unnoticed
    assert landmark_model(tmp_path) == installed and not list(tmp_path.iterdir())
