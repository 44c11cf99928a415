"""How the synthesis network is computed in a search: the one place where that is decided.

`plain` is stylegan.py, the reference, which no search uses. `eager` is fast.py with PyTorch's own
operations; `compiled` is fast.py with fast.c on a CPU, and with torch.compile on CUDA. There, steps
are also launched as a whole (replay.py).
"""

from __future__ import annotations

import ctypes
import logging
import platform
from pathlib import Path

import torch

from cli.errors import UserError
from fast.synthesis import FastSynthesis, Kernels, TorchKernels
from search_settings import COMPILE, PRECISIONS
from stylegan import G_synthesis

# -compile auto: pixels times steps of one picture from which compiling pays. fast.c takes up to ten
# seconds, once for a machine, and saves about 3 seconds in a million on two cores; torch.compile
# takes about a minute for each kind of search. It is reckoned for one picture, whatever the number:
# a picture's result must not depend on how many are made with it.
PAYS_ON_CPU = 100_000
PAYS_ON_CUDA = 20_000_000

REPLAY_PAYS = 10  # steps, of which three warm up and one is recorded

# Multiply-adds of a forward pass below which one thread computes a search on a CPU. Two gain
# little there (bench.md), and where another program wants one of the processors, each waits for
# the other at every layer: then they are five times slower.
ONE_THREAD = 1_000_000_000

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h
LARGE = 512  # pixels: from here on single pictures exceed what glibc keeps by itself, 32 MB

log = logging.getLogger("pulse")


def choose_precision(name: str | None, device: torch.device) -> str:
    """`name`, or for None what PyTorch itself does in convolutions: `tf32` on CUDA where it is
    allowed, else `float32`.

    tf32 does not exist beside CUDA, and bfloat16 on a CPU only where it has instructions for it:
    float32 is used there, and a line says so. Raises: UserError for an unknown name.
    """
    cuda = device.type == "cuda"
    if name is None:
        return "tf32" if cuda and torch.backends.cudnn.allow_tf32 else "float32"
    if name not in PRECISIONS:
        raise UserError(f"precision {name!r} is unknown: use {', '.join(PRECISIONS)}")
    if name == "tf32" and not cuda:
        log.warning("precision tf32 exists on CUDA only: float32 is used")
        return "float32"
    if name == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        log.warning("this CPU has no instructions for bfloat16: float32 is used")
        return "float32"
    return name


def has_bfloat16() -> bool:
    """Whether the CPU convolves in bfloat16 faster than by imitating it."""
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(probe()) if probe is not None else False


def multiply_adds(network: G_synthesis, folded: bool) -> int:
    """Of one forward pass of one picture, convolutions only; `folded`: with the ×2 of small blocks
    folded into their kernels, 4 products a pixel instead of 9.
    """
    total = 0
    for size, block in network.blocks.items():
        pixels = int(size.split("x")[0]) ** 2
        if size != "4x4":
            up = block.conv0_up
            products = 4 if up.fused or folded else 9
            total += products * up.weight[..., 0, 0].numel() * pixels
        conv = block.conv if size == "4x4" else block.conv1
        total += conv.weight.numel() * pixels
    return total + network.torgb.weight.numel() * pixels


def choose_threads(threads: int | None, network: G_synthesis) -> int:
    """How many CPU threads search `network`: `threads`, or for None PyTorch's own number, and one
    where the network is small. On the generator alone, so that a run repeats another.
    """
    if threads is not None:
        return threads
    small = multiply_adds(network, folded=True) < ONE_THREAD
    return 1 if small else torch.get_num_threads()


def keep_freed_memory() -> None:
    """Tell glibc to keep large blocks that are freed, for the next step, which needs the same.

    It would map and zero each picture of 64 MB anew, which takes as long as the convolutions of a
    step at 1024 pixels. Elsewhere than on glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        c = ctypes.CDLL(None)
        c.mallopt(M_MMAP_MAX, 0)
        c.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def require_compile(name: str) -> None:
    """Raises: UserError unless it is one of COMPILE."""
    if name not in COMPILE:
        raise UserError(f"compile {name!r} is unknown: use {', '.join(COMPILE)}")


class Accelerator:
    """The fast forms of one synthesis network, made when first asked for.

    synthesis: on its device already. Raises: UserError for an unknown `compile` or `precision`.
    """

    def __init__(
        self, synthesis: G_synthesis, cache_dir: Path, compile: str, precision: str | None
    ):
        require_compile(compile)
        self.synthesis, self.cache_dir, self.compile = synthesis, cache_dir, compile
        self.device = next(synthesis.parameters()).device
        self.precision = choose_precision(precision, self.device)
        self.dtype = torch.bfloat16 if self.precision == "bfloat16" else torch.float32
        if self.device.type == "cuda":
            tf32 = self.precision == "tf32"
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        self._made: dict[str, FastSynthesis] = {}
        self._refused = False  # compiling failed, and it was said

    def choose(self, steps: int, like: str | None = None) -> tuple[str, FastSynthesis]:
        """What searches of so many steps are computed with: its name and the network. With `auto`
        a name `like` that of an earlier search is followed.
        """
        if self.device.type == "cpu" and self.synthesis.resolution >= LARGE:
            keep_freed_memory()
        pays = PAYS_ON_CPU if self.device.type == "cpu" else PAYS_ON_CUDA
        wanted = self.compile == "on"
        if self.compile == "auto":
            wanted = steps * self.synthesis.resolution**2 >= pays
            wanted = like == "compiled" if like is not None else wanted
        if wanted and not self._refused and "compiled" not in self._made:
            kernels, reason = self._compile()
            if kernels is None:
                self._refused = True
                log.warning(f"not compiled ({reason}): slower, and otherwise the same")
            else:
                self._made["compiled"] = self._fast(kernels)
        name = "compiled" if wanted and not self._refused else "eager"
        if name not in self._made:
            self._made[name] = self._fast(TorchKernels())
        return name, self._made[name]

    def replays(self, steps: int) -> bool:
        """Whether steps of such searches are launched as a whole (replay.py): on CUDA, as soon as
        that is less work than recording one.
        """
        pays = self.compile == "on" or steps >= REPLAY_PAYS
        return self.device.type == "cuda" and self.compile != "off" and pays

    def _fast(self, kernels: Kernels) -> FastSynthesis:
        return FastSynthesis(self.synthesis, kernels, self.dtype)

    def _compile(self) -> tuple[Kernels | None, str]:
        """Compiled kernels for this device and precision; or None and why there are none."""
        if self.device.type == "cpu":
            from fast import cpu

            return cpu.load(self.cache_dir, self.dtype)
        if self.device.type == "cuda":
            from fast.synthesis import inductor_kernels

            return inductor_kernels(self.cache_dir)
        return None, f"there is no compiled form for {self.device.type}"
