"""A name or a file becomes a generator: synthesis network, prior, and what is known of it.

`ffhq` and the names of public.py are looked for in the cache and then fetched; `demo` and `demo64`
lie in this repository; anything else is an address or the path of a weight file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from cli.errors import UserError
from generators.ffhq import load_ffhq
from generators.formats import FAMILIES, FORMAT, FORMAT_2, read_networks
from generators.networks import Networks, Synthesis, worded
from generators.prior import cached_prior, tensors_sha256
from generators.public import ADDRESS, BY_NAME, NAMES, load_from_address, load_public
from safe_files import atomic_write
from stylegan import LEAKY_SLOPE, G_mapping

_FOLDER = Path(__file__).resolve().parent.parent / "demo"
DEMO, DEMO64 = _FOLDER / "faces128.pt", _FOLDER / "faces64.pt"  # of 128 and 64 pixels
EMBEDDED = {"demo": DEMO, "demo64": DEMO64}


def weight_file(name: str | os.PathLike) -> Path:
    """The file of an embedded generator; any other name is a path."""
    return EMBEDDED.get(str(name)) or Path(name)


@dataclass
class Generator:
    """What the search walks on. Its networks need no gradient for their weights."""

    name: str
    synthesis: Synthesis
    mean: Tensor  # (d,)
    std: Tensor  # (d,)
    about: dict
    mapping: G_mapping | None = None
    label: int | None = None  # of a conditional generator: the one that was chosen
    licence: str | None = None  # of one that was fetched by its name

    @cached_property
    def sha256(self) -> str:
        """Of everything that its pictures depend on: the synthesis network and the prior."""
        state = {**self.synthesis.state_dict(), "prior mean": self.mean, "prior std": self.std}
        return tensors_sha256(state)

    @property
    def facts(self) -> dict:
        """What the record of a result says of it, beside its name."""
        given = {"label": self.label, "licence": self.licence}
        known = {name: value for name, value in given.items() if value is not None}
        return {"sha256": self.sha256, **known}

    @property
    def resolution(self) -> int:
        """S, the side of its pictures in pixels."""
        return self.synthesis.resolution

    @property
    def num_layers(self) -> int:
        """L, the number of latents of a picture: the rows of w."""
        return self.synthesis.num_layers

    @property
    def noise_sizes(self) -> list[int]:
        """The sides of its noise maps in pixels, in their order."""
        return self.synthesis.noise_sizes

    @property
    def dlatent_size(self) -> int:
        """d, the width of a latent."""
        return self.synthesis.dlatent_size

    @property
    def fixed_noise(self) -> list[Tensor]:
        """The noise maps (1, 1, r, r) that the file keeps; zeros where it keeps none."""
        buffers = self.synthesis.named_buffers()
        kept = [maps[None, None] for name, maps in buffers if name.endswith("noise_const")]
        return kept or [torch.zeros(1, 1, r, r, device=self.mean.device) for r in self.noise_sizes]

    def w_of(self, v: Tensor) -> Tensor:
        """Search variable v (…, d) → generator input w = LeakyReLU(0.2)(v·std + mean)."""
        return F.leaky_relu(v * self.std + self.mean, LEAKY_SLOPE)

    def map(self, z: Tensor) -> Tensor:
        """z (B, latent_size) → w (B, d). Raises: UserError where there is no mapping network, or
        for another shape.
        """
        if self.mapping is None:
            raise UserError(f"{self.name} has no mapping network, only the prior that was fitted")
        if z.ndim != 2 or z.shape[1] != self.mapping.latent_size:
            raise UserError(f"z must be (B, {self.mapping.latent_size}), not {tuple(z.shape)}")
        return self.mapping(z)

    def inputs(self, w: Tensor, noise: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """What the synthesis network takes, of w (B, d) or (B, L, d) and of maps (B or 1, 1, r, r).
        Raises: UserError for other shapes.
        """
        L, d, sizes = self.num_layers, self.dlatent_size, self.noise_sizes
        whole = w[:, None].expand(-1, L, -1) if w.ndim == 2 else w
        if whole.ndim != 3 or whole.shape[1:] != (L, d) or len(w) == 0:
            raise UserError(f"w must be (B, {d}) or (B, {L}, {d}), not {tuple(w.shape)}")
        if len(noise) != len(sizes):
            raise UserError(f"noise must be a list of {len(sizes)} maps, not of {len(noise)}")
        for i, (each, r) in enumerate(zip(noise, sizes, strict=True)):
            if each.shape not in ((len(w), 1, r, r), (1, 1, r, r)):
                raise UserError(f"noise map {i} must be (B, 1, {r}, {r}), not {tuple(each.shape)}")
        return whole, [each.expand(len(w), -1, -1, -1) for each in noise]

    def to(self, device: torch.device) -> Generator:
        """The same generator on `device`."""
        self.synthesis.to(device)
        if self.mapping is not None:
            self.mapping.to(device)
        self.mean, self.std = self.mean.to(device), self.std.to(device)
        return self


def load_generator(
    name: str | os.PathLike,
    cache_dir: str | os.PathLike = "cache",
    progress: bool | Callable = True,
    label: int | None = None,
) -> Generator:
    """A name (`ffhq`, `demo`, `demo64`, or one of public.py), an https address or the path of a
    weight file → a Generator on the CPU, in float32.

    progress: as open_url takes it. label: of a conditional generator, counted from 0. Raises:
    UserError, with the reason and what to do.
    """
    text, cache_dir, licence = str(name), Path(cache_dir), None
    if text == "ffhq":
        networks = load_ffhq(cache_dir, progress)
    elif text in EMBEDDED:
        networks = read_networks(EMBEDDED[text])
    elif public := BY_NAME.get(text):
        networks = load_public(public, cache_dir, progress)
        licence = public.licence
    elif ADDRESS.match(text):
        networks = load_from_address(text, cache_dir, progress)
    elif re.fullmatch(r"[\w-]+", text) and not os.path.lexists(text):
        raise UserError(
            f"{text} is neither a weight file nor the name of a generator: give a file, an https "
            f"address, or one of {', '.join(NAMES)}"
        )
    else:
        networks = read_networks(Path(name))
    generator = generator_of(networks, name, cache_dir, label)
    generator.licence = licence
    return generator


def generator_of(
    networks: Networks, name: str | os.PathLike, cache_dir: Path, label: int | None = None
) -> Generator:
    """The Generator of a file's networks, of one of its labels where it has some; where the file
    has no prior, a fit to its mapping network is made and cached.

    Raises: UserError where there is neither, where the cache cannot be written, or for a label that
    the file has not.
    """
    only_label = networks.labels == 1
    choose_label(networks, name, label)
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
    label = 0 if only_label else label
    mapping = networks.mapping and networks.mapping.eval().requires_grad_(False)
    return Generator(str(name), synthesis, mean, std, networks.about, mapping, label)


def choose_label(networks: Networks, name: str | os.PathLike, label: int | None) -> None:
    """Networks.choose_label. Raises: UserError that begins with the name of the file."""
    try:
        networks.choose_label(label)
    except UserError as error:
        raise UserError(f"{name} {error}") from None


def describe(networks: Networks) -> list[str]:
    """What a weight file holds, in lines."""
    synthesis, mapping = networks.synthesis, networks.mapping
    lines = [
        f"format: {networks.origin}",
        f"family: {FAMILIES[synthesis.family]}",
        f"pictures: {synthesis.resolution}x{synthesis.resolution}",
        f"layers: {synthesis.num_layers}, channels "
        + "/".join(str(number) for number in _widths(synthesis)),
        f"noise maps: {len(synthesis.noise_sizes) or 'none'}",
        f"latent width: {synthesis.dlatent_size}",
        f"config: {', '.join(f'{name} {value}' for name, value in synthesis.config.items())}",
        f"parameters: {_count(synthesis):,} synthesis"
        + (f", {_count(mapping):,} mapping of {len(mapping)} layers" if mapping else ""),
    ]
    if networks.labels:
        last = networks.labels - 1
        how = f"one is chosen with -label 0 to -label {last}" if last else "which is taken"
        lines.append(f"labels: {networks.labels}, {how}")
        lines.append("mapping network: yes, one for each label")
    else:
        how = "yes" if mapping else "no: put its mapping.pt beside the file"
        lines.append(f"mapping network: {how}")
    fit = "in the file" if networks.prior else "made at first use, then cached"
    lines.append(f"prior fit: {fit}")
    for name, value in networks.about.items():
        lines.append(f"{name}: {value if isinstance(value, str) else worded(value)}")
    if "licence" not in networks.about:
        lines.append("licence: the file does not say; see where it comes from")
    return lines


def _widths(synthesis: Synthesis) -> list[int]:
    """The channels of its blocks, or of StyleGAN3's layers."""
    if synthesis.family == "stylegan1":
        return [block.epi2.noise.weight.numel() for block in synthesis.blocks.values()]
    if synthesis.family == "stylegan2":
        return synthesis.config["channels"]
    return [layout.out_channels for layout in synthesis.layouts]


def _count(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def save_generator(networks: Networks, prior: tuple[Tensor, Tensor], path: Path) -> None:
    """Write this project's one-file format. Raises: OSError."""
    synthesis = networks.synthesis
    first = synthesis.family == "stylegan1"
    content = {
        "format": FORMAT if first else FORMAT_2,
        "config": synthesis.config if first else {"family": synthesis.family, **synthesis.config},
        "synthesis": synthesis.state_dict(),
        "mapping": networks.mapping.state_dict() if networks.mapping else None,
        "gaussian_fit": {"mean": prior[0], "std": prior[1]},
        "about": networks.about,
    }
    with atomic_write(path) as file:
        torch.save(content, file)
