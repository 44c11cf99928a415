"""In which precision the network's convolutions are computed: chosen for a search, and set around
its convolutions only, since PyTorch's own switches are the process's.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import torch

from cli.errors import UserError
from fast.device import before_ampere
from search_settings import PRECISIONS

log = logging.getLogger("pulse")


def choose_precision(name: str | None, device: torch.device) -> str:
    """`name`, or for None what PyTorch itself does in convolutions: `tf32` on CUDA where it is
    allowed and the device has it, else `float32`.

    Where a device has no instructions for `name`, float32 is used, and a line says so: tf32
    elsewhere than on CUDA, tf32 and bfloat16 on a GPU before Ampere, bfloat16 on an older CPU.
    Raises: UserError for an unknown name.
    """
    cuda = device.type == "cuda"
    if name is None:
        return "tf32" if cuda and _tf32_allowed() and not before_ampere(device) else "float32"
    if name not in PRECISIONS:
        raise UserError(f"precision {name!r} is unknown: use {', '.join(PRECISIONS)}")
    if name == "tf32" and not cuda:
        log.warning("precision tf32 exists on CUDA only: float32 is used")
        return "float32"
    if name != "float32" and cuda and before_ampere(device):
        card = torch.cuda.get_device_name(device)
        log.warning(f"{card} has no instructions for {name} (GPUs from Ampere on): float32 is used")
        return "float32"
    if name == "bfloat16" and device.type == "cpu" and not has_bfloat16():
        log.warning("this CPU has no instructions for bfloat16: float32 is used")
        return "float32"
    return name


def has_bfloat16() -> bool:
    """Whether the CPU convolves in bfloat16 faster than by imitating it."""
    probe = getattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", None)
    return bool(probe()) if probe is not None else False


def dtype_of(precision: str) -> torch.dtype:
    """In which pictures between convolutions are stored."""
    return torch.bfloat16 if precision == "bfloat16" else torch.float32


@contextlib.contextmanager
def convolutions_in(precision: str, device: torch.device) -> Iterator[None]:
    """Convolutions of float32 tensors on CUDA in `precision`, tf32 or else float32, as long as the
    block lasts; matrix products keep theirs.
    """
    with _switched(torch.backends.cudnn, "conv", precision, device):
        yield


@contextlib.contextmanager
def matrix_products_in(precision: str, device: torch.device) -> Iterator[None]:
    """The same for matrix products; convolutions keep theirs."""
    with _switched(torch.backends.cuda, "matmul", precision, device):
        yield


@contextlib.contextmanager
def _switched(backend, operation: str, precision: str, device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    before = _switch(backend, operation)
    _set_switch(backend, operation, "tf32" if precision == "tf32" else "ieee")
    try:
        yield
    finally:
        _set_switch(backend, operation, before)


# PyTorch 2.9 gave each operation a switch of its own, fp32_precision. cuDNN's older one is that of
# recurrent networks as well, and reading it raises where the two differ.


def _switch(backend, operation: str) -> str:
    """tf32, ieee, or none: as the process has it."""
    own = getattr(backend, operation, backend)
    if hasattr(own, "fp32_precision"):
        return own.fp32_precision
    return "tf32" if own.allow_tf32 else "ieee"


def _set_switch(backend, operation: str, value: str) -> None:
    own = getattr(backend, operation, backend)
    if hasattr(own, "fp32_precision"):
        own.fp32_precision = value
    else:
        own.allow_tf32 = value == "tf32"


def _tf32_allowed() -> bool:
    return _switch(torch.backends.cudnn, "conv") == "tf32"
