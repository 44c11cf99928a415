"""What cuda_kernels.py and cuda_backward.py compute, by Triton's interpreter on a CPU: run by
test_cuda_kernels.py in a process of its own, since the interpreter is chosen when Triton is
imported. Prints JSON.
"""

import itertools
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
from triton.runtime.interpreter import InterpretedFunction, interpreter_builder  # noqa: E402

from fast import cuda, cuda_backward, cuda_kernels, cuda_step  # noqa: E402
from fast.kernel_check import first_wrong  # noqa: E402
from fast.layers import Styles, channels_last  # noqa: E402
from fast.search_step import TorchStep  # noqa: E402
from fast.synthesis import FastSynthesis, TorchKernels  # noqa: E402
from generators.load import Generator  # noqa: E402
from loss import geocross  # noqa: E402
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


def many_tiles() -> float:
    """Pictures of several programs along and down, the last ones not full, numbers far from 0."""
    kernels, torch_kernels = cuda.TritonKernels(), TorchKernels()
    y = channels_last(torch.randn(2, 20, 13, 19)) + 100
    (programs, *_), strip, sizes = cuda._strips(y)
    along = -(-19 // sizes["PIXELS"])
    assert along > 1 and programs > along and 13 % strip and strip % 2 and 19 % sizes["PIXELS"]
    none, style = torch.zeros(20), torch.randn(2, 40)
    found = kernels.styled(y.clone(), none, none, None, True, style)
    expected = torch_kernels.styled(y.clone().double(), none, none, None, True, style.double())
    g, mean, rstd = y - 100, found[1], torch.rand(2, 20)
    of_style = [
        each.style_grad(of.to(dtype), x[0], mean.to(dtype), rstd.to(dtype), rstd.to(dtype))
        for each, of, x, dtype in (
            (kernels, g, found, torch.float32),
            (torch_kernels, g, expected, torch.float64),
        )
    ]
    pairs = [*zip(found[1:], expected[1:], strict=True), *zip(*of_style, strict=True)]
    given = mean, *torch.randn(4, 2, 20)

    def others(kernels, x, dtype) -> list[torch.Tensor]:
        mean, a, b, q, p = (each.to(dtype) for each in given)
        gradients = [
            kernels.leaky_grad(g.to(dtype, copy=True), x, mean, a, q, p, blur)
            for blur in (False, True)
        ]
        return [kernels.affine(x, mean, a, b, overwrite=False), *gradients]

    pairs += zip(
        others(kernels, found[0], torch.float32),
        others(torch_kernels, expected[0], torch.float64),
        strict=True,
    )
    return max(relative(one.double(), other.double()) for one, other in pairs)


def long_styles() -> float:
    """Of a w and layers of several programs each, the last ones not full."""
    sizes, d = (70, 6), 600
    first = torch.tensor([0, 70, 76], dtype=torch.int32)
    affine = Styles(torch.randn(76, d), torch.randn(76), sizes, first)
    exact = affine._replace(weight=affine.weight.double(), bias=affine.bias.double())
    w, grads = torch.randn(2, 2, d), [torch.randn(2, size) for size in sizes]
    kernels, torch_kernels = cuda.TritonKernels(), TorchKernels()
    whole, into = kernels.empty_style_grads(2, affine)
    for out, grad in zip(into, grads, strict=True):
        out.copy_(grad)
    found = [*kernels.styles(w, affine), kernels.styles_grad(whole, into, affine)]
    grads = [grad.double() for grad in grads]
    expected = torch_kernels.styles(w.double(), exact)
    expected.append(torch_kernels.styles_grad(None, grads, exact))
    return max(relative(one.double(), other) for one, other in zip(found, expected, strict=True))


def geocross_like_pytorchs() -> float:
    """Of layers that are random, nearly alike, alike and opposite: the largest relative difference
    of it and its gradient to PyTorch in float64.
    """
    worst, step = 0.0, cuda.TritonKernels().step
    alike, near = torch.randn(2, 1, 300), 1e-4 * torch.randn(2, 7, 300)
    sides = torch.tensor([1.0, -1.0, 1.0, -1.0, -1.0])[:, None]
    for w in (torch.randn(3, 18, 512), alike + near, alike.repeat(1, 5, 1), alike * sides):
        answers = []
        for function, x in ((step.geocross, w.clone()), (geocross, w.double())):
            found = function(x.requires_grad_())
            cotangent = torch.arange(1, len(w) + 1)
            answers.append((found.detach(), *torch.autograd.grad((found * cotangent).sum(), [x])))
        worst = max(worst, *(relative(*pair) for pair in zip(*answers, strict=True)))
    return worst


def downscaling_like_pytorchs() -> float:
    """As geocross_like_pytorchs: of a picture of two shares, and of as few pixels as can be."""
    worst, step = 0.0, cuda.TritonKernels().step
    for size, factor in ((160, 20), (4, 2), (54, 3), (132, 2)):
        HR, answers = torch.randn(2, 3, size, size) + 10, []
        cotangent = torch.randn(2, 3, size // factor, size // factor)
        for kernels, x in ((step, HR.clone()), (TorchStep(), HR.double())):
            found = kernels.downscale(factor)(x.requires_grad_())
            answers.append((found.detach(), *torch.autograd.grad((found * cotangent).sum(), [x])))
        worst = max(worst, *(relative(*pair) for pair in zip(*answers, strict=True)))
    return worst


def best_is_pytorchs() -> bool:
    """To the bit, for every case: within eps or not, now and before, lower, alike, higher and not a
    number, before and after the last that counts.
    """
    cases = [
        torch.tensor(case)
        for case in itertools.product(
            *((0.0, 0.5, 1.0, torch.nan), (False, True), (2, 3, 4)),
            *((0.0, 1.0, 2.0, torch.nan, torch.inf, -torch.inf),),
        )
    ]
    mse, was_within, last, total = torch.stack(cases).unbind(1)
    B, eps = len(cases), 0.5
    for more in (None, 0, 1, 5):
        ends, others = [], range(2, 12) if more is None else ()
        for step in (cuda.TritonKernels().step, TorchStep()):
            torch.manual_seed(0)
            best = {
                "total": torch.ones(B),
                "mse": torch.zeros(B),
                "GEOCROSS": torch.zeros(B),
                "step": torch.full((B,), -1),
                "within": was_within.bool(),
                "last": last.long(),
                **{n: torch.zeros(B, n) for n in others},
            }
            present = {n: torch.randn(B, n) for n in others}
            present |= {"total": total, "mse": mse, "GEOCROSS": torch.randn(B)}
            step.keep_best(best, present, torch.tensor([3]), eps, more, 6)
            ends.append(best)
        assert 0 < (ends[0]["step"] == 3).sum() < B
        for name, found in ends[0].items():
            if not torch.equal(found.nan_to_num(nan=-5), ends[1][name].nan_to_num(nan=-5)):
                return False
    return True


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
