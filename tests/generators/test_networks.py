"""From the tensors of a file to networks: what the readers of all formats share."""

import pytest
import torch
from conftest import random_networks

from cli.errors import UserError
from generators import networks
from stylegan import G_mapping


def test_tensors_take_their_first_matching_name_or_are_dropped_or_refused():
    table = ((r"a\.(\d+)", r"b\1"), (r"a\.(.+)", r"c.\1"), (r"skip.*", ""))
    state = {key: torch.zeros(1) for key in ("a.7", "a.x", "skipped")}
    assert list(networks.renamed(state, table)) == ["b7", "c.x"]
    with pytest.raises(UserError, match="unknown key xa.7"):
        networks.renamed({"xa.7": torch.zeros(1)}, table)


def test_both_networks_come_of_one_state_dict_with_the_blurs_or_without():
    synthesis, mapping = random_networks(32)
    state = {**synthesis.state_dict(), **mapping.state_dict()}
    bare = {key: tensor for key, tensor in state.items() if not key.endswith("kernel")}
    assert len(bare) == len(state) - 3
    for content in (state, bare):
        found = networks.build_networks(content)
        expected = synthesis.state_dict()
        assert all(torch.equal(t, expected[key]) for key, t in found.synthesis.state_dict().items())
        assert len(found.mapping) == len(mapping)


@pytest.mark.parametrize(
    ("value", "said"),
    [(True, "True"), ((1, 3, 3, 1), "[1, 3, 3, 1]"), (10**5000, "some int"), (torch.ones(3), "1.")],
    ids=["bool", "tuple", "huge", "tensor"],
)
def test_settings_that_make_another_network_are_named_with_their_value(value, said):
    networks.require_settings({"other": 7}, {"blur": [1, 2, 1]})
    networks.require_settings({"blur": (1, 2, 1)}, {"blur": [1, 2, 1]})
    with pytest.raises(UserError, match="blur = ") as caught:
        networks.require_settings({"blur": value}, {"blur": [1, 2, 1]})
    assert said in str(caught.value) and "only [1, 2, 1]" in str(caught.value)


def test_a_value_nested_without_end_has_words():
    value: list = []
    for _ in range(100_000):
        value = [value]
    assert networks.worded(value) == "some list"


def test_a_network_is_loaded_strictly_and_in_float32():
    state = {key: tensor.half() for key, tensor in G_mapping(8, 1).state_dict().items()}
    config = {"dlatent_size": 8, "num_layers": 1}
    network = networks.load_strictly(G_mapping, config, state)
    assert all(tensor.dtype == torch.float32 for tensor in network.state_dict().values())
    with pytest.raises(UserError, match="unusable config"):
        networks.load_strictly(G_mapping, {"depth": 1}, state)
    with pytest.raises(UserError, match="^does not fit: dense1.weight is missing"):
        networks.load_strictly(G_mapping, {**config, "num_layers": 2}, state)
