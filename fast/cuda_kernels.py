"""What is between two convolutions, on a GPU: a few Triton kernels that serve every shape, as
cpu.c does on a CPU. cuda.py launches them.

All pictures are channels last: (B, rows, width, C) in memory. The activation x = LeakyReLU(blur(y)
+ bias + weight·noise) is never stored: what needs it computes it again from y, the convolution's
result, which takes no more reading than x would, and no writing.

A program has PIXELS columns and CHANNELS channels of `strip` rows of one picture. It goes down two
rows at a time, both read before either is written, or where the gradient is blurred one, in float32
whatever the pictures are stored in, and of a blur it keeps the two rows above.
Sums over the pixels are first those of each program, then added up by a second, small kernel:
nothing is added in an order that is left to chance.

BLUR: 1 where y is blurred, else 0. NOISE: whether there is any. PIXELS is less than the threads of
a program: a row of noise is then read by each thread that needs it, and none waits for another.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fast.synthesis import NORM_EPS
from stylegan import LEAKY_SLOPE

SLOPE = tl.constexpr(LEAKY_SLOPE)
EPS = tl.constexpr(NORM_EPS)


@triton.jit
def _strip(rows, width, strip, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """Of a program: its first row and that after its last, its columns and its channels."""
    across = (width + PIXELS - 1) // PIXELS
    begin = tl.program_id(0) // across * strip
    column = tl.program_id(0) % across * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    return begin, tl.minimum(begin + strip, rows), column[:, None], channel


@triton.jit
def _inside(row, column, rows, width):
    return (row >= 0) & (row < rows) & (column >= 0) & (column < width)


@triton.jit
def _pixels(y, row, column, c, rows, width, C):
    """Those of a row of one picture y, zeros beyond the edge."""
    used = _inside(row, column, rows, width) & (c < C)
    return tl.load(y + row * (width * C) + (column * C + c), mask=used, other=0.0).to(tl.float32)


@triton.jit
def _across(y, row, column, c, rows, width, C, BLUR: tl.constexpr):
    """_pixels, or of a blur [1,2,1] along the row."""
    value = _pixels(y, row, column, c, rows, width, C)
    if BLUR:
        left = _pixels(y, row, column - 1, c, rows, width, C)
        value = left + 2 * value + _pixels(y, row, column + 1, c, rows, width, C)
    return value


@triton.jit
def _above(y, begin, column, c, rows, width, C, BLUR: tl.constexpr, PIXELS, CHANNELS):
    """What `_down` needs before row `begin`."""
    if BLUR:
        above = _across(y, begin - 1, column, c, rows, width, C, BLUR)
        here = _across(y, begin, column, c, rows, width, C, BLUR)
    else:
        above = tl.zeros((PIXELS, CHANNELS), tl.float32)
        here = tl.zeros(
            (PIXELS, CHANNELS), tl.float32
        )  # not `above`: loops would take them for one
    return above, here


@triton.jit
def _down(above, here, below, BLUR: tl.constexpr):
    """[1,2,1] down three rows; without a blur the row read last."""
    if BLUR:
        below = above + 2 * here + below
    return below


@triton.jit
def _leaky(
    value, add, scale, noise, row, column, rows, width, BLUR: tl.constexpr, NOISE: tl.constexpr
):
    """LeakyReLU(value + bias + weight·noise) of a row; of a blur, value is 16 times the blurred."""
    if BLUR:
        value = value * 0.0625 + add
    else:
        value += add
    if NOISE:
        used = _inside(row, column, rows, width)
        value += scale * tl.load(noise + row * width + column, mask=used, other=0.0)
    return tl.maximum(value, value * SLOPE)


@triton.jit
def _of_channels(vector, channel, C):
    return tl.load(vector + channel, mask=channel < C, other=0.0)[None, :]


@triton.jit
def statistics(
    y,
    bias,
    weight,
    noise,
    means,
    squares,
    rows,
    width,
    C,
    strip,
    BLUR: tl.constexpr,
    NOISE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Of a program's share of x the mean and the squared deviations from it, (B, programs, C)."""
    b = tl.program_id(2)
    y += b.to(tl.int64) * rows * width * C
    if NOISE:
        noise += b * rows * width
    begin, end, column, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    c = channel[None, :]
    add, scale = _of_channels(bias, channel, C), _of_channels(weight, channel, C)
    number = 0.0  # of rows so far
    mean = tl.zeros((PIXELS, CHANNELS), tl.float32)  # Welford's, of each column
    square = tl.zeros((PIXELS, CHANNELS), tl.float32)
    above, here = _above(y, begin, column, c, rows, width, C, BLUR, PIXELS, CHANNELS)
    for row in range(begin, end, 2):
        below = _across(y, row + BLUR, column, c, rows, width, C, BLUR)
        last = _across(y, row + 1 + BLUR, column, c, rows, width, C, BLUR)
        value = _down(above, here, below, BLUR)
        value = _leaky(value, add, scale, noise, row, column, rows, width, BLUR, NOISE)
        second = _down(here, below, last, BLUR)
        second = _leaky(second, add, scale, noise, row + 1, column, rows, width, BLUR, NOISE)
        above, here = below, last
        number += 1.0
        apart = value - mean
        mean += apart * (1.0 / number)
        square += apart * (value - mean)
        both = row + 1 < end
        number += tl.where(both, 1.0, 0.0)
        apart = tl.where(both, second - mean, 0.0)
        mean += apart * (1.0 / number)
        square += apart * (second - mean)
    used = column < width
    columns = tl.sum(tl.where(used, 1.0, 0.0))
    own = tl.sum(tl.where(used, mean, 0.0), axis=0) / columns
    apart = mean - own[None, :]
    square = tl.sum(tl.where(used, square + number * apart * apart, 0.0), axis=0)
    to = (b * tl.num_programs(0) + tl.program_id(0)) * C + channel
    tl.store(means + to, own, mask=channel < C)
    tl.store(squares + to, square, mask=channel < C)


