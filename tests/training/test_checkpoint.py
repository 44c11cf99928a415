"""training/checkpoint.py: a checkpoint of another version is one sentence, whoever reads it."""

import pytest
import torch

from cli.errors import UserError
from training.checkpoint import CHECKPOINT, load_checkpoint
from training.train_settings import TrainSettings
from training.trainer import Training

SETTINGS = TrainSettings(32, 64, 8, 16, 2, batch_size=8)


def training() -> Training:
    faces = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    return Training(SETTINGS, faces, torch.device("cpu"))


def without(state: dict, name: str) -> dict:
    return {key: value for key, value in state.items() if key != name}


def lacks_searches(state: dict) -> dict:
    return {**state, "searches": {}}


def lacks_a_part(state: dict) -> dict:
    return without(state, "averaged")


def has_other_shapes(state: dict) -> dict:
    return {**state, "settings": {**state["settings"], "fmap_max": 4}}


def has_another_setting(state: dict) -> dict:
    return {**state, "settings": {**state["settings"], "colour": 1.0}}


def lacks_a_setting(state: dict) -> dict:
    return {**state, "settings": without(state["settings"], "mixing")}


@pytest.mark.parametrize(
    "change", [lacks_searches, lacks_a_part, has_other_shapes, has_another_setting, lacks_a_setting]
)
def test_a_checkpoint_of_another_version_is_refused_by_training_and_export(
    called, tmp_path, change
):
    state = change({"format": CHECKPOINT, "data": "", **training().state_dict()})
    torch.save(state, tmp_path / "checkpoint.pt")
    said = "checkpoint.pt was written by another version"
    done = called("training.export", "-output_dir", ".", "-to", "new", cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not (tmp_path / "new").exists()
    fresh = training()
    if change is has_other_shapes:  # its settings are refused first
        said = "was trained with fmap_max 4, not 8"
    with pytest.raises(UserError, match=said):
        load_checkpoint(tmp_path, fresh, "")


def test_a_setting_that_may_change_may_be_missing(tmp_path):
    state = {"format": CHECKPOINT, "data": "", **training().state_dict()}
    state["settings"] = without(state["settings"], "projected_weight")
    torch.save(state, tmp_path / "checkpoint.pt")
    assert load_checkpoint(tmp_path, training(), "")


def test_export_needs_latents_for_a_prior_and_a_checkpoint(called, tmp_path):
    for flags, said in (
        (("-prior_draws", 0), "-prior_draws must be at least 2, not 0"),
        ((), "checkpoint.pt does not exist: name the -output_dir of a training"),
    ):
        done = called("training.export", "-output_dir", ".", "-to", "new", *flags, cwd=tmp_path)
        assert done.returncode == 2 and said in done.stderr
