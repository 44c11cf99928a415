"""The networks of StyleGAN (Karras, Laine, Aila, CVPR 2019): G_mapping, z → w, and G_synthesis, w
and noise → picture.

Written to be read: every formula stands where it is used, weights are kept as they are stored and
scaled at each call. This is the reference that anything faster is tested against. Names and shapes
of the parameters are those of PULSE's public weight files.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEAKY_SLOPE = 0.2


def gaussian(*shape: int, std: float = 1.0) -> Tensor:
    """N(0, std²); on the meta device the shape alone, since normal_ there imports half of PyTorch,
    two seconds of every start.
    """
    x = torch.empty(*shape)
    return x if x.is_meta else x.normal_(std=std)


class EqualisedLinear(nn.Module):
    """y = x·(W·gain/√fan_in·lrmul)ᵀ + b·lrmul: equalised learning rate."""

    def __init__(self, fan_in: int, fan_out: int, gain: float, lrmul: float = 1.0):
        super().__init__()
        self.weight = nn.Parameter(gaussian(fan_out, fan_in, std=1 / lrmul))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.scale = gain / math.sqrt(fan_in) * lrmul
        self.lrmul = lrmul

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.scale, self.bias * self.lrmul)


class EqualisedConv(nn.Module):
    """k×k convolution, padding k//2, with the same scaling; its bias is added by `add_bias`, after
    a blur where there is one.
    """

    def __init__(self, fan_in: int, fan_out: int, kernel: int, gain: float = math.sqrt(2)):
        super().__init__()
        self.weight = nn.Parameter(gaussian(fan_out, fan_in, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        self.scale = gain / math.sqrt(fan_in * kernel * kernel)

    def convolve(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, padding=self.weight.shape[-1] // 2)

    def add_bias(self, x: Tensor) -> Tensor:
        return x + self.bias.view(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight * self.scale, self.bias, padding=self.weight.shape[-1] // 2)


class Blur(nn.Module):
    """[1,2,1]⊗[1,2,1]/16 on every channel alone, zero padding 1."""

    def __init__(self):
        super().__init__()
        kernel = [[1 / 16, 2 / 16, 1 / 16], [2 / 16, 4 / 16, 2 / 16], [1 / 16, 2 / 16, 1 / 16]]
        self.register_buffer("kernel", torch.tensor([[kernel]]))

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        return F.conv2d(x, self.kernel.expand(channels, 1, 3, 3), padding=1, groups=channels)


class UpConv(EqualisedConv):
    """×2 and 3×3 convolution, then the blur, then the bias: (B, in, r, r) → (B, out, 2r, 2r).

    To 64 pixels: nearest neighbour ×2, then the convolution. From 128 on: both at once, a stride-2
    transposed convolution whose 4×4 kernel is the sum of the four one-pixel shifts of the 3×3
    kernel.
    """

    def __init__(self, fan_in: int, fan_out: int, resolution: int):
        super().__init__(fan_in, fan_out, kernel=3)
        self.intermediate = Blur()
        self.fused = resolution >= 128

    def fused_kernel(self) -> Tensor:
        """(in, out, 4, 4), scaled."""
        k = F.pad((self.weight * self.scale).transpose(0, 1), (1, 1, 1, 1))
        return k[..., 1:, 1:] + k[..., :-1, 1:] + k[..., 1:, :-1] + k[..., :-1, :-1]

    def forward(self, x: Tensor) -> Tensor:
        if self.fused:
            x = F.conv_transpose2d(x, self.fused_kernel(), stride=2, padding=1)
        else:
            x = self.convolve(F.interpolate(x, scale_factor=2, mode="nearest"))
        return self.add_bias(self.intermediate(x))


class Noise(nn.Module):
    """x + weight[c]·noise, noise (B, 1, r, r)."""

    def __init__(self, channels: int):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, noise: Tensor) -> Tensor:
        return x + self.weight.view(1, -1, 1, 1) * noise


class StyleMod(nn.Module):
    """x·(s₀ + 1) + s₁ with (s₀, s₁) = linear(w)."""

    def __init__(self, dlatent_size: int, channels: int):
        super().__init__()
        self.lin = EqualisedLinear(dlatent_size, 2 * channels, gain=1.0)

    def forward(self, x: Tensor, w: Tensor) -> Tensor:
        s0, s1 = self.lin(w)[:, :, None, None].chunk(2, dim=1)  # each (B, C, 1, 1)
        return x * (s0 + 1) + s1


def instance_norm(x: Tensor) -> Tensor:
    """(x − mean)/√(variance + 1e-5) over the pixels of each channel, biased variance, no affine.

    Spelled out, because on a CPU torch's own forms are less exact: `F.instance_norm` in the
    gradients of a 256-pixel network, sixteen times; `F.group_norm` over the million pixels of a
    channel at 1024.
    """
    x = x - x.mean(dim=(2, 3), keepdim=True)
    return x * torch.rsqrt(x.square().mean(dim=(2, 3), keepdim=True) + 1e-5)


class Epilogue(nn.Module):
    """What follows every convolution: noise, LeakyReLU(0.2), instance norm, style."""

    def __init__(self, channels: int, dlatent_size: int):
        super().__init__()
        self.noise = Noise(channels)
        self.style_mod = StyleMod(dlatent_size, channels)

    def forward(self, x: Tensor, w: Tensor, noise: Tensor) -> Tensor:
        x = F.leaky_relu(self.noise(x, noise), LEAKY_SLOPE)
        return self.style_mod(instance_norm(x), w)


class FirstBlock(nn.Module):
    """4×4: a learned constant, epilogue (layer 0), 3×3 convolution, epilogue (layer 1)."""

    def __init__(self, channels: int, dlatent_size: int):
        super().__init__()
        self.const = nn.Parameter(torch.ones(1, channels, 4, 4))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epi1 = Epilogue(channels, dlatent_size)
        self.conv = EqualisedConv(channels, channels, kernel=3)
        self.epi2 = Epilogue(channels, dlatent_size)

    def forward(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        x = (self.const + self.bias.view(1, -1, 1, 1)).expand(len(w), -1, -1, -1)
        x = self.epi1(x, w[:, 0], noise[0])
        return self.epi2(self.conv(x), w[:, 1], noise[1])


class Block(nn.Module):
    """R×R, R ≥ 8: up-convolution, epilogue, 3×3 convolution, epilogue."""

    def __init__(self, fan_in: int, channels: int, dlatent_size: int, resolution: int):
        super().__init__()
        self.conv0_up = UpConv(fan_in, channels, resolution)
        self.epi1 = Epilogue(channels, dlatent_size)
        self.conv1 = EqualisedConv(channels, channels, kernel=3)
        self.epi2 = Epilogue(channels, dlatent_size)

    def forward(self, x: Tensor, w: Tensor, noise: list[Tensor]) -> Tensor:
        x = self.epi1(self.conv0_up(x), w[:, 0], noise[0])
        return self.epi2(self.conv1(x), w[:, 1], noise[1])


class G_synthesis(nn.Module):
    """w (B, L, dlatent_size), noise: L tensors (B, 1, r_i, r_i) → picture (B, num_channels, S, S),
    about [-1, 1].

    S = `resolution`, a power of two from 8 on; L = 2·log2(S) − 2 layers; layer i works at r_i =
    2^(i//2 + 2) pixels. The block at 2^k pixels has min(int(fmap_base / 2^((k − 1)·fmap_decay)),
    fmap_max) channels.

    Raises: ValueError for a resolution that is not such a power, or a block without channels.
    """

    family = "stylegan1"

    def __init__(
        self,
        dlatent_size: int = 512,
        num_channels: int = 3,
        resolution: int = 1024,
        fmap_base: int = 8192,
        fmap_decay: float = 1.0,
        fmap_max: int = 512,
    ):
        super().__init__()
        self.config = {
            "dlatent_size": dlatent_size,
            "resolution": resolution,
            "fmap_base": fmap_base,
            "fmap_decay": fmap_decay,
            "fmap_max": fmap_max,
        }
        log2 = int(resolution).bit_length() - 1
        if resolution != 2**log2 or log2 < 3:
            raise ValueError(f"a resolution is a power of two from 8 on, not {resolution}")

        def channels(k: int) -> int:
            number = min(int(fmap_base / 2 ** ((k - 1) * fmap_decay)), fmap_max)
            if number < 1:
                raise ValueError(f"fmap_base {fmap_base} leaves no channels at {2**k} pixels")
            return number

        self.dlatent_size, self.resolution = dlatent_size, resolution
        self.num_layers = 2 * log2 - 2
        self.layer_sizes = [2 ** (i // 2 + 2) for i in range(self.num_layers)]
        self.noise_sizes = self.layer_sizes  # every layer has a noise map
        self.torgb = EqualisedConv(channels(log2), num_channels, kernel=1, gain=1.0)
        self.blocks = nn.ModuleDict({"4x4": FirstBlock(channels(2), dlatent_size)})
        for k in range(3, log2 + 1):
            size = 2**k
            self.blocks[f"{size}x{size}"] = Block(
                channels(k - 1), channels(k), dlatent_size, resolution=size
            )

    def forward(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        x = None
        for i, block in enumerate(self.blocks.values()):
            w_pair, noise_pair = w[:, 2 * i : 2 * i + 2], noise[2 * i : 2 * i + 2]
            x = block(w_pair, noise_pair) if i == 0 else block(x, w_pair, noise_pair)
        return self.torgb(x)

    @property
    def multiply_adds(self) -> int:
        """Of the convolutions of one forward pass of one picture, with the ×2 of small blocks
        folded into their kernels: 4 products a pixel instead of 9.
        """
        return self.count_multiply_adds(folded=True)

    def count_multiply_adds(self, folded: bool) -> int:
        """The same, and without folding."""
        total = 0
        for size, block in self.blocks.items():
            pixels = int(size.split("x")[0]) ** 2
            if size != "4x4":
                up = block.conv0_up
                products = 4 if up.fused or folded else 9
                total += products * up.weight[..., 0, 0].numel() * pixels
            conv = block.conv if size == "4x4" else block.conv1
            total += conv.weight.numel() * pixels
        return total + self.torgb.weight.numel() * pixels


class G_mapping(nn.Sequential):
    """z (B, latent_size) → w (B, dlatent_size): z·rsqrt(mean(z²) + 1e-8), then `num_layers`
    equalised layers, of hidden_size numbers but the last, LeakyReLU(0.2) after each, the last
    included. Both other sizes are dlatent_size where they are not given.

    StyleGAN2 and StyleGAN3 have √2·LeakyReLU(0.2) and no √2 in their weights: the same function
    once their biases are multiplied by √2.
    """

    def __init__(
        self,
        dlatent_size: int = 512,
        num_layers: int = 8,
        latent_size: int | None = None,
        hidden_size: int | None = None,
    ):
        super().__init__()
        self.dlatent_size = dlatent_size
        self.latent_size = latent_size or dlatent_size
        sizes = [self.latent_size, *[hidden_size or dlatent_size] * (num_layers - 1), dlatent_size]
        for i in range(num_layers):
            layer = EqualisedLinear(sizes[i], sizes[i + 1], gain=math.sqrt(2), lrmul=0.01)
            self.add_module(f"dense{i}", layer)

    def forward(self, z: Tensor) -> Tensor:
        x = z * torch.rsqrt(z.square().mean(dim=1, keepdim=True) + 1e-8)
        for layer in self:
            x = F.leaky_relu(layer(x), LEAKY_SLOPE)
        return x
