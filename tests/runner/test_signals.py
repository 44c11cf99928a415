"""Ctrl-C and SIGTERM end a run in one line, with nothing half written."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT
from forked_runs import HANG, begun, leftovers, pictures, whole_results


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
