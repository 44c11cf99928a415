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
from fast.kernel_check import first_wrong, first_wrong_of_step  # noqa: E402
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


FAULTS = "leaky_grad", "style_grad", "styles", "styles_grad"
FAULTS += "downscale", "to_sphere", "geocross", "keep_best"


def planted(fault: str) -> str | None:
    """What the check at loading names, of kernels with a fault."""

    class Faulty(cuda.TritonKernels):
        def leaky_grad(self, g, x, mean, a, q, p, blur):
            return super().leaky_grad(g, x, mean, a, q, p, blur and fault != "leaky_grad")

        def style_grad(self, g, x, mean, a, rstd, out=None):
            grad, p, q = super().style_grad(g, x, mean, a, rstd, out)
            return (grad, q, p) if fault == "style_grad" else (grad, p, q)

        def styles(self, w, affine):
            return super().styles(w.flip(1) if fault == "styles" else w, affine)

        def styles_grad(self, whole, grads, affine):
            if fault == "styles_grad":  # as if all layers were as large as the first
                affine = affine._replace(first=affine.first * 0 + affine.first[1])
            return super().styles_grad(whole, grads, affine)

    class FaultyStep(cuda_step.StepKernels):
        def downscale(self, factor):
            down = super().downscale(factor)
            return lambda x: down(x.flip(3))

        def to_sphere(self, x, radius):
            super().to_sphere(x, radius[:1].expand_as(radius).contiguous())

        def geocross(self, w):
            return super().geocross(w.detach() + 0.999 * (w - w.detach()))  # of its gradient

        def keep_best(self, best, present, number, eps, more, final):
            super().keep_best(best, present, number, eps, more, final + 1)

    if fault not in vars(FaultyStep):
        return first_wrong(Faulty(), torch.float32)
    kernels = cuda.TritonKernels()
    setattr(kernels.step, fault, getattr(FaultyStep(cuda._launch), fault))
    return first_wrong_of_step(kernels.step)


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
    "wrong": [planted(""), first_wrong(cuda.TritonKernels(), torch.bfloat16)],
    "planted": [planted(each) for each in FAULTS],
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
