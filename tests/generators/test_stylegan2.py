"""The synthesis network of StyleGAN2 against the golden numbers of the published one."""

import json

import pytest
import torch
from conftest import GOLDEN
from stylegan2_networks import CASES, differences, golden_stylegan2

from generators.stylegan2 import StyleGAN2Synthesis


@pytest.mark.parametrize("case", CASES)
def test_pictures_and_gradients_are_those_of_the_published_network(case):
    assert max(differences(*golden_stylegan2(case))) < 1e-5


@pytest.mark.parametrize("case", ["skip_16_clamp", "resnet_16_clamp"])
def test_the_clamps_of_the_golden_networks_act(case):
    network, given, expected = golden_stylegan2(case)
    free = StyleGAN2Synthesis(**{**network.config, "conv_clamp": None})
    free.load_state_dict(network.state_dict())
    assert min(differences(free.requires_grad_(False), given, expected)) > 1e-3


def test_names_shapes_and_parameters_are_those_of_the_public_files():
    manifest = json.loads((GOLDEN / "sg2_manifest.json").read_text())
    assert len(manifest) == 4
    for expected in manifest.values():
        weights = {key: shape for key, shape in expected["state"].items() if key.count("conv1.w")}
        channels = [shape[0] for shape in weights.values()]
        with torch.device("meta"):
            network = StyleGAN2Synthesis(2 ** (len(channels) + 1), channels=channels)
        shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
        assert shapes == expected["state"]
        assert sum(each.numel() for each in network.parameters()) == expected["parameters"]


def test_layers_and_noise_maps_and_arithmetic_are_those_of_the_1024_layout():
    with torch.device("meta"):
        network = StyleGAN2Synthesis(1024)
    assert network.num_layers == 18 and len(network.noise_sizes) == 17
    assert network.noise_sizes == [2 ** ((i + 1) // 2 + 2) for i in range(17)]
    assert network.multiply_adds == pytest.approx(74.3e9, rel=0.001)


def test_without_noise_there_are_no_maps_and_no_strengths():
    torch.manual_seed(0)
    plain = StyleGAN2Synthesis(8, 16, [8, 8], use_noise=False)
    assert plain.noise_sizes == [] and not any("noise" in key for key in plain.state_dict())
    noisy = StyleGAN2Synthesis(8, 16, [8, 8])  # of strength 0
    noisy.load_state_dict(plain.state_dict(), strict=False)
    w, noise = torch.randn(2, 4, 16), [torch.randn(2, 1, r, r) for r in noisy.noise_sizes]
    assert torch.equal(plain(w, []), noisy(w, noise))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"resolution": 12}, "power of two"),
        ({"resolution": 2}, "power of two"),
        ({"channels": [8, 8]}, "need 3 numbers"),
        ({"channels": [8, 0, 8]}, "need 3 numbers"),
        ({"architecture": "dense"}, "architecture"),
    ],
)
def test_what_does_not_exist_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        StyleGAN2Synthesis(**{"resolution": 16, "channels": [8, 8, 8], **wrong})
