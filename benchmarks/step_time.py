"""The time and the peak memory of a search's step, on one form of the network: a row of bench.py's
table, in a process of its own, which prints one line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

import stylegan
from benchmarks.hardware import peak_megabytes, wait_for_device
from fast.precision import convolutions_in
from generators.formats import Networks
from generators.load import save_generator
from generators.stylegan2 import StyleGAN2Synthesis
from PULSE import PULSE, Search
from search_settings import Settings
from stylegan import G_synthesis

PLAIN_LIBRARY = "plain, F.instance_norm"  # of StyleGAN1
STEPS = 100  # of a search, by which images per minute are reckoned


@dataclass(frozen=True)
class Row:
    """What one row of the table times."""

    formulation: str  # PLAIN_LIBRARY, plain, eager or compiled
    precision: str
    batch: int


def random_generator(
    path: Path,
    resolution: int,
    fmap_base: int = 8192,
    fmap_max: int = 512,
    dlatent_size: int = 512,
) -> G_synthesis:
    """A StyleGAN1 with random weights, by default of FFHQ's layout, as a file. Raises: OSError."""
    torch.manual_seed(0)
    synthesis = G_synthesis(
        dlatent_size, resolution=resolution, fmap_base=fmap_base, fmap_max=fmap_max
    )
    return _saved(synthesis, path)


def random_stylegan2(path: Path, resolution: int) -> StyleGAN2Synthesis:
    """A StyleGAN2 with random weights, in the layout of config F, as a file. Raises: OSError."""
    torch.manual_seed(0)
    sizes = [2**k for k in range(2, resolution.bit_length())]
    synthesis = StyleGAN2Synthesis(resolution, channels=[min(32768 // r, 512) for r in sizes])
    for name, parameter in synthesis.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(parameter, 0.1)
    return _saved(synthesis, path)


def _saved(synthesis: nn.Module, path: Path) -> nn.Module:
    width = synthesis.dlatent_size
    save_generator(Networks(synthesis, None), (torch.zeros(width), torch.ones(width)), path)
    return synthesis


def time_row(row: Row, file: Path, device_name: str, repeats: int, cache_dir: Path) -> dict:
    """Seconds of each of `repeats` steps, after some that are not counted, and peak memory in MB,
    None where it is not known. On CUDA the fast forms' steps are replayed, as in run.py.
    """
    compile = "on" if row.formulation == "compiled" else "auto"
    if device_name == "cpu" and row.formulation != "compiled":
        compile = "off"
    model = PULSE(file, device_name, cache_dir, compile=compile, precision=row.precision)
    generator, device = model.generator, model.device
    if row.formulation == PLAIN_LIBRARY:
        stylegan.instance_norm = F.instance_norm
    size = 1 if device.type == "cpu" else row.batch  # as run.py does
    uncounted = 2 if device.type == "cpu" else 8
    settings = Settings(steps=max(uncounted + repeats + 1, STEPS))
    ref_im = torch.full((size, 3, 32, 32), 0.5)
    searches = []
    for i in range(0, row.batch, size):
        seeds = list(range(i, i + size))
        if row.formulation.startswith("plain"):
            searches.append(Search(generator, generator.synthesis, ref_im, settings, seeds))
        else:
            searches.append(model(ref_im, seed=seeds, settings=settings))
    seconds = []
    with convolutions_in(row.precision, device):  # the plain network has none of its own
        for _ in range(uncounted + repeats):
            wait_for_device(device)
            start = time.perf_counter()
            for search in searches:
                search.step()
            wait_for_device(device)
            seconds.append(time.perf_counter() - start)
    peak = peak_megabytes(device)
    return {"seconds": seconds[uncounted:], "peak_mb": peak, "formulation": model.formulation}


if __name__ == "__main__":
    request = json.loads(sys.argv[1])  # of bench.py
    request["row"], request["file"] = Row(**request["row"]), Path(request["file"])
    request["cache_dir"] = Path(request["cache_dir"])
    print(json.dumps(time_row(**request)))
