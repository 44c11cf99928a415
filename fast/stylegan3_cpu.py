"""stylegan3.c, compiled and kept as cpu.c is, as kernels of stylegan3.py."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fast.cpu import Library, load_kernels
from fast.kernel_check import first_difference
from fast.layers import channels_last
from fast.stylegan3_kernels import Filters, TorchStyleGAN3Kernels

SOURCE = Path(__file__).with_name("stylegan3.c")
ARGUMENTS = {  # as in cpu.py
    "pulse_filtered": "p" * 10 + "f" + "i",
    "pulse_products": "ppp" + "lll" + "i",
}
LANES = 16  # of stylegan3.c


class NativeStyleGAN3Kernels(Library, TorchStyleGAN3Kernels):
    """Kernels of stylegan3.c."""

    def activate(self, y, scale, bias, out_scale, filters, keep):
        B, C, mid, kept = len(y), y.shape[1], filters.mid_size, None
        if keep:
            kept = torch.empty(B, -(-C // LANES), mid, mid, dtype=torch.int32)
        sizes = [filters.in_size, mid, filters.out_size]
        factors = [filters.up_factor, filters.before, filters.down_factor, 0]
        kinds = [0, filters.down.ndim == 2, 0]  # upwards radial, downwards radial, backward
        x, _, _ = self._filtered(
            *(y, scale, bias, out_scale, kept, filters.up, filters.down),
            *(sizes + factors + kinds, filters.clamp),
        )
        return x, kept

    def activate_grad(self, g, out_scale, kept, scale, filters):
        # the filters change places and are turned round
        up, down = filters.down.flip(tuple(range(filters.down.ndim))), filters.up.flip(0)
        sizes = [filters.out_size, filters.mid_size, filters.in_size]
        factors = [filters.down_factor, len(up) - 1]
        factors += [filters.up_factor, filters.before - (len(down) - 1)]
        kinds = [up.ndim == 2, 0, 1]
        return self._filtered(
            g, out_scale, None, scale, kept, up, down, sizes + factors + kinds, filters.clamp
        )

    def _filtered(
        self,
        x: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        out_scale: Tensor,
        kept: Tensor | None,
        up: Tensor,
        down: Tensor,
        layout: list[int],  # of stylegan3.c, without the channels
        clamp: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What pulse_filtered makes of each picture, and both its sums (B, C)."""
        x, scale, out_scale = channels_last(x), scale.contiguous(), out_scale.contiguous()
        (B, C), out_size = x.shape[:2], layout[2]
        out = torch.empty(
            *(B, C, out_size, out_size), dtype=x.dtype, memory_format=torch.channels_last
        )
        sums = torch.empty(B, 2, C, dtype=torch.float64)
        numbers = torch.tensor([C, *layout], dtype=torch.int64)
        for i in range(B):
            self._call(
                *("pulse_filtered", x[i], out[i], 0 if kept is None else kept[i]),
                *(scale[i], 0 if bias is None else bias, out_scale[i]),
                *(up, down, sums[i], numbers, clamp),
            )
        return out, sums[:, 0], sums[:, 1]

    def products(self, g, x):
        g, x = channels_last(g), channels_last(x)
        B, C, rows, width = x.shape
        sums = torch.empty(B, C, dtype=torch.float64)
        for i in range(B):
            self._call("pulse_products", g[i], x[i], sums[i], rows, width, C)
        return sums


def load(
    cache_dir: Path, dtype: torch.dtype = torch.float32
) -> tuple[NativeStyleGAN3Kernels | None, str]:
    """The compiled kernels of stylegan3.c, which compiles in about two seconds; or None and why."""
    return load_kernels(NativeStyleGAN3Kernels, SOURCE, ARGUMENTS, _wrong, cache_dir, dtype)


def _answers(
    kernels: TorchStyleGAN3Kernels, dtype: torch.dtype, like: torch.dtype, channels: int, p: int
) -> dict[str, tuple[Tensor, ...]]:
    """What each function makes, in `dtype`, of the same small pictures, which are of `like`."""
    random = torch.Generator().manual_seed(channels)
    up, down = torch.rand(6 * p, generator=random), torch.rand(12, generator=random)
    up, down = up / up.mean() / 6, down / down.sum()  # of sum p and 1
    if p == 2:  # one filter of two dimensions, as radial ones are
        down = (down.outer(down) + down.flip(0).outer(down)) / 2
    filters = Filters(up, down, p, 2, 2 * p + 3, 11, mid_size=28, out_size=9, clamp=5.0)
    y, g = (
        channels_last(torch.rand(1, channels, size, size, generator=random)).to(like).to(dtype)
        for size in (filters.in_size, filters.out_size)
    )
    scale, out_scale = torch.rand(2, 1, channels, generator=random) + 0.5
    # in each channel nearly all samples are far from 0 and from the clamp, where rounding decides
    bias = torch.tensor([1.0, -4.0, 9.0, -50.0]).repeat(channels)[:channels]
    x, kept = kernels.activate(y, scale, bias, out_scale, filters, True)
    return {
        "activate": (x,),
        "activate_grad": kernels.activate_grad(g, out_scale, kept, scale, filters),
        "products": (kernels.products(g, x),),
    }


def _wrong(kernels: NativeStyleGAN3Kernels) -> str | None:
    cases = ((16, 2), (16, 4), (21, 2), (5, 4))
    return first_difference(kernels, TorchStyleGAN3Kernels(), _answers, cases, kernels.dtype)
