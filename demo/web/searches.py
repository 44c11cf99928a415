"""Searches as run.py does, for one visitor after another."""

from __future__ import annotations

import gc
import io
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cli.errors import UserError
from demo.web.visitors import Finished, Task
from fast.choose import choose_threads
from generators.fit import Fit
from imaging.pictures import to_picture, to_tensor
from PULSE import PULSE, Figures, Search, require_lr_size
from runner.folder import record_of
from runner.jobs import all_jobs, encode_picture, pixels_sha256
from runner.retries import LoadedJob, search_with_retries
from search_settings import Settings

MAX_WAITING = 20  # searches
LIVE_EVERY = 0.15  # seconds between two iterates that are shown


class Searcher:
    """Searches as run.py does, one task after another, in a thread of its own: PyTorch's number of
    threads, which decides over the last bits, is one per thread.

    The generator that was asked for last stays loaded.
    """

    def __init__(self, device: str, cache_dir: Path):
        self.device, self.cache_dir = device, cache_dir
        self.thread = ThreadPoolExecutor(1)
        self.waiting: list[Task] = []  # the first is running
        self.threads = torch.get_num_threads()
        self.name, self.model = "", None

    def enter(self, task: Task) -> None:
        """Take the last place in the queue. Raises: UserError."""
        if len(self.waiting) >= MAX_WAITING:
            raise UserError(f"{MAX_WAITING} searches are waiting already: try again later")
        self.waiting.append(task)

    def load(self, task: Task) -> PULSE:
        """The generator of a task. Raises: UserError, Cancelled."""
        name = task.options.generator
        if name != self.name:
            task.stage = f"Loading the generator {name}."
            self.name, self.model = "", None  # not both in memory
            gc.collect()
            torch.set_num_threads(self.threads)
            self.model = PULSE(name, self.device, self.cache_dir, progress=task.downloading)
            self.model.progress = False  # it would keep the task, and show its fits in the terminal
            self.name = name
        torch.set_num_threads(self.threads)
        torch.set_num_threads(choose_threads(None, self.model.generator.synthesis))
        return self.model

    def run(self, task: Task) -> None:
        """Load and search; what is finished is in the task. Raises: UserError, Cancelled."""
        try:
            task.go_on()
            model = self.load(task)
            require_lr_size(*task.LR.size, model.generator.resolution)
            pixels = pixels_sha256(task.LR)
            for job in all_jobs([Path("face.png")], task.options.duplicates, Path()):
                task.stage, task.iterate = "Preparing the search.", None
                loaded = LoadedJob(job, to_tensor(task.LR), pixels)
                task.finished.append(self.finished(model, loaded, task))
        finally:
            if self.model is not None:
                self.model.free_memory()

    def finished(self, model: PULSE, loaded: LoadedJob, task: Task) -> Finished:
        """Search for one job; its files' content. Raises: UserError, Cancelled."""
        watched = Watched(model, task)
        wanted = [loaded], task.settings, task.options, task.seed
        if search_with_retries(watched, *wanted, on_step=ignored, on_halving=ignored):
            raise UserError(f"not enough memory for it on {model.device}: use a smaller generator")
        best = loaded.best
        if best.result.best_step < 0:
            raise UserError("no step gave finite numbers: choose another seed")
        record = record_of(loaded, model, task.settings, task.options, task.seed)
        file = io.BytesIO()
        encode_picture(file, best.HR, record)
        return Finished(task.LR, to_picture(best.LR), file.getvalue(), record)


def ignored(*_) -> None:
    """What run.py would show on a terminal."""


class Watched:
    """A model each of whose fits and searches is shown in a task while it is made, and ends with
    the task: Cancelled is raised then.
    """

    def __init__(self, model: PULSE, task: Task):
        self.model, self.task = model, task

    def __getattr__(self, name: str):
        return getattr(self.model, name)

    def fit_for(self, settings: Settings, side: int) -> Fit | None:
        return self.model.fit_for(settings, side, self.task.fitting)

    def __call__(self, LR: torch.Tensor, *, on_step: Callable, **settings) -> Search:
        task, shown = self.task, 0.0

        def show(step: int, figures: Figures) -> None:
            nonlocal shown
            task.go_on()
            on_step(step, figures)
            if time.monotonic() - shown > LIVE_EVERY:
                HR, small = search().iterates
                task.iterate = to_picture(HR[0]), to_picture(small[0])
                task.step, task.l2, task.stage = step, figures["L2"].item(), ""
                shown = time.monotonic()

        begun = self.model(LR, on_step=show, **settings)
        search = weakref.ref(begun)  # it holds `show`
        return begun
