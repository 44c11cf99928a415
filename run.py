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

import argparse
import contextlib
import dataclasses
import sys
import time
from pathlib import Path

from cli.command import OK, SOME_REFUSED, Parser, run_command
from cli.errors import UserError
from cli.progress import count, some, tell
from runner.distributed import is_first
from safe_files import require_folder_writable
from search_settings import COMPILE, PRECISIONS, Settings, require_positive, require_seed

MAX_THREADS = 1024  # far more than pay; PyTorch dies of what the system cannot start
ADVICE = (
    "To come closer: more steps (-steps 200), -retries 3, another -seed, less GEOCROSS in "
    "-loss_str, a better aligned face; a larger -eps accepts more."
)


def parser() -> Parser:
    """The flags; those of the search, with their defaults and meanings, are Settings' own."""
    flags = Parser(__doc__)
    flags.flag("input_dir", "folder of LR pictures, or one picture", "input", type=Path)
    flags.flag("output_dir", "folder for the results, made if missing", "runs", type=Path)
    flags.flag("cache_dir", "where weights and prior fits are kept", "cache", type=Path)
    flags.flag(
        "generator",
        "ffhq (1024 pixels, fetched once), demo (no download) or a weight file; with -render that "
        "of the first file",
        shown="ffhq",
    )
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    flags.flag("duplicates", "results per picture, from seeds seed, seed + 1, …", 1, type=int)
    flags.flag("batch_size", "pictures searched at once; pays on a GPU", 1, type=int)
    flags.flag("seed", "where the search starts", shown="drawn and printed", type=int)
    flags.flag(
        "retries", "further searches, from other starts, for a picture outside eps", 0, type=int
    )
    flags.flag(
        "threads",
        "CPU threads; the same number gives the same bytes",
        shown="1 for a small generator, else PyTorch's",
        type=int,
    )
    flags.flag(
        "compile",
        "auto (where it pays), on or off: code for this machine, made once and kept in the cache; "
        "on CUDA also whole steps, recorded and replayed",
        "auto",
        choices=COMPILE,
    )
    flags.flag(
        "precision",
        "of the network: float32, tf32 (on CUDA, and the default there where PyTorch's own "
        "convolutions use it) or bfloat16; latents, statistics, loss and downscaling stay float32",
        shown="float32",
        choices=PRECISIONS,
    )
    for setting in dataclasses.fields(Settings):
        about = setting.metadata
        if about["kind"] is bool:
            flags.flag(setting.name, about["help"], False, action="store_true")
        else:
            flags.flag(
                setting.name, about["help"], setting.default, about["shown"], type=about["kind"]
            )
    flags.flag(
        "save_intermediate",
        "keep the best pair so far after every step, under <output_dir>/<name>/HR and LR",
        False,
        action="store_true",
    )
    flags.flag(
        "sheet",
        "one picture per input that shows LR, bicubic and all results, under <output_dir>/sheets",
        False,
        action="store_true",
    )
    flags.flag(
        "animation",
        "the search as a moving picture, under <output_dir>/animations: gif, webp or mp4 (which "
        "needs imageio-ffmpeg)",
        choices=["gif", "webp", "mp4"],
    )
    flags.flag(
        "save_latent",
        "<name>.npz beside each result, from which -render makes it again",
        False,
        action="store_true",
    )
    flags.flag(
        "render",
        "search for nothing: draw the pictures of these latent files again",
        nargs="+",
        type=Path,
        metavar="FILE",
    )
    flags.flag(
        "strict",
        "write nothing where eps is not reached, and exit with 1 then",
        False,
        action="store_true",
    )
    flags.flag("overwrite", "make results that exist anew", False, action="store_true")
    flags.flag(
        "summary",
        "search for nothing: rebuild <output_dir>/results.csv from the records",
        False,
        action="store_true",
    )
    flags.flag("quiet", "tell errors and the summary only", False, action="store_true")
    return flags


def read_arguments() -> tuple[argparse.Namespace, Settings]:
    """Arguments and settings, checked as far as that is possible without a generator."""
    flags = parser()
    args = flags.parse_args()
    names = [setting.name for setting in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(args, name) for name in names})
    try:
        settings.check()
        require_positive("batch_size", args.batch_size)
        require_positive("duplicates", args.duplicates)
        if args.retries < 0:
            raise UserError(f"retries must be 0 or more, not {args.retries}")
        if args.threads is not None:
            require_positive("threads", args.threads)
            if args.threads > MAX_THREADS:
                raise UserError(f"threads must be at most {MAX_THREADS}, not {args.threads}")
        if args.seed is not None:
            require_seed(args.seed)
            require_seed(args.seed + args.duplicates - 1)
    except UserError as error:
        flags.error(str(error))
    if args.device.split(":")[0] not in ("auto", "cuda", "mps", "cpu"):
        flags.error(f"device {args.device!r} is unknown: use auto, cuda, mps or cpu")
    if args.animation:
        from imaging.animation import require_encoder

        require_encoder(args.animation)
    if args.generator is None and not args.render:
        args.generator = "ffhq"
    return args, settings


