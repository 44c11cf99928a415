"""What the tests share: small generators, written as real files, and the commands as real
processes.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from cli.command import run_command
from generators.formats import FORMAT
from imaging.face_crop import installed_landmark_model
from stylegan import G_mapping, G_synthesis

# Their fixtures: chromium; here, start, study, pulse; served; scene.
pytest_plugins = ["browser", "forked_runs", "open_page", "result_folders"]

if "PYTEST_XDIST_WORKER" in os.environ:  # started by `python -c`, as a command may be, too:
    sys.argv[0] = "pytest"  # what tests call here is a guest of pytest, and must not end it

ROOT = Path(__file__).resolve().parent.parent
GOLDEN = Path(__file__).parent / "golden"


def golden(name: str) -> dict[str, np.ndarray]:
    """The arrays of a golden file; those stored as float16 as float32."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return {
            key: value.astype(np.float32) if value.dtype == np.float16 else value
            for key, value in arrays.items()
        }


def golden_state(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """The state dict that a golden file holds under `state/`."""
    keys = [key for key in arrays if key.startswith("state/")]
    return {key.removeprefix("state/"): torch.from_numpy(arrays[key]) for key in keys}


def random_networks(resolution: int, d: int = 16, seed: int = 0, **config):
    """A small random G_synthesis, whose noise and biases matter, and a mapping of two layers."""
    torch.manual_seed(seed)
    synthesis = G_synthesis(d, 3, resolution, **{"fmap_base": 64, "fmap_max": 8, **config})
    for name, parameter in synthesis.named_parameters():
        if name.endswith("noise.weight") or name.endswith("bias"):
            torch.nn.init.normal_(parameter, std=0.1)
    torch.nn.init.normal_(synthesis.torgb.weight, std=0.3)
    return synthesis, G_mapping(d, num_layers=2)


def one_file(path: Path, resolution: int = 16, d: int = 16, seed: int = 0, **changes) -> Path:
    """Write a small generator in this project's format; `changes` replace entries of the file."""
    synthesis, mapping = random_networks(resolution, d, seed)
    content = {
        "format": FORMAT,
        "config": {"resolution": resolution, "fmap_base": 64, "fmap_max": 8, "dlatent_size": d},
        "synthesis": synthesis.state_dict(),
        "mapping": mapping.state_dict(),
        "gaussian_fit": {"mean": torch.zeros(d), "std": torch.ones(d)},
        "about": {"name": "a random network of the tests"},
    }
    torch.save({**content, **changes}, path)
    return path


@pytest.fixture
def one_thread():
    """Where the networks are tiny, threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A generator of 16 pixels, 6 layers: a search of some steps takes milliseconds."""
    return one_file(tmp_path_factory.mktemp("generators") / "tiny.pt")


@pytest.fixture(scope="session")
def astronaut() -> Iterator[Image.Image]:
    """A photograph of one face; whoever asks for it searches that face, and downloads nothing.

    From then on dlib's detector and landmark model are loaded once for all tests.
    """
    data = pytest.importorskip("skimage.data")
    dlib = pytest.importorskip("dlib")
    if installed_landmark_model() is None:
        pytest.skip("the landmark model of the package face_recognition_models is not installed")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("get_frontal_face_detector", "shape_predictor"):  # most of a second each
            patch.setattr(dlib, name, functools.cache(getattr(dlib, name)))
        # NASA, public domain; without the badge below, which dlib takes for a second face.
        yield Image.fromarray(data.astronaut()[:400])


def command(script: str, *args, cwd: Path, timeout: float = 300, env=None):
    """`python script args`, as a user runs it; stdout and stderr as text."""
    return subprocess.run(
        [sys.executable, str(ROOT / script), *map(str, args)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        env=env,
    )


@pytest.fixture
def called(monkeypatch, capsys):
    """`called("convert.py", "-h", cwd=tmp_path)`: as `command`, in this process, which saves the
    seconds of imports. What a process of its own says and how it ends, some test must see as well.
    """
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()

    def call(script: str, *args, cwd: Path) -> subprocess.CompletedProcess:
        main = importlib.import_module(script.removesuffix(".py")).main
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", [script, *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run_command(main)
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return subprocess.CompletedProcess(sys.argv, left.value.code, said.out, said.err)

    yield call
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def c_cache(tmp_path_factory) -> Path:
    """Where C files are compiled to, once for all tests, also of several processes of pytest."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    folder.mkdir(exist_ok=True)
    return folder


def compiled_before(folder: Path, c_cache: Path) -> None:
    """In `folder` a command finds, as its -cache_dir, what other tests have compiled."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cache").symlink_to(c_cache)


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="/proc, of Linux, tells a process's memory"
)
# Code for a process that `lines_of` runs.
PEAK = """
def peak():  # MB; unlike ru_maxrss not inherited from the process that started this one
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1e3
"""


def lines_of(code: str, paths: list, cwd: Path) -> list:
    """What a process of `code` prints of the files `paths`: a list of JSON values."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps([str(path) for path in paths]),
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    last = answers[-1][0] if answers else "none"
    assert done.returncode == 0, f"{done.stderr}\nthe last that was finished: {last}"
    assert not done.stderr
    return answers
