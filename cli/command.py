"""What the commands share: how flags look, which pictures are in a folder, how progress and errors
are told.

A flag has one dash, as users of PULSE type it (`-input_dir`); the same name with two dashes works
too. Imports nothing heavy, so that `-h` answers at once.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn

# Exit statuses of every command.
OK, SOME_REFUSED, UNUSABLE = 0, 1, 2


class Parser(argparse.ArgumentParser):
    """A parser whose help is the module docstring; errors are one sentence, exit status 2."""

    def __init__(self, doc: str):
        super().__init__(
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def flag(self, name: str, help: str, default=None, shown=None, **options) -> None:
        """Add `-name`. The help ends with the default, or with `shown` where that is given."""
        shown = default if shown is None else shown
        if shown not in (None, False):
            help = f"{help} (default: {shown})"
        self.add_argument(f"-{name}", default=default, help=help.replace("%", "%%"), **options)

    def parse_args(self, args=None, namespace=None):
        """Two dashes are taken for one; what follows a flag that takes a value is its value, also
        where it begins with a dash, as in `-eps -1e-3`.
        """
        known = self._option_string_actions
        plain, waiting = [], None
        for arg in sys.argv[1:] if args is None else map(str, args):
            name = arg.split("=")[0].removeprefix("-")
            if name in known:
                arg = arg.removeprefix("-")
            name = arg.split("=")[0]
            if waiting is not None and name not in known:
                plain[-1] = f"{waiting}={arg}"
                waiting = None
                continue
            takes_value = arg in known and known[arg].nargs is None
            waiting = arg if takes_value else None
            plain.append(arg)
        return super().parse_args(plain, namespace)

    def error(self, message: str) -> NoReturn:
        message = re.sub(r"^argument -(\w+): ", r"-\1: ", message)
        self.exit(UNUSABLE, f"{self.prog}: error: {message} (-h lists every flag)\n")


class Unusable(Exception):
    """Arguments, folders or generator cannot be used and nothing was begun: exit status 2."""


class Stopped(BaseException):
    """SIGINT or SIGTERM asked for an end."""

    def __init__(self, signum: int):
        super().__init__(signum)
        self.signum = signum


def stop_on_signals() -> None:
    """Ctrl-C and SIGTERM raise Stopped where the program stands; a second one ends it at once."""

    def stop(signum, frame):
        end_on_signals()
        raise Stopped(signum)

    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, stop)


def end_on_signals() -> None:
    """Ctrl-C and SIGTERM end the program at once."""
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, lambda signum, frame: os._exit(128 + signum))


def run_command(main) -> NoReturn:
    """Exit with what `main()` returns; an Unusable or a signal is one line, not a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a file name that the terminal cannot encode is no end
            stream.reconfigure(errors="backslashreplace")
    program = Path(sys.argv[0]).name
    try:
        stop_on_signals()
        status = main()
        sys.stdout.flush()
    except Unusable as error:
        print(f"{program}: error: {error}", file=sys.stderr)
        status = UNUSABLE
    except Stopped as stopped:
        if os.environ.get("RANK", "0") == "0":  # of several processes the first speaks for all
            print(
                f"\n{program}: stopped; what is finished is kept, the same command goes on from "
                f"there",
                file=sys.stderr,
            )
        status = 128 + stopped.signum
    except BrokenPipeError:  # `run.py | head` closed our output: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = OK
    end_on_signals()  # nobody is left to catch what a handler raises
    sys.exit(status)


def require_folder_writable(folder: Path, flag: str) -> None:
    """Prove that files can be written in `folder`, or that it can be made; leaves nothing behind.

    Raises: Unusable, naming the flag, the folder and the reason.
    """
    there = folder.absolute()
    while not (there.exists() or there.is_symlink()):
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):  # without a name, where the system can
            pass
    except OSError as error:
        reason = f"{shown(there)} is no folder" if not there.is_dir() else error.strerror
        raise Unusable(
            f"{flag} {shown(folder)} cannot be written ({reason}): give another folder"
        ) from None


