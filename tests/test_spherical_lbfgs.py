"""Second-order steps on spheres: the direction is L-BFGS's, worse steps are taken back, the
pictures of a batch share nothing, and those that were found can go on with Adam.
"""

import functools

import pytest
import torch

from search_settings import ADAM_WITHIN
from SphericalOptimizer import (
    FARTHEST,
    PAIRS,
    LBFGSThenAdam,
    SphericalLBFGS,
    SphericalOptimizer,
    row_norm,
)

then_adam = functools.partial(LBFGSThenAdam, within=ADAM_WITHIN)
pytestmark = pytest.mark.usefixtures("one_thread")

D, MAP = 12, 4


class Valley:
    """(x − goal)ᵀA(x − goal) over a latent of two rows and a map, each picture its own; A has
    eigenvalues from 1 to 1000. The goal lies on the spheres of the start.
    """

    def __init__(self, B: int, seeds: list[int]):
        def normal(number: int, *shape: int) -> torch.Tensor:
            drawn = [
                torch.randn(shape, generator=torch.Generator().manual_seed(100 * seed + number))
                for seed in seeds
            ]
            return torch.stack(drawn)

        size = 2 * D + MAP
        basis = torch.linalg.qr(normal(0, size, size)).Q
        self.A = basis @ torch.diag_embed(torch.logspace(0, 3, size).expand(B, -1)) @ basis.mT
        self.params = [normal(1, 2, D), normal(2, 1, MAP)]
        far = [normal(3, 2, D), normal(4, 1, MAP)]
        goal = [f / row_norm(f) * row_norm(p) for f, p in zip(far, self.params, strict=True)]
        self.goal = self.flat(goal)
        for param in self.params:
            param.requires_grad_()

    def flat(self, parts) -> torch.Tensor:
        return torch.cat([part.flatten(1) for part in parts], 1)

    def loss(self) -> torch.Tensor:
        x = self.flat(self.params) - self.goal
        return torch.einsum("bi,bij,bj->b", x, self.A, x)

    def backward(self) -> torch.Tensor:
        loss = self.loss()
        loss.sum().backward()
        return loss.detach()


def descend(
    valley: Valley, steps: int, lr: float = 1.0, kind=SphericalLBFGS, found: int | None = None
) -> tuple[SphericalLBFGS, list]:
    """So many steps; at step `found` both of the first two pictures are welcome."""
    optimiser = kind(valley.params, torch.tensor(lr), list)
    losses = []
    for step in range(steps):
        optimiser.zero_grad()
        losses.append(valley.backward())
        optimiser.step(losses[-1], torch.arange(len(losses[-1])) < (2 if step == found else 0))
    return optimiser, losses


def test_it_goes_down_a_narrow_valley_where_adam_does_not():
    _, losses = descend(Valley(3, [1, 2, 3]), 60)
    best = torch.stack(losses).amin(0)
    adam = Valley(3, [1, 2, 3])
    optimiser = SphericalOptimizer(torch.optim.Adam, adam.params, lr=0.05)
    for _ in range(60):
        optimiser.zero_grad()
        adam.backward()
        optimiser.step()
    assert (best < 1e-2 * losses[0]).all()
    assert (best < 0.2 * adam.loss()).all()


def test_the_direction_is_that_of_the_two_loop_recursion():
    valley = Valley(2, [4, 5])
    optimiser, _ = descend(valley, 9)
    state = optimiser.state["L-BFGS"]
    g = torch.randn(2, 2 * D + MAP, generator=torch.Generator().manual_seed(0))
    found = optimiser._direction(g)
    for i in range(2):
        pairs = [
            (s.double(), y.double())
            for s, y in zip(state["moves"][i], state["turns"][i], strict=True)
            if s.any()
        ]
        assert 5 <= len(pairs) < PAIRS
        q, used = g[i].double(), []
        for s, y in reversed(pairs):
            used.append((s @ q) / (s @ y))
            q = q - used[-1] * y
        s, y = pairs[-1]
        q = q * (s @ y) / (y @ y)
        for s, y in pairs:
            q = q + (used.pop() - (y @ q) / (s @ y)) * s
        assert torch.allclose(found[i].double(), -q, rtol=1e-3, atol=1e-5)


