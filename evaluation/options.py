"""The flags of evaluate.py: their defaults, and when to change them.

Imports neither torch nor Pillow, so that `-h` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cli.errors import UserError
from safe_files import require_folder_writable
from search_settings import require_positive, setting


@dataclass(frozen=True)
class EvaluateOptions:
    """What one call of evaluate.py is asked to do with a folder of results."""

    input_dir: Path | None = setting(
        None, "folder of the LR pictures, or one", shown="input", kind=Path
    )
    hr_dir: Path | None = setting(None, "folder of true HR pictures, named like the LR", kind=Path)
    clean: Path | None = setting(
        None, "folder of the LR pictures before they were degraded", kind=Path
    )
    groups: Path | None = setting(
        None, "CSV file with the columns file and group: figures by group", kind=Path
    )
    json: Path | None = setting(None, "write everything to this file", kind=Path)
    csv: Path | None = setting(None, "write a line per picture to this file", kind=Path)
    markdown: Path | None = setting(None, "write the tables to this file", kind=Path)
    html: Path | None = setting(
        None, "write a page with tables and pictures to this file", kind=Path
    )
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
        if not runs.is_dir():
            raise UserError(f"{runs} is no folder: name the -output_dir of a run.py")
        flags: dict[Path, str] = {}
        for flag, path in self.written.items():
            given = f"-{flag} {path}"
            if path.is_dir():
                raise UserError(f"{given} is a folder: name a file")
            if path.exists() and not self.overwrite:
                raise UserError(f"{given} is there already: give another name, or -overwrite")
            is_record = path.suffix == ".json" and path.with_suffix(".png").exists()
            if path.suffix == ".png" or is_record:
                raise UserError(f"{given} is the name of a result: give another name")
            if self.groups and path.exists() and path.samefile(self.groups):
                raise UserError(f"{given} is the file of -groups: give another name")
            if (rival := flags.setdefault(path.resolve(), flag)) != flag:
                raise UserError(f"{given} is also the file of -{rival}: give another name")
            require_folder_writable(path.parent, f"-{flag}")
