"""A batch of jobs goes through the search, those outside eps again where -retries says so; of all
attempts at a job the best one counts.
"""

from __future__ import annotations

import dataclasses
import errno
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import UserError
from fast.device import missing_operation
from fast.memory import is_out_of_memory
from generators.latents import Latent
from imaging.animation import Film
from PULSE import PULSE, Figures, Result
from runner.jobs import Job, write_intermediates
from runner.options import RunOptions
from runner.records import curves, finite_or_none
from search_settings import Settings


@dataclass
class Attempt:
    """One search for one job."""

    HR: Tensor  # (3, S, S) in [0, 1]
    LR: Tensor  # (3, h, h), DS(HR)
    result: Result
    latent: Latent
    curve: dict[str, list]  # per figure, its value at every step
    film: Film | None
    seconds: float

    @property
    def rank(self) -> tuple:
        """Smaller is better: within eps before outside, then by loss; what is not finite last."""
        return (not self.result.within_eps, self.result.best_step < 0, self.result.total)


@dataclass
class LoadedJob:
    """A job with its LR picture, and what its searches found."""

    job: Job
    LR: Tensor  # (3, h, h) in [0, 1]
    pixels_sha256: str
    best: Attempt | None = None
    attempts: list[dict] = field(default_factory=list)  # the figures of each

    def add(self, attempt: Attempt) -> None:
        """Count an attempt: it is kept if it is the best so far."""
        figures = dataclasses.asdict(attempt.result)
        self.attempts.append({name: finite_or_none(value) for name, value in figures.items()})
        if self.best is None or attempt.rank < self.best.rank:
            self.best = attempt


def search_with_retries(
    model: PULSE,
    batch: list[LoadedJob],
    settings: Settings,
    options: RunOptions,
    seed: int,
    on_step: Callable[[int, Figures], None],
    on_halving: Callable[[int], None],
) -> list[LoadedJob]:
    """Search for the jobs of a batch, again for those outside eps, as often as options.retries
    says; returns those for which memory was not enough even alone.

    on_step: called with every step's figures. on_halving: where memory is not enough for a batch,
    called with the size of the halves in which it is searched instead. Raises: OSError where a file
    cannot be written; UserError where the device lacks an operation.
    """
    waiting, too_large = batch, []
    for attempt in range(options.retries + 1):

        def search(part: list[LoadedJob], attempt: int = attempt) -> None:
            search_once(model, part, settings, options, seed, attempt, on_step)

        too_large += search_halving(model, waiting, search, on_halving)
        done = [each for each in waiting if all(each is not other for other in too_large)]
        waiting = [each for each in done if not each.best.result.within_eps]
        if not waiting:
            break
    return too_large


def search_halving(
    model: PULSE,
    batch: list[LoadedJob],
    search: Callable[[list[LoadedJob]], None],
    on_halving: Callable[[int], None],
) -> list[LoadedJob]:
    """`search` a batch, or where memory is not enough one half after the other, and so on; returns
    the jobs for which it was not enough alone.
    """
    try:
        search(batch)
        return []
    except NotImplementedError as error:
        raise UserError(missing_operation(error, model.device)) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
    model.free_memory()  # only here: within the block the error would hold the search's memory
    if len(batch) == 1:
        return batch
    half = (len(batch) + 1) // 2
    on_halving(half)
    parts = (batch[:half], batch[half:])
    return [each for part in parts for each in search_halving(model, part, search, on_halving)]


def search_once(
    model: PULSE,
    batch: list[LoadedJob],
    settings: Settings,
    options: RunOptions,
    seed: int,
    attempt: int,
    on_step: Callable[[int, Figures], None],
) -> None:
    """One search over a batch, attempt number `attempt` for each of its jobs."""
    jobs = [each.job for each in batch]
    all_figures: list[Figures] = []
    films: list[Film | None] = [None] * len(jobs)
    if options.animation:
        require_output_dir(options.output_dir)
        films = [Film(settings.steps, settings.eps, options.output_dir) for _ in jobs]

    def keep_figures(step: int, figures: Figures) -> None:
        all_figures.append(figures)
        on_step(step, figures)
        if films[0] is not None and films[0].wants(step):
            for film, l2, HR, LR in zip(
                films, figures["L2"].tolist(), *search.iterates, strict=True
            ):
                film.add(step, l2, HR, LR)

    if attempt == 0 and (options.save_intermediate or options.overwrite):
        for job in jobs:
            job.remove_intermediates()
    model.fit_for(settings, batch[0].LR.shape[-1])  # made once: its time is not this search's
    started = time.monotonic()
    search = model(
        torch.stack([each.LR for each in batch]),
        seed=[job.seed(seed, attempt) for job in jobs],
        settings=settings,
        save_intermediate=options.save_intermediate,
        on_step=keep_figures,
    )
    for step, (HR, LR) in enumerate(search):
        if options.save_intermediate:
            require_output_dir(options.output_dir)
            for i, job in enumerate(jobs):
                write_intermediates(job, attempt, step, settings.steps, HR[i], LR[i])
    seconds = (time.monotonic() - started) / len(jobs)
    results = search.results
    all_curves = curves(all_figures, [result.steps for result in results])
    parts = (batch, HR, LR, results, search.latents, all_curves, films)
    search = None  # it holds on_step, which holds it: memory would wait for the collector
    for each, *found in zip(*parts, strict=True):
        each.add(Attempt(*found, seconds))


def require_output_dir(output_dir: Path) -> None:
    """Raises: OSError where it has vanished: it is not made again, perhaps on another disk."""
    if not output_dir.is_dir():
        raise FileNotFoundError(errno.ENOENT, "it has vanished", str(output_dir))
