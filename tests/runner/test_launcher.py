"""A launcher's variables, left behind, incomplete or nonsense: one sentence from one place."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, command
from forked_runs import HANG, arguments, face

from cli.errors import UserError
from fast import device as devices
from runner import folder
from runner.distributed import launched
from runner.options import RunOptions
from search_settings import Settings

WHOLE = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
NAMES = (*WHOLE, "LOCAL_RANK")


@pytest.fixture
def variables(monkeypatch):
    """`variables(RANK="1")`: only these are set."""

    def only(**values):
        for name in NAMES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    only()
    return only


@pytest.mark.parametrize("values", [{}, {"WORLD_SIZE": "1"}, {"RANK": "0", "WORLD_SIZE": "1"}])
def test_without_a_launcher_there_is_one_process(variables, values):
    variables(**values)
    assert launched() == (0, 1)


def test_a_launchers_variables_are_rank_and_size(variables):
    variables(**WHOLE, LOCAL_RANK="1")
    assert launched() == (1, 2)


def test_a_process_makes_its_gpu_current_before_anything_is_loaded(
    variables, monkeypatch, tmp_path
):
    class Loaded(Exception):
        pass

    def load(generator, device, *more, **others):
        done.append(("loaded on", str(device)))
        raise Loaded

    done: list[tuple] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(
        torch.cuda, "set_device", lambda device: done.append(("current", str(device)))
    )
    monkeypatch.setattr(devices, "run_kernel", lambda device: done.append(("tried", str(device))))
    monkeypatch.setattr(folder, "PULSE", load)
    variables(**WHOLE, LOCAL_RANK="2")
    process = SimpleNamespace(rank=1, size=2)
    run = folder.Run(RunOptions(output_dir=tmp_path), Settings(), [], process)
    with pytest.raises(Loaded):
        run.load()
    assert done == [("tried", "cuda:2"), ("current", "cuda:2"), ("loaded on", "cuda:2")]


BAD = [
    {"RANK": "1"},
    {"RANK": "0"},
    {"RANK": "x"},
    {"WORLD_SIZE": "2"},
    {"WORLD_SIZE": ""},
    {"WORLD_SIZE": "0"},
    {"RANK": "0", "WORLD_SIZE": "2"},
    {"RANK": "1", "WORLD_SIZE": "1"},
    {**WHOLE, "RANK": "2"},
    {**WHOLE, "RANK": "-1"},
    {**WHOLE, "RANK": "٣"},
    {**WHOLE, "WORLD_SIZE": "2.0"},
    {**WHOLE, "MASTER_ADDR": ""},
    {**WHOLE, "MASTER_PORT": "x"},
    {**WHOLE, "LOCAL_RANK": "x"},
]


@pytest.mark.parametrize("values", BAD, ids=str)
def test_anything_else_is_one_sentence_that_names_what_was_found(variables, values):
    variables(**values)
    with pytest.raises(UserError) as refused:
        launched()
    sentence = str(refused.value)
    assert all(f"{name}={value}" in sentence for name, value in values.items())
    assert "torchrun" in sentence and "unset RANK and WORLD_SIZE" in sentence


@pytest.mark.parametrize("mode", [["-render", "x.npz"], ["-summary"], []])
def test_every_way_of_running_refuses_them_with_status_2(tmp_path, mode):
    (tmp_path / "runs").mkdir()
    face(tmp_path / "input" / "a.png")
    done = command("run.py", *mode, cwd=tmp_path, env={**os.environ, "RANK": "1"})
    assert done.returncode == 2 and done.stdout == ""
    assert re.fullmatch("run.py: error: the environment says RANK=1 and lacks .*\n", done.stderr)


def test_waiting_for_partners_says_so_and_heeds_signals(small, start, tmp_path):
    """Either rank, either signal: four at once, for each says so after five seconds only."""
    face(tmp_path / "input" / "a.png")
    waiting = []
    for rank in ("0", "1"):
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            launcher = {**WHOLE, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            output = f"runs_{rank}_{status}"
            process = start(arguments(small, "-output_dir", output), tmp_path, **launcher)
            waiting.append((process, port, number, status, tmp_path / output))
    for process, port, number, status, runs in waiting:
        process.wait_until(lambda process=process: process.output.endswith("\n"))
        said = f"waiting at 127.0.0.1:{port} for 1 more of 2 processes (this is rank"
        assert process.output.startswith(said) and process.output.count("\n") == 1
        assert "at most 30 minutes" in process.output
        process.send(number)
        begun = time.monotonic()
        assert process.wait() == status and "Traceback" not in process.output
        assert time.monotonic() - begun < 30 and not runs.exists()


def test_partners_that_never_come_are_given_up_in_one_sentence(tmp_path):
    code = (
        "from cli.command import run_command\nfrom runner import distributed\n"
        "distributed.JOIN_WITHIN = 0.6\nrun_command(distributed.join)"
    )
    launcher = {**WHOLE, "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **launcher, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=HANG,
    )
    assert done.returncode == 2
    assert "1 more of 2 processes (this is rank 0) did not come to 127.0.0.1:0" in done.stderr
    assert "Traceback" not in done.stderr
