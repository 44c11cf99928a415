"""Which device computes: chosen by name, and tried with one small convolution before anything is
loaded onto it, so that a device that is listed but cannot be used is one sentence.
"""

from __future__ import annotations

import logging
import re
import warnings

import torch
import torch.nn.functional as F

from cli.errors import UserError

AMPERE = (8, 0)  # compute capability from which tf32 and bfloat16 have instructions

log = logging.getLogger("pulse")


def choose_device(name: str, local_rank: int | None = None) -> torch.device:
    """`auto`, `cpu`, `cuda`, `cuda:N` or `mps` → a device on which a kernel has run.

    `auto` is CUDA where there is a usable device, else Apple's MPS, else the CPU; where a device is
    present and cannot be used, one line says why. local_rank: of several processes of one machine,
    which share its CUDA devices; None for one process, whose device is PyTorch's current one.

    Raises: UserError for a device that is unknown, absent or unusable.
    """
    if name == "auto":
        for kind, present in (("cuda", torch.cuda.is_available), ("mps", _has_mps)):
            if present():
                device = _indexed(torch.device(kind), local_rank)
                reason = why_unusable(device)
                if reason is None:
                    return device
                log.warning(f"{reason}: the CPU is used")
        return torch.device("cpu")
    if not re.fullmatch(r"cpu(:0)?|mps(:0)?|cuda(:\d{1,4})?", name):
        raise UserError(
            f"device {name!r} is not available here, or misspelt: use auto, cpu, cuda or mps"
        )
    device = torch.device(name)
    if device.type == "mps" and not _has_mps():
        raise UserError(f"device {name!r} is not available here (only on a Mac): use auto or cpu")
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(
                f"device {name!r} is not available here ({_why_no_cuda()}): use auto or cpu"
            )
        devices = torch.cuda.device_count()
        if (device.index or 0) >= devices:
            raise UserError(
                f"device {name!r} does not exist: the CUDA devices here are cuda:0"
                + (f" to cuda:{devices - 1}" if devices > 1 else " alone")
            )
        device = _indexed(device, local_rank)
    reason = why_unusable(device)
    if reason is not None:
        raise UserError(f"device {name!r} cannot be used: {reason}: use another, or cpu")
    return device


def why_unusable(device: torch.device) -> str | None:
    """Why no kernel runs on a device that is present, as the main part of a sentence; None where
    one does.
    """
    if device.type == "cpu":
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's own ten lines on a card it is not built for
            run_kernel(device)
    except Exception as error:  # of whatever kind: CUDA's, cuDNN's, the driver's
        return _sentence(device, first_line(error))
    return None


def run_kernel(device: torch.device) -> None:
    """A small convolution, and wait for it. Raises: whatever the device's libraries raise."""
    x = torch.ones(1, 8, 8, 8, device=device)
    F.conv2d(x, x[:, :, :3, :3].contiguous(), padding=1).sum().item()


def _sentence(device: torch.device, error: str) -> str:
    """What `error`, the first line of what PyTorch said, means for someone who wants to search."""
    name, capability, architectures = str(device), None, []
    try:
        name = f"{torch.cuda.get_device_name(device)} ({device})"
        capability = torch.cuda.get_device_capability(device)
        architectures = torch.cuda.get_arch_list()
    except Exception:  # a device that fails may fail here as well
        pass
    built_for = _capabilities(architectures)
    if "busy or unavailable" in error or "out of memory" in error:
        return f"{name} is held by another program, or its memory is full ({error})"
    if "no kernel image" in error or "SM <" in error or "not compatible" in error:
        if capability and built_for and capability < built_for[0]:
            return f"{name} is too old for this PyTorch ({_span(capability, built_for)})"
        if capability and built_for and capability > built_for[-1]:
            return f"{name} is too new for this PyTorch ({_span(capability, built_for)})"
    return f"{name} does not work ({error})"


def _span(capability: tuple[int, int], built_for: list[tuple[int, int]]) -> str:
    low, high = ("{}.{}".format(*each) for each in (built_for[0], built_for[-1]))
    return "compute capability {}.{}, built for {} to {}".format(*capability, low, high)


def _capabilities(architectures: list[str]) -> list[tuple[int, int]]:
    """["sm_75", "sm_90a", "compute_120"] → [(7, 5), (9, 0), (12, 0)]."""
    numbers = (re.fullmatch(r"(?:sm|compute)_(\d+)(\d)[a-z]*", each) for each in architectures)
    return sorted({(int(match[1]), int(match[2])) for match in numbers if match})


def _indexed(device: torch.device, local_rank: int | None) -> torch.device:
    """`cuda` → `cuda:N`."""
    if device.type == "cuda" and device.index is None:
        if local_rank is not None:
            return torch.device("cuda", local_rank % torch.cuda.device_count())
        try:
            return torch.device("cuda", torch.cuda.current_device())
        except Exception:  # cannot be initialised: the probe says why
            return torch.device("cuda", 0)
    return device


def _has_mps() -> bool:
    return torch.backends.mps.is_available()


def _why_no_cuda() -> str:
    if torch.version.cuda is None and torch.version.hip is None:
        return "this PyTorch is built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:
        return first_line(error).split(". ")[0].rstrip(".")
    return "no CUDA device is visible"


def missing_operation(error: NotImplementedError, device: torch.device) -> str:
    """The sentence for an operation that PyTorch lacks on `device`."""
    sentence = f"device {device}: {first_line(error).split('. ')[0].rstrip('.')}"
    if device.type == "mps":
        return f"{sentence}: set PYTORCH_ENABLE_MPS_FALLBACK=1, or use -device cpu"
    return f"{sentence}: use -device cpu"


def before_ampere(device: torch.device) -> bool:
    """Whether a CUDA device computes tf32 and bfloat16 by imitation, or not at all."""
    return torch.cuda.get_device_capability(device) < AMPERE


def first_line(error: BaseException) -> str:
    """The first line of what `error` says, of at most 200 characters; its kind where it says
    nothing.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
