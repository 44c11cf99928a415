"""Search for high-resolution faces that downscale to the small pictures in a folder.

The people in the results are imaginary: they do not exist, and nobody can be identified with them.

examples:
  python run.py -generator demo -duplicates 4 -seed 0
      four faces for every picture in input/, with the small generator of this repository
  python run.py -input_dir faces -output_dir results -eps 1e-3 -steps 200 -save_intermediate
      with the FFHQ generator of 1024 pixels, closer to the input, every step kept as a picture

results: <output_dir>/<name>.png, or <output_dir>/outside_eps/<name>.png where no face came within
eps. exit status: 0 every picture has its result; 1 some picture was refused or, with -strict, is
outside eps; 2 arguments, folders or generator cannot be used, and nothing was begun.
"""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from commandline import (
    OK,
    SOME_REFUSED,
    Parser,
    Progress,
    Unusable,
    count,
    require_folder_writable,
    run_command,
    shown,
    some,
)
from settings import Settings, require_positive, require_seed

if TYPE_CHECKING:  # whatever takes long to import waits until the arguments are checked
    from torch import Tensor

    from PULSE import PULSE, Result
    from records import Job

ADVICE = (
    "To come closer: more steps (-steps 200), another -seed, less GEOCROSS in -loss_str, a better "
    "aligned face; a larger -eps accepts more."
)


def parser() -> Parser:
    """The flags; those of the search, with their defaults and meanings, are Settings' own."""
    flags = Parser(__doc__)
    flags.flag("input_dir", "folder of LR pictures, or one picture", "input", type=Path)
    flags.flag("output_dir", "folder for the results, made if missing", "runs", type=Path)
    flags.flag("cache_dir", "where weights and prior fits are kept", "cache", type=Path)
    flags.flag(
        "generator", "ffhq (1024 pixels, fetched once), demo (no download) or a weight file", "ffhq"
    )
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    flags.flag("duplicates", "results per picture, from seeds seed, seed + 1, …", 1, type=int)
    flags.flag("batch_size", "pictures searched at once; pays on a GPU", 1, type=int)
    flags.flag("seed", "where the search starts", shown="drawn and printed", type=int)
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
        "strict",
        "write nothing where eps is not reached, and exit with 1 then",
        False,
        action="store_true",
    )
    flags.flag("overwrite", "make results that exist anew", False, action="store_true")
    return flags


