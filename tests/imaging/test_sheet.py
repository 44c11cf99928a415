"""Sheets: each picture is shown once, and within eps can be recognised."""

import numpy as np
import pytest
from PIL import Image

from imaging.sheet import MARGIN, TILE, comparison_sheet

# ------------------------------------------------------------ sheets


@pytest.mark.parametrize("number", [0, 1, 4, 5, 9])
def test_a_sheet_shows_every_picture_once_and_has_an_empty_margin(number):
    lr = Image.new("RGB", (16, 16), (1, 2, 3))
    results = []
    for i in range(number):
        hr = Image.new("RGB", (1024 if i % 2 else 64,) * 2, (50 + i, 0, 0))
        results.append((hr, Image.new("RGB", (16, 16), (0, 50 + i, 0)), f"seed {i}", i % 2 == 0))
    sheet = comparison_sheet(lr, results, "写真.png – 16×16 " * 12, "Imaginary faces. " * 30)
    pixels = np.asarray(sheet)
    packed, numbers = np.unique(pixels.astype(int) @ (65536, 256, 1), return_counts=True)
    counted = {tuple(int(c).to_bytes(3, "big")): n for c, n in zip(packed, numbers, strict=True)}
    tile = TILE**2
    assert counted[1, 2, 3] == 2 * tile  # LR and its enlargement
    for i in range(number):
        assert counted[50 + i, 0, 0] == tile and counted[0, 50 + i, 0] == tile
    edge = MARGIN // 2
    for border in (pixels[:edge], pixels[-edge:], pixels[:, :edge], pixels[:, -edge:]):
        assert (border == 255).all()
    assert sheet.width <= 1700


@pytest.fixture
def verdicts():
    """The pixels (h, w, 3) of two sheets that differ in one result: within eps, outside eps."""
    lr, hr = Image.new("RGB", (16, 16), "white"), Image.new("RGB", (64, 64), "white")
    return [
        np.asarray(comparison_sheet(lr, [(hr, lr, "s", within_eps)], "", "")).astype(int)
        for within_eps in (True, False)
    ]


def test_a_sheet_tells_within_eps_by_more_than_colour(verdicts):
    within, outside = ((sheet < 255).any(-1) for sheet in verdicts)  # where there is ink
    assert (within != outside).any()


def test_within_eps_is_written_in_green_and_outside_eps_in_red(verdicts):
    def greener_redder(sheet):
        difference = sheet[..., 1] - sheet[..., 0]
        return (difference > 60).any(), (difference < -60).any()

    assert [greener_redder(sheet) for sheet in verdicts] == [(True, False), (False, True)]
