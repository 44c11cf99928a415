"""What experiments.py tries can be run by run.py, each under a name of its own."""

import re
import sys

import pytest

import run
from evaluation import ablation, plots


@pytest.mark.parametrize("layers", [0, 6, 10, 17, 18])
def test_every_experiment_has_a_name_of_its_own_and_flags_that_run_py_takes(layers, monkeypatch):
    chosen = ablation.experiments(layers, robustness=True)
    assert len({experiment.name for experiment in chosen}) == len(chosen)
    assert len({experiment.label for experiment in chosen}) == len(chosen)
    seen = set()
    for experiment in chosen:
        assert not re.search(r"[^a-zA-Z0-9.-]", experiment.name)  # a folder anywhere
        monkeypatch.setattr(sys, "argv", ["run.py", *experiment.flags])
        _, settings = run.read_arguments()  # which checks them
        assert settings.steps == experiment.steps
        settings.resolved(layers)
        seen.add(settings)
        assert experiment.knob in plots.STYLES
    damaged = len(ablation.DEGRADATIONS)
    assert len(seen) == len(chosen) - damaged  # each changes something, and no two the same
    assert ablation.experiments(layers, robustness=False) == chosen[:-damaged]
