"""Runs of run.py for the tests of many pictures: in this process, or forked from one that has
imported everything, so that each is a whole run that can be killed, without seconds of imports.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, one_file
from PIL import Image

import run
from cli import command
from imaging.provenance import picture_text

HANG = 120  # seconds: a bound for what takes a few
STEPS = 8
EPS = 0.07  # of these generators: some of twelve noisy pictures come within it, some do not

needs_linux = pytest.mark.skipif(
    not Path("/proc/self/environ").exists(), reason="the test finds processes in /proc"
)


def face(path: Path, seed: int = 0, side: int = 4) -> Path:
    """A small picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def faces(folder: Path, number: int) -> Path:
    for i in range(number):
        face(folder / f"{i:02}.png", seed=i)
    return folder


def pictures(folder: Path) -> dict[str, bytes]:
    """Every result below a folder, with its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*.png"))
    }


def record_of(folder: Path, name: str) -> dict:
    """The record of a result on whichever side of eps."""
    inside, outside = (folder / f"{name}.json", folder / "outside_eps" / f"{name}.json")
    return json.loads((inside if inside.exists() else outside).read_text())


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.rglob(".*") if path.name != ".pulse.lock"]


def arguments(generator: Path, *more, steps: int = STEPS) -> list[str]:
    fixed = ("-device", "cpu", "-threads", 1, "-seed", 0, "-steps", steps, "-eps", EPS)
    return [str(each) for each in ("-generator", generator, *fixed, *more)]


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    """A generator of 8 pixels: a step takes two milliseconds."""
    return one_file(tmp_path_factory.mktemp("small") / "small.pt", resolution=8)


@pytest.fixture
def here(small, tmp_path, monkeypatch, capsys):
    """`here("-retries", 2)`: run.py in this process, in a folder of its own.

    Later flags win. Returns .status, .out and .err.
    """
    monkeypatch.chdir(tmp_path)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()

    def run_here(*more, generator=small):
        monkeypatch.setattr(sys, "argv", ["run.py", *arguments(generator, *more)])
        with pytest.raises(SystemExit) as left:
            command.run_command(run.main, resumes=True)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return SimpleNamespace(status=left.value.code, out=told.out, err=told.err)

    yield run_here
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)


SERVER = """
import gc, importlib, json, os, resource, signal, sys
import filelock, run
from PIL import Image
from runner import distributed, folder, jobs, records
import torch._dynamo  # every optimiser imports it, which takes seconds
from cli.command import run_command

Image.init()  # its plugins
gc.freeze()  # else a child, at its end, looks at and so copies all of this: a second

def killing(function, survived):
    def kill(*args, **options):
        nonlocal survived
        if survived == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        survived -= 1
        return function(*args, **options)

    return kill

for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        os.chdir(order["cwd"])
        os.environ.update(order["variables"])
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        if order["largest_file"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        if order["killed_in"]:
            module, name, survived = order["killed_in"]
            module = importlib.import_module(module)
            setattr(module, name, killing(getattr(module, name), survived))
        sys.argv = ["run.py", *order["args"]]
        run_command(run.main, resumes=True)
    print(child, flush=True)
"""


class Process:
    """A forked run of run.py."""

    def __init__(self, ask, log: Path, pid: int):
        self.ask, self.log, self.pid = ask, log, pid

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> int:
        """Its exit status, once it ends; -9 after SIGKILL."""
        return self.ask({"wait": self.pid})

    @property
    def output(self) -> str:
        return self.log.read_text() if self.log.exists() else ""

    def wait_until(self, what) -> None:
        deadline = time.monotonic() + HANG
        while not what():
            assert time.monotonic() < deadline, self.output
            time.sleep(0.002)


@pytest.fixture(scope="session")
def start(tmp_path_factory):
    """`start(args, cwd)` begins a run of run.py as a process of its own: a Process. `variables`
    are of its environment; what PyTorch read when it was imported they do not change. killed_in:
    module and name of a function that it does not survive, and how often it does before.
    """
    logs = tmp_path_factory.mktemp("logs")
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )

    def ask(order: dict) -> int:
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    def begin(
        args, cwd: Path, largest_file: int = 0, killed_in: tuple = (), **variables: str
    ) -> Process:
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        log.touch()
        order = {"args": list(map(str, args)), "cwd": str(cwd), "log": str(log)}
        order |= {"largest_file": largest_file, "killed_in": killed_in, "variables": variables}
        return Process(ask, log, ask(order))

    yield begin
    server.stdin.close()
    server.wait(HANG)


def started_together(start, args, cwd: Path) -> list[Process]:
    """Two processes of run.py with the variables that a launcher gives them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start(args, cwd, RANK=f"{i}", LOCAL_RANK=f"{i}", **together) for i in range(2)]


@pytest.fixture(scope="session")
def study(small, start, tmp_path_factory):
    """Twelve pictures, and what one undisturbed run makes of them."""
    root = tmp_path_factory.mktemp("study")
    faces(root / "input", 12)
    process = start(arguments(small, "-output_dir", "expected"), root)
    assert process.wait() == 0, process.output
    expected = pictures(root / "expected")
    assert len(expected) == 12
    assert 0 < len([name for name in expected if "/" in name]) < 12  # some on each side of eps
    return SimpleNamespace(root=root, expected=expected, arguments=arguments(small))


def begun(start, args, root: Path) -> Process:
    """A run that has come as far as to lock its folder."""
    lock = root / "runs" / ".pulse.lock"
    lock.unlink(missing_ok=True)
    process = start(args, root)
    process.wait_until(lock.exists)
    return process


def whole_results(folder: Path) -> dict[str, tuple[int, bytes]]:
    """The finished results of a folder, each with its time and bytes; every file must be whole."""
    found = {}
    for path in folder.rglob("[!.]*"):
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
            record = json.loads(path.with_suffix(".json").read_text())
            assert picture_text(path)["pulse:l2"] == str(record["l2"])  # of this very picture
            found[path.name] = path.stat().st_mtime_ns, path.read_bytes()
        elif path.suffix == ".json":
            json.loads(path.read_text())
    return found


# ------------------------------------------------------------ two pictures, in this process

PULSE_STEPS, PULSE_EPS = 6, 1


@pytest.fixture
def pulse(tiny, tmp_path, monkeypatch, capsys):
    """`pulse("-animation", "gif")`: run.py on the small generator, in this process, in a folder of
    its own with the pictures a and b. Later flags win.
    """
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        face(tmp_path / "input" / f"{name}.png", seed)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()

    def call(*args, status=0, generator=tiny, threads=("-threads", 1)):
        fixed = ("-device", "cpu", *threads, "-seed", 0, "-steps", PULSE_STEPS, "-eps", PULSE_EPS)
        named = () if generator is None else ("-generator", generator)
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, (*named, *fixed, *args))])
        with pytest.raises(SystemExit) as left:
            command.run_command(run.main, resumes=True)
        told = capsys.readouterr()
        assert left.value.code == status, told.err
        assert "Traceback" not in told.err
        return SimpleNamespace(out=told.out, err=told.err)

    call.root, call.runs = tmp_path, tmp_path / "runs"
    yield call
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)


def files(folder, *suffixes) -> dict[str, bytes]:
    """Everything below a folder with one of these suffixes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and not path.name.startswith(".")
    }
