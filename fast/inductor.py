"""Kernels in PyTorch's own operations through torch.compile, which fuses each function into one or
two passes over memory: the compiled form on CUDA, where compiling takes a minute or two for each
size of batch.
"""

from __future__ import annotations

import functools
import inspect
import logging
import os
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import is_mistake
from fast.device import first_line
from fast.layers import channels_last
from fast.synthesis import Kernels, TorchKernels

# Of one function that torch.compile may keep: one for each layer's shapes, and again for another
# size of batch. PyTorch gives up at the ninth, without a word.
FORMS = 128

log = logging.getLogger("pulse")


class InductorKernels(TorchKernels):
    """Each function of `eager`, TorchKernels or those of another network, compiled at its first
    call for each shape.

    Where a later shape cannot be compiled, one line says so, and PyTorch's own operations are used
    from then on.
    """

    formulation = "compiled"

    def __init__(self, eager: TorchKernels | None = None):
        self._eager = eager or TorchKernels()
        self._batch_sizes: set[int] = set()  # for which there are forms
        for name in self._eager.functions:
            compiled = compile_forms(getattr(self._eager, name))
            setattr(self, name, functools.partial(self._call, name, compiled))

    def batch_size(self, B):
        """A larger size for which there are forms already, since others take minutes to compile."""
        larger = [size for size in self._batch_sizes if size >= B]
        self._batch_sizes.add(min(larger, default=B))
        return min(larger, default=B)

    def forget_batch_sizes(self) -> None:
        """Those so far were too large for memory."""
        self._batch_sizes.clear()

    def _call(self, name: str, compiled, *arguments, **options):
        # What would be another form of the same function: overwriting, which only a picture without
        # gradients allows, and arguments some of which want a gradient, which is not computed here.
        if "overwrite" in options:
            options["overwrite"] = False
        arguments = [each.detach() if isinstance(each, Tensor) else each for each in arguments]
        if self.formulation == "compiled":
            if not TAKES_LIMIT:
                raise_limit()
            try:
                return compiled(*arguments, **options)
            except torch._dynamo.exc.TorchDynamoException as error:  # nothing has run yet
                self.formulation = TorchKernels.formulation
                log.warning(
                    f"{name} could not be compiled ({reason(error)}): slower from here on, and "
                    "otherwise the same"
                )
        return getattr(self._eager, name)(*arguments, **options)


# The limit belongs to the compiled function; before PyTorch 2.13 or so it could only be set in
# Dynamo's configuration, of the process or, later, of the thread, and backward has its own thread.
TAKES_LIMIT = "recompile_limit" in inspect.signature(torch.compile).parameters


def reason(error: Exception) -> str:
    """Why compiling failed: what the back end raised, which Dynamo wraps."""
    return first_line(getattr(error, "inner_exception", error))


def compile_forms(function: Callable) -> Callable:
    """torch.compile, with a form for each of up to FORMS shapes."""
    options = {"recompile_limit": FORMS} if TAKES_LIMIT else {}
    return torch.compile(function, dynamic=False, **options)


def raise_limit() -> None:
    """Let this thread keep FORMS forms of a function."""
    config = torch._dynamo.config
    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    if getattr(config, name) < FORMS:
        setattr(config, name, FORMS)


def load(
    cache_dir: Path, device: torch.device, eager: TorchKernels | None = None
) -> tuple[Kernels | None, str]:
    """The compiled form of `eager` (TorchKernels) for `device`, after one small function has been
    compiled and run; or None and the reason. What is compiled is kept in `cache_dir`.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path(cache_dir).resolve() / "inductor"))
    try:
        kernels = InductorKernels(eager)
        x = channels_last(torch.ones(1, 16, 8, 8, device=device))
        compile_forms(TorchKernels().sums)(x, x, torch.zeros(1, 16, device=device))
    except Exception as error:  # no Triton, no compiler, a GPU too old for it
        if is_mistake(error):
            raise
        return None, f"torch.compile failed: {reason(error)}"
    return kernels, ""
