"""NVIDIA's PyTorch pickles, written here by following their public layout: persisted objects,
tensors with their storages in strings of bytes, source text that would run.
"""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from generators.networks import Synthesis
from stylegan import G_mapping

SOURCE = "import os; os.system('touch executed')"  # what unpickling with NVIDIA's code would run
BUFFERS = ("w_avg", "noise_const", "resample_filter", "transform", "freqs", "phases")
BUFFERS += ("magnitude_ema", "up_filter", "down_filter")


class Persisted:
    """A network or layer, as pickle sees it."""

    def __init__(self, class_name: str, **attributes):
        self.meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name}
        parts = {kind: {} for kind in ("_parameters", "_buffers", "_modules")}
        self.state = self.meta["state"] = {"training": False, **attributes, **parts}

    def __reduce__(self):
        return _reconstruct_persistent_obj, (self.meta,)

    def __getitem__(self, path: str) -> Persisted:
        """A layer below, by its joint names."""
        found = self
        for name in path.split("."):
            found = found.state["_modules"][name]
        return found

    def add(self, key: str, tensor: Tensor) -> None:
        """A tensor by its name in the state dict; the layers on its way are made."""
        *path, name = key.split(".")
        layer = self
        for each in path:
            layer = layer.state["_modules"].setdefault(each, Persisted("Layer"))
        buffer = name in BUFFERS
        stored = tensor.detach() if buffer else nn.Parameter(tensor.detach(), requires_grad=False)
        layer.state["_buffers" if buffer else "_parameters"][name] = stored


def _reconstruct_persistent_obj(meta):
    raise AssertionError("it was run")


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"


@contextlib.contextmanager
def nvidias_modules():
    """NVIDIA's modules, there while a file is written."""
    names = ("torch_utils", "torch_utils.persistence")
    modules = {name: types.ModuleType(name) for name in names}
    modules["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
    sys.modules |= modules
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]


def write(path: Path, content: object, protocol: int = 4) -> Path:
    with nvidias_modules(), open(path, "wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path


def persisted(synthesis: Synthesis, mapping: G_mapping) -> Persisted:
    """The Generator of a file that holds these networks, with the settings that such files have."""
    S, d = synthesis.resolution, synthesis.dlatent_size
    shared = {"z_dim": mapping.latent_size, "c_dim": 0, "w_dim": d}
    shared |= {"img_resolution": S, "img_channels": 3, "num_ws": synthesis.num_layers}
    G = Persisted("Generator", **shared)
    for key, tensor in synthesis.state_dict().items():
        G.add(f"synthesis.{key}", tensor)
    for key, tensor in mapping.state_dict().items():
        bias = key.endswith("bias")
        name = key.replace("dense", "mapping.fc")
        G.add(name, tensor / np.float32(2) ** 0.5 if bias else tensor)
    G.add("mapping.w_avg", torch.zeros(d))
    G["mapping"].state |= {"num_layers": len(mapping)}
    for layer in G["mapping"].state["_modules"].values():
        layer.state |= {"activation": "lrelu", "bias_gain": 0.01}
    if synthesis.family == "stylegan2":
        _as_stylegan2(G, synthesis.config)
    else:
        _as_stylegan3(G, synthesis)
    return G


def _affine(layer: Persisted) -> None:
    layer["affine"].state |= {"activation": "linear", "bias_gain": 1}


def _as_stylegan2(G: Persisted, config: dict) -> None:
    for block in G["synthesis"].state["_modules"].values():
        block.state |= {"architecture": config["architecture"], "use_fp16": True}
        for name, layer in block.state["_modules"].items():
            if name == "skip":
                continue
            _affine(layer)
            layer.state["conv_clamp"] = config["conv_clamp"]
            if name != "torgb":
                layer.state |= {"up": 2 if name == "conv0" else 1, "activation": "lrelu"}
                layer.state["use_noise"] = config["use_noise"]


def _as_stylegan3(G: Persisted, synthesis: Synthesis) -> None:
    config, first = synthesis.config, synthesis.layouts[0]
    G["synthesis"].state |= {
        "num_layers": config["depth"],
        **{name: config[name] for name in ("num_critical", "margin_size", "output_scale")},
        "layer_names": [layout.name for layout in synthesis.layouts],
    }
    G["synthesis.input"].state |= {
        "channels": first.in_channels,
        "size": np.array([first.in_size] * 2),
        "sampling_rate": first.in_sampling_rate,
        "bandwidth": first.in_cutoff,
    }
    _affine(G["synthesis.input"])
    for layout in synthesis.layouts:
        layer = G[f"synthesis.{layout.name}"]
        _affine(layer)
        layer.state |= {"conv_clamp": config["conv_clamp"]} | {
            key: np.array([value] * 2) if key.endswith("_size") else value
            for key, value in asdict(layout).items()
        }
        layer.state["padding"] = list(layout.padding)


def snapshot(synthesis: Synthesis, mapping: G_mapping, G=None, D=None) -> dict:
    """The dictionary of a file."""
    G_ema = persisted(synthesis, mapping)
    return {"G": G, "D": D, "G_ema": G_ema, "augment_pipe": None, "training_set_kwargs": None}
