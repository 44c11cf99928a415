"""The files of a training run: its checkpoint and log, and the generator that comes of it."""

from __future__ import annotations

import contextlib
import copy
import csv
import dataclasses
import io
import subprocess
from pathlib import Path

import torch
from torch import Tensor

from cli.command import Parser
from cli.errors import UserError
from cli.progress import tell
from generators.formats import Networks
from generators.load import save_generator
from generators.prior import fit_prior
from imaging.provenance import write_png
from safe_files import atomic_write
from training.efficientnet import EfficientNetLite
from training.feature_distance import kernel_distance, pooled_features
from training.pixel_distance import sliced_wasserstein
from training.samples import sample_grid, samples
from training.train_settings import MAY_CHANGE, TrainSettings
from training.trainer import Training

ROOT = Path(__file__).resolve().parent.parent

CHECKPOINT = "pulse-training-1"
NAMES = {field.name for field in dataclasses.fields(TrainSettings)}
SCORED = 512  # samples for score (b) while training: enough to see it fall


def add_file_flags(flags: Parser) -> None:
    """What a generator's file says of itself, and its prior fit."""
    flags.flag("name", "of the generator, in its file", "demo faces")
    flags.flag("trained_on", "what the pictures are, for the file", "a folder of aligned faces")
    flags.flag("licence", "of the weights, for the file", "research, non-commercial")
    flags.flag("prior_draws", "latents that its prior is fitted to", 1_000_000, type=int)


def commit() -> str:
    """The commit of this repository's code, `-dirty` where files differ from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def read_checkpoint(path: Path) -> dict | None:
    """What a checkpoint holds, its settings as TrainSettings; None where there is none. Raises:
    UserError for another file, and where another version has other settings.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != CHECKPOINT or not {"settings", "data"} <= state.keys():
            raise ValueError("it is of another format")
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever a damaged file makes torch.load say
        raise UserError(
            f"{path} is no checkpoint of train.py ({str(error)[:200]}): move it "
            f"away, or give another -output_dir"
        ) from None
    try:
        settings = TrainSettings(**state["settings"])
    except TypeError:  # a setting that is unknown here
        raise _other_version(path) from None
    if not state["settings"].keys() >= NAMES - MAY_CHANGE:
        raise _other_version(path)
    return {**state, "settings": settings}


def restore(training: Training, state: dict, path: Path) -> None:
    """Go on from `state`, the checkpoint of `path`. Raises: UserError where this version cannot."""
    try:
        training.load_state_dict(state)
    except (LookupError, TypeError, ValueError, RuntimeError):
        raise _other_version(path) from None


def _other_version(path: Path) -> UserError:
    return UserError(
        f"{path} was written by another version, and this one cannot go on from it: use that "
        f"version, or give another -output_dir and -start with its generator.pt"
    )


def load_checkpoint(folder: Path, training: Training, data: str) -> bool:
    """Whether `folder` had a checkpoint to go on from. Raises: UserError for one that does not
    fit.
    """
    path = folder / "checkpoint.pt"
    if (state := read_checkpoint(path)) is None:
        return False
    before = {**dataclasses.asdict(state["settings"]), "data": state["data"]}
    for name, value in {**dataclasses.asdict(training.settings), "data": data}.items():
        if before[name] != value and name not in MAY_CHANGE:
            raise UserError(
                f"{path} was trained with {name} {before[name]}, not {value}: use the same, or "
                f"give another -output_dir"
            )
    restore(training, state, path)
    return True


def write_log(path: Path, rows: list[dict]) -> None:
    """`log.csv`, whole, so that it always ends where the checkpoint does. Raises: OSError."""
    text = io.StringIO()
    table = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    table.writeheader()
    table.writerows(rows)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())


class Scores:
    """What a checkpoint is judged by while training: score (b) and, given features of real faces
    in `network`, kid.
    """

    def __init__(self, network: EfficientNetLite | None = None, real: Tensor | None = None):
        self.network = network
        self.real = None if network is None else pooled_features(network, real)

    def __call__(self, training: Training) -> tuple[dict[str, float], Tensor]:
        """The scores by name, and the samples that they are of, (N, 3, S, S), uint8."""
        networks = training.averaged
        number = SCORED if self.real is None else len(self.real)
        made = samples(networks["synthesis"], networks["mapping"], range(number))
        faces = training.faces[:: max(len(training.faces) // SCORED, 1)]
        scores = {"swd": round(sliced_wasserstein(made[:SCORED], faces), 3)}
        if self.real is not None:
            features = pooled_features(self.network, made)
            scores["kid"] = round(kernel_distance(features, self.real), 2)
        return scores, made


def save(
    training: Training, figures: dict[str, float], folder: Path, data: str, score: Scores
) -> None:
    """Score, log, sample grid and, last, the checkpoint. Raises: OSError."""
    row = {"images": training.images, "minutes": round(training.seconds / 60, 2), **figures}
    row["augment_p"] = round(training.adversaries["critic"].augment.p.item(), 3)
    scores, made = score(training)
    row |= scores
    training.log.append(row)
    write_log(folder / "log.csv", training.log)
    write_png(folder / "samples.png", sample_grid(made[:32]), {"images": str(training.images)})
    with atomic_write(folder / "checkpoint.pt") as file:
        torch.save({"format": CHECKPOINT, "data": data, **training.state_dict()}, file)
    tell(", ".join(f"{name} {value:.5g}" for name, value in row.items()))


def export(training: Training, folder: Path, about: dict, prior_draws: int) -> Path:
    """What can be gone on from without the checkpoint, in float16, each a file: the averaged
    generator with its prior fit (generator.pt), the one that is trained (trained.pt), and what
    they were trained against (critic.pt, projected.pt). Returns the first. Raises: OSError.
    """
    about = {
        **about,
        "images_seen": training.images_before + training.images,
        "hours": round(training.hours_before + training.seconds / 3600, 2),
        "commit": commit(),
    }
    prior = None
    for name, networks in (("generator", training.averaged), ("trained", training.networks)):
        synthesis, mapping = (
            copy.deepcopy(networks[part]).cpu().half() for part in ("synthesis", "mapping")
        )
        if prior is None:  # of the weights as they will be read; nobody searches with the others
            prior = fit_prior(mapping.float(), prior_draws)
        save_generator(
            Networks(synthesis, mapping.half(), about=about), prior, folder / f"{name}.pt"
        )
    for name, state in training.files().items():
        with atomic_write(folder / f"{name}.pt") as file:
            torch.save(state, file)
    return folder / "generator.pt"
