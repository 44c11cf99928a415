"""Every setting of the search: its name, its default, and when to change it.

Imports neither torch nor anything of the project, so that run.py can show and check settings at
once.
"""

from __future__ import annotations

import math
import numbers
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import NamedTuple

from cli.errors import UserError


class Optimiser(NamedTuple):
    """An optimiser of torch.optim, by name, since torch takes seconds to import; or of
    SphericalOptimizer.py, of second order, which also wants the loss.
    """

    name: str
    options: dict = {}
    on_cuda: dict = {}  # what lets it take the learning rate from the device, and be recorded
    second_order: bool = False

    def options_on(self, device_type: str) -> dict:
        """Those for parameters on such a device."""
        return {**self.options, **(self.on_cuda if device_type == "cuda" else {})}


class Start(NamedTuple):
    """Where v begins: at random latents of the seed (generators/latents.py)."""

    tied: bool = False  # one for all layers, else one for each
    gathered: bool = False  # pulled together by GEOCROSS
    corrected: bool = False  # by regression (generators/fit.py)


ADAM_WITHIN = 0.05  # Adam's share of lbfgs+adam's rate: with 0.1 GEOCROSS falls too slowly
OPTIMISERS = {
    "sgd": Optimiser("SGD", {}, {"fused": True}),
    "adam": Optimiser("Adam", {}, {"capturable": True, "fused": True}),
    "sgdm": Optimiser("SGD", {"momentum": 0.9}, {"fused": True}),
    "adamax": Optimiser("Adamax", {}, {"capturable": True, "foreach": True}),
    "lbfgs": Optimiser("SphericalLBFGS", second_order=True),
    "lbfgs+adam": Optimiser("LBFGSThenAdam", {"within": ADAM_WITHIN}, second_order=True),
}
LOSS_TERMS = ("L2", "L1", "GEOCROSS")  # what loss.py computes
NOISE_TYPES = ("zero", "fixed", "trainable")
LR_SCHEDULES = ("fixed", "linear1cycle", "linear1cycledrop")  # what lr_multiplier computes
STARTS = {
    "free": Start(),
    "tied": Start(tied=True),
    "gathered": Start(gathered=True),
    "regression": Start(tied=True, corrected=True),
    "gathered+regression": Start(gathered=True, corrected=True),
}
UNTIL = ("steps", "eps")
SEARCHES = {  # the named searches: the defaults of the settings in which they differ
    "paper": {
        "loss_str": "100*L2+0.05*GEOCROSS",
        "geocross_within": None,
        "start": "free",
        "opt_name": "adam",
        "learning_rate": 0.4,
        "lr_schedule": "linear1cycledrop",
        "until": "steps",
        "polish": 0.0,
    },
    "quick": {
        "loss_str": "100*L2+0.01*GEOCROSS",
        "geocross_within": 0.1,
        "start": "gathered+regression",
        "opt_name": "lbfgs+adam",
        "learning_rate": 1.0,
        "lr_schedule": "fixed",
        "until": "eps",
        "polish": 0.3,
    },
}
# Settings that early records and latent files lack, as they were before there was a choice.
ADDED = {
    "search": "paper",
    "geocross_within": None,
    "start": "free",
    "until": "steps",
    "polish": 0.0,
}
COMPILE = ("auto", "on", "off")
PRECISIONS = ("float32", "tf32", "bfloat16")
# None in Settings stands for them: so that a setting that was given is known.
DEFAULT_NOISE_TYPE = "trainable"
DEFAULT_TRAINABLE_NOISE_LAYERS = 5
DEFAULT_BAD_NOISE_LAYERS = "17"
SEEDS = 2**63  # image seeds are whole numbers from 0 to SEEDS - 1

_NUMBER = r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?"


def parse_loss(loss_str: str) -> list[tuple[float, str]]:
    """`"100*L2+0.05*GEOCROSS"` → `[(100.0, "L2"), (0.05, "GEOCROSS")]`.

    Raises: UserError where the string is not a sum of weight*TERM with finite weights and the
    terms of LOSS_TERMS.
    """
    summand = re.compile(rf"\s*({_NUMBER})\s*\*\s*(\w+)\s*(\+|$)", re.ASCII)
    terms, position, joint = [], 0, "+"
    while joint == "+" and (match := summand.match(loss_str, position)):
        weight, term = float(match[1]), match[2]
        if term not in LOSS_TERMS:
            raise UserError(
                f"loss_str {loss_str!r} has the unknown term {term!r}: use {', '.join(LOSS_TERMS)}"
            )
        if not math.isfinite(weight):
            raise UserError(f"loss_str {loss_str!r} has a weight that is not finite: {match[1]}")
        terms.append((weight, term))
        position, joint = match.end(), match[3]
    if joint == "+":
        raise UserError(
            f"loss_str {loss_str!r} is not a sum of weight*TERM: write it as 100*L2+0.05*GEOCROSS"
        )
    return terms


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


