"""The experiments of experiments.py on one folder of LR pictures: degraded LR are made, run.py
searches, several at a time, each experiment is measured when it ends, and tables and plots are
written.
"""

from __future__ import annotations

import datetime
import os
import sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.hardware import processor
from cli.command import SOME_REFUSED
from cli.errors import UserError
from cli.progress import Progress, count, tell
from evaluation import ablation, tables
from evaluation.ablation import DEFAULTS, Experiment
from evaluation.options import StudyOptions
from evaluation.results import PictureFolder, Problems
from evaluation.scripts import Script, run_scripts
from fast.device import choose_device
from imaging.pictures import pictures_in
from PULSE import PULSE
from safe_files import atomic_write, require_folder_writable


def check_folders(options: StudyOptions) -> None:
    """Raises: UserError where there are no pictures, or where results cannot go."""
    pictures_in(options.input_dir, "-input_dir", "small pictures of faces")
    read = [options.input_dir.resolve()]
    if options.hr_dir is not None:
        pictures_in(options.hr_dir, "-hr_dir", "the photographs that the LR were made of")
        read.append(options.hr_dir.resolve())
    if options.output_dir.resolve() in read:
        given = f"-output_dir {options.output_dir}"
        raise UserError(f"{given} is where the pictures are: give another folder")
    require_folder_writable(options.output_dir, "-output_dir")


def device_of_searches(name: str) -> str:
    """The device of that name, as `choose_device` tries it. Raises: UserError.

    Tried on a GPU by a process of its own: what tries it holds some hundred megabytes there until
    it ends, and this process lasts as long as all searches.
    """
    if name == "cpu" or not torch.cuda.is_available():
        return str(choose_device(name))
    with ProcessPoolExecutor(1, get_context("spawn")) as other:
        return str(other.submit(choose_device, name).result())


def choose(options: StudyOptions) -> tuple[StudyOptions, list[Experiment]]:
    """The options with the device and the number of processes that are used, and what is to be run.

    Raises: UserError where the generator cannot be had, or for a name that no experiment has.
    """
    device = device_of_searches(options.device)
    # Loaded here once, so that what is wrong with it is reported once, and a download made once.
    model = PULSE(
        options.generator,
        "cpu",
        options.cache_dir,
        progress=not options.quiet,
        label=options.label,
    )
    processes = options.processes or (os.cpu_count() or 1 if device == "cpu" else 1)
    known = ablation.experiments(len(model.generator.noise_sizes), options.hr_dir is not None)
    names = [experiment.name for experiment in known]
    for name in options.only or ():
        if name not in names:
            need = "" if options.hr_dir else " (those of robustness need -hr_dir)"
            raise UserError(f"-only {name} is unknown: use {', '.join(names)}{need}")
    chosen = [each for each in known if options.only is None or each.name in options.only]
    return replace(options, device=device, processes=processes), chosen


