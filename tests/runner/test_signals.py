"""Ctrl-C and SIGTERM end a run in one line, with nothing half written."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from conftest import ROOT
from forked_runs import HANG, begun, leftovers, pictures, whole_results

from cli.command import run_command
from cli.progress import Progress
from cli.signals import heed_signals
from PULSE import Search
from runner import folder
from runner.distributed import wait_for


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

run_command(main, resumes=True)
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


def ask_for_an_end() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


class Finalizer:
    def __del__(self):
        ask_for_an_end()


def in_a_finalizer() -> None:
    """Where a signal strikes in one, Python says so on stderr, and goes on."""
    finalizer = Finalizer()
    del finalizer


def in_a_bare_except() -> None:
    with contextlib.suppress(BaseException):
        ask_for_an_end()


def as_something_else() -> None:
    """In the middle of defining a class, for example."""
    try:
        ask_for_an_end()
    except BaseException:
        raise RuntimeError("Error calling __set_name__") from None


def goes_on_with_a_folder() -> None:
    progress = Progress(2)
    progress.live("a.png")
    pytest.fail("it went on")


def waits_for_the_others() -> None:
    answers = iter([False, True])
    store = SimpleNamespace(check=lambda keys: next(answers))
    wait_for(store, ["report/1"])
    pytest.fail("it went on")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("then", [goes_on_with_a_folder, waits_for_the_others])
@pytest.mark.parametrize("lost", [in_a_finalizer, in_a_bare_except, as_something_else])
def test_a_signal_whose_exception_is_lost_ends_the_command_all_the_same(lost, then, capsys):
    def main():
        lost()
        then()

    with pytest.raises(SystemExit) as left:
        run_command(main)
    told = capsys.readouterr().err
    assert left.value.code == 143 and told.endswith(": stopped\n"), told
    with pytest.raises(SystemExit) as left:
        run_command(heed_signals)  # the next command was not asked to end
    assert left.value.code is None


@pytest.mark.parametrize("flags", [(), ("-overwrite",)])
def test_so_it_does_in_the_middle_of_a_search(pulse, monkeypatch, flags):
    whole, steps = Search.step, []

    def step(search):
        steps.append(search)
        if len(steps) == 3:
            in_a_bare_except()
        return whole(search)

    monkeypatch.setattr(Search, "step", step)
    told = pulse("-steps", 100, *flags, status=143).err
    onward = "begins again" if flags else "goes on from there"
    assert len(steps) == 3 and told.endswith(f"is kept, the same command {onward}\n")
    assert not pictures(pulse.runs)


class Unjoined(ThreadPoolExecutor):
    """As one whose thread was just being started when the signal came: nobody waits for it."""

    def __exit__(self, *error):
        self.shutdown(wait=False)


def test_nothing_is_told_after_the_end(pulse, monkeypatch, capsys):
    whole, stopped = folder.write_result, threading.Event()
    before = set(threading.enumerate())

    def slow(job, *rest):
        ask_for_an_end()
        assert stopped.wait(HANG)
        return whole(job, *rest)

    monkeypatch.setattr(folder, "write_result", slow)
    monkeypatch.setattr(folder, "ThreadPoolExecutor", Unjoined)
    assert pulse("-steps", 100, "-eps", 1, status=143).err.endswith("goes on from there\n")
    stopped.set()
    for thread in set(threading.enumerate()) - before:
        if thread.name.startswith("ThreadPoolExecutor"):
            thread.join(HANG)
    assert capsys.readouterr().err == "" and "a.png" in pictures(pulse.runs)
