"""The search for one batch of pictures, step by step: its variables, its schedule, the best so far.

All that a step changes are tensors, which it changes in place, its own number and the learning
rate among them: so that on CUDA steps can be recorded and replayed (replay.py), and the device is
never waited for. On a CPU the same steps are called one by one.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fast.cuda_graph import Replay
from generators.latents import Latent, draw, starting_point
from generators.load import Generator
from loss import LossBuilder
from search_settings import Settings
from SphericalOptimizer import SphericalOptimizer

OPTIMISERS = {
    "sgd": (torch.optim.SGD, {}),
    "sgdm": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "adamax": (torch.optim.Adamax, {}),
}
# On CUDA: in the forms that take the learning rate from the device and can be recorded.
ON_CUDA = {torch.optim.SGD: {"fused": True}}
ON_CUDA |= dict.fromkeys((torch.optim.Adam, torch.optim.Adamax), {"capturable": True})
warnings.filterwarnings("ignore", "This instance was constructed with capturable=True")


@dataclass(frozen=True)
class Result:
    """What the search reached for one picture: the figures of its best iterate."""

    seed: int
    l2: float  # mean squared difference of DS(HR), HR not clamped, and the LR; pixels in [0, 1]
    geocross: float
    total: float  # the loss of loss_str
    best_step: int  # from 0; −1 where no iterate had a finite loss
    within_eps: bool


def lr_multiplier(schedule: str, step: int, steps: int) -> float:
    """The learning rate at `step` of `steps`, as a multiple of the one that was set.

    linear1cycle: (9·(1 − |2x/T − 1|) + 1)/10. linear1cycledrop: that over the first 0.9·T, then
    from 1/10 down to 1/1000 in a line.
    """
    if schedule == "fixed":
        return 1.0
    ramp = steps if schedule == "linear1cycle" else 0.9 * steps
    if step < ramp or schedule == "linear1cycle":
        return (9 * (1 - abs(2 * step / ramp - 1)) + 1) / 10
    return 1 / 10 + (step - ramp) / (0.1 * steps) * (1 / 1000 - 1 / 10)


class Walk:
    """The search for the pictures of one batch, which share nothing but the arithmetic; it moves by
    `step()`.

    replay: launch steps as a whole (replay.py), on CUDA only.
    """

    def __init__(
        self,
        generator: Generator,
        ref_im: Tensor,
        settings: Settings,
        seeds: Sequence[int],
        replay: bool = False,
    ):
        self.generator, self.settings, self.seeds = generator, settings, seeds
        device = generator.mean.device
        ref_im = ref_im.to(device)
        starts = [starting_point(generator, settings, seed) for seed in seeds]
        self.v = torch.cat([v for v, _ in starts]).to(device).requires_grad_()  # (B, L or 1, d)
        self.noise = [
            torch.cat(maps).to(device) for maps in zip(*(noise for _, noise in starts), strict=True)
        ]
        roles = settings.noise_roles(generator.num_layers)
        self.searched = [layer for layer, role in enumerate(roles) if role == "trainable"]
        searched = [self.v, *(self.noise[layer].requires_grad_() for layer in self.searched)]
        # Beside the arithmetic, where that is on CUDA; else where Python reads them at no cost.
        on_cuda = device.type == "cuda"
        beside = {
            "device": device if on_cuda else "cpu",
            "dtype": torch.float32 if on_cuda else torch.float64,
        }
        multipliers = [
            lr_multiplier(settings.lr_schedule, step, settings.steps)
            for step in range(settings.steps)
        ]
        self.rates = torch.tensor([settings.learning_rate * each for each in multipliers], **beside)
        self.rate = self.rates[0].clone()  # the present one, ()
        self.index = torch.zeros(1, dtype=torch.int64, device=beside["device"])  # present step
        optimiser, options = OPTIMISERS[settings.opt_name]
        options = options | (ON_CUDA[optimiser] if on_cuda else {})
        self.optimiser = SphericalOptimizer(optimiser, searched, lr=self.rate, **options)
        self.loss = LossBuilder(ref_im, settings.loss_str, settings.eps)
        self.steps_done = 0
        self.replay = Replay(device) if replay else None
        B, S, h = len(seeds), generator.resolution, ref_im.shape[-1]
        self.best = {
            "HR": torch.zeros(B, 3, S, S, device=device),
            "LR": torch.zeros(B, 3, h, h, device=device),
            "total": torch.full((B,), torch.inf, device=device),
            "MSE": torch.full((B,), torch.nan, device=device),
            "GEOCROSS": torch.full((B,), torch.nan, device=device),
            "step": torch.full((B,), -1, device=device),
            "within": torch.zeros(B, dtype=torch.bool, device=device),
            "w": torch.zeros_like(self.v, requires_grad=False),
            **{layer: torch.zeros_like(self.noise[layer]).detach() for layer in self.searched},
        }
        self.iterate = self.best["HR"], self.best["LR"]  # the last one judged, not clamped

    def step(self) -> dict[str, Tensor]:
        """Judge the present iterate, then move, unless it is the last.

        Returns its figures: "L2" (the mean squared difference, not bounded by eps), "GEOCROSS" and
        "total", each (B,) and on the device.
        """
        last = self.steps_done + 1 == self.settings.steps
        if last:
            self.replay = None  # and with it the memory that a recorded step holds
            with torch.no_grad():
                figures = self._judge()[1]
        else:
            figures = self.replay(self._judge_and_move) if self.replay else self._judge_and_move()
        self.steps_done += 1
        return figures

    def _judge_and_move(self) -> dict[str, Tensor]:
        """One step but the last. Changes tensors only, in place."""
        self.optimiser.zero_grad()
        total, figures = self._judge()
        total.sum().backward()
        self.rate.copy_(self.rates.index_select(0, self.index)[0])
        self.optimiser.step()
        self.index += 1
        return figures

    def _judge(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The present iterate's loss (B,), to be differentiated, and its figures; the best so far
        is kept.
        """
        w = self.generator.w_of(self.v)
        HR = draw(self.generator, w, self.noise)
        total, terms = self.loss(w, HR)
        self.iterate = HR.detach(), terms["LR"].detach()
        self._keep_best(total.detach(), HR.detach(), w.detach(), terms)
        figures = {"L2": terms["MSE"], "GEOCROSS": terms["GEOCROSS"], "total": total}
        return total, {name: values.detach() for name, values in figures.items()}

    @torch.no_grad()
    def _keep_best(self, total: Tensor, HR: Tensor, w: Tensor, terms: dict[str, Tensor]) -> None:
        """Per picture: an iterate within eps beats all that are not; of two alike the lower total,
        the earlier on a tie.
        """
        best = self.best
        within = terms["MSE"] <= self.settings.eps
        better = (within & ~best["within"]) | ((within == best["within"]) & (total < best["total"]))
        better &= total.isfinite()
        present = {
            "HR": HR,
            "LR": terms["LR"],
            "total": total,
            "MSE": terms["MSE"],
            "GEOCROSS": terms["GEOCROSS"],
            "step": self.index.to(total.device).expand_as(best["step"]),
            "within": within,
            "w": w,
            **{layer: self.noise[layer].detach() for layer in self.searched},
        }
        for name, value in present.items():
            chosen = better.view(-1, *[1] * (value.ndim - 1))
            torch.where(chosen, value, best[name], out=best[name])

    def pictures(self) -> tuple[Tensor, Tensor]:
        """The best so far: HR (B, 3, S, S) and LR = DS of the unclamped HR (B, 3, h, h), both
        clamped to [0, 1], on the CPU.
        """
        return self.best["HR"].clamp(0, 1).cpu(), self.best["LR"].clamp(0, 1).cpu()

    def latents(self) -> list[Latent]:
        """What the best so far were drawn from, one Latent per picture."""
        parts = {name: self.best[name].to("cpu", copy=True) for name in ("w", *self.searched)}
        return [
            Latent(parts["w"][i], {layer: parts[layer][i, 0] for layer in self.searched})
            for i in range(len(self.seeds))
        ]

    def results(self) -> list[Result]:
        """The figures of the best so far, one per picture."""
        names = ("MSE", "GEOCROSS", "total", "step", "within")
        columns = [self.best[name].tolist() for name in names]
        return [Result(*row) for row in zip(self.seeds, *columns, strict=True)]
