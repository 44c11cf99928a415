"""Every bad input is named once, and the good ones are done."""

import contextlib
import os
import re
from pathlib import Path

import numpy as np
import pytest
from forked_runs import (
    face,
)
from PIL import Image

from cli.errors import escaped


def bad_inputs(folder: Path) -> list[str]:
    """At least 60 files that no face can be made from, as messages show their names."""
    chance = np.random.default_rng(0)
    noise = Image.fromarray(chance.integers(0, 256, (40, 40, 3), dtype=np.uint8))
    for suffix in ("png", "jpg", "jpeg", "webp", "bmp", "gif", "tif", "ppm", "tga", "ico"):
        (folder / f"empty_{suffix}.{suffix}").touch()
        (folder / f"text_{suffix}.{suffix}").write_text("I am a text")
        (folder / f"noise_{suffix}.{suffix}").write_bytes(chance.bytes(3000))
    for suffix in ("png", "jpg", "webp", "bmp", "tif", "ppm"):
        path = folder / f"cut_{suffix}.{suffix}"
        noise.save(path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        noise.save(folder / f"large_{suffix}.{suffix}")
    for width, height in ((1, 1), (3, 3), (5, 5), (6, 6), (7, 7), (8, 8), (16, 16), (4, 2), (2, 4)):
        noise.resize((width, height)).save(folder / f"size_{width}x{height}.png")
    Image.new("F", (4, 4), 0.5).save(folder / "floats.tif")
    Image.new("I", (4, 4), 70000).save(folder / "thirty_two_bits.tif")
    Image.new("1", (20_000, 5_000)).save(folder / "bomb.png")
    for suffix in ("heic", "jxl", "svg", "eps", "ps", "nef"):
        (folder / f"foreign.{suffix}_{suffix}.{suffix}").write_bytes(chance.bytes(100))
    face(folder / "twice.png")
    face(folder / "twice.bmp")
    for name in ("good_0.NEF", "good_1.heic"):  # no rivals of good_0.png and good_1.png
        (folder / name).write_bytes(chance.bytes(100))
    (folder / "broken_link.png").symlink_to("nowhere")
    (folder / "loop.png").symlink_to("loop.png")
    face(folder / ("n" * 251 + ".png"))  # 255 bytes: its record's name has one more
    (folder / "line\nbreak.png").write_text("no picture")
    (folder / "bell\x07\x1b[31m.png").write_text("no picture")
    (folder / "-eps.png").write_text("no picture")
    with contextlib.suppress(OSError):  # some file systems take text only
        Path(os.fsdecode(os.fsencode(folder / "bytes_") + b"\xff.png")).write_text("no picture")
    return sorted(escaped(path.name) for path in folder.iterdir())


@pytest.mark.parametrize("more", [(), ("-duplicates", 2, "-batch_size", 5, "-save_intermediate")])
def test_every_bad_input_is_named_once_and_the_good_ones_are_done(here, tmp_path, more):
    (tmp_path / "input").mkdir()
    bad = bad_inputs(tmp_path / "input")
    assert len(bad) >= 60
    os.mkfifo(tmp_path / "input" / "pipe.png")
    (tmp_path / "input" / "folder.png").mkdir()
    for i in range(5):
        face(tmp_path / "input" / f"good_{i}.png", seed=i)
    done = here("-eps", 1, *more)
    assert done.status == 1
    refused = [line for line in done.err.splitlines() if line.startswith("refused: ")]
    assert sorted(line.split(": ")[1].removeprefix("input/") for line in refused) == bad
    for line in refused:
        assert len(line.split(": ", 2)[2]) > 10  # the reason
    assert f"{len(bad)} pictures refused" in done.out
    assert "pipe.png" in done.err
    folders = re.compile(r"good_(\d)(_[12])?\.png")
    good = {folders.fullmatch(path.name)[1] for path in (tmp_path / "runs").glob("*.png")}
    assert good == set("01234")
    assert len(list((tmp_path / "runs").glob("*.png"))) == (10 if more else 5)
