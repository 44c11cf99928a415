"""The bar on a terminal, the lines of a log, and the time that is left."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import sys
import termios
import threading

import pytest

from cli import progress as cli_progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cli_progress, "time", clock)
    return clock


def test_the_time_that_is_left_is_sane_within_the_first_picture(clock):
    progress = cli_progress.Progress(10, "face")
    assert progress.left() == ""
    clock.now += 60  # loading, and compiling in the first step: that does not come again
    progress.live("", 0.01)
    assert progress.left() == ""
    for step in range(2, 51):
        clock.now += 1
        progress.live("", step / 100)
        told = progress.left()
        steps = 1000 - step  # of a second each
        assert told == f", about {steps / 60:.0f} min left"
    clock.now += 50
    progress.live("", 1.0)
    progress.advance_to(1)
    assert progress.left() == ", about 15 min left"
    clock.now += 100 * 8.5
    progress.live("", 8.5)
    assert progress.left() == ", about 50 s left"
    progress.advance_to(10)
    assert progress.left() == ""


def test_pictures_that_are_refused_or_written_late_do_not_make_the_estimate_jump_back(clock):
    progress = cli_progress.Progress(8, "face")
    progress.live("", 0.08)
    clock.now += 100
    progress.live("", 8)  # a batch of eight, searched
    progress.advance_to(1)  # and now written one by one
    assert progress.left() == ", about 0 s left"
    long = cli_progress.Progress(100_000)
    long.live("", 0)
    clock.now += 3600
    long.advance_to(1000)
    assert long.left() == ", about 99.0 h left"


def test_a_log_tells_l2_eps_steps_pictures_and_time_in_plain_lines(pulse, monkeypatch):
    monkeypatch.setattr(cli_progress.Progress, "EVERY", 0)
    done = pulse("-steps", 250)
    assert "\r" not in done.err
    number = r"\d+(\.\d+)?"
    live = rf"[ab]: L2 {number} \(eps 1\), step \d+ of 250; [01] of 2 faces done"
    lines = done.err.splitlines()
    assert any(re.fullmatch(live, line) for line in lines)  # nothing known yet
    assert any(re.fullmatch(rf"{live}, about {number} (s|min) left", line) for line in lines)
    finished = [line for line in lines if "within eps, L2" in line]
    assert re.fullmatch(r"1/2 a: .*, runs/a\.png, about \d+ s left", finished[0])
    assert re.fullmatch(r"2/2 b: .*, runs/b\.png", finished[1])


def test_a_terminal_has_one_bar_with_all_of_it(pulse, monkeypatch):
    ours, theirs = pty.openpty()
    parts = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 1 << 16):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 120, 0, 0))
    with open(theirs, "w", closefd=True) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        pulse("-steps", 200)
    reader.join(60)
    os.close(ours)
    shown = b"".join(parts).decode()
    assert re.search(r"0 of 2 faces \|.*a: L2 \d\.\d+ \(eps 1\), step \d+ of 200", shown)
    assert re.search(r"\d\d:\d\d, about \d+ s left, a: L2", shown)
    assert re.search(r"1 of 2 faces \|.*b: L2", shown)
    assert "1/2 a: within eps" in shown  # a line that stays


def test_a_program_without_a_console_tells_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    assert cli_progress.tell("said") is None


def test_quiet_tells_errors_and_the_summary_only(pulse):
    (pulse.root / "input" / "bad.png").write_text("no picture")
    (pulse.root / "input" / "notes.txt").write_text("nothing")
    done = pulse("-quiet", "-sheet", "-animation", "gif", status=1)
    (line,) = done.err.splitlines()
    assert line.startswith("refused: input/bad.png: it is not a picture")
    first, second = done.out.splitlines()
    assert first.startswith("2 faces made: 2 within eps 1") and second.startswith("Pictures: runs")
    pulse("-quiet", "-save_latent", "-overwrite", status=1)
    done = pulse("-quiet", "-render", "runs/a.npz", "runs/x.npz", "-output_dir", "again", status=1)
    (line,) = done.err.splitlines()
    assert line.startswith("refused: runs/x.npz: it cannot be opened (No such file")
    assert done.out == "1 picture drawn again in again; 1 file refused\n"
