"""The synthesis network of StyleGAN3 again, for the search: the same function of w as
generators.stylegan3, and its gradient, several times faster.

    synthesize = FastStyleGAN3(generator.synthesis, kernels)
    image = synthesize(w, [])  # differentiable in w

As in fast/synthesis.py, weights are scaled once, pictures lie channels last, and backward is by
hand: there is no gradient for weights. A layer keeps the input of its convolution and, of the many
samples between its two filters, whether each is positive and whether it was clamped. What lies
between two convolutions is one pass over memory, in the functions of a StyleGAN3Kernels.

With x the modulated input s·x̂ of a convolution, P = Σ x·g over the pixels, g the gradient for x, is
per channel s·∂/∂s. It gives the gradient of the demodulation before, too, without what that
convolution made: filters and LeakyReLU are homogeneous, f(λu) = λ·f(u) for λ > 0, so that with
u = D·y + b the input of the filters, Σ u·∂/∂u = Σ x̂·∂/∂x̂ = P where nothing was clamped, and
D·∂/∂D = P − b·Σ ∂/∂u.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fast.layers import channels_last, per_channel, require_kept
from fast.precision import convolutions_in, dtype_of
from fast.stylegan3_kernels import Filters, StyleGAN3Kernels

DEMODULATION_EPS = 1e-8


class Layer:
    """One layer's folded weights. `layer` is one of generators.stylegan3."""

    def __init__(self, layer, dtype: torch.dtype):
        layout = layer.layout
        weight, affine = layer.weight, layer.affine
        self.padding = layout.conv_kernel - 1
        self.clamp = layer.conv_clamp
        self.bias = layer.bias.clone()
        self.style_weight, self.style_bias = affine.weight * affine.scale, affine.bias.clone()
        self.gain = layer.magnitude_ema.rsqrt()
        self.filters = self.squares = None
        if layout.is_torgb:
            weight = weight * self.gain / math.sqrt(layout.in_channels)
        else:
            weight = weight * weight.square().mean(dim=(1, 2, 3), keepdim=True).rsqrt()
            self.squares = weight.square().sum(dim=(2, 3))  # (out, in)
            self.filters = Filters(
                up=(layer.up_filter * layout.up_factor).contiguous(),
                down=layer.down_filter.contiguous().clone(),
                up_factor=layout.up_factor,
                down_factor=layout.down_factor,
                before=layout.padding[0],
                in_size=layout.in_size + self.padding,
                mid_size=(layout.out_size - 1) * layout.down_factor + layout.down_taps,
                out_size=layout.out_size,
                clamp=layer.conv_clamp,
            )
        self.kernel = channels_last(weight.to(dtype))
        self.transposed = channels_last(weight.flip(2, 3).transpose(0, 1).to(dtype))

    def style(self, w: Tensor) -> tuple[Tensor, Tensor | None]:
        """w (B, d) → the scales (B, in) of the input and (B, out) of the output, None in torgb."""
        s = F.linear(w, self.style_weight, self.style_bias)
        if self.squares is None:
            return s, None
        s = s * s.square().mean(dim=1, keepdim=True).rsqrt()
        norms = F.linear(s.square(), self.squares) + DEMODULATION_EPS
        return s, norms.rsqrt() * self.gain

    def convolve(self, x: Tensor) -> Tensor:
        """(B, in, r, r) → (B, out, r + padding, r + padding)."""
        return F.conv2d(x, self.kernel, padding=self.padding)

    def convolve_back(self, g: Tensor) -> Tensor:
        """The gradient for the input of `convolve`."""
        return F.conv2d(g, self.transposed)


