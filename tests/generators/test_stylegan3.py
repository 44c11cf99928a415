"""StyleGAN3's synthesis network against the golden numbers of the published programs."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import GOLDEN, ROOT, golden, golden_state
from stylegan3_networks import GOLDEN_STYLEGAN3, golden_stylegan3, random_stylegan3

from generators.stylegan3 import (
    StyleGAN3Synthesis,
    convolution_products,
    downsample,
    filter_products,
    upsample,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference over the largest magnitude."""
    return np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("name", GOLDEN_STYLEGAN3)
def test_golden_picture_and_gradient(name):
    network, arrays = golden_stylegan3(name)
    w = torch.from_numpy(arrays["w"]).requires_grad_()
    assert relative(network.input(w[:, 0]), arrays["fourier"]) < 1e-5
    image = network(w, [])
    (image * torch.from_numpy(arrays["cotangent"])).sum().backward()
    assert relative(image, arrays["image"]) < 1e-5
    assert relative(w.grad, arrays["grad_w"]) < 1e-5


def test_a_picture_does_not_depend_on_its_neighbours():
    network = random_stylegan3(32)
    w = torch.randn(3, network.num_layers, 16)
    together = network(w)
    for i in range(3):
        assert relative(network(w[i : i + 1]), together[i : i + 1].detach().numpy()) < 1e-5


def test_magnitudes_and_clamps_change_the_picture():
    """Both are part of the function, and 1 and 256 in most random networks."""
    w = torch.randn(1, 16, 16)
    plain = random_stylegan3(32)(w)
    of_magnitudes = random_stylegan3(32, seed=0)
    of_magnitudes.L3_36_8.magnitude_ema.fill_(4.0)
    clamped = random_stylegan3(32, conv_clamp=0.5)
    assert relative(of_magnitudes(w), plain.detach().numpy()) > 1e-2
    assert relative(clamped(w), plain.detach().numpy()) > 1e-2
    assert clamped(w).abs().max() <= 0.5 * 0.25


@pytest.mark.parametrize(
    ("up", "taps", "padding"),
    [
        (2, 12, (9, 8, 9, 8)),
        (4, 24, (-6, -9, -6, -9)),
        (2, 12, (-3, 14, 11, -2)),
        (1, 6, (2, 3, 0, 1)),
    ],
)
def test_upsampling_is_that_of_inserted_zeros(up, taps, padding):
    torch.manual_seed(0)
    x, half = torch.randn(2, 3, 17, 19).double(), torch.rand(taps // 2).double()
    f = torch.cat([half, half.flip(0)])
    full = torch.zeros(2, 3, 17 * up, 19 * up).double()
    full[:, :, ::up, ::up] = x * up**2
    expected = F.pad(full, padding)
    for kernel in (f.view(1, 1, -1, 1), f.view(1, 1, 1, -1)):
        expected = F.conv2d(expected, kernel.expand(3, *kernel.shape[1:]), groups=3)
    found = upsample(x, f, up, padding)
    assert found.shape == expected.shape and torch.allclose(found, expected)


@pytest.mark.parametrize("down", [2, 4])
def test_downsampling_keeps_every_so_manyeth_sample(down):
    x, f = torch.randn(1, 2, 40, 42).double(), torch.rand(6 * down).double()
    both = downsample(x, f, down)
    assert torch.allclose(both, downsample(x, torch.outer(f, f), down))
    one = (x[:, :, : len(f), down : down + len(f)] * torch.outer(f, f)).sum((2, 3))
    assert torch.allclose(both[:, :, 0, 1], one)


def test_published_networks_have_these_names_shapes_and_products():
    """Names, shapes and multiply-adds of the published files."""
    manifest = json.loads((GOLDEN / "stylegan3_manifest.json").read_text())
    assert len(manifest) == 6
    for name, entry in manifest.items():
        family, _, resolution = name.rpartition("-")
        twice = 2 if family == "stylegan3-r" else 1
        base = twice * (16384 if resolution == "256" else 32768)
        with torch.device("meta"):
            network = StyleGAN3Synthesis(int(resolution), family, 512, base, 512 * twice)
        shapes = {key: list(value.shape) for key, value in network.state_dict().items()}
        assert shapes == entry["state"]
        assert sum(p.numel() for p in network.parameters()) == entry["parameters_synthesis"]
        assert network.num_layers == entry["num_ws"] and network.noise_sizes == []
        filters = sum(map(filter_products, network.layouts))
        convolutions = sum(map(convolution_products, network.layouts))
        billions = {
            "stylegan3-t-1024": (285.2, 22.3),
            "stylegan3-r-1024": (123.8, 98.3),
            "stylegan3-t-256": (105.0, 4.0),
            "stylegan3-r-256": (44.5, 17.9),
        }.get(name, (convolutions / 1e9, filters / 1e9))
        assert (convolutions / 1e9, filters / 1e9) == pytest.approx(billions, abs=0.06)
        assert network.multiply_adds > convolutions + filters


def test_state_of_a_golden_network_is_all_that_it_has():
    network, arrays = golden_stylegan3("sg3r_synthesis_32")
    assert set(network.state_dict()) == set(golden_state(golden("sg3r_synthesis_32")))
    assert StyleGAN3Synthesis(**network.config).state_dict().keys() == network.state_dict().keys()


@pytest.mark.skipif(
    tuple(map(int, torch.__version__.split(".")[:2])) < (2, 6),
    reason="PyTorch 2.5 imports sympy for any tensor without numbers",
)
def test_a_network_without_numbers_is_made_at_once():
    """Reading a file begins with one, and some operations import sympy for it, two seconds."""
    code = (
        "import sys, torch; from generators.stylegan3 import StyleGAN3Synthesis\n"
        "before = set(sys.modules)\n"
        "with torch.device('meta'): StyleGAN3Synthesis()\n"
        "print('sympy' in set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
