"""The results in an output folder of run.py, their groups, and the pictures that belong to their
inputs. What cannot be used is a problem, one sentence.
"""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cli.errors import UserError, escaped
from cli.progress import some
from imaging.pictures import is_readable, pictures_in, read_picture
from imaging.provenance import storable
from runner.records import Record, read_record

NO_RECORD = "left out, no record (.json) is beside it: PULSE made it not, or was stopped"
NO_PICTURE = "left out, a record without its picture: run.py was stopped, run it again"
BAD_RECORD = "left out, its record is damaged: make it again (run.py -overwrite)"
TWICE = "left out, a result of that name lies within eps as well: remove the older one"
NO_LR = (
    "no such folder, so that only the records are evaluated: name the LR pictures with -input_dir"
)
OPTIONAL = ("seed", "duplicate", "geocross", "best_step", "seconds")  # older records lack some
MAX_FIGURE = 1e300  # no figure is larger; sums of such numbers would overflow


class Problems:
    """What could not be used, and why: names under each reason, so that each is given once."""

    def __init__(self):
        self.names_by_reason: dict[str, dict[str, None]] = {}

    def add(self, reason: str, name: str) -> None:
        self.names_by_reason.setdefault(reason, {})[name] = None

    def lines(self) -> list[str]:
        """One sentence each."""
        return [f"{some(names)}: {reason}" for reason, names in self.names_by_reason.items()]


@dataclass(frozen=True)
class Result:
    """A finished result of run.py, without its pixels and its curve."""

    path: Path  # of its picture; the record is beside it
    input: str  # file name of the LR
    pixels: str  # SHA-256 of the LR's pixels
    l2: float
    within_eps: bool
    eps: float
    seed: int | None
    duplicate: int | None
    geocross: float | None
    best_step: float | None
    seconds: float | None
    steps: float | None
    first_step: int | None  # number, from 1, of its first iterate within eps; None without one


def read_result(path: Path) -> Result | None:
    """The result whose picture is `path`; None where its record is damaged."""
    record = read_record(path.with_suffix(".json"))
    if record is None:
        return None
    names = [record.input.get(key) for key in ("file", "pixels_sha256")]
    l2, eps = _number(record.l2), _number(record.eps)
    if l2 is None or l2 < 0 or eps is None or not all(isinstance(name, str) for name in names):
        return None
    optional = {key: _number(getattr(record, key)) for key in OPTIONAL}
    steps = _number(record.settings.get("steps"))
    within = (i for i, each in enumerate(_l2_of(record), 1) if each is not None and each <= eps)
    first = next(within, None)
    return Result(
        path, *names, l2, record.within_eps, eps, **optional, steps=steps, first_step=first
    )


def read_curve(path: Path) -> list[float | None]:
    """The L2 of every step of the result whose picture is `path`, None where it was not finite;
    empty where its record has none.
    """
    record = read_record(path.with_suffix(".json"))
    return [] if record is None else _l2_of(record)


def _l2_of(record: Record) -> list[float | None]:
    curve = record.curve
    values = curve.get("L2") if isinstance(curve, dict) else None
    return [_number(value) for value in values] if isinstance(values, list) else []


def _number(value) -> float | None:
    """A finite number of a record, unchanged; None for anything else."""
    usable = isinstance(value, int | float) and not isinstance(value, bool)
    return value if usable and -MAX_FIGURE < value < MAX_FIGURE else None