def find_pictures(args: argparse.Namespace) -> list[Path]:
    """The LR pictures, without photographs whose aligned faces lie beside them.

    Raises: UserError where there is none, or where the results cannot go.
    """
    from imaging.pictures import aligned_sources, pictures_in

    pictures, others = pictures_in(args.input_dir, "-input_dir", "small pictures of faces")
    sources = aligned_sources(pictures)
    if is_first() and not args.quiet:
        if others:
            tell(f"passed over, no pictures: {some(others)}", file=sys.stderr)
        if sources:
            tell(f"passed over, aligned faces lie beside them: {some(sources)}", file=sys.stderr)
    pictures = [picture for picture in pictures if picture.name not in sources]
    folder = args.input_dir if args.input_dir.is_dir() else args.input_dir.parent
    if folder.resolve() == args.output_dir.resolve():
        raise UserError(
            f"-output_dir {args.output_dir} is where the inputs are, and results have "
            f"their names: give another folder"
        )
    require_folder_writable(args.output_dir, "-output_dir")
    return pictures


def summarise(args: argparse.Namespace, reports: list, seconds: float) -> int:
    """Tell on stdout what all processes did; returns the exit status."""
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
        f"{count(within + len(outside), 'face')} made: {within} within eps {args.eps:g}, "
        f"{len(outside)} outside; {count(len(refused), 'picture')} refused; {seconds:.1f} s"
    )
    if reports[0].kept:
        tell(f"{count(reports[0].kept, 'result')} kept from before (-overwrite makes them anew)")
    if outside:
        kept = "not written" if args.strict else f"in {args.output_dir / 'outside_eps'}"
        tell(f"Outside eps, {kept}: {some(outside)}.", ADVICE)
    tell(f"Pictures: {args.output_dir}, listed in results.csv")
    return SOME_REFUSED if refused or failures or (args.strict and outside) else OK


def summary_only(args: argparse.Namespace) -> int:
    """-summary: `results.csv` from the records that are there."""
    from runner.records import write_summary

    if not args.output_dir.is_dir():
        raise UserError(f"-output_dir {args.output_dir} is no folder: name one with results")
    try:
        path, records = write_summary(args.output_dir)
    except OSError as error:
        raise UserError(
            f"{args.output_dir / 'results.csv'} cannot be written ({error.strerror})"
        ) from None
    within = sum(bool(record["within_eps"]) for record in records)
    tell(f"{count(len(records), 'result')}, {within} within eps: {path}")
    return OK


def main() -> int:
    started = time.monotonic()
    args, settings = read_arguments()
    if args.summary:
        return summary_only(args)
    if args.render:
        from runner.render import render_files

        return render_files(args) if is_first() else OK
    pictures = find_pictures(args)

    from locks import held_open
    from runner.distributed import LOCK, join, lock_folder
    from runner.folder import Report, Run
    from runner.records import all_jobs, write_sheet, write_summary
    from runner.retries import require_there

    workers = join()
    run = Run(args, settings, pictures, workers)
    with contextlib.ExitStack() as stack:

        def lock() -> None:
            lock_folder(args.output_dir, stack.enter_context(held_open(args.output_dir / LOCK)))

        def prepare() -> int:
            there = args.output_dir.is_dir()
            if there:  # before anything is loaded, which may take minutes
                lock()
            run.load()
            if not there:  # made only now: a generator that cannot be had leaves nothing behind
                args.output_dir.mkdir(parents=True, exist_ok=True)
                lock()
            return run.prepare()

        args.seed = workers.first(prepare)
        if workers.rank > 0:
            run.load()
            run.look_through()
        run.work()
        reports = [Report(**report) for report in workers.gather(dataclasses.asdict(run.report))]
        if workers.rank > 0:
            return OK
        refused = {picture for report in reports for picture in report.refused}
        try:
            require_there(args.output_dir)
            write_summary(args.output_dir)
            for picture in pictures if args.sheet else []:
                jobs = all_jobs([picture], args.duplicates, args.output_dir)
                if str(picture) not in refused and any(job.existing() for job in jobs):
                    sheet = write_sheet(jobs)
                    if not args.quiet:
                        tell(f"sheet: {sheet}")
        except OSError as error:
            reports[0].failure = reports[0].failure or (
                f"{error.filename or args.output_dir} cannot be written ({error.strerror})"
            )
        return summarise(args, reports, time.monotonic() - started)


if __name__ == "__main__":
    run_command(main)
