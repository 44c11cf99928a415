"""training/score.py: scores that tell good samples from bad ones."""

import os
import subprocess
import sys

import torch
from conftest import ROOT
from PIL import Image

from training import score


def test_distance_of_pictures_tells_noise_from_more_of_the_same():
    random = torch.Generator().manual_seed(0)
    smooth = torch.rand(64, 3, 4, 4, generator=random) * 255
    smooth = torch.nn.functional.interpolate(smooth, size=32, mode="bilinear").byte()
    noise = (torch.rand(32, 3, 32, 32, generator=random) * 255).byte()
    same = score.sliced_wasserstein(smooth[:32], smooth[32:])
    assert score.sliced_wasserstein(smooth[:32], smooth[:32]) < same
    assert score.sliced_wasserstein(noise, smooth[32:]) > 3 * same


def test_a_copied_face_counts_as_memorised_also_when_it_is_mirrored():
    random = torch.Generator().manual_seed(0)
    known, unseen, new = ((torch.rand(20, 3, 8, 8, generator=random) * 255).byte() for _ in "abc")
    copies = torch.cat([known[:5], known[5:10].flip(3)])
    assert score.memorised_share(copies, unseen, known) == 1
    assert score.memorised_share(new, unseen, known) < 0.5
    assert score.nearest(copies, known).max() == 0


def test_training_faces_are_held_against_the_other_ones():
    random = torch.Generator().manual_seed(0)
    known = (torch.rand(20, 3, 8, 8, generator=random) * 255).byte()
    assert score.nearest(known, known).min() > 20  # neither to itself nor to its own mirror image
    twice = torch.cat([known, known[:1].flip(3)])
    distance = score.nearest(twice, twice)
    assert distance[0] == distance[-1] == 0 and distance[1:-1].min() > 20


def test_no_face_is_found_where_there_is_none():
    assert score.face_share(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)) == 0


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
