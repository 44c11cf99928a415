"""-animation: the search as a moving picture."""

import json
import sys

import numpy as np
import pytest
import torch
from forked_runs import PULSE_EPS as EPS
from forked_runs import PULSE_STEPS as STEPS
from forked_runs import files
from PIL import Image

from imaging.animation import MAX_BYTES
from imaging.pictures import to_tensor
from PULSE import PULSE


def pages(path) -> list[tuple[Image.Image, int]]:
    """The frames of an animation, each with its milliseconds."""
    found = []
    with Image.open(path) as animation:
        for number in range(animation.n_frames):
            animation.seek(number)
            animation.load()
            found.append((animation.convert("RGB"), animation.info["duration"]))
    return found


def hr_of(page: Image.Image) -> np.ndarray:
    """HR on a page of 512 pixels a side, reduced to 16."""
    return np.asarray(page.crop((16, 16, 528, 528)).resize((16, 16), Image.Resampling.BOX), float)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_shows_every_step_and_the_result_for_a_second(pulse, kind):
    args = ("-input_dir", "input/a.png", "-duplicates", 2, "-batch_size", 2, "-save_intermediate")
    pulse("-animation", kind, *args)
    names = {"a_1", "a_2"}
    assert set(files(pulse.runs / "animations", f".{kind}")) == {f"{n}.{kind}" for n in names}
    for name in names:
        shown = pages(pulse.runs / "animations" / f"{name}.{kind}")
        assert len(shown) == STEPS + 1
        assert {page.size for page, _ in shown} == {(1088, 584)}
        *between, last = (duration for _, duration in shown)
        assert last == 1000 and len(set(between)) == 1 and 50 <= between[0] <= 200
        first = np.asarray(Image.open(pulse.runs / name / "HR" / f"{name}_0.png"), float)
        result = np.asarray(Image.open(pulse.runs / f"{name}.png"), float)
        assert np.abs(first - result).mean() > 12
        assert np.abs(hr_of(shown[0][0]) - first).mean() < 6
        assert np.abs(hr_of(shown[-1][0]) - result).mean() < 6


def test_an_animation_shows_the_iterates_and_not_the_best_so_far(pulse, tiny):
    """With a learning rate far too high, most iterates are worse than one before."""
    pulse("-animation", "webp", "-learning_rate", 30, "-lr_schedule", "fixed", "-steps", 5)
    record = json.loads((pulse.runs / "a.json").read_text())
    iterates = []

    def keep(step, figures):
        iterates.append(search.iterates[0][0])
        assert search.iterates[1].shape == (1, 3, 4, 4)

    search = PULSE(tiny, "cpu")(
        to_tensor(Image.open(pulse.root / "input" / "a.png")),
        **{"seed": 0, "steps": 5, "eps": EPS, "learning_rate": 30, "lr_schedule": "fixed"},
        on_step=keep,
    )
    ((best, _),) = list(search)
    shown = pages(pulse.runs / "animations" / "a.webp")
    for (page, _), HR in zip(shown, [*iterates, best[0]], strict=True):
        assert np.abs(hr_of(page) - HR.permute(1, 2, 0).numpy() * 255).mean() < 8
    assert record["best_step"] < 4
    assert not torch.equal(iterates[-1], best[0])


def test_an_animation_says_that_it_is_imaginary_and_has_no_exif(pulse):
    for kind in ("gif", "webp"):
        pulse("-animation", kind)
    gif = Image.open(pulse.runs / "animations" / "a.gif")
    assert b"This person does not exist" in gif.info["comment"]
    webp = Image.open(pulse.runs / "animations" / "a.webp")
    assert b"trainedAlgorithmicMedia" in webp.info["xmp"]
    assert not gif.getexif() and not webp.getexif()
    assert "exif" not in gif.info and "exif" not in webp.info


@pytest.mark.parametrize(("retries", "kept"), [(1, 0), (2, 2)])
def test_the_animation_of_a_retried_picture_is_of_the_attempt_that_is_kept(pulse, retries, kept):
    args = ("-input_dir", "input/a.png", "-eps", 1e-9, "-animation", "gif")
    pulse(*args, "-retries", retries)
    record = json.loads((pulse.runs / "outside_eps" / "a.json").read_text())
    assert record["seed"] == record["attempts"][kept]["seed"]
    pulse(*args, "-seed", record["seed"], "-output_dir", "alone")
    assert files(pulse.root / "alone", ".gif") == files(pulse.runs, ".gif") != {}


def test_strict_makes_no_animation_of_what_it_does_not_write(pulse):
    pulse("-animation", "gif", "-save_latent", "-eps", 1e-9, "-strict", status=1)
    assert not files(pulse.runs, ".gif", ".npz", ".png")


def test_a_result_without_its_animation_is_made_again_to_the_same_bytes(pulse):
    pulse()
    before = files(pulse.runs, ".png")
    assert "results kept" not in pulse("-animation", "gif").out
    assert files(pulse.runs, ".png") == before
    assert "2 results kept" in pulse("-animation", "gif").out
    pulse("-seed", 1, "-overwrite")  # an animation of another search would now be a lie
    assert not files(pulse.runs, ".gif")


def test_a_video_is_a_video(pulse):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="it makes mp4 files")
    pulse("-animation", "mp4")
    path = pulse.runs / "animations" / "a.mp4"
    assert b"This person does not exist" in path.read_bytes() and path.stat().st_size < MAX_BYTES
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    frames = [np.frombuffer(frame, np.uint8).reshape(584, 1088, 3) for frame in reader]
    assert about["size"] == (1088, 584)
    assert len(frames) / about["fps"] == pytest.approx(STEPS / about["fps"] + 1, abs=0.3)
    result = np.asarray(Image.open(pulse.runs / "a.png"), float)
    assert np.abs(hr_of(Image.fromarray(frames[-1])) - result).mean() < 8


def test_a_video_without_its_encoder_is_one_sentence_before_anything_is_loaded(pulse, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    done = pulse("-animation", "mp4", generator="nothing.pt", status=2)
    assert done.err.count("\n") == 1 and "pip install imageio-ffmpeg" in done.err
    assert not pulse.runs.exists()
