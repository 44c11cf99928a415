"""Choose coordinates of the latent space W that suit the search; the generator's samples stay.

    python -m training.search_axes -start trained/generator.pt -output_dir turned

The search steps in the numbers of w, and which numbers a generator has there is chance: no training
asks for it. The prior takes them to be independent (generators/prior.py), Adam scales each of them
by itself, and GEOCROSS measures angles in them, whatever they do to the picture. So the mapping
network gets one layer more,

    w' = LeakyReLU(A·(w − μ) + OFFSET·σ),

which the layers that read w undo. Of C, the covariance of w, and H = E Σ JᵀJ over the layers, J the
derivative of the picture, downscaled to -side pixels, with respect to a layer's w:

    A = S·Qᵀ·C^−½,  Q·S²·Qᵀ = C^½·H·C^½  (eigenvectors and eigenvalues).

The numbers of w' are then uncorrelated, so that the prior has the covariance of W. On the average,
to first order, each changes the picture by itself, so that Adam's scaling is right, and the
distance between two w' is how much their pictures differ; GEOCROSS, the angle between them as seen
from 0, is about that distance over |w'|, but for what lies along w' itself. μ is the mean of w, σ
the standard deviations of the numbers. OFFSET keeps w' where the LeakyReLU that ends a mapping
network is straight. Do this last: before training goes on, -undo takes the layer away again.
"""

from __future__ import annotations

import copy
from argparse import Namespace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from bicubic import BicubicDownSample
from cli.command import OK, Parser, run_command
from cli.errors import UserError
from cli.progress import tell
from cli.signals import heed_signals
from generators.formats import Networks
from generators.load import save_generator, weight_file
from generators.prior import fit_prior
from safe_files import require_folder_writable
from stylegan import EqualisedLinear, G_mapping
from training.inputs import (
    FEWEST_DRAWS,
    read_generator,
    require_at_least,
    require_inputs_kept,
)
from training.samples import samples

OFFSET = 4.0  # of a Gaussian's numbers, three in 100,000 lie farther below its mean
LEAST = 1e-4  # of the largest eigenvalue: what moves the picture less is taken for this
CHUNK = 10_000  # latents at once
LEVELS = 1.0  # of 255, by which samples may change on the average; demo's do by 0.04
BATCH = 16  # pictures at once; fewer of more than 128 pixels, whose gradients need the memory


