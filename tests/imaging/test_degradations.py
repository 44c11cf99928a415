"""degrade.py: the noises and the blur measured; align_face.py -degrade on real files."""

import re
import signal
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import align_face
from cli.command import run_command
from imaging.degradations import (
    KINDS,
    Degradation,
    gaussian_noise,
    line_kernel,
    motion_blur,
    numbers,
    parse,
    salt_and_pepper,
)
from imaging.pictures import picture_text

GREY = Image.new("RGB", (256, 256), (128, 128, 128))


def pixels(picture) -> np.ndarray:
    return np.asarray(picture).astype(float)


# ------------------------------------------------------------ noise and blur


@pytest.mark.parametrize("std", [10, 25])
def test_gaussian_noise_has_the_standard_deviation_that_was_asked_for(std):
    noise = pixels(gaussian_noise(GREY, std, numbers(0, "a", 0))) - 128
    # 200,000 values: a standard error of 0.2 %
    assert noise.std() == pytest.approx(std, rel=0.01) and abs(noise.mean()) < 0.3
    red, green, blue = noise.reshape(-1, 3).T
    assert abs(np.corrcoef(red, green)[0, 1]) < 0.02  # colours have noise of their own


def test_gaussian_noise_of_50_is_clipped_and_not_wrapped_around():
    white = Image.new("RGB", (64, 64), "white")
    noisy = pixels(gaussian_noise(white, 50, numbers(0, "a", 0)))
    assert (noisy == 255).mean() > 0.45 and noisy.min() > 0
    assert pixels(gaussian_noise(GREY, 50, numbers(0, "a", 0))).std() == pytest.approx(50, rel=0.03)


def test_salt_and_pepper_hits_the_share_of_pixels_that_was_asked_for():
    noisy = pixels(salt_and_pepper(GREY, 0.05, numbers(0, "a", 0)))
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
    _, told = Degradation("motion", 100).of_hr(GREY, numbers(0, "a", 0))
    assert told.startswith(", 25 pixels of 256, at ")


def test_numbers_depend_on_seed_picture_and_face_alone():
    first = numbers(7, "anna.jpg", 0).uniform(size=4)
    assert np.array_equal(first, numbers(7, "anna.jpg", 0).uniform(size=4))
    others = [numbers(8, "anna.jpg", 0), numbers(7, "bert.jpg", 0), numbers(7, "anna.jpg", 1)]
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


# ------------------------------------------------------------ the command


