"""The layers of StyleGAN3 (Karras et al., NeurIPS 2021): sizes, sampling rates, bands and filters.

A layer of StyleGAN3 is a signal of limited bandwidth, sampled. Cutoff frequency, stopband, sampling
rate and channels of every layer follow from a few numbers; so do the filters between them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from cli.errors import UserError

FAMILIES = ("stylegan3-t", "stylegan3-r")  # translation; translation and rotation
FIRST_CUTOFF, FIRST_STOPBAND, LAST_STOPBAND_REL = 2.0, 2.0**2.1, 2.0**0.3
FILTER_SIZE = 6  # taps at the lower of a filter's two rates


@dataclass(frozen=True)
class LayerLayout:
    """One layer; the fields have the names of the published files' attributes.

    Sizes are pixels with the margin, frequencies and rates per width of the picture. padding: (x
    before, x after, y before, y after) of the upsampled input; a negative one crops.
    """

    name: str
    in_channels: int
    out_channels: int
    in_size: int
    out_size: int
    in_sampling_rate: int
    out_sampling_rate: int
    tmp_sampling_rate: int  # where the activation is applied
    in_cutoff: float
    out_cutoff: float
    in_half_width: float  # of the transition band
    out_half_width: float
    conv_kernel: int
    up_factor: int
    down_factor: int
    up_taps: int
    down_taps: int
    down_radial: bool
    is_critically_sampled: bool
    is_torgb: bool
    padding: tuple[int, int, int, int]


def layer_layouts(
    resolution: int,
    family: str,
    channel_base: int,
    channel_max: int,
    depth: int,
    num_critical: int,
    margin_size: int,
) -> list[LayerLayout]:
    """Layers 0 to N = `depth`; the last is torgb. With e_i = min(i/(N − K), 1), K = `num_critical`:

    cutoff c_i = 2·(S/4)^e_i, stopband t_i = 2^2.1·((S/2)·2^0.3/2^2.1)^e_i, sampling rate s_i =
    2^⌈log2(min(2·t_i, S))⌉, half-width max(t_i, s_i/2) − c_i, size s_i + 2·`margin_size` (S in the
    last two layers), channels min(`channel_base`/(2·c_i), `channel_max`).

    Raises: ValueError where the numbers make no network.
    """
    log2 = int(resolution).bit_length() - 1
    if resolution != 2**log2 or not 4 <= log2 <= 13:
        raise ValueError(f"a resolution is a power of two from 16 to 8192, not {resolution}")
    if family not in FAMILIES:
        raise ValueError(f"family {family!r} is none of {', '.join(FAMILIES)}")
    if not 0 <= num_critical < depth <= 256 or not 0 <= margin_size <= 1024:
        raise ValueError(f"{depth} layers, {num_critical} critical, margin {margin_size}")
    if min(channel_base, channel_max) < 1:
        raise ValueError(f"channel_base {channel_base}, channel_max {channel_max}")
    N, S, rotates = depth, resolution, family == "stylegan3-r"
    cutoffs = _geometric(FIRST_CUTOFF, S / 2, N, num_critical)
    stopbands = _geometric(FIRST_STOPBAND, S / 2 * LAST_STOPBAND_REL, N, num_critical)
    rates = [2 ** math.ceil(math.log2(min(2 * t, S))) for t in stopbands]
    half_widths = [max(t, s / 2) - c for t, s, c in zip(stopbands, rates, cutoffs, strict=True)]
    sizes = [s + 2 * margin_size for s in rates[:-2]] + [S, S]
    channels = [round(min(channel_base / 2 / c, channel_max)) for c in cutoffs[:-1]] + [3]
    if min(channels) < 1:
        raise ValueError(f"channel_base {channel_base} leaves a layer without channels")
    layers = []
    for i in range(N + 1):
        p, torgb, critical = max(i - 1, 0), i == N, i >= N - num_critical
        inner = max(rates[p], rates[i]) * (1 if torgb else 2)
        up, down = inner // rates[p], inner // rates[i]
        up_taps, down_taps = (1, 1) if torgb else (FILTER_SIZE * up, FILTER_SIZE * down)
        kernel = 1 if torgb or rotates else 3
        total = (sizes[i] - 1) * down + 1  # samples that the second filter leaves
        total -= (sizes[p] + kernel - 1) * up  # samples of the input
        total += up_taps + down_taps - 2  # both filters shorten it
        before = (total + up) // 2
        layers.append(
            LayerLayout(
                name=f"L{i}_{sizes[i]}_{channels[i]}",
                in_channels=channels[p],
                out_channels=channels[i],
                in_size=sizes[p],
                out_size=sizes[i],
                in_sampling_rate=rates[p],
                out_sampling_rate=rates[i],
                tmp_sampling_rate=inner,
                in_cutoff=cutoffs[p],
                out_cutoff=cutoffs[i],
                in_half_width=half_widths[p],
                out_half_width=half_widths[i],
                conv_kernel=kernel,
                up_factor=up,
                down_factor=down,
                up_taps=up_taps,
                down_taps=down_taps,
                down_radial=rotates and not critical and down_taps > 1,
                is_critically_sampled=critical,
                is_torgb=torgb,
                padding=(before, total - before) * 2,
            )
        )
    return layers


def _geometric(first: float, last: float, depth: int, num_critical: int) -> list[float]:
    """first·(last/first)^e_i for layers 0 to `depth`."""
    exponents = (min(i / (depth - num_critical), 1) for i in range(depth + 1))
    return [first * (last / first) ** e for e in exponents]


def channel_settings(channels: list[int], cutoffs: list[float]) -> tuple[float, int]:
    """A channel_base and a channel_max with which layers 0 to N − 1, of these cutoffs, have so many
    channels: min(channel_base/(2·cutoff), channel_max), rounded. With those of another network they
    come to others, if there is no such pair.
    """
    most = max(channels)
    pairs = [(n, 2 * c) for n, c in zip(channels, cutoffs, strict=True)]
    low = max((n - 0.5) * twice for n, twice in pairs)
    high = min(((n + 0.5) * twice for n, twice in pairs if n < most), default=math.inf)
    base = 2.0 ** math.ceil(math.log2(max(low, 1)))  # as published networks have it
    if base > high:
        base = (low + high) / 2
    return int(base) if base == int(base) else base, most


def lowpass_filter(taps: int, cutoff: float, half_width: float, rate: int, radial: bool) -> Tensor:
    """The windowed lowpass of `taps` samples at `rate`, which passes frequencies below `cutoff`,
    with a transition band of twice `half_width`: (taps,), or (taps, taps) where it is radial.

    Separable: f_j ∝ sinc(2c·u_j)·K_j; radial: f_jl ∝ J1(2πc·ρ)/(πρ)·K_j·K_l, ρ = √(u_j² + u_l²),
    with u_j = (j − (n − 1)/2)/rate, K Kaiser's window and Σf = 1.
    """
    attenuation = 2.285 * (taps - 1) * math.pi * 2 * half_width / (rate / 2) + 7.95
    if attenuation > 50:
        beta = 0.1102 * (attenuation - 8.7)
    elif attenuation > 21:
        beta = 0.5842 * (attenuation - 21) ** 0.4 + 0.07886 * (attenuation - 21)
    else:
        beta = 0.0
    u = (np.arange(taps) - (taps - 1) / 2) / rate
    window = np.kaiser(taps, beta)
    if not radial:
        f = np.sinc(2 * cutoff * u) * window
    else:
        rho = np.hypot(u[:, None], u[None, :])  # never 0: `taps` is even
        f = _bessel_j1(2 * math.pi * cutoff * rho) / (math.pi * rho) * np.outer(window, window)
    return torch.tensor((f / f.sum()).astype(np.float32))


def _bessel_j1(x: np.ndarray) -> np.ndarray:
    """J1(x) = 1/π·∫ cos(t − x·sin t) dt over [0, π], by the midpoint rule, which is exact to
    rounding for a periodic function of a bandwidth below the number of points.
    """
    points = 1024
    t = (np.arange(points) + 0.5) * (math.pi / points)
    return np.cos(t - x[..., None] * np.sin(t)).mean(axis=-1)


def layer_filters(layer: LayerLayout) -> tuple[Tensor | None, Tensor | None]:
    """The filters before and after the activation; None in torgb, which has none."""
    if layer.is_torgb:
        return None, None
    rate = layer.tmp_sampling_rate
    up = lowpass_filter(layer.up_taps, layer.in_cutoff, layer.in_half_width, rate, False)
    down = lowpass_filter(
        layer.down_taps, layer.out_cutoff, layer.out_half_width, rate, layer.down_radial
    )
    return up, down


def require_layout(layouts: list[LayerLayout], stated: Mapping[str, Mapping[str, object]]) -> None:
    """Hold what a file says of its layers against `layouts`, which were computed.

    stated: attributes by the name of the layer, `input` among them; values are numbers, booleans,
    strings or sequences of numbers, and attributes that are unknown here are skipped. Raises:
    UserError, worded to follow the name of the file, naming the first that differs.
    """
    computed = {layer.name: asdict(layer) for layer in layouts}
    computed["input"] = {
        "channels": layouts[0].in_channels,
        "size": layouts[0].in_size,
        "sampling_rate": layouts[0].in_sampling_rate,
        "bandwidth": layouts[0].in_cutoff,
    }
    for name in computed:
        if name not in stated:
            raise UserError(f"was built with other layers than are read: {name} is missing")
    for name, attributes in stated.items():
        if name not in computed:
            raise UserError(f"was built with other layers than are read: {name} is unknown")
        for key, value in computed[name].items():
            if key not in attributes:
                continue
            found = attributes[key]
            if not isinstance(value, str):
                found = _numbers(found)
            if not _agree(found, value):
                raise UserError(
                    f"was built with {key} = {found} in layer {name}: only {value} is read"
                )


def _numbers(stated: object) -> object:
    """A number, or a short list of them; the name of its type where it is neither."""
    try:
        numbers = np.asarray(stated, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return type(stated).__name__
    return numbers.tolist() if numbers.size <= 4 else f"{numbers.size} numbers"


def _agree(found: object, computed: object) -> bool:
    """Whether they are the same to rounding; a size may be stated once for each axis."""
    if isinstance(found, str) or isinstance(computed, str):
        return found == computed
    if np.shape(found) not in (np.shape(computed), (2,) if np.ndim(computed) == 0 else ()):
        return False
    return bool(np.allclose(found, computed, rtol=1e-6, atol=1e-6))
