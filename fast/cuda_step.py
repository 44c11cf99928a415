"""What a step of the search computes in small, on a GPU: the styles of all layers, downscaling,
GEOCROSS, the best so far, the spheres. A few Triton kernels in place of many of PyTorch's, which
take less time than their launches. All in float32; nothing is added in an order that is left to
chance.

Each is compiled in as few variants as can be, since that takes about a second of the first search:
sizes of tiles are the same for nearly all shapes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from bicubic import BicubicDownSample
from fast.search_step import TorchStep

LONGEST = 16384  # numbers of a row for which one program is enough
LARGEST = 64  # pixels of the side of an LR whose square a program may have in registers


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


@triton.jit(do_not_specialize=["programs"])
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


@triton.jit(do_not_specialize=["programs"])
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


@triton.jit
def on_sphere(x, radius, n, BLOCK: tl.constexpr):
    """x·radius/√(Σx² + 1e-9) of a row of n numbers, in place."""
    row = tl.program_id(0).to(tl.int64)
    x += row * n
    square = tl.zeros((BLOCK,), tl.float32)
    for begin in range(0, n, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        value = tl.load(x + i, mask=i < n, other=0.0)
        square += value * value
    norm = tl.sqrt(tl.sum(square, axis=0) + 1e-9)
    goal = tl.load(radius + row)
    for begin in range(0, n, BLOCK):
        i = begin + tl.arange(0, BLOCK)
        value = tl.load(x + i, mask=i < n, other=0.0)
        tl.store(x + i, value / norm * goal, mask=i < n)


@triton.jit
def _angle(a, b):
    """atan2(a, b) of positive numbers: of the smaller over the larger, u, and above tan(π/8) of
    (u − 1)/(u + 1), to which π/4 is added. The polynomial is the best one of its degree, in
    relative error (6e-10), for atan(u)/u, |u| ≤ tan(π/8).
    """
    u = tl.minimum(a, b) / tl.maximum(a, b)
    large = u > 0.41421356
    u = tl.where(large, (u - 1.0) / (u + 1.0), u)
    z = u * u
    found = 0.10573479106719616 - 0.060347887244758064 * z
    found = 0.19998216941181748 + z * (-0.14240082903458695 + z * found)
    found = u * (1.0 + z * (-0.33333307625703174 + z * found))
    found += tl.where(large, 0.7853981633974483, 0.0)
    return tl.where(a > b, 1.5707963267948966 - found, found)


@triton.jit
def geodesics(w, parts, grads, L, d, LAYERS: tl.constexpr, BLOCK: tl.constexpr):
    """Of layer i of w (B, L, d), with θ = 2·atan2(α, β), α² = Σ(x−y)² + 1e-9, β² = Σ(x+y)² + 1e-9:
    its share of GEOCROSS, 64/L²·Σ_j θ(x_i, x_j)², into parts (B, L), and the gradient of GEOCROSS
    for x_i into grads (B, L, d).

    That of θ² for x alone is 4·θ/(α² + β²)·(β/α·(x−y) − α/β·(x+y)). Each pair counts twice, and of
    a layer with itself both arguments move.
    """
    i, b = tl.program_id(0), tl.program_id(1)
    w += b * L * d
    j = tl.arange(0, LAYERS)
    minus = tl.zeros((LAYERS,), tl.float32)
    plus = tl.zeros((LAYERS,), tl.float32)
    for begin in range(0, d, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        x = tl.load(w + i * d + k, mask=k < d, other=0.0)[None, :]
        used = (j[:, None] < L) & (k[None, :] < d)
        y = tl.load(w + j[:, None] * d + k[None, :], mask=used, other=0.0)
        minus += tl.sum((x - y) * (x - y), axis=1)
        plus += tl.sum((x + y) * (x + y), axis=1)
    apart, along = tl.sqrt(minus + 1e-9), tl.sqrt(plus + 1e-9)
    theta = 2.0 * _angle(apart, along)
    share = 64.0 / (L * L)
    total = tl.sum(tl.where(j < L, theta * theta, 0.0), axis=0)
    tl.store(parts + b * L + i, total * share)
    factor = 8.0 * share * theta / (apart * apart + along * along)
    of_minus = tl.where(j < L, factor * along / apart, 0.0)[:, None]
    of_plus = tl.where(j < L, factor * apart / along, 0.0)[:, None]
    for begin in range(0, d, BLOCK):
        k = begin + tl.arange(0, BLOCK)
        x = tl.load(w + i * d + k, mask=k < d, other=0.0)[None, :]
        used = (j[:, None] < L) & (k[None, :] < d)
        y = tl.load(w + j[:, None] * d + k[None, :], mask=used, other=0.0)
        grad = tl.sum(of_minus * (x - y) - of_plus * (x + y), axis=0)
        tl.store(grads + (b * L + i) * d + k, grad, mask=k < d)


@triton.jit(do_not_specialize=["more", "final", "B"])
def compared(
    total,
    mse,
    geocross,
    number,
    best_total,
    best_mse,
    best_geocross,
    best_step,
    best_within,
    last,
    better,
    eps,
    more,
    final,
    B,
    UNTIL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """loss.keep_best of what is one number a picture; and `better`, by which the others are
    `copied`. UNTIL: whether `more` is a number there.
    """
    b = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there = b < B
    now = tl.load(number)
    own, error = tl.load(total + b, mask=there), tl.load(mse + b, mask=there)
    within = error <= eps
    was = tl.load(best_within + b, mask=there)
    end = tl.load(last + b, mask=there)
    lower = own < tl.load(best_total + b, mask=there)
    first = within & (was == 0)
    chosen = first | ((within == (was != 0)) & lower)
    chosen = chosen & (tl.abs(own) < float("inf")) & (now <= end)
    if UNTIL:
        ends = tl.minimum(now + more, final)
        tl.store(last + b, tl.where(first & chosen, ends, end), mask=there)
    tl.store(better + b, chosen.to(tl.uint8), mask=there)
    chosen = chosen & there
    tl.store(best_total + b, own, mask=chosen)
    tl.store(best_mse + b, error, mask=chosen)
    tl.store(best_geocross + b, tl.load(geocross + b, mask=there), mask=chosen)
    tl.store(best_step + b, tl.zeros((BLOCK,), tl.int64) + now, mask=chosen)
    tl.store(best_within + b, within.to(tl.uint8), mask=chosen)


@triton.jit
def _copied(chosen, source, to, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    of = tl.program_id(1).to(tl.int64) * n
    used = (i < n) & chosen
    tl.store(to + of + i, tl.load(source + of + i, mask=used), mask=used)


@triton.jit
def copied(
    better,
    source_0,
    to_0,
    n_0,
    source_1,
    to_1,
    n_1,
    source_2,
    to_2,
    n_2,
    source_3,
    to_3,
    n_3,
    source_4,
    to_4,
    n_4,
    source_5,
    to_5,
    n_5,
    source_6,
    to_6,
    n_6,
    source_7,
    to_7,
    n_7,
    BLOCK: tl.constexpr,
):
    """Of each picture that is `better`, eight tensors of n numbers a picture each."""
    chosen = tl.load(better + tl.program_id(1)) != 0
    _copied(chosen, source_0, to_0, n_0, BLOCK)
    _copied(chosen, source_1, to_1, n_1, BLOCK)
    _copied(chosen, source_2, to_2, n_2, BLOCK)
    _copied(chosen, source_3, to_3, n_3, BLOCK)
    _copied(chosen, source_4, to_4, n_4, BLOCK)
    _copied(chosen, source_5, to_5, n_5, BLOCK)
    _copied(chosen, source_6, to_6, n_6, BLOCK)
    _copied(chosen, source_7, to_7, n_7, BLOCK)


@triton.jit(do_not_specialize=["out"])
def downscaled(
    x,
    matrix,
    parts,
    size,
    out,
    factor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SIDE: tl.constexpr,
):
    """Of planes x (N, size, size) and the matrix D (out, size) of one axis of DS: a row of D·x·Dᵀ,
    as the share of COLUMNS columns of x in it, into parts (N, shares, out, out). Row j of D is 0
    but for 4·factor numbers, from j·factor − ⌊3·factor/2⌋ on.
    """
    j, share, plane = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    x += plane.to(tl.int64) * size * size
    column = share * COLUMNS + tl.arange(0, COLUMNS)
    first = j * factor - 3 * factor // 2
    end = tl.minimum(first + 4 * factor, size)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for begin in range(tl.maximum(first, 0), end, ROWS):
        row = begin + tl.arange(0, ROWS)
        weight = tl.load(matrix + j * size + row, mask=row < end, other=0.0)[:, None]
        used = (row[:, None] < end) & (column[None, :] < size)
        at = row[:, None] * size + column[None, :]
        total += weight * tl.load(x + at, mask=used, other=0.0)
    down = tl.sum(total, axis=0)[None, :]
    i = tl.arange(0, SIDE)
    used = (i[:, None] < out) & (column[None, :] < size)
    along = tl.load(matrix + i[:, None] * size + column[None, :], mask=used, other=0.0)
    to = parts + ((plane * tl.num_programs(1) + share) * out + j) * out + i
    tl.store(to, tl.sum(along * down, axis=1), mask=i < out)


@triton.jit(do_not_specialize=["out"])
def downscaled_grad(
    grad, matrix, to, size, out, ROWS: tl.constexpr, COLUMNS: tl.constexpr, SIDE: tl.constexpr
):
    """The gradient for x, Dᵀ·g·D of planes g (N, out, out), in pieces of ROWS and COLUMNS."""
    plane = tl.program_id(2)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    i, j = tl.arange(0, SIDE)[:, None], tl.arange(0, SIDE)[None, :]
    used = (j < out) & (row[:, None] < size)
    down = tl.load(matrix + j * size + row[:, None], mask=used, other=0.0)  # (ROWS, SIDE)
    used = (i < out) & (j < out)
    g = tl.load(grad + plane * out * out + i * out + j, mask=used, other=0.0)
    used = (i < out) & (column[None, :] < size)
    along = tl.load(matrix + i * size + column[None, :], mask=used, other=0.0)
    found = tl.dot(tl.dot(down, g, input_precision="ieee"), along, input_precision="ieee")
    used = (row[:, None] < size) & (column[None, :] < size)
    to += plane.to(tl.int64) * size * size
    tl.store(to + row[:, None] * size + column[None, :], found, mask=used)


class StepKernels(TorchStep):
    """TorchStep in these kernels. launch(kernel, grid, *arguments, **constants): starts one on the
    device of its first argument.
    """

    def __init__(self, launch: Callable[..., None]):
        self.launch = launch

    def to_sphere(self, x, radius):
        n = x[0, 0].numel()
        if n > LONGEST or not x.is_contiguous():
            return super().to_sphere(x, radius)
        self.launch(on_sphere, (x.shape[0] * x.shape[1],), x, radius, n, BLOCK=512)

    def geocross(self, w):
        if w.shape[1] == 1:
            return super().geocross(w)
        return _Geocross.apply(w, self.launch)

    def downscale(self, factor):
        return _DownSample(factor, self.launch)

    def keep_best(self, best, present, number, eps, more, final):
        names = "total", "mse", "GEOCROSS"
        B = len(present["total"])
        better = torch.empty(B, dtype=torch.uint8, device=present["total"].device)
        given = [*(present[name].contiguous() for name in names), number]
        kept = [best[name] for name in (*names, "step")]
        kept += best["within"].view(torch.uint8), best["last"], better
        until = {"UNTIL": more is not None, "BLOCK": 32}
        grid = (triton.cdiv(B, 32),)
        self.launch(compared, grid, *given, *kept, eps, more or 0, final, B, **until)
        pairs = [
            (value.contiguous(), best[name], value[0].numel())
            for name, value in present.items()
            if name not in names
        ]
        for i in range(0, len(pairs), 8):
            some = pairs[i : i + 8]
            grid = (triton.cdiv(max(n for *_, n in some), 2048), B)
            some += [(*some[0][:2], 0)] * (8 - len(some))
            self.launch(copied, grid, better, *sum(some, ()), BLOCK=2048)


class _Geocross(torch.autograd.Function):
    """w (B, L, d) → (B,)."""

    @staticmethod
    def forward(ctx, w: Tensor, launch: Callable[..., None]) -> Tensor:
        B, L, d = w.shape
        w = w.contiguous()
        parts, grads = w.new_empty(B, L), torch.empty_like(w)
        tile = {"LAYERS": max(triton.next_power_of_2(L), 32), "BLOCK": 128}
        launch(geodesics, (L, B), w, parts, grads, L, d, **tile)
        ctx.save_for_backward(grads)
        return parts.sum(1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (grads,) = ctx.saved_tensors
        return grad[:, None, None] * grads, None


class _DownSample(BicubicDownSample):
    """The same in two kernels forward and one backward, for square pictures and a small result."""

    def __init__(self, factor: int, launch: Callable[..., None]):
        super().__init__(factor)
        self.launch = launch

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[-1]
        if x.shape[-2] != size or size // self.factor > LARGEST:
            return super().forward(x)
        return _Downscaled.apply(x, self._matrix(size, x), self.factor, self.launch)


def _side(out: int) -> int:
    return max(triton.next_power_of_2(out), 32)


class _Downscaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, matrix: Tensor, factor: int, launch: Callable[..., None]) -> Tensor:
        ctx.matrix, ctx.launch = matrix, launch
        (B, C, size, _), x = x.shape, x.contiguous()
        out, columns = size // factor, 128
        shares = triton.cdiv(size, columns)
        parts = x.new_empty(B * C, shares, out, out)
        tile = {"ROWS": 16, "COLUMNS": columns, "SIDE": _side(out)}
        launch(downscaled, (out, shares, B * C), x, matrix, parts, size, out, factor, **tile)
        return parts.sum(1).view(B, C, out, out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        B, C, out, _ = grad.shape
        size = ctx.matrix.shape[1]
        to = grad.new_empty(B, C, size, size)
        tile = {"ROWS": 16, "COLUMNS": 64, "SIDE": _side(out)}
        grid = (triton.cdiv(size, 16), triton.cdiv(size, 64), B * C)
        ctx.launch(downscaled_grad, grid, grad.contiguous(), ctx.matrix, to, size, out, **tile)
        return to, None, None, None
