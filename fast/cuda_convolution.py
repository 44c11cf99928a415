"""Convolutions of few channels on a GPU's tensor cores, in one Triton kernel. cuda.py launches it.

Pictures are channels last, (B, rows, width, C) in memory: neighbouring pixels of a row, with all
their channels, are one run of numbers. `pixels` neighbours of the input are a position; its window
is these and one pixel more on either side. All that a row of the input gives to a row of the output
is then one matrix product for each row of the kernel (a tap),

    window (positions, 4·C) · weight[tap] (4·C, N)

where N numbers of the output, again neighbours in memory, belong to a position: those of as many
pixels, of twice as many (a transposed convolution of stride 2) or of half as many (its gradient).
Where a pixel of the window is not used by a pixel of the output, the weight is 0.

A program has some positions, some of the N numbers and a strip of rows. It goes down row by row,
has all its weights at hand, and reads each row of the input once: what the row gives to several
rows of the output is added to as many sums. Nothing is added in an order that is left to chance,
and no number depends on how a picture is divided among programs.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

WINDOW = 4  # pixels
# Of both sides together; with more, cuDNN has enough work for its tiles (measured on an H200).
MOST_CHANNELS = 64
MOST_BYTES = 192  # of that many numbers
MOST_WEIGHTS = 64 * 1024  # bytes, of a program, which keeps them in shared memory
MOST_SHARED = 98 * 1024  # bytes, with its windows: GPUs have 99 KiB for a program,
LARGE_SHARED = 132 * 1024  # those of data centres more
PROGRAMS = 264  # wanted, of all pictures: on an H200, of 132 multiprocessors, quicker than more
FEWEST_ROWS = 4  # of a program, of the steps that it goes down: two more are read


class Tile(NamedTuple):
    """Of a program. pixels: of the input, that are one position: 1 or 2, always 2 where the output
    is half as large. columns: of the N numbers, a power of two that divides N.
    """

    pixels: int
    positions: int
    columns: int
    warps: int
    stages: int  # 1: windows are read through the cache; more: so many rows are under way at once


class Packed(NamedTuple):
    """A convolution's weights as the kernel takes them: (taps, N, 4·C), and what it is."""

    weight: Tensor
    C: int
    OUT: int  # channels
    kind: str  # same, up or down
    tile: Tile

    @property
    def numbers(self) -> int:
        """N."""
        return self.weight.shape[1]


