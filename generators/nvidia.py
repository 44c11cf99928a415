"""NVIDIA's StyleGAN1 pickles (`karras2019stylegan-*.pkl`), read without TensorFlow and without
running anything.

Such a file is a pickle of (G, D, Gs), each a `dnnlib.tflib.network.Network` with its variables as
numpy arrays and with the source text of its builder, which is never looked at. The unpickler here
knows no class of numpy or of anything else: it calls stand-ins of its own, which keep what they are
given, and refuses every other name.
"""

from __future__ import annotations

import math
import pickle
import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cli.errors import UserError

MAX_ARRAY_BYTES = 1 << 30  # larger than any array of a StyleGAN


class Network:
    """What NVIDIA's Network kept of itself; see `variables` and `static_kwargs`."""

    state: dict = {}  # unpickling calls no __init__

    def __setstate__(self, state) -> None:
        if not isinstance(state, dict):
            raise UserError("holds a Network whose state is no dictionary")
        self.state = state

    @property
    def variables(self) -> dict[str, np.ndarray]:
        """Local name → array of every variable."""
        pairs = self.state.get("variables")
        if not isinstance(pairs, (list, tuple)):
            raise UserError("holds a Network without variables")
        arrays = {}
        for pair in pairs:
            if not (isinstance(pair, (list, tuple)) and len(pair) == 2):
                raise UserError("holds a variable that is no pair of name and array")
            name, array = pair
            arrays[str(name)] = array.value() if isinstance(array, _Array) else np.asarray(array)
        return arrays

    @property
    def static_kwargs(self) -> dict:
        """The settings that it was built with."""
        settings = self.state.get("static_kwargs")
        return dict(settings) if isinstance(settings, dict) else {}

    def component(self, name: str) -> Network:
        """`mapping` or `synthesis`. Raises: UserError where there is none."""
        components = self.state.get("components")
        found = components.get(name) if isinstance(components, dict) else None
        if not isinstance(found, Network):
            raise UserError(f"holds no {name} network, so it is no StyleGAN generator")
        return found


class _Dtype:
    """The dtype of an array: plain numbers only."""

    def __init__(self, code="", *_):
        self.code, self.order = str(code), "="

    def __setstate__(self, state) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def value(self) -> np.dtype:
        if not re.fullmatch(r"[fiu][1248]|b1", self.code):
            raise UserError(f"holds an array of dtype {self.code!r}, not of numbers")
        return np.dtype(self.code).newbyteorder(self.order.replace("|", "="))


class _Array:
    """An array in the making: shape, dtype and bytes, put together here and not by numpy."""

    def __init__(self, *_):
        self.state: tuple = ()

    def __setstate__(self, state) -> None:
        self.state = state if isinstance(state, tuple) else ()

    def value(self) -> np.ndarray:
        if len(self.state) != 5 or not isinstance(self.state[2], _Dtype):
            raise UserError("holds an array that is not whole")
        _, shape, dtype, fortran, raw = self.state
        dtype = dtype.value()
        raw = raw.encode("latin1") if isinstance(raw, str) else raw
        if not isinstance(shape, tuple) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise UserError("holds an array without a shape")
        size = math.prod(shape) * dtype.itemsize
        if not isinstance(raw, bytes) or len(raw) != size or size > MAX_ARRAY_BYTES:
            raise UserError("holds an array whose bytes do not fill its shape")
        return np.frombuffer(raw, dtype).reshape(shape, order="F" if fortran else "C")


class _Unpickler(pickle.Unpickler):
    """Admits the names that NVIDIA's files need, each as a stand-in; made anew for every file."""

    def __init__(self, file):
        super().__init__(file, encoding="latin1")

        class EasyDict(dict):
            def __setstate__(self, state) -> None:
                if isinstance(state, dict):
                    self.update(state)

        def scalar(dtype, raw):
            array = _Array()
            array.state = (1, (), dtype, False, raw)
            return array.value().item()

        def encode(text, encoding="latin1"):
            return str(text).encode("latin1")

        self.admitted = {
            ("dnnlib.tflib.network", "Network"): Network,
            ("dnnlib", "EasyDict"): EasyDict,
            ("dnnlib.util", "EasyDict"): EasyDict,
            ("numpy", "dtype"): _Dtype,
            ("numpy", "ndarray"): _Array,
            ("_codecs", "encode"): encode,
        }
        for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
            self.admitted[module, "_reconstruct"] = _Array
            self.admitted[module, "scalar"] = scalar

    def find_class(self, module, name):
        if (module, name) not in self.admitted:
            raise UserError(f"asks for {module}.{name}, which no generator needs: not opened")
        return self.admitted[module, name]


