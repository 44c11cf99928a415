"""Where a step's time goes on a CPU, function by function: `python bench.py -parts profile`."""

from __future__ import annotations

import time
from collections import defaultdict

import torch

from cli.signals import heed_signals
from PULSE import PULSE, Search
from search_settings import Settings

CONVOLUTIONS, BETWEEN = "convolutions", "between convolutions"
TO_RGB, REST = "to RGB", "styles, loss, downscaling, best so far, optimiser"
KERNELS = ("leaky", "affine", "sums", "leaky_grad", "blur")


def profile(model: PULSE, steps: int) -> dict[str, float]:
    """Seconds of a step of `model` in its fast form, for an LR of 32 pixels and batch 1: the mean
    of `steps`, after two that are not counted; by part, and "a step" in all.

    The functions of that form are timed from then on: give a model of its own.
    """
    fast = model.fast_form(steps)
    spent: dict[str, float] = defaultdict(float)

    def timed(owner, name: str, part: str) -> None:
        function = getattr(owner, name)

        def call(*args, **options):
            start = time.perf_counter()
            result = function(*args, **options)
            spent[part] += time.perf_counter() - start
            return result

        setattr(owner, name, call)

    for name in KERNELS:
        timed(fast.kernels, name, BETWEEN)
    for name in ("picture", "picture_grad"):
        timed(fast.kernels, name, TO_RGB)
    for layer in fast.layers:
        for name in ("convolve", "convolve_back"):
            timed(layer, name, CONVOLUTIONS)
    ref_im = torch.full((1, 3, 32, 32), 0.5)
    search = Search(model.generator, fast, ref_im, Settings(steps=steps + 3), [0])
    for _ in range(2):
        search.step()
    spent.clear()
    start = time.perf_counter()
    for _ in range(steps):
        heed_signals()
        search.step()
    total = time.perf_counter() - start
    found = {part: spent[part] for part in (CONVOLUTIONS, BETWEEN, TO_RGB)}
    found[REST] = total - sum(found.values())
    return {part: seconds / steps for part, seconds in {**found, "a step": total}.items()}