def read_results(runs: Path, problems: Problems) -> list[list[Result]]:
    """The results in an output folder of run.py, those of one input together, in order of name.

    Raises: UserError where the folder cannot be read.
    """
    by_name: dict[str, Result] = {}
    for folder in (runs, runs / "outside_eps"):
        if folder != runs and not folder.is_dir():
            continue
        try:
            files = {name for name in os.listdir(folder) if not name.startswith(".")}
        except OSError as error:
            raise UserError(f"{runs} cannot be read ({error.strerror})") from None
        stems = {Path(name).stem for name in files if name.endswith((".png", ".json"))}
        for stem in sorted(stems):
            path = folder / f"{stem}.png"
            label = str(path.relative_to(runs))
            if path.name not in files:
                # other programs may write JSON here, this one among them
                if read_record(path.with_suffix(".json")):
                    problems.add(NO_PICTURE, label.removesuffix(".png") + ".json")
            elif f"{stem}.json" not in files:
                problems.add(NO_RECORD, label)
            elif (result := read_result(path)) is None:
                problems.add(BAD_RECORD, label)
            elif stem in by_name:
                problems.add(TWICE, label)
            else:
                by_name[stem] = result
    by_input: dict[tuple[str, str], list[Result]] = {}
    for _, result in sorted(by_name.items()):
        by_input.setdefault((result.input, result.pixels), []).append(result)
    return list(by_input.values())


def read_groups(path: Path, inputs: set[str], problems: Problems) -> dict[str, str]:
    """Input's file name → group, from a CSV file with the columns file and group.

    A file may be given by its name or without the suffix; folders before it do not count.
    Raises: UserError where the file cannot be read or lacks the columns.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            reader.fieldnames = [name.strip().lower() for name in reader.fieldnames or []]
            if not {"file", "group"} <= set(reader.fieldnames):
                raise UserError(
                    f"-groups {path} lacks the columns: its first line must be file,group"
                )
            lines = [
                (reader.line_num, (line["file"] or "").strip(), (line["group"] or "").strip())
                for line in reader
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        why = getattr(error, "strerror", None) or "it is no CSV file in UTF-8"
        raise UserError(f"-groups {path} cannot be read ({why})") from None
    by_name: dict[str, list[str]] = {}
    for name in inputs:
        for key in {name, Path(name).stem}:
            by_name.setdefault(key, []).append(name)
    groups: dict[str, str] = {}
    for number, file_name, group in lines:
        name = file_name.replace("\\", "/").rsplit("/")[-1]
        if not name or not group:
            reason = f"has no file or no group in -groups {path.name}: give it both"
            problems.add(reason, file_name or f"line {number}")
            continue
        known = [name] if name in inputs else by_name.get(name, [])
        if not known:
            reason = f"in -groups {path.name}, but of none of the results: skipped"
            problems.add(reason, file_name)
        for each in known:
            if groups.setdefault(each, escaped(group)) != escaped(group):
                reason = f"in several groups of -groups {path.name}: the first one counts"
                problems.add(reason, each)
    for name in sorted(inputs - groups.keys()):
        problems.add(f"not in -groups {path.name}: left out of the groups, add a line of it", name)
    return groups


class PictureFolder:
    """Pictures that belong to LR inputs: of the same name or, where that is missing, the same stem.

    `label`: the flag and the folder, for sentences about it. Raises: UserError, naming the flag,
    where the folder cannot be listed.
    """

    def __init__(self, folder: Path, flag: str):
        self.label = f"{flag} {folder}"
        pictures, _ = pictures_in(folder, flag, "the pictures", may_be_empty=True)
        self.by_name = {storable(picture.name): picture for picture in pictures}
        self.by_stem: dict[str, list[Path]] = {}
        for picture in pictures:
            self.by_stem.setdefault(storable(picture.stem), []).append(picture)

    def __contains__(self, name: str) -> bool:
        return name in self.by_name or Path(name).stem in self.by_stem

    def read(self, name: str) -> Image.Image:
        """Raises: UserError, one sentence."""
        alike = self.by_stem.get(Path(name).stem, [])
        if name not in self.by_name and len(alike) > 1:
            alike = [picture for picture in alike if is_readable(picture)] or alike[:1]
        if name not in self.by_name and len(alike) > 1:
            raise UserError(f"several pictures have its name: keep one of {some(alike)}")
        path = self.by_name.get(name) or next(iter(alike), None)
        if path is None:
            raise UserError("no picture has its name: put it there under that name")
        return read_picture(path)
