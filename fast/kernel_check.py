"""Do compiled kernels compute what PyTorch does? A compiler, a driver or a file in a cache may be
broken: it is asked before they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fast.layers import Convolution, Styles, channels_last
from fast.precision import convolutions_in, dtype_of
from fast.search_step import TorchStep
from fast.synthesis import Kernels, TorchKernels


def first_difference(
    kernels: object,
    reference: object,
    answers: Callable[..., dict[str, tuple[Tensor, ...]]],
    cases: Sequence[tuple],
    dtype: torch.dtype,
) -> str | None:
    """The first function of `kernels` whose results, for pictures of `dtype`, differ from those of
    `reference` in float32 by more than rounding; None where all agree.

    answers(kernels, dtype, like, *case): what each function makes, in `dtype`, of the same small
    pictures, which are of `like`.
    """
    close = 1e-4 if dtype == torch.float32 else 2e-2  # bfloat16 has 8 bits
    for case in cases:
        expected = answers(reference, torch.float32, dtype, *case)
        for name, found in answers(kernels, dtype, dtype, *case).items():
            for one, other in zip(found, expected[name], strict=True):
                size = other.abs().max().item()
                if not torch.allclose(one.float(), other.float(), rtol=close, atol=close * size):
                    return name
    return None


def first_wrong(
    kernels: Kernels, dtype: torch.dtype, device: torch.device | str = "cpu"
) -> str | None:
    """`first_difference` of kernels for StyleGAN1, on `device`."""
    cases = [(16, False), (16, True), (5, False), (5, True), (80, True)]
    answers = partial(_answers, device=device)
    wrong = first_difference(kernels, TorchKernels(), answers, cases, dtype)
    return wrong or first_wrong_of_step(kernels.step, device)


def first_wrong_of_step(step: TorchStep, device: torch.device | str = "cpu") -> str | None:
    """The same of what the search computes beside the network."""
    answers = partial(_answers_of_step, device=device)
    return first_difference(step, TorchStep(), answers, [(1,), (3,)], torch.float32)


def _answers_of_step(
    step: TorchStep, dtype: torch.dtype, like: torch.dtype, B: int, device: torch.device | str
) -> dict[str, tuple[Tensor, ...]]:
    """What each function for the search makes of the same small tensors, in float32."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device)

    rows = [normal(B, 3, 48), normal(B, 1, 40, 40)]
    for each in rows:
        step.to_sphere(each, normal(B, each.shape[1], *[1] * (each.ndim - 2)))

    w = normal(B, 3, 208)
    w[:, 1] = w[:, 0] + 1e-3 * w[:, 1]
    w.requires_grad_()
    with torch.enable_grad():
        crossed = step.geocross(w)
        (of_w,) = torch.autograd.grad((crossed * normal(B)).sum(), [w])

    kept = []
    for more in (None, 2):
        best = {
            "total": normal(B),
            "mse": normal(B),
            "GEOCROSS": normal(B),
            "step": torch.zeros(B, dtype=torch.int64, device=device),
            "within": normal(B) > 0.5,
            "last": (5 * normal(B)).long() + 4,
            **{i: normal(B, n) for i, n in enumerate([3008, *range(16, 144, 16)])},
        }
        own = ("step", "within", "last")
        present = {name: normal(*x.shape) for name, x in best.items() if name not in own}
        present["total"][B // 2] = torch.inf if B > 1 else -2
        best["within"][0], best["last"][0], present["mse"][0] = False, 9, 0.0
        number = torch.full((1,), 3, device=device)
        step.keep_best(best, present, number, 0.1, more, 4)
        kept += best.values()

    HR = normal(B, 1, 160, 160).requires_grad_()
    with torch.enable_grad():
        LR = step.downscale(16)(HR)
        (of_HR,) = torch.autograd.grad((LR * normal(*LR.shape)).sum(), [HR])

    return {
        "downscale": (LR.detach(), of_HR),
        "to_sphere": tuple(rows),
        "geocross": (crossed.detach(), of_w),
        "keep_best": tuple(each.float() for each in kept),
    }


# (in, out, whether it is `up`): those of few channels that a network may have, and some of many,
# whose few pixels are split into shares of several products each, as FFHQ's are
CONVOLUTIONS = [(16, 16, False), (16, 16, True), (32, 16, True), (32, 32, False), (32, 32, True)]
CONVOLUTIONS += [(256, 256, False), (256, 256, True)]


def first_wrong_convolution(
    kernels: Kernels, precision: str, device: torch.device | str = "cpu"
) -> str | None:
    """The first convolution that `kernels` do not leave to PyTorch in `precision` and that differs
    from PyTorch's in float32 by more than rounding; None where all agree.
    """
    dtype, device = dtype_of(precision), torch.device(device)
    close = 2e-2 if dtype == torch.bfloat16 else 2e-3  # 8 bits and, in tf32, 11
    random = torch.Generator().manual_seed(0)
    for fan_in, fan_out, up in CONVOLUTIONS:
        shape = (fan_in, fan_out, 4, 4) if up else (fan_out, fan_in, 3, 3)
        kernel = torch.randn(*shape, generator=random).to(device, dtype)
        given, expected = Convolution(kernel, up), Convolution(kernel.float(), up)
        if (found := kernels.convolution(given, precision)) is given:
            continue
        for name, C in (("convolve", fan_in), ("convolve_back", fan_out)):
            # of several programs along and down, the last ones not full; or of few pixels
            size = (6, 264) if max(fan_in, fan_out) <= 64 else (4, 12)
            x = channels_last(torch.randn(1, C, *size, generator=random).to(device, dtype))
            with convolutions_in("float32", device):
                right = getattr(expected, name)(x.float())
            with convolutions_in(precision, device):
                y = getattr(found, name)(x)
            size = right.abs().max().item()
            if y.shape != right.shape or not torch.allclose(y.float(), right, close, close * size):
                return f"{name} ({fan_in} to {fan_out} channels)"
    return None


def _answers(
    kernels: Kernels,
    dtype: torch.dtype,
    like: torch.dtype,
    channels: int,
    blur: bool,
    device: torch.device | str,
) -> dict[str, tuple[Tensor, ...]]:
    """What each function makes, in `dtype`, of the same small pictures, which are of `like`."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random).to(device)

    y, g = (channels_last(normal(1, channels, 16, 16)).to(like).to(dtype) for _ in range(2))
    mean, a, b, c = normal(4, 1, channels)
    noise, grad = normal(1, 1, 16, 16), normal(1, 3, 16, 16)
    weight, bias = normal(3, channels), normal(3)
    style, rstd = normal(1, 2 * channels), normal(1, channels).square()
    x, *of_style = kernels.styled(y.clone(), a[0], b[0], noise, blur, style)
    last = x if not blur else kernels.styled(y.clone(), a[0], b[0], noise, False, style)[0]
    zero, one = torch.zeros_like(a), torch.ones_like(a)

    def gradients() -> list:  # again, since they may be overwritten
        return [g.clone(), kernels.picture_grad(grad, weight, dtype)]

    layers = torch.tensor([0, 2 * channels, 2 * channels + 4], dtype=torch.int32, device=device)
    rows = int(layers[-1])
    affine = Styles(normal(rows, 48), normal(rows), (2 * channels, 4), layers)
    whole, into = kernels.empty_style_grads(2, affine)
    of_styles = []
    for size, out in zip(affine.sizes, into, strict=True):
        given = torch.randn(2, size, generator=random).to(device)
        of_styles.append(given if out is None else out.copy_(given))

    return {
        "styled": (kernels.affine(x, zero, one, zero, overwrite=False), *of_style),
        "styles": tuple(kernels.styles(normal(2, 2, 48), affine)),
        "styles_grad": (kernels.styles_grad(whole, of_styles, affine),),
        "affine": (kernels.affine(x, mean, a, b, overwrite=False),),
        "picture": (kernels.picture(last, mean, a, b, weight, bias, overwrite=False),),
        "style_grad": sum((kernels.style_grad(each, x, mean, a, rstd) for each in gradients()), ()),
        "leaky_grad": tuple(
            kernels.leaky_grad(each, x, mean, a, b, c, blurred)
            for blurred in ([False, True] if blur else [False])
            for each in gradients()
        ),
        "noise_grad": (kernels.noise_grad(g, b[0]),),
        "blur": (kernels.blur(y),),
    }
