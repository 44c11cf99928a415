"""What the tests of fast/ share: the forms of the kernels, pictures with their gradients, and the
golden search.
"""

import contextlib
from pathlib import Path

import numpy as np
import torch
from conftest import golden, golden_state

from fast import cpu
from fast.synthesis import TorchKernels
from generators.formats import FORMAT
from PULSE import PULSE


def every_form(cache: Path) -> dict:
    """Kernels by name: eager, compiled for float32 and compiled for bfloat16."""
    found = {"eager": TorchKernels()}
    for name, dtype in (("compiled", torch.float32), ("compiled bfloat16", torch.bfloat16)):
        found[name], reason = cpu.load(cache, dtype)
        assert found[name] is not None, f"CI has a C compiler, and here it is missing: {reason}"
    return found


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def picture_and_gradients(synthesize, w, noise, cotangent) -> list[torch.Tensor]:
    """The picture, and the gradients of its product with `cotangent` for w and all noise maps."""
    w, noise = w.clone().requires_grad_(), [maps.clone().requires_grad_() for maps in noise]
    picture = synthesize(w, noise)
    return [picture.detach(), *torch.autograd.grad((picture * cotangent).sum(), [w, *noise])]


class Enough(Exception):
    """So many steps were asked for, of a search that has more."""


def golden_search(tmp_path, cache, compile, learning_rate, steps=30, device="cpu", **options):
    """`steps` of the 30 of the golden search of 1024 pixels: their figures, LR (None where there
    are more to come), model and golden arrays.
    """
    arrays = golden("search_1024")
    content = {
        "format": FORMAT,
        "config": {
            "resolution": 1024,
            "fmap_base": int(arrays["fmap_base"]),
            "fmap_max": int(arrays["fmap_max"]),
            "dlatent_size": 512,
        },
        "synthesis": golden_state(arrays),
        "mapping": None,
        "gaussian_fit": {k: torch.from_numpy(arrays[k]) for k in ("mean", "std")},
    }
    torch.save(content, tmp_path / "golden.pt")
    model = PULSE(tmp_path / "golden.pt", device, cache, compile, **options)
    rows = []

    def on_step(step, figures):
        l2 = max(figures["L2"].item(), float(arrays["eps"]))
        rows.append([figures["total"].item(), l2, figures["GEOCROSS"].item()])
        if len(rows) == steps < 30:
            raise Enough

    search = model(
        torch.from_numpy(arrays["ref"]),
        seed=int(arrays["seed"]),
        steps=30,
        learning_rate=learning_rate,
        loss_str=str(arrays["loss_str"]),
        eps=float(arrays["eps"]),
        on_step=on_step,
    )
    LR = None
    with contextlib.suppress(Enough):
        _, LR = list(search)[-1]
    return np.array(rows), LR, model, arrays
