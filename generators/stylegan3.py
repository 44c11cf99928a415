"""The synthesis network of StyleGAN3 (Karras et al., NeurIPS 2021), in its configurations T and R:
w → picture, without noise. The mapping network is that of stylegan.py.

Written to be read, like stylegan.py: every formula stands where it is used. This is the reference
that fast/stylegan3.py is tested against. Names and shapes of parameters and buffers are those of
the published files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from generators.stylegan3_layout import LayerLayout, layer_filters, layer_layouts
from stylegan import LEAKY_SLOPE, EqualisedLinear, gaussian

DEMODULATION_EPS = 1e-8


def upsample(x: Tensor, f: Tensor, up: int, padding: tuple[int, int, int, int]) -> Tensor:
    """up − 1 zeros after every sample of a row and of a column, zero padding (x before, x after, y
    before, y after; a negative one crops), the filter f of n taps along both axes, and times up².

    (B, C, h, w) → (B, C, h·up + y before + y after − n + 1, …). It is a transposed convolution of
    stride up, of which those samples are cut out: n/up products a sample, none with an inserted
    zero.
    """
    n, C = len(f), x.shape[1]
    x0, x1, y0, y1 = (n - 1 - pad for pad in padding)  # samples to leave out
    x1, y1 = x1 - (up - 1), y1 - (up - 1)  # the zeros after the last sample reach as far
    f = f * up
    x = F.conv_transpose2d(x, f.view(1, 1, n, 1).expand(C, 1, n, 1), stride=(up, 1), groups=C)
    x = F.pad(x, (0, 0, -y0, -y1))
    x = F.conv_transpose2d(x, f.view(1, 1, 1, n).expand(C, 1, 1, n), stride=(1, up), groups=C)
    return F.pad(x, (-x0, -x1, 0, 0))


def downsample(x: Tensor, f: Tensor, down: int) -> Tensor:
    """Every down-th sample of x filtered with f, without padding; f (n,) goes along both axes, f
    (n, n) is one filter of two dimensions.
    """
    n, C = len(f), x.shape[1]
    if f.ndim == 2:
        return F.conv2d(x, f.expand(C, 1, n, n), stride=down, groups=C)
    x = F.conv2d(x, f.view(1, 1, n, 1).expand(C, 1, n, 1), stride=(down, 1), groups=C)
    return F.conv2d(x, f.view(1, 1, 1, n).expand(C, 1, 1, n), stride=(1, down), groups=C)


def random_frequencies(channels: int, bandwidth: float) -> tuple[Tensor, Tensor]:
    """Frequencies (channels, 2), uniform in a disc, and phases (channels,), uniform in ±½; on the
    meta device their shapes alone, for the reason of `gaussian`.
    """
    freqs, phases = torch.empty(channels, 2), torch.empty(channels)
    if not freqs.is_meta:
        radii, angles = bandwidth * torch.rand(channels).sqrt(), 2 * math.pi * torch.rand(channels)
        freqs = torch.stack([radii * angles.cos(), radii * angles.sin()], dim=1)
        phases = torch.rand(channels) - 0.5
    return freqs, phases


class FourierInput(nn.Module):
    """w (B, d) → (B, C, size, size): sines of fixed frequencies and phases, turned and shifted by
    w, and mixed by a C×C matrix.
    """

    def __init__(self, dlatent_size: int, channels: int, size: int, rate: int, bandwidth: float):
        super().__init__()
        self.size, self.rate, self.bandwidth = size, rate, bandwidth
        self.weight = nn.Parameter(gaussian(channels, channels))
        self.affine = EqualisedLinear(dlatent_size, 4, gain=1.0)
        with torch.no_grad():
            self.affine.weight.zero_()
            self.affine.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
        identity = [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]  # torch.eye is slow on meta
        freqs, phases = random_frequencies(channels, bandwidth)
        self.register_buffer("transform", torch.tensor(identity))
        self.register_buffer("freqs", freqs)
        self.register_buffer("phases", phases)

    def forward(self, w: Tensor) -> Tensor:
        # (r_c, r_s) is a turn, (t_x, t_y) a shift in widths of the picture, both before `transform`
        r_c, r_s, t_x, t_y = self.affine(w).unbind(dim=1)
        norm = torch.rsqrt(r_c.square() + r_s.square())
        r_c, r_s, t_x, t_y = r_c * norm, r_s * norm, t_x * norm, t_y * norm
        turn = torch.stack([r_c, -r_s, r_s, r_c], dim=1).view(-1, 2, 2)
        shift = turn @ -torch.stack([t_x, t_y], dim=1)[:, :, None]  # (B, 2, 1)
        M = torch.cat([turn, shift], dim=2) @ self.transform  # (B, 2, 3)
        phases = self.phases + (self.freqs @ M[:, :, 2:]).squeeze(2)  # (B, C)
        freqs = self.freqs @ M[:, :, :2]  # (B, C, 2)
        # what is turned and stretched out of the band fades out towards half the sampling rate
        excess = (torch.linalg.vector_norm(freqs, dim=2) - self.bandwidth) / (
            self.rate / 2 - self.bandwidth
        )
        amplitudes = (1 - excess).clamp(0, 1)  # (B, C)
        at = torch.arange(self.size, dtype=w.dtype, device=w.device)
        at = (at + 0.5 - self.size / 2) / self.rate
        # angles (B, row, column, C), in turns
        across = at[:, None] * freqs[:, None, None, :, 0]
        down = at[:, None, None] * freqs[:, None, None, :, 1]
        x = (
            torch.sin(2 * math.pi * (across + down + phases[:, None, None]))
            * amplitudes[:, None, None]
        )
        x = x @ (self.weight / math.sqrt(len(self.weight))).T
        return x.permute(0, 3, 1, 2)


class Layer(nn.Module):
    """w (B, d), x (B, in, r, r) → (B, out, r', r'): a modulated convolution, then, but for torgb,
    √2·LeakyReLU(0.2) at twice the higher of both sampling rates.
    """

    def __init__(self, layout: LayerLayout, dlatent_size: int, conv_clamp: float):
        super().__init__()
        fan_in, fan_out, k = layout.in_channels, layout.out_channels, layout.conv_kernel
        self.layout, self.conv_clamp = layout, conv_clamp
        self.affine = EqualisedLinear(dlatent_size, fan_in, gain=1.0)
        nn.init.ones_(self.affine.bias)
        self.weight = nn.Parameter(gaussian(fan_out, fan_in, k, k))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.register_buffer("magnitude_ema", torch.ones(()))
        up_filter, down_filter = layer_filters(layout)
        self.register_buffer("up_filter", up_filter)
        self.register_buffer("down_filter", down_filter)

    def convolve(self, x: Tensor, w: Tensor) -> Tensor:
        """The modulated convolution, to the pixels around, with its bias."""
        s, weight = self.affine(w), self.weight  # (B, in)
        if self.layout.is_torgb:
            s = s / math.sqrt(self.layout.in_channels)
            scale = torch.ones_like(self.bias)
        else:
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
            s = s * s.square().mean(dim=1, keepdim=True).rsqrt()
            # demodulation: what makes the norm of each of the B·out kernels 1
            norms = s.square() @ weight.square().sum(dim=(2, 3)).T
            scale = (norms + DEMODULATION_EPS).rsqrt()  # (B, out)
        scale = scale * self.magnitude_ema.rsqrt()
        x = F.conv2d(x * s[:, :, None, None], weight, padding=self.layout.conv_kernel - 1)
        return x * scale.reshape(-1, len(self.bias), 1, 1) + self.bias.view(-1, 1, 1)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        x = self.convolve(x, w)
        if self.layout.is_torgb:
            return x.clamp(-self.conv_clamp, self.conv_clamp)
        x = upsample(x, self.up_filter, self.layout.up_factor, self.layout.padding)
        x = F.leaky_relu(x, LEAKY_SLOPE) * math.sqrt(2)
        x = x.clamp(-self.conv_clamp, self.conv_clamp)
        return downsample(x, self.down_filter, self.layout.down_factor)


class StyleGAN3Synthesis(nn.Module):
    """w (B, L, dlatent_size) → picture (B, 3, S, S), about [-1, 1], S = `resolution`.

    L = `depth` + 2: row 0 of w turns and shifts the input, row i + 1 is the style of layer i, layer
    `depth` being torgb. family: stylegan3-t or stylegan3-r. channel_base, channel_max: as they
    are, in R as well, whose published files have twice those of T. conv_clamp: what activations and
    colours are cut to, inf for none. All other arguments: `layer_layouts`, which raises ValueError.
    """

    def __init__(
        self,
        resolution: int = 1024,
        family: str = "stylegan3-t",
        dlatent_size: int = 512,
        channel_base: float = 32768,
        channel_max: int = 512,
        depth: int = 14,
        num_critical: int = 2,
        margin_size: int = 10,
        output_scale: float = 0.25,
        conv_clamp: float = 256.0,
    ):
        super().__init__()
        shape = {
            "resolution": resolution,
            "family": family,
            "channel_base": channel_base,
            "channel_max": channel_max,
            "depth": depth,
            "num_critical": num_critical,
            "margin_size": margin_size,
        }
        self.config = shape | {
            "dlatent_size": dlatent_size,
            "output_scale": output_scale,
            "conv_clamp": conv_clamp,
        }
        self.layouts = layouts = layer_layouts(**shape)
        self.family, self.resolution, self.dlatent_size = family, resolution, dlatent_size
        self.num_layers = depth + 2  # rows of w
        self.noise_sizes: list[int] = []
        self.output_scale = output_scale
        self.input = FourierInput(
            dlatent_size,
            layouts[0].in_channels,
            layouts[0].in_size,
            layouts[0].in_sampling_rate,
            layouts[0].in_cutoff,
        )
        for layout in layouts:
            self.add_module(layout.name, Layer(layout, dlatent_size, conv_clamp))

    @property
    def layers(self) -> list[Layer]:
        return [getattr(self, layout.name) for layout in self.layouts]

    @property
    def multiply_adds(self) -> int:
        """Of a forward pass of one picture: the input's matrix, convolutions and filters."""
        of_input = self.input.weight.numel() * self.input.size**2
        of_layers = (convolution_products(each) + filter_products(each) for each in self.layouts)
        return of_input + sum(of_layers)

    def forward(self, w: Tensor, noise: list[Tensor] | tuple = ()) -> Tensor:
        x = self.input(w[:, 0])
        for i, layer in enumerate(self.layers):
            x = layer(x, w[:, i + 1])
        return x * self.output_scale


def convolution_products(layer: LayerLayout) -> int:
    """Multiply-adds of its convolution, the pixels around among them."""
    pixels = (layer.in_size + layer.conv_kernel - 1) ** 2
    return layer.in_channels * layer.out_channels * layer.conv_kernel**2 * pixels


def filter_products(layer: LayerLayout) -> int:
    """Multiply-adds of both filters, those with inserted zeros and those of samples that are
    dropped left out.
    """
    if layer.is_torgb:
        return 0
    before = layer.in_size + layer.conv_kernel - 1
    after = layer.out_size
    inner = (after - 1) * layer.down_factor + layer.down_taps
    taps, down = layer.up_taps // layer.up_factor, layer.down_taps
    products = taps * (inner * before + inner**2)  # along columns, then along rows
    products += down**2 * after**2 if layer.down_radial else down * (after * inner + after**2)
    return products * layer.out_channels
