"""Networks of StyleGAN3 that tests share: those of the golden files, and random ones."""

from __future__ import annotations

import json

import numpy as np
import torch
from conftest import GOLDEN, golden, golden_state

from generators.stylegan3 import StyleGAN3Synthesis

GOLDEN_STYLEGAN3 = [
    "sg3t_synthesis_32",
    "sg3t_synthesis_64_transform",
    "sg3t_synthesis_16_clamp",
    "sg3r_synthesis_32",
    "sg3r_synthesis_64",
]


def golden_config(name: str) -> dict:
    """The settings that a golden file states."""
    with np.load(GOLDEN / f"{name}.npz") as arrays:
        return json.loads(str(arrays["config"]))


def golden_stylegan3(name: str) -> tuple[StyleGAN3Synthesis, dict[str, np.ndarray]]:
    """The network of a golden file, and the file's arrays."""
    arrays, config = golden(name), golden_config(name)
    network = StyleGAN3Synthesis(
        config["resolution"],
        "stylegan3-r" if config.get("use_radial_filters") else "stylegan3-t",
        dlatent_size=config["w_dim"],
        channel_base=config["channel_base"],
        channel_max=config["channel_max"],
        depth=config["num_layers"],
        num_critical=config["num_critical"],
        margin_size=config["margin_size"],
        output_scale=config["output_scale"],
        conv_clamp=config.get("conv_clamp", 256.0),
    )
    network.load_state_dict(golden_state(arrays), strict=True)
    return network.requires_grad_(False), arrays


def random_stylegan3(
    resolution: int, family: str = "stylegan3-t", d: int = 16, seed: int = 0, **config
) -> StyleGAN3Synthesis:
    """A small random network, in which the turn and shift of the input, the biases and the
    magnitudes matter.
    """
    torch.manual_seed(seed)
    config = {"channel_base": 128, "channel_max": 8, **config}
    network = StyleGAN3Synthesis(resolution, family, d, **config).requires_grad_(False)
    network.input.affine.weight.normal_(std=0.3)
    network.input.transform.add_(torch.randn(3, 3) * 0.1)
    for layer in network.layers:
        layer.bias.normal_(std=0.2)
        layer.magnitude_ema.uniform_(0.5, 2.0)
    return network
