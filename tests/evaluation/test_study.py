"""Each experiment is one call of run.py with the common flags; the longest begin first."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import align_face
import run
from evaluation import ablation, study
from evaluation.options import StudyOptions
from evaluation.results import PictureFolder


@pytest.fixture
def chosen(tmp_path, monkeypatch):
    """A study of all experiments on two LR pictures, in the present folder."""
    monkeypatch.chdir(tmp_path)
    Path("lr").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"lr/{i}.png")
    options = StudyOptions(
        input_dir=Path("lr"), hr_dir=Path("hr"), output_dir=Path("out"), seed=7, processes=2
    )
    experiments = ablation.experiments(18, robustness=True)
    return study.Study(options, experiments, PictureFolder(Path("lr"), "-input_dir"))


def test_the_process_that_starts_the_searches_opens_no_context_on_their_gpu(
    tiny, tmp_path, monkeypatch
):
    """Some hundred megabytes, as long as the study lasts: the device is tried by another process,
    which on a machine without a GPU finds none.
    """
    opened = []

    def open_context():
        opened.append(1)
        raise RuntimeError("a stand-in has no GPU")

    if not torch.cuda.is_available():
        monkeypatch.setattr(torch.cuda, "_lazy_init", open_context)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    initialised = torch.cuda.is_initialized()
    options = StudyOptions(generator=str(tiny), cache_dir=tmp_path, quiet=True)
    found = study.choose(options)[0]
    assert found.device == "cpu" or found.device.startswith("cuda:")
    assert not opened and torch.cuda.is_initialized() == initialised


def test_scripts_have_flags_that_their_commands_take(chosen, monkeypatch):
    for experiment in chosen.chosen:
        script = chosen.search(experiment)
        monkeypatch.setattr("sys.argv", script.words)
        options, settings = run.read_arguments()
        assert (options.seed, options.threads, options.overwrite) == (7, 1, False)
        assert options.output_dir == Path("out", experiment.name)
        assert script.log == Path("out", f"{experiment.name}.log")
        assert settings.steps == experiment.steps
        degraded = Path("out", "lr", experiment.degrade.replace(":", "-"))
        assert options.input_dir == (degraded if experiment.degrade else Path("lr"))
    for degrade in ("", *ablation.DEGRADATIONS):
        script = chosen.resize(degrade, 4)
        args = align_face.parser().parse_args(script.words[1:])
        assert (args.output_size, args.mode, args.input_dir) == (4, "resize", Path("hr"))
        assert args.output_dir == chosen.lr_folder(degrade)
        assert (args.degrade, args.seed) == ((degrade, 7) if degrade else (None, None))


def test_the_longest_searches_begin_first_after_all_degraded_lr_are_made(chosen, monkeypatch):
    begun = []

    def noted(scripts, processes, on_end, while_running=None):
        begun.extend((script.words[0], script.name) for script in scripts)
        assert processes == 2

    monkeypatch.setattr(study, "run_scripts", noted)
    monkeypatch.setattr(ablation, "require_same", lambda lr, others: None)
    monkeypatch.setattr(chosen, "lr_folder", lambda degrade: Path("lr"))
    assert chosen.run(4) == []
    commands = [command for command, _ in begun]
    assert commands == sorted(commands)  # align_face.py before run.py
    steps = {experiment.name: experiment.steps for experiment in chosen.chosen}
    order = [steps[name] for command, name in begun if command == "run.py"]
    assert order == sorted(order, reverse=True) and order[0] == 400 and len(order) == len(steps)
