"""How the synthesis network is computed in a search: the one place where that is decided.

`plain` is stylegan.py, the reference, which no search uses. `eager` is synthesis.py with PyTorch's
own operations; `compiled` is synthesis.py with cpu.c on a CPU, and with torch.compile on CUDA.
There, steps are also launched as a whole (cuda_graph.py).
"""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from cli.errors import UserError
from fast import inductor
from fast.cuda_graph import Recorder
from fast.memory import free_memory, keep_freed_memory
from fast.precision import choose_precision, dtype_of
from fast.synthesis import FastSynthesis, Kernels, TorchKernels
from search_settings import COMPILE
from stylegan import G_synthesis

# -compile auto, on a CPU: pixels times steps of one picture from which compiling pays: cpu.c takes
# up to ten seconds, once for a machine, and saves about 3 seconds in a million on two cores. It is
# reckoned for one picture, whatever the number: a picture's result must not depend on how many are
# made with it. On CUDA nothing is compiled unless it is asked for: torch.compile takes a minute or
# two in each process, which only thousands of pictures would earn back.
PAYS_ON_CPU = 100_000

REPLAY_PAYS = 10  # steps, of which three warm up and one is recorded

# Multiply-adds of a forward pass below which one thread computes a search on a CPU: embedded
# generators of 64 and 128 pixels have 0.2 and 1.1 G. Two gain little there (docs/performance.md),
# and where another program wants one of the processors, each waits for the other at every layer:
# then they are five times slower.
ONE_THREAD = 1_250_000_000

LARGE = 512  # pixels: from here on single pictures exceed what glibc keeps by itself, 32 MB

log = logging.getLogger("pulse")


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


def require_compile(name: str) -> None:
    """Raises: UserError unless it is one of COMPILE."""
    if name not in COMPILE:
        raise UserError(f"compile {name!r} is unknown: use {', '.join(COMPILE)}")


class FastForms:
    """The fast forms of one synthesis network, each made when it is first chosen.

    synthesis: on its device already. cache_dir: where compiled code is kept. compile: `auto`, `on`
    or `off`. precision: of the convolutions, or None for PyTorch's own choice; what it came to is
    `precision`. Raises: UserError for an unknown `compile` or `precision`.
    """

    def __init__(
        self, synthesis: G_synthesis, cache_dir: Path, compile: str, precision: str | None
    ):
        require_compile(compile)
        self.synthesis, self.cache_dir, self.compile = synthesis, Path(cache_dir), compile
        self.device = next(synthesis.parameters()).device
        self.precision = choose_precision(precision, self.device)
        self._recorder: Recorder | None = None
        self._made: dict[str, FastSynthesis] = {}
        self._refused = False  # compiling failed, and it was said

    def choose(self, steps: int, like: str | None = None) -> FastSynthesis:
        """What searches of so many steps are computed with. With `auto`, a formulation `like` that
        of an earlier search is followed on a CPU, where a picture is the same only in the same one.
        """
        if self.device.type == "cpu" and self.synthesis.resolution >= LARGE:
            keep_freed_memory()
        wanted = self.compile == "on"
        if self.compile == "auto" and self.device.type == "cpu":
            pays = steps * self.synthesis.resolution**2 >= PAYS_ON_CPU
            wanted = like == "compiled" if like is not None else pays
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
        return self._made[name]

    def recorder(self, steps: int) -> Recorder | None:
        """What launches steps of such searches as a whole: on CUDA, as soon as that is less work
        than recording one; else None.
        """
        pays = self.compile == "on" or steps >= REPLAY_PAYS
        if self.device.type != "cuda" or self.compile == "off" or not pays:
            return None
        self._recorder = self._recorder or Recorder(self.device)
        return self._recorder

    def free_memory(self) -> None:
        """After a search for which memory was not enough: what is not needed goes."""
        if self._recorder is not None:
            self._recorder.forget()
        if "compiled" in self._made:
            self._made["compiled"].kernels.forget_batch_sizes()
        free_memory(self.device)

    def _fast(self, kernels: Kernels) -> FastSynthesis:
        return FastSynthesis(self.synthesis, kernels, self.precision)

    def _compile(self) -> tuple[Kernels | None, str]:
        """Compiled kernels for this device and precision; or None and why there are none."""
        if self.device.type == "cpu":
            from fast import cpu

            return cpu.load(self.cache_dir, dtype_of(self.precision))
        if self.device.type == "cuda":
            return inductor.load(self.cache_dir, self.device)
        return None, f"there is no compiled form for {self.device.type}"
