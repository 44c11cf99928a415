"""What the commands of training are given, and what of it is refused before any work."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import UserError
from generators.formats import read_stylegan1
from generators.load import weight_file
from generators.networks import Networks

FEWEST_DRAWS = 2  # latents of which a standard deviation can be taken


def require_at_least(name: str, value: float, fewest: float) -> None:
    """Raises: UserError unless `value`, of the flag `name`, is a number from `fewest` on."""
    if not value >= fewest:  # nor NaN
        raise UserError(f"-{name} must be at least {fewest}, not {value}")


def require_inputs_kept(written: Iterable[Path], inputs: Iterable[tuple[str, Path | None]]) -> None:
    """inputs: what each is, in words, and its file. Raises: UserError where one of them would be
    replaced by one of the files that are to be written.
    """
    there = [path for path in written if os.path.exists(path)]
    for what, path in inputs:
        for other in there:
            if path is not None and os.path.exists(path) and os.path.samefile(path, other):
                raise UserError(f"{other} is {what}: give another -output_dir")


def read_generator(name: str | os.PathLike) -> Networks:
    """The networks of `demo`, `demo64` or a file, its mapping network among them. Raises: UserError
    where there is none, and for what is no StyleGAN.
    """
    networks = read_stylegan1(weight_file(name))
    if networks.mapping is None:
        raise UserError(f"{name} has no mapping network: give a generator that has one")
    return networks


def load_weights(path: Path, flag: str) -> dict[str, Tensor]:
    """The state dict of the critic.pt or projected.pt that `flag` names. Raises: UserError."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"-{flag} {path} cannot be read ({error.strerror})") from None
    except Exception as error:  # whatever a damaged file makes torch.load say
        raise UserError(f"-{flag} {path} holds no weights ({str(error)[:200]})") from None
    if not (isinstance(state, dict) and all(isinstance(x, Tensor) for x in state.values())):
        raise UserError(f"-{flag} {path} holds no weights: give the {flag}.pt of a training")
    return state
