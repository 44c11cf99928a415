"""cuda_kernels.py and cuda_backward.py as Kernels of synthesis.py: the compiled form on CUDA.

Triton compiles a kernel at its first launch, in about a second, and keeps it in its own cache
(~/.triton). Where it is missing or fails, or computes something else than PyTorch, the reason is
returned, and PyTorch's own operations are used.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fast import cuda_backward, cuda_kernels, cuda_step
from fast.device import first_line
from fast.kernel_check import first_wrong
from fast.synthesis import PictureGrad, TorchKernels, channels_last

TILE = 2048  # numbers that a program has in registers, of each thing: 16 for each of 128 threads
SMALL_TILE = 1024  # the same where it has many things
MOST_PROGRAMS = 1024  # along the pixels of a picture: so many partial sums are added up at once
FEWEST_ROWS = 4  # of a program: a blur reads one more above and one below


class Activation(NamedTuple):
    """x = LeakyReLU(blur(y) + bias + weight·noise) as the kernels take it: y, and how to make x of
    it. The noise must be the same in backward as in forward.
    """

    y: Tensor
    bias: Tensor
    weight: Tensor
    noise: Tensor | None
    blur: bool

    @property
    def shape(self) -> torch.Size:
        return self.y.shape

    @property
    def arguments(self) -> tuple[Tensor | None, ...]:
        """Of a kernel."""
        return self[:4]

    @property
    def kind(self) -> dict[str, int | bool]:
        """Which form of a kernel."""
        return {"BLUR": int(self.blur), "NOISE": self.noise is not None}


class TritonKernels(TorchKernels):
    """The Kernels of synthesis.py, on the GPU on which the pictures are."""

    formulation = "compiled"
    folds_range = True

    def __init__(self):
        self.step = cuda_step.StepKernels(_launch)

    def styles(self, w, affine):
        (B, L, d), w = w.shape, w.contiguous()
        whole, out = self.empty_style_grads(B, affine)
        rows = 8
        grid = (triton.cdiv(max(affine.sizes), rows), L, B)
        given = w, affine.weight, affine.bias, affine.first, whole
        _launch(cuda_step.styles, grid, *given, d, ROWS=rows, BLOCK=512)
        return out

    def empty_style_grads(self, B, affine):
        """Layer after layer, each (B, 2C), in one tensor: as `styles` lie, too."""
        whole = _empty(affine.weight, B * len(affine.weight))
        parts = whole.split([B * size for size in affine.sizes])
        return whole, [part.view(B, -1) for part in parts]

    def styles_grad(self, whole, grads, affine):
        (N, d), L = affine.weight.shape, len(affine.sizes)
        B, rows = len(whole) // N, 32
        programs = triton.cdiv(max(affine.sizes), rows)
        parts, out = _empty(whole, B, L, programs, d), _empty(whole, B, L, d)
        tile = {"ROWS": rows, "BLOCK": 128}
        given = whole, affine.weight, affine.first, parts
        grid = (programs * triton.cdiv(d, 128), L, B)
        _launch(cuda_step.style_grads, grid, *given, d, programs, **tile)
        many = {"ROWS": rows, "PROGRAMS": max(_power_of_two(programs), 32), "BLOCK": 32}
        grid = (triton.cdiv(d, 32), L, B)
        _launch(cuda_step.added_style_grads, grid, parts, affine.first, out, d, programs, **many)
        return out

    def leaky(self, y, bias, weight, noise, blur):
        noise = None if noise is None else noise.contiguous()
        x = Activation(channels_last(y), bias, weight, noise, blur)
        (B, C, rows, width), (grid, strip, tile) = y.shape, _strips(y)
        programs = grid[0]
        means, squares = _empty(y, 2, B, programs, C)
        arguments = (*x.arguments, means, squares, rows, width, C, strip)
        _launch(cuda_kernels.statistics, grid, *arguments, **x.kind, **tile)
        mean, variance = _empty(y, 2, B, C)
        arguments = (means, squares, mean, variance, rows, width, C, strip, tile["PIXELS"])
        many = {"PROGRAMS": _power_of_two(programs), "CHANNELS": 16}
        _launch(cuda_kernels.moments, (triton.cdiv(C, 16), B), *arguments, programs, **many)
        return x, mean, variance

    def style(self, mean, variance, style):
        B, C = mean.shape
        rstd, a, b = _empty(style, 3, B, C)
        given = style.contiguous(), variance
        _launch(cuda_kernels.style, (triton.cdiv(C, 256), B), *given, rstd, a, b, C, BLOCK=256)
        return rstd, a, b

    def affine(self, x, mean, a, b, overwrite):
        out = x.y if overwrite and not x.blur else torch.empty_like(x.y)
        grid, strip, tile = _strips(x)
        y, *others = x.arguments
        arguments = (y, out, *others, mean, a, b, *_sizes(x), strip)
        _launch(cuda_kernels.affine, grid, *arguments, **x.kind, **tile)
        return out

    def picture(self, x, mean, a, b, weight, bias, overwrite):
        if x.blur:
            raise ValueError("a picture is made of a layer that does not blur, as the last one is")
        B, C, rows, width = x.shape
        tile = {"PIXELS": TILE // _channels(C), "CHANNELS": _channels(C)}
        out = torch.empty(B, 3, rows, width, device=x.y.device)
        y, *others = x.arguments
        arguments = (y, out, *others, mean, a, b, weight, bias, rows * width, C)
        grid = (triton.cdiv(rows * width, tile["PIXELS"]), B)
        noise = x.noise is not None
        _launch(cuda_kernels.picture, grid, *arguments, NOISE=noise, **tile)
        return out

    def picture_grad(self, grad, weight, dtype):
        return PictureGrad(grad.contiguous(), weight)

    def sums(self, g, x, mean):
        (B, C, *_), (grid, strip, tile) = x.shape, _strips(x)
        programs = grid[0]
        sums, (found,) = _empty(mean, 2 * B, programs, C), _empty(mean, 1, 2, B, C)
        given, kind = _parts(g)
        arguments = (*given, *x.arguments, mean, sums, *_sizes(x), strip)
        _launch(cuda_backward.sums, grid, *arguments, **x.kind, **kind, **tile)
        many = {"PROGRAMS": _power_of_two(programs), "CHANNELS": 16}
        grid = (triton.cdiv(C, 16), 2 * B)
        _launch(cuda_backward.added, grid, sums, found, C, programs, **many)
        return found[0], found[1]

    def coefficients(self, of_g, of_product, a, rstd, pixels, out=None):
        B, C = a.shape
        p, q = _empty(a, 2, B, C)
        grad_style = _empty(a, B, 2 * C) if out is None else out
        given = of_g, of_product, a, rstd, grad_style, p, q
        grid = (triton.cdiv(C, 256), B)
        _launch(cuda_backward.coefficients, grid, *given, C, pixels, BLOCK=256)
        return grad_style, p, q

    def leaky_grad(self, g, x, mean, a, q, p, blur):
        """`blur` only of an x that is blurred."""
        given, kind = _parts(g)
        out = given[0] if not blur and not kind["OF_PICTURE"] else torch.empty_like(x.y)
        kernel, kind = cuda_backward.leaky_grad, kind | x.kind
        grid, strip, tile = _strips(x)
        if blur:
            if not kind.pop("BLUR"):
                raise ValueError("only the gradient of an activation that is blurred is blurred")
            kernel = cuda_backward.blurred_leaky_grad
            grid, strip, tile = _strips(x, SMALL_TILE)
        arguments = (*given, *x.arguments, out, mean, a, q, p, *_sizes(x), strip)
        _launch(kernel, grid, *arguments, **kind, **tile)
        return out

    def blur(self, y):
        y = channels_last(y)
        out = torch.empty_like(y)
        grid, strip, tile = _strips(y)
        _launch(cuda_backward.blur, grid, y, out, *_sizes(y), strip, **tile)
        return out


def _power_of_two(n: int) -> int:
    return max(triton.next_power_of_2(n), 1)


def _channels(C: int) -> int:
    """CHANNELS of a program: neighbours in memory first."""
    return min(max(_power_of_two(C), 16), 64)


def _sizes(x: Tensor | Activation) -> tuple[int, int, int]:
    """rows, width and C, as the kernels take them."""
    _, C, rows, width = x.shape
    return rows, width, C


def _strips(
    x: Tensor | Activation, tile: int = TILE
) -> tuple[tuple[int, int, int], int, dict[str, int]]:
    """The grid of programs, at most MOST_PROGRAMS for a picture and some of its channels; the rows
    of each; its columns and channels. It does not depend on the number of pictures, nor does what a
    sum is added up of.
    """
    B, C, rows, width = x.shape
    channels = _channels(C)
    pixels = min(_power_of_two(width), tile // channels)
    across = triton.cdiv(width, pixels)
    strip = max(triton.cdiv(rows, max(MOST_PROGRAMS // across, 1)), FEWEST_ROWS)
    grid = (across * triton.cdiv(rows, strip), triton.cdiv(C, channels), B)
    return grid, strip, {"PIXELS": pixels, "CHANNELS": channels}


def _parts(g: Tensor | PictureGrad) -> tuple[tuple[Tensor, Tensor | None], dict[str, bool]]:
    """The arguments g and to_rgb of the kernels, and which of their two forms that is."""
    of_picture = isinstance(g, PictureGrad)
    return (g.grad, g.weight) if of_picture else (channels_last(g), None), {
        "OF_PICTURE": of_picture
    }


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.float32, device=like.device)


def _launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)


def load(device: torch.device) -> tuple[TritonKernels | None, str]:
    """The kernels, after each has computed a small picture on `device` and PyTorch has agreed; or
    None and why. Triton keeps what it compiles in its own cache, ~/.triton: the first time takes
    some seconds.
    """
    kernels = TritonKernels()
    try:
        for dtype in (torch.float32, torch.bfloat16):
            if (name := first_wrong(kernels, dtype, device)) is not None:
                return None, f"{name} of Triton's kernels computes something else on this GPU"
    except Exception as error:  # no compiler, a GPU too old for it, a Triton too old for these
        return None, f"Triton failed: {first_line(error)}"
    return kernels, ""
