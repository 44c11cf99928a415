"""Which settings experiments.py tries, and tables of what came of each.

    for experiment in experiments(num_layers=10): ...
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
from evaluation.per_image import Evaluation
from evaluation.results import PictureFolder, Problems, read_results
from search_settings import DEFAULT_TRAINABLE_NOISE_LAYERS, Settings

DEFAULTS = "defaults"
STEPS = (50, 200, 400)
LOSSES = ("100*L2", "100*L2+0.01*GEOCROSS", "100*L2+0.2*GEOCROSS")
DEGRADATIONS = ("gaussian:25", "gaussian:50", "saltpepper:0.05", "motion:100")  # the paper's


@dataclass(frozen=True)
class Experiment:
    """One run of run.py over the whole folder.

    name: of its folder; knob: what is changed, "" for nothing; flags: of run.py, beside the common
    ones; label: what a plot calls it; degrade: what align_face.py did to its LR.
    """

    name: str
    knob: str = ""
    flags: tuple[str, ...] = ()
    label: str = ""
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


def experiments(num_layers: int, robustness: bool) -> list[Experiment]:
    """The defaults first, then each value of each knob, for a generator of so many layers; with
    `robustness` each degradation.
    """
    found = [Experiment(DEFAULTS, label=DEFAULTS)]

    def add(name: str, knob: str, label: str, *flags) -> None:
        found.append(Experiment(name, knob, tuple(map(str, flags)), label))

    for steps in STEPS:
        add(f"steps-{steps}", "steps", f"{steps} steps", "-steps", steps)
    for schedule in ("linear1cycle", "fixed"):
        add(f"schedule-{schedule}", "schedule", f"schedule {schedule}", "-lr_schedule", schedule)
    for rate in (0.2, 0.8):
        label = f"learning rate {rate}"
        add(f"learning-rate-{rate}", "learning rate", label, "-learning_rate", rate)
    for name in ("adamax", "sgdm", "sgd"):
        add(f"optimiser-{name}", "optimiser", name, "-opt_name", name)
    if num_layers > DEFAULT_TRAINABLE_NOISE_LAYERS:
        flags = "-num_trainable_noise_layers", num_layers
        add("noise-all", "noise", f"all {num_layers} noise maps searched", *flags)
    for kind in ("fixed", "zero"):
        add(f"noise-{kind}", "noise", f"noise {kind}", "-noise_type", kind)
    add("tile-latent", "latents", "one latent for all layers", "-tile_latent")
    for loss in LOSSES:
        weight = loss.partition("+")[2].partition("*")[0] or "0"
        add(f"geocross-{weight}", "GEOCROSS", f"GEOCROSS weight {weight}", "-loss_str", loss)
    add("eps-0.001", "eps", "eps 0.001", "-eps", "0.001")
    for kind in DEGRADATIONS if robustness else ():
        found.append(Experiment(kind.replace(":", "-"), label=kind, degrade=kind))
    return found


def figures(
    experiment: Experiment,
    runs: Path,
    lr: PictureFolder,
    clean: PictureFolder | None,
    problems: Problems,
) -> dict | None:
    """What evaluate.py says of the results in `runs`, in one row; None where there is none.

    lr: the LR that they were made from; clean: the same before they were degraded. Raises: OSError
    where `runs` cannot be read.
    """
    evaluation = Evaluation(problems, lr, clean=clean)
    for results in read_results(runs, problems).values():
        evaluation.measure(results)
    if not evaluation.rows:
        return None
    summary = {row["row"]: row for row in tables.summary(evaluation.rows, evaluation.diversity)}
    records, files = summary["PULSE, records"], summary["PULSE, PNG files"]
    pulse = [row for row in evaluation.rows if row["method"] == "PULSE"]
    row = {
        **{key: getattr(experiment, key) for key in ("name", "knob", "label", "degrade", "steps")},
        "flags": experiment.command,
        "eps": pulse[0]["eps"],
        **{key: value for key, value in records.items() if key not in ("row", "psnr")},
        "niqe": files["niqe"],
    }
    if clean is not None:
        held = [line for line in pulse if line.get("clean_l2") is not None]
        row |= {
            "damage": _damage({line["input"] for line in held}, lr, clean),
            "clean_l2": files["clean_l2"],
            "clean_psnr": files["clean_psnr"],
            "clean_within_eps": tables.share_of([line["clean_l2"] <= line["eps"] for line in held]),
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
        there = f"there are {', '.join(map(str, sorted(sides)))}" if sides else "none can be read"
        raise UserError(f"{lr.told}: all pictures must have one size, but {there}: sort them")
    return sides.pop()


def require_same(lr: PictureFolder, others: PictureFolder) -> None:
    """Raises: UserError, one sentence, where pictures of `lr` are missing from `others` or have
    other pixels there.
    """
    strange = []
    for name in lr.by_name:
        try:
            if lr.read(name).tobytes() == others.read(name).tobytes():
                continue
        except UserError:
            pass
        strange.append(name)
    if strange:
        raise UserError(
            f"{lr.told}: {some(strange)}: not what align_face.py -mode resize makes of a "
            f"photograph in -hr_dir: make the LR so, or leave -hr_dir out"
        )


NOTE = (
    "Every row changes one setting of the defaults. Within eps, L2 and GEOCROSS are of the "
    "pictures as the search had them, seconds those of one search with one thread; intervals are "
    "Wilson's, SE is the standard error of the mean. L2: smaller is closer to the LR. GEOCROSS: "
    "smaller is more natural, 0 where all layers have one latent."
)
ROBUSTNESS_NOTE = (
    "The defaults, on degraded LR (`align_face.py -mode resize -degrade`). Figures to the clean LR "
    "are of the 8-bit pictures, as of `evaluate.py -clean`; they are to be held against how far "
    "the degraded LR itself lies from the clean one."
)
SHOW = {title: show for _, title, show in tables.HEADER}  # how evaluate.py's tables show a figure
COMMON = (
    ("within_eps", "within eps", SHOW["within eps"]),
    ("within_eps", "share, 95 % interval", SHOW["share, 95 % interval"]),
    ("l2", "mean L2", lambda value: f"{value:.5f}"),
    ("l2_error", "SE", lambda value: f"{value:.5f}"),
    ("worst_l2", "worst L2", lambda value: f"{value:.5f}"),
    ("geocross", "GEOCROSS", lambda value: f"{value:.1f}"),
    ("niqe", "NIQE", SHOW["NIQE"]),
    ("seconds", "seconds a picture", lambda value: f"{value:.1f}"),
)
KNOB_HEADER = (
    ("knob", "knob", str),
    ("flags", "flags", lambda flags: f"`{flags}`" if flags else ""),
    *COMMON,
)
ROBUSTNESS_HEADER = (
    ("degrade", "`-degrade`", lambda degrade: f"`{degrade}`" if degrade else "none"),
    ("damage", "L2 of degraded to clean LR", lambda value: f"{value:.5f}"),
    *COMMON[:4],
    ("clean_l2", "mean L2 to clean LR", lambda value: f"{value:.5f}"),
    ("clean_psnr", "PSNR to clean LR", SHOW["PSNR clean"]),
    ("clean_within_eps", "within eps of clean LR", SHOW["within eps"]),
    ("geocross", "GEOCROSS", SHOW["GEOCROSS"]),
)


def knob_table(rows: list[dict]) -> list[list[str]]:
    """The defaults and every knob; a knob is named in its first row only."""
    mine = [row | {"knob": row["knob"] or "the defaults"} for row in rows if not row["degrade"]]
    told = set()
    for row in mine:
        row["knob"] = "" if row["knob"] in told else told.add(row["knob"]) or row["knob"]
    return tables.cells(mine, KNOB_HEADER) if mine else []


def robustness_table(rows: list[dict]) -> list[list[str]]:
    """The defaults on clean LR, then each degradation; empty where none was measured."""
    mine = [row for row in rows if row["degrade"] or row["name"] == DEFAULTS]
    return tables.cells(mine, ROBUSTNESS_HEADER) if any(row["degrade"] for row in mine) else []
