"""Commands in processes of their own, so many at a time, what each says in a log.

run_all([Task("a", ["run.py", "-seed", "1"], Path("a.log"))], processes=2, ended=print)
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from cli.command import OK, SOME_REFUSED

HERE = Path(__file__).resolve().parent
PATIENCE = 30.0  # seconds that a process which was asked to end may take


@dataclass
class Task:
    """A command of this project, `words` beginning with its script, and its log."""

    name: str
    words: list[str]
    log: Path
    process: subprocess.Popen | None = None
    output: IO | None = None

    def start(self) -> None:
        """Raises: OSError."""
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self.output = open(self.log, "wb")  # noqa: SIM115
        words = [sys.executable, str(HERE / self.words[0]), *self.words[1:]]
        self.process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=self.output, stderr=subprocess.STDOUT
        )

    def ended(self) -> bool:
        """Whether it has; its log is closed then."""
        if self.process.poll() is None:
            return False
        self.output.close()
        return True

    @property
    def refused(self) -> bool:
        """Whether it has refused some of its pictures."""
        return self.process.returncode == SOME_REFUSED

    @property
    def failure(self) -> str:
        """Why it did nothing, or broke off: one sentence; "" where it came to its end."""
        status = self.process.returncode
        if status in (OK, SOME_REFUSED):
            return ""
        if status < 0:
            return f"it was killed by signal {-status}: give the same command again"
        return f"{self.said(-1)} (all that it said is in {self.log})"

    def said(self, number: int) -> str:
        """A line of its log: 0 is the first, -1 the last."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        lines = [line.strip() for line in lines if line.strip()] or ["it said nothing"]
        return lines[number]


def run_all(
    tasks: list[Task],
    processes: int,
    ended: Callable[[Task], None],
    tell: Callable[[list[Task]], None] = lambda running: None,
) -> None:
    """Start the tasks in their order; call `ended` with each when it ends, and `tell` now and then
    with those that run.

    Where this is left early, by a signal or by what `ended` raises, those that run are asked to
    end, and waited for. Raises: OSError where a log cannot be written.
    """
    waiting, running = list(tasks), []
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                running.append(waiting.pop(0))
                running[-1].start()
            time.sleep(0.1)
            tell(running)
            for task in [task for task in running if task.ended()]:
                running.remove(task)
                ended(task)
    finally:
        there = [task.process for task in running if task.process is not None]
        for process in there:
            process.terminate()
        until = time.monotonic() + PATIENCE
        for process in there:
            try:
                process.wait(max(until - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                process.kill()
