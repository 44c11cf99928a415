"""Optimisers kept on spheres, where a Gaussian prior has nearly all of its mass: any of torch's,
projected back after each step, L-BFGS, and L-BFGS until a picture is found, Adam from then on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# Of SphericalLBFGS.
PAIRS = 30  # steps that are remembered: with 5 or 12 fewer faces were found
WORSE = 1.02  # times the loss before: from there on a step is taken back
LONGER = 1.3  # of the next step after one that was kept, up to the whole one
FARTHEST = 0.3  # of the radius: how far a row moves in a step
BETAS = 0.9, 0.999  # of LBFGSThenAdam


def row_norm(x: Tensor) -> Tensor:
    """√(Σx² + 1e-9) over everything beyond the first two dimensions, which are kept as (B, R, 1, …,
    1).
    """
    return (x.square().sum(dim=tuple(range(2, x.ndim)), keepdim=True) + 1e-9).sqrt()


def to_sphere(x: Tensor, radius: Tensor) -> None:
    """x ← x / √(Σx² + 1e-9) · radius of each row, in place; radius as row_norm has it."""
    x.div_(row_norm(x)).mul_(radius)


class SphericalOptimizer:
    """`optimizer(params, **kwargs)`, after each step of which every row of every parameter goes
    back to its own radius.

    A row is everything beyond the first two dimensions: of v (B, L, d) a vector per image and
    layer, of a noise map (B, 1, r, r) the map of an image. Its radius is what it has at the start.
    `opt` is the wrapped optimiser, for a scheduler. to_sphere: what computes it, in place.

    Raises: ValueError for a parameter of fewer than three dimensions, which would have no rows.
    """

    def __init__(
        self,
        optimizer: type[torch.optim.Optimizer],
        params,
        *,
        to_sphere: Callable[[Tensor, Tensor], None] = to_sphere,
        **kwargs,
    ):
        self.params, self.to_sphere = list(params), to_sphere
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
            self.to_sphere(param, radius)
        return loss


class SphericalLBFGS:
    """L-BFGS over `params`, each (B, R, …), of which every row, as in SphericalOptimizer, stays on
    the sphere of its radius at the start: second-order steps, for a batch of pictures at once.

    A step is −H·g: H is the inverse Hessian as the last PAIRS steps of that picture saw it, and as
    the preconditioner P, the same for all pictures, has it where they saw nothing. There is no line
    search, each step is one pass: what has made the loss worse is taken back, and the next step
    from there is half as long.

    lr: () multiplies the steps. precondition: maps gradients, a tensor like each of `params`, to
    steps; its scale does not matter. `state` begins as zeros, and everything is changed in place
    and without waiting for the device, so that steps can be recorded (fast/cuda_graph.py).
    """

    def __init__(self, params: Sequence[Tensor], lr: Tensor, precondition):
        self.params, self.lr, self.precondition = list(params), lr, precondition
        self.opt = self  # what Recorder.begin takes
        with torch.no_grad():
            self.radii = [row_norm(param) for param in self.params]
        B, D = len(self.params[0]), sum(param[0].numel() for param in self.params)
        zeros = self.params[0].new_zeros
        self.state = {
            "L-BFGS": {
                "x": zeros(B, D),  # the last point that was kept, its gradient and loss
                "g": zeros(B, D),
                "loss": zeros(B),
                "moves": zeros(B, PAIRS, D),  # the last ones, oldest first, and what the gradient
                "turns": zeros(B, PAIRS, D),  # changed by; 0: a pair that does not count
                "scale": zeros(B),  # of P
                "halvings": zeros(B),  # of the step
                "steps": zeros(()),
            }
        }

    def zero_grad(self) -> None:
        for param in self.params:
            param.grad = None

    @torch.no_grad()
    def step(self, loss: Tensor, welcome: Tensor) -> None:
        """One step from the present params, their gradients, and `loss` (B,), which these are of.

        Where the loss is worse than at the last point that was kept, the step leads from there,
        unless the present point is `welcome`, (B,) bool: where its loss is not to be compared.
        """
        s = self.state["L-BFGS"]
        x, g = self._flat(self.params), self._flat(self._tangents())
        before = s["steps"] > 0
        self._remember(x - s["x"], g - s["g"], before)
        worse = before & ~welcome & ~(loss <= WORSE * s["loss"])
        for name, new in (("x", x), ("g", g), ("loss", loss)):
            s[name].copy_(torch.where(worse.view(-1, *[1] * (new.ndim - 1)), s[name], new))
        halvings = torch.where(worse, s["halvings"] + 1, s["halvings"] - math.log2(LONGER))
        s["halvings"].copy_(halvings.clamp(min=0))
        s["steps"] += 1
        step = self._direction(s["g"]) * (self.lr * 0.5 ** s["halvings"])[:, None]
        rows = zip(self._parts(step), self.radii, strict=True)
        farthest = torch.stack([(row_norm(r) / radius).flatten(1).amax(1) for r, radius in rows])
        step *= (FARTHEST / farthest.amax(0).clamp(min=FARTHEST))[:, None]
        for param, new, radius in zip(
            self.params, self._parts(s["x"] + step), self.radii, strict=True
        ):
            param.copy_(new / row_norm(new) * radius)

    def _remember(self, move: Tensor, turn: Tensor, before: Tensor) -> None:
        """The last step becomes the youngest pair, unless the loss curves down along it."""
        s = self.state["L-BFGS"]
        product = (move * turn).sum(1)
        counts = before & (product > 1e-10 * move.norm(dim=1) * turn.norm(dim=1))
        scale = product / (turn * self._precondition(turn)).sum(1)
        s["scale"].copy_(torch.where(counts, scale, s["scale"]))
        for name, new in (("moves", move), ("turns", turn)):
            new = torch.where(counts[:, None], new, 0.0)
            s[name].copy_(torch.cat([s[name][:, 1:], new[:, None]], 1))

    def _direction(self, g: Tensor) -> Tensor:
        """−H·g, (B, D), in the compact form of Byrd, Nocedal and Schnabel (1994): with the moves S
        and the turns Y as columns, R the upper triangle of SᵀY and D its diagonal, u = R⁻¹·Sᵀg,
        z = scale·P·(g − Y·u) and H·g = z + S·R⁻ᵀ·(D·u − Yᵀz).

        Before there is a pair, the scale is that of a step at whose end a linear loss would be 0.
        """
        s = self.state["L-BFGS"]
        S, Y = s["moves"], s["turns"]  # (B, PAIRS, D): transposed
        products = torch.triu(S @ Y.mT)
        D = products.diagonal(dim1=1, dim2=2)[..., None]
        R = products + torch.diag_embed((D == 0).float()[..., 0])  # where there is no pair: 1
        first = s["loss"] / (g * self._precondition(g)).sum(1)
        scale = torch.where(s["scale"] > 0, s["scale"], first)[:, None]
        u = torch.linalg.solve_triangular(R, S @ g[..., None], upper=True)
        z = scale * self._precondition(g - (Y.mT @ u)[..., 0])
        b = torch.linalg.solve_triangular(R.mT, D * u - Y @ z[..., None], upper=False)
        return -(z + (S.mT @ b)[..., 0])

    def _precondition(self, flat: Tensor) -> Tensor:
        return self._flat(self.precondition(self._parts(flat)))

    def _tangents(self) -> list[Tensor]:
        """The gradients, without what would lead off the spheres."""
        found = []
        for param, radius in zip(self.params, self.radii, strict=True):
            grad = torch.zeros_like(param) if param.grad is None else param.grad
            along = (grad * param).sum(dim=tuple(range(2, param.ndim)), keepdim=True)
            found.append(grad - param * along / radius.square())
        return found

    def _flat(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat([part.flatten(1) for part in parts], 1)

    def _parts(self, flat: Tensor) -> list[Tensor]:
        sizes = [param[0].numel() for param in self.params]
        parts = zip(flat.split(sizes, 1), self.params, strict=True)
        return [part.reshape(param.shape) for part, param in parts]


class LBFGSThenAdam(SphericalLBFGS):
    """SphericalLBFGS for a picture until it was `welcome` once; from then on Adam at `within` times
    lr, as SphericalOptimizer has it, of which that step is the first. As Adam does, it has no way
    back from a gradient that is not finite.

    To lower GEOCROSS within eps, where the LR has been met, takes no second-order steps, and the
    faces that Adam leaves are more natural at the same GEOCROSS.
    """

    def __init__(self, params: Sequence[Tensor], lr: Tensor, precondition, within: float):
        super().__init__(params, lr, precondition)
        self.within = within
        like = self.state["L-BFGS"]
        self.state["Adam"] = {
            "found": torch.zeros_like(like["loss"], dtype=torch.bool),  # (B,)
            "mean": torch.zeros_like(like["g"]),  # (B, D), of the gradients since then
            "square": torch.zeros_like(like["g"]),
            "steps": torch.zeros_like(like["loss"]),
        }

    @torch.no_grad()
    def step(self, loss: Tensor, welcome: Tensor) -> None:
        s = self.state["Adam"]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.params]
        x, g = self._flat(self.params), self._flat(grads)
        s["found"] |= welcome
        if loss.device.type != "cpu" or not s["found"].all():  # elsewhere to ask would be to wait
            super().step(loss, welcome)
        found = s["found"][:, None]
        s["steps"] += s["found"]
        for name, new, beta in zip(("mean", "square"), (g, g.square()), BETAS, strict=True):
            s[name].copy_(torch.where(found, beta * s[name] + (1 - beta) * new, s[name]))
        steps = s["steps"].clamp(min=1)[:, None]
        mean, square = (
            s[n] / (1 - b**steps) for n, b in zip(("mean", "square"), BETAS, strict=True)
        )
        moved = self._parts(x - self.lr * self.within * mean / (square.sqrt() + 1e-8))
        for param, new, radius in zip(self.params, moved, self.radii, strict=True):
            chosen = s["found"].view(-1, *[1] * (param.ndim - 1))
            param.copy_(torch.where(chosen, new / row_norm(new) * radius, param))


SECOND_ORDER = {kind.__name__: kind for kind in (SphericalLBFGS, LBFGSThenAdam)}
