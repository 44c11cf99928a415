"""NVIDIA's PyTorch pickles: read without its code; what is not computed is refused by name."""

import pytest
import torch
from generator_files import random_networks_of, random_stylegan2
from pytorch_pickles import persisted, snapshot, write
from stylegan3_networks import random_stylegan3

from cli.errors import UserError
from generators import nvidia_names, nvidia_pytorch, persistent
from generators.formats import READERS, read_networks
from generators.safe_loading import InFile, unpickle
from stylegan import G_mapping

pytestmark = pytest.mark.usefixtures("one_thread")

NETWORKS = {
    "skip": lambda: random_stylegan2(32),
    "resnet": lambda: random_stylegan2(16, architecture="resnet"),
    "orig": lambda: random_stylegan2(16, architecture="orig", conv_clamp=None),
    "of 4 pixels": lambda: random_stylegan2(4),
    "without noise": lambda: random_stylegan2(8, use_noise=False),
    "T": lambda: random_stylegan3(32),
    "R": lambda: random_stylegan3(16, "stylegan3-r", channel_base=100, channel_max=9),
    "short": lambda: random_stylegan3(32, depth=6, num_critical=1, margin_size=6, conv_clamp=1.2),
    "wide": lambda: random_stylegan3(16, channel_base=1 << 15, channel_max=6),
}


@pytest.mark.parametrize(
    ("name", "protocol"), [("skip", 2), ("T", 3), *((name, 4) for name in NETWORKS)]
)
def test_every_network_comes_back_bit_by_bit(tmp_path, monkeypatch, name, protocol):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    synthesis = NETWORKS[name]()
    mapping = G_mapping(16, 3, latent_size=12, hidden_size=20).requires_grad_(False)
    other = persisted(NETWORKS[name](), G_mapping(16, 3))
    content = snapshot(synthesis, mapping, G=other)
    networks = read_networks(write(tmp_path / "g.pkl", content, protocol))
    w = torch.randn(2, synthesis.num_layers, 16)
    noise = [torch.randn(2, 1, r, r) for r in synthesis.noise_sizes]
    assert torch.equal(networks.synthesis(w, noise), synthesis(w, noise))
    z = torch.randn(3, 12)
    torch.testing.assert_close(networks.mapping(z), mapping(z), rtol=1e-5, atol=1e-6)
    assert networks.origin == "NVIDIA pickle, PyTorch"
    assert not (tmp_path / "executed").exists()


def test_half_precision_and_other_memory_layouts_are_read(tmp_path):
    """As `--nhwc 1` trains: weights channels last, in one storage or another."""
    networks = random_networks_of("stylegan2", 16)
    G = persisted(networks.synthesis, networks.mapping)
    layer = G["synthesis.b8.conv0"].state["_parameters"]
    layer["weight"] = layer["weight"].to(memory_format=torch.channels_last)
    G["synthesis.b4"].state["_parameters"]["const"] = networks.synthesis.b4.const.half()
    found = read_networks(write(tmp_path / "g.pkl", {"G_ema": G})).synthesis.state_dict()
    for key, tensor in networks.synthesis.state_dict().items():
        torch.testing.assert_close(found[key], tensor, rtol=0, atol=1e-3 * key.endswith("const"))


@pytest.mark.parametrize(
    ("family", "layer", "setting", "words"),
    [
        ("stylegan2", "", {"img_channels": 1}, "img_channels = 1"),
        ("stylegan2", "synthesis.b8.conv1", {"activation": "relu"}, "activation = 'relu'"),
        ("stylegan2", "synthesis.b8.conv1", {"up": 2}, "up = 2"),
        ("stylegan2", "synthesis.b8.conv0", {"conv_clamp": 1}, "conv_clamp = 1"),
        ("stylegan2", "synthesis.b8.conv0", {"use_noise": False}, "use_noise = False"),
        ("stylegan2", "synthesis.b8", {"architecture": "orig"}, "architecture = 'orig'"),
        ("stylegan2", "mapping.fc0", {"bias_gain": 1}, "bias_gain = 1"),
        ("stylegan2", "mapping.fc1", {"activation": "linear"}, "activation = 'linear'"),
        ("stylegan3-t", "synthesis.input", {"bandwidth": 3.0}, "bandwidth = 3.0"),
        ("stylegan3-t", "synthesis", {"num_critical": 3}, "does not fit: L9_36_5"),
        ("stylegan3-t", "synthesis", {"output_scale": "x"}, "output_scale = 'x'"),
        ("stylegan3-r", "synthesis.L3_36_8", {"padding": [0, 0, 0, 0]}, "padding = "),
        ("stylegan3-r", "synthesis.L3_36_8", {"up_factor": 4}, "up_factor = 4"),
    ],
)
def test_settings_that_make_another_network_are_refused_by_name(
    tmp_path, family, layer, setting, words
):
    networks = random_networks_of(family, 16)
    G = persisted(networks.synthesis, networks.mapping)
    changed = G[layer] if layer else G
    changed.state |= setting
    with pytest.raises(UserError, match=words) as caught:
        read_networks(write(tmp_path / "g.pkl", {"G_ema": G}))
    assert "\n" not in str(caught.value)
    for name in setting:
        del changed.state[name]
    with pytest.raises(UserError, match=f"lacks the setting {next(iter(setting))} of its"):
        read_networks(write(tmp_path / "g.pkl", {"G_ema": G}))


def test_another_resample_filter_is_refused_by_name(tmp_path):
    networks = random_networks_of("stylegan2", 16)
    networks.synthesis.b8.conv0.resample_filter.mul_(2)
    content = snapshot(networks.synthesis, networks.mapping)
    with pytest.raises(UserError, match="another resample_filter"):
        read_networks(write(tmp_path / "g.pkl", content))


def test_a_file_without_the_averaged_generator_is_refused(tmp_path):
    networks = random_networks_of("stylegan2", 16)
    G = persisted(networks.synthesis, networks.mapping)
    with pytest.raises(UserError, match="holds no G_ema"):
        read_networks(write(tmp_path / "g.pkl", {"G": G, "D": None}))
    assert read_networks(write(tmp_path / "bare.pkl", G)).mapping is not None


def test_only_what_is_asked_for_leaves_the_file(tmp_path):
    """G and D double the memory: their storages stay where they are."""
    networks = random_networks_of("stylegan2", 64)
    G = persisted(networks.synthesis, networks.mapping)
    path = write(tmp_path / "g.pkl", {"G": G, "G_ema": G, "D": torch.zeros(1 << 22)})
    with open(path, "rb") as file:
        reader = next(reader for reader in READERS if reader.read is nvidia_pytorch.read)
        assert reader.stand_ins is persistent.STAND_INS
        content = unpickle(file, reader.stand_ins)
    assert len(content["D"].storage.raw) > 1 << 24
    assert isinstance(content["D"].storage.raw, InFile)


def test_split_and_axes():
    with pytest.raises(UserError, match="unknown key other.x"):
        nvidia_names.split({"mapping.x": torch.ones(1), "other.x": torch.ones(1)})
    with pytest.raises(UserError, match=r"k is \(2, 1\)"):
        nvidia_names.without_axes(torch.ones(2, 1), (0,), "k")
