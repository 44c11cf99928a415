"""rosinality's StyleGAN2 (`.pt` of stylegan2-pytorch): its names become NVIDIA's.

A converted file, a checkpoint of its training, or its state dict alone. The network is NVIDIA's
StyleGAN2, architecture skip, without clamps; its convolutions are scaled by 1/√fan_in before they
are demodulated.
"""

from __future__ import annotations

import math
import re

from cli.errors import UserError
from generators.networks import Networks, State, tensors
from generators.nvidia_names import build_stylegan2, is_fir, without_axes

# Of a layer or a picture: its names, NVIDIA's, and the axes of one number that NVIDIA's lack.
INNER = {
    "conv.weight": ("weight", (0,)),
    "conv.modulation.weight": ("affine.weight", ()),
    "conv.modulation.bias": ("affine.bias", ()),
    "noise.weight": ("noise_strength", (0,)),
    "activate.bias": ("bias", ()),
    "bias": ("bias", (0, 2, 3)),  # of a picture
    "": ("noise_const", (0, 1)),
}


def _generator(content: dict) -> dict | None:
    """The averaged generator of a file, or all of it."""
    for state in (content.get("g_ema"), content):
        keys = state if isinstance(state, dict) else ()
        if any(isinstance(key, str) and key.endswith("convs.0.conv.weight") for key in keys):
            return state
    return None


def recognises(content: dict) -> bool:
    return _generator(content) is not None


def read(content: dict) -> Networks:
    """Raises: UserError, worded to follow the name of the file."""
    state = dict(tensors(_generator(content)))
    content.clear()  # the memory of g, d and their optimisers
    found: State = {}
    for key, tensor in state.items():
        if ".iwt." in key or ".dwt." in key:
            raise UserError("is a SWAGAN, which makes wavelets: only StyleGAN2 is read")
        if key.endswith(".kernel"):  # constant, [1, 3, 3, 1]⊗[1, 3, 3, 1]/16
            if not is_fir(tensor / 4):
                raise UserError(f"was built with another blur_kernel, {key}: only [1, 3, 3, 1]")
            continue
        name, axes = _nvidia(key)
        tensor = without_axes(tensor, axes, key)
        if re.fullmatch(r"synthesis\.b\d+\.conv[01]\.weight", name):
            tensor = tensor.float() / math.sqrt(math.prod(tensor.shape[1:]) or 1)
        found[name] = tensor
    return build_stylegan2(found, architecture="skip")


def _nvidia(key: str) -> tuple[str, tuple[int, ...]]:
    """NVIDIA's name of a tensor, and the axes to drop. Raises: UserError."""
    if key == "input.input":
        return "synthesis.b4.const", (0,)
    if match := re.fullmatch(r"style\.(\d{1,3})\.(weight|bias)", key):
        return f"mapping.fc{int(match[1]) - 1}.{match[2]}", ()
    owner = r"(?:noises\.noise_(\d{1,2})|(conv1|to_rgb1)|(convs|to_rgbs)\.(\d{1,2}))"
    match = re.fullmatch(rf"{owner}(?:\.(.+))?", key)
    if match is None or (match[5] or "") not in INNER:
        raise UserError(f"has the unknown key {key}: only default settings are read")
    name, axes = INNER[match[5] or ""]
    number = int(match[1] or 0) if match[4] is None else int(match[4]) + 1
    if "rgb" in key:
        return f"synthesis.b{4 << number}.torgb.{name}", axes
    return f"synthesis.b{4 << (number + 1) // 2}.conv{(number + 1) % 2}.{name}", axes
