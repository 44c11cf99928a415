"""What the published search and the quick one take for one face, in turn in one process: so that
their ratio tells something on a machine that is not alone, too.

    python bench.py -parts search
"""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import torch

from benchmarks.hardware import wait_for_device
from cli.signals import heed_signals
from fast.choose import choose_threads
from PULSE import PULSE
from search_settings import SEARCHES, Settings

SIDE = 16  # of the LR, pixels


def time_searches(
    generator: str | Path,
    device: torch.device,
    cache_dir: Path,
    steps: int,
    repeats: int,
    compile: str = "auto",
    precision: str | None = None,
) -> dict:
    """Seconds of each of `repeats` searches of so many steps, after one that is not counted, for
    each named search: by the clock, and of the processor. And of the quick search's fit, which
    `cache_dir` must not have yet.

    compile, precision: as PULSE takes them. A search includes its start. On CUDA each search has a
    model of its own, and so keeps the step that it has recorded.
    """
    given = generator, str(device), cache_dir, compile, precision
    models = {name: PULSE(*given, progress=False) for name in SEARCHES}
    quick, threads = models["quick"], torch.get_num_threads()
    torch.set_num_threads(choose_threads(None, quick.generator.synthesis))
    LR = torch.full((3, SIDE, SIDE), 0.5)

    def heed(*progress) -> None:
        heed_signals()

    try:
        quick.fast_form(steps)  # compiled, and weights folded
        start = time.perf_counter()
        quick.fit_for(Settings(search="quick", steps=steps), SIDE, heed)
        wait_for_device(device)
        figures: dict = {
            "generator": Path(generator).stem,
            "resolution": quick.generator.resolution,
            "formulation": quick.formulation,
            "precision": quick.precision,
            "threads": torch.get_num_threads(),
            "steps": steps,
            "fit": time.perf_counter() - start,
            **{name: {"seconds": [], "processor": []} for name in SEARCHES},
        }
        for seed in range(-1, repeats):
            for name, model in models.items():
                wait_for_device(device)
                start = time.perf_counter(), time.process_time()
                settings = Settings(search=name, steps=steps, until="steps")
                for _ in model(LR, seed=max(seed, 0), settings=settings, on_step=heed):
                    wait_for_device(device)
                if seed >= 0:
                    figures[name]["seconds"].append(time.perf_counter() - start[0])
                    figures[name]["processor"].append(time.process_time() - start[1])
    finally:
        torch.set_num_threads(threads)
    return figures


def print_searches(figures: dict) -> None:
    """The table of what `time_searches` returned."""
    steps, first = figures["steps"], None
    of_what = f"{figures['resolution']} pixels, generator {figures['generator']}"
    how = f"{figures['formulation']} in {figures['precision']}"
    print(f"{of_what}, {SIDE}×{SIDE} in, {steps} steps, {how}, CPU threads {figures['threads']}")
    print(
        f"{'search':10}{'s/search':>10}{'range':>16}{'ms/step':>9}{'of the processor':>18}{'x':>7}"
    )
    for name in SEARCHES:
        seconds = figures[name]["seconds"]
        median = statistics.median(seconds)
        processor = statistics.median(figures[name]["processor"])
        first = first or median
        spread = f"{min(seconds):.2f}-{max(seconds):.2f}"
        print(
            f"{name:10}{median:10.2f}{spread:>16}{1e3 * median / steps:9.1f}"
            f"{1e3 * processor / steps:18.1f}{median / first:7.2f}"
        )
    fit = figures["fit"]
    print(f"the quick search's fit, once: {fit:.1f} s, {fit / first:.1f} published searches")
