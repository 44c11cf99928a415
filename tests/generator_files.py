"""Random generators of every family, as files in this project's format."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import random_networks
from stylegan3_networks import random_stylegan3

from generators.load import save_generator
from generators.networks import Networks
from generators.stylegan2 import StyleGAN2Synthesis
from stylegan import G_mapping

FAMILIES = ("stylegan1", "stylegan2", "stylegan3-t", "stylegan3-r")


def random_stylegan2(resolution: int, d: int = 16, seed: int = 0, **config) -> StyleGAN2Synthesis:
    """A small random network, whose noise, biases and clamps matter."""
    torch.manual_seed(seed)
    channels = [8] * (resolution.bit_length() - 2)
    config = {"channels": channels, "conv_clamp": 4.0, **config}
    network = StyleGAN2Synthesis(resolution, d, **config).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength") or name.endswith("bias"):
            parameter.add_(0.1 * torch.randn(parameter.shape))
        if name.endswith("torgb.weight"):
            parameter.mul_(0.2)
    return network


def random_networks_of(family: str, resolution: int, d: int = 16, seed: int = 0) -> Networks:
    """A small random generator, its prior a normal distribution."""
    if family == "stylegan1":
        synthesis = random_networks(resolution, d, seed)[0]
    elif family == "stylegan2":
        synthesis = random_stylegan2(resolution, d, seed)
    else:
        wide = {"channel_base": 4 * resolution, "output_scale": 2.0}  # pictures with contrast
        synthesis = random_stylegan3(resolution, family, d, seed, **wide)
        synthesis.layers[-1].bias.zero_()
    prior = torch.zeros(d), torch.ones(d)
    return Networks(synthesis, G_mapping(d, 2), prior, {"name": "a random network of the tests"})


def generator_file(folder: Path, family: str, resolution: int, d: int = 16, seed: int = 0) -> Path:
    """That generator in a file."""
    networks, path = random_networks_of(family, resolution, d, seed), folder / f"{family}.pt"
    save_generator(networks, networks.prior, path)
    return path