def setting(default, help: str, shown: str | None = None, kind: Callable | None = None, **options):
    """A field of a dataclass that is also a flag (cli.command.Parser.flags_of): `help` is what `-h`
    says of it, `shown` its default where that is not its own description, `kind` what parses it,
    options argparse's.
    """
    about = {"help": help, "shown": shown, "kind": kind or type(default), "options": options}
    return field(default=default, metadata=about)


def by_search(name: str, help: str, kind: Callable = str, **options):
    """A setting whose default the named search decides."""
    paper, quick = (SEARCHES[search][name] for search in ("paper", "quick"))
    shown = f"{'as loss_str' if paper is None else paper}; with -search quick {quick}"
    return setting(None, help, shown, kind, **options)


@dataclass(frozen=True)
class Settings:
    """How to search; one for all pictures of a run. `check()` before use.

    What is None here and differs between the named searches is filled in at once: `Settings()` has
    the paper's values, `Settings(search="quick")` those of "quick".
    """

    search: str = setting(
        "paper",
        "paper, the published one, or quick, which finds more faces in as many steps: it sets the "
        "defaults of eight of the settings below",
        choices=tuple(SEARCHES),
    )
    loss_str: str | None = by_search(
        "loss_str",
        "what is minimised: a sum of weight*TERM, the terms L2, L1 and GEOCROSS; more GEOCROSS for "
        "more natural faces, less to come closer to the LR",
    )
    geocross_within: float | None = by_search(
        "geocross_within",
        "weight of GEOCROSS for the steps of a picture that is within eps: there it may be large",
        float,
    )
    eps: float = setting(
        2e-3,
        "mean squared difference, of pixels in [0, 1], at which the downscaled picture counts as "
        "equal to the LR; the paper's own figures are for 1e-3",
    )
    noise_type: str | None = setting(
        None,
        "zero, fixed (as drawn) or trainable (the coarsest maps are searched as well)",
        shown=DEFAULT_NOISE_TYPE,
        kind=str,
    )
    num_trainable_noise_layers: int | None = setting(
        None,
        "how many noise maps are searched, from the coarsest; the default is cut to those that the "
        "generator has",
        shown=str(DEFAULT_TRAINABLE_NOISE_LAYERS),
        kind=int,
    )
    tile_latent: bool = setting(
        False,
        "one latent for all layers: closest to what the generator was trained on, eps is reached "
        "less often",
    )
    bad_noise_layers: str | None = setting(
        None,
        'noise layers that are zeroed, dot-separated, "" for none; the default where the generator '
        "has that layer",
        shown=DEFAULT_BAD_NOISE_LAYERS,
        kind=str,
    )
    start: str | None = by_search(
        "start",
        "free (a latent for each layer), tied (one for all layers, which then go their ways), "
        "gathered (one for each layer, pulled together by GEOCROSS alone before the first step) or "
        "regression and gathered+regression (tied or gathered, and corrected by what a linear fit "
        "to this generator's pictures says)",
        choices=tuple(STARTS),
    )
    opt_name: str | None = by_search(
        "opt_name",
        "sgd, adam, sgdm (momentum 0.9), adamax, lbfgs (second-order steps) or lbfgs+adam (Adam at "
        f"{ADAM_WITHIN} times the rate once a picture was within eps, for naturalness)",
    )
    learning_rate: float | None = by_search(
        "learning_rate",
        "of the optimiser; each variable lives on a sphere of radius about √d, so steps are long",
        float,
    )
    steps: int = setting(
        100, "iterates that are judged; more come closer, the schedule stretches over them"
    )
    until: str | None = by_search(
        "until",
        "steps, or eps: a search ends at its first iterate within eps, a batch when all are",
        choices=UNTIL,
    )
    polish: float | None = by_search(
        "polish",
        "with -until eps: the share of the steps for which a search goes on from there, so that "
        "GEOCROSS falls",
        float,
    )
    lr_schedule: str | None = by_search(
        "lr_schedule",
        "multiplier of the learning rate: fixed, linear1cycle (0.1 up to 1 and down again) or "
        "linear1cycledrop (the same, then down to 0.001)",
    )

    def __post_init__(self):
        for each in fields(self):  # numpy's numbers are written and compared as Python's
            value = getattr(self, each.name)
            if isinstance(value, numbers.Integral) and not isinstance(value, (bool, int)):
                object.__setattr__(self, each.name, int(value))
            elif isinstance(value, numbers.Real) and not isinstance(value, (int, float)):
                object.__setattr__(self, each.name, float(value))
        for name, value in SEARCHES.get(self.search, {}).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)

    def check(self) -> None:
        """Raises: UserError, one sentence, for the first setting that no generator could be
        searched with.
        """
        for each in fields(self):
            value = getattr(self, each.name)
            kinds = {"str": str, "str | None": (str, type(None))}.get(each.type, object)
            if not isinstance(value, kinds):
                raise UserError(f"{each.name} must be text, not {value!r}")
        if self.search not in SEARCHES:
            raise UserError(f"search {self.search!r} is unknown: use {', '.join(SEARCHES)}")
        if self.tile_latent and {term for _, term in parse_loss(self.loss_str)} == {"GEOCROSS"}:
            raise UserError(
                f"loss_str {self.loss_str!r} is GEOCROSS alone, which is 0 with tile_latent: add L2"
            )
        parse_loss(self.loss_str)
        for name, known in (
            ("start", STARTS),
            ("until", UNTIL),
            ("noise_type", (None, *NOISE_TYPES)),
            ("opt_name", OPTIMISERS),
            ("lr_schedule", LR_SCHEDULES),
        ):
            if getattr(self, name) not in known:
                raise UserError(
                    f"{name} {getattr(self, name)!r} is unknown: use "
                    f"{', '.join(filter(None, known))}"
                )
        for name in ("eps", "learning_rate"):
            value = getattr(self, name)
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value > 0):
                raise UserError(f"{name} must be a number above 0, not {value}")
        for name in ("geocross_within", "polish"):
            value = getattr(self, name)
            if value is None and name == "geocross_within":
                continue
            if not (isinstance(value, (int, float)) and math.isfinite(value) and value >= 0):
                raise UserError(f"{name} must be a number of at least 0, not {value}")
        require_positive("steps", self.steps)
        number = self.num_trainable_noise_layers
        if number is not None and (not isinstance(number, int) or number < 0):
            raise UserError(f"num_trainable_noise_layers must be 0 or more, not {number}")
        self._bad_layers()

    @property
    def concerns_noise(self) -> bool:
        """Whether a setting of the noise was given, be it as its default is."""
        settings = (self.noise_type, self.num_trainable_noise_layers, self.bad_noise_layers)
        return settings != (None, None, None)

    def _bad_layers(self) -> list[int] | None:
        if self.bad_noise_layers is None:
            return None
        text = self.bad_noise_layers.strip()
        if text and not re.fullmatch(r"\d{1,9}(\.\d{1,9})*", text, re.ASCII):
            raise UserError(
                f"bad_noise_layers {text!r} is not a list of layer numbers: write for example 16.17"
            )
        return [int(number) for number in text.split(".")] if text else []

    def resolved(self, noise_layers: int) -> Settings:
        """The same settings for a generator of so many noise layers: what was left to it filled in.

        A default is cut to the layers that there are. Raises: UserError for a number that was
        given and that the generator lacks, unless it has no noise at all, as StyleGAN3.
        """
        if noise_layers == 0:
            return replace(
                self, noise_type="zero", num_trainable_noise_layers=0, bad_noise_layers=""
            )
        bad, trainable = self._bad_layers(), self.num_trainable_noise_layers
        if bad is None:
            layer = int(DEFAULT_BAD_NOISE_LAYERS)
            bad = [layer] if layer < noise_layers else []
        elif too_high := [layer for layer in bad if layer >= noise_layers]:
            raise UserError(
                f"bad_noise_layers names layer {too_high[0]}, but the generator has "
                f"{noise_layers} noise layers, 0 to {noise_layers - 1}"
            )
        if trainable is None:
            trainable = min(DEFAULT_TRAINABLE_NOISE_LAYERS, noise_layers)
        elif trainable > noise_layers:
            raise UserError(
                f"num_trainable_noise_layers is {trainable}, but the generator has {noise_layers} "
                f"noise layers"
            )
        return replace(
            self,
            noise_type=self.noise_type or DEFAULT_NOISE_TYPE,
            num_trainable_noise_layers=trainable,
            bad_noise_layers=".".join(str(layer) for layer in bad),
        )

    def noise_roles(self, noise_layers: int) -> list[str]:
        """`zero`, `fixed` or `trainable` for each noise layer 0 … noise_layers − 1.

        Raises: UserError as `resolved` does.
        """
        whole = self.resolved(noise_layers)
        bad, trainable = whole._bad_layers(), whole.num_trainable_noise_layers

        def role(layer: int) -> str:
            if whole.noise_type == "zero" or layer in bad:
                return "zero"
            return "trainable" if whole.noise_type == "trainable" and layer < trainable else "fixed"

        return [role(layer) for layer in range(noise_layers)]


def require_positive(name: str, value: int) -> None:
    """Raises: UserError unless `value` is a whole number of at least 1."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{name} must be a whole number of at least 1, not {value}")


def require_seed(seed: int) -> None:
    """Raises: UserError unless 0 ≤ seed < 2^63."""
    if type(seed) is not int or not 0 <= seed < SEEDS:
        raise UserError(f"seed must be a whole number from 0 to 2^63 - 1, not {seed}")


def whole_seeds(seed: int | Sequence[int], number: int) -> list[int]:
    """One for each of `number` pictures: those that are given, or the same for all. Raises:
    UserError for anything else.
    """
    try:
        seeds = [operator.index(seed)] * number
    except TypeError:
        try:
            seeds = [operator.index(each) for each in seed]
        except TypeError:
            raise UserError(
                f"seed must be a whole number, or one for each picture, not {seed!r}"
            ) from None
    if len(seeds) != number:
        raise UserError(f"{len(seeds)} seeds were given for {number} pictures")
    for each in seeds:
        require_seed(each)
    return seeds