@triton.jit
def moments(
    means,
    squares,
    style,
    mean,
    rstd,
    a,
    b,
    rows,
    width,
    C,
    strip,
    columns,
    programs,
    PROGRAMS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Of what `programs` of `statistics` have found, each of `strip` rows and `columns` columns, or
    what the picture has left of them: the mean, and with the biased variance and a style (B, 2C)
    rstd = 1/√(variance + eps), a = (s₀ + 1)·rstd and b = s₁, each (B, C).
    """
    picture = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    i = tl.arange(0, PROGRAMS)[:, None]
    used = (i < programs) & (channel[None, :] < C)
    at = (picture * programs + i) * C + channel[None, :]
    across = (width + columns - 1) // columns
    number = tl.minimum(rows - i // across * strip, strip)
    number *= tl.minimum(width - i % across * columns, columns)
    number = tl.where(i < programs, number, 0).to(tl.float32)
    own = tl.load(means + at, mask=used, other=0.0)
    apart = tl.load(squares + at, mask=used, other=0.0)
    P = rows * width
    whole = tl.sum(own * number, axis=0) / P
    own -= whole[None, :]
    variance = tl.sum(apart + number * own * own, axis=0) / P
    inverse = 1 / tl.sqrt(variance + EPS)
    used = channel < C
    scale = tl.load(style + picture * 2 * C + channel, mask=used, other=0.0)
    shift = tl.load(style + picture * 2 * C + C + channel, mask=used, other=0.0)
    to = picture * C + channel
    tl.store(mean + to, whole, mask=used)
    tl.store(rstd + to, inverse, mask=used)
    tl.store(a + to, (scale + 1) * inverse, mask=used)
    tl.store(b + to, shift, mask=used)


@triton.jit
def affine(
    y,
    out,
    bias,
    weight,
    noise,
    mean,
    a,
    b,
    rows,
    width,
    C,
    strip,
    BLUR: tl.constexpr,
    NOISE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = a·(x − mean) + b. Without BLUR, out may be y."""
    picture = tl.program_id(2)
    first = picture.to(tl.int64) * rows * width * C
    y += first
    out += first
    if NOISE:
        noise += picture * rows * width
    begin, end, column, channel = _strip(rows, width, strip, PIXELS, CHANNELS)
    c, of = channel[None, :], picture * C
    add, scale = _of_channels(bias, channel, C), _of_channels(weight, channel, C)
    centre = _of_channels(mean + of, channel, C)
    factor, addend = _of_channels(a + of, channel, C), _of_channels(b + of, channel, C)
    above, here = _above(y, begin, column, c, rows, width, C, BLUR, PIXELS, CHANNELS)
    for row in range(begin, end, 2):
        below = _across(y, row + BLUR, column, c, rows, width, C, BLUR)
        last = _across(y, row + 1 + BLUR, column, c, rows, width, C, BLUR)
        value = _down(above, here, below, BLUR)
        value = _leaky(value, add, scale, noise, row, column, rows, width, BLUR, NOISE)
        second = _down(here, below, last, BLUR)
        second = _leaky(second, add, scale, noise, row + 1, column, rows, width, BLUR, NOISE)
        above, here = below, last
        value = factor * (value - centre) + addend
        second = factor * (second - centre) + addend
        used = (column < width) & (c < C)
        at = row * (width * C) + (column * C + c)
        tl.store(out + at, value.to(out.dtype.element_ty), mask=used)
        used &= row + 1 < end
        tl.store(out + width * C + at, second.to(out.dtype.element_ty), mask=used)


@triton.jit
def picture(
    y,
    out,
    bias,
    weight,
    noise,
    mean,
    a,
    b,
    to_rgb,
    rgb_bias,
    P,
    C,
    NOISE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out (B, 3, P) = to_rgb·(a·(x − mean) + b) + rgb_bias, for x of a y that is not blurred: all
    pixels of a picture are as of one row.
    """
    picture = tl.program_id(1)
    y += picture.to(tl.int64) * P * C
    if NOISE:
        noise += picture * P
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    p = pixel[:, None]
    red = tl.zeros((PIXELS,), tl.float32)
    green = tl.zeros((PIXELS,), tl.float32)
    blue = tl.zeros((PIXELS,), tl.float32)
    for begin in range(0, C, CHANNELS):
        channel = begin + tl.arange(0, CHANNELS)
        of = picture * C
        add, scale = _of_channels(bias, channel, C), _of_channels(weight, channel, C)
        centre = _of_channels(mean + of, channel, C)
        factor, addend = _of_channels(a + of, channel, C), _of_channels(b + of, channel, C)
        value = _pixels(y, 0, p, channel[None, :], 1, P, C)
        value = _leaky(value, add, scale, noise, 0, p, 1, P, 0, NOISE)
        value = factor * (value - centre) + addend
        red += tl.sum(value * _of_channels(to_rgb, channel, C), axis=1)
        green += tl.sum(value * _of_channels(to_rgb + C, channel, C), axis=1)
        blue += tl.sum(value * _of_channels(to_rgb + 2 * C, channel, C), axis=1)
    to = out + picture.to(tl.int64) * 3 * P + pixel
    tl.store(to, red + tl.load(rgb_bias), mask=pixel < P)
    tl.store(to + P, green + tl.load(rgb_bias + 1), mask=pixel < P)
    tl.store(to + 2 * P, blue + tl.load(rgb_bias + 2), mask=pixel < P)