@pytest.fixture
def align(tmp_path, monkeypatch, capsys):
    """`align("-seed", 3)`: align_face.py -mode resize in this process, in a folder with photographs
    a.png, b.png and c.png.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i, name in enumerate("abc"):
        noise = np.random.default_rng(i).integers(60, 200, (8, 8, 3), dtype=np.uint8)
        photo = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
        photo.save(tmp_path / "photos" / f"{name}.png")
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def call(*args):
        args = ["-mode", "resize", "-input_dir", "photos", "-output_size", 16, *args]
        monkeypatch.setattr(sys, "argv", ["align_face.py", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run_command(align_face.main)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return SimpleNamespace(status=left.value.code, out=told.out, err=told.err)

    call.root = tmp_path
    yield call
    for number, handler in handlers:
        signal.signal(number, handler)


def faces(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize("how", ["gaussian:25", "gaussian:50", "saltpepper:0.05", "motion:100"])
def test_the_same_seed_gives_the_same_bytes_whatever_else_is_in_the_folder(align, how):
    args = ("-degrade", how, "-seed", 3)
    assert align(*args, "-output_dir", "one").status == 0
    for name in "cab":
        alone = ("-input_dir", f"photos/{name}.png", "-output_dir", "two")
        assert align(*args, *alone).status == 0
    assert faces(align.root / "one") == faces(align.root / "two") != {}
    assert align("-output_dir", "clean").status == 0
    assert align("-degrade", how, "-seed", 4, "-output_dir", "other").status == 0
    for name in ("a_0.png", "b_0.png", "c_0.png"):
        noisy, other, clean = (
            pixels(Image.open(align.root / folder / name)) for folder in ("one", "other", "clean")
        )
        assert noisy.shape == clean.shape == (16, 16, 3)
        assert not np.array_equal(noisy, clean) and not np.array_equal(noisy, other)


def test_noise_is_laid_on_the_downscaled_face_and_motion_before(align):
    for how in ("gaussian:25", "motion:100"):
        assert align("-degrade", how, "-seed", 0, "-output_dir", how[:2]).status == 0
    assert align("-output_dir", "clean").status == 0
    clean = pixels(Image.open(align.root / "clean" / "a_0.png"))
    noise = pixels(Image.open(align.root / "ga" / "a_0.png")) - clean
    assert 20 < noise.std() < 30  # downscaled afterwards it would be an eighth
    # of the LR picture, whose 16 pixels are a photograph's 128, 100 of 1024 are 1.6
    blurred = pixels(Image.open(align.root / "mo" / "a_0.png"))
    assert 2 < np.abs(blurred - clean).mean() < 30
    assert blurred.mean() == pytest.approx(clean.mean(), abs=2)


def test_a_face_says_that_it_is_degraded_and_how(align):
    assert align("-degrade", "motion:100", "-seed", 5).status == 0
    text = picture_text(align.root / "input" / "a_0.png")
    told = r"motion:100, seed 5, 12\.5 pixels of 128, at \d+\.\d degrees"
    assert re.fullmatch(told, text["pulse:degraded"])
    assert text["pulse:align"].endswith("-degrade motion:100 -seed 5")
    assert align("-output_dir", "clean").status == 0
    assert "pulse:degraded" not in picture_text(align.root / "clean" / "a_0.png")


def test_a_drawn_seed_is_told_and_kept_for_what_is_added_later(align):
    (align.root / "photos" / "c.png").rename(align.root / "c.png")
    first = align("-degrade", "gaussian:25")
    seed = re.search(r"seed (\d+), drawn", first.err)[1]
    before = faces(align.root / "input")
    assert picture_text(align.root / "input" / "a_0.png")["pulse:degraded"].endswith(f"seed {seed}")
    (align.root / "c.png").rename(align.root / "photos" / "c.png")
    again = align("-degrade", "gaussian:25")
    assert again.status == 0 and f"seed {seed}, that of the faces which are there" in again.err
    assert "2 photographs passed over" in again.out
    after = faces(align.root / "input")
    assert before.items() < after.items()
    assert align("-degrade", "gaussian:25", "-seed", seed, "-output_dir", "repeated").status == 0
    assert faces(align.root / "repeated") == after


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((), ("-degrade", "gaussian:25", "-seed", 1)),
        (("-degrade", "gaussian:25", "-seed", 1), ()),
        (("-degrade", "gaussian:25", "-seed", 1), ("-degrade", "gaussian:25", "-seed", 2)),
        (("-degrade", "gaussian:25", "-seed", 1), ("-degrade", "gaussian:50", "-seed", 1)),
    ],
)
def test_faces_in_another_state_are_not_written_over_unasked(align, before, now):
    assert align(*before).status == 0
    there = faces(align.root / "input")
    done = align(*now)
    assert done.status == 1 and faces(align.root / "input") == there
    assert len(done.err.splitlines()) == 3 and done.err.count("give another -output_dir") == 3
    assert (f"degraded by {before[1]} -seed 1" if before else "not degraded") in done.err
    assert align(*now, "-overwrite").status == 0
    assert align(*now, "-output_dir", "fresh").status == 0
    assert faces(align.root / "input") == faces(align.root / "fresh")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("-degrade", "gaussian:300"), "at most 255"),
        (("-degrade", "fog:3"), "motion:100"),
        (("-seed", 3), "-degrade"),
        (("-degrade", "motion:9", "-seed", -1), "2^63"),
    ],
)
def test_flags_that_cannot_be_are_one_line_and_nothing_is_begun(align, args, word):
    done = align(*args)
    assert done.status == 2 and len(done.err.splitlines()) == 1 and word in done.err
    assert not (align.root / "input").exists()


def test_quiet_tells_errors_and_the_summary_only(align):
    (align.root / "photos" / "notes.txt").write_text("nothing")
    (align.root / "photos" / "empty.png").touch()
    loud = align("-degrade", "gaussian:25", "-output_dir", "loud")
    assert "notes.txt" in loud.err and "drawn" in loud.err
    done = align("-degrade", "gaussian:25", "-quiet")
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert line.startswith("empty.png: it is empty")
    assert "3 faces from 3 photographs" in done.out
