"""From one state dict under NVIDIA's names, `mapping.…` and `synthesis.…`, to the networks of a
StyleGAN2: what all readers of such files share.

A UserError raised here is worded to follow the name of the file.
"""

from __future__ import annotations

import math
import re

import torch
from torch import Tensor

from cli.errors import UserError
from generators.networks import Networks, State, build_mapping, load_strictly, tensors
from generators.stylegan2 import StyleGAN2Synthesis, fir_kernel
from stylegan import G_mapping

LICENCE = "NVIDIA's published networks: NVIDIA Source Code License, not for commercial use"


def split(content: State) -> tuple[State, State]:
    """The tensors of the synthesis network and those of the mapping network, without prefixes."""
    parts: dict[str, State] = {"synthesis": {}, "mapping": {}}
    for key, tensor in tensors(content).items():
        owner, _, inner = key.partition(".")
        if owner not in parts:
            raise UserError(f"has the unknown key {key}: only default settings are read")
        parts[owner][inner] = tensor
    return parts["synthesis"], parts["mapping"]


def build_stylegan2(
    content: State, conv_clamp: float | None = None, architecture: str | None = None
) -> Networks:
    """Resolution, channels, latent width and the use of noise are those of the tensors; so is the
    architecture, which must be the one that is given.

    Raises: UserError naming the first key that differs, or what another network was built with.
    """
    synthesis, mapping = split(content)
    channels = {}
    for key, tensor in synthesis.items():
        if match := re.fullmatch(r"b(\d{1,9})\.conv1\.bias", key):
            channels[int(match[1])] = tensor.numel()
        if key.endswith("resample_filter") and not is_fir(tensor):
            raise UserError(
                "was built with another resample_filter: only [1, 3, 3, 1] is read, so not its "
                f"synthesis.{key}"
            )
    style = synthesis.get("b4.conv1.affine.weight")
    if style is None or style.ndim != 2 or not channels:
        raise UserError("holds no whole synthesis network: synthesis.b4.conv1 is missing")
    found = "skip" if "b4.torgb.weight" in synthesis else "orig"
    if "b8.skip.weight" in synthesis:
        found = "resnet"
    if architecture not in (None, found) and max(channels) > 4:  # at 4 pixels they are one
        raise UserError(f"was built with architecture = {architecture}, and holds that of {found}")
    layers = (re.fullmatch(r"(b\d+\.(conv[01]|skip))\.weight", key) for key in synthesis)
    owners = [f"b{size}" for size in channels] + [match[1] for match in layers if match]
    for owner in owners:  # the kernels are constant, and other programs leave them out
        synthesis.setdefault(f"{owner}.resample_filter", fir_kernel())
    config = {
        "resolution": max(channels),
        "dlatent_size": style.shape[1],
        "channels": [channels[size] for size in sorted(channels)],
        "architecture": found,
        "conv_clamp": conv_clamp,
        "use_noise": "b4.conv1.noise_strength" in synthesis,
    }
    network = load_strictly(StyleGAN2Synthesis, config, synthesis)
    return with_mapping(network, mapping)


def is_fir(kernel: Tensor) -> bool:
    """Whether it is the kernel that upsamples, to float32's rounding."""
    same = kernel.shape == fir_kernel().shape
    return same and torch.allclose(kernel.float(), fir_kernel(), rtol=1e-5, atol=1e-7)


def with_mapping(synthesis, state: State) -> Networks:
    """Both networks; the mapping network of a conditional one once its label is chosen.

    state: `fc0.weight`, `fc0.bias` …, `w_avg` (which PULSE has no use for), and of a conditional
    network `embed.weight`, `embed.bias`. The √2 of the activation goes into the biases. A label's
    embedding y is appended to the normalised z: its part in the first layer is a bias.
    """
    state = {key: tensor for key, tensor in state.items() if key != "w_avg"}
    embed = state.pop("embed.weight", None), state.pop("embed.bias", None)
    plain = {}
    for key, tensor in state.items():
        match = re.fullmatch(r"fc(\d+)\.(weight|bias)", key)
        if match is None:
            raise UserError(f"has the unknown key mapping.{key}: only default settings are read")
        tensor = tensor.float() * math.sqrt(2) if match[2] == "bias" else tensor
        plain[f"dense{match[1]}.{match[2]}"] = tensor
    if embed == (None, None):
        return Networks(synthesis, build_mapping(plain), about={"licence": LICENCE})
    weight, bias, first = (*embed, plain.get("dense0.weight"))
    fits = all(isinstance(tensor, Tensor) for tensor in (*embed, first)) and "dense0.bias" in plain
    fits = fits and weight.ndim == first.ndim == 2 and bias.shape == weight.shape[:1]
    if not fits or not 0 < len(bias) < first.shape[1] or weight.shape[1] < 1:
        raise UserError("does not fit: mapping.embed and mapping.fc0 do not belong together")
    e, (width, z) = len(bias), (first.shape[1], first.shape[1] - len(bias))

    def mapping_of(label: int) -> G_mapping:
        y = weight[:, label].double() / math.sqrt(weight.shape[1]) + bias.double()
        y = y * torch.rsqrt(y.square().mean() + 1e-8)
        of_label = math.sqrt(2 / width) * (first[:, -e:].double() @ y)
        changed = {
            "dense0.weight": (first[:, :z].double() * math.sqrt(z / width)).float(),
            "dense0.bias": (plain["dense0.bias"].double() + of_label).float(),
        }
        return build_mapping(plain | changed)

    networks = Networks(synthesis, None, about={"licence": LICENCE})
    networks.labels, networks.mapping_of = weight.shape[1], mapping_of
    return networks


def without_axes(tensor: Tensor, axes: tuple[int, ...], key: str) -> Tensor:
    """Without these axes, of one number each. Raises: UserError where they are others."""
    if any(axis >= tensor.ndim or tensor.shape[axis] != 1 for axis in axes):
        raise UserError(f"does not fit: {key} is {tuple(tensor.shape)}")
    return tensor.squeeze(axes) if axes else tensor
