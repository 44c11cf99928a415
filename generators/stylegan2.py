"""The synthesis network of StyleGAN2 (Karras et al., CVPR 2020; with adaptive discriminator
augmentation, NeurIPS 2020): w and noise → picture, in its three architectures.

Written to be read, like stylegan.py, and the reference for fast/stylegan2.py. Its mapping network
is stylegan.G_mapping. Names and shapes of parameters and buffers are those of NVIDIA's files,
without the leading `synthesis.`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stylegan import LEAKY_SLOPE, EqualisedLinear, gaussian

ARCHITECTURES = ("skip", "resnet", "orig")
EPSILON = 1e-8  # of the demodulation


def fir_kernel() -> Tensor:
    """[1, 3, 3, 1]⊗[1, 3, 3, 1]/64: (4, 4), its sum is 1."""
    return torch.tensor([[a * b / 64 for b in (1, 3, 3, 1)] for a in (1, 3, 3, 1)])


def fir(x: Tensor, kernel: Tensor, up: int, padding: tuple[int, int], gain: float) -> Tensor:
    """(B, C, r, r), after each sample of which up − 1 zeros are put, with `padding` zeros before
    and after each axis, every channel convolved with the symmetric `kernel` (k, k), times gain:
    (B, C, up·r + padding − k + 1, …).
    """
    B, C, height, width = x.shape
    x = F.pad(x.view(B, C, height, 1, width, 1), (0, up - 1, 0, 0, 0, up - 1))
    x = F.pad(x.reshape(B, C, up * height, up * width), (*padding, *padding))
    return F.conv2d(x, (gain * kernel).expand(C, 1, *kernel.shape), groups=C)


def upsample(x: Tensor, kernel: Tensor) -> Tensor:
    """(B, C, r, r) → (B, C, 2r, 2r)."""
    return fir(x, kernel, up=2, padding=(2, 1), gain=4)


def modulated(weight: Tensor, s: Tensor, demodulate: bool) -> Tensor:
    """One kernel for each picture: w'_oi = w_oi·s_i, and demodulated w'_oi/√(Σ w'_oi² + 1e-8), the
    sum over i and the kernel. weight (O, I, k, k), s (B, I) → (B, O, I, k, k).
    """
    kernels = weight * s[:, None, :, None, None]
    if demodulate:
        kernels = kernels * (kernels.square().sum((2, 3, 4), keepdim=True) + EPSILON).rsqrt()
    return kernels


def convolve(x: Tensor, kernels: Tensor) -> Tensor:
    """Each picture of x (B, I, r, r) with its own of `kernels` (B, O, I, k, k): (B, O, r, r)."""
    B, channels, _, k, _ = kernels.shape
    pictures = x.reshape(1, -1, *x.shape[2:])  # the batch as groups of channels
    y = F.conv2d(pictures, kernels.flatten(0, 1), padding=k // 2, groups=B)
    return y.view(B, channels, *y.shape[2:])


def convolve_up(x: Tensor, kernels: Tensor) -> Tensor:
    """The same, transposed and with stride 2: (B, O, 2r + 1, 2r + 1)."""
    B, channels = kernels.shape[:2]
    pictures = x.reshape(1, -1, *x.shape[2:])
    transposed = kernels.transpose(1, 2).flatten(0, 1)
    y = F.conv_transpose2d(pictures, transposed, stride=2, groups=B)
    return y.view(B, channels, *y.shape[2:])


def clamped(x: Tensor, limit: float | None) -> Tensor:
    return x if limit is None else x.clamp(-limit, limit)


def affine(dlatent_size: int, channels: int) -> EqualisedLinear:
    """w → the scale of each channel, 1 on average."""
    layer = EqualisedLinear(dlatent_size, channels, gain=1.0)
    nn.init.ones_(layer.bias)
    return layer


class Layer(nn.Module):
    """3×3 modulated convolution (with `up` to twice the size), noise, bias,
    gain·√2·LeakyReLU(0.2), clamp.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        dlatent_size: int,
        resolution: int,
        up: bool = False,
        conv_clamp: float | None = None,
        use_noise: bool = True,
    ):
        super().__init__()
        self.up, self.conv_clamp, self.use_noise = up, conv_clamp, use_noise
        self.affine = affine(dlatent_size, fan_in)
        self.weight = nn.Parameter(gaussian(fan_out, fan_in, 3, 3))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.register_buffer("resample_filter", fir_kernel())
        if use_noise:
            self.noise_strength = nn.Parameter(torch.zeros(()))
            self.register_buffer("noise_const", gaussian(resolution, resolution))

    def forward(self, x: Tensor, w: Tensor, noise: Tensor | None, gain: float = 1.0) -> Tensor:
        kernels = modulated(self.weight, self.affine(w), demodulate=True)
        if self.up:
            x = fir(convolve_up(x, kernels), self.resample_filter, up=1, padding=(1, 1), gain=4)
        else:
            x = convolve(x, kernels)
        if self.use_noise:
            x = x + noise * self.noise_strength
        x = F.leaky_relu(x + self.bias.view(1, -1, 1, 1), LEAKY_SLOPE) * (gain * math.sqrt(2))
        return clamped(x, None if self.conv_clamp is None else gain * self.conv_clamp)