@torch.no_grad()
def moments(mapping: G_mapping, draws: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Mean (d,) and covariance (d, d) of mapping(z) over `draws` z ~ N(0, I), in float64."""
    random = torch.Generator().manual_seed(seed)
    total, products = 0.0, 0.0
    for first in range(0, draws, CHUNK):
        heed_signals()
        z = torch.randn(min(CHUNK, draws - first), mapping.latent_size, generator=random)
        w = mapping(z).double()
        total, products = total + w.sum(0), products + w.T @ w
    mean = total / draws
    return mean, (products - draws * mean.outer(mean)) / (draws - 1)


def sensitivity(networks: Networks, side: int, pictures: int, seed: int = 0) -> Tensor:
    """H (d, d), in float64: E Σ JᵀJ of `pictures` samples, J = ∂LR/∂w of each layer, LR the picture
    in [-1, 1] at `side` pixels. For u ~ N(0, I), E (Jᵀu)(Jᵀu)ᵀ is JᵀJ. (generators/fit.py does so
    in the prior's own latents, layer by layer.)
    """
    random = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    synthesis, mapping = networks.synthesis, networks.mapping
    downscale = BicubicDownSample(synthesis.resolution // side)
    batch = max(1, min(BATCH, BATCH * 128**2 // synthesis.resolution**2))
    total = torch.zeros(mapping.dlatent_size, mapping.dlatent_size, dtype=torch.float64)
    batches = -(-pictures // batch)
    for _ in tqdm(range(batches), unit="batch", desc="derivatives", disable=None):
        heed_signals()
        with torch.no_grad():
            w = mapping(draw(batch, mapping.latent_size))
        w = w[:, None].repeat(1, synthesis.num_layers, 1).requires_grad_()
        LR = downscale(synthesis(w, [draw(batch, 1, r, r) for r in synthesis.layer_sizes]))
        (gradient,) = torch.autograd.grad((LR * draw(*LR.shape)).sum(), w)
        gradient = gradient.flatten(0, 1).double()  # (B·L, d)
        total += gradient.T @ gradient / batch
    return total / batches


def coordinates(C: Tensor, H: Tensor) -> Tensor:
    """A (d, d) of covariance C and sensitivity H, both (d, d): A·C·Aᵀ is diagonal, and AᵀA is H,
    but for its smallest eigenvalues (LEAST) and a factor; what moves the picture most comes first.
    """
    variances, axes = torch.linalg.eigh(C)
    variances = variances.clamp(min=1e-6 * variances.max())  # a direction that W lacks
    root = axes @ variances.sqrt().diag() @ axes.T
    eigenvalues, Q = torch.linalg.eigh(root @ H @ root)
    S = eigenvalues.clamp(min=LEAST * eigenvalues.max()).sqrt()
    A = S.diag() @ Q.T @ axes @ variances.rsqrt().diag() @ axes.T
    return A.flip(0) / S.square().mean().sqrt()  # of any scale: the prior follows


def in_half(x: Tensor) -> Tensor:
    """Rounded to what a file in float16 holds, so that what comes after can make up for it."""
    return x.half().to(x.dtype)


@torch.no_grad()
def changed(networks: Networks, mean: Tensor, C: Tensor, A: Tensor) -> Networks:
    """Networks of the same samples, whose latents are w' = A·(w − mean) + OFFSET·σ, of covariance
    A·C·Aᵀ; in float32, with values of float16 where they were changed. A is invertible.
    """
    old = networks.mapping
    mapping = G_mapping(old.dlatent_size, len(old) + 1, old.latent_size, len(old[0].bias))
    mapping.load_state_dict(old.state_dict(), strict=False)  # all but the new layer
    last, sigma = mapping[-1], (A @ C @ A.T).diagonal().sqrt()
    last.weight.copy_(in_half(A / last.scale))
    last.bias.copy_(in_half((OFFSET * sigma - A @ mean) / last.lrmul))
    A = last.weight.double() * last.scale  # as it was rounded
    inverse, centre = torch.linalg.inv(A), A @ mean + last.bias.double() * last.lrmul

    synthesis = copy.deepcopy(networks.synthesis)
    for layer in synthesis.modules():
        if isinstance(layer, EqualisedLinear):  # all of them read w
            style = layer.weight.double() * layer.scale
            layer.weight.copy_(in_half(style @ inverse / layer.scale))
            # of the rounded weight, so that the style at the mean of W stays what it is
            change = style @ mean - layer.weight.double() * layer.scale @ centre
            layer.bias.copy_(in_half(layer.bias + change / layer.lrmul))
    return Networks(synthesis, mapping, about=networks.about)


@torch.no_grad()
def undone(networks: Networks) -> Networks:
    """Networks of the same samples, without the layer that `changed` added; in float32."""
    old, last = networks.mapping, networks.mapping[-1]
    mapping = G_mapping(old.dlatent_size, len(old) - 1, old.latent_size, len(old[0].bias))
    mapping.load_state_dict(old.state_dict(), strict=False)  # all but that layer
    A, shift = last.weight.double() * last.scale, last.bias.double() * last.lrmul
    synthesis = copy.deepcopy(networks.synthesis)
    for layer in synthesis.modules():
        if isinstance(layer, EqualisedLinear):
            weight = layer.weight.double()
            layer.bias += weight * layer.scale @ shift / layer.lrmul
            layer.weight.copy_(weight @ A)
    about = {key: value for key, value in networks.about.items() if key != "search_axes"}
    return Networks(synthesis, mapping, about=about)


def parser() -> Parser:
    flags = Parser(__doc__)
    flags.flag("start", "demo, demo64 or a one-file generator with its mapping network", "demo64")
    flags.flag("output_dir", "where generator.pt goes", "turned", type=Path)
    flags.flag("side", "pixels of the LR pictures that it will be searched for", 32, type=int)
    flags.flag("undo", "write the generator of before", False, False, action="store_true")
    flags.flag("draws", "latents of which the covariance is taken", 1_000_000, type=int)
    flags.flag("pictures", "of which the derivatives are taken, in whole batches", 1200, type=int)
    flags.flag("prior_draws", "latents that its prior is fitted to", 1_000_000, type=int)
    return flags


def require_usable(networks: Networks, args: Namespace) -> None:
    """Raises: UserError, one sentence, where the flags or the generator cannot be used."""
    mapping, size = networks.mapping, networks.synthesis.resolution
    if args.undo != ("search_axes" in networks.about):
        raise UserError(
            f"{args.start} has the coordinates that it was trained with: there is nothing to undo"
            if args.undo
            else f"{args.start} has coordinates for the search already: take them away with -undo"
        )
    if len(mapping) > 1 and len(mapping[0].bias) != mapping.dlatent_size:
        raise UserError(
            f"{args.start} has a mapping network whose layers differ in width, which cannot get "
            f"one more: give another generator"
        )
    if not 2 <= args.side < size or size % args.side:
        raise UserError(f"-side {args.side} must be at least 2, divide {size}, and be less")
    for name, fewest in (
        ("draws", 10 * mapping.dlatent_size),
        ("pictures", 1),
        ("prior_draws", FEWEST_DRAWS),
    ):
        require_at_least(name, getattr(args, name), fewest)


def require_same_samples(before: Networks, after: Networks, start: object) -> None:
    """Raises: UserError where the samples are others."""
    old, new = (samples(n.synthesis, n.mapping, range(32)).float() for n in (before, after))
    levels = (old - new).abs().mean().item()
    if not levels < LEVELS:
        raise UserError(
            f"the samples of {start} would change by {levels:.1f} of 255 levels: give more -draws, "
            f"or a generator whose latents float16 can hold"
        )


def main() -> int:
    args = parser().parse_args()
    require_folder_writable(args.output_dir, "-output_dir")
    path = args.output_dir / "generator.pt"
    require_inputs_kept([path], [("the generator to start from", weight_file(args.start))])
    before = read_generator(args.start)
    require_usable(before, args)
    before.synthesis.float().requires_grad_(False), before.mapping.float()
    if args.undo:
        networks = undone(before)
    else:
        mean, C = moments(before.mapping, args.draws)
        A = coordinates(C, sensitivity(before, args.side, args.pictures))
        networks = changed(before, mean, C, A)
        networks.about = {**before.about, "search_axes": f"for LR of {args.side} pixels"}
    require_same_samples(before, networks, args.start)
    prior = fit_prior(networks.mapping, args.prior_draws)
    networks.synthesis.half(), networks.mapping.half()
    try:
        args.output_dir.mkdir(parents=True, exist_ok=True)
        save_generator(networks, prior, path)
    except OSError as error:
        raise UserError(f"{args.output_dir} cannot be written ({error.strerror})") from None
    tell(f"written: {path}")
    return OK


if __name__ == "__main__":
    run_command(main)
