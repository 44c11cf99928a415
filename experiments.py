"""Which knob of the search matters, and how robust is it? Run every setting, measure, draw.

examples:
  python align_face.py -mode resize -input_dir photographs -output_dir lr16 -output_size 16
  python experiments.py -input_dir lr16 -generator demo -output_dir experiments
      the defaults, then each knob changed alone, on the same LR pictures with the same seed
  python experiments.py -input_dir lr16 -hr_dir photographs -generator demo -output_dir experiments
      and the paper's robustness experiment, from the photographs that the LR were made of
  python experiments.py -input_dir lr16 -generator demo -only defaults steps-200 steps-400
      some of it: the names are those of the folders

results: experiments.md (tables), experiments.json (all figures) and plots in <output_dir>, and a
folder with the pictures of each experiment, with its log. Stopped? The same command goes on. The
figures are those of evaluate.py.

exit status: 0 everything was measured; 1 some experiment failed or lacks pictures, the others are
measured; 2 arguments, folders or generator cannot be used, and nothing was begun.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError
from cli.progress import Progress, count, tell
from safe_files import require_folder_writable
from search_settings import require_positive, require_seed

if TYPE_CHECKING:  # what they import takes seconds, and -h must not wait for it
    from evaluation.ablation import Experiment
    from evaluation.results import PictureFolder
    from tasks import Task


def parser() -> Parser:
    """The flags."""
    flags = Parser(__doc__)
    flags.flag("input_dir", "folder of LR pictures", "input", type=Path)
    flags.flag(
        "hr_dir",
        "folder of the photographs that the LR were made of, by align_face.py -mode resize; with "
        "it robustness is measured too",
        type=Path,
    )
    flags.flag("output_dir", "folder for results, tables and plots", "experiments", type=Path)
    flags.flag("cache_dir", "where weights and prior fits are kept", "cache", type=Path)
    flags.flag("generator", "ffhq, demo or a weight file, as of run.py", "ffhq")
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    flags.flag("batch_size", "pictures searched at once; pays on a GPU", 1, type=int)
    flags.flag("seed", "of every search and every degradation", 0, type=int)
    flags.flag(
        "processes",
        "experiments at a time, each with one CPU thread",
        shown="CPU cores, 1 on a GPU",
        type=int,
    )
    flags.flag("only", "these experiments alone", nargs="+", metavar="NAME")
    flags.flag("overwrite", "make everything anew", False, action="store_true")
    flags.flag("quiet", "tell errors and the tables only", False, action="store_true")
    return flags


def check_arguments(args: argparse.Namespace) -> None:
    """Raises: UserError for what no experiment could be made with."""
    require_seed(args.seed)
    require_positive("batch_size", args.batch_size)
    if args.processes is not None:
        require_positive("processes", args.processes)
    from imaging.pictures import pictures_in

    pictures_in(args.input_dir, "-input_dir", "small pictures of faces")
    read = {args.input_dir.resolve()}
    if args.hr_dir is not None:
        pictures_in(args.hr_dir, "-hr_dir", "the photographs that the LR were made of")
        read.add(args.hr_dir.resolve())
    if args.output_dir.resolve() in read:
        told = f"-output_dir {args.output_dir}"
        raise UserError(f"{told} is where the pictures are: give another folder")
    require_folder_writable(args.output_dir, "-output_dir")


def choose(args: argparse.Namespace) -> list[Experiment]:
    """What is to be run. Raises: UserError where the generator cannot be had, or for a name that no
    experiment has.
    """
    from evaluation.ablation import experiments
    from PULSE import PULSE

    # Loaded here once, so that what is wrong with it is told once, and a download is made once.
    model = PULSE(args.generator, args.device, args.cache_dir, "auto", None, not args.quiet)
    args.device = str(model.generator.mean.device)
    if args.processes is None:
        args.processes = os.cpu_count() or 1 if args.device == "cpu" else 1
    found = experiments(model.generator.num_layers, robustness=args.hr_dir is not None)
    if args.only is None:
        return found
    names = [experiment.name for experiment in found]
    for name in args.only:
        if name not in names:
            need = "" if args.hr_dir else " (those of robustness need -hr_dir)"
            raise UserError(f"-only {name} is unknown: use {', '.join(names)}{need}")
    return [experiment for experiment in found if experiment.name in args.only]


def lr_folder(args: argparse.Namespace, degrade: str) -> Path:
    """Where the LR of a degradation are; of "" those that are made to compare."""
    return args.output_dir / "lr" / (degrade.replace(":", "-") or "none")


def degrade(
    args: argparse.Namespace, chosen: list[Experiment], lr: PictureFolder, side: int
) -> None:
    """Make the degraded LR, of so many pixels a side, by align_face.py.

    Raises: UserError where that fails, or where the photographs are not those of the LR.
    """
    from evaluation.ablation import require_same
    from evaluation.results import PictureFolder
    from tasks import Task, run_all

    def ended(task: Task) -> None:
        if task.failure:
            raise UserError(f"the LR of {task.name} cannot be made: {task.failure}")
        if task.refused:  # those of another seed may lie there
            reason = f"{task.said(0)} (all that was said is in {task.log})"
            raise UserError(f"some LR of {task.name} cannot be made: {reason}")

    tasks = []
    for kind in ("", *(experiment.degrade for experiment in chosen if experiment.degrade)):
        folder = lr_folder(args, kind)
        words = ["-mode", "resize", "-output_size", side, "-input_dir", args.hr_dir]
        words += ["-output_dir", folder, "-quiet", *["-overwrite"] * args.overwrite]
        words += ["-degrade", kind, "-seed", args.seed] if kind else []
        words = ["align_face.py", *map(str, words)]
        tasks.append(Task(folder.name, words, Path(f"{folder}.log")))
    run_all(tasks, args.processes, ended)
    require_same(lr, PictureFolder(lr_folder(args, ""), "-hr_dir"))


def searches(args: argparse.Namespace, chosen: list[Experiment]) -> list[Task]:
    """run.py for every experiment, the longest first, so that all processes end together."""
    from tasks import Task

    common = ["-generator", args.generator, "-device", args.device, "-cache_dir", args.cache_dir]
    common += ["-seed", args.seed, "-batch_size", args.batch_size, "-threads", 1]
    common += ["-overwrite"] * args.overwrite
    tasks = []
    for experiment in sorted(chosen, key=lambda experiment: -experiment.steps):
        folder = lr_folder(args, experiment.degrade) if experiment.degrade else args.input_dir
        runs = args.output_dir / experiment.name
        words = ["run.py", "-input_dir", folder, "-output_dir", runs, *common, *experiment.flags]
        tasks.append(Task(experiment.name, list(map(str, words)), Path(f"{runs}.log")))
    return tasks


def run_and_measure(
    args: argparse.Namespace, chosen: list[Experiment], lr: PictureFolder
) -> tuple[list[dict], list[str]]:
    """All experiments, each measured when it ends: rows of ablation.figures in the order of
    `chosen`, and what went wrong, in sentences.

    Raises: OSError where a log cannot be written.
    """
    from evaluation.ablation import DEFAULTS, figures
    from evaluation.results import PictureFolder, Problems
    from tasks import run_all

    by_name = {experiment.name: experiment for experiment in chosen}
    pictures = len(lr.by_name)
    progress = Progress(len(chosen) * pictures, "result", quiet=args.quiet)
    rows, wrong, finished = {}, [], 0

    def tell(running: list[Task]) -> None:
        made = {task.name: results_in(args.output_dir / task.name) for task in running}
        if (number := finished * pictures + sum(made.values())) > progress.done:
            progress.advance_to(number)
        progress.live(", ".join(f"{name} {done} of {pictures}" for name, done in made.items()))

    def measured(task: Task, problems: Problems) -> dict | None:
        experiment, made_of, clean = by_name[task.name], lr, None
        if experiment.degrade:
            made_of = PictureFolder(lr_folder(args, experiment.degrade), "LR in")
        if experiment.degrade or (task.name == DEFAULTS and args.hr_dir is not None):
            clean = lr
        return figures(experiment, args.output_dir / task.name, made_of, clean, problems)

    def ended(task: Task) -> None:
        nonlocal finished
        finished += 1
        problems, sentences = Problems(), []
        row = None if task.failure else measured(task, problems)
        if row is None:
            sentences.append(f"left out: {task.failure or f'no results, see {task.log}'}")
        else:
            rows[task.name] = row
            share = row["within_eps"]
            told = f"{share['within']} of {share['of']} within eps, mean L2 {row['l2']:.5f}"
            progress.say(f"{task.name}: {told}")
            if task.refused:
                sentences.append(f"some pictures were refused, see {task.log}")
        for sentence in [*sentences, *problems.lines()]:
            wrong.append(f"{task.name}: {sentence}")
            progress.error(wrong[-1])

    try:
        run_all(searches(args, chosen), args.processes, ended, tell)
    finally:
        progress.close()
    return [rows[name] for name in by_name if name in rows], wrong


def results_in(runs: Path) -> int:
    """How many pictures lie there."""
    return sum(1 for folder in (runs, runs / "outside_eps") for _ in folder.glob("*.png"))


def how_measured(args: argparse.Namespace) -> str:
    """By which command, when and on what: a sentence."""
    import torch

    from benchmarks.hardware import processor

    on_cuda = args.device.startswith("cuda")
    machine = torch.cuda.get_device_name(args.device) if on_cuda else processor()
    command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
    return (
        f"Measured on {datetime.date.today()} by `python {command}`, "
        f"{args.processes} at a time with one thread each, on {machine}, PyTorch "
        f"{torch.__version__}."
    )


def write_all(args: argparse.Namespace, rows: list[dict], side: int) -> list[Path]:
    """Tables, which are printed too, figures and plots; returns the files. Raises: OSError."""
    from evaluation import ablation, tables
    from safe_files import atomic_write

    pictures = count(rows[0]["pictures"], "picture")
    of_what = f"{pictures} of {side}×{side}, generator {Path(args.generator).name}"
    told = f"{of_what}, seed {args.seed}. {how_measured(args)}"
    main, robustness = ablation.knob_table(rows), ablation.robustness_table(rows)
    for table in filter(None, (main, robustness)):
        print(tables.as_text(table), end="\n\n")
    parts = [f"# Which knob matters\n\n{told} {ablation.NOTE}\n"]
    parts += [tables.as_markdown(main)] if main else []
    if robustness:
        parts += [ablation.ROBUSTNESS, tables.as_markdown(robustness)]
    texts = {
        "experiments.json": tables.as_json({"about": told, "experiments": rows}),
        "experiments.md": "\n".join(parts),
    }
    files = []
    for name, text in texts.items():
        files.append(args.output_dir / name)
        with atomic_write(files[-1]) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    try:
        from evaluation import plots
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "matplotlib":
            raise
        tell("no plots: matplotlib is not installed (pip install matplotlib)", file=sys.stderr)
        return files
    for name, figure in plots.plots(rows, of_what).items():
        files.append(args.output_dir / f"{name}.png")
        plots.write_plot(files[-1], figure)
    return files


def main() -> int:
    args = parser().parse_args()
    check_arguments(args)

    import torch

    from evaluation.ablation import side_of
    from evaluation.results import PictureFolder

    torch.set_num_threads(1)  # the searches need the cores
    lr = PictureFolder(args.input_dir, "-input_dir")
    side = side_of(lr)
    chosen = choose(args)
    try:
        if any(experiment.degrade for experiment in chosen):
            degrade(args, chosen, lr, side)
        rows, wrong = run_and_measure(args, chosen, lr)
        if not rows:
            tell("experiments.py: error: no experiment has a result", file=sys.stderr)
            return SOME_REFUSED
        files = write_all(args, rows, side)
    except OSError as error:
        name = error.filename or args.output_dir
        raise UserError(f"{name} cannot be written ({error.strerror}): make room there") from None
    tell(f"Written: {', '.join(map(str, files))}")
    return SOME_REFUSED if wrong else OK


if __name__ == "__main__":
    run_command(main)