class ToRGB(nn.Module):
    """1×1 modulated convolution without demodulation, bias, clamp: (B, C, r, r) → (B, 3, r, r)."""

    def __init__(self, channels: int, dlatent_size: int, conv_clamp: float | None):
        super().__init__()
        self.conv_clamp = conv_clamp
        self.affine = affine(dlatent_size, channels)
        self.weight = nn.Parameter(gaussian(3, channels, 1, 1))
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s = self.affine(w) / math.sqrt(self.weight.shape[1])
        x = convolve(x, modulated(self.weight, s, demodulate=False))
        return clamped(x + self.bias.view(1, -1, 1, 1), self.conv_clamp)


class Skip(nn.Module):
    """The residual branch: 1×1 convolution, ×2, times √½: (B, in, r, r) → (B, out, 2r, 2r)."""

    def __init__(self, fan_in: int, fan_out: int):
        super().__init__()
        self.weight = nn.Parameter(gaussian(fan_out, fan_in, 1, 1))
        self.register_buffer("resample_filter", fir_kernel())

    def forward(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.weight / math.sqrt(self.weight.shape[1]))
        return upsample(x, self.resample_filter) * math.sqrt(0.5)


class Block(nn.Module):
    """r×r: at 4 pixels a learned constant and one layer, at others two layers, of which the first
    doubles the size. `last` is the block at S pixels.
    """

    def __init__(
        self,
        fan_in: int,
        channels: int,
        dlatent_size: int,
        resolution: int,
        architecture: str,
        conv_clamp: float | None,
        use_noise: bool,
        last: bool,
    ):
        super().__init__()
        self.register_buffer("resample_filter", fir_kernel())
        shared = dlatent_size, resolution
        options = {"conv_clamp": conv_clamp, "use_noise": use_noise}
        if resolution == 4:
            self.const = nn.Parameter(gaussian(channels, 4, 4))
        else:
            self.conv0 = Layer(fan_in, channels, *shared, up=True, **options)
            if architecture == "resnet":
                self.skip = Skip(fan_in, channels)
        self.conv1 = Layer(channels, channels, *shared, **options)
        if last or architecture == "skip":
            self.torgb = ToRGB(channels, dlatent_size, conv_clamp)

    @property
    def layers(self) -> list[Layer]:
        """One or two."""
        return [layer for name, layer in self.named_children() if name in ("conv0", "conv1")]

    def forward(
        self, x: Tensor | None, image: Tensor | None, w: Tensor, noise: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """x and image of the block before (None at 4 pixels), w (B, layers + 1, d) → x and image
        (None where only the last block has one).
        """
        if x is None:
            x = self.const.expand(len(w), -1, -1, -1)
            x = self.conv1(x, w[:, 0], noise[0])
        elif hasattr(self, "skip"):
            residual = self.skip(x)
            x = self.conv0(x, w[:, 0], noise[0])
            x = residual + self.conv1(x, w[:, 1], noise[1], gain=math.sqrt(0.5))
        else:
            x = self.conv0(x, w[:, 0], noise[0])
            x = self.conv1(x, w[:, 1], noise[1])
        if hasattr(self, "torgb"):
            rgb = self.torgb(x, w[:, -1])
            image = rgb if image is None else upsample(image, self.resample_filter) + rgb
        return x, image


class StyleGAN2Synthesis(nn.Module):
    """w (B, L, dlatent_size), noise: tensors (B or 1, 1, r_i, r_i), r_i of `noise_sizes` → picture
    (B, 3, S, S), about [-1, 1].

    S = `resolution`, a power of two from 4 on; L = 2·log2(S) − 2. channels: C_4, C_8, …, C_S.
    architecture: `skip` (a picture from each block, added up), `resnet` (residual blocks) or
    `orig`. conv_clamp: activations are cut to ±conv_clamp, as files trained in mixed precision want
    it; None: they are not. Without `use_noise` there are no noise maps.

    Layer i has row i of w and map i; the picture of a block has the row after its last layer,
    which the first layer of the next block has as well.

    Raises: ValueError for a resolution, architecture or number of channels that does not exist.
    """

    family = "stylegan2"

    def __init__(
        self,
        resolution: int,
        dlatent_size: int = 512,
        channels: Sequence[int] = (512, 512, 512, 512, 512, 256, 128, 64, 32),
        architecture: str = "skip",
        conv_clamp: float | None = None,
        use_noise: bool = True,
    ):
        super().__init__()
        self.config = {
            "resolution": resolution,
            "dlatent_size": dlatent_size,
            "channels": list(channels),
            "architecture": architecture,
            "conv_clamp": conv_clamp,
            "use_noise": use_noise,
        }
        log2 = int(resolution).bit_length() - 1
        if resolution != 2**log2 or log2 < 2:
            raise ValueError(f"a resolution is a power of two from 4 on, not {resolution}")
        if len(channels) != log2 - 1 or min(channels) < 1:
            raise ValueError(f"{resolution} pixels need {log2 - 1} numbers of channels")
        if architecture not in ARCHITECTURES:
            raise ValueError(f"architecture {architecture!r} is unknown")
        self.resolution, self.dlatent_size = resolution, dlatent_size
        self.num_layers = 2 * log2 - 2
        sizes = [2**k for k in range(2, log2 + 1)]
        self.noise_sizes = [4, *(size for size in sizes[1:] for _ in range(2))] * use_noise
        for i, size in enumerate(sizes):
            block = Block(
                channels[max(i - 1, 0)],
                channels[i],
                dlatent_size,
                size,
                architecture,
                conv_clamp,
                use_noise,
                last=size == resolution,
            )
            self.add_module(f"b{size}", block)

    @property
    def blocks(self) -> dict[int, Block]:
        """By their size in pixels."""
        return {int(name[1:]): block for name, block in self.named_children()}

    @property
    def multiply_adds(self) -> int:
        """Of the convolutions of one forward pass of one picture."""
        total = 0
        for size, block in self.blocks.items():
            for name, weight in block.named_parameters():
                if name.endswith("weight") and weight.ndim == 4:
                    up = name.startswith(("conv0", "skip"))  # computed at the smaller size
                    total += weight.numel() * (size // 2 if up else size) ** 2
        return total

    def forward(self, w: Tensor, noise: Sequence[Tensor]) -> Tensor:
        x = image = None
        first = 0
        for block in self.blocks.values():
            after = first + len(block.layers)
            maps = noise[first:after] if self.noise_sizes else [None, None]
            x, image = block(x, image, w[:, first : after + 1], maps)
            first = after
        return image
