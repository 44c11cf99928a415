"""What cuda_kernels.py and cuda_backward.py compute, by Triton's interpreter on a CPU: run by
test_cuda_kernels.py in a process of its own, since the interpreter is chosen when Triton is
imported. Prints JSON.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

os.environ["TRITON_INTERPRET"] = "1"
sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import torch  # noqa: E402
from conftest import random_networks  # noqa: E402
from forms import picture_and_gradients, relative  # noqa: E402
from kernel_cases import (  # noqa: E402
    best_is_pytorchs,
    downscaling_like_pytorchs,
    geocross_like_pytorchs,
    long_styles,
    many_tiles,
)
from triton.runtime.interpreter import InterpretedFunction, interpreter_builder  # noqa: E402

from fast import cuda, cuda_backward, cuda_kernels, cuda_step  # noqa: E402
from fast.kernel_check import first_wrong  # noqa: E402
from fast.synthesis import FastSynthesis, TorchKernels  # noqa: E402
from generators.load import Generator  # noqa: E402
from PULSE import Search  # noqa: E402
from search_settings import Settings  # noqa: E402


def of_w_in_unit_range(fast, w, noise, cotangent) -> list[torch.Tensor]:
    """(picture + 1)/2, and the gradient for w alone, on whose way back blurs are one kernel."""
    w = w.clone().requires_grad_()
    picture = fast.in_unit_range(w, noise)
    return [picture.detach(), *torch.autograd.grad((picture * cotangent).sum(), [w])]


def agreement(
    kernels, resolution: int, batch: int, precision: str, of=picture_and_gradients, **changes
) -> float:
    """The largest relative difference, of picture and gradients, to PyTorch in float32."""
    torch.manual_seed(0)
    network, _ = random_networks(resolution, **changes)
    network.requires_grad_(False)
    w = torch.randn(batch, network.num_layers, 16)
    noise = [torch.randn(batch, 1, r, r) for r in network.layer_sizes]
    given = w, noise, torch.randn(batch, 3, resolution, resolution)
    expected, found = (
        of(FastSynthesis(network, *each), *given)
        for each in ((TorchKernels(),), (kernels, precision))
    )
    assert all(each.dtype == torch.float32 for each in found)
    return max(relative(*pair) for pair in zip(found, expected, strict=True))


def searched() -> float:
    """The largest relative difference of a whole search to that in PyTorch's operations: of its
    figures and of all that it keeps.
    """
    torch.manual_seed(0)
    network, _ = random_networks(8)
    network.requires_grad_(False)
    generator = Generator("random", network, torch.zeros(16), torch.ones(16), {})
    settings = Settings(steps=4, learning_rate=0.01)
    ends = []
    for kernels in (cuda.TritonKernels(), TorchKernels()):
        synthesize = FastSynthesis(network, kernels)
        ref_im = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
        search = Search(generator, synthesize, ref_im, settings, [0, 1])
        totals = torch.stack([search.step()["total"] for _ in range(4)])
        ends.append([totals, *(each.float() for each in search.best.values())])
    assert (ends[0][0][0] > ends[0][0][-1]).all() and len(ends[0]) > 10
    pairs = [(one + 1, other + 1) for one, other in zip(*ends, strict=True)]  # some are 0
    return max(relative(*pair) for pair in pairs)


def call(function, *args, **kwargs):
    """A function of ours, from a kernel. The launch has patched triton.language; the interpreter
    would look again for what is to be patched, a third of its time, and find nothing.
    """
    if function.fn.__module__ in OURS:
        return function.rewrite()(*args, **kwargs)
    return call_of_triton(function, *args, **kwargs)


OURS = {each.__name__ for each in (cuda_kernels, cuda_backward, cuda_step)}
call_of_triton, InterpretedFunction.__call__ = InterpretedFunction.__call__, call
# As on a GPU: integers are not looked at for overflow, a fifth of the time.
interpreter_builder.options = replace(interpreter_builder.options, sanitize_overflow=False)
found = {  # with the tiles that a GPU has
    "wrong": [first_wrong(cuda.TritonKernels(), each) for each in (torch.float32, torch.bfloat16)],
    "interpreted": [type(each).__name__ for each in (cuda_kernels.affine, cuda_backward.sums)],
}
cuda.TILE, cuda.SMALL_TILE, cuda.SMALL_ROWS = 256, 128, 3
found |= {
    "long styles": long_styles(),
    "geocross": geocross_like_pytorchs(),
    "searched": searched(),
    "downscaling": downscaling_like_pytorchs(),
    "best": best_is_pytorchs(),
    "many tiles": many_tiles(),
    "wide": agreement(cuda.TritonKernels(), 8, 1, "float32", fmap_base=2048, fmap_max=80),
    "in [0, 1]": agreement(cuda.TritonKernels(), 8, 2, "float32", of=of_w_in_unit_range),
    "bfloat16": agreement(cuda.TritonKernels(), 16, 1, "bfloat16"),
    "eager bfloat16": agreement(TorchKernels(), 16, 1, "bfloat16"),
}
cuda.TILE, cuda.SMALL_ROWS = 128, 4  # half of a row of 16 pixels
found["float32"] = agreement(cuda.TritonKernels(), 16, 2, "float32")
print(json.dumps(found))
