"""A job is one result to make: where its files go, and how they are written.

A result is `<output_dir>/<name>.png`, or `<output_dir>/outside_eps/<name>.png`, with its record
`<name>.json` beside it and, where that was asked for, its latent file `<name>.npz`. The picture is
written last: where it is, all is.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from bicubic import BicubicDownSample
from cli.errors import UserError
from generators.latents import Latent, encode_latent, read_latent
from imaging.pictures import read_picture, to_picture, to_tensor
from imaging.provenance import IMAGINARY, XMP, encode_png, picture_text, write_png
from imaging.sheet import comparison_sheet
from runner.records import Record, read_record
from safe_files import atomic_write, settle
from search_settings import SEEDS

SOFTWARE = "PULSE"  # as a PNG file names what wrote it, before the version
MAX_NAME = 240  # bytes: file systems take 255, some of which are for `_0099.png` and `.json`


@dataclass(frozen=True)
class Job:
    """One result to make: duplicate number `duplicate`, from 0, of a picture."""

    picture: Path
    duplicate: int
    name: str
    output_dir: Path

    def place(self, within_eps: bool) -> Path:
        """Where its result goes."""
        folder = self.output_dir if within_eps else self.output_dir / "outside_eps"
        return folder / f"{self.name}.png"

    def existing(self) -> Path | None:
        """The result, if it exists; one within eps is preferred."""
        places = (self.place(within) for within in (True, False))
        return next((place for place in places if os.path.exists(place)), None)

    def record(self) -> Record | None:
        """The record of the existing result; None where either is missing or damaged."""
        place = self.existing()
        return None if place is None else read_record(place.with_suffix(".json"))

    def latent(self, within_eps: bool) -> Path:
        """Where its latent file goes: beside the picture."""
        return self.place(within_eps).with_suffix(".npz")

    def animation(self, kind: str) -> Path:
        """Where its animation goes; kind: gif, webp or mp4."""
        return self.output_dir / "animations" / f"{self.name}.{kind}"

    def intermediates(self, kind: str, attempt: int = 0) -> Path:
        """The folder of the pictures of an attempt's steps; kind: HR or LR."""
        folder = self.output_dir / self.name
        return (folder / f"attempt_{attempt + 1}" if attempt else folder) / kind

    def has_intermediates(self, record: Record) -> bool:
        """Whether there is a pair for every step of every attempt."""
        for number, attempt in enumerate(record.attempts or [{}]):
            steps = attempt.get("steps") or record.settings["steps"]
            for kind in ("HR", "LR"):
                there = self.intermediates(kind, number).glob("*.png")
                if sum(self._is_step(path) for path in there) < steps:
                    return False
        return True

    def remove_intermediates(self) -> None:
        """Those of all attempts of an earlier search. Raises: OSError."""
        folder = self.output_dir / self.name
        for place in (folder, *folder.glob("attempt_*")):
            for path in (*place.glob("HR/*.png"), *place.glob("LR/*.png")):
                if self._is_step(path):
                    path.unlink(missing_ok=True)

    def _is_step(self, path: Path) -> bool:
        return bool(re.fullmatch(rf"{re.escape(self.name)}_\d+\.png", path.name))

    def has_latent_of(self, record: Record) -> bool:
        """Whether the latent file of that very result exists, and is whole."""
        try:
            _, latents_record = read_latent(self.latent(record.within_eps))
        except UserError:
            return False
        same = ("seed", "l2", "within_eps")
        return all(latents_record[name] == getattr(record, name) for name in same)

    def seed(self, base: int, attempt: int) -> int:
        """Where attempt number `attempt` starts: base + duplicate, then 63 bits of a hash."""
        if attempt == 0:
            return base + self.duplicate
        digest = hashlib.sha256(f"{base}/{self.duplicate}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % SEEDS

    def require_own_place(self) -> None:
        """Raises: UserError where a file that no run wrote is in the place of the result's files:
        it would be lost.
        """
        for within in (True, False):
            place = self.place(within)
            files = (place, place.with_suffix(".json"), self.latent(within))
            there = [file for file in files if os.path.lexists(file)]
            if there and not is_result(place):
                raise UserError(
                    f"{there[0]} is there and is not of a result: move it, give another "
                    f"-output_dir, or -overwrite"
                )

    def require_short_name(self) -> None:
        """Raises: UserError where a file system would not take its name with our endings."""
        if (length := len(os.fsencode(self.name))) > MAX_NAME:
            raise UserError(
                f"its result's name would have {length} bytes, more than {MAX_NAME}: rename it"
            )


def is_result(place: Path) -> bool:
    """Whether one of the files of a result, its picture at `place`, says that it is."""
    if picture_text(place).get("Software", "").split(" ")[0] == SOFTWARE:
        return True
    if read_record(place.with_suffix(".json")) is not None:
        return True
    try:
        return bool(read_latent(place.with_suffix(".npz")))
    except UserError:
        return False


def all_jobs(pictures: list[Path], duplicates: int, output_dir: Path) -> list[Job]:
    """Every result of every picture; with several duplicates <name>_1, <name>_2, …"""
    return [
        Job(
            picture,
            duplicate,
            f"{picture.stem}_{duplicate + 1}" if duplicates > 1 else picture.stem,
            output_dir,
        )
        for picture in pictures
        for duplicate in range(duplicates)
    ]


def pixels_sha256(picture) -> str:
    """SHA-256 of size and pixels of an RGB picture."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}\n".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def write_result(job: Job, HR, record: Record, latent: Latent | None = None) -> Path:
    """Write HR (3, S, S) in [0, 1], its record, and its latent file where a Latent is given, on the
    side of eps that `record` says; returns where the picture is.

    Those of an earlier run go, on either side of eps: a job has one result. They stay where there
    is no room for the new ones. Raises: OSError.
    """
    within = record.within_eps
    with contextlib.ExitStack() as stack:
        # They appear in the opposite order, the picture last.
        picture = stack.enter_context(atomic_write(job.place(within)))
        encode_picture(picture, HR, record)
        settle(picture)
        if latent is not None:
            file = stack.enter_context(atomic_write(job.latent(within)))
            encode_latent(file, latent, asdict(record))
            settle(file)
        file = stack.enter_context(atomic_write(job.place(within).with_suffix(".json")))
        file.write(record.to_json())
        settle(file)
        for side in (True, False):  # before the record: it must never stand beside an older picture
            job.place(side).unlink(missing_ok=True)
            job.latent(side).unlink(missing_ok=True)
    job.place(not within).with_suffix(".json").unlink(missing_ok=True)
    return job.place(within)


def write_picture(job: Job, HR, record: Record) -> None:
    """Write the picture alone, with what `record` says of it. Raises: OSError."""
    with atomic_write(job.place(record.within_eps)) as file:
        encode_picture(file, HR, record)


def encode_picture(file: BinaryIO, HR, record: Record) -> None:
    """The PNG file of a result, with what `record` says of it. Raises: OSError."""
    text = {
        "Description": IMAGINARY,
        "Software": f"{SOFTWARE} {record.versions['pulse']}",
        "pulse:generator": record.generator["name"],
        "pulse:generator_sha256": record.generator["sha256"],
        **{f"pulse:{name}": str(getattr(record, name)) for name in ("seed", "l2", "within_eps")},
    }
    encode_png(file, to_picture(HR), text, XMP)


def write_intermediates(job: Job, attempt: int, step: int, steps: int, HR, LR) -> None:
    """`<name>/HR/<name>_<step>.png` and the same under LR, steps padded so that they sort; of a
    second attempt under `<name>/attempt_2`, and so on.

    Raises: OSError.
    """
    number = f"{step:0{len(str(steps - 1))}}"
    for kind, picture in (("HR", HR), ("LR", LR)):
        path = job.intermediates(kind, attempt) / f"{job.name}_{number}.png"
        write_png(path, to_picture(picture), {"Description": IMAGINARY}, XMP)


def write_sheet(jobs: list[Job], overwrite: bool) -> Path:
    """`sheets/<picture>.png`: LR, bicubic and all results of one picture, from their files.

    Raises: OSError; UserError where one of them is no such picture or, unless it is to overwrite,
    where another file has the sheet's place.
    """
    picture = jobs[0].picture
    LR = read_picture(picture)
    results = []
    for place in filter(None, (job.existing() for job in jobs)):
        text = picture_text(place)
        try:
            HR, l2 = read_picture(place), float(text.get("pulse:l2", "nan"))
        except ValueError as error:  # also a UserError
            raise UserError(f"{place}: {error}") from None
        if HR.width < 2 * LR.width or HR.width % LR.width:
            raise UserError(f"{place} is {HR.width} pixels wide: it is no result of this picture")
        small = BicubicDownSample(HR.width // LR.width)(to_tensor(HR)[None])[0]
        caption = f"seed {text.get('pulse:seed', '?')}, L2 {l2:.5f}"
        results.append((HR, to_picture(small), caption, text.get("pulse:within_eps") == "True"))
    eps = next((record.eps for job in jobs if (record := job.record())), None)
    within = f" within eps {eps:g}" if isinstance(eps, float) else ""
    title = f"{picture.name}: imaginary faces, sought to downscale to it{within}"
    sheet = comparison_sheet(LR, results, title, "Made by PULSE. These people do not exist.")
    path = jobs[0].output_dir / "sheets" / f"{picture.stem}.png"
    own = picture_text(path).get("Description") == IMAGINARY
    if os.path.lexists(path) and not (own or overwrite):
        raise UserError(f"{path} is there and is no sheet: move it, or -overwrite")
    write_png(path, sheet, {"Description": IMAGINARY}, XMP)
    return path
