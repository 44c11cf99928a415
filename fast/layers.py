"""The layers of synthesis.py: StyleGAN1's weights, scaled once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stylegan import EqualisedLinear, UpConv


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def per_channel(x: Tensor) -> Tensor:
    """(B, C) or (C,) → (B or 1, C, 1, 1)."""
    return x.reshape(-1, x.shape[-1], 1, 1)


class Styles(NamedTuple):
    """The affine maps from w to the styles of all layers, layer after layer, in N = Σ 2C rows."""

    weight: Tensor  # (N, d)
    bias: Tensor  # (N,)
    sizes: tuple[int, ...]  # 2C of each layer
    first: Tensor  # (L + 1,) int32: the first row of each layer, and N


def stacked_styles(linear: Sequence[EqualisedLinear]) -> Styles:
    """Those of all layers, scaled."""
    weight = torch.cat([each.weight * each.scale for each in linear])
    bias = torch.cat([each.bias * each.lrmul for each in linear])
    sizes = tuple(len(each.weight) for each in linear)
    first = torch.tensor([sum(sizes[:i]) for i in range(len(sizes) + 1)], dtype=torch.int32)
    return Styles(weight, bias, sizes, first.to(weight.device))


class Convolution:
    """A layer's, as PyTorch computes it, and what else computes the same has these two functions.
    kernel: (out, in, 3, 3), or (in, out, 4, 4) of one that is `up`.
    """

    def __init__(self, kernel: Tensor, up: bool):
        self.up, self.kernel = up, channels_last(kernel)
        self.transposed = None if up else channels_last(kernel.flip(2, 3).transpose(0, 1))

    def convolve(self, x: Tensor) -> Tensor:
        """(B, in, r, r) → (B, out, r, r), or twice as large where it is `up`."""
        if self.up:
            return F.conv_transpose2d(x, self.kernel, stride=2, padding=1)
        return F.conv2d(x, self.kernel, padding=1)

    def convolve_back(self, g: Tensor) -> Tensor:
        """The gradient for the input of `convolve`."""
        if self.up:
            return F.conv2d(g, self.kernel, stride=2, padding=1)
        return F.conv2d(g, self.transposed, padding=1)


class Layer:
    """One layer's folded weights: a convolution (none in layer 0), then bias and noise."""

    def __init__(self, convolution, bias: Tensor, epilogue, dtype: torch.dtype):
        self.up = isinstance(convolution, UpConv)
        self.convolution = None
        if self.up:
            # From 128 pixels on the published network convolves with the kernel not flipped.
            weight = convolution if convolution.fused else _Flipped(convolution)
            self.convolution = Convolution(weight.fused_kernel().to(dtype), up=True)
        elif convolution is not None:
            weight = convolution.weight * convolution.scale
            self.convolution = Convolution(weight.to(dtype), up=False)
        self.bias = bias.clone()
        self.noise_weight = epilogue.noise.weight.clone()

    def convolve(self, x: Tensor) -> Tensor:
        return self.convolution.convolve(x)

    def convolve_back(self, g: Tensor) -> Tensor:
        return self.convolution.convolve_back(g)


class _Flipped:
    """An up-convolution of nearest neighbour ×2 and a 3×3 kernel has the fused form, too: of the
    flipped kernel, since a transposed convolution flips.
    """

    def __init__(self, convolution: UpConv):
        self.convolution = convolution

    def fused_kernel(self) -> Tensor:
        k = (self.convolution.weight * self.convolution.scale).transpose(0, 1).flip(2, 3)
        k = F.pad(k, (1, 1, 1, 1))
        return k[..., 1:, 1:] + k[..., :-1, 1:] + k[..., 1:, :-1] + k[..., :-1, :-1]


def require_kept(kept: list) -> None:
    """Raises: RuntimeError where a backward pass has used up what forward kept for it."""
    if not kept:
        raise RuntimeError(
            "a picture is differentiated once, since what is kept for that goes meanwhile: draw it "
            "again, or ask for all gradients at once"
        )