class Run:
    """One call of this command: what was asked for, and what has come of it."""

    def __init__(self, args, settings: Settings):
        self.args, self.settings = args, settings
        self.tally: Counter[str] = Counter()
        self.outside: list[str] = []
        self.refused: set[Path] = set()
        self.progress = Progress(0)

    def refuse(self, picture: Path, reason: str) -> None:
        """Name a picture that cannot be done, and go on."""
        if picture not in self.refused:
            self.refused.add(picture)
            self.progress.say(f"refused: {shown(picture)}: {reason}")

    def jobs_left(self, pictures: list[Path]) -> list[Job]:
        """What is to be made: without pictures that clash, and results that exist."""
        from records import all_jobs, clashes

        for picture, reason in clashes(pictures).items():
            self.refuse(picture, reason)
        pictures = [picture for picture in pictures if picture not in self.refused]
        jobs = all_jobs(pictures, self.args.duplicates, self.args.output_dir)
        if self.args.overwrite:
            return jobs
        left = []
        for job in jobs:
            result = job.existing()
            # what -strict would not have written is no result
            if result is None or (self.args.strict and result != job.place(within_eps=True)):
                left.append(job)
        self.tally["kept"] = len(jobs) - len(left)
        return left

    def batches(self, jobs: list[Job], resolution: int) -> Iterator[list[tuple[Job, Tensor]]]:
        """Jobs with their LR (3, h, h), at most batch_size at once, all of one size."""
        from images import PictureError, read_picture, to_tensor
        from PULSE import require_lr_size

        batch, picture, LR = [], None, None
        for job in jobs:
            if job.picture != picture:
                picture = job.picture
                try:
                    image = read_picture(picture)
                    require_lr_size(*image.size, resolution)
                    LR = to_tensor(image)
                except (PictureError, ValueError) as error:
                    self.refuse(picture, str(error))
            if picture in self.refused:
                self.progress.advance()
                continue
            if batch and (len(batch) == self.args.batch_size or LR.shape != batch[0][1].shape):
                yield batch
                batch = []
            batch.append((job, LR))
        if batch:
            yield batch

    def search(self, model: PULSE, batch: list[tuple[Job, Tensor]]) -> None:
        """Search for the pictures of one batch and write what came of each."""
        import torch

        from records import write_intermediates

        jobs = [job for job, _ in batch]
        search = model(
            torch.stack([LR for _, LR in batch]),
            seed=[self.args.seed + job.duplicate for job in jobs],
            settings=self.settings,
            save_intermediate=self.args.save_intermediate,
            on_step=self.live(jobs),
        )
        for step, (HR, LR) in enumerate(search):
            if self.args.save_intermediate:
                for i, job in enumerate(jobs):
                    write_intermediates(job, step, self.settings.steps, HR[i], LR[i])
        for job, picture, result in zip(jobs, HR, search.results, strict=True):
            self.keep(job, picture, result)
            self.progress.advance()

    def live(self, jobs: list[Job]) -> Callable[[int, dict[str, Tensor]], None]:
        """What tells the L2 of the present pictures, seldom enough not to make a GPU wait."""
        told = 0.0
        name = shown(jobs[0].name) + (f" and {len(jobs) - 1} more" if len(jobs) > 1 else "")

        def on_step(step: int, figures: dict[str, Tensor]) -> None:
            nonlocal told
            if time.monotonic() - told > 0.2:
                told = time.monotonic()
                self.progress.live(
                    f"{name}: L2 {figures['L2'].max().item():.5f} (eps {self.settings.eps:g}), "
                    f"step {step + 1} of {self.settings.steps}"
                )

        return on_step

    def keep(self, job: Job, HR: Tensor, result: Result) -> None:
        """The picture into its place, and a line that says how it stands."""
        from records import write_result

        if result.best_step < 0:
            self.refuse(job.picture, "no step gave finite numbers: lower -learning_rate")
            return
        side = "within" if result.within_eps else "outside"
        name = shown(job.name)
        figures = f"{name}: {side} eps, L2 {result.l2:.5f} at step {result.best_step}"
        self.tally[side] += 1
        if not result.within_eps:
            self.outside.append(f"{name} ({result.l2:.5f})")
        if self.args.strict and not result.within_eps:
            self.progress.say(f"{figures}, not written (-strict)")
            return
        place = write_result(job, HR, result, str(self.args.generator))
        self.progress.say(f"{figures}, {shown(place)}")

    def make(self, jobs: list[Job]) -> None:
        """Everything in `jobs`; what a single picture runs into ends that picture only."""
        import torch

        from generators import GeneratorError
        from PULSE import PULSE

        try:
            model = PULSE(self.args.generator, self.args.device, self.args.cache_dir)
            self.settings.noise_roles(model.generator.num_layers)
        except (GeneratorError, ValueError) as error:
            raise Unusable(str(error)) from None
        self.progress.close()
        self.progress = Progress(len(jobs), "face")
        for batch in self.batches(jobs, model.generator.resolution):
            try:
                self.search(model, batch)
            except torch.OutOfMemoryError:
                for job, _ in batch:
                    self.refuse(job.picture, "not enough memory: lower -batch_size")
                    self.progress.advance()
        self.progress.close()

    def sheets(self, pictures: list[Path]) -> None:
        """A sheet for every picture that has results."""
        from records import all_jobs, write_sheet

        for picture in pictures:
            jobs = all_jobs([picture], self.args.duplicates, self.args.output_dir)
            if picture not in self.refused and any(job.existing() for job in jobs):
                print(f"sheet: {shown(write_sheet(jobs))}")

    def summary(self, seconds: float) -> None:
        """What this call did, on stdout."""
        tally, output_dir = self.tally, self.args.output_dir
        print(
            f"{count(tally['within'] + tally['outside'], 'face')} made: {tally['within']} within "
            f"eps {self.settings.eps:g}, {tally['outside']} outside; "
            f"{count(len(self.refused), 'picture')} refused; {seconds:.1f} s"
        )
        if tally["kept"]:
            print(f"{count(tally['kept'], 'result')} kept from before (-overwrite makes them anew)")
        if self.outside:
            kept = "not written" if self.args.strict else f"in {output_dir / 'outside_eps'}"
            print(f"Outside eps, {kept}: {some(self.outside)}.\n{ADVICE}")
        print(f"Pictures: {shown(output_dir)}")


