"""What cuda_convolution.py computes, by Triton's interpreter on a CPU: run by
test_cuda_convolution.py in a process of its own, since the interpreter is chosen when Triton is
imported. Prints JSON.
"""

import json
import logging
import os
import sys
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
import torch  # noqa: E402
import triton.language as tl  # noqa: E402
from conftest import random_networks  # noqa: E402
from forms import picture_and_gradients, relative  # noqa: E402
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle  # noqa: E402

from fast import cuda, cuda_convolution, cuda_few_pixels, kernel_check  # noqa: E402
from fast.cuda_convolution import Tile  # noqa: E402
from fast.layers import Convolution, channels_last  # noqa: E402
from fast.synthesis import FastSynthesis, TorchKernels  # noqa: E402

CASES = {  # up, channels in and out, tiles forward and back, and pictures
    "same": (False, 16, 16, None, None, (2, 5, 24)),
    "more channels": (False, 16, 32, None, None, (1, 9, 270)),  # several programs
    "fewer channels": (False, 64, 16, None, None, (1, 6, 8)),
    "one row, odd": (False, 32, 16, None, None, (1, 1, 7)),
    "one pixel a position": (
        False,
        16,
        32,
        Tile(1, 16, 16, 4, 1),
        Tile(1, 16, 16, 4, 1),
        (2, 6, 40),
    ),
    "two pixels": (False, 32, 32, Tile(2, 16, 64, 4, 1), Tile(2, 32, 16, 4, 1), (2, 6, 40)),
    "up": (True, 32, 16, None, None, (2, 6, 20)),
    "up, several programs": (True, 16, 16, None, None, (1, 9, 270)),
    "up, one row": (True, 16, 32, None, None, (1, 1, 6)),
    "up, one pixel": (True, 16, 16, Tile(1, 16, 16, 4, 1), Tile(2, 16, 16, 4, 1), (2, 5, 40)),
    "up, two pixels": (True, 32, 16, Tile(2, 16, 32, 4, 1), Tile(2, 16, 32, 4, 1), (1, 6, 40)),
}


FEW_PIXELS = {
    "same": (False, 64, 128, (1, 4, 4)),
    "several blocks": (False, 128, 64, (2, 6, 9)),
    "several products of a share": (False, 128, 512, (1, 4, 4)),
    "up": (True, 128, 64, (2, 3, 5)),
    "up, several blocks": (True, 64, 128, (3, 4, 8)),
}


def create_dot(self, a, b, *others):
    """The interpreter has bfloat16 as integers, and multiplies these."""

    def widened(x):
        if x.dtype != tl.bfloat16:
            return x
        bits = x.data.view(np.uint16).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    return dot_of_triton(self, widened(a), widened(b), *others)


dot_of_triton, InterpreterBuilder.create_dot = InterpreterBuilder.create_dot, create_dot


def differences(dtype: torch.dtype) -> dict[str, list[float]]:
    """Of each case, forward and back: the largest relative difference to PyTorch in float64."""
    found = {}
    for name, (up, fan_in, fan_out, tile, tile_back, (B, rows, width)) in CASES.items():
        if not cuda_convolution.serves(fan_in, fan_out, dtype):
            continue
        shape = (fan_in, fan_out, 4, 4) if up else (fan_out, fan_in, 3, 3)
        kernel = torch.randn(*shape).bfloat16()  # which tf32 has no need to round
        exact = Convolution(kernel.double(), up)
        ours = cuda.TritonConvolution(Convolution(kernel.to(dtype), up), tile, tile_back)
        found[name] = both_ways(ours, exact, dtype, (B, fan_in, rows, width))
    return found


def both_ways(ours, exact: Convolution, dtype: torch.dtype, shape: tuple[int, ...]) -> list[float]:
    x = channels_last(torch.randn(*shape).to(dtype))
    g = channels_last(torch.randn_like(exact.convolve(x.double())).to(dtype))
    pairs = [
        (ours.convolve(x), exact.convolve(x.double())),
        (ours.convolve_back(g), exact.convolve_back(g.double())),
    ]
    for y, _ in pairs:
        assert y.dtype == dtype and y.is_contiguous(memory_format=torch.channels_last)
    return [relative(y.double(), right) for y, right in pairs]


