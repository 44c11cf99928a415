"""What a step of the search computes beside the network, on a GPU: a few Triton kernels in place of
PyTorch's many small ones, which take less time than their launches. All in float32; cuda.py
launches them. Nothing is added in an order that is left to chance.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def styles(w, weight, bias, first, out, d, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """out = weight·w_l + bias of each layer's row of w (B, L, d), layer after layer, each (B, 2C).
    A program has ROWS rows of the weight, of one layer and picture. first (L + 1): the first row of
    each layer.
    """
    layer, b = tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(first + layer), tl.load(first + layer + 1)
    row = begin + tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    w += (b * tl.num_programs(1) + layer) * d
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    for column in range(0, d, BLOCK):
        k = column + tl.arange(0, BLOCK)
        used = (row[:, None] < end) & (k[None, :] < d)
        factor = tl.load(w + k, mask=k < d, other=0.0)[None, :]
        total += factor * tl.load(weight + row[:, None] * d + k[None, :], mask=used, other=0.0)
    found = tl.sum(total, axis=1) + tl.load(bias + row, mask=row < end, other=0.0)
    to = out + begin * tl.num_programs(2) + b * (end - begin) + row - begin
    tl.store(to, found, mask=row < end)


@triton.jit
def style_grads(grad, weight, first, parts, d, programs, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """Of the gradient for `styles`, as they lie: Σ weight·grad over the ROWS rows that a program
    has of a layer and picture, for BLOCK columns, into parts (B, L, programs, d).
    """
    part, column = tl.program_id(0) % programs, tl.program_id(0) // programs
    layer, b = tl.program_id(1), tl.program_id(2)
    begin, end = tl.load(first + layer), tl.load(first + layer + 1)
    row = begin + part * ROWS + tl.arange(0, ROWS)
    k = column * BLOCK + tl.arange(0, BLOCK)
    at = grad + begin * tl.num_programs(2) + b * (end - begin) + row - begin
    factor = tl.load(at, mask=row < end, other=0.0)[:, None]
    used = (row[:, None] < end) & (k[None, :] < d)
    value = tl.load(weight + row[:, None] * d + k[None, :], mask=used, other=0.0)
    to = ((b * tl.num_programs(1) + layer) * programs + part) * d + k
    tl.store(parts + to, tl.sum(factor * value, axis=0), mask=k < d)


@triton.jit
def added_style_grads(
    parts,
    first,
    out,
    d,
    programs,
    ROWS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """parts (B, L, programs, d) → out (B, L, d), of each layer the parts that it has."""
    layer, b = tl.program_id(1), tl.program_id(2)
    own = (tl.load(first + layer + 1) - tl.load(first + layer) + ROWS - 1) // ROWS
    of = b * tl.num_programs(1) + layer
    k = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    i = tl.arange(0, PROGRAMS)[:, None]
    used = (i < own) & (k[None, :] < d)
    value = tl.load(parts + (of * programs + i) * d + k[None, :], mask=used, other=0.0)
    tl.store(out + of * d + k, tl.sum(value, axis=0), mask=k < d)
