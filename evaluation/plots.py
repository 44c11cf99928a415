"""What experiments.py measured, drawn: which knob matters, steps, naturalness against consistency,
robustness.

    for name, figure in plots(rows, "50 faces of 16×16, generator demo").items():
        write_plot(Path("experiments") / f"{name}.png", figure)

rows: of ablation.figures. Colours are those of Okabe and Ito, which the colour-blind can tell
apart; no meaning hangs on colour alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullFormatter, NullLocator
from PIL import Image

from evaluation.ablation import DEFAULTS
from safe_files import atomic_write

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#666666"
STYLES = {  # knob → colour and marker
    "": (BLACK, "*"),
    "steps": (BLUE, "o"),
    "schedule": (SKY, "v"),
    "learning rate": (GREEN, "P"),
    "optimiser": (ORANGE, "s"),
    "noise": (VERMILLION, "^"),
    "latents": (PURPLE, "X"),
    "GEOCROSS": (GREY, "D"),
    "eps": (BLUE, "h"),
    "search": (VERMILLION, "*"),
    "start": (GREEN, "d"),
}
LOOK = {
    "figure.dpi": 120,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "legend.fontsize": 9,
}
WIDTH = 8.0  # inches; 960 pixels across
SHARE, L2 = "within eps, % (95 % Wilson interval)", "mean L2 (± standard error)"
# Where a label may stand beside its point, in points; the first place that is free is taken.
PLACES = [
    (x * reach, y * reach)
    for reach in (8, 16, 26, 38, 52, 68)
    for x, y in ((1, 0), (0.8, 0.8), (0.8, -0.8), (-1, 0), (-0.8, 0.8), (-0.8, -0.8), (0, 1.2))
]


def plots(rows: list[dict], about: str) -> dict[str, Figure]:
    """Name → plot, of those for which enough was measured. about: what was, for the titles."""
    rows = [_with_reach(row) for row in rows]
    with rc_context(LOOK):
        figures = {
            "knobs": knobs_plot(rows, about),
            "steps": steps_plot(rows, about),
            "naturalness": naturalness_plot(rows, about),
            "robustness": robustness_plot(rows, about),
        }
    return {name: figure for name, figure in figures.items() if figure is not None}


def write_plot(path: Path, figure: Figure) -> None:
    """As PNG of 256 colours, a few levels off at most: a third of the bytes. Raises: OSError."""
    figure.canvas.draw()
    picture = Image.fromarray(np.array(figure.canvas.buffer_rgba())).convert("RGB")
    with atomic_write(path) as file:
        few = picture.quantize(256, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
        few.save(file, "PNG", optimize=True)


def knobs_plot(rows: list[dict], about: str) -> Figure | None:
    """A line per experiment: its share within eps and its mean L2, with their intervals."""
    rows = [row for row in rows if not row["degrade"]][::-1]  # the first on top
    if len(rows) < 2:
        return None
    figure, (left, right) = _figure(1.4 + 0.27 * len(rows), about, "Which knob matters", 2)
    for y, row in enumerate(rows):
        colour, marker = STYLES[row["knob"]]
        style = {"color": colour, "marker": marker, "capsize": 3, "markersize": 6}
        left.errorbar(row["percent"], y, xerr=[[end] for end in row["reach"]], **style)
        right.errorbar(row["l2"], y, xerr=row["error"], **style)
        if row["name"] == DEFAULTS:
            for axes, value in ((left, row["percent"]), (right, row["l2"])):
                axes.axvline(value, color=GREY, linewidth=0.8, linestyle=":")
    left.set_yticks(range(len(rows)), [row["label"] for row in rows])
    right.set_yticks(range(len(rows)), [])
    left.set_xlim(-3, 103)
    left.set_xlabel(SHARE)
    right.set_xlabel("mean L2 (± its SE), log scale")
    _eps_line(right.axvline, rows)
    _logarithmic(right, "x")
    for axes in (left, right):
        axes.set_ylim(-0.7, len(rows) - 0.3)
        axes.grid(axis="x")
    right.legend(loc="best")
    return figure


def steps_plot(rows: list[dict], about: str) -> Figure | None:
    """Share within eps and mean L2 over the number of steps."""
    rows = [row for row in rows if row["knob"] == "steps" or row["name"] == DEFAULTS]
    rows.sort(key=lambda row: row["steps"])
    if len(rows) < 2:
        return None
    figure, (left, right) = _figure(3.9, about, "More steps come closer", 2)
    steps, percent, l2, error = (
        [row[key] for row in rows] for key in ("steps", "percent", "l2", "error")
    )
    reach = list(zip(*(row["reach"] for row in rows), strict=True))
    style = {"color": BLUE, "marker": "o", "capsize": 4, "linewidth": 1.8}
    left.errorbar(steps, percent, yerr=reach, **style)
    right.errorbar(steps, l2, yerr=error, **style)
    left.set_ylim(-3, 103)
    left.set_ylabel(SHARE)
    right.set_ylim(bottom=0)
    right.set_ylabel(L2)
    _eps_line(right.axhline, rows)
    right.legend()
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(steps, [str(number) for number in steps])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("steps of a search, log scale")
        axes.grid()
    return figure


def naturalness_plot(rows: list[dict], about: str) -> Figure | None:
    """GEOCROSS against L2, a point per experiment: near the origin is best."""
    rows = [row for row in rows if not row["degrade"] and row["geocross"] is not None]
    if len(rows) < 2:
        return None
    figure, (axes,) = _figure(6.2, about, "Naturalness against consistency", 1)
    for row in rows:
        colour, marker = STYLES[row["knob"]]
        size = 150 if row["name"] == DEFAULTS else 48
        axes.scatter(row["geocross"], row["l2"], size, colour, marker=marker, zorder=3)
    axes.set_xscale("symlog", linthresh=1, linscale=0.6)  # one latent for all layers has 0
    axes.set_xlim(-0.25, 2.2 * max(2, *(row["geocross"] for row in rows)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    _eps_line(axes.axhline, rows)
    _logarithmic(axes, "y")
    axes.set_xlabel("mean GEOCROSS, log scale from 1 (left: latents agree, more natural)")
    axes.set_ylabel("mean L2, log scale (below: closer to the LR)")
    axes.grid()
    axes.legend(loc="best")
    _label(figure, axes, [(row["geocross"], row["l2"], row["label"]) for row in rows])
    return figure


def robustness_plot(rows: list[dict], about: str) -> Figure | None:
    """Bars per degradation: how far its LR, and the results, lie from the clean LR."""
    rows = [row for row in rows if row["degrade"] or row["name"] == DEFAULTS]
    rows = [row for row in rows if row.get("clean_l2") is not None]
    if not any(row["degrade"] for row in rows):
        return None
    figure, (axes,) = _figure(4.2, about, "Robustness to degraded input", 1)
    bars = (
        ("damage", "degraded LR to clean LR", GREY, "//"),
        ("l2", "result to degraded LR", SKY, ""),
        ("clean_l2", "result to clean LR", BLUE, ""),
    )
    width = 0.8 / len(bars)
    for i, (key, label, colour, hatch) in enumerate(bars):
        xs, values = [x + (i - 1) * width for x in range(len(rows))], [row[key] for row in rows]
        style = {"color": colour, "label": label, "hatch": hatch, "edgecolor": "white"}
        drawn = axes.bar(xs, values, width, **style)
        axes.bar_label(drawn, [f"{1000 * l2:.1f}" for l2 in values], padding=2, fontsize=8.5)
    axes.set_xticks(range(len(rows)), [row["degrade"] or "none" for row in rows])
    axes.set_xlabel("degradation of the LR (align_face.py -degrade)")
    axes.set_ylabel("mean L2 (numbers at the bars: thousandths)")
    axes.margins(y=0.12)
    _eps_line(axes.axhline, rows)
    axes.legend()
    return figure


def _figure(height: float, about: str, title: str, columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure((WIDTH, height))
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n{about}", fontsize=12)
    return figure, list(figure.subplots(1, columns, squeeze=False)[0])


def _with_reach(row: dict) -> dict:
    """A row with its share in percent, how far the Wilson interval reaches below and above it, and
    the standard error of the mean L2, 0 where a single picture has none.
    """
    percent, low, high = (100 * row["within_eps"][key] for key in ("share", "low", "high"))
    reach = max(percent - low, 0.0), max(high - percent, 0.0)
    return row | {"percent": percent, "reach": reach, "error": row["l2_error"] or 0.0}


def _eps_line(draw: Callable, rows: list[dict]) -> None:
    eps = next((row["eps"] for row in rows if row["name"] == DEFAULTS), rows[0]["eps"])
    draw(eps, color=VERMILLION, linestyle="--", linewidth=1.2, label=f"eps {eps:g}")


def _logarithmic(axes: Axes, axis: str) -> None:
    """A logarithmic axis, of what has been drawn, whose ticks are numbers such as 0.002."""
    axes.set(**{f"{axis}scale": "log"})
    ticks = getattr(axes, f"{axis}axis")
    low, high = getattr(axes, f"get_{axis}lim")()
    if high < 4 * low:  # 1, 2 and 5 times a power of ten would be too few
        ticks.set_major_locator(MaxNLocator(4))
        ticks.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ticks.set_minor_locator(NullLocator())
        return
    shown = FuncFormatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "125" else "")
    ticks.set_major_formatter(shown)
    ticks.set_minor_formatter(shown)


def _label(figure: Figure, axes: Axes, points: list[tuple[float, float, str]]) -> None:
    """Write each point's label beside it, where it hides no point and no other label."""
    figure.draw_without_rendering()  # only then it is known where anything stands
    renderer = figure.canvas.get_renderer()
    at = [axes.transData.transform(point[:2]) for point in points]
    inside, taken = axes.get_window_extent(renderer), []
    line = {"arrowstyle": "-", "color": "#999999", "linewidth": 0.6}
    for x, y, text in points:
        for dx, dy in PLACES:
            ha = "left" if dx > 0 else "right" if dx < 0 else "center"
            far = abs(dx) + abs(dy) > 12
            label = axes.annotate(
                text, (x, y), (dx, dy), textcoords="offset points", fontsize=9, ha=ha, va="center",
                arrowprops=line if far else None,
            )  # fmt: skip
            label.update_positions(renderer)
            words = Text.get_window_extent(label, renderer)  # without the line to the point
            free = not any(words.overlaps(other) for other in taken)
            free &= not any(words.padded(3).contains(*point) for point in at)
            if free and inside.x0 <= words.x0 and words.x1 <= inside.x1:
                break
            if (dx, dy) != PLACES[-1]:  # where nothing is free, better hidden than missing
                label.remove()
        taken.append(words)