def read_network(path: Path) -> Network:
    """The generator to use of an NVIDIA pickle: Gs of (G, D, Gs), or the only one there is.

    Raises: UserError for a name that is not admitted, for damage, and for what is no generator.
    """
    try:
        with open(path, "rb") as file:
            content = _Unpickler(file).load()
    except UserError:
        raise
    except Exception as error:  # damaged pickles raise nearly anything
        reason = str(error).split("\n")[0][:80] or type(error).__name__
        raise UserError(f"is a damaged pickle ({reason}): fetch it again") from None
    networks = list(content) if isinstance(content, (tuple, list)) else [content]
    if not networks or not isinstance(networks[-1], Network):
        raise UserError("is a pickle, but of no NVIDIA network")
    return networks[-1]


# Settings that change the network: what they must be, if they are given. All others do not matter
# to the search.
REQUIRED = {
    "num_channels": (3,),
    "label_size": (0,),
    "fused_scale": ("auto",),
    "nonlinearity": ("lrelu",),
    "use_wscale": (True,),
    "use_noise": (True,),
    "use_styles": (True,),
    "use_pixel_norm": (False,),
    "use_instance_norm": (True,),
    "const_input_layer": (True,),
    "blur_filter": ([1, 2, 1], (1, 2, 1)),
    "normalize_latents": (True,),
    "mapping_lrmul": (0.01,),
    "mapping_nonlinearity": ("lrelu",),
    "mapping_use_wscale": (True,),
}


def states(network: Network) -> tuple[dict[str, Tensor], dict[str, Tensor], dict]:
    """Synthesis and mapping state dicts under PULSE's names, without the constant blur, and the
    settings.

    Raises: UserError for settings that make another network, and for variables of unknown
    names.
    """
    synthesis, mapping = network.component("synthesis"), network.component("mapping")
    settings = {**synthesis.static_kwargs, **mapping.static_kwargs, **network.static_kwargs}
    for name, accepted in REQUIRED.items():
        if name in settings and settings[name] not in accepted:
            raise UserError(
                f"was built with {name} = {settings[name]!r}: only {accepted[0]!r} is this network"
            )
    synthesis_state = {}
    for name, array in synthesis.variables.items():
        if key := synthesis_key(name):
            synthesis_state[key] = _tensor(array, name)
    mapping_state = {}
    for name, array in mapping.variables.items():
        match = re.fullmatch(r"Dense(\d+)/(weight|bias)", name)
        if not match:
            raise UserError(f"has the unknown mapping variable {name}")
        mapping_state[f"dense{match[1]}.{match[2]}"] = _tensor(array, name)
    return synthesis_state, mapping_state, settings


def _tensor(array: np.ndarray, name: str) -> Tensor:
    """A variable as PyTorch has it: matrices transposed, convolutions (k, k, in, out) → (out, in,
    k, k).
    """
    if array.ndim == 2:
        array = array.T
    elif array.ndim == 4 and name.endswith("weight"):
        array = array.transpose(3, 2, 0, 1)
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def synthesis_key(name: str) -> str | None:
    """PULSE's name of a synthesis variable; None for those that the network at full size does not
    use.

    Raises: UserError for an unknown one.
    """
    if re.fullmatch(r"lod|dlatent_avg|noise\d+|ToRGB_lod[1-9]\d*/(weight|bias)", name):
        return None
    if match := re.fullmatch(r"ToRGB_lod0/(weight|bias)", name):
        return f"torgb.{match[1]}"
    match = re.fullmatch(r"(\d+x\d+)/(Const|Conv|Conv0_up|Conv1)/(.+)", name)
    if not match:
        raise UserError(f"has the unknown variable {name}")
    block, layer, rest = match.groups()
    epilogue = "epi1" if layer in ("Const", "Conv0_up") else "epi2"
    places = {
        "Noise/weight": f"{epilogue}.noise.weight",
        "StyleMod/weight": f"{epilogue}.style_mod.lin.weight",
        "StyleMod/bias": f"{epilogue}.style_mod.lin.bias",
        "const": "const",
        "bias": "bias" if layer == "Const" else f"{layer.lower()}.bias",
        "weight": f"{layer.lower()}.weight",
    }
    if rest not in places:
        raise UserError(f"has the unknown variable {name}")
    return f"blocks.{block}.{places[rest]}"
