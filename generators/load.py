"""A name or a file becomes a generator: synthesis network, prior, and what is known of it.

`ffhq` is looked for in the cache and then fetched; `demo` and `demo64` lie in this repository;
anything else is the path of a weight file.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cli.errors import UserError
from generators.ffhq import load_ffhq
from generators.formats import FORMAT, read_networks
from generators.networks import Networks, worded
from generators.prior import cached_prior, tensors_sha256
from safe_files import atomic_write
from stylegan import LEAKY_SLOPE, G_synthesis

DEMO64 = Path(__file__).resolve().parent.parent / "demo" / "faces64.pt"  # always of 64 pixels
DEMO = DEMO64  # the best embedded one


def weight_file(name: str | os.PathLike) -> Path:
    """The file of `demo` or `demo64`; any other name is a path."""
    return {"demo": DEMO, "demo64": DEMO64}.get(str(name)) or Path(name)


@dataclass
class Generator:
    """What the search walks on. Its networks need no gradient for their weights."""

    name: str
    synthesis: G_synthesis
    mean: Tensor  # (d,)
    std: Tensor  # (d,)
    about: dict

    @cached_property
    def sha256(self) -> str:
        """Of everything that its pictures depend on: the synthesis network and the prior."""
        state = {**self.synthesis.state_dict(), "prior mean": self.mean, "prior std": self.std}
        return tensors_sha256(state)

    @property
    def resolution(self) -> int:
        """S, the side of its pictures in pixels."""
        return self.synthesis.resolution

    @property
    def num_layers(self) -> int:
        """L, the number of latents and of noise maps of a picture."""
        return self.synthesis.num_layers

    @property
    def dlatent_size(self) -> int:
        """d, the width of a latent."""
        return self.synthesis.dlatent_size

    def w_of(self, v: Tensor) -> Tensor:
        """Search variable v (…, d) → generator input w = LeakyReLU(0.2)(v·std + mean)."""
        return F.leaky_relu(v * self.std + self.mean, LEAKY_SLOPE)

    def to(self, device: torch.device) -> Generator:
        """The same generator on `device`."""
        self.synthesis.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self


def load_generator(
    name: str | os.PathLike, cache_dir: str | os.PathLike = "cache", progress: bool = True
) -> Generator:
    """`ffhq`, `demo`, `demo64` or the path of a weight file → a Generator on the CPU, in float32.

    progress: tell of downloads on stderr. Raises: UserError, with the reason and what to do.
    """
    if str(name) == "ffhq":
        networks = load_ffhq(Path(cache_dir), progress)
    else:
        try:
            networks = read_networks(weight_file(name))
        except UserError as error:
            hint = "" if os.path.exists(name) else ", or use the names ffhq or demo"
            raise UserError(f"{error}{hint}") from None
    return generator_of(networks, name, Path(cache_dir))


def generator_of(networks: Networks, name: str | os.PathLike, cache_dir: Path) -> Generator:
    """The Generator of a file's networks; where the file has no prior, a fit to its mapping network
    is made and cached.

    Raises: UserError where there is neither, or where the cache cannot be written.
    """
    if networks.prior is None and networks.mapping is None:
        raise UserError(
            f"{name} has neither a mapping network nor a prior fit: put its mapping.pt beside it"
        )
    try:
        mean, std = networks.prior or cached_prior(networks.mapping, cache_dir)
    except OSError as error:
        raise UserError(
            f"-cache_dir {cache_dir} cannot be written ({error.strerror}): give another folder"
        ) from None
    synthesis = networks.synthesis.eval().requires_grad_(False)
    return Generator(str(name), synthesis, mean, std, networks.about)


def describe(networks: Networks) -> list[str]:
    """What a weight file holds, in lines."""
    synthesis, mapping = networks.synthesis, networks.mapping
    config = synthesis.config
    lines = [
        f"format: {networks.origin}",
        f"pictures: {synthesis.resolution}x{synthesis.resolution}",
        f"layers: {synthesis.num_layers}, channels "
        + "/".join(str(block.epi2.noise.weight.numel()) for block in synthesis.blocks.values()),
        f"latent width: {synthesis.dlatent_size}",
        f"config: {', '.join(f'{name} {value}' for name, value in config.items())}",
        f"parameters: {_count(synthesis):,} synthesis"
        + (f", {_count(mapping):,} mapping of {len(mapping)} layers" if mapping else ""),
        f"mapping network: {'yes' if mapping else 'no: put its mapping.pt beside the file'}",
        f"prior fit: {'in the file' if networks.prior else 'made at first use, then cached'}",
    ]
    for name, value in networks.about.items():
        lines.append(f"{name}: {value if isinstance(value, str) else worded(value)}")
    if "licence" not in networks.about:
        lines.append("licence: the file does not say; see where it comes from")
    return lines


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def save_generator(networks: Networks, prior: tuple[Tensor, Tensor], path: Path) -> None:
    """Write this project's one-file format. Raises: OSError."""
    content = {
        "format": FORMAT,
        "config": networks.synthesis.config,
        "synthesis": networks.synthesis.state_dict(),
        "mapping": networks.mapping.state_dict() if networks.mapping else None,
        "gaussian_fit": {"mean": prior[0], "std": prior[1]},
        "about": networks.about,
    }
    with atomic_write(path) as file:
        torch.save(content, file)
