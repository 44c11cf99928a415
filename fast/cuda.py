"""cuda_kernels.py, cuda_backward.py, cuda_step.py and, for layers of few channels or few pixels,
cuda_convolution.py and cuda_few_pixels.py as Kernels of synthesis.py: the compiled form on CUDA.

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

from cli.errors import is_mistake
from fast import cuda_backward, cuda_convolution, cuda_few_pixels, cuda_kernels, cuda_step
from fast.cuda_convolution import Packed, Tile, pack, rounded_to_tf32
from fast.device import first_line
from fast.kernel_check import first_wrong, first_wrong_convolution
from fast.layers import Convolution, channels_last
from fast.precision import dtype_of
from fast.synthesis import PictureGrad, TorchKernels

# Measured on an H200 (docs/performance.md). The last bits of results depend on them, never on the
# number of pictures.
TILE = 1024  # numbers that a program has in registers, of each thing: 8 for each of 128 threads
TILE_OF_GRADIENTS = 512  # the same where it has many things
LARGE = 128  # pixels of a side
ROWS_OF_LARGE, ROWS = 8, 4  # of a program, for a large picture and others; a blur reads two more

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


class FewPixels(Convolution):
    """A Convolution in tf32 or bfloat16 of which that of few pixels is split among programs."""

    def __init__(self, convolution: Convolution):
        self.up, self.kernel = convolution.up, rounded_to_tf32(convolution.kernel)
        self.transposed = None if self.up else rounded_to_tf32(convolution.transposed)

    def convolve(self, x: Tensor) -> Tensor:
        kind = cuda_few_pixels.UP if self.up else cuda_few_pixels.SAME
        y = _of_few_pixels(x, self.kernel, kind)
        return super().convolve(x) if y is None else y

    def convolve_back(self, g: Tensor) -> Tensor:
        kind = cuda_few_pixels.DOWN if self.up else cuda_few_pixels.SAME
        y = _of_few_pixels(g, self.kernel if self.up else self.transposed, kind)
        return super().convolve_back(g) if y is None else y


class TritonKernels(TorchKernels):
    """The Kernels of synthesis.py, on the GPU on which the pictures are."""

    formulation = "compiled"
    folds_range = True

    def __init__(self, convolves: bool = True):
        self.convolves = convolves  # where it can, rather than leave it to cuDNN
        self.step = cuda_step.StepKernels(_launch)

    def convolution(self, convolution, precision):
        """In tf32 or bfloat16, one of few channels or of few pixels; all others are cuDNN's."""
        if not self.convolves or precision == "float32":
            return convolution
        kernel = convolution.kernel
        fan_in, fan_out = kernel.shape[:2] if convolution.up else kernel.shape[1::-1]
        if fan_out > fan_in:  # which no StyleGAN has, and the check at loading does not try
            return convolution
        forth_and_back = (kernel.shape[:2], kernel.shape[1::-1])
        if all(cuda_convolution.serves(*each, kernel.dtype) for each in forth_and_back):
            return TritonConvolution(convolution)
        return FewPixels(convolution) if cuda_few_pixels.serves(*kernel.shape[:2]) else convolution

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

    def styled(self, y, bias, weight, noise, blur, style):
        noise = None if noise is None else noise.contiguous()
        x = Activation(channels_last(y), bias, weight, noise, blur)
        (B, C, rows, width), (grid, strip, tile) = y.shape, _strips(y)
        means, squares = _empty(y, 2, B, grid[0], C)
        arguments = (*x.arguments, means, squares, rows, width, C, strip)
        _launch(cuda_kernels.statistics, grid, *arguments, **x.kind, **tile)
        found = _empty(y, 4, B, C)
        arguments = (means, squares, style.contiguous(), *found, rows, width, C, strip)
        _add_up(cuda_kernels.moments, x, grid[0], *arguments, tile["PIXELS"])
        return x, *found

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

    def style_grad(self, g, x, mean, a, rstd, out=None):
        (B, C, rows, width), (grid, strip, tile) = x.shape, _strips(x, TILE_OF_GRADIENTS)
        sums, (p, q) = _empty(mean, 2 * B, grid[0], C), _empty(mean, 2, B, C)
        grad_style = _empty(mean, B, 2 * C) if out is None else out
        given, kind = _parts(g)
        arguments = (*given, *x.arguments, mean, sums, *_sizes(x), strip)
        _launch(cuda_backward.sums, grid, *arguments, **x.kind, **kind, **tile)
        given = sums, a, rstd, grad_style, p, q, C, rows * width
        _add_up(cuda_backward.added, x, grid[0], *given)
        return grad_style, p, q

    def leaky_grad(self, g, x, mean, a, q, p, blur):
        """`blur` only of an x that is blurred."""
        given, kind = _parts(g)
        if blur and not x.blur:
            raise ValueError("only the gradient of an activation that is blurred is blurred")
        one_by_one = x.shape[2] >= LARGE and x.y.dtype == torch.bfloat16  # then quicker
        if blur and one_by_one:
            return self.blur(self.leaky_grad(g, x, mean, a, q, p, False))
        in_place = not blur and not kind["OF_PICTURE"]
        out = given[0] if in_place else torch.empty_like(x.y)
        grid, strip, tile = _strips(x, TILE_OF_GRADIENTS)
        arguments = (*given, *x.arguments, out, mean, a, q, p, *_sizes(x), strip)
        if blur:
            kind["NOISE"] = x.noise is not None
            _launch(cuda_backward.blurred_leaky_grad, grid, *arguments, **kind, **tile)
        else:
            _launch(cuda_backward.leaky_grad, grid, *arguments, **kind, **x.kind, **tile)
        return out

    def noise_grad(self, g, weight):
        g = channels_last(g)
        B, C, rows, width = g.shape
        out = torch.empty(B, 1, rows, width, device=g.device)
        tile = {"PIXELS": 16, "CHANNELS": 64}
        grid = (triton.cdiv(rows * width, 16), B)
        _launch(cuda_backward.noise_grad, grid, g, weight, out, rows * width, C, **tile)
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


