"""What a machine can do, measured: the rate against which bench.py holds the time of a step."""

from __future__ import annotations

import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from cli.signals import heed_signals
from fast.precision import convolutions_in, matrix_products_in

try:
    import resource
except ModuleNotFoundError:  # Windows has none
    resource = None


def processor() -> str:
    """The name of this machine's processor, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def peak_megabytes(device: torch.device) -> float | None:
    """The most memory in MB, 10⁶ bytes, that this process has had: of the GPU on CUDA, else of the
    machine. None where the system does not tell, as Windows.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    try:  # Linux; what getrusage tells there includes the peak of the process that started this one
        lines = Path("/proc/self/status").read_text().splitlines()
        kilobytes = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
        return kilobytes * 1024 / 1e6
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024  # bytes
        return resource and resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def wait_for_device(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The median of nine times, after two that are not counted."""
    seconds = []
    for _ in range(11):
        heed_signals()
        wait_for_device(device)
        start = time.perf_counter()
        work()
        wait_for_device(device)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[2:])


def machine_rates(device: torch.device, precision: str) -> dict[str, float]:
    """Multiply-adds a second in that precision: of square matrices, and of a 3×3 convolution of
    256 channels, channels last, at 128 pixels.

    On a CPU the two come from different libraries, and either may be the faster one.
    """
    size, batch = (2048, 1) if device.type == "cpu" else (8192, 16)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    x, kernel = (
        torch.randn(*shape, device=device).to(dtype, memory_format=torch.channels_last)
        for shape in ((batch, 256, 128, 128), (256, 256, 3, 3))
    )
    switches = convolutions_in(precision, device), matrix_products_in(precision, device)
    with torch.inference_mode(), switches[0], switches[1]:
        return {
            "matrix": size**3 / seconds_of(lambda: a @ b, device),
            "convolution": kernel.numel()
            * (x.numel() // 256)
            / seconds_of(lambda: F.conv2d(x, kernel, padding=1), device),
        }
