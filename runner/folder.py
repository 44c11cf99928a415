"""A folder of pictures goes through the search: what is left to do is claimed, searched, written
and counted.

run.py says what is wanted; several processes may each run this on one folder (distributed.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import platform
import re
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from cli.errors import UserError
from cli.progress import Progress
from cli.signals import Stopped, heed_signals
from fast.choose import choose_threads
from fast.device import choose_device
from imaging.animation import KINDS, write_animation
from imaging.pictures import clashes, read_picture, to_tensor
from PULSE import PULSE, Figures, require_lr_size
from runner.distributed import SingleProcess, local_rank
from runner.jobs import Job, all_jobs, pixels_sha256, write_result
from runner.options import RunOptions
from runner.records import FOLDERS, VERSION, Record, all_records
from runner.retries import LoadedJob, require_output_dir, search_with_retries
from search_settings import Settings


@dataclass
class Report:
    """What one process did."""

    within: int = 0
    outside: list[str] = field(default_factory=list)  # `name (L2)`
    refused: dict[str, str] = field(default_factory=dict)  # picture → why
    kept: int = 0
    failure: str = ""  # what ended the run before everything was done


class Run:
    """One call of run.py, in one of its processes. Call `load`, in the first process `prepare`, in
    all `look_through`, then `work`.
    """

    def __init__(
        self,
        options: RunOptions,
        settings: Settings,
        pictures: list[Path],
        process: SingleProcess,
    ):
        self.options, self.settings, self.process = options, settings, process
        self.seed = options.seed
        self.fitting = options.batch_size  # pictures for which memory is enough, so far
        self.report = Report()
        self.progress = self.new_progress(0)
        rivals = clashes(pictures, "write the same result")
        for picture, reason in rivals.items() if process.rank == 0 else ():
            self.refuse(picture, reason)
        pictures = [picture for picture in pictures if picture not in rivals]
        self.jobs = all_jobs(pictures, options.duplicates, options.output_dir)
        self.counting = threading.Lock()
        self.kept: dict[str, str] = {}  # name of a finished result → SHA-256 of its input

    def new_progress(self, total: int) -> Progress:
        return Progress(total, "face", silent=self.process.rank > 0, quiet=self.options.quiet)

    def refuse(self, picture: Path, reason: str) -> None:
        """Name a picture that cannot be done, once, and go on."""
        if str(picture) not in self.report.refused:
            self.report.refused[str(picture)] = reason
            self.progress.error(f"refused: {picture}: {reason}")

    # ------------------------------------------------------------ before the work

    def load(self) -> None:
        """The generator, on this process's device. Raises: UserError."""
        options = self.options
        if options.threads is not None:  # as many for loading as well
            torch.set_num_threads(options.threads)
        device = choose_device(options.device, local_rank() if self.process.size > 1 else None)
        if device.type == "cuda":  # so that nothing opens a context on another process's GPU
            torch.cuda.set_device(device)
        self.model = PULSE(
            options.generator,
            str(device),
            options.cache_dir,
            options.compile,
            options.precision,
            not options.quiet and self.process.rank == 0,
            options.label,
        )
        torch.set_num_threads(choose_threads(options.threads, self.model.generator.synthesis))
        noise_layers = len(self.model.generator.noise_sizes)
        self.settings.noise_roles(noise_layers)
        if noise_layers == 0 and self.settings.concerns_noise and self.process.rank == 0:
            self.progress.say("this generator has no noise: the noise flags change nothing")

    def prepare(self) -> int:
        """Settle the seed, which is returned, see which results exist, and clear what a killed run
        left.

        Raises: UserError where nothing can be begun.
        """
        self.seed = self.settle_seed()
        self.look_through()
        self.remove_parts()
        self.report.kept = len(self.kept)
        return self.seed

    def remove_parts(self) -> None:
        """What a killed run left half written, in the folders that this one writes to: nobody else
        does, while it has the lock.
        """
        folders = [self.options.output_dir / name for name in ("", *FOLDERS)]
        if self.options.save_intermediate:
            tries, kinds = range(self.options.retries + 1), ("HR", "LR")
            folders += [j.intermediates(k, n) for j in self.jobs for k in kinds for n in tries]
        for part in (part for folder in folders for part in folder.glob(".*.part")):
            if re.fullmatch(r"\.\d+-[0-9a-f]{8}\.part", part.name):
                with contextlib.suppress(OSError):  # another user's, or a folder
                    part.unlink()

    def settle_seed(self) -> int:
        """The seed that was given; else, unless they are made again, that of the existing results;
        else one that is drawn.
        """
        if self.options.seed is not None:
            return self.options.seed
        seeds = (record.settings.get("seed") for record in all_records(self.options.output_dir))
        seed = next((seed for seed in seeds if isinstance(seed, int)), None)
        origin = "that of the existing results"
        if seed is None or self.options.overwrite:
            seed, origin = secrets.randbelow(2**31), "drawn"
        self.progress.say(f"seed {seed}, {origin} (-seed {seed} repeats this run)")
        return seed

    def all_settings(self) -> dict:
        """Everything that a result depends on but its pixels, as records hold it."""
        return recorded_settings(self.model, self.settings, self.options, self.seed)

    def look_through(self) -> None:
        """Which results exist, with all that is asked for. Raises: UserError where one was made
        with other settings.
        """
        if self.options.overwrite:
            return
        settings = self.all_settings()
        for job in self.jobs:
            record = job.record()
            # what -strict would not have written is no result
            if record is not None and (record.within_eps or not self.options.strict):
                record.require_settings(settings, job.existing())
                if self.is_complete(job, record):
                    self.kept[job.name] = record.input.get("pixels_sha256")

    def is_complete(self, job: Job, record: Record) -> bool:
        """Whether latent file, animation and intermediate pictures exist where they are asked for:
        only a search, the same one, can make them.
        """
        options = self.options
        return (
            (not options.animation or job.animation(options.animation).exists())
            and (not options.save_latent or job.has_latent_of(record))
            and (not options.save_intermediate or job.has_intermediates(record))
        )

    # ------------------------------------------------------------ the work

    def work(self) -> None:
        """Claim and search jobs until there are none; what a picture runs into ends that picture
        only.

        The next pictures are read, and the last results written, while the present ones are
        searched.
        """
        self.progress.close()
        self.progress = self.new_progress(len(self.jobs) - len(self.kept))
        written: list[Future] = []
        try:
            with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
                ahead = reader.submit(self.claim)
                while (claimed := ahead.result()) is not None:
                    ahead = reader.submit(self.claim)
                    batches, refused = claimed
                    for job, reason in refused:
                        self.refuse(job.picture, reason)
                        if job.name not in self.kept:
                            self.advance()
                    for batch in batches:
                        self.search(batch)
                        for each in written:  # no more than one batch waits to be written
                            each.result()
                        written = [writer.submit(self.keep, each) for each in batch if each.best]
                for each in written:
                    each.result()
        except Stopped:  # also while the last result is being written: the end is told last
            self.progress.silent = True
            raise
        except UserError as error:
            self.report.failure = "; ".join(error.lines)
        except OSError as error:
            self.report.failure = (
                f"{error.filename or self.options.output_dir} cannot be written "
                f"({error.strerror}): see to it and run again; what is finished is kept"
            )
        self.progress.close()

    def claim(self) -> tuple[list[list[LoadedJob]], list[tuple[Job, str]]] | None:
        """The next jobs that are not done, in batches of one LR size, on a CPU one by one: there
        batching gains nothing, and so a result does not depend on its neighbours to the last bit.
        And the jobs that cannot be done, with the reason. None where nothing is left.
        """
        size = self.options.batch_size
        first = self.process.claim() * size
        if first >= len(self.jobs):
            return None
        by_side: dict[int, list[LoadedJob]] = {}
        refused = []
        for job in self.jobs[first : first + size]:
            try:
                job.require_short_name()
                if job.name not in self.kept and not self.options.overwrite:
                    job.require_own_place()
                picture = read_picture(job.picture)
                require_lr_size(*picture.size, self.model.generator.resolution)
            except UserError as error:
                refused.append((job, str(error)))
                continue
            pixels = pixels_sha256(picture)
            if job.name not in self.kept:
                loaded = LoadedJob(job, to_tensor(picture), pixels)
                by_side.setdefault(picture.width, []).append(loaded)
            elif self.kept[job.name] != pixels:
                reason = "it has changed since its result was made: -overwrite makes it again"
                refused.append((job, reason))
        batches = list(by_side.values())
        if self.model.device.type == "cpu":
            batches = [[job] for batch in batches for job in batch]
        return batches, refused

    def search(self, batch: list[LoadedJob]) -> None:
        """Search for one batch, in parts where memory is not enough for all of it; names those for
        which it is not enough alone.
        """
        model, settings, options = self.model, self.settings, self.options
        waiting = batch
        while waiting:
            part, waiting = waiting[: self.fitting], waiting[self.fitting :]
            calls = self.live(part), self.lower_batch_size
            for each in search_with_retries(model, part, settings, options, self.seed, *calls):
                elsewhere = "" if model.device.type == "cpu" else "-device cpu, "
                reason = (
                    f"not enough memory for it on {model.device}, even alone: use {elsewhere}"
                    "-precision bfloat16 or a smaller generator"
                )
                self.refuse(each.job.picture, reason)
                if each.best is None:
                    self.advance()

    def lower_batch_size(self, size: int) -> None:
        """Memory was not enough: no batch is larger than `size` from here on."""
        if size < self.fitting:
            self.fitting = size
            self.progress.say(
                f"not enough memory for so many pictures at once: {size} from here on "
                f"(-batch_size {size})"
            )

    def live(self, batch: list[LoadedJob]) -> Callable[[int, Figures], None]:
        """What shows the L2 of the present pictures, seldom enough not to make a GPU wait."""
        last = 0.0
        name = batch[0].job.name + (f" and {len(batch) - 1} more" if len(batch) > 1 else "")
        eps, steps = self.settings.eps, self.settings.steps
        most = "at most " if self.settings.until == "eps" else ""

        def on_step(step: int, figures: Figures) -> None:
            nonlocal last
            heed_signals()
            if time.monotonic() - last > 0.2 and not self.progress.quiet:
                last = time.monotonic()
                self.progress.live(
                    f"{name}: L2 {figures['L2'].max().item():.5f} (eps {eps:g}), "
                    f"step {step + 1} of {most}{steps}",
                    len(batch) * self.process.size * (step + 1) / steps,
                )

        return on_step

    def keep(self, loaded: LoadedJob) -> None:
        """The best attempt's picture and record into their place, and a line that says how it
        stands. Raises: OSError.
        """
        job, result = loaded.job, loaded.best.result
        if result.best_step < 0:
            self.refuse(job.picture, "no step gave finite numbers: lower -learning_rate")
            self.advance()
            return
        side = "within" if result.within_eps else "outside"
        figures = f"{job.name}: {side} eps, L2 {result.l2:.5f} at step {result.best_step}"
        if self.options.strict and not result.within_eps:
            where = "not written (-strict)"
        else:
            require_output_dir(self.options.output_dir)
            where = self.write(loaded)
        if result.within_eps:
            self.report.within += 1
        else:
            self.report.outside.append(f"{job.name} ({result.l2:.5f})")
        done = self.advance()
        self.progress.say(f"{done}/{self.progress.total} {figures}, {where}{self.progress.left()}")

    def write(self, loaded: LoadedJob) -> Path:
        """A result into its place, the picture last; returns where that is. Raises: OSError."""
        job, best, options = loaded.job, loaded.best, self.options
        if options.overwrite:
            for kind in KINDS:  # of an earlier search
                job.animation(kind).unlink(missing_ok=True)
        if best.film:
            l2, step = best.result.l2, best.result.best_step
            path = job.animation(options.animation)
            write_animation(path, best.film, step, l2, best.HR, best.LR)
        latent = best.latent if options.save_latent else None
        record = record_of(loaded, self.model, self.settings, options, self.seed)
        return write_result(job, best.HR, record, latent)

    def advance(self) -> int:
        """One more result is done, well or badly; returns how many are."""
        with self.counting:  # the thread that writes counts, too
            done = self.process.finish()
            self.progress.advance_to(done)
            return done


