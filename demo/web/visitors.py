"""What is kept for every open page: its photograph, its faces, its searches and their results.

All of it is gone when the page is closed.
"""

from __future__ import annotations

import re
import secrets
import shutil
import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from cli.errors import UserError
from demo.web.reading import lr_of
from runner.options import RunOptions
from runner.records import Record
from search_settings import Settings

MAX_FACES = 24  # of one photograph
MAX_RESULTS = 24  # of one visitor; the oldest go
MAX_DUPLICATES, MAX_STEPS = 16, 1000  # of one search: others are waiting
MAX_VISITORS = 100
MAX_UPLOAD = 200_000_000  # bytes
NAME = "photograph"  # of every upload, whatever it was called
TOO_LARGE = "too large"  # in place of the name of an upload


class Cancelled(Exception):
    """The visitor does not want the search any more."""


@dataclass(frozen=True)
class Finished:
    """A result, as run.py writes it."""

    LR: Image.Image
    small: Image.Image  # DS(HR), to hold against LR
    png: bytes
    record: Record
    token: str = field(default_factory=lambda: secrets.token_hex(16))  # whoever has it may see it


@dataclass
class Task:
    """One search of a visitor, and what can be shown of it; filled by Searcher in its thread."""

    LR: Image.Image
    options: RunOptions
    settings: Settings
    seed: int
    stop: threading.Event = field(default_factory=threading.Event)
    stage: str = ""  # what is being done, where it is no step
    step: int = -1
    l2: float = float("nan")
    iterate: tuple[Image.Image, Image.Image] | None = None  # HR and LR of a step
    finished: list[Finished] = field(default_factory=list)

    def go_on(self) -> None:
        """Raises: Cancelled."""
        if self.stop.is_set():
            raise Cancelled

    def fitting(self, done: int, total: int) -> None:
        """A fit to the generator is made. Raises: Cancelled."""
        self.go_on()
        self.stage = (
            f"The quick search gets to know the generator, the first time for a size of the small "
            f"picture: {100 * done // total} %."
        )

    def downloading(self, name: str, done: int, total: int | None) -> None:
        """The generator's weights are coming in. Raises: Cancelled."""
        self.go_on()
        of_total = f" of {total / 1e6:.1f}" if total else ""
        self.stage = f"Downloading {name}: {done / 1e6:.1f}{of_total} MB."


class Uploads:
    """Photographs that came in, each in a folder of its own, under our name: of a visitor's name
    only the ending counts, by which read_picture names formats that it cannot read.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.unclaimed: dict[str, Path] = {}

    def new(self, ending: str) -> tuple[str, Path]:
        """A name, and the file that goes under it."""
        token = secrets.token_hex(16)
        suffix = f".{ending.lower()}" if re.fullmatch("[A-Za-z0-9]{1,5}", ending) else ""
        self.unclaimed[token] = self.folder / token / f"{NAME}{suffix}"
        self.unclaimed[token].parent.mkdir()
        return token, self.unclaimed[token]

    def forget(self, token: str) -> None:
        """Remove it, unless it was claimed."""
        if path := self.unclaimed.pop(token, None):
            remove(path)

    def claim(self, token: str) -> Path:
        """The file of that name; whoever has it removes it. Raises: UserError."""
        if path := self.unclaimed.pop(token, None):
            return path
        if token == TOO_LARGE:
            raise UserError(f"it has more than {MAX_UPLOAD / 1e6:.0f} MB: make it smaller first")
        raise UserError("it did not arrive: choose it again")


def remove(photograph: Path | None) -> None:
    """Remove an upload with its folder."""
    if photograph is not None:
        shutil.rmtree(photograph.parent, ignore_errors=True)


class Visitor:
    """One open page."""

    def __init__(self):
        self.token, self.photograph = "", None  # the upload that was read last
        self.squares: list[Image.Image] = []  # of the photograph that was read last
        self.results: list[Finished] = []  # newest first
        self.newest = 0  # of them are of the last search
        self.tasks: list[Task] = []  # that wait or run
        self.left = False  # the page was closed

    def take(self, token: str, uploads: Uploads) -> Path:
        """The photograph of that name; the one before is removed. Raises: UserError."""
        if self.photograph is None or token != self.token:
            remove(self.photograph)
            self.photograph = None
            self.token, self.photograph = token, uploads.claim(token)
        return self.photograph

    def cancel(self) -> None:
        for task in self.tasks:
            task.stop.set()

    def keep(self, task: Task) -> None:
        """What a search finished, before what others did."""
        if task.finished:
            self.newest = len(task.finished)
            self.results = [*task.finished, *self.results][:MAX_RESULTS]

    def task(
        self,
        face: int,
        side: int,
        generator: str,
        seed: str,
        duplicates: int,
        steps: int,
        search: str = "paper",
    ) -> Task:
        """A search for the square number `face`, downscaled to `side` pixels, with the checks of
        run.py. seed: digits, or "" to draw one. Raises: UserError.
        """
        if not re.fullmatch(r"\d{0,19}", seed.strip(), re.ASCII):
            raise UserError("the seed must be a whole number, or left empty")
        number = int(seed) if seed.strip() else secrets.randbelow(2**31)
        if not self.squares:
            raise UserError("choose a photograph first")
        if not 0 <= face < len(self.squares):
            raise UserError(f"there is no face {face + 1}: choose one of {len(self.squares)}")
        options = RunOptions(generator=generator, seed=number, duplicates=duplicates)
        settings = Settings(search=search, steps=steps)
        options.check()
        settings.check()
        for name, value, most in (
            ("duplicates", duplicates, MAX_DUPLICATES),
            ("steps", steps, MAX_STEPS),
        ):
            if value > most:
                raise UserError(f"{name} is at most {most} on this page, not {value}: use run.py")
        LR = lr_of(self.squares[face], side)
        return Task(LR, options, settings, number)


class Visitors:
    """All open pages, by gradio's name of the session."""

    def __init__(self):
        self.known: OrderedDict[str, Visitor] = OrderedDict()

    def of(self, session: str) -> Visitor:
        visitor = self.known.setdefault(session, Visitor())
        self.known.move_to_end(session)
        if len(self.known) > MAX_VISITORS:  # pages that never said that they were closed
            self.leave(next(iter(self.known)))
        return visitor

    def leave(self, session: str) -> None:
        """The page was closed: nothing of it is kept."""
        if visitor := self.known.pop(session, None):
            visitor.left = True
            visitor.cancel()
            remove(visitor.photograph)

    def result(self, token: str) -> Finished | None:
        """The result of that token, whosever it is."""
        asked = token.encode("ascii", "replace")  # what is no token of ours may have any character
        for visitor in list(self.known.values()):
            for finished in visitor.results:
                if secrets.compare_digest(finished.token.encode(), asked):
                    return finished
        return None
