"""Any torch optimiser, kept on spheres: projected gradient descent where a Gaussian prior has
nearly all of its mass.
"""

from __future__ import annotations

import torch
from torch import Tensor


def row_norm(x: Tensor) -> Tensor:
    """√(Σx² + 1e-9) over everything beyond the first two dimensions, which are kept as (B, R, 1, …,
    1).
    """
    return (x.square().sum(dim=tuple(range(2, x.ndim)), keepdim=True) + 1e-9).sqrt()


class SphericalOptimizer:
    """`optimizer(params, **kwargs)`, after each step of which every row of every parameter goes
    back to its own radius.

    A row is everything beyond the first two dimensions: of v (B, L, d) a vector per image and
    layer, of a noise map (B, 1, r, r) the map of an image. Its radius is what it has at the start.
    `opt` is the wrapped optimiser, for a scheduler.

    Raises: ValueError for a parameter of fewer than three dimensions, which would have no rows.
    """

    def __init__(self, optimizer: type[torch.optim.Optimizer], params, **kwargs):
        self.params = list(params)
        for param in self.params:
            if param.ndim < 3:
                raise ValueError(
                    f"a parameter of shape {tuple(param.shape)} has no rows beyond two dimensions"
                )
        self.opt = optimizer(self.params, **kwargs)
        with torch.no_grad():
            self.radii = [row_norm(param) for param in self.params]

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.opt.zero_grad(set_to_none=set_to_none)

    @torch.no_grad()
    def step(self, closure=None):
        """One step of the wrapped optimiser, then x ← x / √(Σx² + 1e-9) · radius. Returns the
        closure's loss, if there is one.
        """
        loss = self.opt.step(closure)
        for param, radius in zip(self.params, self.radii, strict=True):
            param.div_(row_norm(param)).mul_(radius)
        return loss
