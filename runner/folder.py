"""A folder of pictures goes through the search: what is left to do is claimed, searched, written
and counted.

run.py says what is wanted; several processes may each run this on one folder (workers.py).
"""

from __future__ import annotations

import dataclasses
import os
import re
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import UserError
from cli.progress import Progress
from fast.choose import choose_threads
from imaging.animation import KINDS, write_animation
from imaging.pictures import read_picture, to_tensor
from PULSE import PULSE, require_lr_size
from runner.distributed import Alone, local_rank
from runner.records import (
    Job,
    all_jobs,
    all_records,
    clashes,
    new_record,
    pixels_sha256,
    require_same_settings,
    write_result,
)
from runner.retries import Found, Piece, Searcher, require_there
from search_settings import Settings

MAX_NAME = 240  # bytes: file systems take 255, some of which are for `_0099.png` and `.json`


@dataclass
class Report:
    """What one process did."""

    within: int = 0
    outside: list[str] = field(default_factory=list)  # `name (L2)`
    refused: dict[str, str] = field(default_factory=dict)  # picture → why
    kept: int = 0
    failure: str = ""  # what ended the run before everything was done


class Run:
    """One call of run.py, in one of its processes. Call `load`, `prepare` in the first process and
    `look_through` in the others, then `work`.
    """

    def __init__(self, args, settings: Settings, pictures: list[Path], workers: Alone):
        self.args, self.settings, self.workers = args, settings, workers
        self.report = Report()
        self.progress = self.new_progress(0)
        for picture, reason in clashes(pictures).items():
            if workers.rank == 0:
                self.refuse(picture, reason)
        rivals = clashes(pictures)
        pictures = [picture for picture in pictures if picture not in rivals]
        self.jobs = all_jobs(pictures, args.duplicates, args.output_dir)
        self.counting = threading.Lock()
        self.kept: dict[str, str] = {}  # name of a finished result → SHA-256 of its input

    def new_progress(self, total: int) -> Progress:
        return Progress(total, "face", silent=self.workers.rank > 0, quiet=self.args.quiet)

    def refuse(self, picture: Path, reason: str) -> None:
        """Name a picture that cannot be done, once, and go on."""
        if str(picture) not in self.report.refused:
            self.report.refused[str(picture)] = reason
            self.progress.error(f"refused: {picture}: {reason}")

    # ------------------------------------------------------------ before the work

    def prepare(self) -> int:
        """See what is there already, and settle the seed, which is returned.

        Raises: UserError where nothing can be begun.
        """
        args = self.args
        if args.seed is None:
            seeds = (record["settings"].get("seed") for record in all_records(args.output_dir))
            args.seed = next((seed for seed in seeds if isinstance(seed, int)), None)
            told = "that of the results which are there"
            if args.seed is None or args.overwrite:
                args.seed, told = secrets.randbelow(2**31), "drawn"
            self.progress.say(f"seed {args.seed}, {told} (-seed {args.seed} repeats this run)")
        self.look_through()
        for part in args.output_dir.rglob(".*.part"):  # of a run that was killed
            if re.fullmatch(r"\.\d+-[0-9a-f]{8}\.part", part.name):
                part.unlink(missing_ok=True)
        self.report.kept = len(self.kept)
        return args.seed

    def load(self) -> None:
        """The generator, on this process's device. Raises: UserError."""
        device = self.args.device
        if self.args.threads is not None:  # as many for loading as well
            torch.set_num_threads(self.args.threads)
        if self.workers.size > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
            device = f"cuda:{local_rank() % torch.cuda.device_count()}"
        args = self.args
        self.model = PULSE(
            args.generator, device, args.cache_dir, args.compile, args.precision, not args.quiet
        )
        torch.set_num_threads(choose_threads(args.threads, self.model.generator.synthesis))
        self.settings.noise_roles(self.model.generator.num_layers)

    def all_settings(self) -> dict:
        """Everything that a result depends on but its pixels, as records hold it."""
        return {
            **dataclasses.asdict(self.settings.resolved(self.model.generator.num_layers)),
            "seed": self.args.seed,
            "retries": self.args.retries,
            "precision": self.model.precision,
            "generator_sha256": self.model.generator.sha256,
        }

    def look_through(self) -> None:
        """Which results are there, with all that is asked for. Raises: UserError where one was made
        with other settings.
        """
        if self.args.overwrite:
            return
        settings = self.all_settings()
        for job in self.jobs:
            record = job.record()
            # what -strict would not have written is no result
            if record is not None and (record["within_eps"] or not self.args.strict):
                require_same_settings(job.existing(), record, settings)
                if self.is_complete(job, record):
                    self.kept[job.name] = record["input"].get("pixels_sha256")

    def is_complete(self, job: Job, record: dict) -> bool:
        """Whether latent file and animation are there where they are asked for: only a search, the
        same one, can make them.
        """
        animation, latent = self.args.animation, self.args.save_latent
        return (not animation or job.animation(animation).exists()) and (
            not latent or job.has_latent_of(record)
        )

    # ------------------------------------------------------------ the work

    def work(self) -> None:
        """Claim and do pieces of work until there are none; what a picture runs into ends that
        picture only.

        The next pieces are read, and the last results written, while the present ones are searched.
        """
        self.progress.close()
        left = len(self.jobs) - len(self.kept)
        self.progress = self.new_progress(left)
        searcher = Searcher(self.model, self.settings, self.args, self.live)
        written: list[Future] = []
        try:
            with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
                ahead = reader.submit(self.claim)
                while (batch := ahead.result()) is not None:
                    ahead = reader.submit(self.claim)
                    groups, refused = batch
                    for job, reason in refused:
                        self.refuse(job.picture, reason)
                        if job.name not in self.kept:
                            self.advance()
                    for pieces in groups:
                        found, too_large = searcher.attempt(pieces)
                        for piece in too_large:
                            self.refuse(piece.job.picture, "not enough memory: lower -batch_size")
                            if piece.job.name not in {done.job.name for done, *_ in found}:
                                self.advance()
                        for each in written:  # no more than one batch waits to be written
                            each.result()
                        written = [writer.submit(self.keep, *each) for each in found]
                for each in written:
                    each.result()
        except OSError as error:
            self.report.failure = (
                f"{error.filename or self.args.output_dir} cannot be written "
                f"({error.strerror}): see to it and run again; what is finished is kept"
            )
        self.progress.close()

    def claim(self) -> tuple[list[list[Piece]], list[tuple[Job, str]]] | None:
        """The next jobs that are not done, with their LR, those of one size together; and those
        that cannot be done, with the reason. None where nothing is left.
        """
        size = self.args.batch_size
        first = self.workers.claim() * size
        if first >= len(self.jobs):
            return None
        by_side: dict[int, list[Piece]] = {}
        refused = []
        for job in self.jobs[first : first + size]:
            try:
                require_short_name(job.name)
                image = read_picture(job.picture)
                require_lr_size(*image.size, self.model.generator.resolution)
                pixels = pixels_sha256(image)
                if job.name in self.kept:
                    if self.kept[job.name] != pixels:
                        changed = (
                            "it has changed since its result was made: -overwrite makes it anew"
                        )
                        refused.append((job, changed))
                    continue
                piece = Piece(job, to_tensor(image), pixels)
                by_side.setdefault(image.width, []).append(piece)
            except UserError as error:
                refused.append((job, str(error)))
        return list(by_side.values()), refused

    def live(self, jobs: list[Job]) -> Callable[[int, dict[str, Tensor]], None]:
        """What tells the L2 of the present pictures, seldom enough not to make a GPU wait."""
        told = 0.0
        name = jobs[0].name + (f" and {len(jobs) - 1} more" if len(jobs) > 1 else "")

        def on_step(step: int, figures: dict[str, Tensor]) -> None:
            nonlocal told
            if time.monotonic() - told > 0.2 and not self.progress.quiet:
                told = time.monotonic()
                self.progress.live(
                    f"{name}: L2 {figures['L2'].max().item():.5f} (eps {self.settings.eps:g}), "
                    f"step {step + 1} of {self.settings.steps}",
                    len(jobs) * self.workers.size * (step + 1) / self.settings.steps,
                )

        return on_step

    def keep(self, piece: Piece, found: Found, attempts: list[dict]) -> None:
        """The picture and its record into their place, and a line that says how it stands. Raises:
        OSError.
        """
        job, result = piece.job, found.result
        name = job.name
        if result.best_step < 0:
            self.refuse(job.picture, "no step gave finite numbers: lower -learning_rate")
            self.advance()
            return
        side = "within" if result.within_eps else "outside"
        figures = f"{name}: {side} eps, L2 {result.l2:.5f} at step {result.best_step}"
        if self.args.strict and not result.within_eps:
            where = "not written (-strict)"
        else:
            require_there(self.args.output_dir)
            where = self.write(piece, found, attempts)
        if result.within_eps:
            self.report.within += 1
        else:
            self.report.outside.append(f"{name} ({result.l2:.5f})")
        done = self.advance()
        left = self.progress.left()
        self.progress.say(f"{done}/{self.progress.total} {figures}, {where}{left}")

    def write(self, piece: Piece, found: Found, attempts: list[dict]) -> Path:
        """A result into its place, the picture last; returns where that is. Raises: OSError."""
        job, generator = piece.job, self.model.generator
        if self.args.overwrite:
            for kind in KINDS:  # of an earlier search
                job.animation(kind).unlink(missing_ok=True)
        if found.film:
            write_animation(
                job.animation(self.args.animation),
                found.film,
                found.result.best_step,
                found.result.l2,
                found.HR,
                found.LR,
            )
        made_with = {
            "eps": self.settings.eps,
            "generator": {"name": str(self.args.generator), "sha256": generator.sha256},
            "settings": self.all_settings(),
            "device": str(self.model.device),
            "formulation": self.model.formulation,
        }
        record = new_record(job, piece.pixels, piece.LR, found, attempts, made_with)
        return write_result(job, found.HR, record, found.latent if self.args.save_latent else None)

    def advance(self) -> int:
        """One more result is done, well or badly; returns how many are."""
        with self.counting:  # the thread that writes counts, too
            done = self.workers.finish()
            self.progress.advance_to(done)
            return done


def require_short_name(name: str) -> None:
    """Raises: UserError where a file system would not take `name` with our endings."""
    if (length := len(os.fsencode(name))) > MAX_NAME:
        raise UserError(
            f"its result's name would have {length} bytes, more than {MAX_NAME}: rename it"
        )
