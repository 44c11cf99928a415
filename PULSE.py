"""PULSE (Menon et al., CVPR 2020): among the faces that a generator G can make, find those that
downscale to a given LR picture: mean (DS(G(w, noise)) − LR)² ≤ eps.

    from PULSE import PULSE
    model = PULSE(generator="demo")
    for HR, LR in model(ref_im, seed=0):  # ref_im (B, 3, h, h) in [0, 1]
        ...                               # HR (B, 3, S, S), LR (B, 3, h, h), in [0, 1], on the CPU

Nearly all of a Gaussian's mass lies near a sphere. So the latents v (B, L, d) and the first noise
maps start on spheres and stay on them: gradient descent on the loss, each variable projected back
after every step. Every iterate is judged before its step; of each picture the best one is kept, the
lowest loss among those within eps, or else among all.
"""

from __future__ import annotations

import dataclasses
import math
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cli.errors import UserError
from fast.choose import FastForms
from fast.cuda_graph import Recorder
from fast.device import choose_device
from fast.search_step import TorchStep
from generators.fit import Fit, OnPictures, cached_fit
from generators.latents import Latent, draw, gathered, read_latent, redraw, starting_point
from generators.load import Generator, load_generator
from loss import LossBuilder
from search_settings import OPTIMISERS, STARTS, Settings, lr_multiplier, whole_seeds
from SphericalOptimizer import SECOND_ORDER, SphericalOptimizer

Synthesize = Callable[[Tensor, list[Tensor]], Tensor]  # w (B, L, d), noise maps → (B, 3, S, S)
Figures = dict[str, Tensor]  # "L2", "GEOCROSS" and "total" of one iterate, each (B,)

ASK_EVERY = 8  # steps on a GPU, where asking whether all pictures are found makes the device wait


@dataclass(frozen=True)
class Result:
    """What the search reached for one picture: the figures of its best iterate."""

    seed: int
    l2: float  # mean squared difference of DS(HR), HR not clamped, and the LR; pixels in [0, 1]
    geocross: float
    total: float  # the loss of loss_str
    best_step: int  # from 0; −1 where no iterate had a finite loss
    within_eps: bool
    steps: int  # iterates that could have been kept: fewer than were asked for with until "eps"


