"""The network, and what files of every format make of it, beside an independent formulation."""

import pytest
from conftest import random_networks
from weight_files import draw, picture

from crosscheck import synthesize


@pytest.mark.parametrize("resolution", [16, 128])
def test_the_independent_formulation_agrees_with_the_network(resolution):
    synthesis, _ = random_networks(resolution)
    expected = picture(synthesis)
    found = synthesize(synthesis.state_dict(), *draw(synthesis))
    assert (found - expected).abs().max() / expected.abs().max() < 1e-4
