"""Many pictures: the same bytes whatever interrupts a run, records, resuming, retries, signals,
several processes, full disks, bad inputs, and any text for any number.

Where a test starts many processes, they are forked from one that has imported everything: each is
a whole run of run.py that can be killed, without seconds of imports.
"""

import contextlib
import csv
import errno
import gc
import io
import json
import math
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from conftest import ROOT, one_file
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from PIL import Image

import run
from cli import command
from cli.errors import escaped
from imaging.pictures import picture_text, read_picture
from PULSE import Search
from runner.jobs import Job, pixels_sha256
from runner.records import COLUMNS
from search_settings import LOSS_TERMS, SEEDS, Settings, parse_loss

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


@pytest.fixture(scope="module")
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
            command.run_command(run.main)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return SimpleNamespace(status=left.value.code, out=told.out, err=told.err)

    yield run_here
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)


SERVER = """
import json, os, resource, signal, sys
import locks, run
from runner import distributed, folder, jobs, records
import torch._dynamo  # every optimiser imports it, which takes seconds
from cli.command import run_command

for line in sys.stdin:
    order = json.loads(line)
    if "wait" in order:
        print(os.waitstatus_to_exitcode(os.waitpid(order["wait"], 0)[1]), flush=True)
        continue
    child = os.fork()
    if child == 0:
        os.chdir(order["cwd"])
        log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for descriptor, target in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(descriptor, target)
        if order["largest_file"]:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write then fails, as on a full disk
            resource.setrlimit(resource.RLIMIT_FSIZE, (order["largest_file"],) * 2)
        sys.argv = ["run.py", *order["args"]]
        run_command(run.main)
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


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """`start(args, cwd)` begins a run of run.py as a process of its own: a Process."""
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

    def begin(args, cwd: Path, largest_file: int = 0) -> Process:
        log = logs / f"{len(list(logs.iterdir()))}.txt"
        log.touch()
        order = {"args": list(map(str, args)), "cwd": str(cwd), "log": str(log)}
        return Process(ask, log, ask({**order, "largest_file": largest_file}))

    yield begin
    server.stdin.close()
    server.wait(HANG)


@pytest.fixture(scope="module")
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


# ------------------------------------------------------------ the same bytes


@pytest.mark.parametrize("batch_size", [3, 5, 12])
def test_the_batch_size_changes_no_byte(study, start, tmp_path, batch_size):
    args = ["-input_dir", study.root / "input", "-batch_size", batch_size]
    process = start([*study.arguments, *args], tmp_path)
    assert process.wait() == 0, process.output
    assert pictures(tmp_path / "runs") == study.expected


def test_the_order_changes_no_byte(study, here, tmp_path):
    for i in reversed(range(12)):
        done = here("-input_dir", study.root / "input" / f"{i:02}.png")
        assert done.status == 0, done.err
    assert pictures(tmp_path / "runs") == study.expected


def test_neighbours_of_other_sizes_change_no_byte(study, here, tmp_path):
    for i in range(12):
        face(tmp_path / "input" / f"{i:02}.png", seed=i)
        face(tmp_path / "input" / f"{i:02}_small.png", seed=i, side=2)
    assert here("-batch_size", 5).status == 0
    made = pictures(tmp_path / "runs")
    assert {name: made.get(name) for name in study.expected} == study.expected


def begun(start, args, root: Path) -> Process:
    """A run that has come as far as to lock its folder."""
    lock = root / "runs" / ".pulse.lock"
    lock.unlink(missing_ok=True)
    process = start(args, root)
    process.wait_until(lock.exists)
    return process


def kill_at_random(start, args, root: Path, chance: random.Random, kills: int, longest: float):
    """Runs that are killed until there were `kills` deaths; yields after each one, then after the
    last run, which may finish.

    A run that finished before its time leaves nothing to kill: its results go, and all begins anew.
    """
    deaths = 0
    while deaths < kills:
        process = begun(start, args, root)
        time.sleep(chance.uniform(0, longest))
        process.send(signal.SIGKILL)
        status = process.wait()
        assert status in (0, -signal.SIGKILL), process.output
        if status == 0:
            for path in sorted((root / "runs").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            continue
        deaths += 1
        yield process
    process = start(args, root)
    assert process.wait() == 0, process.output
    yield process


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


def survive(start, args, root: Path, expected: dict, seed: int, kills: int, longest: float):
    before: dict = {}
    for _ in kill_at_random(start, args, root, random.Random(seed), kills, longest):
        now = whole_results(root / "runs")
        if before.items() - now.items():  # all began anew
            assert len(now) < len(before) or before.keys() == {Path(name).name for name in expected}
        else:
            assert before.items() <= now.items()  # not lost, and not even written again
        before = now
    assert pictures(root / "runs") == expected
    assert not leftovers(root / "runs")


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(study, start, tmp_path):
    args = [*study.arguments, "-input_dir", study.root / "input"]
    survive(start, args, tmp_path, study.expected, seed=1, kills=6, longest=0.15)


def test_fifty_kills_lose_nothing(study, start, tmp_path):
    args = [*study.arguments, "-input_dir", study.root / "input"]
    survive(start, args, tmp_path, study.expected, seed=2, kills=50, longest=0.15)


def test_overwriting_that_is_killed_never_pairs_an_old_picture_with_a_new_record(
    study, start, tmp_path
):
    chance = random.Random(3)
    for seed in range(5):
        args = [*study.arguments, "-input_dir", study.root / "input", "-seed", seed, "-overwrite"]
        process = begun(start, args, tmp_path)
        time.sleep(chance.uniform(0.05, 0.4))
        process.send(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
        whole_results(tmp_path / "runs")


def test_a_new_record_never_stands_beside_an_old_picture(here, tmp_path, monkeypatch):
    """The moment between the two, which random kills may miss: writing the picture fails."""
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1).status == 0

    def full(path, *rest):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("runner.jobs.write_png", full)
        assert here("-eps", 1, "-seed", 1, "-overwrite").status == 1
    record = record_of(tmp_path / "runs", "a")
    left = tmp_path / "runs" / "a.png"
    assert not left.exists() or picture_text(left)["pulse:seed"] == str(record["seed"])


# ------------------------------------------------------------ records


def test_a_finished_search_leaves_nothing_for_the_collector(here, tmp_path):
    """Else the tensors of many searches are in memory at once, until it runs."""

    def searches() -> int:
        return sum(type(each) is Search for each in gc.get_objects())

    faces(tmp_path / "input", 4)
    here()  # the very first search of a process imports much
    gc.collect()
    before = searches()
    gc.disable()
    try:
        assert here("-overwrite").out.startswith("4 faces made")
        assert searches() <= before
    finally:
        gc.enable()


def test_the_record_tells_everything_that_made_the_picture(here, small, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1).status == 0
    record = record_of(tmp_path / "runs", "a")
    settings = vars(Settings(steps=STEPS, eps=1).resolved(num_layers=4))
    assert settings.items() <= record["settings"].items()
    sha256 = pixels_sha256(read_picture(tmp_path / "input" / "a.png"))
    assert record["input"] == {"file": "a.png", "pixels_sha256": sha256, "side": 4}
    assert record["generator"]["name"] == str(small)
    assert re.fullmatch("[0-9a-f]{64}", record["generator"]["sha256"])
    assert record["seed"] == record["settings"]["seed"] == 0
    assert record["within_eps"] is True and record["threads"] == 1 and record["device"] == "cpu"
    assert record["seconds"] > 0
    assert {"pulse", "python", "torch", "numpy"} <= record["versions"].keys()
    assert record["versions"]["torch"] == torch.__version__
    curve = record["curve"]
    assert {len(values) for values in curve.values()} == {STEPS}
    best = record["best_step"]
    for name, figure in (("L2", "l2"), ("GEOCROSS", "geocross"), ("total", "total")):
        assert curve[name][best] == pytest.approx(record[figure], rel=1e-5)
    assert record["total"] == pytest.approx(min(curve["total"]), rel=1e-5)


def test_records_of_two_runs_differ_in_the_seconds_only(study, here, tmp_path):
    assert here("-input_dir", study.root / "input").status == 0
    for name in study.expected:
        first, second = (
            json.loads((folder / name).with_suffix(".json").read_text())
            for folder in (study.root / "expected", tmp_path / "runs")
        )
        assert {**first, "seconds": 0} == {**second, "seconds": 0}


def test_results_csv_lists_every_record_and_can_be_rebuilt(study, here, tmp_path):
    args = ("-input_dir", study.root / "input", "-output_dir", "runs")
    assert here(*args).status == 0
    path = tmp_path / "runs" / "results.csv"
    text = path.read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["name"] for row in rows] == [f"{i:02}" for i in range(12)]
    settings = {*vars(Settings()), "seed", "retries", "precision", "generator_sha256"}
    assert {*COLUMNS, *(f"settings.{name}" for name in settings)} == rows[0].keys()
    for row in rows:
        record = record_of(tmp_path / "runs", row["name"])
        assert float(row["l2"]) == record["l2"] and row["input"] == record["input"]["file"]
        assert row["within_eps"] == str(record["within_eps"])
    path.unlink()
    done = here("-summary")
    assert done.status == 0 and path.read_text() == text
    within = sum(row["within_eps"] == "True" for row in rows)
    assert f"12 results, {within} within eps: runs/results.csv" in done.out
    assert here("-summary", "-output_dir", "nowhere").status == 2


def test_names_that_a_table_program_would_calculate_are_text(here, tmp_path):
    face(tmp_path / "input" / "=1+1.png")
    assert here("-eps", 1).status == 0
    row = next(csv.DictReader(io.StringIO((tmp_path / "runs" / "results.csv").read_text())))
    assert row["name"] == "'=1+1" and row["input"] == "'=1+1.png"


def test_the_picture_itself_says_that_it_is_imaginary(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1, "-seed", 5).status == 0
    text = picture_text(tmp_path / "runs" / "a.png")
    assert "imaginary" in text["Description"] and "does not exist" in text["Description"]
    assert text["pulse:seed"] == "5"
    record = record_of(tmp_path / "runs", "a")
    assert text["pulse:generator_sha256"] == record["generator"]["sha256"]
    packet = re.sub(r"<\?xpacket.*?\?>", "", text["XML:com.adobe.xmp"])
    namespace = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
    kinds = [
        element.get(f"{namespace}DigitalSourceType")
        for element in ElementTree.fromstring(packet.strip()).iter()
    ]
    assert (
        "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia" in kinds
    )  # the whole address is the term of the IPTC's vocabulary


# ------------------------------------------------------------ going on


@pytest.fixture
def finished(here, tmp_path):
    """A folder with three results, two duplicates each."""
    faces(tmp_path / "input", 3)

    def again(*more):
        return here("-duplicates", 2, "-eps", 1, *more)

    assert again().status == 0
    again.runs, again.input = tmp_path / "runs", tmp_path / "input"
    again.times = {path: path.stat().st_mtime_ns for path in again.runs.glob("[!.]*.[pj]*")}
    assert len(again.times) == 12
    return again


def test_what_is_finished_is_skipped_in_one_line(finished):
    done = finished()
    assert done.status == 0 and not done.err
    assert done.out.count("6 results kept from before") == 1
    assert {path: path.stat().st_mtime_ns for path in finished.times} == finished.times


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("-steps", 9), "steps 8, not 9"),
        (("-seed", 1), "seed 0, not 1"),
        (("-loss_str", "100*L1", "-steps", 9), "loss_str 100*L2+0.05*GEOCROSS, not 100*L1"),
        (("-retries", 1), "retries 0, not 1"),
        (("-tile_latent",), "tile_latent False, not True"),
        (("-generator", "other.pt"), "generator_sha256 "),
    ],
)
def test_changed_settings_are_refused_and_nothing_changes(finished, changed, named):
    one_file(finished.runs.parent / "other.pt", resolution=8, seed=1)
    done = finished(*changed)
    assert done.status == 2
    assert named in done.err and "-overwrite" in done.err and done.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in finished.times} == finished.times
    assert finished(*changed, "-overwrite").status == 0
    assert all(path.stat().st_mtime_ns > before for path, before in finished.times.items())


def test_an_input_with_other_pixels_is_refused_by_name(finished):
    face(finished.input / "01.png", seed=99)
    done = finished()
    assert done.status == 1
    assert done.err.count("01.png") == 1 and "has changed since its result was made" in done.err
    assert {path: path.stat().st_mtime_ns for path in finished.times} == finished.times
    assert finished("-overwrite").status == 0
    assert record_of(finished.runs, "01_1")["input"]["pixels_sha256"] == pixels_sha256(
        read_picture(finished.input / "01.png")
    )


def test_an_input_that_was_saved_anew_with_the_same_pixels_is_the_same(finished):
    Image.open(finished.input / "01.png").save(finished.input / "01.bmp")
    (finished.input / "01.png").unlink()
    assert "6 results kept" in finished().out


@pytest.mark.parametrize(
    "record",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"settings": {}}',
        b'{"settings": 5, "within_eps": true, "input": {}}',
        b'{"settings": {"seed": 0}, "within_eps": true}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_result_without_a_whole_record_is_made_again(finished, record):
    path = finished.runs / "01_2.json"
    path.unlink()
    if record is not None:
        path.write_bytes(record)
    assert "5 results" in finished("-summary").out
    done = finished()
    assert done.status == 0 and "5 results kept" in done.out
    assert record_of(finished.runs, "01_2")["seed"] == 1
    others = {path: at for path, at in finished.times.items() if path.stem != "01_2"}
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_a_record_without_its_picture_is_made_again(finished):
    before = (finished.runs / "01_2.png").read_bytes()
    (finished.runs / "01_2.png").unlink()
    assert "5 results" in finished("-summary").out
    assert "5 results kept" in finished().out
    assert (finished.runs / "01_2.png").read_bytes() == before


def test_what_a_killed_run_left_is_swept_and_nothing_else(finished):
    (finished.runs / ".123-0a1b2c3d.part").write_bytes(b"half")
    (finished.runs / "outside_eps").mkdir(exist_ok=True)
    (finished.runs / "outside_eps" / ".77-00000000.part").write_bytes(b"half")
    (finished.runs / ".mine.part").write_bytes(b"of somebody else")
    (finished.runs / "notes.txt").write_text("mine")
    assert finished().status == 0
    assert [path.name for path in leftovers(finished.runs)] == [".mine.part"]
    assert (finished.runs / "notes.txt").read_text() == "mine"


# ------------------------------------------------------------ retries


def test_retries_keep_the_best_attempt_and_record_all(here, tmp_path):
    faces(tmp_path / "input", 4)
    assert here("-eps", 1e-9, "-retries", 3, "-duplicates", 2).status == 0
    better = 0
    for name in (f"{i:02}_{duplicate}" for i in range(4) for duplicate in (1, 2)):
        record = record_of(tmp_path / "runs", name)
        attempts = record["attempts"]
        job = Job(Path("a.png"), record["duplicate"], "a", Path("runs"))
        assert [each["seed"] for each in attempts] == [job.seed(0, i) for i in range(4)]
        assert len({each["seed"] for each in attempts}) == 4
        best = min(attempts, key=lambda each: each["total"])
        assert best.items() <= record.items()
        better += best is not attempts[0]
    assert better


def test_a_retry_is_the_search_from_that_seed(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1e-9, "-retries", 2).status == 0
    for attempt in record_of(tmp_path / "runs", "a")["attempts"]:
        output = f"runs_{attempt['seed']}"
        assert here("-eps", 1e-9, "-seed", attempt["seed"], "-output_dir", output).status == 0
        assert attempt.items() <= record_of(tmp_path / output, "a").items()


def test_an_attempt_within_eps_is_the_last(study, here, tmp_path):
    assert here("-input_dir", study.root / "input", "-retries", 3).status == 0
    numbers = []
    for i in range(12):
        record = record_of(tmp_path / "runs", f"{i:02}")
        *before, last = record["attempts"]
        assert not any(each["within_eps"] for each in before)
        assert last["within_eps"] or len(before) == 3
        assert last["within_eps"] == record["within_eps"]
        numbers.append(len(record["attempts"]))
    assert 1 in numbers and max(numbers) > 1
    alone = tmp_path / "runs"
    assert here(
        *("-input_dir", study.root / "input", "-retries", 3, "-batch_size", 5),
        *("-output_dir", "batches"),
    ).status in (0, 1)
    assert pictures(tmp_path / "batches") == pictures(alone)


def test_seeds_of_attempts_are_63_bits_and_all_different():
    seeds = {
        Job(Path("a"), duplicate, "a", Path("runs")).seed(base, attempt)
        for base in (0, 1, SEEDS - 20)
        for duplicate in range(10)
        for attempt in range(1, 10)
    }
    assert len(seeds) == 270 and all(0 <= seed < SEEDS for seed in seeds)
    assert max(seeds) > SEEDS // 2


# ------------------------------------------------------------ signals


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_run_in_one_line_with_nothing_half_written(
    study, start, tmp_path, number, status
):
    chance = random.Random(status)
    args = [*study.arguments, "-input_dir", study.root / "input"]
    endings = 0
    for _ in range(3):
        process = begun(start, args, tmp_path)
        time.sleep(chance.uniform(0, 0.1))
        process.send(number)
        ended = process.wait()
        assert ended in (status, 0) and "Traceback" not in process.output, process.output
        assert not leftovers(tmp_path / "runs")
        whole_results(tmp_path / "runs")
        if ended == status:
            endings += 1
            assert process.output.count("stopped; what is finished is kept") == 1
            assert process.output.endswith("goes on from there\n")
    assert endings
    assert start(args, tmp_path).wait() == 0
    assert pictures(tmp_path / "runs") == study.expected


LONG_WAY_OUT = """
import sys, time
from cli.command import run_command

