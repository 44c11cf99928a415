"""The synthesis network of StyleGAN2 against the golden numbers of the published one."""

import json

import pytest
import torch
from conftest import GOLDEN, golden, golden_state

from generators.stylegan2 import StyleGAN2Synthesis

CASES = ["skip_4", "skip_16_nonoise", "skip_16_clamp", "skip_32", "skip_64"]
CASES += ["resnet_16_clamp", "orig_16"]


def golden_stylegan2(case: str):
    """The network of a golden file, its w and noise maps, the cotangent; the expected picture and
    gradients for w and the maps.
    """
    arrays = golden(f"sg2_synthesis_{case}")
    config, state = json.loads(str(arrays["config"])), golden_state(arrays)
    sizes = [2**k for k in range(2, config["resolution"].bit_length())]
    network = StyleGAN2Synthesis(
        config["resolution"],
        config["w_dim"],
        [state[f"b{size}.conv1.weight"].shape[0] for size in sizes],
        config["architecture"],
        config["conv_clamp"],
    )
    network.load_state_dict(state, strict=True)
    noise = [state[f"{layer}.noise_const"][None, None] for layer in arrays["noise_layers"]]
    expected = [arrays["image"], arrays["grad_w"]]
    expected += [arrays[f"grad_noise{i}"] for i in range(len(noise))]
    given = torch.from_numpy(arrays["w"]), noise, torch.from_numpy(arrays["cotangent"])
    return network.requires_grad_(False), given, [torch.from_numpy(each) for each in expected]


def differences(synthesize, given, expected) -> list[float]:
    """Of the picture and of each gradient: the largest over the largest magnitude, which is 0 for
    noise that has no strength.
    """
    w, noise, cotangent = given
    w, noise = w.clone().requires_grad_(), [maps.clone().requires_grad_() for maps in noise]
    image = synthesize(w, noise)
    found = [image.detach(), *torch.autograd.grad((image * cotangent).sum(), [w, *noise])]
    return [
        ((mine - theirs).abs().max() / theirs.abs().max().clamp(min=1e-30)).item()
        for mine, theirs in zip(found, expected, strict=True)
    ]


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
