"""genforce's StyleGAN checkpoints."""

import pytest
import torch
from conftest import random_networks
from weight_files import agree
from weight_files import genforce as genforce_state

from cli.errors import UserError
from generators import genforce
from generators.formats import read_networks


@pytest.mark.parametrize("resolution", [16, 128])
def test_genforce_checkpoints_give_the_same_pictures(tmp_path, resolution):
    other, networks = random_networks(resolution, seed=1), random_networks(resolution, seed=2)
    content = {"generator": genforce_state(*other), "generator_smooth": genforce_state(*networks)}
    torch.save(content, tmp_path / "stylegan.pth")
    assert agree(tmp_path / "stylegan.pth", *networks).origin == "genforce"
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    agree(tmp_path / "old.pth", *networks)


def test_other_settings_of_genforce_are_refused_by_name(tmp_path):
    state = genforce_state(*random_networks(16))
    for content, words in (
        ({"generator_smooth": {**state, "synthesis.layer3.final.tanh": torch.ones(1)}}, "tanh"),
        ({"generator_smooth": state, "fused_scale": True}, "fused_scale = True"),
        (
            {"generator_smooth": {k: v for k, v in state.items() if not k.endswith(".const")}},
            "constant input",
        ),
    ):
        torch.save(content, tmp_path / "g.pth")
        with pytest.raises(UserError, match=words):
            read_networks(tmp_path / "g.pth")


def test_the_averaged_generator_is_preferred_wherever_the_checkpoint_keeps_it():
    state = genforce_state(*random_networks(16))
    for content in (
        {"generator": {}, "generator_smooth": state},
        {"models": {"generator": state, "generator_smooth": {"w": 0}}},
        {"model": {"generator_smooth": state}, "optimizer": {}},
        {"generator": {f"module.{key}": tensor for key, tensor in state.items()}},
    ):
        assert genforce.recognises(content)
        assert len(genforce.read(content).mapping) == 2
    assert not genforce.recognises({"generator": {7: state}, "models": [state]})
