"""What lies between two convolutions of StyleGAN3's fast form (stylegan3.py): a filter to a higher
sampling rate, LeakyReLU, a filter to the next layer's rate. What each function computes, and its
form in PyTorch's own operations.

Between the filters a picture has four to sixteen times as many samples as before and after. They
exist a strip of rows at a time; of each, only the sign is kept for the gradient, and whether it was
clamped: here a byte, in stylegan3.c two bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan import LEAKY_SLOPE

ROWS = 32  # of the output, in a strip: a multiple of the layers' factors
COLUMNS = 16  # of the output, and twice as many samples, that one matrix makes
POSITIVE, CLAMPED, OUTSIDE = 1, 2, 4  # bits of what is kept of a sample
NEGLIGIBLE = 1e-6  # of the largest singular value: what float32 rounds a sum of 144 products by


@dataclass(frozen=True)
class Filters:
    """Of one layer: for pictures of `in_size` (with what the convolution adds) to `out_size`.

    Upwards, sample m is Σ over i of in_i·up[i·up_factor + before − m] for each axis. Downwards,
    output o is Σ over j of sample[o·down_factor + j]·down[j] for each axis, or over j and l where
    down (n, n) is not separable. Beyond the edges all are 0. Both filters are float32.
    """

    up: Tensor
    down: Tensor
    up_factor: int
    down_factor: int
    before: int
    in_size: int
    mid_size: int
    out_size: int
    clamp: float

    @cached_property
    def forward(self) -> Strips:
        up, down = [(self.up, self.up)], separable(self.down)
        factors = self.up_factor, self.before, self.down_factor, 0
        return Strips(up, down, *factors, self.in_size, self.mid_size, self.out_size)

    @cached_property
    def backward(self) -> Strips:
        """The gradient's, where the filters change places and are turned round."""
        up = [(f.flip(0), g.flip(0)) for f, g in separable(self.down)]
        down = [(self.up.flip(0), self.up.flip(0))]
        factors = self.down_factor, len(self.down) - 1
        factors += self.up_factor, self.before - (len(self.up) - 1)
        return Strips(up, down, *factors, self.out_size, self.mid_size, self.in_size)


