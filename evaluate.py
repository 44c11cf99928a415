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
2 arguments or folders cannot be used, and nothing was evaluated, or a file cannot be written.
"""

from __future__ import annotations

import os
import sys
import textwrap
from pathlib import Path

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError, escaped
from cli.guest import as_found
from cli.progress import Progress, tell
from evaluation.options import EvaluateOptions
from safe_files import atomic_write

WHOLE_WORDS = {"break_long_words": False, "break_on_hyphens": False}


def parser() -> Parser:
    """The folder of results; EvaluateOptions says defaults and meanings of the flags."""
    flags = Parser(__doc__)
    flags.add_argument("runs", metavar="RUNS", type=Path, help="output folder of run.py")
    flags.flags_of(EvaluateOptions)
    return flags


def main() -> int:
    args = vars(parser().parse_args())
    runs = args.pop("runs")
    options = EvaluateOptions(**args)
    options.check(runs)

    import torch  # this and what follows takes seconds, and -h must not wait for it

    from evaluation import tables
    from evaluation.per_image import Evaluation
    from evaluation.report import cards_of, write_report
    from evaluation.results import NO_LR, PictureFolder, Problems, read_groups, read_results

    problems = Problems()
    by_input = read_results(runs, problems)
    if not by_input:
        raise UserError(f"{runs} holds no result of run.py", *problems.lines())
    inputs = {results[0].input for results in by_input}
    groups = read_groups(options.groups, inputs, problems) if options.groups else {}
    input_dir = options.input_dir or Path("input")
    if options.input_dir is None and not input_dir.exists():
        problems.add(NO_LR, "input")
        input_dir = None
    lr = PictureFolder(input_dir, "-input_dir") if input_dir else None
    hr = PictureFolder(options.hr_dir, "-hr_dir") if options.hr_dir else None
    clean = PictureFolder(options.clean, "-clean") if options.clean else None
    evaluation = Evaluation(problems, lr, hr, clean, groups)
    progress = Progress(len(by_input), "input")
    with as_found():
        # Threads that wait for each other cost more than they give where pictures are small.
        torch.set_num_threads(min(options.threads, os.cpu_count() or 1))
        for results in by_input:
            progress.live(f"evaluating the results of {results[0].input}")
            evaluation.measure(results)
            progress.advance()
    progress.close()
    for line in problems.lines():
        tell(line, file=sys.stderr)
    if not evaluation.rows:
        tell("no result could be evaluated", file=sys.stderr)
        return SOME_REFUSED

    document = tables.summarise(str(runs), evaluation)
    title, notes = escaped(document["title"]), document["notes"]  # it names the folder
    shown = tables.of_document(document)
    tell(title, "")
    for table in shown:
        tell(*tables.as_text(table).splitlines(), "")
    for line in notes:
        # paths and addresses stay whole, to be copied
        tell(*textwrap.wrap(line, 100, subsequent_indent="  ", **WHOLE_WORDS))
    markdown = [f"# {title}\n", *map(tables.as_markdown, shown), *(f"{line}\n" for line in notes)]
    texts = {
        "json": tables.as_json(document),
        "csv": "\ufeff" + tables.as_csv(evaluation.rows),  # the mark by which Excel knows UTF-8
        "markdown": "\n".join(markdown),
    }
    for flag, path in options.written.items():
        try:
            if flag == "html":
                write_report(path, title, shown, notes, cards_of(by_input, evaluation))
            else:
                with atomic_write(path) as file:
                    file.write(texts[flag].encode("utf-8", "backslashreplace"))
        except OSError as error:
            reason = f"cannot be written ({error.strerror}): make room there, or name another file"
            raise UserError(f"-{flag} {path} {reason}") from None
        tell(f"{flag}: {path}")
    return SOME_REFUSED if problems.lines() else OK


if __name__ == "__main__":
    run_command(main)
