"""The flags of evaluate.py and experiments.py: their defaults, and when to change them.

Imports neither torch nor Pillow, so that `-h` answers at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from cli.errors import UserError
from safe_files import require_file_writable
from search_settings import require_positive, require_seed, setting


def _path(help: str, shown: str | None = None):
    return setting(None, help, shown, kind=Path)


@dataclass(frozen=True)
class EvaluateOptions:
    """What one call of evaluate.py is asked to do with a folder of results."""

    input_dir: Path | None = _path("folder of the LR pictures, or one", shown="input")
    hr_dir: Path | None = _path("folder of true HR pictures, named like the LR")
    clean: Path | None = _path("folder of the LR pictures before they were degraded")
    groups: Path | None = _path("CSV file with the columns file and group: figures by group")
    json: Path | None = _path("write everything to this file")
    csv: Path | None = _path("write a line per picture to this file")
    markdown: Path | None = _path("write the tables to this file")
    html: Path | None = _path("write a page with tables and pictures to this file")
    threads: int = setting(1, "CPU threads; more pay from about 512 pixels on")
    overwrite: bool = setting(False, "replace files that exist")

    @property
    def written(self) -> dict[str, Path]:
        """Flag → path of the files to write."""
        paths = {flag: getattr(self, flag) for flag in ("json", "csv", "markdown", "html")}
        return {flag: path for flag, path in paths.items() if path is not None}

    def check(self, runs: Path) -> None:
        """Raises: UserError where `runs` is no folder, or where a file must not be written."""
        require_positive("threads", self.threads)
        if not os.path.isdir(runs):  # unlike Path.is_dir, of a name that is too long as well
            raise UserError(f"{runs} is no folder: name the -output_dir of a run.py")
        flags: dict[Path, str] = {}
        for flag, path in self.written.items():
            given = f"-{flag} {path}"
            require_file_writable(path, f"-{flag}", self.overwrite)
            is_record = path.suffix == ".json" and path.with_suffix(".png").exists()
            if path.suffix == ".png" or is_record:
                raise UserError(f"{given} is the name of a result: give another name")
            there = self.groups and path.exists() and os.path.exists(self.groups)
            if there and path.samefile(self.groups):
                raise UserError(f"{given} is the file of -groups: give another name")
            if (rival := flags.setdefault(path.resolve(), flag)) != flag:
                raise UserError(f"{given} is also the file of -{rival}: give another name")


@dataclass(frozen=True)
class StudyOptions:
    """What one call of experiments.py is asked to do."""

    input_dir: Path = setting(Path("input"), "folder of LR pictures", kind=Path)
    hr_dir: Path | None = _path(
        "folder of the photographs that the LR were made of, by align_face.py -mode resize; with "
        "it robustness is measured too"
    )
    output_dir: Path = setting(
        Path("experiments"), "folder for results, tables and plots", kind=Path
    )
    cache_dir: Path = setting(Path("cache"), "where weights and prior fits are kept", kind=Path)
    generator: str = setting("ffhq", "a name, an https address or a weight file, as of run.py")
    label: int | None = setting(None, "of a generator of several classes: which one", kind=int)
    device: str = setting("auto", "auto, cuda, mps or cpu")
    batch_size: int = setting(1, "pictures searched at once; pays on a GPU")
    seed: int = setting(0, "of every search and every degradation")
    processes: int | None = setting(
        None,
        "experiments at a time, each with one CPU thread",
        shown="CPU cores, 1 on a GPU",
        kind=int,
    )
    only: list[str] | None = setting(
        None, "these experiments alone", kind=str, nargs="+", metavar="NAME"
    )
    overwrite: bool = setting(False, "make everything again")
    quiet: bool = setting(False, "print errors and the tables only")

    def check(self) -> None:
        """Raises: UserError for the first number that no search could be made with."""
        require_seed(self.seed)
        require_positive("batch_size", self.batch_size)
        if self.processes is not None:
            require_positive("processes", self.processes)