def main():
    try:
        print("in", flush=True)
        time.sleep(600)
    finally:
        print("leaving", flush=True)
        time.sleep(600)

run_command(main)
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_second_signal_ends_at_once(number, status):
    process = subprocess.Popen(
        [sys.executable, "-c", LONG_WAY_OUT],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    for line in ("in\n", "leaving\n"):
        assert process.stdout.readline() == line
        process.send_signal(number)
    _, errors = process.communicate(timeout=HANG)
    assert process.returncode == status and "Traceback" not in errors


# ------------------------------------------------------------ several processes


def torchrun(*args, cwd: Path, **launcher) -> subprocess.Popen:
    """Two processes of run.py, as PyTorch's launcher starts them."""
    options = [f"--{name}={value}" for name, value in launcher.items()]
    return subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        + [*options, str(ROOT / "run.py"), *map(str, args)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_make_the_same_bytes_and_one_summary(study, tmp_path):
    args = [*study.arguments, "-input_dir", study.root / "input"]
    launched = torchrun(*args, cwd=tmp_path)
    out, errors = launched.communicate(timeout=2 * HANG)
    assert launched.returncode == 0, errors
    assert pictures(tmp_path / "runs") == study.expected
    assert out.count("faces made") == 1 and "12 faces made" in out
    assert "Traceback" not in errors
    assert len((tmp_path / "runs" / "results.csv").read_text().splitlines()) == 13


def test_two_processes_name_each_refusal_once(study, tmp_path):
    faces(tmp_path / "input", 6)
    for i in range(6):
        (tmp_path / "input" / f"0{i}_bad.png").write_text("no picture")
    launched = torchrun(*study.arguments, cwd=tmp_path)
    out, errors = launched.communicate(timeout=2 * HANG)
    assert launched.returncode == 1
    assert "6 faces made" in out and "6 pictures refused" in out
    for i in range(6):
        assert errors.count(f"0{i}_bad.png: it is not a picture") == 1
    ours = [line for line in errors.splitlines() if "run.py" in line and "Traceback" in line]
    assert not ours


def workers_of(launcher: subprocess.Popen) -> dict[int, int]:
    """Rank → process id of what a launcher started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            if parent == launcher.pid:
                environment = (folder / "environ").read_bytes().split(b"\0")
                names = dict(line.split(b"=", 1) for line in environment if b"=" in line)
                if b"RANK" in names:
                    found[int(names[b"RANK"])] = int(folder.name)
    return found


@needs_linux
def test_a_killed_worker_is_started_again_and_nothing_finished_is_lost(study, small, tmp_path):
    args = arguments(small, "-input_dir", study.root / "input", "-eps", 1, steps=120)
    launched = torchrun(*args, cwd=tmp_path, max_restarts=1)
    deadline = time.monotonic() + HANG
    while len(pictures(tmp_path / "runs")) < 3:
        assert time.monotonic() < deadline and launched.poll() is None
        time.sleep(0.05)
    os.kill(workers_of(launched)[1], signal.SIGKILL)
    before = whole_results(tmp_path / "runs")
    out, errors = launched.communicate(timeout=2 * HANG)
    assert launched.returncode == 0, errors
    after = whole_results(tmp_path / "runs")
    assert len(after) == 12 and before.items() <= after.items() and len(before) >= 3
    assert out.count(" made: ") == 1 and "kept from before" in out
    assert not leftovers(tmp_path / "runs")


@needs_linux
def test_a_process_that_waits_for_the_others_heeds_signals(study, small, tmp_path):
    """The first waits in the launcher's store while another works on: SIGTERM ends both soon."""
    face(tmp_path / "input" / "a.png")
    launched = torchrun(*arguments(small, steps=10**6), cwd=tmp_path)
    deadline = time.monotonic() + HANG
    while not (tmp_path / "runs" / ".pulse.lock").exists():
        assert time.monotonic() < deadline and launched.poll() is None
        time.sleep(0.05)
    time.sleep(1)  # now one searches, and the other has nothing to do
    ranks = workers_of(launched)
    for pid in ranks.values():
        os.kill(pid, signal.SIGTERM)
    started = time.monotonic()
    _, errors = launched.communicate(timeout=HANG)
    assert time.monotonic() - started < 20  # the launcher would wait 30 seconds, then kill
    assert errors.count("run.py: stopped") == 1
    assert not leftovers(tmp_path / "runs")


def test_a_second_run_on_the_same_folder_says_so_and_stops(study, start, small, tmp_path):
    faces(tmp_path / "input", 2)
    first = start(arguments(small, steps=10**6), tmp_path)
    first.wait_until((tmp_path / "runs" / ".pulse.lock").exists)
    second = start(arguments(small, "-overwrite"), tmp_path)
    assert second.wait() == 2
    assert second.output.count("\n") == 1 and "another run is writing into runs" in second.output
    first.send(signal.SIGTERM)
    assert first.wait() == 143
    third = start(arguments(small, steps=1), tmp_path)  # the lock went with its holder
    assert third.wait() == 0, third.output


def test_two_runs_that_start_at_once_never_mix(study, start, tmp_path):
    for i in range(3):
        root = tmp_path / str(i)
        root.mkdir()
        args = [*study.arguments, "-input_dir", study.root / "input"]
        both = [start([*args, "-seed", seed], root) for seed in (1, 2)]
        statuses = [process.wait() for process in both]
        assert sorted(statuses) == [0, 2], [process.output for process in both]
        records = [record_of(root / "runs", f"{i:02}") for i in range(12)]
        assert {record["seed"] for record in records} == {statuses.index(0) + 1}


# ------------------------------------------------------------ disks


def test_a_full_disk_is_one_sentence_and_the_finished_is_kept(start, small, tmp_path):
    faces(tmp_path / "input", 3)
    face(tmp_path / "input" / f"1{'x' * 200}.png")  # in its record twice, so that it is larger
    assert start(arguments(small), tmp_path).wait() == 0
    sizes = sorted(path.stat().st_size for path in (tmp_path / "runs").rglob("*.json"))
    for path in sorted((tmp_path / "runs").rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    full = start(arguments(small), tmp_path, largest_file=(sizes[-1] + sizes[-2]) // 2)
    assert full.wait() == 1
    told = [line for line in full.output.splitlines() if line.startswith("run.py: error: ")]
    assert len(told) == 1 and os.strerror(errno.EFBIG) in told[0]
    assert "what is finished is kept" in told[0] and "Traceback" not in full.output
    assert sorted(whole_results(tmp_path / "runs")) == ["00.png", "01.png", "02.png"]
    assert not leftovers(tmp_path / "runs")
    assert (tmp_path / "runs" / "results.csv").read_text().count("\n") == 4
    again = start(arguments(small), tmp_path)
    assert again.wait() == 0 and "3 results kept" in again.output


def test_a_disk_that_holds_no_result_at_all(start, small, tmp_path):
    faces(tmp_path / "input", 3)
    full = start(arguments(small), tmp_path, largest_file=800)
    assert full.wait() == 1
    assert full.output.count("run.py: error: ") == 1 and "Traceback" not in full.output
    assert not pictures(tmp_path / "runs") and not leftovers(tmp_path / "runs")


def test_a_file_in_the_way_is_one_sentence(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    face(tmp_path / "input" / "b.png", seed=1)
    assert here("-eps", 1, "-input_dir", "input/a.png").status == 0
    (tmp_path / "runs" / "outside_eps").write_text("in the way")
    done = here("-eps", 1, "-input_dir", "input/b.png", "-output_dir", "runs/outside_eps")
    assert done.status == 2 and "is no folder" in done.err and done.err.count("\n") == 1
    done = here("-eps", 1e-9, "-input_dir", "input/b.png", "-overwrite")
    assert done.status == 1 and done.err.count("run.py: error: ") == 1
    assert (tmp_path / "runs" / "outside_eps").read_text() == "in the way"
    assert (tmp_path / "runs" / "a.png").exists()


def test_a_folder_that_vanishes_midway_is_one_sentence_and_is_not_made_again(
    study, start, small, tmp_path
):
    args = arguments(small, "-input_dir", study.root / "input", "-eps", 1, steps=100)
    process = start(args, tmp_path)
    process.wait_until(lambda: len(pictures(tmp_path / "runs")) >= 2)
    (tmp_path / "runs").rename(tmp_path / "moved")
    assert process.wait() == 1
    told = [line for line in process.output.splitlines() if line.startswith("run.py: error: ")]
    assert len(told) == 1 and "runs cannot be written (it has vanished)" in told[0]
    assert "Traceback" not in process.output
    assert not (tmp_path / "runs").exists()
    assert len(whole_results(tmp_path / "moved")) >= 2


# ------------------------------------------------------------ bad inputs


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
    for suffix in ("heic", "jxl", "svg", "eps", "ps"):
        (folder / f"foreign.{suffix}_{suffix}.{suffix}").write_bytes(chance.bytes(100))
    face(folder / "twice.png")
    face(folder / "twice.bmp")
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


# ------------------------------------------------------------ any text for any number

ANY_TEXT = st.text(max_size=40) | st.from_regex(r"[-+]?[0-9._eE]{0,8}", fullmatch=True)
weights = st.floats(0, 1e30, allow_nan=False).map(repr) | st.integers(0, 10**20).map(str)
summands = st.tuples(weights, st.sampled_from(LOSS_TERMS))
spaces = st.sampled_from(["", " ", "\t"])


@given(st.lists(summands, min_size=1, max_size=6), spaces, st.sampled_from(["", "+", "-"]))
@examples(deadline=None, max_examples=200)
def test_a_sum_of_weighted_terms_is_read_as_it_is_written(terms, space, sign):
    text = f"{space}+{space}".join(
        f"{space}{sign}{weight}{space}*{space}{term}{space}" for weight, term in terms
    )
    number = -1 if sign == "-" else 1
    assert parse_loss(text) == [(number * float(weight), term) for weight, term in terms]


loss_like = st.text(alphabet="0123456789.eE+-* L2GEOCROSS\n", max_size=40)


@given(ANY_TEXT | loss_like)
@examples(deadline=None, max_examples=400)
def test_any_other_loss_is_one_sentence(text):
    try:
        terms = parse_loss(text)
    except ValueError as error:
        assert "loss_str" in str(error) and "\n" not in str(error)
    else:
        assert terms and all(math.isfinite(w) and term in LOSS_TERMS for w, term in terms)


def above_zero(value) -> bool:
    return math.isfinite(value) and value > 0


NUMBERS = {
    "eps": above_zero,
    "learning_rate": above_zero,
    "steps": lambda value: value >= 1,
    "batch_size": lambda value: value >= 1,
    "duplicates": lambda value: value >= 1,
    "retries": lambda value: value >= 0,
    "threads": lambda value: 1 <= value <= 1024,  # what a machine can start
    "seed": lambda value: 0 <= value < SEEDS,
    "num_trainable_noise_layers": lambda value: value >= 0,
}


def read(*args):
    """What run.py makes of arguments: (arguments, settings), or its one line of refusal."""
    told = io.StringIO()
    before, sys.argv = sys.argv, ["run.py", *args]
    try:
        with contextlib.redirect_stderr(told):
            return run.read_arguments()
    except SystemExit as left:
        assert left.code == 2
        return told.getvalue()
    finally:
        sys.argv = before


@pytest.mark.parametrize("flag", NUMBERS)
def test_any_text_for_a_number_is_a_legal_value_or_one_line(flag):
    numbers = (
        st.integers().map(str)
        | st.floats().map(repr)
        | st.sampled_from(
            [
                "9" * 30,
                "9" * 5000,
                "0",
                "1e400",
                "nan",
                "-inf",
                "0x10",
                "1_000",
                "\uff11",
                "1\n",
                "-",
            ]
        )
    )

    @given(ANY_TEXT.filter(lambda text: "\0" not in text) | numbers)
    @examples(deadline=None, max_examples=200)
    def check(text):
        for args in ((f"-{flag}", text), (f"--{flag}={text}",)):
            answer = read(*args)
            if isinstance(answer, str):
                assert answer.startswith("run.py: error: ") and answer.count("\n") == 1
            else:
                options, settings = answer
                value = getattr(options if hasattr(options, flag) else settings, flag)
                if value is not None:
                    assert NUMBERS[flag](value)

    check()


@given(ANY_TEXT)
@examples(deadline=None, max_examples=200)
def test_any_text_for_bad_noise_layers_is_a_list_or_one_line(text):
    answer = read(f"-bad_noise_layers={text}")
    if isinstance(answer, str):
        assert answer.startswith("run.py: error: ") and answer.count("\n") == 1
    else:
        assert re.fullmatch(r"|\d+(\.\d+)*", text.strip(), re.ASCII)
