"""python -m training.score: what it prints of the embedded generator."""

import os
import subprocess
import sys

from conftest import ROOT
from PIL import Image


def test_scores_of_the_embedded_generator_are_printed(tmp_path):
    command = [sys.executable, "-m", "training.score", "-parts", "ad", "-samples", "40"]
    big = tmp_path / "big"
    big.mkdir()
    for i in range(70):
        Image.new("RGB", (64, 64), (3 * i, 90, 200)).save(big / f"{i}.png")
    done = subprocess.run(
        [*command, "-data", str(big), "-val", str(big), "-grid", str(tmp_path / "grid.png")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "2"},
    )
    assert done.returncode == 0, done.stderr
    share = float(done.stdout.split("(a) exactly one face: ")[1].split("%")[0])
    assert share >= 85  # of 40: it is 95 % or more of 1,000
    assert Image.open(tmp_path / "grid.png").size == (1024, 512)