def recorded_settings(model: PULSE, settings: Settings, options: RunOptions, seed: int) -> dict:
    """Everything that a result depends on but its pixels, as records hold it. seed: the run's."""
    return {
        **dataclasses.asdict(settings.resolved(len(model.generator.noise_sizes))),
        "seed": seed,
        "retries": options.retries,
        "precision": model.precision,
        "generator_sha256": model.generator.sha256,
    }


def record_of(
    loaded: LoadedJob, model: PULSE, settings: Settings, options: RunOptions, seed: int
) -> Record:
    """Everything that is known of a job's best attempt. seed: the run's."""
    job, best = loaded.job, loaded.best
    return Record(
        name=job.name,
        **dataclasses.asdict(best.result),
        eps=settings.eps,
        duplicate=job.duplicate,
        input={
            "file": job.picture.name.encode("utf-8", "backslashreplace").decode(),
            "pixels_sha256": loaded.pixels_sha256,
            "side": loaded.LR.shape[-1],
        },
        generator={"name": str(options.generator), **model.generator.facts},
        settings=recorded_settings(model, settings, options, seed),
        attempts=loaded.attempts,
        curve=best.curve,
        seconds=round(best.seconds, 3),
        device=str(model.device),
        threads=torch.get_num_threads(),
        formulation=model.formulation,
        versions={
            "pulse": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    )
