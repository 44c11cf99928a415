"""Time and memory at full size, printed: figures, not tests.

    python tests/stress.py full    one search: 1024 pixels, 24 million parameters, 100 steps
    python tests/stress.py many    10,000 pictures of 4x4, a generator of 8 pixels, one step
    python tests/stress.py flat    100 pictures of 32x32, a generator of 512 pixels, two steps, with
                                   compiled code, in float32 and in bfloat16
    python tests/stress.py large   align_face.py on photographs of 108 and 179 million pixels
    python tests/stress.py         all: about a quarter of an hour on two cores (make stress)

All run on the CPU, with random generators.
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

from benchmarks.step_time import random_generator
from fast.precision import has_bfloat16
from PULSE import PULSE

ROOT = Path(__file__).resolve().parent.parent


def resident_mb() -> float:
    """What this process holds in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def peak_mb() -> float:
    """The most that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3  # kB on Linux


def full(steps: int = 100) -> None:
    """Time of a step and memory of one search at the size of the FFHQ generator."""
    print(f"after import: {resident_mb():.0f} MB")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "full_size.pt"
        random_generator(path, resolution=1024)
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
    code = "import runner.folder, runner.records, torch._dynamo"
    seconds = []
    for _ in range(3):
        started = time.monotonic()
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        seconds.append(time.monotonic() - started)
    return min(seconds)


def kilobytes(process: int, name: str) -> float:
    """An entry of a process's status: VmRSS, what it holds now, or VmHWM, the most so far."""
    status = Path(f"/proc/{process}/status").read_text()
    return float(re.search(rf"{name}:\s+(\d+) kB", status)[1])


def measure(what: str, command: list[str], folder: Path, pictures: int) -> None:
    """Run `command`, which is run.py in another process, and tell time and memory.

    It says a line for every picture, so that its memory can be read at the first and at the last.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    first = last = None
    memory = []
    for line in process.stderr:
        if re.match(r"\d+/\d+ ", line):
            last = time.monotonic()
            first = first or last
            if not memory or line.startswith(f"{pictures}/"):
                now, most = (kilobytes(process.pid, name) / 1e3 for name in ("VmRSS", "VmHWM"))
                memory.append(f"{now:.0f} MB (peak {most:.0f} MB)")
    process.wait()
    ended = time.monotonic()
    print(f"{what}: exit status {process.returncode}, {ended - started:.1f} s")
    if first is None:
        return
    print(f"  first picture: {first - started:.1f} s after the start of the process")
    print(f"  {1000 * (last - first) / (pictures - 1):.1f} ms a picture, search included")
    print(f"  memory: {memory[0]} at the first, {memory[-1]} at the last")
    print(f"  results.csv: {ended - last:.1f} s after the last", flush=True)


def write_noise(folder: Path, pictures: int, side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (pictures, side, side, 3), dtype=np.uint8)
    folder.mkdir()
    for i, pixels in enumerate(noise):
        Image.fromarray(pixels).save(folder / f"{i:05}.png")


def many(pictures: int = 10_000) -> None:
    """What a picture costs besides its search, and whether memory grows with their number."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise(folder / "input", pictures, 4)
        random_generator(folder / "8.pt", resolution=8, fmap_base=64, fmap_max=8, dlatent_size=16)
        args = ["-generator", "8.pt", "-device", "cpu", "-threads", "1", "-seed", "0"]
        command = [sys.executable, str(ROOT / "run.py"), *args, "-steps", "1"]
        importing = seconds_to_import()
        print(f"{pictures} pictures of 4x4, 8 pixels, one step; imports: {importing:.1f} s")
        measure("first run", command, folder, pictures)
        seconds = re.findall(
            r'"seconds": ([0-9.e-]+)',
            "".join(path.read_text() for path in (folder / "runs").rglob("*.json")),
        )
        print(f"  of these {1000 * sum(map(float, seconds)) / len(seconds):.1f} ms are the search")
        measure("the same again, all kept", command, folder, pictures)


def flat(pictures: int = 100) -> None:
    """Whether memory grows with the number of pictures on the compiled fast path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_noise(folder / "input", pictures, 32)
        config = {"resolution": 512, "fmap_base": 2048, "fmap_max": 128, "dlatent_size": 128}
        random_generator(folder / "512.pt", **config)
        args = [
            "-generator",
            "512.pt",
            "-device",
            "cpu",
            "-threads",
            "1",
            "-seed",
            "0",
            "-steps",
            "2",
        ]
        for precision in ["float32"] + ["bfloat16"] * has_bfloat16():
            command = [sys.executable, str(ROOT / "run.py"), *args, "-compile", "on"]
            command += ["-precision", precision, "-output_dir", precision]
            measure(f"{pictures} pictures, {precision}", command, folder, pictures)


WRITE_LARGE = """
import sys, skimage.data
from PIL import Image
photo = Image.fromarray(skimage.data.astronaut()[:400])
photo.resize((int(sys.argv[2]), int(sys.argv[3]))).save(sys.argv[1])
"""


def large() -> None:
    """Time and memory of align_face.py, faces found and cut out, for the largest photographs."""
    with tempfile.TemporaryDirectory() as name:
        for width, height in ((12_000, 9_000), (13_370, 13_370)):
            for kind in ("jpg", "png"):
                photo = f"{name}/{width}.{kind}"
                # in another process: what this one has ever held would count for its children
                making = [sys.executable, "-c", WRITE_LARGE, photo, str(width), str(height)]
                subprocess.run(making, check=True)
                command = [sys.executable, str(ROOT / "align_face.py"), "-input_dir", photo]
                command += ["-output_dir", f"{name}/{kind}", "-quiet"]
                started = time.monotonic()
                process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                _, status, usage = os.wait4(process.pid, 0)
                print(
                    f"{width}x{height} {kind}: exit status {status}, "
                    f"{time.monotonic() - started:.0f} s, peak {usage.ru_maxrss / 1e3:.0f} MB",
                    flush=True,
                )


SECTIONS = {"full": full, "many": many, "flat": flat, "large": large}


def main() -> None:
    wanted = sys.argv[1:] or list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        sys.exit(f"stress.py: error: no section {unknown[0]}: name {' or '.join(SECTIONS)}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}")
    for name in wanted:
        SECTIONS[name]()


if __name__ == "__main__":
    main()
