"""Search for high-resolution faces that downscale to the small pictures in a folder.

The people in the results are imaginary: they do not exist, and nobody can be identified with them.

examples:
  python run.py -generator demo -duplicates 4 -seed 0
      four faces for every picture in input/, with the small generator of this repository
  python run.py -input_dir faces -output_dir results -eps 1e-3 -steps 200 -save_intermediate
      with the FFHQ generator of 1024 pixels, closer to the input, every step kept as a picture

results: <output_dir>/<name>.png, or <output_dir>/outside_eps/<name>.png where no face came within
eps; with -save_latent <name>.npz beside it, from which -render draws it again.

exit status: 0 every picture has its result; 1 some picture was refused or, with -strict, is outside
eps; 2 arguments, folders or generator cannot be used, and nothing was begun.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import time
from pathlib import Path

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError
from cli.guest import as_found
from cli.progress import count, some, tell
from runner.distributed import launched
from runner.options import RunOptions
from safe_files import require_folder_writable
from search_settings import Settings

ADVICE = (
    "more steps (-steps 200), -retries 3, another -seed, less GEOCROSS in -loss_str, a better "
    "aligned face; a larger -eps accepts more."
)


def parser() -> Parser:
    """The flags: RunOptions and Settings say their defaults and meanings."""
    flags = Parser(__doc__)
    flags.flags_of(RunOptions)
    flags.flags_of(Settings)
    return flags


def read_arguments() -> tuple[RunOptions, Settings]:
    """Options and settings, checked as far as that is possible without a generator."""
    flags = parser()
    args = vars(flags.parse_args())
    settings, options = (
        kind(**{each.name: args[each.name] for each in dataclasses.fields(kind)})
        for kind in (Settings, RunOptions)
    )
    try:
        settings.check()
        options.check()
    except UserError as error:
        flags.error(str(error))
    if options.generator is None and not options.render:
        options = dataclasses.replace(options, generator="ffhq")
    return options, settings


def find_pictures(options: RunOptions) -> list[Path]:
    """The LR pictures, without photographs whose aligned faces lie beside them.

    Raises: UserError where there is none, or where the results cannot go.
    """
    from imaging.pictures import pictures_in
    from imaging.provenance import aligned_sources
    from runner.records import FOLDERS

    input_dir, output_dir = options.input_dir, options.output_dir
    pictures, others = pictures_in(input_dir, "-input_dir", "small pictures of faces")
    sources = aligned_sources(pictures)
    if launched()[0] == 0 and not options.quiet:
        if others:
            tell(f"skipped, no pictures: {some(others)}", file=sys.stderr)
        if sources:
            tell(f"skipped, aligned faces lie beside them: {some(sources)}", file=sys.stderr)
    folder = input_dir if input_dir.is_dir() else input_dir.parent
    if os.path.realpath(folder) in (os.path.realpath(output_dir / name) for name in ("", *FOLDERS)):
        raise UserError(
            f"-output_dir {output_dir} is where the inputs are, and results have their names: give "
            f"another folder"
        )
    require_folder_writable(output_dir, "-output_dir")
    return [picture for picture in pictures if picture.name not in sources]


def summarise(
    options: RunOptions, settings: Settings, reports: list, seconds: float, listed: bool
) -> int:
    """Tell on stdout what all processes did; returns the exit status. listed: in results.csv."""
    within = sum(report.within for report in reports)
    outside = [name for report in reports for name in report.outside]
    refused = {picture: why for report in reports for picture, why in report.refused.items()}
    failures = sorted({report.failure for report in reports if report.failure})
    for picture, reason in refused.items():
        if picture not in reports[0].refused:  # another process met it, and said nothing
            tell(f"refused: {picture}: {reason}", file=sys.stderr)
    for failure in failures:
        tell(f"run.py: error: {failure}", file=sys.stderr)
    tell(
        f"{count(within + len(outside), 'face')} made: {within} within eps {settings.eps:g}, "
        f"{len(outside)} outside; {count(len(refused), 'picture')} refused; {seconds:.1f} s"
    )
    if reports[0].kept:
        tell(f"{count(reports[0].kept, 'result')} kept from before (-overwrite makes them again)")
    if outside:
        kept = "not written" if options.strict else f"in {options.output_dir / 'outside_eps'}"
        first = "" if settings.search == "quick" else "-search quick, "
        tell(f"Outside eps, {kept}: {some(outside)}.", f"To come closer: {first}{ADVICE}")
    tell(f"Pictures: {options.output_dir}{', listed in results.csv' * listed}")
    return SOME_REFUSED if refused or failures or (options.strict and outside) else OK


def summary_only(output_dir: Path) -> int:
    """-summary: `results.csv` from the existing records."""
    from runner.records import require_own_summary, write_summary

    require_own_summary(output_dir)
    if not output_dir.is_dir():
        raise UserError(f"-output_dir {output_dir} is no folder: name one with results")
    try:
        path, records = write_summary(output_dir)
    except OSError as error:
        raise UserError(
            f"{output_dir / 'results.csv'} cannot be written ({error.strerror})"
        ) from None
    within = sum(record.within_eps for record in records)
    tell(f"{count(len(records), 'result')}, {within} within eps: {path}")
    return OK


def main() -> int:
    started = time.monotonic()
    options, settings = read_arguments()
    first = launched()[0] == 0
    if options.summary:
        return summary_only(options.output_dir) if first else OK
    if options.animation:
        from imaging.animation import require_encoder

        require_encoder(options.animation)
    if options.render:
        from runner.render import render_files

        with as_found():
            return render_files(options) if first else OK
    pictures = find_pictures(options)

    from runner.distributed import join, lock_folder
    from runner.folder import Report, Run
    from runner.jobs import all_jobs, write_sheet
    from runner.records import require_own_summary, write_summary
    from runner.retries import require_output_dir

    output_dir = options.output_dir
    process = join()
    run = Run(options, settings, pictures, process)
    with as_found(), contextlib.ExitStack() as stack:
        stack.enter_context(process.missed())

        def prepare() -> int:
            require_own_summary(output_dir)
            existed = output_dir.is_dir()
            if existed:  # before anything is loaded, which may take minutes
                stack.enter_context(lock_folder(output_dir))
            run.load()
            if not existed:  # made only now: a generator that cannot be had leaves nothing behind
                output_dir.mkdir(parents=True, exist_ok=True)
                stack.enter_context(lock_folder(output_dir))
            return run.prepare()

        run.seed = process.first(prepare)
        if process.rank > 0:
            run.load()
            run.look_through()
        run.work()
        given = process.gather(dataclasses.asdict(run.report))
        if process.rank > 0:
            return OK
        reports = [Report(**report) for report in given if report is not None]
        if len(reports) < len(given):
            reports[0].failure = reports[0].failure or "another process ended before all was done"
        refused = {picture for report in reports for picture in report.refused}
        listed = False  # all results, in results.csv
        missing = 0  # sheets
        try:
            require_output_dir(output_dir)
            write_summary(output_dir)
            listed = True
            for picture in pictures if options.sheet else []:
                jobs = all_jobs([picture], options.duplicates, output_dir)
                if str(picture) in refused or not any(job.existing() for job in jobs):
                    continue
                try:
                    sheet = write_sheet(jobs, options.overwrite)
                    if not options.quiet:
                        tell(f"sheet: {sheet}")
                except UserError as error:
                    missing += 1
                    tell(f"no sheet of {picture}: {error}", file=sys.stderr)
            if missing and not reports[0].failure:
                reports[0].failure = f"{count(missing, 'sheet')} missing, for the reasons above"
        except OSError as error:
            reports[0].failure = reports[0].failure or (
                f"{error.filename or output_dir} cannot be written ({error.strerror})"
            )
        return summarise(options, settings, reports, time.monotonic() - started, listed)


if __name__ == "__main__":
    run_command(main, resumes=True)
