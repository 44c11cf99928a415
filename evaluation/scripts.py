"""Commands of this project as processes, some at a time, what each prints in a log.

run_scripts([Script("a", ["run.py", "-seed", "1"], Path("a.log"))], processes=2, on_end=print)
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from cli.command import OK, SOME_REFUSED
from cli.signals import heed_signals

ROOT = Path(__file__).resolve().parent.parent
PATIENCE = 30.0  # seconds that a process which was asked to end may take


@dataclass(frozen=True)
class Script:
    """A script of this project and its arguments, `words`. status: of its process, once ended."""

    name: str
    words: list[str]
    log: Path
    status: int | None = None

    @property
    def failure(self) -> str:
        """Why it did nothing, or broke off: one sentence; "" where it came to its end."""
        if self.status in (OK, SOME_REFUSED):
            return ""
        if self.status < 0:
            return f"it was killed by signal {-self.status}: give the same command again"
        return f"{self.line(-1)} (all that it said is in {self.log})"

    def line(self, number: int) -> str:
        """A line of its log: 0 is the first, -1 the last."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[number] if lines else "it said nothing"


def run_scripts(
    scripts: list[Script],
    processes: int,
    on_end: Callable[[Script], None],
    while_running: Callable[[list[str]], None] = lambda names: None,
) -> None:
    """Start the scripts in their order, so many at a time; call `on_end` with each when it ends,
    and `while_running` now and then with the names of those that run.

    Where this is left early, by a signal or by what `on_end` raises, those that run are asked to
    end, and waited for. Raises: OSError where a log cannot be written.
    """
    running: dict[str, subprocess.Popen] = {}
    stopping = threading.Event()

    def run(script: Script) -> Script:
        script.log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, ROOT / script.words[0], *script.words[1:]]
        with open(script.log, "wb") as log:
            process = running[script.name] = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
            if stopping.is_set():  # it may have started after the others were asked to end
                process.terminate()
            status = process.wait()
        del running[script.name]
        return replace(script, status=status)

    with ThreadPoolExecutor(processes) as pool:
        futures = waiting = [pool.submit(run, script) for script in scripts]
        try:
            while waiting:
                heed_signals()
                done, waiting = wait(waiting, timeout=0.1, return_when=FIRST_COMPLETED)
                while_running(list(running))
                for future in done:
                    on_end(future.result())
        finally:
            stopping.set()
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(running.values()):
                process.terminate()
            wait([each for each in futures if not each.cancelled()], timeout=PATIENCE)
            for process in list(running.values()):
                process.kill()
