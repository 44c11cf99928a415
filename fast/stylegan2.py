"""The synthesis network of StyleGAN2 again, for the search: the same function of w and noise as
generators/stylegan2.py, and its gradient for both, several times faster.

    synthesize = FastStyleGAN2(generator.synthesis, kernels)
    image = synthesize(w, noise)  # differentiable in w and noise

As in synthesis.py, weights are folded once, pictures lie channels last, and no weight has a
gradient. What is different here:
- A kernel modulated by s and demodulated is the same kernel for all pictures, between two scales of
  channels: y = d·conv(s·x), d = 1/√(Σ w²·s² + 1e-8). Both scales go into what lies between two
  convolutions.
- There is no norm, so that this is one pass over memory forward and one backward. Forward writes
  x̂ = s·clamp(LeakyReLU(u)), u = d·y + noise + bias, s that of the next layer, and from it the
  picture of the block. Backward reads x̂ and nothing else: of LeakyReLU and the clamp it tells the
  slope, and as Σ du·u = Σ g·x, g the gradient for x̂, also the gradient for d; that for s is
  Σ g·x̂/s. So no s may be 0, and TINY is added to those that are.
- The transposed convolution of 2r + 1 pixels is, on a CPU, four small convolutions for its pixels
  of even and odd rows and columns: PyTorch's own takes longer (docs/performance.md).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from fast.layers import channels_last, per_channel
from fast.precision import convolutions_in, dtype_of
from fast.stylegan2_kernels import Phases, StyleGAN2Kernels, to_rgb

EPSILON = 1e-8  # of the demodulation
TINY = 1e-12


class Layer:
    """A layer's folded weights. Its gain·√2 is in d, bias and noise: LeakyReLU lets it through."""

    def __init__(self, layer: nn.Module, gain: float, dtype: torch.dtype, phases: bool):
        self.up, self.phases = layer.up, phases
        weight, factor = layer.weight, gain * math.sqrt(2)
        self.limit = math.inf if layer.conv_clamp is None else gain * layer.conv_clamp
        self.bias = layer.bias * factor
        self.strength = layer.noise_strength * factor if layer.use_noise else None
        self.affine_weight = layer.affine.weight * layer.affine.scale
        self.affine_bias = layer.affine.bias * layer.affine.lrmul
        self.squares = weight.square().sum((2, 3))  # (out, in)
        self.factor = factor / 16 if self.up else factor  # of d; of the blur 4/64
        if self.up:
            self.kernel = channels_last(weight.transpose(0, 1).to(dtype))  # (in, out, 3, 3)
            # z[2i] = k[0]·x[i] + k[2]·x[i − 1], z[2i + 1] = k[1]·x[i], along both axes
            flipped = weight.flip(2, 3)
            taps = slice(0, 3, 2), slice(1, 2)
            self.kernels = [
                channels_last(flipped[:, :, rows, columns].to(dtype))
                for rows in taps
                for columns in taps
            ] * phases
        else:
            self.kernel = channels_last(weight.to(dtype))
            self.transposed = channels_last(weight.flip(2, 3).transpose(0, 1).to(dtype))

    def style(self, w: Tensor) -> Tensor:
        """w (B, d) → s (B, in), nowhere 0."""
        s = F.linear(w, self.affine_weight, self.affine_bias)
        return s + (s.abs() < TINY) * (2 * TINY)

    def demodulation(self, s: Tensor) -> Tensor:
        """d (B, out)."""
        return (F.linear(s.square(), self.squares) + EPSILON).rsqrt() * self.factor

    def convolve(self, x: Tensor) -> Tensor | Phases:
        """(B, in, r, r) → (B, out, r, r); (B, out, 2r + 1, 2r + 1) where the layer is `up`."""
        if not self.up:
            return F.conv2d(x, self.kernel, padding=1)
        if not self.phases:
            return F.conv_transpose2d(x, self.kernel, stride=2)
        paddings = (1, 1), (1, 0), (0, 1), (0, 0)
        return tuple(
            F.conv2d(x, kernel, padding=padding)
            for kernel, padding in zip(self.kernels, paddings, strict=True)
        )

    def convolve_back(self, g: Tensor) -> Tensor:
        """The gradient for the input of `convolve`."""
        if self.up:
            return F.conv2d(g, self.kernel, stride=2)
        return F.conv2d(g, self.transposed, padding=1)


