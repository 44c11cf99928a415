"""The time and the peak memory of a search's step on StyleGAN3, on one form of the network: rows of
`python bench.py -parts stylegan3`, each in a process of its own, which prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.hardware import peak_megabytes, wait_for_device
from fast.choose import FastForms
from fast.precision import convolutions_in
from generators import stylegan3
from generators.load import Generator
from generators.stylegan3 import StyleGAN3Synthesis
from PULSE import Search
from search_settings import Settings

INSERTED = "inserted zeros"  # the straightforward formulation, which the others are held against
SHAPES = [("stylegan3-t", 256), ("stylegan3-r", 256), ("stylegan3-t", 1024), ("stylegan3-r", 1024)]


def upsample_over_zeros(x: Tensor, f: Tensor, up: int, padding: tuple[int, ...]) -> Tensor:
    """`stylegan3.upsample` as it is written in the paper's words: zeros put in, padding, a
    convolution of each channel along both axes.
    """
    B, C, h, w = x.shape
    full = x.new_zeros(B, C, h * up, w * up)
    full[:, :, ::up, ::up] = x
    return filtered(F.pad(full, padding), f * up)


def downsample_of_all(x: Tensor, f: Tensor, down: int) -> Tensor:
    """`stylegan3.downsample` in those words: everything is filtered, every down-th sample kept."""
    return filtered(x, f)[:, :, ::down, ::down]


def filtered(x: Tensor, f: Tensor) -> Tensor:
    n, C = len(f), x.shape[1]
    kernels = [f] if f.ndim == 2 else [f.view(n, 1), f.view(1, n)]
    for kernel in kernels:
        x = F.conv2d(x, kernel.expand(C, 1, *kernel.shape), groups=C)
    return x


def published(family: str, resolution: int) -> StyleGAN3Synthesis:
    """Random weights in the layout of the published networks."""
    torch.manual_seed(0)
    twice = 2 if family == "stylegan3-r" else 1
    base = twice * (16384 if resolution == 256 else 32768)
    network = StyleGAN3Synthesis(resolution, family, channel_base=base, channel_max=512 * twice)
    return network.requires_grad_(False)


def rows_for(
    resolution: int, precisions: list[str], formulations: list[str]
) -> list[tuple[str, str]]:
    """(formulation, precision) of each row; at 1024 pixels without the slow ones, which take
    minutes a step.
    """
    rows = [(form, precision) for precision in precisions for form in formulations]
    return rows if resolution > 256 else [(INSERTED, "float32"), ("plain", "float32"), *rows]


def time_step(
    family: str,
    resolution: int,
    formulation: str,
    precision: str,
    device_name: str,
    repeats: int,
    cache_dir: str,
) -> dict:
    """Seconds of each of `repeats` steps after one that is not counted, and peak memory in MB,
    None where it is not known.
    """
    device = torch.device(device_name)
    network = published(family, resolution).to(device)
    if formulation == INSERTED:
        stylegan3.upsample, stylegan3.downsample = upsample_over_zeros, downsample_of_all
    synthesize = network
    if formulation not in (INSERTED, "plain"):
        compile = "on" if formulation == "compiled" else "off"
        forms = FastForms(network, Path(cache_dir), compile, precision)
        synthesize = forms.choose(100)
        if synthesize.formulation != formulation:
            raise RuntimeError(f"{formulation} cannot be had")
    d = network.dlatent_size
    prior = torch.zeros(d, device=device), torch.ones(d, device=device)
    generator = Generator("random", network, *prior, {})
    ref_im = torch.full((1, 3, 32, 32), 0.5)
    search = Search(generator, synthesize, ref_im, Settings(steps=100), [0])
    seconds = []
    with convolutions_in(precision, device):
        for _ in range(1 + repeats):
            wait_for_device(device)
            start = time.perf_counter()
            search.step()
            wait_for_device(device)
            seconds.append(time.perf_counter() - start)
    peak = peak_megabytes(device)
    return {"seconds": seconds[1:], "peak_mb": peak}


if __name__ == "__main__":
    print(json.dumps(time_step(**json.loads(sys.argv[1]))))
