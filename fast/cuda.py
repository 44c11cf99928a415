"""cuda_kernels.py as Kernels of synthesis.py: the compiled form on CUDA.

Triton compiles a kernel at its first launch, in about a second, and keeps it in its own cache
(~/.triton). Where it is missing or fails, or computes something else than PyTorch, the reason is
returned, and PyTorch's own operations are used.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from fast import cuda_kernels
from fast.device import first_line
from fast.kernel_check import first_wrong
from fast.synthesis import PictureGrad, TorchKernels, channels_last

TILE = 4096  # numbers that a program has in registers: 32 for each of its 128 threads
MOST_PROGRAMS = 1024  # along the pixels of a picture: so many partial sums are added up at once


class TritonKernels(TorchKernels):
    """The Kernels of synthesis.py, on the GPU on which the pictures are."""

    formulation = "compiled"

    def leaky(self, y, bias, weight, noise, blur):
        y = channels_last(y)
        x = torch.empty_like(y) if blur else y
        B, C, rows, width = y.shape
        tile, programs, tiles = _division(rows * width, C)
        means, squares = _empty(y, 2, B, programs, C)
        noise = None if noise is None else noise.contiguous()
        arguments = (y, x, bias, weight, noise, means, squares, rows, width, C, tiles)
        grid = (programs, _blocks(C, tile), B)
        _launch(cuda_kernels.leaky, grid, *arguments, NOISE=noise is not None, BLUR=blur, **tile)
        mean, variance = _empty(y, 2, B, C)
        pixels, many = tiles * tile["PIXELS"], _power_of_two(programs)
        arguments = (means, squares, mean, variance, rows * width, C, programs, pixels)
        _launch(
            cuda_kernels.moments, (triton.cdiv(C, 16), B), *arguments, PROGRAMS=many, CHANNELS=16
        )
        return x, mean, variance

    def style(self, mean, variance, style):
        B, C = mean.shape
        rstd, a, b = _empty(style, 3, B, C)
        given = style.contiguous(), variance
        _launch(cuda_kernels.style, (triton.cdiv(C, 256), B), *given, rstd, a, b, C, BLOCK=256)
        return rstd, a, b

    def affine(self, x, mean, a, b, overwrite):
        out = x if overwrite else torch.empty_like(x)
        B, C, P, tile, grid = _tiles(x)
        _launch(cuda_kernels.affine, grid, x, out, mean, a, b, P, C, **tile)
        return out

    def picture(self, x, mean, a, b, weight, bias, overwrite):
        B, C, P, tile, grid = _tiles(x)
        out = torch.empty(B, 3, *x.shape[2:], device=x.device)
        _launch(cuda_kernels.picture, (grid[0], B), x, out, mean, a, b, weight, bias, P, C, **tile)
        return out

    def picture_grad(self, grad, weight, dtype):
        return PictureGrad(grad.contiguous(), weight)

    def sums(self, g, x, mean):
        B, C, rows, width = x.shape
        tile, programs, tiles = _division(rows * width, C)
        sums, (found,) = _empty(x, 2 * B, programs, C), _empty(x, 1, 2, B, C)
        given, kind = _parts(g)
        arguments = (*given, x, mean, sums, rows * width, C, tiles)
        _launch(cuda_kernels.sums, (programs, _blocks(C, tile), B), *arguments, **kind, **tile)
        many = _power_of_two(programs)
        grid = (triton.cdiv(C, 16), 2 * B)
        _launch(cuda_kernels.added, grid, sums, found, C, programs, PROGRAMS=many, CHANNELS=16)
        return found[0], found[1]

    def coefficients(self, of_g, of_product, a, rstd, pixels):
        B, C = a.shape
        (grad_style,), (p, q) = _empty(a, 1, B, 2 * C), _empty(a, 2, B, C)
        given = of_g, of_product, a, rstd, grad_style, p, q
        _launch(cuda_kernels.coefficients, (triton.cdiv(C, 256), B), *given, C, pixels, BLOCK=256)
        return grad_style, p, q

    def leaky_grad(self, g, x, mean, a, q, p, blur):
        B, C, P, tile, grid = _tiles(x)
        given, kind = _parts(g)
        out = given[0] if not blur and not kind["OF_PICTURE"] else torch.empty_like(x)
        arguments = (*given, x, out, mean, a, q, p, *x.shape[2:], C)
        _launch(cuda_kernels.leaky_grad, grid, *arguments, BLUR=blur, **kind, **tile)
        return out

    def blur(self, y):
        y = channels_last(y)
        B, C, P, tile, grid = _tiles(y)
        out = torch.empty_like(y)
        _launch(cuda_kernels.blur, grid, y, out, *y.shape[2:], C, **tile)
        return out


def _power_of_two(n: int) -> int:
    return max(triton.next_power_of_2(n), 1)


def _tile(C: int) -> dict[str, int]:
    """PIXELS and CHANNELS of a tile: neighbours in memory first."""
    channels = min(max(_power_of_two(C), 16), 64)
    return {"PIXELS": TILE // channels, "CHANNELS": channels}


def _blocks(C: int, tile: dict[str, int]) -> int:
    return triton.cdiv(C, tile["CHANNELS"])


def _tiles(x: Tensor) -> tuple[int, int, int, dict[str, int], tuple[int, int, int]]:
    """B, C, P of pictures, the tile, and a program for each tile."""
    B, C, rows, width = x.shape
    tile = _tile(C)
    grid = (triton.cdiv(rows * width, tile["PIXELS"]), _blocks(C, tile), B)
    return B, C, rows * width, tile, grid


def _division(P: int, C: int) -> tuple[dict[str, int], int, int]:
    """The tile, at most MOST_PROGRAMS programs along P pixels, and how many tiles each takes."""
    tile = _tile(C)
    tiles = triton.cdiv(triton.cdiv(P, tile["PIXELS"]), MOST_PROGRAMS)
    return tile, triton.cdiv(P, tile["PIXELS"] * tiles), tiles


def _parts(g: Tensor | PictureGrad) -> tuple[tuple[Tensor, Tensor | None], dict[str, bool]]:
    """The arguments g and weight of the kernels, and which of their two forms that is."""
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
