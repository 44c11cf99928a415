"""Measure the results of run.py: do they downscale to their LR, how often, how different are they.

The people in the results are imaginary: closeness to somebody's true picture is no goal of PULSE.

examples:
  python evaluate.py runs
      results in runs/, made from the pictures in input/: a table, with nearest and bicubic beside
  python evaluate.py runs -input_dir faces -groups groups.csv -json figures.json -html report.html
      and by the groups of a CSV file with the columns file and group; a page to look through
  python evaluate.py runs -input_dir noisy -clean faces -hr_dir photographs
      held also against LR pictures before they were degraded, and against true HR pictures

exit status: 0 everything was evaluated; 1 some file could not be used, and the rest was evaluated;
2 arguments or folders cannot be used, and nothing was evaluated.
"""

from __future__ import annotations

import argparse
import os
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError
from cli.progress import Progress, tell
from safe_files import require_folder_writable
from search_settings import require_positive

if TYPE_CHECKING:  # what they import takes seconds, and -h must not wait for it
    from evaluation.per_image import Evaluation
    from evaluation.report import Card
    from evaluation.results import PictureFolder, Problems, Result

WRITTEN = ("json", "csv", "markdown", "html")  # the flags that name a file to write
WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}
CARD = 512  # pixels of a picture on the page, at most


def parser() -> Parser:
    """The flags."""
    flags = Parser(__doc__)
    flags.add_argument("runs", metavar="RUNS", type=Path, help="output folder of run.py")
    flags.flag("input_dir", "folder of the LR pictures, or one", shown="input", type=Path)
    flags.flag("hr_dir", "folder of true HR pictures, named like the LR", type=Path)
    flags.flag("clean", "folder of the LR pictures before they were degraded", type=Path)
    flags.flag("groups", "CSV file with the columns file and group: figures by group", type=Path)
    flags.flag("json", "write everything to this file", type=Path)
    flags.flag("csv", "write a line per picture to this file", type=Path)
    flags.flag("markdown", "write the tables to this file", type=Path)
    flags.flag("html", "write a page with tables and pictures to this file", type=Path)
    flags.flag("threads", "CPU threads; more pay from about 512 pixels on", 1, type=int)
    flags.flag("overwrite", "replace files that exist", False, action="store_true")
    return flags


def check_arguments(args: argparse.Namespace) -> None:
    """Raises: UserError where there is nothing to read, or where a file must not be written."""
    require_positive("threads", args.threads)
    if not args.runs.is_dir():
        raise UserError(f"{args.runs} is no folder: name the -output_dir of a run.py")
    targets: dict[Path, str] = {}
    for flag in WRITTEN:
        path = getattr(args, flag)
        if path is None:
            continue
        told = f"-{flag} {path}"
        if path.is_dir():
            raise UserError(f"{told} is a folder: name a file")
        if path.exists() and not args.overwrite:
            raise UserError(f"{told} is there already: give another name, or -overwrite")
        if path.suffix == ".png" or (
            path.suffix == ".json" and path.with_suffix(".png").exists()  # a record
        ):
            raise UserError(f"{told} is the name of a result: give another name")
        if args.groups and path.exists() and path.samefile(args.groups):
            raise UserError(f"{told} is the file of -groups: give another name")
        if (rival := targets.setdefault(path.resolve(), flag)) != flag:
            raise UserError(f"{told} is also the file of -{rival}: give another name")
        require_folder_writable(path.parent, f"-{flag}")


def find_lr(args: argparse.Namespace, problems: Problems) -> PictureFolder | None:
    """Where the LR are; None, and a problem, where no -input_dir was given and `input` is missing.

    Raises: UserError where the given one cannot be read.
    """
    from evaluation.results import PictureFolder

    if args.input_dir is None and not Path("input").exists():
        reason = (
            "no such folder, so that only the records are evaluated: name the LR pictures with "
            "-input_dir"
        )
        problems.add(reason, "input")
        return None
    return PictureFolder(args.input_dir or Path("input"), "-input_dir")


def evaluate(args: argparse.Namespace, problems: Problems) -> tuple[Evaluation, list[list[Result]]]:
    """Everything measured, and the results that it is of, those of one input together.

    Raises: UserError where there is no result.
    """
    from evaluation.per_image import Evaluation
    from evaluation.results import PictureFolder, read_groups, read_results

    try:
        by_input = read_results(args.runs, problems)
    except OSError as error:
        raise UserError(f"{args.runs} cannot be read ({error.strerror})") from None
    if not by_input:
        reasons = "".join(f"\n{line}" for line in problems.lines())
        raise UserError(f"{args.runs} holds no result of run.py{reasons}")
    groups = {}
    if args.groups:
        groups = read_groups(args.groups, {name for name, _ in by_input}, problems)
    evaluation = Evaluation(
        problems,
        find_lr(args, problems),
        PictureFolder(args.hr_dir, "-hr_dir") if args.hr_dir else None,
        PictureFolder(args.clean, "-clean") if args.clean else None,
        groups,
    )
    progress = Progress(len(by_input), "input")
    for results in by_input.values():
        progress.live(f"evaluating the results of {results[0].input}")
        evaluation.measure(results)
        progress.advance()
    progress.close()
    return evaluation, list(by_input.values())


