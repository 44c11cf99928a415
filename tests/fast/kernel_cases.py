"""Cases in which the Triton kernels of cuda.py must agree with PyTorch, beyond those of
kernel_check.py.
"""

import itertools

import torch
from forms import relative

from fast import cuda
from fast.layers import Styles, channels_last
from fast.search_step import TorchStep
from fast.synthesis import TorchKernels
from loss import geocross


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