class StyleGAN3Kernels(Protocol):
    """What is between two convolutions. Pictures (B, C, r, r) are channels last; scales (B, C) and
    the bias (C,) are float32, sums (B, C) float32 or more. `formulation` and the batch sizes are as
    in synthesis.Kernels.
    """

    formulation: str

    def batch_size(self, B: int) -> int: ...

    def forget_batch_sizes(self) -> None: ...

    def activate(
        self,
        y: Tensor,
        scale: Tensor,
        bias: Tensor,
        out_scale: Tensor,
        filters: Filters,
        keep: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """out_scale·down(a) with a = √2·LeakyReLU(up(scale·y + bias)) within ±clamp; and, to
        `keep`, what activate_grad needs of it, in a form of its own.
        """

    def activate_grad(
        self, g: Tensor, out_scale: Tensor, kept: Tensor, scale: Tensor, filters: Filters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of the gradient g for what `activate` makes: that for y; its sum over the pixels without
        `scale`, which is that for the bias; and Σ a·(gradient for a) over all a that were clamped.
        """

    def products(self, g: Tensor, x: Tensor) -> Tensor:
        """Σ g·x over the pixels."""


class TorchStyleGAN3Kernels:
    """Kernels in PyTorch's own operations: for any device, in any precision of the pictures."""

    formulation = "eager"

    def batch_size(self, B):
        return B

    def forget_batch_sizes(self):
        pass

    def activate(self, y, scale, bias, out_scale, filters, keep):
        strips, mid, kept = filters.forward, filters.mid_size, None
        if keep:
            kept = y.new_empty(len(y), mid, mid, y.shape[1], dtype=torch.uint8)

        def between(samples: Tensor, first: int) -> Tensor:
            positive = samples > 0
            a = F.leaky_relu_(samples, LEAKY_SLOPE).mul_(math.sqrt(2))
            if keep:
                rows = min(mid - first, samples.shape[1])
                bits = (a.abs() > filters.clamp).to(torch.uint8).mul_(CLAMPED).add_(positive)
                kept[:, first : first + rows] = bits[:, :rows, :mid]
            return a.clamp_(-filters.clamp, filters.clamp)

        return strips(y, scale, bias, out_scale, between)[0], kept

    def activate_grad(self, g, out_scale, kept, scale, filters):
        strips = filters.backward
        clamped = torch.zeros_like(out_scale[:, : kept.shape[3]])
        own = 0  # samples before this row have been counted

        def between(samples: Tensor, first: int) -> Tensor:
            nonlocal own, clamped
            rows, columns = samples.shape[1:3]
            bits = window(kept, first, rows, strips.offset, columns, OUTSIDE)
            if math.isfinite(filters.clamp):
                counted = slice(own - first, own - first + rows)
                signs = (bits[:, counted] & POSITIVE).mul_(2).to(samples.dtype).sub_(1)
                of_clamped = signs.mul_(samples[:, counted]).mul_(bits[:, counted] & CLAMPED)
                clamped += of_clamped.sum(dim=(1, 2)) * (filters.clamp / CLAMPED)
                own = first + rows
            slopes = (bits & POSITIVE).to(samples.dtype)
            slopes.mul_(math.sqrt(2) * (1 - LEAKY_SLOPE)).add_(math.sqrt(2) * LEAKY_SLOPE)
            return samples.mul_(slopes).mul_(bits < CLAMPED)

        of_y, of_bias = strips(g, out_scale, None, scale, between)
        return of_y, of_bias, clamped

    def products(self, g, x):
        return (g.float() * x.float()).sum(dim=(2, 3))


class Strips:
    """Filters up, something between, filters down: a strip of ROWS of the output at a time.

    Pairs of filters are one along columns and one along rows; of several, the sum is taken. A
    filter along an axis is a product with a matrix, of which most is 0; that is faster than a
    convolution of single channels. Names are those of `Filters`, and sample `offset` is the first
    that is filtered down.
    """

    def __init__(
        self,
        ups: list[tuple[Tensor, Tensor]],
        downs: list[tuple[Tensor, Tensor]],
        up_factor: int,
        before: int,
        down_factor: int,
        offset: int,
        in_size: int,
        mid_size: int,
        out_size: int,
    ):
        self.in_size, self.out_size, self.offset, self.factor = in_size, out_size, offset, up_factor
        p, q = up_factor, down_factor
        taps = len(downs[0][0])
        self.step = ROWS * q  # samples from one strip to the next
        self.rows = q * (ROWS - 1) + taps  # of samples in a strip
        blocks = -(-out_size // COLUMNS)
        self.columns = (blocks * COLUMNS - 1) * q + taps  # of samples
        # sample `offset` begins with this input
        self.first = -((before - offset) // p)
        shift = self.first * p + before - offset
        self.up = [
            (up_matrix(f, p, shift, self.rows), up_matrix(g, p, shift, 2 * COLUMNS)) for f, g in ups
        ]
        self.down = [(down_matrix(f, q, ROWS), down_matrix(g, q, COLUMNS)) for f, g in downs]
        self.in_rows = self.up[0][0].shape[1]
        up_blocks = -(-self.columns // (2 * COLUMNS))
        self.up_step, self.down_step = 2 * COLUMNS // p, COLUMNS * q
        self.in_columns = (up_blocks - 1) * self.up_step + self.up[0][1].shape[1]

    def __call__(
        self,
        x: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        out_scale: Tensor,
        between: Callable[[Tensor, int], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """x (B, C, in_size, in_size) → (B, C, out_size, out_size), times out_scale; and the sums
        over its pixels before that. between: samples (B, rows, columns, C) of which the first is
        that of row `first` and column `offset`.
        """
        x = x.permute(0, 2, 3, 1)  # contiguous, as all pictures below
        (B, _, _, C), S = x.shape, self.out_size
        out, total = x.new_empty(B, S, S, C), torch.zeros_like(scale)
        for o in range(0, S, ROWS):
            first = o * self.step // ROWS + self.offset
            samples = self._up(x, scale, bias, (first - self.offset) // self.factor + self.first)
            samples = between(samples, first)
            found = self._down(samples)[:, : S - o]
            total += found.sum(dim=(1, 2))
            out[:, o : o + ROWS] = found * out_scale[:, None, None]
        return out.permute(0, 3, 1, 2), total

    def _up(self, x: Tensor, scale: Tensor, bias: Tensor | None, row: int) -> Tensor:
        """The samples of which the first begin with input row `row`."""
        B, _, _, C = x.shape
        lines = x[:, max(row, 0) : max(row + self.in_rows, 0)].float() * scale[:, None, None]
        if bias is not None:
            lines = lines + bias
        lines = window(lines, min(row, 0), self.in_rows, self.first, self.in_columns, 0)
        samples = None
        for rows, columns in self.up:
            part = torch.bmm(rows.expand(B, -1, -1), lines.flatten(2)).view(-1, self.in_columns, C)
            part = banded(part, columns, self.up_step)[:, : self.columns]
            samples = part if samples is None else samples + part
        return samples.reshape(B, self.rows, self.columns, C)

    def _down(self, samples: Tensor) -> Tensor:
        B, _, _, C = samples.shape
        found = None
        for rows, columns in self.down:
            part = banded(samples.flatten(0, 1), columns, self.down_step)[:, : self.out_size]
            part = part.reshape(B, self.rows, -1)
            part = torch.bmm(rows.expand(B, -1, -1), part)
            found = part if found is None else found + part
        return found.view(B, ROWS, self.out_size, C)


def separable(down: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Pairs of filters (along columns, along rows) whose products add up to `down`: of a radial
    filter two to four, by singular values.
    """
    if down.ndim == 1:
        return [(down, down)]
    u, values, v = torch.linalg.svd(down.cpu().double())
    rank = 1 + int((values[1:] > NEGLIGIBLE * values[0]).sum())
    pairs = [(u[:, i] * values[i], v[i]) for i in range(rank)]
    return [tuple(f.float().to(down.device) for f in pair) for pair in pairs]


def up_matrix(f: Tensor, p: int, shift: int, samples: int) -> Tensor:
    """(samples, inputs): sample t is Σ over i of in_i·f[i·p + shift − t]."""
    inputs = (samples - 1 + len(f) - 1 - shift) // p + 1
    i, t = torch.arange(inputs, device=f.device), torch.arange(samples, device=f.device)
    return taken(f, i * p + shift - t[:, None])


def down_matrix(f: Tensor, q: int, outputs: int) -> Tensor:
    """(outputs, samples): output o is Σ over m of sample[m]·f[m − o·q]."""
    m = torch.arange(q * (outputs - 1) + len(f), device=f.device)
    return taken(f, m - torch.arange(outputs, device=f.device)[:, None] * q)


def taken(f: Tensor, index: Tensor) -> Tensor:
    """f[index], 0 where there is none."""
    within = (index >= 0) & (index < len(f))
    return torch.where(within, f[index.clamp(0, len(f) - 1)], 0.0)


def banded(x: Tensor, matrix: Tensor, step: int) -> Tensor:
    """x (n, columns, C) → (n, blocks·m, C): matrix (m, k) times k columns, then times those `step`
    further on, and so on.
    """
    (m, k), (n, _, C) = matrix.shape, x.shape
    windows = x.unfold(1, k, step).transpose(2, 3)  # (n, blocks, k, C)
    blocks = windows.shape[1]
    windows = windows.reshape(-1, k, C)
    return torch.bmm(matrix.expand(len(windows), -1, -1), windows).view(n, blocks * m, C)


def window(x: Tensor, row: int, rows: int, column: int, columns: int, outside: int) -> Tensor:
    """Rows and columns of x (B, r, r', C), beyond whose edges there is `outside`."""
    x = x[:, max(row, 0) : max(row + rows, 0), max(column, 0) : max(column + columns, 0)]
    above, left = min(max(-row, 0), rows), min(max(-column, 0), columns)
    below, right = rows - above - x.shape[1], columns - left - x.shape[2]
    return F.pad(x, (0, 0, left, right, above, below), value=outside)
