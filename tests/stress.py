"""Time and memory at full size, printed: figures, not tests.

    python tests/stress.py full    one search: 1024 pixels, 24 million parameters, 100 steps
    python tests/stress.py many    10,000 pictures of 4x4, a generator of 8 pixels, one step
    python tests/stress.py         both: about a quarter of an hour on two cores (make stress)

Both run on the CPU, with random generators.
"""

import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from formats import FORMAT
from PULSE import PULSE
from stylegan import G_synthesis

ROOT = Path(__file__).resolve().parent.parent


def resident_mb(process: int | str = "self") -> float:
    """What a process holds in memory now."""
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """The most that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kB on Linux


def write_random(path: Path, **config) -> None:
    """A random generator of that config in this project's format."""
    torch.manual_seed(0)
    d = config["dlatent_size"]
    content = {
        "format": FORMAT,
        "config": config,
        "synthesis": G_synthesis(**config).state_dict(),
        "mapping": None,
        "gaussian_fit": {"mean": torch.zeros(d), "std": torch.ones(d)},
    }
    torch.save(content, path)


def full(steps: int = 100) -> None:
    """Time of a step and memory of one search at the size of the FFHQ generator."""
    print(f"after import: {resident_mb():.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "full_size.pt"
        write_random(path, resolution=1024, fmap_base=8192, fmap_max=512, dlatent_size=512)
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


def seconds_to_import() -> float:
    """What imports alone take, the quickest of three times; every optimiser imports the last."""
    code = "import folder, records, torch._dynamo"
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        seconds.append(time.monotonic() - started)
    return min(seconds)


def many(pictures: int = 10_000) -> None:
    """What a picture costs besides its search, and whether memory grows with their number.

    run.py is another process; it says a line for every picture, so that its memory can be read at
    the first and at the last.
    """
    noise = np.random.default_rng(0).integers(0, 256, (pictures, 4, 4, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "input").mkdir()
        for i, pixels in enumerate(noise):
            Image.fromarray(pixels).save(folder / "input" / f"{i:05}.png")
        write_random(folder / "8.pt", resolution=8, fmap_base=64, fmap_max=8, dlatent_size=16)
        args = ["-generator", "8.pt", "-device", "cpu", "-threads", "1", "-seed", "0"]
        command = [sys.executable, str(ROOT / "run.py"), *args, "-steps", "1"]
        importing = seconds_to_import()

        def measure(what: str) -> None:
            started = time.monotonic()
            process = subprocess.Popen(
                command,
                cwd=folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            first = last = None
            memory = []
            for line in process.stderr:
                if re.match(r"\d+/\d+ ", line):
                    last = time.monotonic()
                    first = first or last
                    if not memory or line.startswith(f"{pictures}/"):
                        memory.append(resident_mb(process.pid))
            process.wait()
            ended = time.monotonic()
            print(f"{what}: exit status {process.returncode}, {ended - started:.1f} s")
            if first is None:
                return
            print(f"  first picture: {first - started:.1f} s after the start of the process")
            print(f"  {1000 * (last - first) / (pictures - 1):.1f} ms a picture, search included")
            print(f"  memory: {memory[0]:.0f} MB at the first, {memory[-1]:.0f} MB at the last")
            print(f"  results.csv: {ended - last:.1f} s after the last")

        print(f"{pictures} pictures of 4x4, 8 pixels, one step; imports: {importing:.1f} s")
        measure("first run")
        seconds = re.findall(
            r'"seconds": ([0-9.e-]+)',
            "".join(path.read_text() for path in (folder / "runs").rglob("*.json")),
        )
        print(f"  of these {1000 * sum(map(float, seconds)) / len(seconds):.1f} ms are the search")
        measure("the same again, all kept")


SECTIONS = {"full": full, "many": many}


def main() -> None:
    wanted = sys.argv[1:] or list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        sys.exit(f"stress.py: error: no section {unknown[0]}: name {' or '.join(SECTIONS)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}")
    for name in wanted:
        SECTIONS[name]()


if __name__ == "__main__":
    main()
