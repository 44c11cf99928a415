"""The files of a training run: its checkpoint and log, and the generator that comes of it."""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import subprocess
from pathlib import Path

import torch

from cli.errors import UserError
from cli.progress import tell
from generators.formats import Networks
from generators.load import save_generator
from generators.prior import fit_prior
from imaging.provenance import write_png
from safe_files import atomic_write
from training.score import sample_grid, samples, sliced_wasserstein
from training.train_settings import MAY_CHANGE
from training.trainer import Training

ROOT = Path(__file__).resolve().parent.parent

CHECKPOINT = "pulse-training-1"
SCORED = 512  # samples for score (b) while training: enough to see it fall


def commit() -> str:
    """The commit of this repository's code, `-dirty` where files differ from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def load_critic(path: Path) -> dict[str, torch.Tensor]:
    """The state dict of a critic.pt. Raises: UserError."""
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"-critic {path} cannot be read ({error.strerror})") from None
    except Exception as error:  # whatever a damaged file makes torch.load say
        raise UserError(f"-critic {path} holds no weights ({str(error)[:200]})") from None


def load_checkpoint(folder: Path, training: Training, data: str) -> bool:
    """Whether `folder` had a checkpoint to go on from. Raises: UserError for one that does not
    fit.
    """
    path = folder / "checkpoint.pt"
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != CHECKPOINT:
            raise ValueError("it is of another format")
        before = {**state["settings"], "data": state["data"]}
    except FileNotFoundError:
        return False
    except Exception as error:  # whatever a damaged file makes torch.load say
        raise UserError(
            f"{path} is no checkpoint of train.py ({str(error)[:200]}): move it "
            f"away, or give another -output_dir"
        ) from None
    for name, value in {**dataclasses.asdict(training.settings), "data": data}.items():
        if before.get(name) != value and name not in MAY_CHANGE:
            raise UserError(
                f"{path} was trained with {name} {before.get(name)}, not {value}: use the same, or "
                f"give another -output_dir"
            )
    try:
        training.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError):
        raise UserError(
            f"{path} lacks something that this version needs: give another -output_dir, and "
            f"start from its generator.pt"
        ) from None
    return True


def write_log(path: Path, rows: list[dict]) -> None:
    """`log.csv`, whole, so that it always ends where the checkpoint does. Raises: OSError."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


def save(training: Training, figures: dict[str, float], folder: Path, data: str) -> None:
    """Score, log, sample grid and, last, the checkpoint. Raises: OSError."""
    networks = training.averaged
    made = samples(networks["synthesis"], networks["mapping"], range(SCORED))
    faces = training.faces[:: max(len(training.faces) // SCORED, 1)]
    row = {"images": training.images, "minutes": round(training.seconds / 60, 2), **figures}
    row["augment_p"] = round(training.augment.p, 3)
    row["swd"] = round(sliced_wasserstein(made, faces), 3)
    training.log.append(row)
    write_log(folder / "log.csv", training.log)
    write_png(folder / "samples.png", sample_grid(made[:32]), {"images": str(training.images)})
    with atomic_write(folder / "checkpoint.pt") as file:
        torch.save({"format": CHECKPOINT, "data": data, **training.state_dict()}, file)
    tell(", ".join(f"{name} {value:.5g}" for name, value in row.items()))


def export(training: Training, folder: Path, about: dict) -> Path:
    """The averaged generator with its prior fit, float16, as a one-file generator, and its critic
    beside it. Raises: OSError.
    """
    about = {
        **about,
        "images_seen": training.images_before + training.images,
        "hours": round(training.hours_before + training.seconds / 3600, 2),
        "commit": commit(),
    }
    synthesis, mapping = (training.averaged[name].cpu().half() for name in ("synthesis", "mapping"))
    prior = fit_prior(mapping.float())  # of the weights as they will be read
    path = folder / "generator.pt"
    save_generator(Networks(synthesis, mapping.half(), about=about), prior, path)
    with atomic_write(folder / "critic.pt") as file:
        torch.save(training.critic(), file)
    return path
