"""Animations: how many frames, how large, in how many bytes."""

import numpy as np
import pytest
import torch
from PIL import Image

from imaging.animation import ENOUGH, GOAL, MAX_BYTES, MAX_FRAMES, Film, spread, write_animation

# ------------------------------------------------------------ animations


def pages(path) -> list[tuple[Image.Image, int]]:
    """The frames of an animation, each with its milliseconds."""
    found = []
    with Image.open(path) as animation:
        for number in range(animation.n_frames):
            animation.seek(number)
            animation.load()
            found.append((animation.convert("RGB"), animation.info["duration"]))
    return found


def test_worst_case_noise_of_512_pixels_stays_under_five_megabytes(tmp_path):
    chance = torch.Generator().manual_seed(0)
    film = Film(steps=30, eps=1e-3, folder=tmp_path)
    for step in range(30):
        HR, LR = (torch.rand(3, side, side, generator=chance) for side in (512, 16))
        film.add(step, 0.1, HR, LR)
    assert list(tmp_path.iterdir()) == []  # what waits has no name that could be left behind
    path = tmp_path / "noise.gif"
    write_animation(path, film, 29, 0.1, HR, LR)
    assert MAX_BYTES / 4 < path.stat().st_size <= MAX_BYTES == 5_000_000
    shown = pages(path)
    assert len(shown) >= 25 and shown[0][0].width < 1088  # smaller, sooner than few


@pytest.mark.parametrize("kind", ["gif", "webp"])
@pytest.mark.parametrize("calm", [range(0), range(6, 14)])  # frames that promise small files
def test_a_bound_that_no_size_meets_is_met_with_fewer_frames(tmp_path, kind, calm):
    chance = torch.Generator().manual_seed(0)
    film = Film(steps=20, eps=1e-3, folder=tmp_path)
    for step in range(20):
        HR, LR = (torch.rand(3, side, side, generator=chance) for side in (64, 16))
        film.add(step, 0.1, *((HR * 0, LR * 0) if step in calm else (HR, LR)))
    path = tmp_path / f"noise.{kind}"
    write_animation(path, film, 19, 0.1, HR, LR, limit=100_000)
    assert path.stat().st_size <= 100_000
    assert 2 <= len(pages(path)) < 15 and pages(path)[-1][1] == 1000


def test_frames_are_left_out_of_a_heavy_animation_but_it_stays_large_and_smooth(tmp_path):
    chance = torch.Generator().manual_seed(0)
    film = Film(steps=100, eps=1e-3, folder=tmp_path)
    for step in range(100):
        LR = torch.rand(3, 8, 8, generator=chance)
        film.add(step, 0.1, LR.repeat_interleave(2, 1).repeat_interleave(2, 2), LR)
    path = tmp_path / "heavy.gif"
    write_animation(path, film, 99, 0.1, HR=torch.zeros(3, 16, 16), LR=LR)
    shown = pages(path)
    assert shown[0][0].width == 1088
    assert 0.7 * GOAL < path.stat().st_size < 1.3 * GOAL
    assert ENOUGH <= len(shown) < 90
    assert 4500 < sum(duration for _, duration in shown[:-1]) < 5500  # no faster than before


def test_a_long_search_is_shown_in_a_hundred_frames_or_fewer(tmp_path):
    film = Film(steps=1000, eps=1e-3, folder=tmp_path)
    wanted = [step for step in range(1000) if film.wants(step)]
    assert len(wanted) == MAX_FRAMES == 100 and wanted[0] == 0 and wanted[-1] == 999
    assert max(np.diff(wanted)) <= 11
    assert spread(3, 100) == [0, 1, 2] and spread(9, 1) == [8] and spread(9, 2) == [0, 8]
    film.add(0, 0.1, torch.rand(3, 1024, 1024), torch.rand(3, 32, 32))
    assert [picture.size for picture in film.pair(0)] == [(512, 512), (32, 32)]
