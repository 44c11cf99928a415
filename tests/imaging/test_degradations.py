"""The noises and the blur of -degrade, measured."""

import numpy as np
import pytest
from PIL import Image

from imaging.degradations import (
    KINDS,
    Degradation,
    face_rng,
    gaussian_noise,
    line_kernel,
    motion_blur,
    parse,
    salt_and_pepper,
)

GREY = Image.new("RGB", (256, 256), (128, 128, 128))


def pixels(picture) -> np.ndarray:
    return np.asarray(picture).astype(float)


@pytest.mark.parametrize("std", [10, 25])
def test_gaussian_noise_has_the_standard_deviation_that_was_asked_for(std):
    noise = pixels(gaussian_noise(GREY, std, face_rng(0, "a", 0))) - 128
    # 200,000 values: a standard error of 0.2 %
    assert noise.std() == pytest.approx(std, rel=0.01) and abs(noise.mean()) < 0.3
    red, green, blue = noise.reshape(-1, 3).T
    assert abs(np.corrcoef(red, green)[0, 1]) < 0.02  # colours have noise of their own


def test_gaussian_noise_of_50_is_clipped_and_not_wrapped_around():
    white = Image.new("RGB", (64, 64), "white")
    noisy = pixels(gaussian_noise(white, 50, face_rng(0, "a", 0)))
    assert (noisy == 255).mean() > 0.45 and noisy.min() > 0
    assert pixels(gaussian_noise(GREY, 50, face_rng(0, "a", 0))).std() == pytest.approx(
        50, rel=0.03
    )


def test_salt_and_pepper_hits_the_share_of_pixels_that_was_asked_for():
    noisy = pixels(salt_and_pepper(GREY, 0.05, face_rng(0, "a", 0)))
    assert set(np.unique(noisy)) == {0, 128, 255}
    assert (noisy == noisy[..., :1]).all()  # whole pixels, not single colours
    assert (noisy[..., 0] != 128).mean() == pytest.approx(0.05, abs=0.004)
    assert (noisy[..., 0] == 255).mean() == pytest.approx(0.025, abs=0.003)


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 137.5])
def test_motion_spreads_an_impulse_over_its_length_in_its_direction(degrees):
    impulse = np.zeros((257, 257, 3), np.uint8)
    impulse[128, 128] = 255
    kernel = line_kernel(100, degrees)
    assert kernel.sum() == pytest.approx(1) and kernel.shape[0] == kernel.shape[1]
    assert np.allclose(kernel, kernel[::-1, ::-1])
    y, x = np.nonzero(kernel)
    middle = len(kernel) // 2
    reach = np.hypot(y - middle, x - middle)
    assert 49 <= reach.max() <= 51.5  # 100 pixels from end to end
    far = reach > 10
    directions = np.degrees(np.arctan2(middle - y[far], x[far] - middle)) % 180
    off = (directions - degrees + 90) % 180 - 90
    assert np.abs(off).max() < 7  # a pixel aside, ten pixels out
    # as even as an antialiased line: the middle half holds half
    assert kernel.flat[np.flatnonzero(kernel)][reach <= 25].sum() == pytest.approx(0.5, abs=0.03)
    blurred = pixels(motion_blur(Image.fromarray(impulse), 100, degrees))
    assert blurred.max() <= 255 / 100 * 1.6  # spread thin


def test_motion_keeps_the_mean_and_flat_colours():
    assert np.array_equal(pixels(motion_blur(GREY, 100, 20)), pixels(GREY))
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    blurred = pixels(motion_blur(Image.fromarray(noise), 40, 70))
    assert blurred.mean() == pytest.approx(noise.mean(), abs=0.5)
    assert blurred.std() < noise.std() / 3
    # along the line it is smooth, across it is not
    assert abs(np.diff(pixels(motion_blur(Image.fromarray(noise), 40, 0)), axis=1)).mean() < 6
    assert abs(np.diff(pixels(motion_blur(Image.fromarray(noise), 40, 0)), axis=0)).mean() > 10


def test_a_length_of_motion_is_scaled_to_the_side_of_the_picture():
    _, told = Degradation("motion", 100).of_hr(GREY, face_rng(0, "a", 0))
    assert told.startswith(", 25 pixels of 256, at ")


def test_numbers_depend_on_seed_picture_and_face_alone():
    first = face_rng(7, "anna.jpg", 0).uniform(size=4)
    assert np.array_equal(first, face_rng(7, "anna.jpg", 0).uniform(size=4))
    others = [face_rng(8, "anna.jpg", 0), face_rng(7, "bert.jpg", 0), face_rng(7, "anna.jpg", 1)]
    assert all(not np.array_equal(first, other.uniform(size=4)) for other in others)
    # frozen: pictures of another NumPy can be made again
    assert first == pytest.approx([0.84669902, 0.50939735, 0.45472489, 0.42836496], abs=1e-7)


@pytest.mark.parametrize(
    "text",
    [
        *("", "gaussian", "gaussian:", "gaussian:0", "gaussian:-5", "gaussian:256", "gaussian:nan"),
        *("gaussian:inf", "gaussian:1e2", "saltpepper:1.01", "saltpepper:0", "motion:1025"),
        *("motion:0", "blur:3", "gaussian:25,motion:3", "gaussian:\uff12", "Gaussian:25"),
    ],
)
def test_what_is_no_degradation_is_one_sentence_with_the_bounds(text):
    with pytest.raises(ValueError) as refused:
        parse(text)
    told = str(refused.value)
    assert "\n" not in told and "-degrade" in told
    kind = text.split(":")[0]
    if kind in KINDS:
        assert f"above {KINDS[kind][0]} and at most {KINDS[kind][1]}" in told
    else:
        assert "gaussian:25" in told


@pytest.mark.parametrize("text", ["gaussian:25", "saltpepper:0.05", "motion:100", "gaussian:0.5"])
def test_a_degradation_is_read_as_it_is_written(text):
    assert str(parse(text)) == text
