"""NVIDIA's StyleGAN2 in pickles of its TensorFlow program (`stylegan2-ffhq-config-f.pkl`): the
container is that of nvidia.py, the names are turned into those of its PyTorch program.
"""

from __future__ import annotations

import re

from cli.errors import UserError
from generators import nvidia
from generators.networks import Networks, State, renamed, require_settings
from generators.nvidia_names import build_stylegan2, without_axes

# Settings that change the network: what they must be, if they are given. All others do not matter
# to the search, or its tensors tell.
REQUIRED = {
    "num_channels": 3,
    "label_size": 0,
    "resample_kernel": [1, 3, 3, 1],
    "nonlinearity": "lrelu",
    "randomize_noise": True,
    "normalize_latents": True,
    "mapping_lrmul": 0.01,
    "mapping_nonlinearity": "lrelu",
}
# Its names, and PyTorch's; "" for what the network does not use.
NAMES = (
    (r"lod", ""),
    (r"dlatent_avg", "mapping.w_avg"),
    (r"Dense(\d{1,3})/(weight|bias)", r"mapping.fc\1.\2"),
    (r"4x4/Const/const", "synthesis.b4.const"),
    (r"4x4/Conv/(.+)", r"synthesis.b4.conv1.\1"),
    (r"(\d{1,9})x\1/Conv1/(.+)", r"synthesis.b\1.conv1.\2"),
    (r"(\d{1,9})x\1/Conv0_up/(.+)", r"synthesis.b\1.conv0.\2"),
    (r"(\d{1,9})x\1/ToRGB/(.+)", r"synthesis.b\1.torgb.\2"),
    (r"(\d{1,9})x\1/Skip/weight", r"synthesis.b\1.skip.weight"),
    (r"noise(\d{1,2})", r"noise \1"),
)


def read(content: dict) -> Networks:
    """Raises: UserError, worded to follow the name of the file."""
    settings, networks = nvidia.networks_of(content)
    require_settings(settings, REQUIRED)
    state: State = {}
    for network in networks:
        state |= nvidia.variables(network)
    if any("ToRGB_lod" in name for name in state):
        raise UserError("was built as StyleGAN2's configuration A to D: only E and F are read")
    found: State = {}
    for key, tensor in renamed(state, NAMES).items():
        owner, _, name = key.rpartition(".")
        if key.startswith("noise "):
            number = int(key.split()[1])
            key = f"synthesis.b{4 << (number + 1) // 2}.conv{(number + 1) % 2}.noise_const"
            tensor = without_axes(tensor, (0, 1), key)
        elif name == "const":
            tensor = without_axes(tensor, (0,), key)
        elif name == "mod_weight":
            key = f"{owner}.affine.weight"
        elif name == "mod_bias":
            key, tensor = f"{owner}.affine.bias", tensor + 1
        elif name == "weight" and re.search(r"\.(conv0|skip)$", owner):
            tensor = tensor.flip(2, 3) if tensor.ndim == 4 else tensor  # theirs is turned round
        found[key] = tensor
    return build_stylegan2(found, architecture=settings.get("architecture", "skip"))