def few_pixels(dtype: torch.dtype) -> dict[str, list[float]]:
    """As `differences`, of convolutions that are split into shares."""
    found = {}
    for name, (up, fan_in, fan_out, (B, rows, width)) in FEW_PIXELS.items():
        shape = (fan_in, fan_out, 4, 4) if up else (fan_out, fan_in, 3, 3)
        kernel = torch.randn(*shape).bfloat16()
        ours = cuda.FewPixels(Convolution(kernel.to(dtype), up))
        launched.clear()
        exact = Convolution(kernel.double(), up)
        found[name] = both_ways(ours, exact, dtype, (B, fan_in, rows, width))
        assert launched == 2 * [cuda_few_pixels.shares, cuda_few_pixels.add_shares]
    return found


def watched(kernel, grid, *arguments, **constants) -> None:
    launched.append(kernel)
    launch_of_cuda(kernel, grid, *arguments, **constants)


class Watched(cuda.TritonKernels):
    """Counts the convolutions that it computes."""

    served = 0

    def convolution(self, convolution, precision):
        found = super().convolution(convolution, precision)
        self.served += isinstance(found, cuda.TritonConvolution)
        return found


def apart(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest norm of a difference over the norm of what is expected."""
    pairs = zip(found, expected, strict=True)
    return max(((one - other).norm() / other.norm()).item() for one, other in pairs)


def of_a_network(precision: str) -> list[float]:
    """How far picture and gradients are apart from those in float32, with Triton's convolutions and
    with PyTorch's; how many convolutions of 3 are Triton's.
    """
    torch.manual_seed(0)
    network, _ = random_networks(8, fmap_base=64, fmap_max=32)  # 32 channels, then 16
    network.requires_grad_(False)
    w = torch.randn(1, network.num_layers, 16)
    noise = [torch.randn(1, 1, r, r) for r in network.layer_sizes]
    given = w, noise, torch.randn(1, 3, 8, 8)
    expected = picture_and_gradients(FastSynthesis(network, TorchKernels()), *given)
    kernels = Watched(), cuda.TritonKernels(convolves=False)
    forms = [FastSynthesis(network, each, precision) for each in kernels]
    found = [apart(picture_and_gradients(each, *given), expected) for each in forms]
    return [*found, kernels[0].served]


class Faulty(cuda.TritonKernels):
    """Whose gradients have the rows of their kernel in the wrong order."""

    fault = ""

    def convolution(self, convolution, precision):
        found = super().convolution(convolution, precision)
        if isinstance(found, cuda.TritonConvolution) and convolution.up == (self.fault == "up"):
            found.back = found.back._replace(weight=found.back.weight.flip(0))
        return found


def loaded(fault: str, precision: str) -> list:
    """What is said of kernels with a fault, and whether what was loaded convolves."""
    said.clear()
    Faulty.fault = fault
    kernels, reason = cuda.load(torch.device("cpu"), precision)
    assert kernels is not None and not reason
    return [*said, kernels.convolves]


torch.manual_seed(0)
cuda_few_pixels.FEW_IN_FLOAT32 = cuda_few_pixels.FEW
launched: list = []
launch_of_cuda, cuda._launch = cuda._launch, watched
said: list[str] = []
logging.getLogger("pulse").addFilter(lambda record: said.append(record.getMessage()))
found = {
    "differences": {str(each): differences(each) for each in (torch.float32, torch.bfloat16)},
    "few pixels": {str(each): few_pixels(each) for each in (torch.float32, torch.bfloat16)},
    "network": {each: of_a_network(each) for each in ("float32", "tf32", "bfloat16")},
    "interpreted": type(cuda_convolution.convolution).__name__,
}
cuda.first_wrong = lambda *given: None  # of what is no convolution: test_ptx.py asks
kernel_check.CONVOLUTIONS = [(16, 16, False), (32, 16, True)]
right, cuda.TritonKernels = cuda.TritonKernels, Faulty
found["loaded"] = {each: loaded(each, "tf32") for each in ("same", "up")}
cuda.TritonKernels = right
found["loaded"]["none"] = loaded("", "tf32")
print(json.dumps(found))