class Search:
    """One search over a batch of pictures: iterate over it once, then read `results`.

    Yields (HR, LR) once, at the end, or with save_intermediate after every step. The pictures of a
    batch share nothing but the arithmetic.

    synthesize: what draws, generator.synthesis or a faster form of the same function. All that a
    step changes are tensors, in place, its own number and the learning rate among them: so that on
    CUDA steps can be recorded and replayed (by `recorder`), and the device is never waited for,
    but to ask every few steps, with until "eps", whether all pictures are found. fit: needed for
    a start by regression; optimisers of second order are preconditioned by it.
    """

    def __init__(
        self,
        generator: Generator,
        synthesize: Synthesize,
        ref_im: Tensor,
        settings: Settings,
        seeds: Sequence[int],
        *,
        save_intermediate: bool = False,
        on_step: Callable[[int, Figures], None] | None = None,
        recorder: Recorder | None = None,
        fit: Fit | None = None,
    ):
        self.generator, self.synthesize = generator, synthesize
        self.settings, self.seeds = settings, seeds
        self.save_intermediate, self.on_step = save_intermediate, on_step
        device = generator.mean.device
        on_cuda = device.type == "cuda"
        ref_im = ref_im.to(device, copy=True)  # a recorded step's, into which later ones are copied
        self.kernels = kernels = getattr(synthesize, "step_kernels", None) or TorchStep()
        given = settings.loss_str, settings.eps, settings.geocross_within
        self.loss = LossBuilder(ref_im, *given, kernels.geocross, kernels.downscale)

        starts = [starting_point(generator, settings, seed) for seed in seeds]
        v = torch.cat([v for v, _ in starts]).to(device)
        maps = zip(*(noise for _, noise in starts), strict=True)
        self.noise = [torch.cat(each).to(device) for each in maps]  # each (B, 1, r, r)
        start = STARTS[settings.start]
        if start.gathered:
            v = gathered(generator, v)
        if start.corrected:
            v = fit.start(generator, synthesize, ref_im, v, self.noise)
        rows = 1 if settings.tile_latent else generator.num_layers
        self.v = v.expand(-1, rows, -1).clone().requires_grad_()  # (B, L or 1, d)
        roles = settings.noise_roles(len(generator.noise_sizes))
        self.trained = [layer for layer, role in enumerate(roles) if role == "trainable"]
        variables = [self.v, *(self.noise[layer].requires_grad_() for layer in self.trained)]

        # On CUDA beside the arithmetic; else where Python reads them at no cost.
        where = {"device": device if on_cuda else "cpu"}
        T = settings.steps
        rates = [
            settings.learning_rate * lr_multiplier(settings.lr_schedule, t, T) for t in range(T)
        ]
        self.rates = torch.tensor(rates, dtype=torch.float32 if on_cuda else torch.float64, **where)
        self.rate = self.rates[0].clone()  # of the present step, ()
        self.index = torch.zeros(1, dtype=torch.int64, **where)  # of the present step
        self.steps_done, self.ended = 0, False
        optimiser = OPTIMISERS[settings.opt_name]
        options = optimiser.options_on(device.type)
        self.second_order = optimiser.second_order
        if self.second_order:
            precondition = fit.preconditioner(rows, self.trained) if fit else list
            kind = SECOND_ORDER[optimiser.name]
            self.optimiser = kind(variables, self.rate, precondition, **options)
        else:
            kind = getattr(torch.optim, optimiser.name)
            self.optimiser = SphericalOptimizer(
                kind, variables, lr=self.rate, to_sphere=kernels.to_sphere, **options
            )

        B, S, h = len(seeds), generator.resolution, ref_im.shape[-1]
        self.best = {
            "HR": torch.zeros(B, 3, S, S, device=device),
            "LR": torch.zeros(B, 3, h, h, device=device),
            "total": torch.full((B,), torch.inf, device=device),
            "mse": torch.full((B,), torch.nan, device=device),
            "GEOCROSS": torch.full((B,), torch.nan, device=device),
            "step": torch.full((B,), -1, device=device),
            "last": torch.full((B,), T - 1, device=device),  # the number of its last iterate
            "within": torch.zeros(B, dtype=torch.bool, device=device),
            "w": torch.zeros_like(self.v, requires_grad=False),
            **{layer: torch.zeros_like(self.noise[layer]).detach() for layer in self.trained},
        }
        self._iterates = self.best["HR"], self.best["LR"]
        self.replay = None
        if recorder is not None:
            self.replay = recorder.begin((synthesize, settings), self.tensors, self.optimiser.opt)

    @property
    def tensors(self) -> list[Tensor]:
        """All that a step reads or changes, but the optimiser's own."""
        own = (self.loss.ref_im, self.v, *self.noise, self.rates, self.rate, self.index)
        return [*own, *self.optimiser.radii, *self.best.values()]

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        while not self.ended:
            figures = self.step()
            if self.on_step is not None:
                self.on_step(self.steps_done - 1, figures)
            if self.save_intermediate or self.ended:
                yield self.pictures

    def step(self) -> Figures:
        """Judge the present iterate, then move, unless it is the last. Returns its figures: "L2"
        (the mean squared difference, not bounded by eps), "GEOCROSS" and "total", each (B,) and on
        the device.
        """
        last = self.steps_done + 1 == self.settings.steps
        if self.replay is not None:  # the last step, too, moves: the recorded one can do no less
            judged = self.replay(self._descend)
        elif last:
            with torch.no_grad():
                judged = self._judge()[1]
        else:
            judged = self._descend()
        self.steps_done += 1
        self.ended = last or self._all_found()
        self._iterates = judged["HR"], judged["LR"]
        figures = {name: judged[name].clone() for name in ("L2", "GEOCROSS", "total")}
        if self.ended and self.replay is not None:
            self._leave_recording()
        return figures

    def _all_found(self) -> bool:
        """Whether no picture would keep a further iterate; asked seldom where that takes time."""
        if self.settings.until != "eps":
            return False
        last = self.best["last"]
        if last.device.type != "cpu" and self.steps_done % ASK_EVERY:
            return False
        return bool((last < self.steps_done).all())

    def _leave_recording(self) -> None:
        """The next search may have the memory in which this one was computed."""
        self.best = {name: value.clone() for name, value in self.best.items()}
        self._iterates = tuple(each.clone() for each in self._iterates)
        self.replay.finish(self._descend)
        self.replay = None

    def _descend(self) -> dict[str, Tensor]:
        """One step but the last: projected gradient descent. Changes tensors only, in place."""
        self.optimiser.zero_grad()
        descent, judged = self._judge()
        descent.sum().backward()
        self.rate.copy_(self.rates.index_select(0, self.index)[0])
        if self.second_order:  # within eps GEOCROSS may have another weight
            self.optimiser.step(descent.detach(), judged["L2"] <= self.settings.eps)
        else:
            self.optimiser.step()
        self.index += 1
        return judged

    def _judge(self) -> tuple[Tensor, dict[str, Tensor]]:
        """What is to be differentiated of the present iterate (B,); itself, "HR" and "LR", and its
        figures. The best so far is kept.
        """
        w = self.generator.w_of(self.v)
        HR = draw(self.synthesize, w, self.noise, self.generator.num_layers)
        total, terms = self.loss(w, HR)
        self._keep_best(total.detach(), HR.detach(), w.detach(), terms)
        judged = {"HR": HR, "LR": terms["LR"], "L2": terms["mse"], "total": total}
        judged["GEOCROSS"] = terms["GEOCROSS"]
        return terms["descent"], {name: values.detach() for name, values in judged.items()}

    @torch.no_grad()
    def _keep_best(self, total: Tensor, HR: Tensor, w: Tensor, terms: dict[str, Tensor]) -> None:
        """loss.keep_best: with until "eps" the first one within is the last that counts, or one so
        many steps later as `polish` says, whatever the rest of the batch does.
        """
        settings, more = self.settings, None
        if settings.until == "eps":
            more = math.ceil(min(settings.polish, 1.0) * settings.steps)
        present = {
            "HR": HR,
            "LR": terms["LR"],
            "total": total,
            "mse": terms["mse"],
            "GEOCROSS": terms["GEOCROSS"],
            "w": w,
            **{layer: self.noise[layer].detach() for layer in self.trained},
        }
        number = self.index.to(total.device)
        final = settings.steps - 1
        self.kernels.keep_best(self.best, present, number, settings.eps, more, final)

    @property
    def pictures(self) -> tuple[Tensor, Tensor]:
        """The best so far: HR (B, 3, S, S) and LR = DS of the unclamped HR (B, 3, h, h), both
        clamped to [0, 1], on the CPU.
        """
        return self.best["HR"].clamp(0, 1).cpu(), self.best["LR"].clamp(0, 1).cpu()

    @property
    def iterates(self) -> tuple[Tensor, Tensor]:
        """The iterates judged last, for an `on_step`: HR and LR as they are yielded."""
        HR, LR = self._iterates
        return HR.clamp(0, 1).cpu(), LR.clamp(0, 1).cpu()

    @property
    def latents(self) -> list[Latent]:
        """What the best so far were drawn from, one Latent per picture."""
        parts = {name: self.best[name].to("cpu", copy=True) for name in ("w", *self.trained)}
        return [
            Latent(parts["w"][i], {layer: parts[layer][i, 0] for layer in self.trained})
            for i in range(len(self.seeds))
        ]

    @property
    def results(self) -> list[Result]:
        """What was reached so far, one Result per picture."""
        names = ("mse", "GEOCROSS", "total", "step", "within")
        columns = [self.best[name].tolist() for name in names]
        columns.append((self.best["last"] + 1).clamp(max=self.steps_done).tolist())
        return [Result(*row) for row in zip(self.seeds, *columns, strict=True)]


