"""NVIDIA's StyleGAN1 pickles: read without its code, and nothing in them is run."""

import codecs
import pickle
import sys

import numpy as np
import pytest
import torch
from conftest import random_networks
from weight_files import EasyDict, Network, agree, nvidia_network, write_pickle

from cli.errors import UserError
from generators.formats import read_networks
from stylegan import G_mapping, G_synthesis


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nvidia_pickles_give_the_same_pictures(tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    G = nvidia_network(*random_networks(128, seed=1))
    synthesis, mapping = random_networks(128, seed=2)
    Gs = nvidia_network(synthesis, mapping)
    D = Network("D", EasyDict(), [("4x4/weight", np.zeros((3, 3), np.float32))])
    path = write_pickle(tmp_path / "network.pkl", (G, D, Gs), protocol)
    assert "dnnlib" not in sys.modules  # as on a machine without NVIDIA's code
    networks = agree(path, synthesis, mapping)
    assert networks.origin == "NVIDIA pickle"
    assert not (tmp_path / "executed").exists()


def test_a_pickle_of_one_generator_alone_is_read(tmp_path):
    synthesis, mapping = random_networks(32)
    agree(write_pickle(tmp_path / "g.pkl", nvidia_network(synthesis, mapping)), synthesis)


def test_other_channel_settings_are_read_from_the_file(tmp_path):
    config = {"fmap_base": 90, "fmap_max": 12, "fmap_decay": 0.8}
    synthesis, mapping = random_networks(64, **config)
    Gs = nvidia_network(synthesis, mapping, **config)
    networks = agree(write_pickle(tmp_path / "g.pkl", (None, None, Gs)), synthesis, mapping)
    assert networks.synthesis.config["fmap_decay"] == 0.8


@pytest.mark.parametrize(
    "setting",
    [
        {"fused_scale": True},
        {"nonlinearity": "relu"},
        {"use_pixel_norm": True},
        {"blur_filter": [1, 3, 3, 1]},
    ],
)
def test_settings_that_make_another_network_are_refused_by_name(tmp_path, setting):
    Gs = nvidia_network(*random_networks(16), **setting)
    with pytest.raises(UserError, match=next(iter(setting))):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def by_name(module: str, name: str) -> bytes:
    """A pickle that asks for module.name and calls it with `touch executed`."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X\x0e\x00\x00\x00touch executed\x85R."


GADGETS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("__builtin__", "apply"),
    ("builtins", "__import__"),
    ("importlib", "import_module"),
    ("pickle", "loads"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "fromstring"),
    ("torch", "load"),
    ("dnnlib.tflib.network", "Network.run"),
    ("dnnlib.util", "call_func_by_name"),
    ("shutil", "rmtree"),
    ("socket", "create_connection"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
]


@pytest.mark.parametrize(("module", "name"), GADGETS)
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name(
    tmp_path, monkeypatch, module, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.pkl").write_bytes(by_name(module, name))
    with pytest.raises(UserError, match=rf"asks for {module}\.{name}"):
        read_networks(tmp_path / "g.pkl")
    assert not (tmp_path / "executed").exists()


def test_the_gadgets_would_work_on_an_unpickler_that_admits_everything(tmp_path, monkeypatch):
    """What the test above refuses is a real attack."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(by_name("os", "system"))
    assert (tmp_path / "executed").exists()


def hostile_files():
    deep = b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b"."
    objects = pickle.dumps(np.array([object, 1], dtype=object), protocol=2)
    structured = pickle.dumps(np.zeros(2, dtype=[("a", "f4"), ("b", "O")]), protocol=2)
    array = pickle.dumps(np.zeros(4, dtype=np.float32), protocol=2)
    return {
        "nothing": b"\x80",
        "deep": deep,
        "object array": objects,
        "structured array": structured,
        "cut": array[: len(array) // 2],
        "huge claim": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "no network": array,
        "a number": pickle.dumps(7, protocol=2),
        "a tuple of text": pickle.dumps(("G", "D", "Gs"), protocol=2),
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "code": pickle.dumps(Calls(codecs.encode, "x", "rot13"), protocol=2),
    }


@pytest.mark.parametrize("name", hostile_files())
def test_hostile_and_damaged_pickles_get_one_sentence(tmp_path, name):
    (tmp_path / "g.pkl").write_bytes(hostile_files()[name])
    with pytest.raises(UserError) as caught:
        read_networks(tmp_path / "g.pkl")
    assert "g.pkl" in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_and_missing_variables_are_named(tmp_path):
    Gs = nvidia_network(*random_networks(16))
    variables = Gs.state["components"]["synthesis"].state["variables"]
    variables.append(("8x8/Conv2/weight", np.zeros(3, np.float32)))
    with pytest.raises(UserError, match="8x8/Conv2/weight"):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))
    variables[:] = [pair for pair in variables if "Conv2" not in pair[0]]
    variables[:] = [pair for pair in variables if pair[0] != "8x8/Conv1/bias"]
    with pytest.raises(UserError, match=r"blocks\.8x8\.conv1\.bias is missing"):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))


def test_the_size_of_the_ffhq_pickle_is_what_nvidia_prints():
    """26,219,627 parameters, with the ToRGB layers of smaller pictures, which are not used."""
    with torch.device("meta"):
        synthesis, mapping = G_synthesis(), G_mapping()
    widths = [block.epi2.noise.weight.numel() for block in synthesis.blocks.values()]
    unused = sum(3 * width + 3 for width in widths[:-1])
    kept = sum(p.numel() for network in (synthesis, mapping) for p in network.parameters())
    assert kept + unused == 26_219_627
