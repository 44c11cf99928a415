"""How the synthesis network is computed in a search: the one place where that is decided.

`plain` is the reference, which no search uses: stylegan.py, or what stands in generators/ for later
families. `eager` is the family's fast form with PyTorch's own operations; `compiled` is the same
with C on a CPU, and on CUDA with Triton's kernels (StyleGAN1) or torch.compile (StyleGAN2). There,
steps are also launched as a whole (cuda_graph.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from cli.errors import UserError
from fast import cpu, inductor, stylegan2_cpu, stylegan3_cpu
from fast.cuda_graph import Recorder
from fast.memory import free_memory, keep_freed_memory
from fast.precision import choose_precision, dtype_of
from fast.stylegan2 import FastStyleGAN2
from fast.stylegan2_kernels import TorchStyleGAN2Kernels
from fast.stylegan3 import FastStyleGAN3
from fast.stylegan3_kernels import TorchStyleGAN3Kernels
from fast.synthesis import FastSynthesis, Kernels, TorchKernels
from search_settings import COMPILE

# -compile auto, on a CPU: pixels times steps of one picture from which compiling pays: cpu.c takes
# about two seconds, once for a machine, and saves about 3 seconds in a million on two cores. It is
# reckoned for one picture, whatever the number: a picture's result must not depend on how many are
# made with it. On CUDA nothing is compiled unless it is asked for: Triton takes some ten seconds at
# the first search.
PAYS_ON_CPU = 100_000

REPLAY_PAYS = 10  # steps, of which three warm up and one is recorded

# Multiply-adds of a forward pass below which one thread computes a search on a CPU: embedded
# generators of 64 and 128 pixels have 0.2 and 1.1 G. Two gain little there (docs/performance.md),
# and where another program wants one of the processors, each waits for the other at every layer:
# then they are five times slower.
ONE_THREAD = 1_250_000_000

# Pixels from which single pictures exceed what glibc keeps by itself, 32 MB. What StyleGAN3 keeps
# for the gradient has twice the pixels and up to 1024 channels.
LARGE, LARGE_STYLEGAN3 = 512, 128


class Form(NamedTuple):
    """How networks of one family are computed."""

    fast: Callable[[nn.Module, Kernels, str], Callable[..., Tensor]]
    eager: Callable[[], Kernels]  # PyTorch's own operations
    on_cpu: ModuleType  # whose `load` compiles kernels
    on_cuda: Callable[[Path, torch.device, str], tuple[Kernels | None, str]] | None = None
    large: int = LARGE


def _triton(cache_dir: Path, device: torch.device, precision: str) -> tuple[Kernels | None, str]:
    try:
        from fast import cuda
    except ImportError:  # PyTorch for Windows comes without it
        return None, "Triton is not installed"
    return cuda.load(device, precision)


def _stylegan2_on_cuda(
    cache_dir: Path, device: torch.device, precision: str
) -> tuple[Kernels | None, str]:
    return inductor.load(cache_dir, device, TorchStyleGAN2Kernels())


STYLEGAN3 = Form(FastStyleGAN3, TorchStyleGAN3Kernels, stylegan3_cpu, large=LARGE_STYLEGAN3)
FORMS = {
    "stylegan1": Form(FastSynthesis, TorchKernels, cpu, _triton),
    "stylegan2": Form(FastStyleGAN2, TorchStyleGAN2Kernels, stylegan2_cpu, _stylegan2_on_cuda),
    "stylegan3-t": STYLEGAN3,
    "stylegan3-r": STYLEGAN3,
}
log = logging.getLogger("pulse")


def choose_threads(threads: int | None, network: nn.Module) -> int:
    """How many CPU threads search `network`, of any family: `threads`, or for None PyTorch's own
    number, and one where the network is small. On the generator alone, so that a run repeats
    another.
    """
    if threads is not None:
        return threads
    small = network.multiply_adds < ONE_THREAD
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

    def __init__(self, synthesis: nn.Module, cache_dir: Path, compile: str, precision: str | None):
        require_compile(compile)
        self.synthesis, self.cache_dir, self.compile = synthesis, Path(cache_dir), compile
        self.device = next(synthesis.parameters()).device
        self.precision = choose_precision(precision, self.device)
        self._form = FORMS.get(synthesis.family)
        self._recorder: Recorder | None = None
        self._made: dict[str, Callable[..., Tensor]] = {}
        self._refused = False  # compiling failed, and it was said

    def choose(self, steps: int, like: str | None = None) -> Callable[..., Tensor]:
        """What searches of so many steps are computed with. With `auto`, a formulation `like` that
        of an earlier search is followed on a CPU, where a picture is the same only in the same one.
        """
        large = self._form.large if self._form is not None else LARGE
        if self.device.type == "cpu" and self.synthesis.resolution >= large:
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
            self._made[name] = self.synthesis
            if self._form is not None:
                self._made[name] = self._fast(self._form.eager())
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

    def _fast(self, kernels: Kernels) -> Callable[..., Tensor]:
        return self._form.fast(self.synthesis, kernels, self.precision)

    def _compile(self) -> tuple[Kernels | None, str]:
        """Compiled kernels for this device and precision; or None and why there are none."""
        if self.device.type == "cpu" and self._form is not None:
            return self._form.on_cpu.load(self.cache_dir, dtype_of(self.precision))
        if self.device.type == "cuda" and self._form is not None and self._form.on_cuda is not None:
            return self._form.on_cuda(self.cache_dir, self.device, self.precision)
        return None, f"there is no compiled form of it for {self.device.type}"
