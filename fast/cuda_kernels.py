"""What is between two convolutions, on a GPU: a few Triton kernels that serve every shape, as
cpu.c does on a CPU. cuda.py launches them.

All pictures are channels last: (B, P, C) in memory, P = rows·width pixels. A program works on
tiles of PIXELS·CHANNELS numbers of one picture, in float32 whatever the pictures are stored in.
Sums over the pixels are first those of each program, then added up by a second, small kernel:
nothing is added in an order that is left to chance.
"""

from __future__ import annotations

import triton
import triton.language as tl

from fast.synthesis import NORM_EPS
from stylegan import LEAKY_SLOPE

SLOPE = tl.constexpr(LEAKY_SLOPE)
EPS = tl.constexpr(NORM_EPS)


@triton.jit
def _taps(row, column, rows, width, down: tl.constexpr, right: tl.constexpr):
    """Of the neighbour `down` and `right` (−1, 0 or 1): whether it is in the picture, and its
    weight in [1,2,1]⊗[1,2,1]/16.
    """
    below, beside = row + down, column + right
    inside = (below >= 0) & (below < rows) & (beside >= 0) & (beside < width)
    return inside, (2 - down * down) * (2 - right * right) / 16


@triton.jit
def blur(y, out, rows, width, C, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    P = rows * width
    first = tl.program_id(2).to(tl.int64) * P * C
    p = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    c = (tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS))[None, :]
    used = (p < P) & (c < C)
    total = tl.zeros((PIXELS, CHANNELS), tl.float32)
    for down in tl.static_range(-1, 2):
        for right in tl.static_range(-1, 2):
            inside, weight = _taps(p // width, p % width, rows, width, down, right)
            at = first + (p + down * width + right) * C + c
            total += weight * tl.load(y + at, mask=used & inside, other=0.0).to(tl.float32)
    tl.store(out + first + p * C + c, total.to(out.dtype.element_ty), mask=used)


@triton.jit
def leaky(
    y,
    out,
    bias,
    weight,
    noise,
    means,
    squares,
    rows,
    width,
    C,
    tiles,
    NOISE: tl.constexpr,
    BLUR: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = LeakyReLU(blur(y) + bias + weight·noise), and of the `tiles` tiles of a program the
    mean of `out` and its squared deviations from that, each (B, programs, C).
    """
    P, b = rows * width, tl.program_id(2)
    first = b.to(tl.int64) * P * C
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = channel[None, :]
    add = tl.load(bias + channel, mask=channel < C, other=0.0)[None, :]
    if NOISE:
        scale = tl.load(weight + channel, mask=channel < C, other=0.0)[None, :]
    number = 0.0  # of pixels so far
    mean = tl.zeros((CHANNELS,), tl.float32)
    square = tl.zeros((CHANNELS,), tl.float32)
    start = tl.program_id(0) * tiles * PIXELS
    for tile in range(tiles):
        p = (start + tile * PIXELS + tl.arange(0, PIXELS))[:, None]
        used = (p < P) & (c < C)
        if BLUR:
            value = tl.zeros((PIXELS, CHANNELS), tl.float32)
            for down in tl.static_range(-1, 2):
                for right in tl.static_range(-1, 2):
                    inside, tap = _taps(p // width, p % width, rows, width, down, right)
                    at = first + (p + down * width + right) * C + c
                    value += tap * tl.load(y + at, mask=used & inside, other=0.0).to(tl.float32)
        else:
            value = tl.load(y + first + p * C + c, mask=used, other=0.0).to(tl.float32)
        value += add
        if NOISE:
            value += scale * tl.load(noise + b * P + p, mask=p < P, other=0.0)
        value = tl.where(value > 0, value, value * SLOPE)
        stored = value.to(out.dtype.element_ty)
        tl.store(out + first + p * C + c, stored, mask=used)
        value = stored.to(tl.float32)
        # Chan's sums of two sets of numbers: nothing is lost where the mean is large.
        here = tl.maximum(tl.minimum(P - start - tile * PIXELS, PIXELS), 0).to(tl.float32)
        own = tl.sum(tl.where(used, value, 0.0), axis=0) / tl.maximum(here, 1.0)
        apart = tl.where(used, value - own[None, :], 0.0)
        between, both = own - mean, tl.maximum(number + here, 1.0)
        square += tl.sum(apart * apart, axis=0) + between * between * (number * here / both)
        mean += between * (here / both)
        number += here
    to = (b * tl.num_programs(0) + tl.program_id(0)) * C + channel
    tl.store(means + to, mean, mask=channel < C)
    tl.store(squares + to, square, mask=channel < C)


@triton.jit
def moments(
    means,
    squares,
    mean,
    variance,
    P,
    C,
    programs,
    pixels,
    PROGRAMS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean and biased variance, each (B, C), of what `programs` of `leaky`, of `pixels` each, have
    found.
    """
    b = tl.program_id(1)
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    i = tl.arange(0, PROGRAMS)[:, None]
    used = (i < programs) & (channel[None, :] < C)
    at = (b * programs + i) * C + channel[None, :]
    number = tl.where(i < programs, tl.minimum(P - i * pixels, pixels), 0).to(tl.float32)
    own = tl.load(means + at, mask=used, other=0.0)
    whole = tl.sum(own * number, axis=0) / P
    apart = own - whole[None, :]
    total = tl.load(squares + at, mask=used, other=0.0) + number * apart * apart
    tl.store(mean + b * C + channel, whole, mask=channel < C)
    tl.store(variance + b * C + channel, tl.sum(total, axis=0) / P, mask=channel < C)


@triton.jit
def affine(x, out, mean, a, b, P, C, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    picture = tl.program_id(2)
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    p = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    used = (p < P) & (c < C)[None, :]
    at = picture.to(tl.int64) * P * C + p * C + c[None, :]
    of = picture * C + c
    centre = tl.load(mean + of, mask=c < C, other=0.0)[None, :]
    factor = tl.load(a + of, mask=c < C, other=0.0)[None, :]
    addend = tl.load(b + of, mask=c < C, other=0.0)[None, :]
    value = tl.load(x + at, mask=used, other=0.0).to(tl.float32)
    value = factor * (value - centre) + addend
    tl.store(out + at, value.to(out.dtype.element_ty), mask=used)


@triton.jit
def picture(x, out, mean, a, b, weight, bias, P, C, PIXELS: tl.constexpr, CHANNELS: tl.constexpr):
    """out (B, 3, P) = weight·(a·(x − mean) + b) + bias."""
    picture = tl.program_id(1)
    pixel = tl.program_id(0) * PIXELS + tl.arange(0, PIXELS)
    p = pixel[:, None]
    red = tl.zeros((PIXELS,), tl.float32)
    green = tl.zeros((PIXELS,), tl.float32)
    blue = tl.zeros((PIXELS,), tl.float32)
    for begin in range(0, C, CHANNELS):
        c = begin + tl.arange(0, CHANNELS)
        of = picture * C + c
        centre = tl.load(mean + of, mask=c < C, other=0.0)[None, :]
        factor = tl.load(a + of, mask=c < C, other=0.0)[None, :]
        addend = tl.load(b + of, mask=c < C, other=0.0)[None, :]
        at = picture.to(tl.int64) * P * C + p * C + c[None, :]
        used = (p < P) & (c < C)[None, :]
        value = factor * (tl.load(x + at, mask=used, other=0.0).to(tl.float32) - centre) + addend
        red += tl.sum(value * tl.load(weight + c, mask=c < C, other=0.0)[None, :], axis=1)
        green += tl.sum(value * tl.load(weight + C + c, mask=c < C, other=0.0)[None, :], axis=1)
        blue += tl.sum(value * tl.load(weight + 2 * C + c, mask=c < C, other=0.0)[None, :], axis=1)
    to = out + picture.to(tl.int64) * 3 * P + pixel
    tl.store(to, red + tl.load(bias), mask=pixel < P)
    tl.store(to + P, green + tl.load(bias + 1), mask=pixel < P)
    tl.store(to + 2 * P, blue + tl.load(bias + 2), mask=pixel < P)


@triton.jit
def _gradient(g, weight, picture, p, c, used, P, C, OF_PICTURE: tl.constexpr):
    """The gradient g (B, P, C) at pixels p, or with OF_PICTURE that of weightᵀ·g, g (B, 3, P)."""
    if OF_PICTURE:
        value = tl.zeros((p.shape[0], c.shape[1]), tl.float32)
        for colour in tl.static_range(3):
            at = (picture.to(tl.int64) * 3 + colour) * P + p
            grad = tl.load(g + at, mask=(p >= 0) & (p < P), other=0.0)
            value += grad * tl.load(weight + colour * C + c, mask=c < C, other=0.0)
        return tl.where(used, value, 0.0)
    else:
        at = picture.to(tl.int64) * P * C + p * C + c
        return tl.load(g + at, mask=used, other=0.0).to(tl.float32)


@triton.jit
def sums(
    g,
    weight,
    x,
    mean,
    sums,
    P,
    C,
    tiles,
    OF_PICTURE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Σg and Σg·(x − mean) over the pixels of a program, into sums (2, B, programs, C)."""
    b = tl.program_id(2)
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c = channel[None, :]
    centre = tl.load(mean + b * C + channel, mask=channel < C, other=0.0)[None, :]
    of_g = tl.zeros((CHANNELS,), tl.float32)
    of_product = tl.zeros((CHANNELS,), tl.float32)
    for tile in range(tiles):
        p = ((tl.program_id(0) * tiles + tile) * PIXELS + tl.arange(0, PIXELS))[:, None]
        used = (p < P) & (c < C)
        value = _gradient(g, weight, b, p, c, used, P, C, OF_PICTURE)
        at = b.to(tl.int64) * P * C + p * C + c
        centred = tl.load(x + at, mask=used, other=0.0).to(tl.float32) - centre
        of_g += tl.sum(value, axis=0)
        of_product += tl.sum(value * centred, axis=0)
    to = (b * tl.num_programs(0) + tl.program_id(0)) * C + channel
    tl.store(sums + to, of_g, mask=channel < C)
    size = tl.num_programs(2) * tl.num_programs(0) * C
    tl.store(sums + size + to, of_product, mask=channel < C)


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
def leaky_grad(
    g,
    weight,
    x,
    out,
    mean,
    a,
    q,
    p_,
    rows,
    width,
    C,
    BLUR: tl.constexpr,
    OF_PICTURE: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """out = (a·g + q·(x − mean) + p)·LeakyReLU'(x), blurred if BLUR: of nine neighbours then."""
    P, b = rows * width, tl.program_id(2)
    first = b.to(tl.int64) * P * C
    channel = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    c, of = channel[None, :], b * C + channel
    p = (tl.program_id(0) * PIXELS + tl.arange(0, PIXELS))[:, None]
    used = (p < P) & (c < C)
    centre = tl.load(mean + of, mask=channel < C, other=0.0)[None, :]
    of_g = tl.load(a + of, mask=channel < C, other=0.0)[None, :]
    of_x = tl.load(q + of, mask=channel < C, other=0.0)[None, :]
    addend = tl.load(p_ + of, mask=channel < C, other=0.0)[None, :]
    if BLUR:
        total = tl.zeros((PIXELS, CHANNELS), tl.float32)
        for down in tl.static_range(-1, 2):
            for right in tl.static_range(-1, 2):
                inside, tap = _taps(p // width, p % width, rows, width, down, right)
                near = p + down * width + right
                grad = _gradient(g, weight, b, near, c, used & inside, P, C, OF_PICTURE)
                value = tl.load(x + first + near * C + c, mask=used & inside, other=0.0)
                value = value.to(tl.float32)
                du = of_g * grad + of_x * (value - centre) + addend
                du = tl.where(value > 0, du, du * SLOPE)
                total += tl.where(inside, tap * du, 0.0)
    else:
        grad = _gradient(g, weight, b, p, c, used, P, C, OF_PICTURE)
        value = tl.load(x + first + p * C + c, mask=used, other=0.0).to(tl.float32)
        total = of_g * grad + of_x * (value - centre) + addend
        total = tl.where(value > 0, total, total * SLOPE)
    tl.store(out + first + p * C + c, total.to(out.dtype.element_ty), mask=used)


@triton.jit
def style(style, variance, rstd, a, b, C, BLOCK: tl.constexpr):
    """rstd = 1/√(variance + eps), a = (s₀ + 1)·rstd, b = s₁, of a style (B, 2C)."""
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.program_id(1)
    used = c < C
    inverse = 1 / tl.sqrt(tl.load(variance + row * C + c, mask=used, other=1.0) + EPS)
    scale = tl.load(style + row * 2 * C + c, mask=used, other=0.0)
    tl.store(rstd + row * C + c, inverse, mask=used)
    tl.store(a + row * C + c, (scale + 1) * inverse, mask=used)
    shift = tl.load(style + row * 2 * C + C + c, mask=used, other=0.0)
    tl.store(b + row * C + c, shift, mask=used)


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