def cards(evaluation: Evaluation, by_input: list[list[Result]]) -> Iterator[Card]:
    """A Card per result, its pictures read only now; those without LR are left out."""
    from PIL import Image

    from evaluation.report import Card
    from evaluation.results import number
    from imaging.pictures import read_picture
    from runner.records import read_record

    measured = {row["name"] for row in evaluation.rows if row["method"] == "PULSE"}
    for results in by_input:
        LR = evaluation.read_lr(results[0])
        for result in results if LR is not None else []:
            if result.place.stem not in measured:
                continue
            try:
                HR = read_picture(result.place)
            except UserError:  # gone since it was measured
                continue
            HR.thumbnail((CARD, CARD), Image.Resampling.LANCZOS)
            record = read_record(result.place.with_suffix(".json"))
            curve = record and record.curve
            values = curve.get("L2") if isinstance(curve, dict) else None
            yield Card(
                name=result.place.stem,
                lr=LR,
                hr=HR,
                l2=result.l2,
                eps=result.eps,
                within_eps=result.within_eps,
                seed=result.seed or 0,
                seconds=result.seconds or 0.0,
                curve=[number(value) for value in values] if isinstance(values, list) else [],
                group=evaluation.groups.get(result.input, ""),
            )


def write_files(
    args: argparse.Namespace,
    evaluation: Evaluation,
    by_input: list[list[Result]],
    document: dict,
) -> None:
    """The files that were asked for. Raises: OSError."""
    from evaluation import tables
    from safe_files import atomic_write

    main, groups = tables.cells(document["table"]), document["groups"]
    by_group = tables.cells(groups["table"], tables.GROUP_HEADER) if groups else []
    parts = [
        f"# {document['title']}\n",
        *(tables.as_markdown(table) for table in (main, by_group) if table),
        *(f"{line}\n" for line in document["notes"]),
    ]
    texts = {
        "json": tables.as_json(document),
        "csv": tables.as_csv(evaluation.rows),
        "markdown": "\n".join(parts),
    }
    for flag, text in texts.items():
        if path := getattr(args, flag):
            with atomic_write(path) as file:
                file.write(text.encode("utf-8", "backslashreplace"))
    if args.html:
        from evaluation.report import write_report

        shown_cards = cards(evaluation, by_input)
        shown_tables = [main, by_group]
        write_report(args.html, document["title"], shown_tables, document["notes"], shown_cards)


def main() -> int:
    args = parser().parse_args()
    check_arguments(args)

    import torch

    from evaluation import tables
    from evaluation.results import Problems

    # Threads that wait for each other cost more than they give where pictures are small.
    torch.set_num_threads(min(args.threads, os.cpu_count() or 1))
    problems = Problems()
    evaluation, by_input = evaluate(args, problems)
    for line in problems.lines():
        tell(line, file=sys.stderr)
    if not evaluation.rows:
        tell("no result could be evaluated", file=sys.stderr)
        return SOME_REFUSED
    groups = tables.by_group(evaluation.rows)
    document = {
        "title": f"{args.runs}: {tables.what_was_evaluated(evaluation.rows)}",
        "table": tables.summary(evaluation.rows, evaluation.diversity),
        "groups": groups,
        "notes": [
            *tables.notes(evaluation.rows, evaluation.diversity),
            *evaluation.borrowed(),
            *tables.group_notes(groups),
        ],
        "problems": problems.lines(),
        "diversity": evaluation.diversity,
        "pictures": evaluation.rows,
    }
    print(document["title"], "", tables.as_text(tables.cells(document["table"])), sep="\n")
    if groups:
        print("", tables.as_text(tables.cells(groups["table"], tables.GROUP_HEADER)), sep="\n")
    print()
    for line in document["notes"]:
        # paths and addresses stay whole, to be copied
        print(textwrap.fill(line, 100, subsequent_indent="  ", **WHOLE_WORDS))
    try:
        write_files(args, evaluation, by_input, document)
    except OSError as error:
        name = error.filename or "a file"
        tell(f"evaluate.py: error: {name} cannot be written ({error.strerror})", file=sys.stderr)
        return SOME_REFUSED
    for flag in WRITTEN:
        if path := getattr(args, flag):
            tell(f"{flag}: {path}")
    return SOME_REFUSED if problems.names else OK


if __name__ == "__main__":
    run_command(main)
