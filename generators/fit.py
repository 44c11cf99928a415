"""What the search can know of a generator beforehand: how the LR of its pictures answers to their
latents. Found from a sample of pictures, once for a generator, and cached.

Each picture G(w(v), noise) has one v ~ N(0, I) for all layers, and is downscaled to x, s×s pixels:

- gain K = C_vx·(C_xx + σ²I)⁻¹, of the covariances of v and x: v + K·(LR − x) is where a linear fit
  expects the latent of the LR. Started from a seed's own v, it keeps of it what the LR leaves open
  (as the ensemble Kalman filter does).
- curvature E[JᵀJ], J the Jacobian of x in a layer's latent: E[gg ᵀ] of g = Jᵀu, u ~ N(0, I). The
  preconditioner is (E[JᵀJ] + σ²I)⁻¹, the inverse Hessian, on the average, of (‖x − LR‖²/σ² +
  ‖v‖²)/2, up to a factor.

σ² is PIXEL_VARIANCE, by which a pixel of the LR may be off.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bicubic import BicubicDownSample
from cli.errors import UserError
from cli.progress import tell
from cli.signals import heed_signals
from generators.latents import draw
from generators.load import Generator
from generators.networks import tensors
from generators.safe_loading import load_torch
from safe_files import atomic_write
from SphericalOptimizer import row_norm

log = logging.getLogger("pulse")

LARGEST = 16  # pixels, s at most: larger LR are downscaled to it
PICTURES = 1000  # from which the gain is found
GRADIENTS = 300  # of them, from which the curvature is found
CHUNK = 20  # pictures at once, fewer of large ones
PIXEL_VARIANCE = 2e-3  # σ², pixels in [0, 1]: the default eps
NOISE_VARIANCE = 2e-4  # in its place for noise maps, of which GEOCROSS says nothing: they go first
CORRECTIONS = 2  # of a start, each of which takes a forward pass

Synthesize = Callable[[Tensor, list[Tensor]], Tensor]  # w (B, L, d), noise maps → (B, 3, S, S)
OnPictures = Callable[[int, int], None]  # how many pictures of a fit are drawn, and of how many


@dataclass(frozen=True)
class Fit:
    """A fit to one generator, at LR of `side` pixels; on its device."""

    gain: Tensor  # K, (d, 3·side²)
    gradients: Tensor  # (N, L, d): g of every picture and layer
    noise: Tensor  # the mean of g² for each noise map

    @property
    def side(self) -> int:
        return math.isqrt(self.gain.shape[1] // 3)

    @torch.no_grad()
    def start(
        self,
        generator: Generator,
        synthesize: Synthesize,
        LR: Tensor,
        v: Tensor,
        noise: list[Tensor],
    ) -> Tensor:
        """v (B, L or 1, d), of a seed, every layer's corrected for its LR (B, 3, h, h); the norms
        stay.
        """
        radius = row_norm(v)
        LR = _downscaled(LR, self.side)
        for _ in range(CORRECTIONS):
            x = _downscaled(
                draw(synthesize, generator.w_of(v), noise, generator.num_layers), self.side
            )
            v = v + ((LR - x).flatten(1) @ self.gain.T)[:, None]
            v = v / row_norm(v) * radius
        return v

    def preconditioner(self, rows: int, maps: Sequence[int]) -> Callable:
        """What maps the gradients of v (B, rows, d) and of the noise maps of those layers, a list,
        to as many steps. rows: L, or 1 for one latent for all layers.
        """
        inverse = self._inverse if rows > 1 else self._inverse_of_sum
        factors = [1 / (self.noise[layer] + NOISE_VARIANCE) for layer in maps]

        def precondition(gradients: list[Tensor]) -> list[Tensor]:
            v, *noise = gradients
            scaled = (factor * each for factor, each in zip(factors, noise, strict=True))
            return [torch.einsum("lij,blj->bli", inverse, v), *scaled]

        return precondition

    # Each takes as long as several steps of 64 pixels: once, not for every search.
    @cached_property
    def _inverse(self) -> Tensor:
        """(E[JᵀJ] + σ²I)⁻¹ of each layer, (L, d, d)."""
        return _inverse_curvature(self.gradients)

    @cached_property
    def _inverse_of_sum(self) -> Tensor:
        """The same of one latent for all layers, (1, d, d)."""
        return _inverse_curvature(self.gradients.sum(1, keepdim=True))


def fit_generator(
    generator: Generator,
    synthesize: Synthesize,
    side: int,
    seed: int = 0,
    progress: bool = True,
    on_pictures: OnPictures | None = None,
) -> Fit:
    """A Fit to a generator that `synthesize` draws for, on its device, for LR of `side` pixels.

    progress: True for a bar on stderr or, where that is no terminal, a line. on_pictures: called
    with the number of pictures drawn so far, and of all.
    """
    device, L, d = generator.mean.device, generator.num_layers, generator.dlatent_size
    random = torch.Generator().manual_seed(seed)
    latents, pictures, gradients, squares = [], [], [], []

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=random).to(device)

    chunk = max(1, min(CHUNK, (1 << 20) // generator.resolution**2))
    terminal = sys.stderr.isatty()
    if progress is True and not terminal:
        tell(f"fit of the search: {PICTURES} pictures are drawn", file=sys.stderr)
    hidden = not (progress is True and terminal)
    bar = tqdm(total=PICTURES, unit="picture", desc="fit of the search", disable=hidden)
    for first in range(0, PICTURES, chunk):
        heed_signals()
        number = min(chunk, PICTURES - first)
        v = normal(number, 1, d)
        noise = [normal(number, 1, r, r) for r in generator.noise_sizes]
        differentiate = first < GRADIENTS
        with torch.set_grad_enabled(differentiate):
            each = v.expand(-1, L, -1).clone().requires_grad_(differentiate)
            maps = [each.requires_grad_(differentiate) for each in noise]
            x = _downscaled(draw(synthesize, generator.w_of(each), maps, L), side)
        if differentiate:
            along = (x * normal(*x.shape)).sum()  # uᵀx
            found = torch.autograd.grad(along, [each, *maps], materialize_grads=True)
            gradients.append(found[0])
            squares.append([g.square().mean().item() * number for g in found[1:]])
        latents.append(v[:, 0])
        pictures.append(x.detach().flatten(1))
        bar.update(number)
        if on_pictures:
            on_pictures(first + number, PICTURES)
    bar.close()
    v, x = torch.cat(latents).cpu().double(), torch.cat(pictures).cpu().double()
    x -= x.mean(0)
    identity = torch.eye(x.shape[1], dtype=x.dtype)
    C_vx, C_xx = v.T @ x / len(x), x.T @ x / len(x)
    gain = torch.linalg.solve(C_xx + PIXEL_VARIANCE * identity, C_vx.T).T
    g = torch.cat(gradients)
    noise = torch.tensor(squares).sum(0).to(device) / len(g)
    return Fit(gain.float().contiguous().to(device), g, noise)


def cached_fit(
    generator: Generator,
    synthesize: Synthesize,
    side: int,
    cache_dir: Path,
    computed_by: str,
    progress: bool = True,
    on_pictures: OnPictures | None = None,
) -> Fit:
    """The Fit for LR of `side` pixels, from `cache_dir`, or made and kept there.

    computed_by: device, precision, threads and whatever else its last bits depend on: a fit is
    used only where the same would be made. Where it cannot be kept, a line says so.
    """
    side = min(side, LARGEST)
    made_of = f"{generator.sha256} {side} {PICTURES} {GRADIENTS} {computed_by}"
    path = cache_dir / f"search_fit_{hashlib.sha256(made_of.encode()).hexdigest()[:32]}.pt"
    device = generator.mean.device
    if path.is_file():
        with contextlib.suppress(UserError, TypeError):  # damaged: made again
            return Fit(**{name: x.to(device) for name, x in tensors(load_torch(path)).items()})
    fit = fit_generator(generator, synthesize, side, progress=progress, on_pictures=on_pictures)
    try:
        with atomic_write(path) as file:
            torch.save({each.name: getattr(fit, each.name).cpu() for each in fields(fit)}, file)
    except OSError as error:
        log.warning(
            f"-cache_dir {cache_dir} cannot be written ({error.strerror}): the fit of the search "
            f"is not kept, and made again next time; another folder keeps it"
        )
    return fit


def _inverse_curvature(gradients: Tensor) -> Tensor:
    device, g = gradients.device, gradients.cpu().double()  # there is no float64 on MPS
    curvature = torch.einsum("nli,nlj->lij", g, g) / len(g)
    hessians = curvature + PIXEL_VARIANCE * torch.eye(g.shape[2], dtype=g.dtype)
    # One by one: after torch.set_num_threads(2), MKL never returns from a batch of this size.
    return torch.stack([torch.linalg.inv(each) for each in hessians]).float().to(device)


def _downscaled(pictures: Tensor, side: int) -> Tensor:
    factor = pictures.shape[-1] // side
    return BicubicDownSample(factor)(pictures) if factor > 1 else pictures
