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
    for row in range(begin, end, 2):
        below = _across(y, row + BLUR, column, c, rows, width, C, BLUR)
        last = _across(y, row + 1 + BLUR, column, c, rows, width, C, BLUR)
        grad = _gradient(g, to_rgb, row, column, channel, rows, width, C, OF_PICTURE)
        other = _gradient(g, to_rgb, row + 1, column, channel, rows, width, C, OF_PICTURE)
        other = tl.where(row + 1 < end, other, 0.0)
        value = _down(above, here, below, BLUR)
        value = _leaky(value, add, scale, noise, row, column, rows, width, BLUR, NOISE)
        second = _down(here, below, last, BLUR)
        second = _leaky(second, add, scale, noise, row + 1, column, rows, width, BLUR, NOISE)
        above, here = below, last
        of_g += grad + other  # which are 0 where the picture has ended
        of_product += grad * (value - centre) + other * (second - centre)
    to = (b * tl.num_programs(0) + tl.program_id(0)) * C + channel
    tl.store(sums + to, tl.sum(of_g, axis=0), mask=channel < C)
    size = tl.num_programs(2) * tl.num_programs(0) * C
    tl.store(sums + size + to, tl.sum(of_product, axis=0), mask=channel < C)


@triton.jit
def added(
    sums,
    a,
    rstd,
    grad_style,
    p,
    q,
    C,
    P,
    programs,
    PROGRAMS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Of what `programs` of `sums` have found, added up: the gradient for the style (B, 2C),
    p = −a·Σg/P and q = −a·rstd²·Σg·(x − mean)/P.
    """
    picture = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    i = tl.arange(0, PROGRAMS)[:, None]
    used = (i < programs) & (channel[None, :] < C)
    at = (picture * programs + i) * C + channel[None, :]
    of_g = tl.load(sums + at, mask=used, other=0.0)
    of_product = tl.load(sums + tl.num_programs(1) * programs * C + at, mask=used, other=0.0)
    g, product = tl.sum(of_g, axis=0), tl.sum(of_product, axis=0)
    used, at = channel < C, picture * C + channel
    factor = tl.load(a + at, mask=used, other=0.0)
    inverse = tl.load(rstd + at, mask=used, other=0.0)
    tl.store(grad_style + picture * 2 * C + channel, product * inverse, mask=used)
    tl.store(grad_style + picture * 2 * C + C + channel, g, mask=used)
    tl.store(p + at, -factor * g / P, mask=used)
    tl.store(q + at, -factor * inverse * inverse * product / P, mask=used)


@triton.jit
def _descended(x, grad, centre, of_g, of_x, addend, inside):
    """(a·g + q·(x − mean) + p)·LeakyReLU'(x) of a row, zeros where it is not `inside`."""
    found = of_g * grad + (of_x * (x - centre) + addend)
    slope = tl.where(inside, 1.0, 0.0)
    return found * tl.where(x > 0, slope, slope * SLOPE)


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
    for row in range(begin, end, 2):
        below = _across(y, row + BLUR, column, c, rows, width, C, BLUR)
        last = _across(y, row + 1 + BLUR, column, c, rows, width, C, BLUR)
        value, second = _down(above, here, below, BLUR), _down(here, below, last, BLUR)
        above, here = below, last
        x = _leaky(value, add, scale, noise, row, column, rows, width, BLUR, NOISE)
        grad = _gradient(g, to_rgb, row, column, channel, rows, width, C, OF_PICTURE)
        inside = _inside(row, column, rows, width)
        value = _descended(x, grad, centre, of_g, of_x, addend, inside)
        x = _leaky(second, add, scale, noise, row + 1, column, rows, width, BLUR, NOISE)
        grad = _gradient(g, to_rgb, row + 1, column, channel, rows, width, C, OF_PICTURE)
        inside = _inside(row + 1, column, rows, width)
        second = _descended(x, grad, centre, of_g, of_x, addend, inside)
        at = row * (width * C) + (column * C + c)
        used = (column < width) & (c < C)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=used)
        used &= row + 1 < end
        tl.store(out + width * C + at, second.to(out.dtype.element_ty), mask=used)


