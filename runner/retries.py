"""A batch of pictures goes through the search, those outside eps again where -retries says so; of
all attempts at a picture the best one counts.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from generators.latents import Latent
from imaging.animation import Film
from PULSE import PULSE
from runner.records import Job, curves, plain, write_intermediates
from search_settings import Settings
from walk import Result


@dataclass
class Piece:
    """A job with its input."""

    job: Job
    LR: Tensor  # (3, h, h)
    pixels: str  # SHA-256


@dataclass
class Found:
    """The best attempt for a job so far."""

    HR: Tensor
    LR: Tensor
    result: Result
    latent: Latent
    curve: dict[str, list]
    film: Film | None
    seconds: float


Attempted = tuple[Piece, Found, list[dict]]  # the best attempt, and the figures of all


class Searcher:
    """Searches with one model; `live(jobs)` is what tells of a batch while it is searched, called
    as on_step(step, figures).
    """

    def __init__(
        self,
        model: PULSE,
        settings: Settings,
        args,
        live: Callable[[list[Job]], Callable[[int, dict[str, Tensor]], None]],
    ):
        self.model, self.settings, self.args, self.live = model, settings, args, live

    def attempt(self, pieces: list[Piece]) -> tuple[list[Attempted], list[Piece]]:
        """Search for the pieces of one batch, again for those outside eps: the best of each, and
        what all its attempts reached; and the pieces for which memory was not enough.

        Raises: OSError.
        """
        best: dict[str, Found] = {}
        attempts: dict[str, list[dict]] = {piece.job.name: [] for piece in pieces}
        waiting, too_large = pieces, []
        for attempt in range(self.args.retries + 1):
            try:
                found = self.search(waiting, attempt)
            except torch.OutOfMemoryError:
                too_large = waiting
                break
            for piece, new in zip(waiting, found, strict=True):
                name = piece.job.name
                figures = dataclasses.asdict(new.result)
                attempts[name].append({key: plain(value) for key, value in figures.items()})
                if name not in best or _rank(new.result) < _rank(best[name].result):
                    best[name] = new
            waiting = [p for p in waiting if not best[p.job.name].result.within_eps]
            if not waiting:
                break
        done = [
            (piece, best[piece.job.name], attempts[piece.job.name])
            for piece in pieces
            if piece.job.name in best
        ]
        return done, too_large

    def search(self, pieces: list[Piece], attempt: int) -> list[Found]:
        """One search over a batch."""
        jobs = [piece.job for piece in pieces]
        figures: list[dict[str, Tensor]] = []
        live = self.live(jobs)
        films = []
        if self.args.animation:
            require_there(self.args.output_dir)
            steps, eps = self.settings.steps, self.settings.eps
            films = [Film(steps, eps, self.args.output_dir) for _ in jobs]

        def on_step(step: int, present: dict[str, Tensor]) -> None:
            figures.append(present)
            live(step, present)
            if films and films[0].wants(step):
                for film, l2, *pair in zip(
                    films, present["L2"].tolist(), *search.iterates, strict=True
                ):
                    film.add(step, l2, *pair)

        started = time.monotonic()
        search = self.model(
            torch.stack([piece.LR for piece in pieces]),
            seed=[job.seed(self.args.seed, attempt) for job in jobs],
            settings=self.settings,
            save_intermediate=self.args.save_intermediate,
            on_step=on_step,
        )
        for step, (HR, LR) in enumerate(search):
            if self.args.save_intermediate:
                require_there(self.args.output_dir)
                for i, job in enumerate(jobs):
                    write_intermediates(job, step, self.settings.steps, HR[i], LR[i])
        seconds = (time.monotonic() - started) / len(jobs)
        films = films or [None] * len(jobs)
        parts = (HR, LR, search.results, search.latents, curves(figures), films)
        search = None  # which holds on_step, which holds it: memory would wait for the collector
        return [Found(*each, seconds) for each in zip(*parts, strict=True)]


def require_there(output_dir: Path) -> None:
    """Raises: OSError where it has vanished: it is not made again, perhaps on another disk."""
    if not output_dir.is_dir():
        raise FileNotFoundError(errno.ENOENT, "it has vanished", str(output_dir))


def _rank(result: Result) -> tuple:
    """Smaller is better: within eps before outside, then by loss; what is not finite last."""
    return (not result.within_eps, result.best_step < 0, result.total)
