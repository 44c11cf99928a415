"""The other way through cuda_kernels.py: the gradients of what is between two convolutions, in
Triton kernels that take pictures and programs as those do.

OF_PICTURE: whether the gradient g is given as that of the picture, from which it is multiplied out.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fast.cuda_kernels import (
    SLOPE,
    _above,
    _across,
    _down,
    _inside,
    _leaky,
    _of_channels,
    _pixels,
    _strip,
)


@triton.jit
def _gradient(g, to_rgb, row, column, channel, rows, width, C, OF_PICTURE: tl.constexpr):
    """A row of one picture's gradient g (rows, width, C); OF_PICTURE: of to_rgbᵀ·g for a g
    (3, rows, width).
    """
    if OF_PICTURE:
        used, at = _inside(row, column, rows, width), row * width + column
        P = rows * width
        value = tl.load(g + at, mask=used, other=0.0) * _of_channels(to_rgb, channel, C)
        green = tl.load(g + P + at, mask=used, other=0.0)
        value += green * _of_channels(to_rgb + C, channel, C)
        blue = tl.load(g + 2 * P + at, mask=used, other=0.0)
        value += blue * _of_channels(to_rgb + 2 * C, channel, C)
    else:
        value = _pixels(g, row, column, channel[None, :], rows, width, C)
    return value


@triton.jit
def sums(
    g,
    to_rgb,
    y,
    bias,
    weight,
    noise,
    mean,
    sums,
    rows,
    width,
    C,
    strip,
    BLUR: tl.constexpr,
    NOISE: tl.constexpr,
    OF_PICTURE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Σg and Σg·(x − mean) over the pixels of a program, into sums (2, B, programs, C)."""
    b = tl.program_id(2)
    P = rows * width
    y += b.to(tl.int64) * P * C
    g += b.to(tl.int64) * P * (3 if OF_PICTURE else C)
    if NOISE:
        noise += b * P
    begin, end, column, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    c = channel[None, :]
    add, scale = _of_channels(bias, channel, C), _of_channels(weight, channel, C)
    centre = _of_channels(mean + b * C, channel, C)
    of_g = tl.zeros((PIXELS, CHANNELS), tl.float32)
    of_product = tl.zeros((PIXELS, CHANNELS), tl.float32)
    above, here = _above(y, begin, column, c, rows, width, C, BLUR, PIXELS, CHANNELS)
    for row in range(begin, end):
        below = _across(y, row + BLUR, column, c, rows, width, C, BLUR)
        value = _down(above, here, below, BLUR)
        above, here = here, below
        value = _leaky(value, add, scale, noise, row, column, rows, width, NOISE)
        grad = _gradient(g, to_rgb, row, column, channel, rows, width, C, OF_PICTURE)
        of_g += grad  # which is 0 where the picture has ended
        of_product += grad * (value - centre)
    to = (b * tl.num_programs(0) + tl.program_id(0)) * C + channel
    tl.store(sums + to, tl.sum(of_g, axis=0), mask=channel < C)
    size = tl.num_programs(2) * tl.num_programs(0) * C
    tl.store(sums + size + to, tl.sum(of_product, axis=0), mask=channel < C)


@triton.jit
def added(sums, out, C, programs, PROGRAMS: tl.constexpr, CHANNELS: tl.constexpr):
    """sums (N, programs, C) → out (N, C)."""
    n = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    i = tl.arange(0, PROGRAMS)[:, None]
    used = (i < programs) & (channel[None, :] < C)
    value = tl.load(sums + (n * programs + i) * C + channel[None, :], mask=used, other=0.0)
    tl.store(out + n * C + channel, tl.sum(value, axis=0), mask=channel < C)


@triton.jit
def coefficients(of_g, of_product, a, rstd, grad_style, p, q, C, P, BLOCK: tl.constexpr):
    """Of the two sums: the gradient for the style (B, 2C), p = −a·Σg/P and
    q = −a·rstd²·Σg·(x − mean)/P.
    """
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1)
    used, at = c < C, row * C + c
    g = tl.load(of_g + at, mask=used, other=0.0)
    product = tl.load(of_product + at, mask=used, other=0.0)
    inverse = tl.load(rstd + at, mask=used, other=0.0)
    factor = tl.load(a + at, mask=used, other=0.0)
    tl.store(grad_style + row * 2 * C + c, product * inverse, mask=used)
    tl.store(grad_style + row * 2 * C + C + c, g, mask=used)
    tl.store(p + at, -factor * g / P, mask=used)
    tl.store(q + at, -factor * inverse * inverse * product / P, mask=used)


@triton.jit
def _leaky_grad(
    value,
    g,
    to_rgb,
    noise,
    add,
    scale,
    centre,
    of_g,
    of_x,
    addend,
    row,
    column,
    channel,
    rows,
    width,
    C,
    NOISE: tl.constexpr,
    OF_PICTURE: tl.constexpr,
):
    """(a·g + q·(x − mean) + p)·LeakyReLU'(x) of a row, zeros beyond the edge; value is blur(y)."""
    x = _leaky(value, add, scale, noise, row, column, rows, width, NOISE)
    grad = _gradient(g, to_rgb, row, column, channel, rows, width, C, OF_PICTURE)
    found = of_g * grad + of_x * (x - centre) + addend
    found = tl.where(x > 0, found, found * SLOPE)
    return tl.where(_inside(row, column, rows, width), found, 0.0)