def default_tile(kind: str, C: int, OUT: int, itemsize: int, shared: int = MOST_SHARED) -> Tile:
    """itemsize: bytes of a number. As many columns at once as the `shared` memory has room for,
    since each program reads all of its windows; then as many stages.
    """
    pixels = 2 if kind == "down" or C * itemsize <= 64 else 1
    positions = 128 if kind == "same" and C * itemsize <= 32 else 64
    windows = positions * WINDOW * C * itemsize * (2 if kind == "down" else 1)
    column = (3 if kind == "same" else 4) * WINDOW * C * itemsize
    columns = min(_numbers(kind, OUT, pixels), 64)
    most = min(MOST_WEIGHTS, shared - windows)
    while columns > 16 and columns * column > most:
        columns //= 2
    stages = min(max((shared - columns * column) // windows, 1), 3)
    warps = 8 if positions * WINDOW * C * itemsize > 16 * 1024 else 4
    return Tile(pixels, positions, columns, warps, stages)


def serves(C: int, OUT: int, dtype: torch.dtype) -> bool:
    """Whether the kernel takes a convolution of C to OUT channels, of pictures of `dtype`."""
    powers = all(each >= 16 and each & (each - 1) == 0 for each in (C, OUT))
    return powers and C + OUT <= MOST_CHANNELS and (C + OUT) * dtype.itemsize <= MOST_BYTES


def pack(kernel: Tensor, kind: str, tile: Tile | None = None) -> Packed:
    """A kernel (OUT, C, 3, 3) of `same`, (C, OUT, 4, 4) of `up`, (OUT, C, 4, 4) of `down`, as
    F.conv2d and F.conv_transpose2d take them, with padding 1; stride 2 for the latter two.
    """
    if kind == "up":
        kernel = kernel.transpose(0, 1)
    OUT, C, taps, _ = kernel.shape
    tile = tile or default_tile(kind, C, OUT, kernel.dtype.itemsize, _shared(kernel.device))
    kernel = kernel.permute(2, 3, 0, 1)  # (row, column, OUT, C)
    out_pixels = _numbers(kind, OUT, tile.pixels) // OUT
    weight = kernel.new_zeros(taps, out_pixels, OUT, WINDOW, C)
    for q in range(out_pixels):
        for t in range(tile.pixels + 2):  # the pixel t − 1 of the position's
            column = {"same": t - q, "up": q - 2 * t + 3, "down": t}[kind]
            if 0 <= column < taps:
                weight[:, q, :, t] = kernel[:, column]
    weight = weight.view(taps, out_pixels * OUT, WINDOW * C)
    return Packed(rounded_to_tf32(weight), C, OUT, kind, tile)


def rounded_to_tf32(weight: Tensor) -> Tensor:
    """Weights in float32 rounded: tensor cores leave off what is beyond the 10 bits of tf32."""
    if weight.dtype != torch.float32:
        return weight
    return ((weight.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def launch(packed: Packed, x: Tensor) -> tuple[Tensor, tuple[int, ...], tuple, dict]:
    """For x (B, C, rows, width), channels last: the empty result, and grid, arguments and constants
    of a launch of `convolution` that fills it.
    """
    B, C, rows, width = x.shape
    _, _, OUT, kind, tile = packed
    if C != packed.C or x.dtype != packed.weight.dtype:
        raise ValueError(f"{C} channels of {x.dtype} are not what the weights are for")
    size = {"same": (rows, width), "up": (2 * rows, 2 * width), "down": (rows // 2, width // 2)}
    shape = (B, OUT, *size[kind])
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    steps = rows // 2 if kind == "down" else rows
    across = triton.cdiv(triton.cdiv(width, tile.pixels), tile.positions)
    columns = packed.numbers // tile.columns
    strip = max(triton.cdiv(steps * across * columns * B, PROGRAMS), FEWEST_ROWS)
    grid = (across * triton.cdiv(steps, strip), columns, B)
    constants = {
        "UP": kind == "up",
        "DOWN": kind == "down",
        "C": C,
        "OUT": OUT,
        "PIXELS": tile.pixels,
        "POSITIONS": tile.positions,
        "NUMBERS": packed.numbers,
        "COLUMNS": tile.columns,
        "num_warps": tile.warps,
        "num_stages": tile.stages,
    }
    return out, grid, (x, packed.weight, out, rows, width, strip), constants


def _shared(device: torch.device) -> int:
    if device.type != "cuda" or not torch.cuda.is_available():  # in tests
        return MOST_SHARED
    properties = torch.cuda.get_device_properties(device)
    room = getattr(properties, "shared_memory_per_block_optin", 0)  # of new PyTorch
    return LARGE_SHARED if room > LARGE_SHARED else MOST_SHARED


def _numbers(kind: str, OUT: int, pixels: int) -> int:
    """N."""
    return {"same": pixels, "up": 2 * pixels, "down": pixels // 2}[kind] * OUT


@triton.jit
def _window(x, row, rows, line, at, inside):
    """Those of all positions in one row of a picture, zeros beyond its edge."""
    used = inside & (row >= 0) & (row < rows)
    return tl.load(x + row * line + at, mask=used, other=0.0)


@triton.jit
def _store(out, value, row, line, to, used):
    tl.store(out + row * line + to, value.to(out.dtype.element_ty), mask=used)


@triton.jit
def _tap(weight, tap, at, SIZE: tl.constexpr):
    """(4·C, columns)."""
    return tl.load(weight + tap * SIZE + at)


@triton.jit(do_not_specialize=["rows", "width", "strip"])
def convolution(
    x,
    weight,
    out,
    rows,
    width,
    strip,
    UP: tl.constexpr,
    DOWN: tl.constexpr,
    C: tl.constexpr,
    OUT: tl.constexpr,
    PIXELS: tl.constexpr,
    POSITIONS: tl.constexpr,
    NUMBERS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out = x (rows, width, C) of one picture, convolved. `strip`: rows of the input, or pairs of
    rows for DOWN, of which a program writes what the output has in their place.
    """
    K: tl.constexpr = 4 * C
    steps, out_rows, out_width = rows, rows, width
    if UP:
        out_rows, out_width = 2 * rows, 2 * width
    if DOWN:
        steps, out_rows, out_width = rows // 2, rows // 2, width // 2
    line, out_line = width * C, out_width * OUT
    picture = tl.program_id(2).to(tl.int64)
    x += picture * rows * line
    out += picture * out_rows * out_line
    across = ((width + PIXELS - 1) // PIXELS + POSITIONS - 1) // POSITIONS
    first = tl.program_id(0) // across * strip
    end = tl.minimum(first + strip, steps)
    position = (tl.program_id(0) % across * POSITIONS + tl.arange(0, POSITIONS))[:, None]
    k = tl.arange(0, K)
    at = position * (PIXELS * C) - C + k[None, :]
    inside = (at >= 0) & (at < line) & (k < (PIXELS + 2) * C)[None, :]
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    to = position * NUMBERS + n[None, :]
    used = to < out_line
    of = n[None, :] * K + k[:, None]
    SIZE: tl.constexpr = NUMBERS * K
    w0, w1 = _tap(weight, 0, of, SIZE), _tap(weight, 1, of, SIZE)
    w2 = _tap(weight, 2, of, SIZE)
    above = tl.zeros((POSITIONS, COLUMNS), tl.float32)  # sums of rows of the output to which rows
    here = tl.zeros((POSITIONS, COLUMNS), tl.float32)  # of the input are still to come
    # What is stored is multiplied last: it is waited for, and with it all before it, so that the
    # compiler need not wait for each product by itself.
    if UP:
        # Row y of the input gives to rows 2y − 1 to 2y + 2 of the output.
        w3 = _tap(weight, 3, of, SIZE)
        for row in range(first - 1, end + 1):
            value = _window(x, row, rows, line, at, inside)
            next_odd = tl.dot(value, w2, input_precision="tf32")
            next_even = tl.dot(value, w3, input_precision="tf32")
            odd = tl.dot(value, w0, above, input_precision="tf32")
            even = tl.dot(value, w1, here, input_precision="tf32")
            above, here = next_odd, next_even
            _store(out, odd, 2 * row - 1, out_line, to, used & (row > first))
            _store(out, even, 2 * row, out_line, to, used & (row >= first) & (row < end))
    elif DOWN:
        # Rows 2y − 1 and 2y of the input give to rows y − 1 and y of the output.
        w3 = _tap(weight, 3, of, SIZE)
        for row in range(first, end + 1):
            value = _window(x, 2 * row - 1, rows, line, at, inside)
            below = _window(x, 2 * row, rows, line, at, inside)
            begun = tl.dot(value, w0, input_precision="tf32")
            begun = tl.dot(below, w1, begun, input_precision="tf32")
            done = tl.dot(value, w2, above, input_precision="tf32")
            done = tl.dot(below, w3, done, input_precision="tf32")
            above = begun
            _store(out, done, row - 1, out_line, to, used & (row > first))
    else:
        # Row y of the input gives to rows y − 1 to y + 1 of the output.
        for row in range(first - 1, end + 1):
            value = _window(x, row, rows, line, at, inside)
            halfway = tl.dot(value, w1, here, input_precision="tf32")
            here = tl.dot(value, w0, input_precision="tf32")
            done = tl.dot(value, w2, above, input_precision="tf32")
            above = halfway
            _store(out, done, row - 1, out_line, to, used & (row > first))
