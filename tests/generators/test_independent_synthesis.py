"""The network, and what files of every format make of it, beside an independent formulation."""

import pytest
import torch
from conftest import random_networks
from independent_synthesis import synthesize
from weight_files import draw, genforce, lernapparat, nvidia_network, picture, write_pickle

from generators.formats import read_networks
from generators.load import save_generator


@pytest.mark.parametrize("resolution", [16, 128])
def test_the_independent_formulation_agrees_with_the_network(resolution):
    synthesis, _ = random_networks(resolution)
    expected = picture(synthesis)
    found = synthesize(synthesis.state_dict(), *draw(synthesis))
    assert (found - expected).abs().max() / expected.abs().max() < 1e-4


@pytest.mark.parametrize("resolution", [16, 128])
@pytest.mark.parametrize("name", ["NVIDIA pickle", "genforce", "lernapparat"])
def test_converted_files_hold_the_network_that_was_written(tmp_path, name, resolution):
    """The tensors of the file in this project's format, drawn with by the other formulation."""
    synthesis, mapping = random_networks(resolution, seed=7)
    foreign, converted = tmp_path / "foreign", tmp_path / "converted.pt"
    if name == "NVIDIA pickle":
        write_pickle(foreign, (None, None, nvidia_network(synthesis, mapping)))
    elif name == "genforce":
        torch.save({"generator_smooth": genforce(synthesis, mapping)}, foreign)
    else:
        torch.save(lernapparat(synthesis, mapping), foreign)
    networks = read_networks(foreign)
    assert networks.origin == name
    save_generator(networks, (torch.zeros(16), torch.ones(16)), converted)
    state = torch.load(converted, weights_only=True)["synthesis"]
    expected = picture(synthesis)
    found = synthesize(state, *draw(synthesis))
    assert (found - expected).abs().max() / expected.abs().max() < 1e-4
