"""StyleGAN2 in files of other programs than NVIDIA's PyTorch one: TensorFlow's and rosinality's."""

import numpy as np
import pytest
import torch
from conftest import GOLDEN
from generator_files import random_stylegan2
from weight_files import EasyDict, Network, write_pickle

from cli.errors import UserError
from generators import nvidia_tensorflow, rosinality
from generators.formats import read_networks
from stylegan import G_mapping

NAMES = {"conv1": "Conv1", "conv0": "Conv0_up", "torgb": "ToRGB", "skip": "Skip"}


def tensorflow_network(synthesis, mapping, **settings) -> Network:
    """Gs of TensorFlow's StyleGAN2, with the layout of its variables."""
    variables = [("lod", np.float32(0))]
    maps = 0
    for key, tensor in synthesis.state_dict().items():
        array, (block, *inner) = tensor.numpy(), key.split(".")
        size = f"{block[1:]}x{block[1:]}"
        if inner[-1] == "resample_filter":
            continue
        if inner == ["const"]:
            variables.append(("4x4/Const/const", array[None].copy()))
            continue
        name = f"{size}/" + ("Conv" if block == "b4" and inner[0] == "conv1" else NAMES[inner[0]])
        if inner[-1] == "noise_const":
            variables.append((f"noise{maps}", array[None, None].copy()))
            maps += 1
        elif inner[1:] == ["affine", "weight"]:
            variables.append((f"{name}/mod_weight", array.T.copy()))
        elif inner[1:] == ["affine", "bias"]:
            variables.append((f"{name}/mod_bias", array - 1))
        elif inner[1:] == ["weight"]:
            turned = array[:, :, ::-1, ::-1] if inner[0] in ("conv0", "skip") else array
            variables.append((f"{name}/weight", turned.transpose(2, 3, 1, 0).copy()))
        else:
            variables.append((f"{name}/{inner[1]}", array.copy()))
    layers = []
    for i, layer in enumerate(mapping):
        layers.append((f"Dense{i}/weight", layer.weight.detach().numpy().T.copy()))
        layers.append((f"Dense{i}/bias", layer.bias.detach().numpy() / np.float32(2**0.5)))
    parts = EasyDict(
        synthesis=Network("G_synthesis_stylegan2", EasyDict(settings), variables),
        mapping=Network("G_mapping", EasyDict(), layers),
    )
    average = [("dlatent_avg", np.zeros(synthesis.dlatent_size, np.float32))]
    return Network("Gs", EasyDict(num_channels=3, label_size=0), average, parts)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_tensorflows_networks_give_the_same_pictures(tmp_path, architecture):
    synthesis = random_stylegan2(32, architecture=architecture, conv_clamp=None)
    mapping = G_mapping(16, 2).requires_grad_(False)
    Gs = tensorflow_network(synthesis, mapping, architecture=architecture)
    networks = read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))
    w = torch.randn(2, synthesis.num_layers, 16)
    noise = [torch.randn(2, 1, r, r) for r in synthesis.noise_sizes]
    expected = synthesis(w, noise)
    assert (networks.synthesis(w, noise) - expected).abs().max() < 1e-5 * expected.abs().max()
    z = torch.randn(3, 16)
    torch.testing.assert_close(networks.mapping(z), mapping(z), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "setting",
    [
        {"resample_kernel": [1, 2, 1]},
        {"nonlinearity": "relu"},
        {"architecture": "resnet"},
        {"label_size": 10},
        {"mapping_lrmul": 0.1},
    ],
)
def test_tensorflows_other_settings_are_refused_by_name(tmp_path, setting):
    Gs = tensorflow_network(random_stylegan2(16), G_mapping(16, 2))
    Gs.state["static_kwargs"].update(setting)
    with pytest.raises(UserError, match=next(iter(setting))):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))


def test_tensorflows_configurations_a_to_d_are_refused_by_name(tmp_path):
    Gs = tensorflow_network(random_stylegan2(16), G_mapping(16, 2))
    variables = Gs.state["components"]["synthesis"].state["variables"]
    variables.append(("ToRGB_lod0/weight", np.zeros((1, 1, 8, 3), np.float32)))
    with pytest.raises(UserError, match="configuration A to D"):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))
    assert nvidia_tensorflow.REQUIRED["label_size"] == 0


@pytest.fixture
def g_ema() -> dict:
    content = torch.load(GOLDEN / "rosinality_tiny.pt", weights_only=True)
    return content["g_ema"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_rosinalitys_state_dict_alone_is_read(tmp_path, g_ema, prefix):
    torch.save({prefix + key: tensor for key, tensor in g_ema.items()}, tmp_path / "g.pt")
    alone = read_networks(tmp_path / "g.pt").synthesis.state_dict()
    whole = read_networks(GOLDEN / "rosinality_tiny.pt").synthesis.state_dict()
    assert all(torch.equal(alone[key], tensor) for key, tensor in whole.items())
    nested = {"g_ema": {f"module.{key}": tensor for key, tensor in g_ema.items()}, "g": {}}
    torch.save(nested, tmp_path / "nested.pt")
    assert read_networks(tmp_path / "nested.pt").origin == "rosinality"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.update({"to_rgbs.0.iwt.ll": torch.ones(2, 2)}), "a SWAGAN"),
        (lambda state: state["convs.0.conv.blur.kernel"].mul_(2), "another blur_kernel"),
        (lambda state: state.update({"convs.0.other": torch.ones(1)}), "unknown key convs.0.other"),
        (lambda state: state.update({"noises.noise_0": torch.ones(2, 1, 4, 4)}), r"noise_0 is \(2"),
        (lambda state: state.pop("convs.3.conv.weight"), "b16.conv1.weight is missing"),
    ],
)
def test_rosinalitys_other_networks_are_refused_by_name(tmp_path, g_ema, change, words):
    change(g_ema)
    assert rosinality.recognises({"g_ema": g_ema})
    torch.save({"g_ema": g_ema}, tmp_path / "g.pt")
    with pytest.raises(UserError, match=words) as caught:
        read_networks(tmp_path / "g.pt")
    assert "\n" not in str(caught.value)