class Study:
    """The experiments in `chosen` on the pictures in `lr`, which are those of options.input_dir.

    options: as `choose` returns them.
    """

    def __init__(self, options: StudyOptions, chosen: list[Experiment], lr: PictureFolder):
        self.options, self.chosen, self.lr = options, chosen, lr
        self.rows: dict[str, dict] = {}  # of ablation.figures, by the experiment's name
        self.failures: list[str] = []  # what went wrong, in sentences
        self.finished = 0  # experiments, well or badly
        results = len(chosen) * len(lr.by_name)
        self.progress = Progress(results, "result", quiet=options.quiet)

    def run(self, side: int) -> list[dict]:
        """Everything; returns the rows of what was measured, in the order of the experiments.

        side: of the LR, in pixels. Raises: UserError where degraded LR cannot be made; OSError
        where a log cannot be written.
        """
        processes, degradations = self.options.processes, [e.degrade for e in self.chosen]
        # The longest first, so that all processes end together.
        searches = [self.search(each) for each in sorted(self.chosen, key=lambda e: -e.steps)]
        try:
            if any(degradations):
                resizes = [self.resize(each, side) for each in ("", *filter(None, degradations))]
                run_scripts(resizes, processes, self.require_resized)
                ablation.require_same(self.lr, PictureFolder(self.lr_folder(""), "-hr_dir"))
            run_scripts(searches, processes, self.measure, self.show_progress)
        finally:
            self.progress.close()
        return [self.rows[each.name] for each in self.chosen if each.name in self.rows]

    def lr_folder(self, degrade: str) -> Path:
        """Where the LR of a degradation are; of "" those that are made to compare."""
        return self.options.output_dir / "lr" / (degrade.replace(":", "-") or "none")

    def resize(self, degrade: str, side: int) -> Script:
        """align_face.py, which makes the LR of a degradation."""
        options, folder = self.options, self.lr_folder(degrade)
        words = ["align_face.py", "-mode", "resize", "-output_size", side, "-quiet"]
        words += ["-input_dir", options.hr_dir, "-output_dir", folder]
        words += ["-overwrite"] * options.overwrite
        words += ["-degrade", degrade, "-seed", options.seed] if degrade else []
        return Script(folder.name, list(map(str, words)), Path(f"{folder}.log"))

    def require_resized(self, script: Script) -> None:
        """Raises: UserError where some LR was not made: one of another seed may lie there."""
        if script.failure:
            raise UserError(f"the LR of {script.name} cannot be made: {script.failure}")
        if script.status == SOME_REFUSED:
            reason = f"{script.line(0)} (all that was said is in {script.log})"
            raise UserError(f"some LR of {script.name} cannot be made: {reason}")

    def search(self, experiment: Experiment) -> Script:
        """run.py with the flags of an experiment."""
        options, runs = self.options, self.options.output_dir / experiment.name
        lr = self.lr_folder(experiment.degrade) if experiment.degrade else options.input_dir
        words = ["run.py", "-input_dir", lr, "-output_dir", runs, "-threads", 1]
        for flag in ("generator", "device", "cache_dir", "seed", "batch_size"):
            words += [f"-{flag}", getattr(options, flag)]
        words += [] if options.label is None else ["-label", options.label]
        words += [*["-overwrite"] * options.overwrite, *experiment.flags]
        return Script(experiment.name, list(map(str, words)), Path(f"{runs}.log"))

    def show_progress(self, running: list[str]) -> None:
        """How many results there are of the experiments that run, and of all."""
        pictures = len(self.lr.by_name)
        # At most: there may be results of pictures that are gone.
        made = {n: min(results_in(self.options.output_dir / n), pictures) for n in running}
        if (done := self.finished * pictures + sum(made.values())) > self.progress.done:
            self.progress.advance_to(done)
        self.progress.live(", ".join(f"{name} {n} of {pictures}" for name, n in made.items()))

    def measure(self, script: Script) -> None:
        """Measure an experiment that has ended."""
        self.finished += 1
        problems, sentences = Problems(), []
        row = None if script.failure else self.figures(script.name, problems)
        if row is None:
            sentences.append(f"left out: {script.failure or f'no results, see {script.log}'}")
        else:
            self.rows[script.name] = row
            share = "{within} of {of} within eps".format(**row["within_eps"])
            self.progress.say(f"{script.name}: {share}, mean L2 {row['l2']:.5f}")
            if script.status == SOME_REFUSED:
                sentences.append(f"some pictures were refused, see {script.log}")
        for sentence in [*sentences, *problems.lines()]:
            self.failures.append(f"{script.name}: {sentence}")
            self.progress.error(self.failures[-1])

    def figures(self, name: str, problems: Problems) -> dict | None:
        """A row of ablation.figures; None where there is no result."""
        experiment = next(each for each in self.chosen if each.name == name)
        lr, clean = self.lr, None
        if experiment.degrade:
            lr, clean = PictureFolder(self.lr_folder(experiment.degrade), "LR in"), self.lr
        elif name == DEFAULTS and self.options.hr_dir is not None:
            clean = self.lr
        return ablation.figures(experiment, self.options.output_dir / name, lr, clean, problems)


def results_in(runs: Path) -> int:
    """How many pictures an output folder of run.py has."""
    return sum(1 for folder in (runs, runs / "outside_eps") for _ in folder.glob("*.png"))


def write_study(options: StudyOptions, rows: list[dict], side: int, command: str) -> list[Path]:
    """Tables, which are printed too, all figures and plots; returns the files. Raises: OSError.

    rows: of ablation.figures; side: of the LR, in pixels; command: what was typed.
    """
    on_cuda = options.device.startswith("cuda")
    machine = torch.cuda.get_device_name(options.device) if on_cuda else processor()
    pictures, generator = count(rows[0]["pictures"], "picture"), Path(options.generator).name
    of_what = f"{pictures} of {side}×{side}, generator {generator}"
    about = (
        f"{of_what}, seed {options.seed}. Measured on {datetime.date.today()} by `python "
        f"{command}`, {options.processes} at a time with one thread each, on {machine}, PyTorch "
        f"{torch.__version__}."
    )
    knobs, robustness = ablation.knob_table(rows), ablation.robustness_table(rows)
    parts = [f"# Which knob matters\n\n{about} {ablation.NOTE}\n"]
    for table, heading in ((knobs, ""), (robustness, ablation.ROBUSTNESS)):
        if table:
            tell(*tables.as_text(table).splitlines(), "")
            parts += [*filter(None, [heading]), tables.as_markdown(table)]
    texts = {
        "experiments.json": tables.as_json({"about": about, "experiments": rows}),
        "experiments.md": "\n".join(parts),
    }
    files = [options.output_dir / name for name in texts]
    for path in files:
        with atomic_write(path) as file:
            file.write(texts[path.name].encode("utf-8", "backslashreplace"))
    try:
        from evaluation import plots
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        tell("no plots: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return files
    for name, figure in plots.plots(rows, of_what).items():
        files.append(options.output_dir / f"{name}.png")
        plots.write_plot(files[-1], figure)
    return files
