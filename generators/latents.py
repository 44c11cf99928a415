"""What a picture is drawn from: where a search starts, the drawing itself, and the latent file
(.npz) from which a result can be drawn again.

    latent, record = read_latent("runs/anna.npz")    # run.py -save_latent wrote it
    HR = redraw(generator, generator.synthesis, "runs/anna.npz")  # (1, 3, S, S): the picture again

In a latent file, which numpy opens with allow_pickle=False: `w`, the generator's input;
`noise_0` …, the noise maps that were searched; `record`, JSON: the seed, which redraws the other
maps, all settings, generator, device and threads.
"""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
import torch
from torch import Tensor

from cli.errors import UserError, is_mistake
from loss import geocross
from search_settings import (
    ADDED,
    OPTIMISERS,
    PRECISIONS,
    SEARCHES,
    STARTS,
    Settings,
    lr_multiplier,
    require_seed,
)
from SphericalOptimizer import SphericalOptimizer

if TYPE_CHECKING:
    from generators.load import Generator

FORMAT = "pulse-latent-1"
MAX_BYTES = 256 << 20  # unpacked; every map of a generator of 2048 pixels would have 45 MB
GATHERING = 50  # steps of gathered(), after which GEOCROSS is about 0.1
LEFT_OUT = ("curve", "attempts", "seconds")  # of a record: long, or different at every run


@dataclass(frozen=True)
class Latent:
    """What one picture was drawn from, besides its seed; on the CPU."""

    w: Tensor  # (L, d), or (1, d) with tile_latent
    noise: dict[int, Tensor]  # layer → (r, r): the maps that were searched


def starting_point(
    generator: Generator, settings: Settings, seed: int
) -> tuple[Tensor, list[Tensor]]:
    """v (1, L, d), or (1, 1, d) where all layers begin with one latent, and noise maps (1, 1, r, r)
    of one picture, on the CPU.

    Drawn in this order from one CPU generator, so that one seed starts at one point on every
    device; a zeroed layer draws nothing.
    """
    random = torch.Generator().manual_seed(seed)
    one = settings.tile_latent or STARTS[settings.start].tied
    rows = 1 if one else generator.num_layers
    v = torch.randn(1, rows, generator.dlatent_size, generator=random)
    noise = []
    roles = settings.noise_roles(len(generator.noise_sizes))
    for role, size in zip(roles, generator.noise_sizes, strict=True):
        shape = (1, 1, size, size)
        drawn = torch.zeros(shape) if role == "zero" else torch.randn(shape, generator=random)
        noise.append(drawn)
    return v, noise


def gathered(generator: Generator, v: Tensor) -> Tensor:
    """v (B, L, d), one latent for each layer, after GEOCROSS alone has pulled those of a picture
    together, each on its sphere: with the published optimiser, rate and schedule, but without a
    picture being drawn. Of one row, v itself.

    The published search does the same in its first steps. GEOCROSS is an angle between the w of two
    layers as seen from 0: it falls also as they go away from 0 side by side, |w| by two fifths.
    """
    if v.shape[1] == 1:
        return v
    paper = SEARCHES["paper"]
    adam = OPTIMISERS[paper["opt_name"]]
    v = v.clone().requires_grad_()
    rate = torch.tensor(0.0, device=v.device if v.device.type == "cuda" else "cpu")
    options = adam.options_on(v.device.type)
    optimiser = SphericalOptimizer(getattr(torch.optim, adam.name), [v], lr=rate, **options)
    for step in range(GATHERING):
        multiple = lr_multiplier(paper["lr_schedule"], step, GATHERING)
        rate.fill_(paper["learning_rate"] * multiple)
        optimiser.zero_grad()
        with torch.enable_grad():
            geocross(generator.w_of(v)).sum().backward()
        optimiser.step()
    return v.detach()


def draw(
    synthesize: Callable[[Tensor, list[Tensor]], Tensor],
    w: Tensor,
    noise: list[Tensor],
    num_layers: int,
) -> Tensor:
    """HR = (G(w, noise) + 1)/2, (B, 3, S, S), not clamped; of w (B, L, d), L = `num_layers`, or
    (B, 1, d) for all layers, and noise maps (B, 1, r, r).
    """
    w = w.expand(-1, num_layers, -1)
    in_unit_range = getattr(synthesize, "in_unit_range", None)  # of a fast form
    if in_unit_range is not None:
        return in_unit_range(w, noise)
    return synthesize(w, noise).mul(0.5).add_(0.5)


