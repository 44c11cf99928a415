"""stylegan2.c, compiled and kept as cpu.c is, as kernels of stylegan2.py."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fast.cpu import Library, load_kernels
from fast.kernel_check import first_difference
from fast.layers import channels_last
from fast.stylegan2_kernels import TorchStyleGAN2Kernels

SOURCE = Path(__file__).with_name("stylegan2.c")
ARGUMENTS = {  # as in cpu.py
    "pulse_activate": "p" * 12 + "f" + "lll" + "ii",
    "pulse_activate_grad": "p" * 12 + "lll" + "ii",
}
SUMS = 5  # of each channel, and as stylegan2.c has them


class NativeStyleGAN2Kernels(Library, TorchStyleGAN2Kernels):
    """Kernels of stylegan2.c; what an up-convolution makes is given as its phases."""

    def activate(self, y, d, bias, noise, s, limit, weight, rgb_bias, up):
        phases = [channels_last(each) for each in (y if up else [y])]
        B, C, rows, _ = phases[0].shape
        x = phases[0]
        if up:
            rows = 2 * (rows - 1)
            x = torch.empty(B, C, rows, rows, dtype=x.dtype, memory_format=torch.channels_last)
        rgb = None if weight is None else torch.empty(B, 3, rows, rows)
        y = [*phases, None, None, None][:4]
        for i in range(B):
            self._call(
                "pulse_activate",
                *of_picture(i, *y, x, d),
                bias,
                *of_picture(i, noise, s, weight),
                0 if rgb_bias is None else rgb_bias,
                *of_picture(i, rgb),
                *(limit, rows, rows, C, int(up)),
            )
        return x, rgb

    def activate_grad(
        self, h, x, d, bias, noise, s, limit, weight, grad_rgb, up, for_noise, overwrite
    ):
        B, C, rows, _ = x.shape
        out = h
        if up or h is None or not overwrite:
            sides = (rows + 1, rows + 1) if up else (rows, rows)
            out = torch.empty(B, C, *sides, dtype=x.dtype, memory_format=torch.channels_last)
        of_noise = torch.zeros(B, 1, rows, rows) if for_noise else None
        edge = (s.abs() * limit).to(x.dtype).float()  # what is stored where the clamp acts
        sums = torch.empty(B, SUMS, C, dtype=torch.float64)
        for i in range(B):
            self._call(
                "pulse_activate_grad",
                *of_picture(i, h, x, out, d),
                bias,
                *of_picture(i, noise, s, edge, weight, grad_rgb, of_noise),
                sums[i],
                *(rows, rows, C, int(up)),
            )
        sums = sums.float()
        of_h = None if h is None else sums[:, 1]
        return out, of_noise, sums[:, 0], of_h, None if grad_rgb is None else sums[:, 2:]


def of_picture(i: int, *batches: Tensor | None) -> list[Tensor | int]:
    """Picture i of each batch, as it lies in memory; NULL for none."""
    return [0 if each is None else each[i] for each in batches]


def load(
    cache_dir: Path, dtype: torch.dtype = torch.float32
) -> tuple[NativeStyleGAN2Kernels | None, str]:
    """The compiled kernels of stylegan2.c, which compiles in about two seconds; or None and why."""
    return load_kernels(NativeStyleGAN2Kernels, SOURCE, ARGUMENTS, _wrong, cache_dir, dtype)


def _answers(
    kernels: TorchStyleGAN2Kernels, dtype: torch.dtype, like: torch.dtype, channels: int, up: bool
) -> dict[str, tuple[Tensor, ...]]:
    """What each function makes, in `dtype`, of the same small pictures, which are of `like`."""
    random = torch.Generator().manual_seed(0)

    def pictures(*sides):
        made = torch.randn(1, channels, *sides, generator=random).to(like).to(dtype)
        return channels_last(made)

    y = tuple(pictures(*sides) for sides in ((5, 5), (5, 4), (4, 5), (4, 4))) if up else None
    x, h = pictures(8, 8), pictures(8, 8)
    d, bias, s = torch.randn(3, 1, channels, generator=random).bfloat16().float()  # so is the clamp
    noise, grad = (torch.randn(1, n, 8, 8, generator=random) for n in (1, 3))
    weight, rgb_bias = torch.randn(1, 3, channels, generator=random), torch.ones(3)
    shared = d, bias[0], noise, s, 0.5, weight
    return {
        "activate": kernels.activate(y or x.clone(), *shared, rgb_bias, up),
        "activate_grad": kernels.activate_grad(h, x, *shared, grad, up, True, False),
    }


def _wrong(kernels: NativeStyleGAN2Kernels) -> str | None:
    cases = ((16, False), (16, True), (5, False), (5, True))
    return first_difference(kernels, TorchStyleGAN2Kernels(), _answers, cases, kernels.dtype)
