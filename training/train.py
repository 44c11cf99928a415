"""Train a StyleGAN on a folder of aligned faces, and write it as a one-file generator.

examples:
  python -m training.train -data faces -minutes 120
      trains for two hours, on CUDA where available
  python -m training.train -data faces -minutes 120
      the same again: goes on where it was, also after it was killed
  python -m training.train -data faces -start demo -minutes 60 -output_dir more
      starts from the weights of a generator rather than from nothing

In -output_dir: checkpoint.pt (everything, to go on from), log.csv (with score (b) of
training.score, less is better), samples.png (seeds 0 to 31, not chosen), and at the end
generator.pt (averaged weights and prior fit: python run.py -generator
training_runs/generator.pt) and critic.pt (what it was trained against, for -start and -critic).
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from generators.formats import read_networks
from generators.load import DEMO
from PULSE import choose_device
from safe_files import require_folder_writable
from training.checkpoint import export, load_checkpoint, load_critic, save
from training.dataset import fingerprint, load_faces
from training.train_settings import TrainSettings
from training.trainer import Training


@dataclass(frozen=True)
class Schedule:
    """How long one run trains, and how often it saves."""

    minutes: float
    save_minutes: float
    warmup_images: int  # by which the discriminator learns alone


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("data", "folder of aligned faces, square pictures", required=True, type=Path)
    flags.flag("output_dir", "where checkpoint, log and samples go", "training_runs", type=Path)
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
    for setting in fields(TrainSettings):
        flags.flag(
            setting.name, setting.metadata["help"], setting.default, type=type(setting.default)
        )
    return flags


def train(training: Training, schedule: Schedule, folder: Path, data: str) -> None:
    """Until the time is over; the first row of a new log is the score before any training.

    Raises: OSError.
    """
    if not training.log:
        save(training, {}, folder, data)
    began = saved = last = time.monotonic()
    sums: dict[str, list[torch.Tensor]] = {}
    while last - began < 60 * schedule.minutes:
        warm = training.images >= schedule.warmup_images
        for name, value in training.step(train_generator=warm).items():
            sums.setdefault(name, []).append(value)
        now = time.monotonic()
        training.seconds, last = training.seconds + now - last, now
        if last - saved > 60 * schedule.save_minutes or last - began >= 60 * schedule.minutes:
            figures = {k: round(torch.stack(v).mean().item(), 5) for k, v in sums.items()}
            seen = training.images - training.log[-1]["images"]
            figures["images_per_second"] = round(seen / (last - saved), 1)
            save(training, figures, folder, data)
            sums = {}
            saved = last = time.monotonic()  # scoring is no training


def main() -> int:
    args = parser().parse_args()
    settings = TrainSettings(
        **{field.name: getattr(args, field.name) for field in fields(TrainSettings)}
    )
    settings.check()
    if args.compile not in ("auto", "on", "off"):
        raise UserError(f"-compile {args.compile!r} is unknown: use auto, on or off")
    require_folder_writable(args.output_dir, "-output_dir")
    if args.threads:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    faces = load_faces(args.data, settings.resolution, 2 * settings.batch_size)
    data = fingerprint(faces)
    training = Training(settings, faces, device)
    if load_checkpoint(args.output_dir, training, data):
        tell(f"goes on at {training.images} images")
    elif args.start is not None:
        start = DEMO if str(args.start) == "demo" else args.start
        training.start_from(read_networks(start), args.critic and load_critic(args.critic))
    if args.compile == "on" or (args.compile == "auto" and args.minutes > 10):
        training.compile()
    warmup = 0 if args.start is None else args.warmup_images
    about = {
        "name": args.name,
        "licence": args.licence,
        "trained_on": f"{args.trained_on} ({len(faces)} pictures at {settings.resolution} pixels)",
    }
    try:
        train(training, Schedule(args.minutes, args.save_minutes, warmup), args.output_dir, data)
        tell(f"written: {export(training, args.output_dir, about)}")
    except OSError as error:
        raise UserError(
            f"{error.filename or args.output_dir} cannot be written ({error.strerror}): "
            f"see to it and run again; the last checkpoint is kept"
        ) from None
    return OK


if __name__ == "__main__":
    run_command(main)