class Colours:
    """Folded weights of the 1×1 convolution to red, green and blue."""

    def __init__(self, torgb: nn.Module):
        C = torgb.weight.shape[1]
        self.weight = torgb.weight[:, :, 0, 0] / math.sqrt(C)  # (3, C)
        self.bias = torgb.bias.clone()
        self.limit = torgb.conv_clamp
        self.affine_weight = torgb.affine.weight * torgb.affine.scale
        self.affine_bias = torgb.affine.bias * torgb.affine.lrmul

    def weights(self, w: Tensor) -> Tensor:
        """w (B, d) → (B, 3, C)."""
        return self.weight * F.linear(w, self.affine_weight, self.affine_bias)[:, None]

    def clamped(self, rgb: Tensor) -> Tensor:
        return rgb if self.limit is None else rgb.clamp(-self.limit, self.limit)


class FastStyleGAN2:
    """`network`, a StyleGAN2Synthesis, with folded weights, as it is now: later changes of its
    weights are not seen.

    precision: one of PRECISIONS, of the convolutions; pictures between them are stored in bfloat16
    or float32. w, noise, styles and the picture that comes out are float32.
    """

    def __init__(self, network: nn.Module, kernels: StyleGAN2Kernels, precision: str = "float32"):
        self.kernels, self.precision = kernels, precision
        self.dtype = dtype = dtype_of(precision)
        self.residual = network.config["architecture"] == "resnet"
        self.blocks: list[tuple[list[Layer], Colours | None, Tensor | None]] = []
        with torch.no_grad():
            const = network.b4.const
            self.device = const.device
            self.const = channels_last(const[None].to(dtype))
            for block in network.blocks.values():
                layers, skip = [], None
                for layer in block.layers:
                    halved = hasattr(block, "skip") and layer is block.conv1
                    gain = math.sqrt(0.5) if halved else 1.0
                    layers.append(Layer(layer, gain, dtype, self.device.type == "cpu"))
                if hasattr(block, "skip"):
                    weight = block.skip.weight / math.sqrt(block.skip.weight.shape[1])
                    skip = channels_last((weight * math.sqrt(0.5)).to(dtype))
                colours = Colours(block.torgb) if hasattr(block, "torgb") else None
                self.blocks.append((layers, colours, skip))

    @property
    def formulation(self) -> str:
        """What its kernels are now, eager or compiled: a later shape may fail to compile."""
        return self.kernels.formulation

    def __call__(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """w (B, L, d), noise: tensors (B or 1, 1, r_i, r_i) → picture (B, 3, S, S), contiguous."""
        B = len(w)
        maps = [each.expand(B, -1, -1, -1) for each in noise]
        if padding := self.kernels.batch_size(B) - B:
            w = torch.cat([w, w[-1:].expand(padding, -1, -1)])
            maps = [torch.cat([each, each[-1:].expand(padding, -1, -1, -1)]) for each in maps]
        picture = self._residual(w, maps) if self.residual else self._chain(w, maps)
        return picture[:B] if padding else picture

    def _layers(self, w: Tensor, noise: list[Tensor]) -> list[tuple]:
        """Of each layer: itself, s, d and what its noise map adds."""
        layers = [layer for block in self.blocks for layer in block[0]]
        maps = noise or [None] * len(layers)
        found = []
        for i, layer in enumerate(layers):
            s = layer.style(w[:, i])
            added = None if layer.strength is None else maps[i] * layer.strength
            found.append((layer, s, layer.demodulation(s), added))
        return found

    def _chain(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """Of the architectures skip and orig, where x goes nowhere but to the next layer."""
        found = self._layers(w, noise)
        x, image, i = self.const * per_channel(found[0][1]).to(self.dtype), None, 0
        for layers, colours, _ in self.blocks:
            for layer in layers:
                _, _, d, added = found[i]
                i += 1
                s = found[i][1] if i < len(found) else None
                to_picture = colours if layer is layers[-1] else None
                weight = None if to_picture is None else to_picture.weights(w[:, i])
                x, rgb = _Layer.apply(self, layer, to_picture, x, d, s, added, weight)
                if rgb is not None:
                    rgb = colours.clamped(rgb)
                    image = rgb if image is None else _Upsample.apply(image) + rgb
        return image

    def _residual(self, w: Tensor, noise: list[Tensor]) -> Tensor:
        """Of the architecture resnet, where x also goes to the block's skip convolution."""
        found = iter(self._layers(w, noise))
        x = self.const.expand(len(w), -1, -1, -1)
        for layers, colours, skip in self.blocks:
            steps = [next(found) for _ in layers]
            y = x * per_channel(steps[0][1]).to(self.dtype)
            for layer, (_, _, d, added), after in zip(
                layers, steps, [*steps[1:], None], strict=True
            ):
                s = None if after is None else after[1]
                y = _Layer.apply(self, layer, None, y, d, s, added, None)[0]
            x = y if skip is None else y + _Upsample.apply(_Skip.apply(self, x, skip))
        return colours.clamped(to_rgb(x, colours.weights(w[:, -1]), colours.bias))


class _Layer(torch.autograd.Function):
    """Convolution and what follows: x̂ → that of the next layer (s None: without its scale), and the
    block's share in the picture, if `colours`.
    """

    @staticmethod
    def forward(
        ctx,
        fast: FastStyleGAN2,
        layer: Layer,
        colours: Colours | None,
        x: Tensor,
        d: Tensor,
        s: Tensor | None,
        noise: Tensor | None,
        weight: Tensor | None,
    ):
        ctx.set_materialize_grads(False)
        s = torch.ones_like(d) if s is None else s
        if weight is not None:
            weight = weight / s[:, None]  # of x̂ = s·x
        with convolutions_in(fast.precision, fast.device):
            y = layer.convolve(channels_last(x))
        bias = None if colours is None else colours.bias
        x, rgb = fast.kernels.activate(
            y, d, layer.bias, noise, s, layer.limit, weight, bias, layer.up
        )
        ctx.fast, ctx.layer = fast, layer
        ctx.save_for_backward(x, d, s, noise, weight)
        return x, rgb

    @staticmethod
    @once_differentiable
    def backward(ctx, h: Tensor | None, grad_rgb: Tensor | None):
        fast, layer = ctx.fast, ctx.layer
        x, d, s, noise, weight = ctx.saved_tensors
        _, _, _, for_x, _, for_s, for_noise, _ = ctx.needs_input_grad
        g, of_noise, of_y, of_h, of_rgb = fast.kernels.activate_grad(
            None if h is None else channels_last(h),
            *(x, d, layer.bias, noise, s, layer.limit, weight),
            None if grad_rgb is None else grad_rgb.contiguous(),
            *(layer.up, for_noise),
            overwrite=not fast.residual,  # there h may be the gradient of another branch as well
        )
        grad_x = None
        if for_x:
            with convolutions_in(fast.precision, fast.device):
                grad_x = layer.convolve_back(g)
        grad_s = of_h / s if for_s else None
        grad_weight = None if of_rgb is None else of_rgb / s[:, None]
        return None, None, None, grad_x, of_y / d, grad_s, of_noise, grad_weight


class _Skip(torch.autograd.Function):
    """The 1×1 convolution of a residual block, whose weights need no gradient."""

    @staticmethod
    def forward(ctx, fast: FastStyleGAN2, x: Tensor, weight: Tensor) -> Tensor:
        ctx.fast, ctx.weight = fast, weight
        with convolutions_in(fast.precision, fast.device):
            return F.conv2d(channels_last(x), weight)

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        with convolutions_in(ctx.fast.precision, ctx.fast.device):
            return None, F.conv2d(channels_last(g), ctx.weight.transpose(0, 1)), None


class _Upsample(torch.autograd.Function):
    """(B, C, r, r) → (B, C, 2r, 2r): along each axis (x[i − 1] + 3·x[i])/4 and
    (3·x[i] + x[i + 1])/4, zeros beyond the edge.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        for dim in (3, 2):
            n = x.shape[dim]
            even, odd = x * 0.75, x * 0.75
            even.narrow(dim, 1, n - 1).add_(x.narrow(dim, 0, n - 1), alpha=0.25)
            odd.narrow(dim, 0, n - 1).add_(x.narrow(dim, 1, n - 1), alpha=0.25)
            x = torch.stack([even, odd], dim + 1).flatten(dim, dim + 1)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, g: Tensor):
        for dim in (2, 3):
            n = g.shape[dim] // 2
            even, odd = g.unflatten(dim, (n, 2)).unbind(dim + 1)
            out = (even + odd).mul_(0.75)
            out.narrow(dim, 0, n - 1).add_(even.narrow(dim, 1, n - 1), alpha=0.25)
            out.narrow(dim, 1, n - 1).add_(odd.narrow(dim, 0, n - 1), alpha=0.25)
            g = out
        return g
