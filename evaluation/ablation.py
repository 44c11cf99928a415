"""Which settings experiments.py tries, what is measured of each, and tables of that.

    for experiment in experiments(noise_layers=10): ...
    row = figures(experiment, Path("experiments/steps-200"), LR, None, problems)
    print(tables.as_markdown(knob_table([row, …])))

A knob is one setting, changed while all others stay at their defaults. The degradations are those
of the paper's robustness experiment: defaults throughout, the LR damaged. Every figure is one of
evaluate.py.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from cli.errors import UserError
from cli.progress import some
from evaluation import metrics, tables
from evaluation.intervals import share_of
from evaluation.per_image import Evaluation
from evaluation.results import PictureFolder, Problems, read_results
from search_settings import DEFAULT_TRAINABLE_NOISE_LAYERS, Settings

DEFAULTS = "defaults"
KNOBS = (  # name, knob, label and flags of every experiment on the LR; {}: noise maps
    (DEFAULTS, "", DEFAULTS, ""),
    ("until-eps", "search", "until eps", "-until eps"),
    ("steps-200-until-eps", "search", "200 steps until eps", "-steps 200 -until eps"),
    ("quick", "search", "quick", "-search quick"),
    ("quick-until-eps", "search", "quick, no polish", "-search quick -polish 0"),
    ("quick-all-steps", "search", "quick, all steps", "-search quick -until steps"),
    ("quick-tied", "search", "quick, tied", "-search quick -start tied"),
    ("quick-regression", "search", "quick, regression", "-search quick -start regression"),
    ("quick-lbfgs", "search", "quick, lbfgs", "-search quick -opt_name lbfgs"),
    (
        *("quick-adam", "search", "quick, adam"),
        "-search quick -opt_name adam -learning_rate 0.8 -lr_schedule linear1cycledrop",
    ),
    ("start-tied", "start", "tied start", "-start tied"),
    ("start-gathered", "start", "gathered start", "-start gathered"),
    ("start-regression", "start", "start by regression", "-start regression"),
    ("steps-50", "steps", "50 steps", "-steps 50"),
    ("steps-200", "steps", "200 steps", "-steps 200"),
    ("steps-400", "steps", "400 steps", "-steps 400"),
    ("schedule-linear1cycle", "schedule", "schedule linear1cycle", "-lr_schedule linear1cycle"),
    ("schedule-fixed", "schedule", "schedule fixed", "-lr_schedule fixed"),
    ("learning-rate-0.2", "learning rate", "learning rate 0.2", "-learning_rate 0.2"),
    ("learning-rate-0.8", "learning rate", "learning rate 0.8", "-learning_rate 0.8"),
    ("optimiser-adamax", "optimiser", "adamax", "-opt_name adamax"),
    ("optimiser-sgdm", "optimiser", "sgdm", "-opt_name sgdm"),
    ("optimiser-sgd", "optimiser", "sgd", "-opt_name sgd"),
    (
        *("optimiser-lbfgs", "optimiser", "lbfgs"),
        "-opt_name lbfgs -learning_rate 1 -lr_schedule fixed",
    ),
    ("noise-all", "noise", "all {} noise maps searched", "-num_trainable_noise_layers {}"),
    ("noise-fixed", "noise", "noise fixed", "-noise_type fixed"),
    ("noise-zero", "noise", "noise zero", "-noise_type zero"),
    ("tile-latent", "latents", "one latent for all layers", "-tile_latent"),
    ("geocross-0", "GEOCROSS", "GEOCROSS weight 0", "-loss_str 100*L2"),
    ("geocross-0.01", "GEOCROSS", "GEOCROSS weight 0.01", "-loss_str 100*L2+0.01*GEOCROSS"),
    ("geocross-0.2", "GEOCROSS", "GEOCROSS weight 0.2", "-loss_str 100*L2+0.2*GEOCROSS"),
    (
        *("geocross-within", "GEOCROSS", "GEOCROSS weight 0.01, within eps 0.1"),
        "-loss_str 100*L2+0.01*GEOCROSS -geocross_within 0.1",
    ),
    ("eps-0.001", "eps", "eps 0.001", "-eps 0.001"),
)
DEGRADATIONS = ("gaussian:25", "gaussian:50", "saltpepper:0.05", "motion:100")  # the paper's


@dataclass(frozen=True)
class Experiment:
    """One run of run.py over the whole folder.

    name: of its folder; knob: what is changed, "" for nothing; label: what a plot calls it; flags:
    of run.py, beside the common ones; degrade: what align_face.py did to its LR.
    """

    name: str
    knob: str
    label: str
    flags: tuple[str, ...] = ()
    degrade: str = ""

    @property
    def steps(self) -> int:
        """Of its searches."""
        given = dict(zip(self.flags, self.flags[1:], strict=False)).get("-steps")
        return int(given or Settings.steps)

    @property
    def command(self) -> str:
        """Its flags as they are typed."""
        return " ".join(flag if "*" in flag else shlex.quote(flag) for flag in self.flags)


def experiments(noise_layers: int, robustness: bool) -> list[Experiment]:
    """The defaults first, then each value of each knob, for a generator of so many noise maps; with
    `robustness` each degradation.
    """
    least = {"noise-all": DEFAULT_TRAINABLE_NOISE_LAYERS + 1, "noise-fixed": 1, "noise-zero": 1}
    tried = [
        Experiment(
            name, knob, label.format(noise_layers), tuple(flags.format(noise_layers).split())
        )
        for name, knob, label, flags in KNOBS
        if noise_layers >= least.get(name, 0)
    ]
    for kind in DEGRADATIONS if robustness else ():
        tried.append(Experiment(kind.replace(":", "-"), "", kind, degrade=kind))
    return tried


def figures(
    experiment: Experiment,
    runs: Path,
    lr: PictureFolder,
    clean: PictureFolder | None,
    problems: Problems,
) -> dict | None:
    """What evaluate.py says of the results in `runs`, in one row; None where there is none.

    lr: the LR that they were made from; clean: the same before they were degraded. Results of what
    is not in there, as of a picture that was removed since, do not count. Raises: UserError where
    `runs` cannot be read.
    """
    evaluation, given = Evaluation(problems, lr, clean=clean), lr if clean is None else clean
    for results in read_results(runs, problems):
        if results[0].input in given:
            evaluation.measure(results)
    if not evaluation.rows:
        return None
    records, files, *_ = tables.by_method(evaluation.rows, evaluation.diversity)
    pulse = [row for row in evaluation.rows if row["method"] == "PULSE"]
    row = {
        **{key: getattr(experiment, key) for key in ("name", "knob", "label", "degrade", "steps")},
        "flags": experiment.command,
        "eps": pulse[0]["eps"],
        **{key: value for key, value in records.items() if key not in ("row", "psnr")},
        "niqe": files["niqe"],
    }
    if clean is not None:
        measured = [line for line in pulse if line.get("clean_l2") is not None]
        row |= {
            "damage": _damage({line["input"] for line in measured}, lr, clean),
            "clean_l2": files["clean_l2"],
            "clean_psnr": files["clean_psnr"],
            "clean_within_eps": share_of([line["clean_l2"] <= line["eps"] for line in measured]),
        }
    return row


def _damage(names: set[str], lr: PictureFolder, clean: PictureFolder) -> float | None:
    """The mean squared difference of the LR of these names and the clean LR."""
    pairs = [[metrics.pixels(folder.read(name)) for folder in (lr, clean)] for name in names]
    return fmean(metrics.mean_square(*pair) for pair in pairs) if pairs else None


def side_of(lr: PictureFolder) -> int:
    """The side of all LR in pixels. Raises: UserError, one sentence, where they differ."""
    sides = set()
    for name in lr.by_name:
        with suppress(UserError):  # run.py names it
            sides.add(lr.read(name).width)
    if len(sides) != 1:
        which = f"there are {', '.join(map(str, sorted(sides)))}" if sides else "none can be read"
        raise UserError(f"{lr.label}: all pictures must have one size, but {which}: sort them")
    return sides.pop()


def require_same(lr: PictureFolder, others: PictureFolder) -> None:
    """Raises: UserError, one sentence, where pictures of `lr` are missing from `others` or have
    other pixels there.
    """
    different = []
    for name in lr.by_name:
        try:
            if lr.read(name).tobytes() == others.read(name).tobytes():
                continue
        except UserError:
            pass
        different.append(name)
    if different:
        raise UserError(
            f"{lr.label}: {some(different)}: not what align_face.py -mode resize makes of a "
            f"photograph in -hr_dir: make the LR so, or leave -hr_dir out"
        )


NOTE = (
    "Every row changes one setting of the defaults. Within eps, L2 and GEOCROSS are of the "
    "pictures as the search had them, seconds those of one search with one thread; intervals are "
    "Wilson's, SE is the standard error of the mean. L2: smaller is closer to the LR. GEOCROSS: "
    "smaller is more natural, 0 where all layers have one latent. By step: of the first iterate "
    "within eps, blank where fewer pictures had one."
)
ROBUSTNESS = (
    "## Robustness\n\n"
    "The defaults, on degraded LR (`align_face.py -mode resize -degrade`). Figures to the clean LR "
    "are of the 8-bit pictures, as of `evaluate.py -clean`; they are to be held against how far "
    "the degraded LR itself lies from the clean one.\n"
)
COMMON = (
    *tables.WITHIN_EPS,
    ("l2", "mean L2", "{:.5f}".format),
    ("l2_error", "SE", "{:.5f}".format),
    ("worst_l2", "worst L2", "{:.5f}".format),
    ("geocross", "GEOCROSS", "{:.1f}".format),
    *tables.REACHED,
    ("niqe", "NIQE", "{:.2f}".format),
    ("seconds", "seconds a picture", "{:.1f}".format),
)
KNOB_HEADER = (
    ("knob", "knob", str),
    ("flags", "flags", lambda flags: f"`{flags}`" if flags else ""),
    *COMMON,
)
ROBUSTNESS_HEADER = (
    ("degrade", "`-degrade`", lambda degrade: f"`{degrade}`" if degrade else "none"),
    ("damage", "L2 of degraded to clean LR", "{:.5f}".format),
    *COMMON[:4],
    ("clean_l2", "mean L2 to clean LR", "{:.5f}".format),
    ("clean_psnr", "PSNR to clean LR", "{:.2f}".format),
    ("clean_within_eps", "within eps of clean LR", tables.WITHIN_EPS[0][2]),
    ("geocross", "GEOCROSS", "{:.2f}".format),
)


def knob_table(rows: list[dict]) -> list[list[str]]:
    """The defaults and every knob; a knob is named in its first row only."""
    table, knob = [], None
    for row in rows:
        if row["degrade"]:
            continue
        name = row["knob"] or "the defaults"
        table.append(row | {"knob": "" if name == knob else name})
        knob = name
    return tables.cells(table, KNOB_HEADER) if table else []


def robustness_table(rows: list[dict]) -> list[list[str]]:
    """The defaults on clean LR, then each degradation; empty where none was measured."""
    table = [row for row in rows if row["degrade"] or row["name"] == DEFAULTS]
    return tables.cells(table, ROBUSTNESS_HEADER) if any(row["degrade"] for row in table) else []
