"""How the commands tell of their work: lines, numbers of things, a bar."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TextIO

from cli.errors import escaped
from cli.signals import heed_signals


class Unprintable(Exception):
    """What was to be printed on stdout could not be: its disk is full, for example."""


def tell(*lines: object, file: TextIO | None = None) -> None:
    """Print each of `lines`, on stdout unless `file` says otherwise. The one place where names and
    other people's text are escaped for the terminal. What was printed before is flushed.

    Where stderr takes nothing, because the disk of a log is full or its reader has gone, the work
    goes on without it. Raises: Unprintable, or BrokenPipeError, of stdout.
    """
    stream = sys.stdout if file is None else file
    if stream is None:  # a program without a console has none
        return
    try:
        for line in lines:
            print(escaped(line), file=stream)
        stream.flush()
    except OSError as error:
        if stream is sys.stderr:
            return
        if isinstance(error, BrokenPipeError):
            raise
        raise Unprintable(error.strerror) from None


def some(names: Iterable[Path | str]) -> str:
    """The first ten, with commas; of a path its last part."""
    names = [name.name if isinstance(name, Path) else name for name in names]
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
        heed_signals()
        self.reached = max(self.reached, self.done + under_way)
        if self.since is None:  # only now: what came before, as loading, does not come again
            self.since = time.monotonic(), self.reached
        if self.bar is not None:
            # What is left first: a narrow terminal cuts the end off.
            self.bar.set_postfix_str(escaped(", ".join(filter(None, (self.left()[2:], text)))))
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
            self.bar.write(escaped(line), file=sys.stderr)
        else:
            tell(line, file=sys.stderr)

    def advance(self) -> None:
        """One more picture is finished, well or badly."""
        self.advance_to(self.done + 1)

    def advance_to(self, number: int) -> None:
        """So many pictures are finished in all."""
        heed_signals()
        self.done = number
        self.reached = max(self.reached, number)
        if self.bar is not None:
            self.bar.update(number - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None
