"""What was done with which settings: the record beside a picture, resuming, the summary.

A result is `<output_dir>/<name>.png`, or `<output_dir>/outside_eps/<name>.png`, with its record
`<name>.json` beside it and, where that was asked for, its latent file `<name>.npz`. These are
written before it: a picture without a record is none of ours, a record without a picture was
interrupted.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

from cli.errors import UserError
from imaging.pictures import picture_text, read_picture, to_picture, to_tensor, write_png
from safe_files import atomic_write
from search_settings import SEEDS

VERSION = "1.0.0"
IMAGINARY = "An imaginary face made by PULSE. This person does not exist."
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
   xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="{SOURCE_TYPE}"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="w"?>"""
COLUMNS = ("name", "input", "seed", "within_eps", "l2", "geocross", "total", "best_step", "seconds")


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
        return next((place for place in places if os.path.exists(place)), None)

    def record(self) -> dict | None:
        """The record of the result that is there; None where either is missing or damaged."""
        place = self.existing()
        return None if place is None else read_record(place.with_suffix(".json"))

    def latent(self, within_eps: bool) -> Path:
        """Where its latent file goes: beside the picture."""
        return self.place(within_eps).with_suffix(".npz")

    def animation(self, kind: str) -> Path:
        """Where its animation goes; kind: gif, webp or mp4."""
        return self.output_dir / "animations" / f"{self.name}.{kind}"

    def has_latent_of(self, record: dict) -> bool:
        """Whether the latent file of that very result is there, and whole."""
        from generators.latents import read_latent

        try:
            _, there = read_latent(self.latent(record["within_eps"]))
        except UserError:
            return False
        return all(there[name] == record.get(name) for name in ("seed", "l2", "within_eps"))

    def seed(self, base: int, attempt: int) -> int:
        """Where attempt number `attempt` starts: base + duplicate, then 63 bits of a hash."""
        if attempt == 0:
            return base + self.duplicate
        digest = hashlib.sha256(f"{base}/{self.duplicate}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:8], "big") % SEEDS


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


def read_record(path: Path) -> dict | None:
    """A record; None where it is missing or damaged."""
    try:
        record = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    whole = (
        isinstance(record, dict)
        and isinstance(record.get("settings"), dict)
        and isinstance(record.get("input"), dict)
        and isinstance(record.get("within_eps"), bool)
    )
    return record if whole else None


def require_same_settings(path: Path, record: dict, settings: dict) -> None:
    """Raises: UserError, naming the first setting that differs from those of an existing record."""
    for name, value in settings.items():
        if (there := record["settings"].get(name)) != value:
            raise UserError(
                f"{path} was made with {name} {there}, not {value}: give another -output_dir, or "
                f"-overwrite to make everything anew"
            )


def pixels_sha256(picture) -> str:
    """SHA-256 of size and pixels of an RGB picture."""
    digest = hashlib.sha256(f"{picture.width}x{picture.height}\n".encode())
    digest.update(picture.tobytes())
    return digest.hexdigest()


def plain(value):
    """As JSON has it: a number that is not finite is null."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def curves(figures: list[dict]) -> list[dict[str, list]]:
    """The figures of every step, tensors (B,), as the records of B pictures hold them: lists, six
    digits.
    """
    import torch

    table = {  # each (T, B)
        name: torch.stack([present[name] for present in figures]).tolist() for name in figures[0]
    }
    return [
        {name: [plain(float(f"{row[i]:.6g}")) for row in rows] for name, rows in table.items()}
        for i in range(len(figures[0]["L2"]))
    ]


def new_record(job: Job, pixels: str, LR, found, attempts: list[dict], made_with: dict) -> dict:
    """Everything that is known of one result.

    pixels: SHA-256 of the input's; LR: (3, h, h); found: folder.Found; made_with: "eps",
    "generator", "settings", "device" and "formulation" of the run.
    """
    import numpy as np
    import torch

    return {
        "name": job.name,
        **asdict(found.result),
        "eps": made_with["eps"],
        "duplicate": job.duplicate,
        "input": {
            "file": job.picture.name.encode("utf-8", "backslashreplace").decode(),
            "pixels_sha256": pixels,
            "side": LR.shape[-1],
        },
        "generator": made_with["generator"],
        "settings": made_with["settings"],
        "attempts": attempts,
        "curve": found.curve,
        "seconds": round(found.seconds, 3),
        "device": made_with["device"],
        "threads": torch.get_num_threads(),
        "formulation": made_with["formulation"],
        "versions": {
            "pulse": VERSION,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
        "imaginary": "This person does not exist.",
    }


def write_result(job: Job, HR, record: dict, latent=None) -> Path:
    """Write HR (3, S, S) in [0, 1], its record, and its latent file where a latents.Latent is
    given, where `record` says that they belong; returns where the picture is.

    Those of an earlier run go, on either side of eps: a job has one result. Raises: OSError.
    """
    here, there = record["within_eps"], not record["within_eps"]
    for within in (here, there):  # before the record: it must never stand beside an older picture
        job.place(within).unlink(missing_ok=True)
        job.latent(within).unlink(missing_ok=True)
    with atomic_write(job.place(here).with_suffix(".json")) as file:
        file.write(json.dumps(record, indent=1).encode())
    if latent is not None:
        from generators.latents import write_latent

        write_latent(job.latent(here), latent, record)
    write_picture(job, HR, record)  # last: where it is, all is
    job.place(there).with_suffix(".json").unlink(missing_ok=True)
    return job.place(here)


def write_picture(job: Job, HR, record: dict) -> None:
    """Write the picture alone, with what `record` says of it. Raises: OSError."""
    text = {
        "Description": IMAGINARY,
        "Software": f"PULSE {record['versions']['pulse']}",
        "pulse:generator": record["generator"]["name"],
        "pulse:generator_sha256": record["generator"]["sha256"],
        **{f"pulse:{name}": str(record[name]) for name in ("seed", "l2", "within_eps")},
    }
    write_png(job.place(record["within_eps"]), to_picture(HR), text, XMP)


def write_intermediates(job: Job, step: int, steps: int, HR, LR) -> None:
    """`<name>/HR/<name>_<step>.png` and the same under LR, steps padded so that they sort.

    Raises: OSError.
    """
    number = f"{step:0{len(str(steps - 1))}}"
    for kind, picture in (("HR", HR), ("LR", LR)):
        path = job.output_dir / job.name / kind / f"{job.name}_{number}.png"
        write_png(path, to_picture(picture), {"Description": IMAGINARY}, XMP)


def write_sheet(jobs: list[Job]) -> Path:
    """`sheets/<picture>.png`: LR, bicubic and all results of one picture, from their files.

    Raises: OSError.
    """
    from bicubic import BicubicDownSample
    from imaging.sheet import comparison_sheet

    picture = jobs[0].picture
    LR = read_picture(picture)
    results = []
    for place in filter(None, (job.existing() for job in jobs)):
        HR, text = read_picture(place), picture_text(place)
        small = BicubicDownSample(HR.width // LR.width)(to_tensor(HR)[None])[0]
        caption = f"seed {text.get('pulse:seed', '?')}, L2 {float(text.get('pulse:l2', 'nan')):.5f}"
        results.append((HR, to_picture(small), caption, text.get("pulse:within_eps") == "True"))
    eps = next((record.get("eps") for job in jobs if (record := job.record())), None)
    within = f" within eps {eps:g}" if isinstance(eps, float) else ""
    title = f"{picture.name}: imaginary faces, sought to downscale to it{within}"
    sheet = comparison_sheet(LR, results, title, "Made by PULSE. These people do not exist.")
    path = jobs[0].output_dir / "sheets" / f"{picture.stem}.png"
    write_png(path, sheet, {"Description": IMAGINARY}, XMP)
    return path


def all_records(output_dir: Path) -> list[dict]:
    """The records of every finished result of a folder, sorted by name, without their curves."""
    found = []
    for folder in (output_dir, output_dir / "outside_eps"):
        for path in folder.glob("*.json"):
            if path.with_suffix(".png").exists() and (record := read_record(path)):
                record.pop("curve", None)  # of ten thousand pictures they would fill the memory
                found.append(record)
    return sorted(found, key=lambda record: str(record.get("name")))


def write_summary(output_dir: Path) -> tuple[Path, list[dict]]:
    """`results.csv`, rebuilt from the records, a line each; returns it and the records. Raises:
    OSError.
    """
    records = all_records(output_dir)
    settings = list(dict.fromkeys(name for record in records for name in record["settings"]))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow([*COLUMNS, *(f"settings.{name}" for name in settings)])
    for record in records:
        figures = {**record, "input": record["input"].get("file")}
        row = [figures.get(name) for name in COLUMNS]
        table.writerow(
            [
                spreadsheet_cell(value)
                for value in row + [record["settings"].get(s) for s in settings]
            ]
        )
    path = output_dir / "results.csv"
    with atomic_write(path) as file:
        file.write(text.getvalue().encode("utf-8", "backslashreplace"))
    return path, records


def spreadsheet_cell(value):
    """A table program takes what begins with = or + for a formula: such text is quoted."""
    return f"'{value}" if isinstance(value, str) and value[:1] in "=+-@\t" and value else value