def test_rows_stay_on_their_spheres_and_no_row_goes_far():
    valley = Valley(2, [6, 7])
    radii = [row_norm(param.detach()) for param in valley.params]
    for _ in range(5):
        before = [param.detach().clone() for param in valley.params]
        descend(valley, 1, lr=100.0)
        for param, old, radius in zip(valley.params, before, radii, strict=True):
            assert torch.allclose(row_norm(param.detach()), radius, rtol=1e-4)
            assert (row_norm(param.detach() - old) <= 1.01 * FARTHEST * radius).all()


@pytest.mark.parametrize("welcome", [False, True])
def test_a_step_that_made_it_worse_is_taken_back_and_halved_unless_it_is_welcome(welcome):
    valley = Valley(1, [8])
    optimiser, losses = descend(valley, 1)
    state = optimiser.state["L-BFGS"]
    kept = state["x"].clone()
    there = valley.flat(valley.params).detach()
    optimiser.zero_grad()
    loss = valley.backward()
    worse = torch.full_like(loss, 2 * losses[0].item())  # as if it were
    optimiser.step(worse, torch.tensor([welcome]))
    if welcome:
        assert torch.equal(state["x"], there) and state["halvings"].item() == 0
    else:
        assert torch.equal(state["x"], kept) and state["halvings"].item() == 1


def test_a_picture_goes_its_way_whatever_its_neighbours_do():
    together = Valley(3, [1, 2, 3])
    descend(together, 12)
    for i, seed in enumerate([1, 2, 3]):
        alone = Valley(1, [seed])
        descend(alone, 12)
        for a, b in zip(alone.params, together.params, strict=True):
            assert torch.allclose(a[0], b[i], rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", [SphericalLBFGS, then_adam])
def test_a_loss_that_is_not_finite_leaves_the_others_alone(kind):
    together = Valley(2, [1, 2])
    with torch.no_grad():
        together.A[1] = torch.nan
    _, losses = descend(together, 12, kind=kind, found=6)
    assert losses[-1][1].isnan() and losses[-1][0] < losses[0][0]


def test_a_picture_that_was_welcome_once_goes_on_with_adam_and_the_others_do_not():
    """Whatever its loss does, at a share of the rate, which may change."""
    valley, other = Valley(3, [1, 2, 3]), Valley(3, [1, 2, 3])
    rate = torch.tensor(2.0)
    optimiser = LBFGSThenAdam(valley.params, rate, list, ADAM_WITHIN)
    second_order = SphericalLBFGS(other.params, rate, list)
    never, second = torch.zeros(3, dtype=torch.bool), torch.tensor([False, True, False])

    def both() -> torch.Tensor:
        optimiser.zero_grad()
        second_order.zero_grad()
        second_order.step(other.backward(), never)
        return valley.backward()

    for _ in range(6):
        optimiser.step(both(), never)
    # from here on the second picture alone, by Adam as SphericalOptimizer has it
    alone = Valley(1, [2])
    with torch.no_grad():
        for a, b in zip(alone.params, valley.params, strict=True):
            a.copy_(b[1:2])
    adam = SphericalOptimizer(torch.optim.Adam, alone.params, lr=2 * ADAM_WITHIN)
    for step in range(8):
        adam.zero_grad()
        alone.backward()
        adam.step()
        loss = both() * (1 + 3 * second * (step == 2))  # as if it had become worse
        optimiser.step(loss, second & (step == 0))
        for a, b in zip(alone.params, valley.params, strict=True):
            assert torch.allclose(a[0], b[1], rtol=1e-3, atol=1e-3), step
        if step == 4:
            rate.fill_(1.0)
            adam.opt.param_groups[0]["lr"] = ADAM_WITHIN
    for mine, theirs in zip(valley.params, other.params, strict=True):
        assert torch.equal(mine[::2], theirs[::2]) and not torch.equal(mine[1], theirs[1])


def test_where_all_were_welcome_the_steps_are_those_beside_one_that_was_not():
    both, three = Valley(2, [1, 2]), Valley(3, [1, 2, 3])
    for valley in (both, three):
        descend(valley, 12, kind=then_adam, found=5)
    for a, b in zip(both.params, three.params, strict=True):
        assert torch.allclose(a, b[:2], rtol=1e-2, atol=1e-3)
