"""Whether searches end as well on the fast forms of a generator as on the plain one, over a folder
of faces: `python bench.py -parts faces -faces FOLDER`.

Single results are not compared: at the default learning rate a search amplifies rounding, and two
forms end in two faces that are equally good. What must agree is the mean over many.
"""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import torch
from torch import Tensor

from cli.progress import Progress
from cli.signals import heed_signals
from fast.choose import choose_threads
from fast.precision import convolutions_in, has_bfloat16
from PULSE import PULSE, Result, Search
from search_settings import PRECISIONS, Settings


def forms_for(device: torch.device) -> list[tuple[str, str]]:
    """Formulation and precision of what is compared on a device; the first is the reference."""
    if device.type == "cuda":
        fast = [(form, each) for form in ("eager", "compiled") for each in PRECISIONS]
    elif device.type == "cpu":
        fast = [("compiled", each) for each in ["float32"] + ["bfloat16"] * has_bfloat16()]
    else:
        fast = [("eager", "float32")]
    return [("plain", "float32"), *fast]


def search_all(
    model: PULSE, form: str, pictures: Tensor, settings: Settings, progress: Progress
) -> list[Result]:
    """One search for each of pictures (N, 3, h, h), with its number as the seed: N results. form:
    plain, or another, as run.py searches.
    """
    results: list[Result] = []
    for i in range(len(pictures)):
        if form == "plain":
            generator = model.generator
            search = Search(generator, generator.synthesis, pictures[i : i + 1], settings, [i])
        else:
            search = model(pictures[i], seed=i, settings=settings)
        search.on_step = lambda step, figures: heed_signals()
        with convolutions_in(model.precision, model.device):  # the plain network has no own
            for _ in search:
                pass
        results += search.results
        progress.advance()
    return results


def standard_error(values: list[float]) -> float:
    """Of their mean; nan for a single one."""
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def compare(
    generator: str | Path, device: torch.device, cache_dir: Path, pictures: Tensor, steps: int
) -> list[dict]:
    """A table, printed row by row: mean L2 and share within eps of each form, with their standard
    errors, and how far the mean L2 is from the plain form's, with that of the differences.
    """
    settings = Settings(steps=steps)
    print(f"{len(pictures)} faces, {steps} steps, eps {settings.eps:g}, seeds 0 to N - 1")
    print(
        f"{'formulation':13}{'precision':10}{'mean L2':>18}{'within eps':>16}"
        f"{'L2 minus plain':>22}{'ratio':>7}",
        flush=True,
    )
    rows: list[dict] = []
    threads = torch.get_num_threads()
    for form, precision in forms_for(device):
        compile = "on" if form == "compiled" else "auto"  # which on CUDA is eager
        model = PULSE(generator, str(device), cache_dir, compile=compile, precision=precision)
        torch.set_num_threads(choose_threads(None, model.generator.synthesis))
        progress = Progress(len(pictures), "face")
        results = search_all(model, form, pictures, settings, progress)
        progress.close()
        l2 = [result.l2 for result in results]
        within = [float(result.within_eps) for result in results]
        reference = rows[0]["l2"] if rows else l2
        apart = [mine - theirs for mine, theirs in zip(l2, reference, strict=True)]
        row = {
            "formulation": form if form == "plain" else model.formulation,
            "precision": precision,
            "l2": l2,
            "mean_l2": statistics.mean(l2),
            "mean_l2_error": standard_error(l2),
            "within": statistics.mean(within),
            "within_error": standard_error(within),
            "apart": statistics.mean(apart),
            "apart_error": standard_error(apart),
        }
        rows.append(row)
        print(
            f"{row['formulation']:13}{precision:10}"
            f"{row['mean_l2']:10.5f} ±{row['mean_l2_error']:.5f}"
            f"{row['within']:8.1%} ±{row['within_error']:.1%}"
            f"{row['apart']:+13.5f} ±{row['apart_error']:.5f}"
            f"{row['mean_l2'] / rows[0]['mean_l2']:7.3f}",
            flush=True,
        )
    torch.set_num_threads(threads)
    return rows
