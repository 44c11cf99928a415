"""DS, the downscaling operator of PULSE: bicubic, antialiased, defined here to the last tap because
libraries differ.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

A = -0.5  # the free parameter of the cubic kernel


def cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution kernel with a = A, elementwise; 0 from |x| = 2 on."""
    x = x.abs()
    near = (A + 2) * x**3 - (A + 3) * x**2 + 1
    far = A * x**3 - 5 * A * x**2 + 8 * A * x - 4 * A
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def taps(factor: int) -> Tensor:
    """(4·factor,) float64: cubic((i − 2·factor + 0.5)/factor), normalised to sum 1."""
    i = torch.arange(4 * factor, dtype=torch.float64)
    weights = cubic((i - 2 * factor + 0.5) / factor)
    return weights / weights.sum()


def downscaling_matrix(size: int, factor: int) -> Tensor:
    """D (size/factor, size), float64: one axis of DS is y = D·x.

    Row j holds the taps at stride `factor`; taps that lie beyond an edge are reflected (the edge
    pixel itself not repeated), of 3·factor padding pixels ⌊3·factor/2⌋ before the first pixel.

    Raises: ValueError where `factor` does not divide `size`, or leaves fewer than 2 pixels.
    """
    if factor < 1 or size % factor or size // factor < 2:
        raise ValueError(
            f"{size} pixels cannot be downscaled by {factor}: it must divide them, 2 must remain"
        )
    out = size // factor
    first = torch.arange(out) * factor - (3 * factor) // 2
    position = (first[:, None] + torch.arange(4 * factor)).abs()  # (out, 4·factor)
    position = (size - 1) - ((size - 1) - position).abs()
    matrix = torch.zeros(out, size, dtype=torch.float64)
    return matrix.scatter_add_(1, position, taps(factor).expand(out, -1).contiguous())


class BicubicDownSample(nn.Module):
    """DS: (B, C, H, W) → (B, C, H/factor, W/factor), the vertical pass first. Values may overshoot
    the range of the input: nothing is clamped.

    Raises: ValueError where `factor` does not divide H and W, or leaves fewer than 2 pixels.
    """

    def __init__(self, factor: int):
        super().__init__()
        self.factor = factor
        self._matrices: dict[tuple, Tensor] = {}

    def _matrix(self, size: int, like: Tensor) -> Tensor:
        key = (size, like.device, like.dtype)
        if key not in self._matrices:
            self._matrices[key] = downscaling_matrix(size, self.factor).to(like)
        return self._matrices[key]

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = self._matrix(x.shape[-2], x), self._matrix(x.shape[-1], x)
        return (vertical @ x) @ horizontal.T
