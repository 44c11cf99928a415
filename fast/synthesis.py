"""The synthesis network again, for the search: the same function of w and noise as
stylegan.G_synthesis, and its gradient for both, several times faster.

    synthesize = FastSynthesis(generator.synthesis, kernels)
    image = synthesize(w, noise)  # differentiable in w and noise

What is different from stylegan.py, which stays the reference that this is tested against:
- weights are scaled once, and every ×2 is one stride-2 transposed convolution (the nearest
  neighbour ×2 of the small blocks folded into its 4×4 kernel: 4 instead of 9 products a pixel);
- pictures lie channels last, as convolutions of a CPU and of a GPU's tensor cores want them;
- there is no gradient for weights, so that backward needs nothing of a layer but its activation
  after LeakyReLU: the input of a convolution is not kept;
- what lies between two convolutions (blur, bias, noise, LeakyReLU, instance norm, style) takes
  two passes over memory forward and two backward, in the functions of a `Kernels`.

With x the activation after LeakyReLU, instance norm and style are one affine map per channel,
x̂ = a·(x − mean) + s₁, a = (s₀ + 1)/√(var + 1e-5). Of the gradient g for x̂ only two sums per
channel are needed, Σg and Σg·(x − mean), to have those of s₁ and s₀, and that for x is again
affine, a·g + q·(x − mean) + p.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fast.layers import (
    Convolution,
    Layer,
    Styles,
    channels_last,
    per_channel,
    require_kept,
    stacked_styles,
)
from fast.precision import convolutions_in, dtype_of
from fast.search_step import TorchStep
from stylegan import LEAKY_SLOPE, G_synthesis

NORM_EPS = 1e-5


class Kernels(Protocol):
    """What is between two convolutions; also these, where it is faster at them than PyTorch. All
    pictures (B, C, r, r) are channels last; mean, variance, a, b, p, q and sums are (B, C), in
    float32 or more, bias and weight (C,).

    `formulation` is "eager" or "compiled", as records of results have it; `folds_range`, whether
    `picture` makes pictures in [0, 1] when it is given another weight and bias; `step`, what the
    search computes beside the network.
    """

    formulation: str
    folds_range: bool
    step: TorchStep

    def batch_size(self, B: int) -> int:
        """How many pictures are best computed where B are asked for: B or more."""

    def forget_batch_sizes(self) -> None:
        """Those that batch_size has answered so far were too large for memory."""

    def convolution(self, convolution: Convolution, precision: str) -> Convolution:
        """What computes it in `precision`: itself, or another that does the same."""

    def styles(self, w: Tensor, affine: Styles) -> Sequence[Tensor]:
        """weight·w_l + bias of each layer's row of w (B, L, d): its style (B, 2C), s₀ and s₁."""

    def empty_style_grads(self, B: int, affine: Styles) -> tuple[Tensor | None, list]:
        """Where the gradients for the styles are to be: as a whole, in whatever form `styles_grad`
        wants it, and for each layer what `style_grad` takes as `out`.
        """

    def styles_grad(self, whole: Tensor | None, grads: Sequence[Tensor], affine: Styles) -> Tensor:
        """Of the gradients for the styles, (B, 2C) for each layer, that for w, (B, L, d)."""

    def styled(
        self,
        y: Tensor,
        bias: Tensor,
        weight: Tensor,
        noise: Tensor | None,
        blur: bool,
        style: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """x = LeakyReLU(blur(y) + bias + weight·noise), its mean over the pixels, and of its biased
        variance and the style (B, 2C), which is s₀ and s₁: 1/√(variance + 1e-5), a and b = s₁.

        May overwrite y; noise is (B, 1, r, r) or None. x may have any form, with a `shape`, in
        which the other functions of the same kernels take it.
        """

    def affine(self, x: Tensor, mean: Tensor, a: Tensor, b: Tensor, overwrite: bool) -> Tensor:
        """a·(x − mean) + b, in x itself if `overwrite`."""

    def picture(
        self,
        x: Tensor,
        mean: Tensor,
        a: Tensor,
        b: Tensor,
        weight: Tensor,
        bias: Tensor,
        overwrite: bool,
    ) -> Tensor:
        """weight·(a·(x − mean) + b) + bias for weight (3, C) and bias (3,): (B, 3, r, r), float32
        and contiguous. May overwrite x if `overwrite`.
        """

    def picture_grad(self, grad: Tensor, weight: Tensor, dtype: torch.dtype):
        """Of the gradient (B, 3, r, r) for `picture`, that for the affine map within: a g for
        `style_grad` and `leaky_grad` of the same kernels, in whatever form they take it.
        """

    def style_grad(
        self,
        g: Tensor,
        x: Tensor,
        mean: Tensor,
        a: Tensor,
        rstd: Tensor,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Of Σg and Σg·(x − mean) over the pixels: the gradient for the style (B, 2C), in
        `out` if that is given, and p and q for `leaky_grad`.
        """

    def leaky_grad(
        self, g: Tensor, x: Tensor, mean: Tensor, a: Tensor, q: Tensor, p: Tensor, blur: bool
    ) -> Tensor:
        """(a·g + q·(x − mean) + p)·LeakyReLU'(x), the gradient for LeakyReLU's input, blurred if
        `blur`. May overwrite g.
        """

    def noise_grad(self, g: Tensor, weight: Tensor) -> Tensor:
        """Σ weight·g over the channels, (B, 1, r, r), in float32."""

    def blur(self, y: Tensor) -> Tensor:
        """[1,2,1]⊗[1,2,1]/16, zeros beyond the edge."""


class PictureGrad(NamedTuple):
    """A gradient g that is multiplied out only where it is needed: weightᵀ·grad, (B, C, r, r)."""

    grad: Tensor  # (B, 3, r, r), contiguous
    weight: Tensor  # (3, C)


class TorchKernels:
    """Kernels in PyTorch's own operations: for any device, in any precision of the pictures."""

    formulation = "eager"
    folds_range = False  # which rounds otherwise than in a further pass
    step = TorchStep()
    functions = ("leaky", "affine", "picture", "picture_grad", "sums", "leaky_grad", "blur")

    def batch_size(self, B):
        return B

    def forget_batch_sizes(self):
        pass

    def convolution(self, convolution, precision):
        return convolution

    def styles(self, w, affine):
        weights, biases = affine.weight.split(affine.sizes), affine.bias.split(affine.sizes)
        return [F.linear(*each) for each in zip(w.unbind(1), weights, biases, strict=True)]

    def empty_style_grads(self, B, affine):
        return None, [None] * len(affine.sizes)

    def styles_grad(self, whole, grads, affine):
        weights = affine.weight.split(affine.sizes)
        return torch.stack([g @ weight for g, weight in zip(grads, weights, strict=True)], dim=1)

    def styled(self, y, bias, weight, noise, blur, style):
        x, mean, variance = self.leaky(y, bias, weight, noise, blur)
        rstd = (variance + NORM_EPS).rsqrt()
        s0, s1 = style.chunk(2, dim=1)
        return x, mean, rstd, (s0 + 1) * rstd, s1

    def leaky(self, y, bias, weight, noise, blur):
        """x of `styled`, its mean and biased variance over the pixels, each (B, C)."""
        if blur:
            y = self.blur(y)
        y = y.add_(per_channel(bias).to(y.dtype))
        if noise is not None:
            y = y.addcmul_(noise.to(y.dtype), per_channel(weight).to(y.dtype))
        x = F.leaky_relu_(y, LEAKY_SLOPE)
        variance, mean = torch.var_mean(x.float(), dim=(2, 3), correction=0)
        return x, mean, variance

    def affine(self, x, mean, a, b, overwrite):
        mean, a, b = (per_channel(each).to(x.dtype) for each in (mean, a, b))
        return (x.sub_(mean) if overwrite else x - mean).mul_(a).add_(b)

    def picture(self, x, mean, a, b, weight, bias, overwrite):
        x = self.affine(x, mean, a, b, overwrite)
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2).float()  # (B, r·r, C)
        picture = torch.matmul(weight, pixels.transpose(1, 2))
        return picture.add_(bias[:, None]).view(len(x), -1, *x.shape[2:])

    def picture_grad(self, grad, weight, dtype):
        g = torch.matmul(grad.flatten(2).transpose(1, 2), weight).to(dtype)  # (B, r·r, C)
        return g.view(len(grad), *grad.shape[2:], -1).permute(0, 3, 1, 2)  # channels last

    def style_grad(self, g, x, mean, a, rstd, out=None):
        of_g, of_product = self.sums(g, x, mean)
        pixels = x.shape[2] * x.shape[3]
        grad_style = torch.cat([of_product * rstd, of_g], dim=1).float()
        if out is not None:
            grad_style = out.copy_(grad_style)
        return grad_style, -a * of_g / pixels, -a * rstd.square() * of_product / pixels

    def sums(self, g, x, mean):
        """Σg and Σg·(x − mean) over the pixels, each (B, C)."""
        centred = x - per_channel(mean).to(x.dtype)
        of_g, of_product = (each.sum((2, 3), dtype=torch.float32) for each in (g, centred.mul_(g)))
        return of_g, of_product

    def leaky_grad(self, g, x, mean, a, q, p, blur):
        a, q, p = (per_channel(each).to(g.dtype) for each in (a, q, p - q * mean))
        du = g.mul_(a).addcmul_(x, q).add_(p)
        du = torch.ops.aten.leaky_relu_backward(du, x, LEAKY_SLOPE, True)
        return self.blur(du) if blur else du

    def noise_grad(self, g, weight):
        return (g.float() * per_channel(weight)).sum(dim=1, keepdim=True)

    def blur(self, y):
        # as sums of shifted pictures: a convolution of single channels is slow on a CPU
        down = y * (2 / 16)
        down[:, :, 1:].add_(y[:, :, :-1], alpha=1 / 16)
        down[:, :, :-1].add_(y[:, :, 1:], alpha=1 / 16)
        across = down * 2
        across[..., 1:].add_(down[..., :-1])
        across[..., :-1].add_(down[..., 1:])
        return across


class FastSynthesis:
    """`synthesis` with folded weights, as it is now: later changes of its weights are not seen.

    precision: one of PRECISIONS, of the convolutions; pictures between them are stored in bfloat16
    or float32. w, noise, styles, statistics and the picture that comes out are float32.
    """

    def __init__(self, synthesis: G_synthesis, kernels: Kernels, precision: str = "float32"):
        self.kernels, self.precision = kernels, precision
        self.dtype = dtype = dtype_of(precision)
        self.device = synthesis.torgb.weight.device
        self.layers: list[Layer] = []
        epilogues = [
            epilogue for block in synthesis.blocks.values() for epilogue in (block.epi1, block.epi2)
        ]
        with torch.no_grad():
            for size, block in synthesis.blocks.items():
                if size == "4x4":
                    self.const = channels_last(block.const.clone())
                    self.layers.append(Layer(None, block.bias, block.epi1, dtype))
                    self.layers.append(Layer(block.conv, block.conv.bias, block.epi2, dtype))
                else:
                    up, conv = block.conv0_up, block.conv1
                    self.layers.append(Layer(up, up.bias, block.epi1, dtype))
                    self.layers.append(Layer(conv, conv.bias, block.epi2, dtype))
            for layer in self.layers[1:]:
                layer.convolution = kernels.convolution(layer.convolution, precision)
            self.styles = stacked_styles([epilogue.style_mod.lin for epilogue in epilogues])
            torgb = synthesis.torgb
            weight = (torgb.weight * torgb.scale)[:, :, 0, 0].clone()  # (3, C)
            self.rgb = weight, torgb.bias.clone()
            self.rgb_in_unit_range = weight * 0.5, torgb.bias * 0.5 + 0.5

    @property
    def formulation(self) -> str:
        """What its kernels are now, eager or compiled: a later shape may fail to compile."""
        return self.kernels.formulation

    @property
    def step_kernels(self) -> TorchStep:
        """What a search with this network computes its steps with."""
        return self.kernels.step

    def __call__(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """w (B, L, d), noise: L tensors (B, 1, r_i, r_i) → picture (B, 3, S, S), contiguous."""
        return self._drawn(w, noise, self.rgb)

    def in_unit_range(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """(picture + 1)/2, by kernels that fold it into the last 1×1 convolution for nothing."""
        if not self.kernels.folds_range:
            return self(w, noise).mul(0.5).add_(0.5)
        return self._drawn(w, noise, self.rgb_in_unit_range)

    def _drawn(self, w: Tensor, noise: list[Tensor], rgb: tuple[Tensor, Tensor]) -> Tensor:
        B = len(w)
        if padding := self.kernels.batch_size(B) - B:
            w = torch.cat([w, w[-1:].expand(padding, -1, -1)])
            noise = [torch.cat([maps, maps[-1:].expand(padding, -1, -1, -1)]) for maps in noise]
        with convolutions_in(self.precision, self.device):
            picture = _Synthesis.apply(self, rgb, torch.is_grad_enabled(), w, *noise)
        return picture[:B] if padding else picture


class _Synthesis(torch.autograd.Function):
    """w and noise → picture, with the backward pass of the module docstring. rgb: the last
    convolution's weight (3, C) and bias.
    """

    @staticmethod
    def forward(
        ctx,
        fast: FastSynthesis,
        rgb: tuple[Tensor, Tensor],
        keep: bool,
        w: Tensor,
        *noise: Tensor,
    ) -> Tensor:
        B = len(w)
        styles = fast.kernels.styles(w, fast.styles)
        activations, statistics = [], []
        x = None  # x̂ of the layer before
        for layer, style, maps in zip(fast.layers, styles, noise, strict=True):
            if x is None:
                y = channels_last(fast.const.to(fast.dtype).repeat(B, 1, 1, 1))
            else:
                y = layer.convolve(x)
            x, mean, rstd, a, s1 = fast.kernels.styled(
                y, layer.bias, layer.noise_weight, maps, layer.up, style
            )
            if keep:  # for backward
                activations.append(x)
                statistics.append((mean, rstd, a))
            if layer is fast.layers[-1]:
                x = fast.kernels.picture(x, mean, a, s1, *rgb, overwrite=not keep)
            else:
                x = fast.kernels.affine(x, mean, a, s1, overwrite=not keep)
        ctx.fast, ctx.rgb_weight = fast, rgb[0]
        ctx.activations, ctx.statistics = activations, statistics
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        with convolutions_in(ctx.fast.precision, ctx.fast.device):
            return None, None, None, *_Synthesis._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx, grad: Tensor) -> list[Tensor | None]:
        """For w and the noise maps of all layers."""
        require_kept(ctx.activations)
        fast = ctx.fast
        L = len(fast.layers)
        needed = ctx.needs_input_grad[4:]
        grad_noise = [None] * L
        whole, grad_styles = fast.kernels.empty_style_grads(len(grad), fast.styles)
        g = fast.kernels.picture_grad(grad, ctx.rgb_weight, fast.dtype)
        for i in range(L - 1, -1, -1):
            layer, x = fast.layers[i], ctx.activations.pop()
            mean, rstd, a = ctx.statistics.pop()
            grad_styles[i], p, q = fast.kernels.style_grad(g, x, mean, a, rstd, grad_styles[i])
            if i == 0 and not needed[0]:
                break
            blur_later = layer.up and needed[i]  # the noise comes in after the blur
            g = fast.kernels.leaky_grad(g, x, mean, a, q, p, layer.up and not blur_later)
            if needed[i]:
                grad_noise[i] = fast.kernels.noise_grad(g, layer.noise_weight)
            if blur_later:
                g = fast.kernels.blur(g)
            if i == 0:
                break
            g = layer.convolve_back(g)
        grad_w = None
        if ctx.needs_input_grad[3]:
            grad_w = fast.kernels.styles_grad(whole, grad_styles, fast.styles)
        return [grad_w, *grad_noise]