@torch.no_grad()
def redraw(
    generator: Generator,
    synthesize: Callable[[Tensor, list[Tensor]], Tensor],
    path: str | os.PathLike,
) -> Tensor:
    """The picture of a latent file: HR (1, 3, S, S) in [0, 1], on the CPU.

    Raises: UserError where the file cannot be used, or is of another generator.
    """
    latent, record = read_latent(path)
    settings = _fitting(latent, record, generator)
    _, noise = starting_point(generator, settings, record["seed"])
    for layer, searched in latent.noise.items():
        noise[layer] = searched[None, None]
    device = generator.mean.device
    noise = [maps.to(device) for maps in noise]
    HR = draw(synthesize, latent.w[None].to(device), noise, generator.num_layers)
    return HR.clamp(0, 1).cpu()


def _fitting(latent: Latent, record: dict, generator: Generator) -> Settings:
    """The settings of a latent file. Raises: UserError where it is not of this generator."""
    name, sha256 = record["generator"]["name"], record["generator"]["sha256"]
    if sha256 != generator.sha256:
        raise UserError(
            f"it is of the generator {name} ({sha256[:8]}…), not of {generator.name} "
            f"({generator.sha256[:8]}…): give its own with -generator"
        )
    settings = _settings(record)
    try:
        roles = settings.noise_roles(len(generator.noise_sizes))
    except UserError as error:
        raise UserError(f"it is damaged ({error}): make it again") from None
    sizes = generator.noise_sizes
    expected = {
        layer: (sizes[layer],) * 2 for layer, role in enumerate(roles) if role == "trainable"
    }
    there = {layer: tuple(searched.shape) for layer, searched in latent.noise.items()}
    rows = 1 if settings.tile_latent else generator.num_layers
    if tuple(latent.w.shape) != (rows, generator.dlatent_size) or there != expected:
        raise UserError("it is damaged (arrays of other shapes than its settings'): make it again")
    return settings


def _settings(record: dict) -> Settings:
    there = ADDED | record["settings"]
    return Settings(**{field.name: there[field.name] for field in fields(Settings)})


def encode_latent(file: BinaryIO, latent: Latent, record: dict) -> None:
    """Write the latent of the result that `record` describes into an open file. Raises: OSError."""
    short = {name: value for name, value in record.items() if name not in LEFT_OUT}
    np.savez(
        file,
        format=np.array(FORMAT),
        w=latent.w.numpy(),
        **{f"noise_{layer}": searched.numpy() for layer, searched in latent.noise.items()},
        record=np.array(json.dumps(short)),
    )


def read_latent(path: str | os.PathLike) -> tuple[Latent, dict]:
    """What a latent file holds: the latent, and the record of its result without the curve.

    Raises: UserError, whatever is wrong.
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # opening a pipe would wait for ever
            raise UserError("it is not a regular file: give one that -save_latent wrote")
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise UserError(f"it unpacks to more than {MAX_BYTES >> 20} MB: no latent does")
        with np.load(path, allow_pickle=False) as arrays:
            if "format" not in arrays or arrays["format"].item() != FORMAT:
                raise UserError(
                    "it is an .npz file, but not of -save_latent: give one that it wrote"
                )
            record = json.loads(arrays["record"].item())
            _require_whole(record)
            noise = {
                int(name.removeprefix("noise_")): _tensor(arrays[name])
                for name in arrays.files
                if name.startswith("noise_")
            }
            return Latent(_tensor(arrays["w"]), noise), record
    except UserError:
        raise
    except (zipfile.BadZipFile, EOFError):
        reason = "it is no .npz file, or cut off: give one that -save_latent wrote"
    except Exception as error:  # damaged archives and headers break numpy in any way
        if is_mistake(error):
            raise
        if isinstance(error, OSError) and error.strerror:
            reason = f"it cannot be opened ({error.strerror}): see to it that it can be read"
        else:
            reason = f"it is damaged ({type(error).__name__}): make it again, with -save_latent"
    raise UserError(reason)


def _tensor(array: np.ndarray) -> Tensor:
    """Raises: ValueError for anything but a finite matrix of float32."""
    if array.dtype != np.float32 or array.ndim != 2 or not np.isfinite(array).all():
        raise ValueError
    return torch.from_numpy(array)


def _require_whole(record: dict) -> None:
    """Raises: an error of some kind where something is missing that a picture is drawn or marked
    with.
    """
    _settings(record).check()
    require_seed(record["seed"])
    generator = record["generator"]
    texts = (record["device"], record["versions"]["pulse"], generator["name"], generator["sha256"])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError
    if not isinstance(generator.get("label", 0), int):
        raise ValueError
    if not (isinstance(record["l2"], float) and isinstance(record["within_eps"], bool)):
        raise ValueError
    if not (type(record["threads"]) is int and 1 <= record["threads"] <= 1024):
        raise ValueError
    if record["settings"].get("precision") not in (None, *PRECISIONS):
        raise ValueError
