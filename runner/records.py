"""The record beside a result: with which settings it was made, and what the search reached.

A result's record is `<name>.json` beside `<name>.png` (runner/jobs.py), filled by record_of in
runner/folder.py. It is written before the picture: a picture without a record is none of ours, a
record without a picture was interrupted.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from cli.errors import UserError
from cli.spreadsheet import spreadsheet_cell
from safe_files import atomic_write
from search_settings import ADDED

VERSION = "1.0.0"
FOLDERS = ("outside_eps", "sheets", "animations")  # below the output folder, for all results
SUMMARY = "results.csv"
COLUMNS = (
    *("name", "input", "seed", "within_eps", "l2", "geocross", "total", "best_step", "steps"),
    "seconds",
)


@dataclass(frozen=True)
class Record:
    """Everything that is known of one result. Of a record that was read, what an earlier version
    did not write is None.
    """

    name: str
    seed: int
    l2: float  # mean squared difference of DS(HR) and LR, pixels in [0, 1]
    geocross: float
    total: float  # the loss of the best iterate
    best_step: int  # from 0
    within_eps: bool
    steps: int  # iterates of its search: with -until eps they may be fewer than settings.steps
    eps: float
    duplicate: int  # from 0
    input: dict  # file, pixels_sha256, side
    generator: dict  # name, sha256
    settings: dict  # all that the result depends on, beside its pixels; resuming compares them
    attempts: list[dict]  # the figures of every search for it, the best among them
    curve: dict[str, list]  # per figure, its value at every step
    seconds: float
    device: str
    threads: int
    formulation: str  # of the network: eager or compiled
    versions: dict  # pulse, python, torch, numpy
    imaginary: str = "This person does not exist."

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=1).encode()

    @classmethod
    def from_json(cls, content: bytes | str) -> Record:
        """Raises: UserError where it is no record, or damaged."""
        try:
            values = json.loads(content)
        except (ValueError, RecursionError):  # neither text nor JSON, or nested without end
            values = None
        return cls.from_dict(values)

    @classmethod
    def from_dict(cls, values: object) -> Record:
        """Raises: UserError where values are not those of a record."""
        whole = (
            isinstance(values, dict)
            and isinstance(values.get("settings"), dict)
            and isinstance(values.get("input"), dict)
            and isinstance(values.get("within_eps"), bool)
        )
        if not whole:
            raise UserError("it is no whole record of a result: make the result again")
        return cls(**{each.name: values.get(each.name) for each in fields(cls)})

    def require_settings(self, settings: dict, path: Path) -> None:
        """Raises: UserError, naming the first of `settings` with another value than this record's;
        path: the result's. The generator first: with another one, others differ as well.
        """
        for name, value in sorted(settings.items(), key=lambda each: each[0] != "generator_sha256"):
            if (recorded := self.settings.get(name, ADDED.get(name))) != value:
                raise UserError(
                    f"{path} was made with {name} {recorded}, not {value}: give another "
                    f"-output_dir, or -overwrite to make everything again"
                )


def read_record(path: Path) -> Record | None:
    """A record file; None where it is missing or damaged."""
    try:
        return Record.from_json(path.read_bytes())
    except (OSError, UserError):
        return None


def finite_or_none(value):
    """As JSON has it: a number that is not finite is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def curves(figures: list[dict], steps: list[int]) -> list[dict[str, list]]:
    """The figures of every step, tensors (B,), as the records of B pictures hold them: lists, six
    digits, as long as each picture has steps.
    """
    import torch

    table = {  # each (T, B)
        name: torch.stack([each[name] for each in figures]).tolist() for name in figures[0]
    }
    return [
        {
            name: [finite_or_none(float(f"{row[i]:.6g}")) for row in rows[: steps[i]]]
            for name, rows in table.items()
        }
        for i in range(len(figures[0]["L2"]))
    ]


def all_records(output_dir: Path) -> list[Record]:
    """The records of every finished result of a folder, sorted by name, without their curves."""
    found = []
    for folder in (output_dir, output_dir / "outside_eps"):
        for path in folder.glob("*.json"):
            if path.with_suffix(".png").exists() and (record := read_record(path)):
                # of ten thousand pictures the curves would fill the memory
                found.append(replace(record, curve=None))
    return sorted(found, key=lambda record: str(record.name))


def require_own_summary(output_dir: Path) -> None:
    """Raises: UserError where the folder holds another file of the summary's name."""
    path = output_dir / SUMMARY
    try:
        with open(path, "rb") as file:
            header = file.readline(4096).decode("utf-8-sig", "replace")
    except FileNotFoundError:
        return
    except OSError:
        header = ""
    # A spreadsheet may have saved it again, with semicolons or tabs. There are more columns by now.
    names = [name.strip(' "\r\n') for name in re.split("[,;\t]", header)]
    if tuple(names[:5]) != COLUMNS[:5]:
        raise UserError(
            f"{path} is there and is not a list of results: move it, or give another -output_dir"
        )


def write_summary(output_dir: Path) -> tuple[Path, list[Record]]:
    """`results.csv`, rebuilt from the records, a line each; returns it and the records. Raises:
    OSError.
    """
    records = all_records(output_dir)
    settings = list(dict.fromkeys(name for record in records for name in record.settings))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *(f"settings.{name}" for name in settings)])
    for record in records:
        row = [record.input.get("file") if c == "input" else getattr(record, c) for c in COLUMNS]
        row += [record.settings.get(name) for name in settings]
        table.writerow([spreadsheet_cell(value) for value in row])
    path = output_dir / SUMMARY
    with atomic_write(path) as file:
        # with the byte-order mark by which Excel knows UTF-8
        file.write(text.getvalue().encode("utf-8-sig", "backslashreplace"))
    return path, records