class PULSE:
    """A generator on a device, ready to search.

    generator: `ffhq`, `demo` or the path of a weight file; label: of a conditional one, from 0.
    device: `auto`, `cuda`, `mps` or `cpu`.
    cache_dir: where weights, prior fits and compiled code are kept. compile: `auto`, `on` or `off`.
    precision: `float32`, `tf32` or `bfloat16`, of the network's convolutions; None is PyTorch's own
    choice (fast/choose.py). progress: report downloads, as drive.open_url does.

    Raises: UserError where no generator or no device can be had under that name, or for an unknown
    `compile` or `precision`.
    """

    def __init__(
        self,
        generator: str | os.PathLike = "ffhq",
        device: str = "auto",
        cache_dir: str | os.PathLike = "cache",
        compile: str = "auto",
        precision: str | None = None,
        progress: bool | Callable = True,
        label: int | None = None,
    ):
        self.device = choose_device(device)
        self.generator = load_generator(generator, cache_dir, progress, label)
        if self.device.type != "cpu":
            _ = self.generator.sha256  # hashed here: later it would copy every weight back
        self.generator.to(self.device)
        self.cache_dir, self.progress = Path(cache_dir), progress
        self._forms = FastForms(self.generator.synthesis, self.cache_dir, compile, precision)
        self._fits: dict[str, Fit] = {}
        self.precision = self._forms.precision
        self._form: Synthesize = self.generator.synthesis  # of the last search: a fast one

    @property
    def formulation(self) -> str:
        """Of the network, in the last search: plain before the first, then eager or compiled."""
        return getattr(self._form, "formulation", "plain")

    def fast_form(self, steps: int, like: str | None = None) -> Synthesize:
        """The generator's network in the form that is best for searches of `steps`, or that of an
        earlier search, `like` "eager" or "compiled".
        """
        self._form = self._forms.choose(steps, like)
        return self._form

    def fit_for(
        self, settings: Settings, side: int, on_pictures: OnPictures | None = None
    ) -> Fit | None:
        """The fit that such searches of LR of `side` pixels use; None where they use none. Made at
        the first use of a generator with LR of that size, up to 16×16, in that form, precision and
        number of threads, which takes as long as some six searches, and cached.

        on_pictures: while it is made, called with the number of pictures drawn, and of all.
        """
        second_order = OPTIMISERS[settings.opt_name].second_order
        if not STARTS[settings.start].corrected and not second_order:
            return None
        form = self.fast_form(settings.steps)
        threads = torch.get_num_threads() if self.device.type == "cpu" else 0
        made_by = f"{self.device.type} {threads} {form.formulation} {self.precision}"
        key = f"{side} {made_by}"
        if key not in self._fits:
            told = self.progress, on_pictures
            self._fits[key] = cached_fit(self.generator, form, side, self.cache_dir, made_by, *told)
        return self._fits[key]

    def free_memory(self) -> None:
        """After a search for which memory was not enough: give the device back what is unused."""
        self._forms.free_memory()

    def __call__(
        self,
        ref_im: Tensor,
        *,
        seed: int | Sequence[int] | None = None,
        save_intermediate: bool = False,
        on_step: Callable[[int, Figures], None] | None = None,
        settings: Settings | None = None,
        **changes,
    ) -> Search:
        """Search for pictures that downscale to `ref_im` (B, 3, h, h) in [0, 1]; (3, h, h) is one
        picture. Batches pay on a GPU; on a CPU give one picture at a time, as run.py does: nothing
        is lost, and no result depends on its neighbours to the last bit.

        seed: one number for all pictures, or one each; None draws one (it is in the results).
        save_intermediate: yield the best pair so far after every step. on_step: called as
        on_step(step, figures) with "L2", "GEOCROSS" and "total" of the present iterates, tensors
        (B,) on the device. settings: a Settings; single ones can be given by name, as in
        `model(ref_im, steps=200, eps=1e-3)`, but not the named search of settings that are given.

        Raises: UserError, a ValueError of one sentence, for a tensor, seed or setting that cannot
        be used; TypeError for an unknown name.
        """
        if settings and changes.get("search", settings.search) != settings.search:
            raise UserError(f"settings have search {settings.search!r}: give Settings the other")
        settings = dataclasses.replace(settings, **changes) if settings else Settings(**changes)
        settings.check()
        settings.noise_roles(len(self.generator.noise_sizes))
        if not isinstance(ref_im, Tensor):
            raise UserError(f"ref_im must be a tensor of PyTorch, not {type(ref_im).__name__}")
        if ref_im.ndim == 3:
            ref_im = ref_im[None]
        if ref_im.ndim != 4 or len(ref_im) == 0 or ref_im.shape[1] != 3:
            raise UserError(
                f"ref_im must be (B, 3, h, h), red, green and blue, not {tuple(ref_im.shape)}"
            )
        require_lr_size(ref_im.shape[-1], ref_im.shape[-2], self.generator.resolution)
        ref_im = ref_im.detach().float()
        if not bool(((ref_im >= 0) & (ref_im <= 1)).all()):
            raise UserError("ref_im has values outside [0, 1]: divide 8-bit pixels by 255")
        if seed is None:
            seed = secrets.randbelow(2**31)
        seeds = whole_seeds(seed, len(ref_im))
        return Search(
            self.generator,
            self.fast_form(settings.steps),
            ref_im,
            settings,
            seeds,
            save_intermediate=save_intermediate,
            on_step=on_step,
            recorder=self._forms.recorder(settings.steps),
            fit=self.fit_for(settings, ref_im.shape[-1]),
        )

    def map(self, z: Tensor) -> Tensor:
        """z (B, latent_size), normally distributed → w (B, d), on the model's device.

        Raises: UserError where the generator has no mapping network, or for another shape.
        """
        return self.generator.map(z.to(self.device).float())

    def synthesize(self, w: Tensor, noise: Sequence[Tensor] | None = None) -> Tensor:
        """G(w, noise): pictures (B, 3, S, S) in about [−1, 1], on the model's device; with
        gradients, once, where w or noise need them.

        w: (B, d) for all layers, or (B, L, d). noise: maps (B or 1, 1, r, r), their sides r those
        of `generator.noise_sizes`; None for the file's own, which are fixed, or zeros where it has
        none. Raises: UserError for other shapes.
        """
        noise = self.generator.fixed_noise if noise is None else noise
        noise = [each.to(self.device).float() for each in noise]
        return self._forms.choose(steps=1)(*self.generator.inputs(w.to(self.device).float(), noise))

    def render(self, file: str | os.PathLike) -> Tensor:
        """The picture of a latent file that `run.py -save_latent` wrote: HR (1, 3, S, S) in [0, 1],
        on the CPU. On a CPU it is the search's own to the last bit, with as many threads.

        Raises: UserError for a file that cannot be used, or is of another generator.
        """
        record = read_latent(file)[1]
        steps, formulation = record["settings"]["steps"], record.get("formulation")
        return redraw(self.generator, self.fast_form(steps, formulation), file)


def require_lr_size(width: int, height: int, resolution: int) -> None:
    """Raises: UserError unless the LR is square, its side divides S and 2 ≤ side ≤ S/2."""
    if width != height:
        raise UserError(f"it is {width}×{height}, not square: align_face.py makes square pictures")
    if not 2 <= width <= resolution // 2 or resolution % width:
        sizes = ", ".join(str(2**k) for k in range(1, resolution.bit_length() - 1))
        raise UserError(
            f"its side is {width} pixels; for this generator it must be one of {sizes}: "
            f"align_face.py -output_size makes such pictures"
        )
