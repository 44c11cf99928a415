"""Several processes on one folder, and two runs that must not mix."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT
from forked_runs import (
    HANG,
    arguments,
    face,
    faces,
    leftovers,
    needs_linux,
    pictures,
    record_of,
    started_together,
    whole_results,
)

LONG = ("-compile", "off")  # for a run that never ends, compiling would pay, and take seconds


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


def test_two_processes_name_each_refusal_once(study, start, tmp_path):
    faces(tmp_path / "input", 6)
    for i in range(6):
        (tmp_path / "input" / f"0{i}_bad.png").write_text("no picture")
    both = started_together(start, study.arguments, tmp_path)
    statuses = [process.wait() for process in both]
    assert statuses == [1, 0], [each.output for each in both]  # the first speaks for all
    told = "".join(process.output for process in both)
    assert told.count("6 faces made") == 1 and told.count("6 pictures refused") == 1
    for i in range(6):
        assert told.count(f"0{i}_bad.png: it is not a picture") == 1
    assert "Traceback" not in told


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
    launched = torchrun(*arguments(small, *LONG, steps=10**6), cwd=tmp_path)
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
    first = start(arguments(small, *LONG, steps=10**6), tmp_path)
    first.wait_until((tmp_path / "runs" / ".pulse.lock").exists)
    second = start(arguments(small, "-overwrite"), tmp_path)
    assert second.wait() == 2
    sentence = "another run is writing into runs: wait for its end, or give another -output_dir\n"
    assert second.output.count("\n") == 1 and second.output.endswith(f": {sentence}")
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
