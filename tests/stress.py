"""Time and memory of a search at full size, printed: `make stress` (about ten minutes on two
cores).

A random generator of the FFHQ layout, 1024 pixels and 24 million parameters, is searched for 100
steps on the CPU.
"""

import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from formats import FORMAT
from PULSE import PULSE
from stylegan import G_synthesis


def resident_mb() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """The most that it ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kB on Linux


def write_full_size(path: Path) -> None:
    """A random generator of 1024 pixels in this project's format."""
    torch.manual_seed(0)
    content = {
        "format": FORMAT,
        "config": {
            "resolution": 1024,
            "fmap_base": 8192,
            "fmap_max": 512,
            "dlatent_size": 512,
        },
        "synthesis": G_synthesis().state_dict(),
        "mapping": None,
        "gaussian_fit": {"mean": torch.zeros(512), "std": torch.ones(512)},
    }
    torch.save(content, path)


def main(steps: int = 100) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}")
    print(f"after import: {resident_mb():.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "full_size.pt"
        write_full_size(path)
        model = PULSE(path, device="cpu", cache_dir=folder)
    started = last = time.monotonic()

    def on_step(step: int, figures: dict) -> None:
        nonlocal last
        now = time.monotonic()
        if step in (0, 1, 2) or (step + 1) % 10 == 0:
            print(
                f"step {step + 1:3}: {now - last:.2f} s, {resident_mb():.0f} MB now, "
                f"peak {peak_mb():.0f} MB",
                flush=True,
            )
        last = now

    for _ in model(torch.rand(1, 3, 32, 32), seed=0, steps=steps, on_step=on_step):
        pass
    seconds = time.monotonic() - started
    print(
        f"{steps} steps: {seconds:.0f} s, {seconds / steps:.2f} s a step, peak {peak_mb():.0f} MB"
    )


if __name__ == "__main__":
    main()
