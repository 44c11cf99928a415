"""training/inputs.py: numbers, generators and weights that a command cannot use."""

import math

import pytest
import torch
from conftest import one_file

from cli.errors import UserError
from training.inputs import load_weights, read_generator, require_at_least, require_inputs_kept


def test_a_number_is_at_least_what_it_must_be():
    require_at_least("minutes", 0.0, 0)
    require_at_least("minutes", math.inf, 0)
    for value in (-1, math.nan):
        with pytest.raises(UserError, match=f"-minutes must be at least 0, not {value}"):
            require_at_least("minutes", value, 0)


def test_an_input_is_kept_by_whatever_name_it_goes(tmp_path):
    one_file(tmp_path / "g.pt")
    (tmp_path / "link.pt").symlink_to(tmp_path / "g.pt")
    inputs = [("what -critic names", None), ("the start", tmp_path / "g.pt")]
    require_inputs_kept([tmp_path / "absent.pt"], [*inputs, ("the other", tmp_path / "absent.pt")])
    with pytest.raises(UserError, match="link.pt is the start: give another -output_dir"):
        require_inputs_kept([tmp_path / "absent.pt", tmp_path / "link.pt"], inputs)


def test_a_generator_has_a_mapping_network(tmp_path):
    assert read_generator("demo64").mapping is not None
    with pytest.raises(UserError, match="g.pt has no mapping network: give a generator that has"):
        read_generator(one_file(tmp_path / "g.pt", mapping=None))


def test_weights_are_tensors(tmp_path):
    with pytest.raises(UserError, match="-critic .*absent.pt cannot be read"):
        load_weights(tmp_path / "absent.pt", "critic")
    path = tmp_path / "critic.pt"
    torch.save({"a": torch.ones(2)}, path)
    assert load_weights(path, "critic").keys() == {"a"}
    for content in ([1], {"a": 1}):
        torch.save(content, path)
        with pytest.raises(UserError, match="critic.pt holds no weights: give the critic.pt of a"):
            load_weights(path, "critic")
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="critic.pt holds no weights"):
        load_weights(path, "critic")
