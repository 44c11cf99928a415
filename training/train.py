"""Train a StyleGAN on a folder of aligned faces, and write it as a one-file generator.

examples:
  python -m training.train -data faces -minutes 120
      trains for two hours, on CUDA if it is there
  python -m training.train -data faces -minutes 120
      the same again: goes on where it was, also after it was killed
  python -m training.train -data faces -start demo/faces64.pt -minutes 60 -output_dir more
      starts from the weights of a generator rather than from nothing

In -output_dir: checkpoint.pt (everything, to go on from), log.csv (with score (b) of
training/score.py, less is better), samples.png (seeds 0 to 31, not chosen), and at the end
generator.pt (averaged weights and prior fit: python run.py -generator training/generator.pt) and
critic.pt (what it was trained against, for -start and -critic).
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import io
import pickle
import subprocess
import time
from pathlib import Path

import torch

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from generators.formats import Networks, read_networks
from generators.load import DEMO, save_generator
from generators.prior import fit_prior
from imaging.provenance import write_png
from PULSE import choose_device
from safe_files import atomic_write, require_folder_writable
from training.dataset import fingerprint, load_faces
from training.score import sample_grid, samples, sliced_wasserstein
from training.train_settings import MAY_CHANGE, TrainSettings
from training.trainer import Training

ROOT = Path(__file__).resolve().parent.parent

CHECKPOINT = "pulse-training-1"
SCORED = 512  # samples for score (b) while training: enough to see it fall


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("data", "folder of aligned faces, square pictures", required=True, type=Path)
    flags.flag("output_dir", "where checkpoint, log and samples go", "training", type=Path)
    flags.flag("minutes", "how long to train, this time", 60.0, type=float)
    flags.flag("save_minutes", "between checkpoints, with score and sample grid", 4.0, type=float)
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    flags.flag(
        "start", "demo or a weight file to start from, where there is no checkpoint", type=Path
    )
    flags.flag(
        "critic",
        "with -start: the critic.pt that was written beside that generator",
        type=Path,
    )
    flags.flag(
        "warmup_images", "with -start: images by which the discriminator learns alone", 0, type=int
    )
    flags.flag("compile", "auto (above 10 minutes), on or off", "auto")
    flags.flag("threads", "CPU threads", shown="PyTorch's", type=int)
    flags.flag("name", "of the generator, in its file", "demo faces")
    flags.flag("trained_on", "what the pictures are, for the file", "a folder of aligned faces")
    flags.flag("licence", "of the weights, for the file", "research, non-commercial")
    for setting in dataclasses.fields(TrainSettings):
        flags.flag(
            setting.name, setting.metadata["help"], setting.default, type=type(setting.default)
        )
    return flags


def commit() -> str:
    """The commit of this repository's code, `-dirty` where files differ from it."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    return "unknown"


def load_checkpoint(path: Path, training: Training, data: str) -> bool:
    """Whether there was one to go on from. Raises: UserError for one that does not fit."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        if state["format"] != CHECKPOINT:
            raise ValueError("it is of another format")
        there = state["settings"]
    except FileNotFoundError:
        return False
    except Exception as error:  # whatever a damaged file makes torch.load say
        raise UserError(
            f"{path} is no checkpoint of train.py ({str(error)[:200]}): move it "
            f"away, or give another -output_dir"
        ) from None
    for name, value in {**dataclasses.asdict(training.settings), "data": data}.items():
        other = state["data"] if name == "data" else there.get(name)
        if other != value and name not in MAY_CHANGE:
            raise UserError(
                f"{path} was trained with {name} {other}, not {value}: use the same, or "
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
    figures["augment_p"] = round(training.augment.p, 3)
    row = {"images": training.images, "minutes": round(training.seconds / 60, 2), **figures}
    row["swd"] = round(sliced_wasserstein(made, faces), 3)
    training.log.append(row)
    write_log(folder / "log.csv", training.log)
    write_png(folder / "samples.png", sample_grid(made[:32]), {"images": str(training.images)})
    with atomic_write(folder / "checkpoint.pt") as file:
        torch.save({"format": CHECKPOINT, "data": data, **training.state_dict()}, file)
    print(", ".join(f"{name} {value:.5g}" for name, value in row.items()), flush=True)


def train(training: Training, args, data: str) -> None:
    """Until the time is over; the first row of a new log is the score before any training."""
    if not training.log:
        save(training, {}, args.output_dir, data)
    began = saved = last = time.monotonic()
    sums: dict[str, list[torch.Tensor]] = {}
    while last - began < 60 * args.minutes:
        warm = args.start is None or training.images >= args.warmup_images
        for name, value in training.step(train_generator=warm).items():
            sums.setdefault(name, []).append(value)
        now = time.monotonic()
        training.seconds, last = training.seconds + now - last, now
        if last - saved > 60 * args.save_minutes or last - began >= 60 * args.minutes:
            figures = {k: round(torch.stack(v).mean().item(), 5) for k, v in sums.items()}
            seen = training.images - training.log[-1]["images"]
            figures["images_per_second"] = round(seen / (last - saved), 1)
            save(training, figures, args.output_dir, data)
            sums = {}
            saved = last = time.monotonic()  # scoring is no training


def export(training: Training, args, faces: int) -> Path:
    """The averaged generator with its prior fit, float16, as a one-file generator. Raises:
    OSError.
    """
    size = training.settings.resolution
    networks = Networks(
        training.averaged["synthesis"].cpu(),
        training.averaged["mapping"].cpu(),
        about={
            "name": args.name,
            "licence": args.licence,
            "trained_on": f"{args.trained_on} ({faces} pictures at {size} pixels)",
            "images_seen": training.images_before + training.images,
            "hours": round(training.hours_before + training.seconds / 3600, 2),
            "commit": commit(),
        },
    )
    networks.synthesis.half()
    networks.mapping.half()
    prior = fit_prior(networks.mapping.float())  # of the weights as they will be read
    networks.mapping.half()
    path = args.output_dir / "generator.pt"
    save_generator(networks, prior, path)
    with atomic_write(args.output_dir / "critic.pt") as file:
        torch.save(training.critic(), file)
    return path


def main() -> int:
    args = parser().parse_args()
    settings = TrainSettings(
        **{field.name: getattr(args, field.name) for field in dataclasses.fields(TrainSettings)}
    )
    if args.compile not in ("auto", "on", "off"):
        raise UserError(f"-compile {args.compile!r} is unknown: use auto, on or off")
    require_folder_writable(args.output_dir, "-output_dir")
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        settings.check()
        device = choose_device(args.device)
        faces = load_faces(args.data, settings.resolution, 2 * settings.batch_size)
        training = Training(settings, faces, device)
        data = fingerprint(faces)
        if load_checkpoint(args.output_dir / "checkpoint.pt", training, data):
            print(f"goes on at {training.images} images")
        elif args.start is not None:
            critic = args.critic and torch.load(args.critic, weights_only=True)
            start = DEMO if str(args.start) == "demo" else args.start
            training.start_from(read_networks(start), critic)
    except OSError as error:
        raise UserError(f"-critic {args.critic} cannot be read ({error.strerror})") from None
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise UserError(str(error)) from None
    if args.compile == "on" or (args.compile == "auto" and args.minutes > 10):
        training.compile()
    try:
        train(training, args, data)
        tell(f"written: {export(training, args, len(faces))}")
    except OSError as error:
        raise UserError(
            f"{error.filename or args.output_dir} cannot be written ({error.strerror}): "
            f"see to it and run again; the last checkpoint is kept"
        ) from None
    return OK


if __name__ == "__main__":
    run_command(main)
