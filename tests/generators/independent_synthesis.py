"""The synthesis network once more, formulated differently: what the network itself, and what
converted files make of it, are compared with.

Nothing here is shared with stylegan.py but the names of the tensors: every up-convolution as
nearest neighbour and 3×3, the blur as two passes of shifted sums, torch's own instance norm,
weights scaled beforehand; in float64 where memory allows.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def synthesize(state: dict[str, Tensor], w: Tensor, noise: list[Tensor]) -> Tensor:
    """The picture (B, 3, S, S) of w (B, L, d) and noise maps (B, 1, r, r).

    In float64 up to 256 pixels; beyond, where that would take minutes and gigabytes, in float32.
    """
    dtype = torch.float64 if noise[-1].shape[-1] <= 256 else torch.float32
    state = {key: tensor.to(dtype) for key, tensor in state.items()}
    w = w.to(dtype)

    def conv(x: Tensor, name: str, mirrored: bool = False) -> Tensor:
        weight = state[f"{name}.weight"]
        if mirrored:
            weight = weight.flip(2, 3)
        gain = 1.0 if name == "torgb" else math.sqrt(2.0)
        return F.conv2d(x, weight * (gain / math.sqrt(weight[0].numel())), padding="same")

    def with_bias(x: Tensor, name: str) -> Tensor:
        return x + state[f"{name}.bias"][None, :, None, None]

    def epilogue(x: Tensor, name: str, layer: int) -> Tensor:
        strength = state[f"{name}.noise.weight"][None, :, None, None]
        x = F.leaky_relu(x + strength * noise[layer].to(dtype), 0.2)
        x = F.instance_norm(x, eps=1e-5)
        weight = state[f"{name}.style_mod.lin.weight"]
        style = w[:, layer] @ weight.T / math.sqrt(weight.shape[1])
        style = style + state[f"{name}.style_mod.lin.bias"]
        scale, shift = style.view(len(w), 2, -1, 1, 1).unbind(dim=1)
        return x * (1 + scale) + shift

    def blur(x: Tensor) -> Tensor:
        for dim in (2, 3):
            edge = torch.zeros_like(x.narrow(dim, 0, 1))
            size = x.shape[dim]
            before = torch.cat([edge, x.narrow(dim, 0, size - 1)], dim)
            after = torch.cat([x.narrow(dim, 1, size - 1), edge], dim)
            x = (before + 2 * x + after) / 4
        return x

    x = state["blocks.4x4.const"].expand(len(w), -1, -1, -1)
    x = epilogue(with_bias(x, "blocks.4x4"), "blocks.4x4.epi1", 0)
    x = epilogue(with_bias(conv(x, "blocks.4x4.conv"), "blocks.4x4.conv"), "blocks.4x4.epi2", 1)
    for layer in range(2, len(noise), 2):
        name = f"blocks.{2 ** (layer // 2 + 2)}x{2 ** (layer // 2 + 2)}"
        x = x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        # from 128 pixels on the kernel is one of a transposed convolution: it lies the other way
        x = blur(conv(x, f"{name}.conv0_up", mirrored=x.shape[-1] >= 128))
        x = with_bias(x, f"{name}.conv0_up")
        x = epilogue(x, f"{name}.epi1", layer)
        x = with_bias(conv(x, f"{name}.conv1"), f"{name}.conv1")
        x = epilogue(x, f"{name}.epi2", layer + 1)
    return with_bias(conv(x, "torgb"), "torgb")