def _of_few_pixels(x: Tensor, kernel: Tensor, kind: int) -> Tensor | None:
    """None where there are many."""
    many = cuda_few_pixels.shares_of(x, kernel, kind)
    if many == 1:
        return None
    out, launches = cuda_few_pixels.launches(channels_last(x), kernel, kind, many)
    for of, grid, arguments, constants in launches:
        _launch(of, grid, *arguments, **constants)
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
    x: Tensor | Activation, tile: int | None = None
) -> tuple[tuple[int, int, int], int, dict[str, int]]:
    """The grid of programs; the rows of each; its columns and channels, of `tile` numbers or TILE.
    It does not depend on the number of pictures, nor does what a sum is added up of.
    """
    B, C, rows, width = x.shape
    channels = _channels(C)
    pixels = min(_power_of_two(width), (tile or TILE) // channels)
    strip = ROWS_OF_LARGE if rows >= LARGE else ROWS
    programs = triton.cdiv(width, pixels) * triton.cdiv(rows, strip)
    grid = (programs, triton.cdiv(C, channels), B)
    return grid, strip, {"PIXELS": pixels, "CHANNELS": channels}


def _parts(g: Tensor | PictureGrad) -> tuple[tuple[Tensor, Tensor | None], dict[str, bool]]:
    """The arguments g and to_rgb of the kernels, and which of their two forms that is."""
    of_picture = isinstance(g, PictureGrad)
    return (g.grad, g.weight) if of_picture else (channels_last(g), None), {
        "OF_PICTURE": of_picture
    }


def _empty(like: Tensor, *shape: int) -> Tensor:
    return torch.empty(*shape, dtype=torch.float32, device=like.device)


def _add_up(kernel, x: Activation, programs: int, *arguments) -> None:
    """Launch a kernel that adds up what so many programs have found of each picture of x."""
    B, C, *_ = x.shape
    many = {
        "PROGRAMS": _power_of_two(programs),
        "CHANNELS": 8,
        "num_warps": 4 + 4 * (programs > 256),
    }
    _launch(kernel, (triton.cdiv(C, 8), B), *arguments, programs, **many)


def _launch(kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
    with torch.cuda.device_of(arguments[0]):
        kernel[grid](*arguments, **constants)


def load(device: torch.device, precision: str) -> tuple[TritonKernels | None, str]:
    """The kernels, after each has computed a small picture in `precision` on `device` and PyTorch
    has agreed; or None and why. Triton keeps what it compiles in its own cache, ~/.triton: the
    first time takes a quarter of a minute.
    """
    kernels = TritonKernels()
    try:
        if (name := first_wrong(kernels, dtype_of(precision), device)) is not None:
            return None, f"{name} of Triton's kernels computes something else on this GPU"
    except Exception as error:  # no compiler, a GPU too old for it, a Triton too old for these
        if is_mistake(error):
            raise
        return None, f"Triton failed: {first_line(error)}"
    try:
        name = first_wrong_convolution(kernels, precision, device)
        reason = f"{name} of Triton's computes something else on this GPU" if name else ""
    except Exception as error:  # also a GPU with less shared memory
        if is_mistake(error):
            raise
        reason = f"Triton failed: {first_line(error)}"
    if reason:
        log.warning(f"cuDNN does all convolutions ({reason}): slower, and otherwise the same")
        kernels = TritonKernels(convolves=False)
    return kernels, ""
