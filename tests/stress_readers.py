"""Time and memory of reading NVIDIA's PyTorch pickles at full size, printed: figures, not tests.

    python tests/stress_readers.py    the layouts of the published files, with random weights: G, D
                                      and G_ema, about 400 MB each

For each file: seconds, and the most memory beyond what PyTorch itself takes, as a multiple of the
bytes of G_ema. About a minute on two cores.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pytorch_pickles import Persisted, persisted, write

from generators.stylegan2 import StyleGAN2Synthesis
from generators.stylegan3 import StyleGAN3Synthesis
from stylegan import G_mapping

ROOT = Path(__file__).resolve().parent.parent
HALF = (512, 512, 512, 512, 256, 128, 64)  # channels of the published files of 256 pixels
LAYOUTS = {
    "StyleGAN2, 1024 pixels": (lambda: StyleGAN2Synthesis(1024, conv_clamp=256), 8),
    "StyleGAN2, 256 pixels": (lambda: StyleGAN2Synthesis(256, channels=HALF), 8),
    "StyleGAN3-T, 1024 pixels": (lambda: StyleGAN3Synthesis(1024), 2),
}
READ = """
import json, sys, time
import torch
import generators.formats

def memory(name):  # MB
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) / 1e3

from pathlib import Path
before, started = memory("VmRSS"), time.monotonic()
networks = generators.formats.read_networks(Path(sys.argv[1]))
seconds = time.monotonic() - started
state = {**networks.synthesis.state_dict(), **networks.mapping.state_dict()}
print(json.dumps([seconds, memory("VmHWM") - before, sum(t.nbytes for t in state.values()) / 1e6]))
"""


def discriminator(numbers: int) -> Persisted:
    """So many random numbers, in tensors like those of a network."""
    D = Persisted("Discriminator")
    size = 512 * 512 * 9
    for i in range(numbers // size):
        D.add(f"b{i}.weight", torch.randn(512, 512, 3, 3))
    return D


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, {platform.processor()}")
    for name, (make, depth) in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as folder:
            G, G_ema = (persisted(make(), G_mapping(num_layers=depth)) for _ in range(2))
            content = {"G": G, "D": discriminator(29_000_000), "G_ema": G_ema}
            path = write(Path(folder) / "network.pkl", content, protocol=3)
            del G, G_ema, content
            done = subprocess.run(
                [sys.executable, "-c", READ, str(path)],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                capture_output=True,
                text=True,
            )
            if done.returncode:
                sys.exit(f"{name}: {done.stderr}")
            seconds, most, size = json.loads(done.stdout)
            megabytes = path.stat().st_size / 1e6
        print(
            f"{name}, a file of {megabytes:.0f} MB: {seconds:.1f} s, {most:.0f} MB beyond "
            f"PyTorch, {most / size:.2f} times the {size:.0f} MB of G_ema",
            flush=True,
        )


if __name__ == "__main__":
    main()