class FastStyleGAN3:
    """A StyleGAN3Synthesis with folded weights, as it is now: later changes are not seen.

    precision: one of PRECISIONS, of the convolutions; pictures between them are stored in bfloat16
    or float32. w, styles, sums and the picture that comes out are float32.
    """

    def __init__(self, network, kernels: StyleGAN3Kernels, precision: str = "float32"):
        self.kernels, self.precision = kernels, precision
        self.dtype = dtype_of(precision)
        self.device = network.input.weight.device
        self.output_scale = network.output_scale
        self.input = network.input
        self.of_input = {name: t.detach().clone() for name, t in self.input.state_dict().items()}
        with torch.no_grad():
            self.layers = [Layer(layer, self.dtype) for layer in network.layers]

    @property
    def formulation(self) -> str:
        """What its kernels are now, eager or compiled: a later shape may fail to compile."""
        return self.kernels.formulation

    def __call__(self, w: Tensor, noise: list[Tensor] | tuple = ()) -> Tensor:
        """w (B, L, d) → picture (B, 3, S, S), contiguous; noise: there is none."""
        B = len(w)
        if padding := self.kernels.batch_size(B) - B:
            w = torch.cat([w, w[-1:].expand(padding, -1, -1)])
        styles = [layer.style(w[:, i + 1]) for i, layer in enumerate(self.layers)]
        scales = [s for s, _ in styles] + [D for _, D in styles[:-1]]
        features = torch.func.functional_call(self.input, self.of_input, (w[:, 0],))
        with convolutions_in(self.precision, self.device):
            picture = _Synthesis.apply(self, torch.is_grad_enabled(), features, *scales)
        return picture[:B] if padding else picture


class _Synthesis(torch.autograd.Function):
    """The input's features and all scales → picture, with the backward of the module docstring."""

    @staticmethod
    def forward(ctx, fast: FastStyleGAN3, keep: bool, features: Tensor, *scales: Tensor) -> Tensor:
        N = len(fast.layers) - 1
        s, D = scales[: N + 1], scales[N + 1 :]
        inputs, kept = [], []
        x = channels_last((features * per_channel(s[0])).to(fast.dtype))
        for i, layer in enumerate(fast.layers[:-1]):
            if keep:
                inputs.append(x)
            y = layer.convolve(x)
            x, of_signs = fast.kernels.activate(y, D[i], layer.bias, s[i + 1], layer.filters, keep)
            kept.append(of_signs)
        torgb = fast.layers[-1]
        picture = torgb.convolve(x).float().contiguous().add_(torgb.bias[:, None, None])
        ctx.fast, ctx.features, ctx.s, ctx.D = fast, features, s, D
        ctx.inputs, ctx.kept, ctx.within = [*inputs, x], kept, None
        if keep:
            ctx.within = picture.abs() <= torgb.clamp
        return picture.clamp_(-torgb.clamp, torgb.clamp).mul_(fast.output_scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        with convolutions_in(ctx.fast.precision, ctx.fast.device):
            return None, None, *_Synthesis._gradients(ctx, grad)

    @staticmethod
    def _gradients(ctx, grad: Tensor) -> list[Tensor | None]:
        """For the features and all scales."""
        require_kept(ctx.inputs)
        fast, s, D = ctx.fast, ctx.s, ctx.D
        N = len(fast.layers) - 1
        grad_s, grad_D = [None] * (N + 1), [None] * N
        g = channels_last((grad * ctx.within * fast.output_scale).to(fast.dtype))
        for i in range(N, -1, -1):
            g = fast.layers[i].convolve_back(g)
            P = fast.kernels.products(g, ctx.inputs.pop())  # (B, in)
            # where s is 0, so is x: only a channel that no w moves has that
            grad_s[i] = (P / torch.where(s[i] == 0, 1.0, s[i])).float()
            if i == 0:
                break
            before = fast.layers[i - 1]
            g, of_bias, clamped = fast.kernels.activate_grad(
                g, s[i], ctx.kept.pop(), D[i - 1], before.filters
            )
            grad_D[i - 1] = ((P - clamped - before.bias * of_bias) / D[i - 1]).float()
        return [g.float() * per_channel(s[0]), *grad_s, *grad_D]
