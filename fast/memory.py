"""Memory of the device that searches: recognising that it ran out, giving it back, keeping it."""

from __future__ import annotations

import ctypes
import gc
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of glibc's malloc.h

# Of the RuntimeErrors by which PyTorch's libraries say that memory ran out. The last two are how
# cuDNN reports that no algorithm's workspace fits.
OUT_OF_MEMORY = (
    "out of memory",  # CUDA's own, MPS
    "not enough memory",  # the CPU's allocator
    "can't allocate memory",
    "ALLOC_FAILED",  # cuDNN, cuBLAS
    "ALLOCATION_FAILED",
    "unable to find a valid cuDNN algorithm",
    "unable to find an engine to execute this computation",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that the device, or a library on it, had no memory left."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(each.lower() in text for each in OUT_OF_MEMORY)


def free_memory(device: torch.device) -> None:
    """Give back to the device what is no longer used, what only a cycle of references holds
    included. Call it outside the `except` block: the error's traceback holds its frames' tensors.
    """
    gc.collect()
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def keep_freed_memory() -> None:
    """Let glibc keep large blocks that are freed, for the next step, which needs the same.

    It would map and zero each picture of 64 MB every time, which takes as long as the convolutions
    of a step at 1024 pixels. Elsewhere than on glibc nothing happens.
    """
    if platform.libc_ver()[0] == "glibc":
        c = ctypes.CDLL(None)
        c.mallopt(M_MMAP_MAX, 0)
        c.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
