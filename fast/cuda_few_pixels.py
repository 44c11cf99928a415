"""Convolutions of small pictures with many channels, in Triton. cuda.py launches it.

At 4 to 32 pixels a picture is too few pixels to fill a GPU, and most of the time goes into reading
weights. So the sum over taps and channels is split among programs, each of which adds up a share,
and a second kernel adds up the shares, always in the same order. Pictures and kernels are channels
last and are read as cuDNN reads them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

SAME, UP, DOWN = 0, 1, 2  # as F.conv2d, F.conv_transpose2d and F.conv2d with stride 2
TAPS = {SAME: 9, UP: 4, DOWN: 16}  # of one pixel of the output
# Measured on an H200: so many programs at most for one block of pixels, and for more, and up to how
# many pixels of the output (UP: of the input) cuDNN takes longer.
PROGRAMS, MANY_PROGRAMS = 132, 264
FEW, FEW_IN_FLOAT32 = 256, 64
BLOCK_M, BLOCK_N, BLOCK_K = 64, 64, 64
WARPS, STAGES = 4, 3


@triton.jit
def shares(
    x,
    kernel,
    out,
    B,
    rows,
    width,
    inputs,
    N,
    M,
    iterations,
    KIND: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """A share of the sum, `iterations` times BLOCK_K products, of BLOCK_M pixels and BLOCK_N
    channels of the output: into out (shares, M, N), for the M = B·rows·width pixels of the output.

    x is (B, rows', width', inputs), of half or double the size if UP or DOWN. UP: a program has
    pixels of one of the four parities, in order of the pixels of x, M of each.
    """
    m = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    n = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    if KIND == 1:
        parity = tl.program_id(2) % 4
        down, right = parity // 2, parity % 2
        share = tl.program_id(2) // 4
        own_rows, own_width = rows // 2, width // 2  # those of x, and of each parity
        in_rows, in_width = own_rows, own_width
    else:
        share = tl.program_id(2)
        own_rows, own_width = rows, width
        in_rows, in_width = rows * (1 + KIND // 2), width * (1 + KIND // 2)
    b, row, column = m // (own_rows * own_width), m // own_width % own_rows, m % own_width
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    chunks = inputs // BLOCK_K
    for i in range(share * iterations, (share + 1) * iterations):
        tap, c = i // chunks, i % chunks * BLOCK_K + tl.arange(0, BLOCK_K)
        if KIND == 1:  # of 4×4 taps those of the parity: 1 and 3, or 2 and 0
            tap_row, tap_column = tap // 2, tap % 2
            from_row = row + tap_row * (2 * down - 1)
            from_column = column + tap_column * (2 * right - 1)
            tap_row = 1 + down + tap_row * (2 - 4 * down)
            tap_column = 1 + right + tap_column * (2 - 4 * right)
            # kernel (inputs, 4, 4, N)
            of_kernel = ((c[:, None] * 4 + tap_row) * 4 + tap_column) * N + n[None, :]
        else:  # kernel (N, 3, 3, inputs) or (N, 4, 4, inputs)
            SIZE: tl.constexpr = 3 + KIND // 2
            tap_row, tap_column = tap // SIZE, tap % SIZE
            from_row = row * (1 + KIND // 2) + tap_row - 1
            from_column = column * (1 + KIND // 2) + tap_column - 1
            of_kernel = ((n[None, :] * SIZE + tap_row) * SIZE + tap_column) * inputs + c[:, None]
        used = (b < B) & (from_row >= 0) & (from_row < in_rows)
        used &= (from_column >= 0) & (from_column < in_width)
        pixel = (b * in_rows + from_row) * in_width + from_column
        values = tl.load(x + pixel[:, None] * inputs + c[None, :], mask=used[:, None], other=0.0)
        weights = tl.load(kernel + of_kernel)
        total = tl.dot(values, weights, total, input_precision="tf32")
    if KIND == 1:
        m = (b * rows + 2 * row + down) * width + 2 * column + right
    to = (share * M + m[:, None]) * N + n[None, :]
    tl.store(out + to, total, mask=(b < B)[:, None])


@triton.jit
def add_shares(shares, out, numbers, many, BLOCK: tl.constexpr):
    """shares (many, numbers) → out (numbers,), added up from first to last."""
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    used = i < numbers
    total = tl.zeros((BLOCK,), tl.float32)
    for share in range(many):
        total += tl.load(shares + share * numbers + i, mask=used, other=0.0)
    tl.store(out + i, total.to(out.dtype.element_ty), mask=used)


def serves(inputs: int, outputs: int) -> bool:
    """Whether both numbers of channels fill blocks, of the convolution and of its gradient."""
    return not any(each % max(BLOCK_K, BLOCK_N) for each in (inputs, outputs))


def shares_of(x: Tensor, kernel: Tensor, kind: int) -> int:
    """Among how many shares the sum is split; 1 where the pixels are not few."""
    B, inputs, rows, width = x.shape
    pixels = B * rows * width // (4 if kind == DOWN else 1)
    if pixels > (FEW if kind == SAME or x.dtype == torch.bfloat16 else FEW_IN_FLOAT32):
        return 1
    blocks = triton.cdiv(pixels, BLOCK_M) * _outputs(kernel, kind) // BLOCK_N
    blocks *= 4 if kind == UP else 1
    most = (PROGRAMS if pixels <= BLOCK_M else MANY_PROGRAMS) // blocks
    whole = TAPS[kind] * inputs // BLOCK_K
    return max(each for each in range(1, max(min(most, whole), 1) + 1) if whole % each == 0)


def launches(x: Tensor, kernel: Tensor, kind: int, many: int) -> tuple[Tensor, list[tuple]]:
    """A convolution of x (B, inputs, rows, width) in `many` shares: the empty result, and kernel,
    grid, arguments and constants of the two launches that fill it.

    kind: SAME with a kernel (outputs, inputs, 3, 3), padding 1; UP with (inputs, outputs, 4, 4),
    stride 2, padding 1, transposed; DOWN with (outputs, inputs, 4, 4), stride 2, padding 1.
    """
    (B, inputs, rows, width), N = x.shape, _outputs(kernel, kind)
    if kind == UP:
        rows, width = 2 * rows, 2 * width
    elif kind == DOWN:
        rows, width = rows // 2, width // 2
    M, parities = B * rows * width, 4 if kind == UP else 1
    shared = torch.empty(many, M, N, dtype=torch.float32, device=x.device)
    out = torch.empty(
        B, N, rows, width, dtype=x.dtype, device=x.device, memory_format=torch.channels_last
    )
    grid = triton.cdiv(M // parities, BLOCK_M), N // BLOCK_N, many * parities
    given = x, kernel, shared, B, rows, width, inputs, N, M, TAPS[kind] * inputs // BLOCK_K // many
    blocks = {"BLOCK_M": BLOCK_M, "BLOCK_N": BLOCK_N, "BLOCK_K": BLOCK_K}
    options = {"KIND": kind, "num_warps": WARPS, "num_stages": STAGES}
    adding = add_shares, (triton.cdiv(M * N, 1024),), (shared, out, M * N, many), {"BLOCK": 1024}
    return out, [(shares, grid, given, blocks | options), adding]


def _outputs(kernel: Tensor, kind: int) -> int:
    return kernel.shape[1 if kind == UP else 0]
