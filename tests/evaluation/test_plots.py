"""The plots of experiments.py can be read."""

import itertools

import numpy as np
import pytest
from matplotlib.text import Annotation, Text
from PIL import Image

from evaluation import ablation, intervals, plots


def made_up(number=50):
    """Rows of every experiment, spread as those of a run."""
    random = np.random.default_rng(0)
    rows = []
    for experiment in ablation.experiments(18, robustness=True):
        within = int(random.integers(0, number + 1))
        l2 = float(random.uniform(0.0019, 0.02))
        rows.append(
            {
                **{key: getattr(experiment, key) for key in ("name", "knob", "label", "degrade")},
                "steps": experiment.steps,
                "eps": 0.002,
                "within_eps": intervals.share_of([i < within for i in range(number)]),
                "l2": l2,
                "l2_error": l2 / 20 if number > 1 else None,
                "geocross": 0.0 if experiment.knob == "latents" else float(random.uniform(1, 80)),
                "damage": 0.01,
                "clean_l2": l2 / 2,
            }
        )
    return rows


@pytest.mark.parametrize("number", [1, 50])
def test_plots_of_all_experiments_are_legible_and_small(number, tmp_path):
    drawn = plots.plots(made_up(number), f"{number} pictures of 16×16, generator demo")
    assert set(drawn) == {"knobs", "steps", "naturalness", "robustness"}
    for name, figure in drawn.items():
        plots.write_plot(tmp_path / f"{name}.png", figure)
        assert (tmp_path / f"{name}.png").stat().st_size < 100_000
        with Image.open(tmp_path / f"{name}.png") as written:
            seen = np.asarray(written.convert("RGB"), np.int16)
        drawn_at = np.asarray(figure.canvas.buffer_rgba(), np.int16)[..., :3]
        assert np.abs(seen - drawn_at).max() <= 8  # of 255: no colour is lost with the palette
        assert f"{number} pictures" in figure.get_suptitle()
        for axes in figure.axes:
            assert axes.get_xlabel()
        unseen = {
            tick.label1
            for axes in figure.axes
            for axis in (axes.xaxis, axes.yaxis)
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
            if not min(axis.get_view_interval()) <= tick.get_loc() <= max(axis.get_view_interval())
        }
        texts = [
            text
            for text in figure.findobj(Text)
            if text.get_visible() and text.get_text() and text not in unseen
        ]
        assert min(text.get_fontsize() for text in texts) >= 8.5
        page = figure.bbox
        for text in texts:  # nothing is cut off
            box = Text.get_window_extent(text)
            assert box.x0 >= page.x0 and box.x1 <= page.x1 and box.y1 <= page.y1, text


def test_labels_hide_neither_points_nor_each_other():
    figure = plots.plots(made_up(), "made up")["naturalness"]
    figure.draw_without_rendering()
    labels = figure.findobj(Annotation)
    assert len(labels) == len([row for row in made_up() if not row["degrade"]])
    boxes = [Text.get_window_extent(label) for label in labels]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.overlaps(other)
    at = [figure.axes[0].transData.transform(label.xy) for label in labels]
    assert not any(box.contains(*point) for box in boxes for point in at)


def test_a_plot_for_which_too_little_was_measured_is_left_out():
    rows = made_up()
    assert plots.plots([row for row in rows if row["name"] == "defaults"], "") == {}
    some = [row for row in rows if row["name"] in ("defaults", "noise-zero")]
    assert set(plots.plots(some, "")) == {"knobs", "naturalness"}


@pytest.mark.parametrize("high", [0.0021, 0.008])
def test_numbers_at_an_axis_do_not_overlap_however_near_the_values_are(high):
    rows = made_up()
    for row, l2 in zip(rows, np.linspace(0.0013, high, len(rows)), strict=True):
        row |= {"l2": float(l2), "l2_error": 0.0}
    for name, which in (("knobs", 1), ("naturalness", 0)):
        figure = plots.plots(rows, "50 pictures")[name]
        figure.draw_without_rendering()
        axes = figure.axes[which]
        axis = axes.xaxis if name == "knobs" else axes.yaxis
        low, far = axis.get_view_interval()
        boxes = [
            tick.label1.get_window_extent()
            for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
            if tick.label1.get_text() and low <= tick.get_loc() <= far
        ]
        assert len(boxes) >= 2
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