def read_arguments() -> tuple[argparse.Namespace, Settings]:
    """Arguments and settings, checked as far as that is possible without a generator: exit status
    2.
    """
    flags = parser()
    args = flags.parse_args()
    names = [setting.name for setting in dataclasses.fields(Settings)]
    settings = Settings(**{name: getattr(args, name) for name in names})
    try:
        settings.check()
        require_positive("batch_size", args.batch_size)
        require_positive("duplicates", args.duplicates)
        if args.seed is not None:
            require_seed(args.seed)
            require_seed(args.seed + args.duplicates - 1)
    except ValueError as error:
        flags.error(str(error))
    if args.device.split(":")[0] not in ("auto", "cuda", "mps", "cpu"):
        flags.error(f"device {args.device!r} is unknown: use auto, cuda, mps or cpu")
    return args, settings


def find_pictures(args: argparse.Namespace) -> list[Path]:
    """The LR pictures, without photographs whose aligned faces lie beside them.

    Raises: Unusable where there is none, or where the results cannot go.
    """
    from images import aligned_sources, list_pictures

    try:
        pictures, others = list_pictures(args.input_dir)
    except OSError as error:
        raise Unusable(
            f"-input_dir {args.input_dir} cannot be read ({error.strerror}): put small pictures "
            f"of faces there, or name another folder"
        ) from None
    if others:
        print(f"passed over, no pictures: {some(others)}", file=sys.stderr)
    sources = aligned_sources(pictures)
    if sources:
        print(f"passed over, aligned faces lie beside them: {some(sources)}", file=sys.stderr)
    pictures = [picture for picture in pictures if picture.name not in sources]
    if not pictures:
        raise Unusable(f"-input_dir {args.input_dir} holds no picture: put small faces there")
    folder = args.input_dir if args.input_dir.is_dir() else args.input_dir.parent
    if folder.resolve() == args.output_dir.resolve():
        raise Unusable(
            f"-output_dir {args.output_dir} is where the inputs are, and results have their "
            f"names: give another folder"
        )
    require_folder_writable(args.output_dir, "-output_dir")
    return pictures


def main() -> int:
    started = time.monotonic()
    args, settings = read_arguments()
    pictures = find_pictures(args)
    if args.seed is None:
        args.seed = secrets.randbelow(2**31)
        print(f"seed {args.seed}, drawn (-seed {args.seed} repeats this run)", file=sys.stderr)
    run = Run(args, settings)
    jobs = run.jobs_left(pictures)
    written = True
    try:
        if jobs:
            run.make(jobs)
        if args.sheet:
            run.sheets(pictures)
    except OSError as error:
        run.progress.close()
        print(
            f"run.py: error: {error.filename or args.output_dir} cannot be written "
            f"({error.strerror}): make room; what is finished is kept",
            file=sys.stderr,
        )
        written = False
    run.summary(time.monotonic() - started)
    missed = run.refused or (args.strict and run.tally["outside"]) or not written
    return SOME_REFUSED if missed else OK


if __name__ == "__main__":
    run_command(main)