@triton.jit
def leaky_grad(
    g,
    to_rgb,
    y,
    bias,
    weight,
    noise,
    out,
    mean,
    a,
    q,
    p,
    rows,
    width,
    C,
    strip,
    BLUR: tl.constexpr,
    NOISE: tl.constexpr,
    OF_PICTURE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = (a·g + q·(x − mean) + p)·LeakyReLU'(x), which may be g."""
    b = tl.program_id(2)
    P, of = rows * width, b * C
    first = b.to(tl.int64) * P * C
    y += first
    out += first
    g += b.to(tl.int64) * P * (3 if OF_PICTURE else C)
    if NOISE:
        noise += b * P
    begin, end, column, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    c = channel[None, :]
    add, scale = _of_channels(bias, channel, C), _of_channels(weight, channel, C)
    centre, of_g = _of_channels(mean + of, channel, C), _of_channels(a + of, channel, C)
    of_x, addend = _of_channels(q + of, channel, C), _of_channels(p + of, channel, C)
    above, here = _above(y, begin, column, c, rows, width, C, BLUR, PIXELS, CHANNELS)
    for row in range(begin, end):
        below = _across(y, row + BLUR, column, c, rows, width, C, BLUR)
        value = _down(above, here, below, BLUR)
        above, here = here, below
        found = _leaky_grad(
            value,
            g,
            to_rgb,
            noise,
            add,
            scale,
            centre,
            of_g,
            of_x,
            addend,
            row,
            column,
            channel,
            rows,
            width,
            C,
            NOISE,
            OF_PICTURE,
        )
        at = (row * width + column) * C + c
        tl.store(out + at, found.to(out.dtype.element_ty), mask=(column < width) & (c < C))


@triton.jit
def _three_across(y, row, column, c, rows, width, C):
    """[1,2,1]/4 along a row of y: a column to the left, here and a column to the right."""
    left = _pixels(y, row, column - 1, c, rows, width, C)
    here = _pixels(y, row, column, c, rows, width, C)
    right = _pixels(y, row, column + 1, c, rows, width, C)
    before = (_pixels(y, row, column - 2, c, rows, width, C) + 2 * left + here) * 0.25
    after = (here + 2 * right + _pixels(y, row, column + 2, c, rows, width, C)) * 0.25
    return before, (left + 2 * here + right) * 0.25, after


@triton.jit
def blurred_leaky_grad(
    g,
    to_rgb,
    y,
    bias,
    weight,
    noise,
    out,
    mean,
    a,
    q,
    p,
    rows,
    width,
    C,
    strip,
    NOISE: tl.constexpr,
    OF_PICTURE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = blur((a·g + q·(x − mean) + p)·LeakyReLU'(x)), y blurred, too: a pixel is made of 5×5
    of y and 3×3 of g, and each row of a program reads one more row of both.
    """
    b = tl.program_id(2)
    P, of = rows * width, b * C
    first = b.to(tl.int64) * P * C
    y += first
    out += first
    g += b.to(tl.int64) * P * (3 if OF_PICTURE else C)
    if NOISE:
        noise += b * P
    begin, end, column, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    c = channel[None, :]
    add, scale = _of_channels(bias, channel, C), _of_channels(weight, channel, C)
    centre, of_g = _of_channels(mean + of, channel, C), _of_channels(a + of, channel, C)
    of_x, addend = _of_channels(q + of, channel, C), _of_channels(p + of, channel, C)
    above_l, above, above_r = _three_across(y, begin - 2, column, c, rows, width, C)
    here_l, here, here_r = _three_across(y, begin - 1, column, c, rows, width, C)
    before = tl.zeros((PIXELS, CHANNELS), tl.float32)  # what is found two rows above, and one
    latest = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for row in range(begin - 1, end + 1):
        below_l, below, below_r = _three_across(y, row + 1, column, c, rows, width, C)
        value = _down(above_l, here_l, below_l, 1)
        left = _leaky_grad(
            value,
            g,
            to_rgb,
            noise,
            add,
            scale,
            centre,
            of_g,
            of_x,
            addend,
            row,
            column - 1,
            channel,
            rows,
            width,
            C,
            NOISE,
            OF_PICTURE,
        )
        value = _down(above_r, here_r, below_r, 1)
        right = _leaky_grad(
            value,
            g,
            to_rgb,
            noise,
            add,
            scale,
            centre,
            of_g,
            of_x,
            addend,
            row,
            column + 1,
            channel,
            rows,
            width,
            C,
            NOISE,
            OF_PICTURE,
        )
        value = _down(above, here, below, 1)
        found = _leaky_grad(
            value,
            g,
            to_rgb,
            noise,
            add,
            scale,
            centre,
            of_g,
            of_x,
            addend,
            row,
            column,
            channel,
            rows,
            width,
            C,
            NOISE,
            OF_PICTURE,
        )
        found = (left + 2 * found + right) * 0.25
        above_l, above, above_r = here_l, here, here_r
        here_l, here, here_r = below_l, below, below_r
        total = _down(before, latest, found, 1)
        used = (row > begin) & (column < width) & (c < C)
        at = ((row - 1) * width + column) * C + c
        tl.store(out + at, total.to(out.dtype.element_ty), mask=used)
        before, latest = latest, found


@triton.jit
def blur(y, out, rows, width, C, strip, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    first = tl.program_id(2).to(tl.int64) * rows * width * C
    y += first
    begin, end, column, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    c = channel[None, :]
    above, here = _above(y, begin, column, c, rows, width, C, 1, PIXELS, CHANNELS)
    for row in range(begin, end):
        below = _across(y, row + 1, column, c, rows, width, C, 1)
        value = _down(above, here, below, 1)
        above, here = here, below
        at = first + (row * width + column) * C + c
        tl.store(out + at, value.to(out.dtype.element_ty), mask=(column < width) & (c < C))
