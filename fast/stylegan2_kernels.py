"""What lies between two convolutions of StyleGAN2's fast form (stylegan2.py): what each function
computes, and its form in PyTorch's own operations.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from fast.layers import channels_last, per_channel
from fast.synthesis import TorchKernels
from stylegan import LEAKY_SLOPE

Phases = tuple[Tensor, Tensor, Tensor, Tensor]  # rows and columns even-even, even-odd, odd-even, …


class StyleGAN2Kernels(Protocol):
    """What is between two convolutions. Pictures (B, C, r, r) are channels last; d and s are
    (B, C), bias (C,), noise (B, 1, r, r) or None, weight (B, 3, C) or None: all float32.

    With `up`, y has 2r' + 1 pixels for r = 2r', whole or as its phases, and is blurred to r by
    [1,3,3,1]⊗[1,3,3,1]: whose 1/16 is in d. `formulation` and the batch sizes are as in
    synthesis.Kernels.
    """

    formulation: str

    def batch_size(self, B: int) -> int: ...

    def forget_batch_sizes(self) -> None: ...

    def activate(
        self,
        y: Tensor | Phases,
        d: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        s: Tensor,
        limit: float,
        weight: Tensor | None,
        rgb_bias: Tensor | None,
        up: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """x = s·t, t = LeakyReLU(d·y + noise + bias) within ±limit, and weight·x + rgb_bias
        (B, 3, r, r), float32 and contiguous. May overwrite y.
        """

    def activate_grad(
        self,
        h: Tensor | None,
        x: Tensor,
        d: Tensor,
        bias: Tensor,
        noise: Tensor | None,
        s: Tensor,
        limit: float,
        weight: Tensor | None,
        grad_rgb: Tensor | None,
        up: bool,
        for_noise: bool,
        overwrite: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor, Tensor | None]:
        """Of h, the gradient for x but for its share in the picture, and grad_rgb, that for the
        picture: the gradient for y (whole); that for noise, if `for_noise`; and the sums over
        the pixels Σ du·d·y, Σ h·x (B, C) and Σ grad_rgb·x (B, 3, C). May overwrite h if
        `overwrite`.
        """


def blur(y: Tensor) -> Tensor:
    """(B, C, 2r + 1, 2r + 1) → (B, C, 2r, 2r): [1,3,3,1]⊗[1,3,3,1], zeros beyond the edge."""
    for dim in (2, 3):
        n = y.shape[dim]
        out = (y.narrow(dim, 0, n - 1) + y.narrow(dim, 1, n - 1)).mul_(3)
        out.narrow(dim, 1, n - 2).add_(y.narrow(dim, 0, n - 2))
        out.narrow(dim, 0, n - 2).add_(y.narrow(dim, 2, n - 2))
        y = out
    return y


def blur_back(g: Tensor) -> Tensor:
    """The gradient for the input of `blur`."""
    for dim in (2, 3):
        n = g.shape[dim]
        out = F.pad(g, (0, 0, 0, 1) if dim == 2 else (0, 1)).mul_(3)
        out.narrow(dim, 1, n).add_(g, alpha=3)
        out.narrow(dim, 0, n - 1).add_(g.narrow(dim, 1, n - 1))
        out.narrow(dim, 2, n - 1).add_(g.narrow(dim, 0, n - 1))
        g = out
    return g


def joined(phases: Phases) -> Tensor:
    """The picture of 2r + 1 pixels of its four phases."""
    B, C, r, _ = phases[0].shape
    y = channels_last(phases[0].new_empty(B, C, 2 * r - 1, 2 * r - 1))
    for i, phase in enumerate(phases):
        y[:, :, i // 2 :: 2, i % 2 :: 2] = phase
    return y


class TorchStyleGAN2Kernels(TorchKernels):
    """Kernels in PyTorch's own operations: for any device, in any precision of the pictures."""

    functions = ("activate", "activate_grad")

    def activate(self, y, d, bias, noise, s, limit, weight, rgb_bias, up):
        if up:
            y = blur(joined(y) if isinstance(y, tuple) else y)
        d, bias, factor = (per_channel(each).to(y.dtype) for each in (d, bias, s))
        y = y.mul_(d).add_(bias)
        if noise is not None:
            y = y.add_(noise.to(y.dtype))
        x = F.leaky_relu_(y, LEAKY_SLOPE)
        if limit < math.inf:
            x = x.clamp_(-limit, limit)
        x = x.mul_(factor)
        return x, None if weight is None else to_rgb(x, weight, rgb_bias)

    def activate_grad(
        self, h, x, d, bias, noise, s, limit, weight, grad_rgb, up, for_noise, overwrite
    ):
        g, of_h, of_rgb = h, None, None
        if h is not None:
            of_h = (h * x).sum((2, 3), dtype=torch.float32)
        if grad_rgb is not None:
            pixels = x.permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, r·r, C)
            of_rgb = torch.matmul(grad_rgb.flatten(2), pixels)
            own = torch.matmul(grad_rgb.flatten(2).transpose(1, 2), weight).to(x.dtype)
            own = own.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)
            g = own if h is None else own.add_(h)
        factor = per_channel(s).to(x.dtype)
        if limit < math.inf:
            g = torch.where(x.abs() < factor.abs() * limit, g, 0)
            of_u = (g * x).sum((2, 3), dtype=torch.float32)
        else:
            shares = of_h, None if of_rgb is None else (weight * of_rgb).sum(1)
            of_u = sum(share for share in shares if share is not None)
        # s·x has the sign of LeakyReLU's result
        du = torch.ops.aten.leaky_relu_backward(g * factor, x * factor, LEAKY_SLOPE, True)
        of_du = du.sum((2, 3), dtype=torch.float32)
        of_y = of_u - of_du * bias
        if noise is not None:
            of_y = of_y - (du * noise.to(du.dtype)).sum((2, 3), dtype=torch.float32)
        of_noise = du.sum(1, keepdim=True, dtype=torch.float32) if for_noise else None
        du = du.mul_(per_channel(d).to(du.dtype))
        return blur_back(du) if up else du, of_noise, of_y, of_h, of_rgb


def to_rgb(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x (B, C, r, r), weight (B, 3, C) → (B, 3, r, r), float32."""
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, r·r, C)
    picture = torch.matmul(weight, pixels.transpose(1, 2)) + bias[:, None]
    return picture.view(len(x), -1, *x.shape[2:])