@triton.jit
def _four_across(y, row, column, c, rows, width, C):
    """[1,2,1] along a row of y: from a column to the left to two columns to the right."""
    second = _pixels(y, row, column - 1, c, rows, width, C)
    third = _pixels(y, row, column, c, rows, width, C)
    fourth = _pixels(y, row, column + 1, c, rows, width, C)
    fifth = _pixels(y, row, column + 2, c, rows, width, C)
    first = _pixels(y, row, column - 2, c, rows, width, C) + second
    last = fifth + _pixels(y, row, column + 3, c, rows, width, C)
    left, middle, right = second + third, third + fourth, fourth + fifth
    return first + left, left + middle, middle + right, right + last


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
    of y and 3×3 of g. Two neighbours in a row, of one thread, share what they have in common.
    """
    b = tl.program_id(2)
    P, of = rows * width, b * C
    first = b.to(tl.int64) * P * C
    y += first
    out += first
    g += b.to(tl.int64) * P * (3 if OF_PICTURE else C)
    if NOISE:
        noise += b * P
    begin, end, _, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    across = (width + PIXELS - 1) // PIXELS
    column = tl.program_id(0) % across * PIXELS + 2 * tl.arange(0, PIXELS // 2)[:, None]
    c = channel[None, :]
    add, scale = _of_channels(bias, channel, C), _of_channels(weight, channel, C)
    centre, of_g = _of_channels(mean + of, channel, C), _of_channels(a + of, channel, C)
    of_x, addend = _of_channels(q + of, channel, C), _of_channels(p + of, channel, C)
    above_0, above_1, above_2, above_3 = _four_across(y, begin - 2, column, c, rows, width, C)
    here_0, here_1, here_2, here_3 = _four_across(y, begin - 1, column, c, rows, width, C)
    before_0 = tl.zeros((PIXELS // 2, CHANNELS), tl.float32)  # found two rows above, and one
    before_1 = tl.zeros((PIXELS // 2, CHANNELS), tl.float32)
    latest_0 = tl.zeros((PIXELS // 2, CHANNELS), tl.float32)
    latest_1 = tl.zeros((PIXELS // 2, CHANNELS), tl.float32)
    for row in range(begin - 1, end + 1):
        below_0, below_1, below_2, below_3 = _four_across(y, row + 1, column, c, rows, width, C)
        value = _down(above_0, here_0, below_0, 1)
        x = _leaky(value, add, scale, noise, row, column - 1, rows, width, 1, NOISE)
        grad = _gradient(g, to_rgb, row, column - 1, channel, rows, width, C, OF_PICTURE)
        inside = _inside(row, column - 1, rows, width)
        found_0 = _descended(x, grad, centre, of_g, of_x, addend, inside)
        value = _down(above_1, here_1, below_1, 1)
        x = _leaky(value, add, scale, noise, row, column, rows, width, 1, NOISE)
        grad = _gradient(g, to_rgb, row, column, channel, rows, width, C, OF_PICTURE)
        inside = _inside(row, column, rows, width)
        found_1 = _descended(x, grad, centre, of_g, of_x, addend, inside)
        value = _down(above_2, here_2, below_2, 1)
        x = _leaky(value, add, scale, noise, row, column + 1, rows, width, 1, NOISE)
        grad = _gradient(g, to_rgb, row, column + 1, channel, rows, width, C, OF_PICTURE)
        inside = _inside(row, column + 1, rows, width)
        found_2 = _descended(x, grad, centre, of_g, of_x, addend, inside)
        value = _down(above_3, here_3, below_3, 1)
        x = _leaky(value, add, scale, noise, row, column + 2, rows, width, 1, NOISE)
        grad = _gradient(g, to_rgb, row, column + 2, channel, rows, width, C, OF_PICTURE)
        inside = _inside(row, column + 2, rows, width)
        found_3 = _descended(x, grad, centre, of_g, of_x, addend, inside)
        above_0, above_1, above_2, above_3 = here_0, here_1, here_2, here_3
        here_0, here_1, here_2, here_3 = below_0, below_1, below_2, below_3
        left, middle, right = found_0 + found_1, found_1 + found_2, found_2 + found_3
        now_0, now_1 = left + middle, middle + right
        at = ((row - 1) * width + column) * C + c
        used = (row > begin) & (column < width) & (c < C)
        total = (_down(before_0, latest_0, now_0, 1) * 0.0625).to(out.dtype.element_ty)
        tl.store(out + at, total, mask=used)
        used = (row > begin) & (column + 1 < width) & (c < C)
        total = (_down(before_1, latest_1, now_1, 1) * 0.0625).to(out.dtype.element_ty)
        tl.store(out + at + C, total, mask=used)
        before_0, before_1, latest_0, latest_1 = latest_0, latest_1, now_0, now_1


@triton.jit
def blur(y, out, rows, width, C, strip, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    first = tl.program_id(2).to(tl.int64) * rows * width * C
    y += first
    begin, end, column, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    c = channel[None, :]
    above, here = _above(y, begin, column, c, rows, width, C, 1, PIXELS, CHANNELS)
    for row in range(begin, end):
        below = _across(y, row + 1, column, c, rows, width, C, 1)
        value = _down(above, here, below, 1) * 0.0625
        above, here = here, below
        at = first + (row * width + column) * C + c
        tl.store(out + at, value.to(out.dtype.element_ty), mask=(column < width) & (c < C))


@triton.jit
def noise_grad(g, weight, out, P, C, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Σ weight·g over the channels of g (B, P, C) → out (B, P)."""
    b = tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    g += b.to(tl.int64) * P * C
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for begin in range(0, C, CHANNELS):
        channel = begin + tl.arange(0, CHANNELS)
        value = _pixels(g, 0, pixel[:, None], channel[None, :], 1, P, C)
        total += value * _of_channels(weight, channel, C)
    tl.store(out + b * P + pixel, tl.sum(total, axis=1), mask=pixel < P)
