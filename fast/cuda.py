"""cuda_kernels.py, cuda_backward.py and, for layers of few channels, cuda_convolution.py as Kernels
of synthesis.py: the compiled form on CUDA.

Triton compiles a kernel at its first launch, in about a second, and keeps it in its own cache
(~/.triton). Where it is missing or fails, or computes something else than PyTorch, the reason is
returned, and PyTorch's own operations are used; where only its convolutions do, cuDNN's are.
"""

from __future__ import annotations

import logging
from typing import NamedTuple

import torch
import triton
from torch import Tensor

from fast import cuda_backward, cuda_convolution, cuda_kernels
from fast.cuda_convolution import Packed, Tile, pack
from fast.device import first_line
from fast.kernel_check import first_wrong, first_wrong_convolution
from fast.precision import dtype_of
from fast.synthesis import Convolution, PictureGrad, TorchKernels, channels_last

TILE = 2048  # numbers that a program has in registers, of each thing: 16 for each of 128 threads
SMALL_TILE = 1024  # the same where it has many things
MOST_PROGRAMS = 1024  # along the pixels of a picture: so many partial sums are added up at once
FEWEST_ROWS = 4  # of a program: a blur reads one more above and one below

log = logging.getLogger("pulse")


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


class TritonConvolution:
    """A Convolution in tf32 or bfloat16, on tensor cores. `tile` and `tile_back`: of its programs,
    where it is not for default_tile to choose them.
    """

    def __init__(
        self, convolution: Convolution, tile: Tile | None = None, tile_back: Tile | None = None
    ):
        kernel, transposed = convolution.kernel, convolution.transposed
        if convolution.up:
            self.forward, self.back = pack(kernel, "up", tile), pack(kernel, "down", tile_back)
        else:
            self.forward, self.back = (
                pack(kernel, "same", tile),
                pack(transposed, "same", tile_back),
            )

    def convolve(self, x: Tensor) -> Tensor:
        return _convolved(x, self.forward)

    def convolve_back(self, g: Tensor) -> Tensor:
        return _convolved(g, self.back)


class TritonKernels(TorchKernels):
    """The Kernels of synthesis.py, on the GPU on which the pictures are."""

    formulation = "compiled"
    folds_range = True

    def __init__(self, convolves: bool = True):
        self.convolves = convolves  # where it can, rather than leave it to cuDNN

    def convolution(self, convolution, precision):
        """One of few channels in tf32 or bfloat16; all others are cuDNN's."""
        kernel = convolution.kernel
        forth_and_back = (kernel.shape[:2], kernel.shape[1::-1])
        served = all(cuda_convolution.serves(*each, kernel.dtype) for each in forth_and_back)
        if self.convolves and served and precision != "float32":
            return TritonConvolution(convolution)
        return convolution

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

    def coefficients(self, of_g, of_product, a, rstd, pixels):
        B, C = a.shape
        (grad_style,), (p, q) = _empty(a, 1, B, 2 * C), _empty(a, 2, B, C)
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


def _convolved(x: Tensor, packed: Packed) -> Tensor:
    out, grid, arguments, constants = cuda_convolution.launch(packed, channels_last(x))
    _launch(cuda_convolution.convolution, grid, *arguments, **constants)
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


def load(device: torch.device, precision: str) -> tuple[TritonKernels | None, str]:
    """The kernels, after each has computed a small picture in `precision` on `device` and PyTorch
    has agreed; or None and why. Triton keeps what it compiles in its own cache, ~/.triton: the
    first time takes some seconds.
    """
    kernels = TritonKernels()
    try:
        if (name := first_wrong(kernels, dtype_of(precision), device)) is not None:
            return None, f"{name} of Triton's kernels computes something else on this GPU"
    except Exception as error:  # no compiler, a GPU too old for it, a Triton too old for these
        return None, f"Triton failed: {first_line(error)}"
    try:
        name = first_wrong_convolution(kernels, precision, device)
        reason = f"{name} of Triton's computes something else on this GPU" if name else ""
    except Exception as error:  # also a GPU with less shared memory
        reason = f"Triton failed: {first_line(error)}"
    if reason:
        log.warning(f"cuDNN does all convolutions ({reason}): slower, and otherwise the same")
        kernels = TritonKernels(convolves=False)
    return kernels, ""
