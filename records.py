"""What a run makes and where it lies: which results are to be made, which exist, what each says of
itself.

A result is `<output_dir>/<name>.png`, or `<output_dir>/outside_eps/<name>.png`; its text chunks
hold its seed and figures. Imports torch only where pictures are written, so that a folder is looked
through at once.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from images import picture_text, read_picture, to_picture, to_tensor, write_png
from sheets import comparison_sheet

IMAGINARY = "An imaginary face made by PULSE. This person does not exist."


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
        """The result, if it is there; one within eps is preferred."""
        places = (self.place(within) for within in (True, False))
        return next((place for place in places if place.exists()), None)


def clashes(pictures: list[Path]) -> dict[Path, str]:
    """Pictures that would write the same result as another one, each with the reason."""
    writers: dict[str, list[Path]] = {}
    for picture in pictures:
        writers.setdefault(os.path.normcase(picture.stem), []).append(picture)
    reasons = {}
    for rivals in writers.values():
        for picture in rivals if len(rivals) > 1 else []:
            others = ", ".join(rival.name for rival in rivals if rival != picture)
            reasons[picture] = f"{others} would write the same result: rename one of them"
    return reasons


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


def write_result(job: Job, HR, result, generator: str) -> Path:
    """Write HR (3, S, S) in [0, 1] where a `PULSE.Result` says that it belongs; returns where.

    One on the other side of eps, of an earlier run, goes: a job has one result. Raises: OSError.
    """
    place = job.place(result.within_eps)
    text = {
        "Description": IMAGINARY,
        "Software": "PULSE",
        "pulse:generator": generator,
        "pulse:seed": str(result.seed),
        "pulse:l2": f"{result.l2:.6g}",
        "pulse:geocross": f"{result.geocross:.6g}",
        "pulse:total": f"{result.total:.6g}",
        "pulse:best_step": str(result.best_step),
        "pulse:within_eps": str(result.within_eps),
    }
    write_png(place, to_picture(HR), text)
    job.place(not result.within_eps).unlink(missing_ok=True)
    return place


def write_intermediates(job: Job, step: int, steps: int, HR, LR) -> None:
    """`<name>/HR/<name>_<step>.png` and the same under LR, steps padded so that they sort. Raises:
    OSError.
    """
    number = f"{step:0{len(str(steps - 1))}}"
    for kind, picture in (("HR", HR), ("LR", LR)):
        path = job.output_dir / job.name / kind / f"{job.name}_{number}.png"
        write_png(path, to_picture(picture), {"Description": IMAGINARY})


def write_sheet(jobs: list[Job]) -> Path:
    """`sheets/<picture>.png`: LR, bicubic and all results of one picture, from their files. Raises:
    OSError.
    """
    from bicubic import BicubicDownSample

    picture = jobs[0].picture
    LR = read_picture(picture)
    results = []
    for place in filter(None, (job.existing() for job in jobs)):
        HR, text = read_picture(place), picture_text(place)
        small = BicubicDownSample(HR.width // LR.width)(to_tensor(HR)[None])[0]
        caption = f"seed {text.get('pulse:seed', '?')}, L2 {text.get('pulse:l2', '?')}"
        results.append((HR, to_picture(small), caption, text.get("pulse:within_eps") == "True"))
    title = f"{picture.name}: imaginary faces that downscale to it"
    sheet = comparison_sheet(LR, results, title, "Made by PULSE. These people do not exist.")
    path = jobs[0].output_dir / "sheets" / f"{picture.stem}.png"
    write_png(path, sheet, {"Description": IMAGINARY})
    return path
