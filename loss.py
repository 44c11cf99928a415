"""What the search minimises: the distance of DS(HR) to the LR, and GEOCROSS, which holds the
layers' latents together; and which of its iterates is the best.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable

import torch
from torch import Tensor, nn

from bicubic import BicubicDownSample
from search_settings import parse_loss


def l2(difference: Tensor) -> Tensor:
    """(B, 3, h, w) → (B,): mean square over pixels and channels."""
    return difference.square().mean(dim=(1, 2, 3))


def l1(difference: Tensor) -> Tensor:
    """(B, 3, h, w) → (B,): mean magnitude over pixels and channels."""
    return difference.abs().mean(dim=(1, 2, 3))


def geocross(w: Tensor) -> Tensor:
    """(B, L, d) → (B,): 64 times the mean over all L×L pairs of the squared geodesic distance θ =
    2·atan2(‖x−y‖, ‖x+y‖).

    0 where L = 1. The generator was trained on one w for all layers; this pulls the L vectors
    together.
    """
    if w.shape[1] == 1:
        return w.new_zeros(len(w))
    x, y = w[:, :, None, :], w[:, None, :, :]  # (B, L, 1, d), (B, 1, L, d)
    a = ((x - y).square().sum(-1) + 1e-9).sqrt()  # (B, L, L)
    b = ((x + y).square().sum(-1) + 1e-9).sqrt()
    theta = 2 * torch.atan2(a, b)
    return 64 * theta.square().mean(dim=(1, 2))


def keep_best(
    best: dict[Hashable, Tensor],
    present: dict[Hashable, Tensor],
    number: Tensor,
    eps: float,
    more: int | None,
    final: int,
) -> None:
    """Per picture: an iterate within eps beats all that are not; of two alike the lower total, the
    earlier on a tie. best, changed in place: "total", "mse", "step", "within", "last", each (B,),
    and what else `present` has, (B, …), of the iterate of this `number` (1,).

    Iterates after the number "last" do not count. more: how many do after the first one within eps,
    up to the number `final`; None for all.
    """
    within = present["mse"] <= eps
    total = present["total"]
    better = (within & ~best["within"]) | ((within == best["within"]) & (total < best["total"]))
    better &= total.isfinite() & (number <= best["last"])
    if more is not None:
        ends = (number + more).clamp(max=final)
        found = within & ~best["within"] & better
        torch.where(found, ends, best["last"], out=best["last"])
    own = {"step": number.expand_as(best["step"]), "within": within}
    for name, value in (present | own).items():
        chosen = better.view(-1, *[1] * (value.ndim - 1))
        torch.where(chosen, value, best[name], out=best[name])


class LossBuilder(nn.Module):
    """The loss of `loss_str`, per image.

    `ref_im` (B, 3, h, h) in [0, 1] is the LR. `eps` bounds L2 and L1 from below, so that a picture
    that comes close enough to the LR is improved in the other terms only. geocross_within: the
    weight of GEOCROSS in "descent", what a step descends on, for a picture within eps; None for
    that of `loss_str`, which outside eps it always has. geocross: what computes that term;
    downscale: what makes DS for a factor.

    Raises: ValueError where `loss_str` does not parse.
    """

    def __init__(
        self,
        ref_im: Tensor,
        loss_str: str,
        eps: float,
        geocross_within: float | None = None,
        geocross: Callable[[Tensor], Tensor] = geocross,
        downscale: Callable[[int], BicubicDownSample] = BicubicDownSample,
    ):
        super().__init__()
        self.geocross, self.downscale = geocross, downscale
        self.ref_im, self.eps, self.geocross_within = ref_im, eps, geocross_within
        self.terms = parse_loss(loss_str)
        self._downscale: BicubicDownSample | None = None

    def forward(self, w: Tensor, HR: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """w (B, L, d); HR (B, 3, S, S), not clamped → total (B,), and {"LR": DS(HR) (B, 3, h, h),
        "mse": mean squared difference (B,), not bounded by eps, and "L2", "L1", "GEOCROSS": (B,),
        each whether it is part of the total or not; "descent": (B,), what is to be differentiated}.
        """
        factor = HR.shape[-1] // self.ref_im.shape[-1]
        if self._downscale is None or self._downscale.factor != factor:
            self._downscale = self.downscale(factor)
        LR = self._downscale(HR)
        difference = LR - self.ref_im
        mse = l2(difference)
        values = {  # a further term is also named in search_settings.LOSS_TERMS
            "L2": mse.clamp(min=self.eps),
            "L1": 10 * l1(difference).clamp(min=self.eps),
            "GEOCROSS": self.geocross(w),
        }
        total = descent = sum(weight * values[term] for weight, term in self.terms)
        if self.geocross_within is not None:
            more = self.geocross_within - sum(w for w, term in self.terms if term == "GEOCROSS")
            descent = total + torch.where(mse <= self.eps, more, 0.0) * values["GEOCROSS"]
        return total, {"LR": LR, "mse": mse, **values, "descent": descent}
