"""Weight files of other people's formats, written here by following their public layouts, and what
tells whether they were read well.
"""

from __future__ import annotations

import pickle
import sys
import types
from pathlib import Path

import numpy as np
import torch

from generators.formats import read_networks
from stylegan import G_mapping, G_synthesis


def draw(synthesis: G_synthesis, seed: int = 3):
    """Latents (2, L, d) and noise maps for two pictures."""
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(2, synthesis.num_layers, synthesis.dlatent_size, generator=random)
    noise = [torch.randn(2, 1, size, size, generator=random) for size in synthesis.layer_sizes]
    return w, noise


def picture(synthesis: G_synthesis) -> torch.Tensor:
    with torch.no_grad():
        return synthesis(*draw(synthesis))


def agree(path: Path, synthesis: G_synthesis, mapping: G_mapping | None = None):
    """A file's network makes the original's pictures, to 1e-5 of the largest value."""
    networks = read_networks(path)
    expected = picture(synthesis)
    error = (picture(networks.synthesis) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    if mapping is not None:
        z = torch.randn(3, mapping.dlatent_size, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(networks.mapping(z), mapping(z), rtol=1e-5, atol=1e-6)
    return networks


def lernapparat(synthesis: G_synthesis, mapping: G_mapping) -> dict:
    """The layout of that file: prefixes, `top_epi`, no blur kernels."""
    content = {f"g_mapping.{key}": value for key, value in mapping.state_dict().items()}
    for key, value in synthesis.state_dict().items():
        if not key.endswith("intermediate.kernel"):
            for epilogue in ("epi1", "epi2"):
                key = key.replace(f".{epilogue}.noise.", f".{epilogue}.top_epi.noise.")
            content[f"g_synthesis.{key}"] = value
    return content


def genforce(synthesis: G_synthesis, mapping: G_mapping) -> dict[str, torch.Tensor]:
    """The state dict of one network in a checkpoint of genforce."""
    state = {f"mapping.{key}": value for key, value in mapping.state_dict().items()}
    state["truncation.w_avg"] = torch.zeros(synthesis.dlatent_size)
    state["synthesis.lod"] = torch.zeros(())
    for b, block in enumerate(synthesis.blocks.values()):
        convolutions = (None, block.conv) if b == 0 else (block.conv0_up, block.conv1)
        for i, (convolution, epilogue) in enumerate(
            zip(convolutions, (block.epi1, block.epi2), strict=True)
        ):
            name = f"synthesis.layer{2 * b + i}"
            if convolution is None:
                state[f"{name}.const"], state[f"{name}.bias"] = block.const, block.bias
            else:
                state[f"{name}.weight"] = convolution.weight
                state[f"{name}.bias"] = convolution.bias
            state[f"{name}.style.weight"] = epilogue.style_mod.lin.weight
            state[f"{name}.style.bias"] = epilogue.style_mod.lin.bias
            state[f"{name}.apply_noise.weight"] = epilogue.noise.weight
            size = synthesis.layer_sizes[2 * b + i]
            state[f"{name}.apply_noise.noise"] = torch.zeros(1, 1, size, size)
        width = block.epi2.noise.weight.numel()
        last = b == len(synthesis.blocks) - 1
        weight, bias = torch.zeros(3, width, 1, 1), torch.zeros(3)
        state[f"synthesis.output{b}.weight"] = synthesis.torgb.weight if last else weight
        state[f"synthesis.output{b}.bias"] = synthesis.torgb.bias if last else bias
    return {key: value.detach().clone() for key, value in state.items()}


class Network:
    """NVIDIA's class, as far as pickle sees it."""

    def __init__(self, name, static_kwargs, variables, components=None):
        self.state = {
            "version": 3,
            "name": name,
            "static_kwargs": static_kwargs,
            "components": components or {},
            "build_module_src": "import os; os.system('touch executed')",
            "build_func_name": "G_style",
            "variables": variables,
        }

    def __getstate__(self):
        return self.state

    def __setstate__(self, state):
        self.state = state


class EasyDict(dict):
    """NVIDIA's class, as far as pickle sees it."""


def write_pickle(path: Path, content, protocol: int = 2) -> Path:
    """Write as NVIDIA's code did: its modules are there while this writes, and gone afterwards."""
    modules = [types.ModuleType(name) for name in ("dnnlib", "dnnlib.tflib")]
    for name, kept in (("dnnlib.tflib.network", Network), ("dnnlib.util", EasyDict)):
        kept.__module__ = name
        modules.append(types.ModuleType(name))
        setattr(modules[-1], kept.__name__, kept)
    sys.modules |= {module.__name__: module for module in modules}
    try:
        path.write_bytes(pickle.dumps(content, protocol=protocol))
    finally:
        for module in modules:
            del sys.modules[module.__name__]
    return path


def nvidia_variables(synthesis: G_synthesis, mapping: G_mapping):
    """TensorFlow's variables of networks: matrices (in, out), convolutions (k, k, in, out)."""

    def matrix(tensor):
        return tensor.detach().numpy().T.copy()

    def kernel(tensor):
        return tensor.detach().numpy().transpose(2, 3, 1, 0).copy()

    def plain(tensor):
        return tensor.detach().numpy().copy()

    variables = [("lod", np.float32(0))]
    for name, block in synthesis.blocks.items():
        first = name == "4x4"
        if first:
            variables.append(("4x4/Const/const", plain(block.const)))
            variables.append(("4x4/Const/bias", plain(block.bias)))
            pairs = (("Const", None, block.epi1), ("Conv", block.conv, block.epi2))
        else:
            pairs = (("Conv0_up", block.conv0_up, block.epi1), ("Conv1", block.conv1, block.epi2))
        for layer, convolution, epilogue in pairs:
            if convolution is not None:
                variables.append((f"{name}/{layer}/weight", kernel(convolution.weight)))
                variables.append((f"{name}/{layer}/bias", plain(convolution.bias)))
            variables.append((f"{name}/{layer}/Noise/weight", plain(epilogue.noise.weight)))
            style = epilogue.style_mod.lin
            variables.append((f"{name}/{layer}/StyleMod/weight", matrix(style.weight)))
            variables.append((f"{name}/{layer}/StyleMod/bias", plain(style.bias)))
    variables.append(("ToRGB_lod0/weight", kernel(synthesis.torgb.weight)))
    variables.append(("ToRGB_lod0/bias", plain(synthesis.torgb.bias)))
    widths = [block.epi2.noise.weight.numel() for block in synthesis.blocks.values()]
    for lod, width in enumerate(reversed(widths[:-1]), start=1):  # unused, of smaller pictures
        variables.append((f"ToRGB_lod{lod}/weight", np.zeros((1, 1, width, 3), np.float32)))
        variables.append((f"ToRGB_lod{lod}/bias", np.zeros(3, np.float32)))
    variables += [
        (f"noise{i}", np.zeros((1, 1, r, r), np.float32))
        for i, r in enumerate(synthesis.layer_sizes)
    ]
    layers = [
        (f"Dense{i}/{kind}", matrix(t) if kind == "weight" else plain(t))
        for i, layer in enumerate(mapping)
        for kind, t in (("weight", layer.weight), ("bias", layer.bias))
    ]
    return variables, layers


def nvidia_network(synthesis: G_synthesis, mapping: G_mapping, **settings) -> Network:
    """Gs of NVIDIA's file, built with `settings`."""
    variables, layers = nvidia_variables(synthesis, mapping)
    resolution = synthesis.resolution
    settings = EasyDict(num_channels=3, resolution=resolution, label_size=0, **settings)
    parts = EasyDict(
        synthesis=Network("G_synthesis", EasyDict(settings), variables),
        mapping=Network("G_mapping", EasyDict(dlatent_size=16), layers),
    )
    average = [("dlatent_avg", np.zeros(synthesis.dlatent_size, np.float32))]
    return Network("Gs", settings, average, parts)
