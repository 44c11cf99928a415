"""Time and memory of evaluate.py, printed: figures, not tests.

    python tests/stress_evaluate.py    1,000 results of 64 pixels, with true HR (make stress)

Runs on the CPU, on pictures of noise.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from result_folders import put_result

ROOT = Path(__file__).resolve().parent.parent

# Runs a script, and says at the end what the process held at most, in kB; on Linux.
MEASURED = """
import os, re, runpy, sys
del sys.argv[0]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""


def write_results(folder: Path, inputs: int, duplicates: int = 2, side: int = 64) -> None:
    """Results of noise, their LR and true HR."""
    random = np.random.default_rng(0)

    def noise(side: int) -> Image.Image:
        return Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8))

    (folder / "input").mkdir()
    (folder / "hr").mkdir()
    for i in range(inputs):
        file, LR = f"{i:05}.png", noise(16)
        LR.save(folder / "input" / file)
        noise(side).save(folder / "hr" / file)
        for duplicate in range(duplicates):
            name, l2 = f"{i:05}_{duplicate + 1}", 0.003 * random.random()
            changes = {"l2": l2, "within_eps": l2 <= 0.002, "duplicate": duplicate}
            put_result(folder / "runs", name, noise(side), LR, file, **changes)


def evaluated(results: int = 1000) -> None:
    """Seconds and memory of evaluate.py over a tenth of the results, and over all."""
    for number in (results // 10, results):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write_results(folder, number // 2)
            args = ["runs", "-hr_dir", "hr", "-json", "all.json", "-csv", "all.csv"]
            started = time.monotonic()
            done = subprocess.run(
                [sys.executable, "-c", MEASURED, str(ROOT / "evaluate.py"), *args],
                cwd=folder,
                capture_output=True,
                text=True,
            )
            seconds = time.monotonic() - started
            if done.returncode:
                print(done.stderr)
                return
            print(
                f"{number} results of 64 pixels evaluated: {seconds:.1f} s, "
                f"at most {int(done.stdout.split()[-1]) / 1e3:.0f} MB"
            )


if __name__ == "__main__":
    evaluated()
