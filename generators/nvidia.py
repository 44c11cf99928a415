"""NVIDIA's StyleGAN1 pickles (`karras2019stylegan-*.pkl`), read without TensorFlow.

Such a file is a pickle of (G, D, Gs), each a `dnnlib.tflib.network.Network` with its variables as
numpy arrays and with the source text of its builder, which is never looked at.
"""

from __future__ import annotations

import numpy as np
import torch

from cli.errors import UserError
from generators.networks import Networks, State, build_networks, renamed, require_settings
from generators.safe_loading import Array, StandIns

# Settings that change the network: what they must be, if they are given. All others do not matter
# to the search.
REQUIRED = {
    "num_channels": 3,
    "label_size": 0,
    "fused_scale": "auto",
    "nonlinearity": "lrelu",
    "use_wscale": True,
    "use_noise": True,
    "use_styles": True,
    "use_pixel_norm": False,
    "use_instance_norm": True,
    "const_input_layer": True,
    "blur_filter": [1, 2, 1],
    "normalize_latents": True,
    "mapping_lrmul": 0.01,
    "mapping_nonlinearity": "lrelu",
    "mapping_use_wscale": True,
}
# Its names, and PULSE's; "" for what the network at full size does not use.
NAMES = (
    (r"lod|dlatent_avg|noise\d+|ToRGB_lod[1-9]\d*/(weight|bias)", ""),
    (r"Dense(\d+)/(weight|bias)", r"dense\1.\2"),
    (r"ToRGB_lod0/(weight|bias)", r"torgb.\1"),
    (r"(\d+x\d+)/(Const|Conv0_up)/Noise/weight", r"blocks.\1.epi1.noise.weight"),
    (r"(\d+x\d+)/(Const|Conv0_up)/StyleMod/(weight|bias)", r"blocks.\1.epi1.style_mod.lin.\3"),
    (r"(\d+x\d+)/Conv1?/Noise/weight", r"blocks.\1.epi2.noise.weight"),
    (r"(\d+x\d+)/Conv1?/StyleMod/(weight|bias)", r"blocks.\1.epi2.style_mod.lin.\2"),
    (r"4x4/Const/(const|bias)", r"blocks.4x4.\1"),
    (r"4x4/Conv/(weight|bias)", r"blocks.4x4.conv.\1"),
    (r"(\d+x\d+)/Conv0_up/(weight|bias)", r"blocks.\1.conv0_up.\2"),
    (r"(\d+x\d+)/Conv1/(weight|bias)", r"blocks.\1.conv1.\2"),
)


class EasyDict(dict):
    """NVIDIA's dictionary of settings."""

    def __setstate__(self, state) -> None:
        self.update(state)


class Network(EasyDict):
    """What NVIDIA's Network keeps of itself: its variables, static_kwargs and components."""

    def dictionary(self, name: str) -> dict:
        """One of these, empty where it is missing."""
        found = self.get(name)
        return found if isinstance(found, dict) else {}


STAND_INS: StandIns = {
    ("dnnlib.tflib.network", "Network"): Network,
    ("dnnlib", "EasyDict"): EasyDict,
    ("dnnlib.util", "EasyDict"): EasyDict,
}


def generator(content: dict) -> object:
    """Gs of (G, D, Gs), or the only one there is."""
    found = content.get("pickle")
    return found[-1] if isinstance(found, (tuple, list)) and found else found


def recognises(content: dict) -> bool:
    return isinstance(generator(content), Network) and not is_stylegan2(content)


def is_stylegan2(content: dict) -> bool:
    """Whether it holds networks of TensorFlow's StyleGAN2: these have `mod_weight`."""
    network = generator(content)
    parts = network.dictionary("components") if isinstance(network, Network) else {}
    synthesis = parts.get("synthesis")
    pairs = synthesis.get("variables") if isinstance(synthesis, Network) else None
    pairs = pairs if isinstance(pairs, (list, tuple)) else ()
    names = (pair[0] for pair in pairs if isinstance(pair, tuple) and pair)
    return any(isinstance(name, str) and name.endswith("/mod_weight") for name in names)


def read(content: dict) -> Networks:
    """Raises: UserError, worded to follow the name of the file, for settings that make another
    network, and for variables of unknown names.
    """
    settings, (_, *parts) = networks_of(content)
    require_settings(settings, REQUIRED)
    state = {}
    for part in parts:
        state |= renamed(variables(part), NAMES)
    channels = ("fmap_base", "fmap_max", "fmap_decay")
    config = {name: settings[name] for name in channels if name in settings}
    about = {"licence": "NVIDIA's published networks are CC BY-NC 4.0"}
    return build_networks(state, config, about)


def networks_of(content: dict) -> tuple[dict, list[Network]]:
    """The settings of Gs, which is taken out of a file's content, and itself, its synthesis and its
    mapping network. Raises: UserError.
    """
    network = generator(content)
    content.clear()
    parts = [network.dictionary("components").get(name) for name in ("synthesis", "mapping")]
    if not all(isinstance(part, Network) for part in parts):
        raise UserError("holds no synthesis and mapping network, so it is no StyleGAN generator")
    settings = {}
    for part in (*parts, network):
        settings |= part.dictionary("static_kwargs")
    return settings, [network, *parts]


def variables(network: Network) -> State:
    """The variables as PyTorch has them: matrices transposed, convolutions (k, k, in, out) →
    (out, in, k, k).
    """
    pairs = network.get("variables")
    state = {}
    for pair in pairs if isinstance(pairs, (list, tuple)) else ():
        match pair:
            case (str(name), Array(value=np.ndarray() as array)):
                pass
            case (str(name), float(number)):
                array = np.array(number)
            case _:
                raise UserError("holds a variable that is no pair of name and array")
        if array.ndim == 4 and name.endswith("weight"):
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:
            array = array.T
        state[name] = torch.from_numpy(np.array(array, dtype=np.float32, order="C"))
    return state
