"""Folders of results as run.py writes them, made without a search, and evaluated."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import evaluate
import run
from cli.command import run_command
from runner.jobs import pixels_sha256

RECORDS, PNG = "PULSE, records", "PULSE, PNG files"


def flat(value, side=32):
    """A picture of one grey, or of one colour."""
    return Image.new("RGB", (side, side), value if isinstance(value, tuple) else (value,) * 3)


def noise(side=32, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def put(folder, name, picture):
    Path(folder).mkdir(exist_ok=True)
    picture.save(Path(folder) / name)


def put_result(
    runs: Path, name: str, HR: Image.Image, LR: Image.Image, file: str, **changes
) -> Path:
    """A result as run.py writes it, of the LR called `file`; `changes` replace entries of its
    record. Returns its picture.
    """
    record = {
        "name": name,
        "seed": 0,
        "l2": 0.0015,
        "best_step": 99,
        "within_eps": True,
        "eps": 0.002,
        "duplicate": 0,
        "input": {"file": file, "pixels_sha256": pixels_sha256(LR), "side": LR.width},
        "settings": {"steps": 100},
        "curve": {"L2": [0.01] * 100},
        "seconds": 1.5,
    }
    record |= changes
    place = runs / ("" if record["within_eps"] else "outside_eps") / f"{name}.png"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.with_suffix(".json").write_text(json.dumps(record))
    HR.save(place)
    return place


@pytest.fixture
def scene(tmp_path, monkeypatch, capsys):
    """`scene.add("a", HR, LR)` puts results of run.py into a folder, `scene("-json", "o.json")`
    evaluates them, in this process, which saves seconds a call.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()

    def call(*args, script="evaluate.py", main=evaluate.main):
        args = ["runs", *args] if script == "evaluate.py" else args
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run_command(main)
        captured = capsys.readouterr()
        return SimpleNamespace(returncode=left.value.code, stdout=captured.out, stderr=captured.err)

    def add(name, HR, LR, file=None, **changes):
        file = file or f"{name}.png"
        (tmp_path / "input").mkdir(exist_ok=True)
        LR.save(tmp_path / "input" / file)
        return put_result(tmp_path / "runs", name, HR, LR, file, **changes)

    def figures(*args):
        done = call(*args, "-json", "out.json", "-overwrite")
        document = json.loads(Path("out.json").read_text(encoding="utf-8"))
        rows = {row["row"]: row for row in document["table"]}
        return SimpleNamespace(**vars(done), document=document, rows=rows, PNG=rows[PNG])

    def run_demo(*args):
        return call(*args, script="run.py", main=run.main)

    call.folder, call.add, call.figures, call.run = tmp_path, add, figures, run_demo
    yield call
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)