def pictures_in(
    folder: Path, flag: str, what: str, may_be_empty: bool = False
) -> tuple[list[Path], list[Path]]:
    """`images.list_pictures`: the pictures in a folder, or the one that is named, and other files.

    what: which pictures are wanted there. Raises: Unusable, naming flag and folder, where it cannot
    be listed or, unless it may be empty, holds no picture.
    """
    from imaging.pictures import list_pictures  # imports Pillow, and -h must not wait for it

    told, advice = f"{flag} {shown(folder)}", f"put {what} there, or name another folder"
    try:
        pictures, others = list_pictures(folder)
    except OSError as error:
        raise Unusable(f"{told} cannot be read ({error.strerror}): {advice}") from None
    if not pictures and not may_be_empty:
        only = f", only {some(others)}" if others else ""
        raise Unusable(f"{told} holds no picture{only}: {advice}")
    return pictures, others


def shown(path: Path | str) -> str:
    """`path` as one harmless line: what a terminal would obey, not print, becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(path))


def some(names: Iterable[Path | str]) -> str:
    """The first ten, with commas; of a path its last part."""
    names = [shown(name.name if isinstance(name, Path) else name) for name in names]
    return ", ".join(names[:10]) + f" and {len(names) - 10} more" * (len(names) > 10)


def count(number: int, noun: str) -> str:
    """`1 picture`, `2 pictures`, `no pictures`."""
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


class Progress:
    """A bar over pictures on a terminal; elsewhere plain lines, one per event, for logs.

    Everything goes to stderr: stdout keeps the summary alone. quiet: errors only; silent: nothing.
    """

    EVERY = 20.0  # seconds between plain lines about a picture that takes long

    def __init__(
        self, total: int, unit: str = "picture", silent: bool = False, quiet: bool = False
    ):
        self.total, self.unit = total, unit
        self.silent, self.quiet = silent, silent or quiet
        self.done = 0
        self.reached = 0.0  # pictures, with the parts of those that are being worked on
        self.since: tuple[float, float] | None = None  # when first told, and what was reached then
        self.bar = None
        self.last = time.monotonic()
        if sys.stderr.isatty() and total and not self.quiet:
            from tqdm import tqdm

            form = f"{{n_fmt}} of {{total_fmt}} {unit}s |{{bar}}| {{elapsed}}{{postfix}}"
            self.bar = tqdm(total=total, dynamic_ncols=True, leave=False, bar_format=form)

    def live(self, text: str, under_way: float = 0.0) -> None:
        """How the present picture stands: at the end of the bar, or now and then as a line.

        under_way: how much is done of the pictures that are not finished: of two half done 1.0.
        """
        self.reached = max(self.reached, self.done + under_way)
        if self.since is None:  # only now: what came before, as loading, does not come again
            self.since = time.monotonic(), self.reached
        if self.bar is not None:
            # What is left first: a narrow terminal cuts the end off.
            self.bar.set_postfix_str(", ".join(filter(None, (self.left()[2:], text))))
        elif time.monotonic() - self.last > self.EVERY:
            self.say(f"{text}; {self.done} of {count(self.total, self.unit)} done{self.left()}")

    def left(self) -> str:
        """`, about 3 min left`, by what was reached so far; "" where nothing is known or left."""
        if self.since is None or self.reached <= self.since[1] or self.done >= self.total:
            return ""
        pace = (time.monotonic() - self.since[0]) / (self.reached - self.since[1])
        seconds = pace * max(self.total - self.reached, 0)
        if seconds < 90:
            return f", about {seconds:.0f} s left"
        minutes = seconds / 60
        return (
            f", about {minutes:.0f} min left"
            if minutes < 90
            else f", about {minutes / 60:.1f} h left"
        )

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self.error(line)

    def error(self, line: str) -> None:
        """A line that stays, and is told when quiet too: what went wrong."""
        if self.silent:
            return
        self.last = time.monotonic()
        if self.bar is not None:
            self.bar.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr, flush=True)

    def advance(self) -> None:
        """One more picture is finished, well or badly."""
        self.advance_to(self.done + 1)

    def advance_to(self, number: int) -> None:
        """So many pictures are finished in all."""
        self.done = number
        self.reached = max(self.reached, number)
        if self.bar is not None:
            self.bar.update(number - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
