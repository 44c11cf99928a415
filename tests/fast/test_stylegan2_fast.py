"""The fast form of StyleGAN2 against the golden numbers and against the plain network."""

import pytest
import torch
from forms import picture_and_gradients, relative
from stylegan2_networks import CASES, as_on_cuda, differences, golden_stylegan2

from fast import stylegan2_cpu
from fast.stylegan2 import TINY, FastStyleGAN2
from fast.stylegan2_kernels import TorchStyleGAN2Kernels
from generators.stylegan2 import StyleGAN2Synthesis

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="session")
def kernels(c_cache) -> dict:
    """Eager, compiled for float32 and compiled for bfloat16."""
    found = {"eager": TorchStyleGAN2Kernels()}
    for name, dtype in (("compiled", torch.float32), ("compiled bfloat16", torch.bfloat16)):
        found[name], reason = stylegan2_cpu.load(c_cache, dtype)
        assert found[name] is not None, f"CI has a C compiler, and here it is missing: {reason}"
    return found


def random_network(resolution: int, channels: int = 24, **config) -> StyleGAN2Synthesis:
    """With noise, biases and scales of either sign; where there is a clamp, it acts."""
    torch.manual_seed(resolution)
    numbers = [channels] * (resolution.bit_length() - 2)
    network = StyleGAN2Synthesis(resolution, 16, numbers, **config).requires_grad_(False)
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            parameter.fill_(0.3)
        if name.endswith("bias"):
            parameter.add_(0.3 * torch.randn_like(parameter))
        if name.endswith("affine.weight"):
            parameter.mul_(3)
    return network


def inputs(network: StyleGAN2Synthesis, batch: int) -> tuple:
    """w, noise and a cotangent."""
    torch.manual_seed(batch)
    w = torch.randn(batch, network.num_layers, 16)
    noise = [torch.randn(batch, 1, r, r) for r in network.noise_sizes]
    return w, noise, torch.randn(batch, 3, network.resolution, network.resolution)


@pytest.mark.parametrize("form", ["eager", "compiled", "as on CUDA"])
@pytest.mark.parametrize("case", CASES)
def test_golden_pictures_and_gradients(kernels, form, case):
    network, given, expected = golden_stylegan2(case)
    if form == "as on CUDA":
        fast = as_on_cuda(FastStyleGAN2(network, kernels["eager"]))
    else:
        fast = FastStyleGAN2(network, kernels[form])
    assert max(differences(fast, given, expected)) < 1e-5


@pytest.mark.parametrize("form", ["eager", "compiled"])
@pytest.mark.parametrize(
    ("resolution", "batch", "config"),
    [
        (4, 2, {}),
        (8, 1, {"use_noise": False}),
        (64, 2, {"conv_clamp": 1.0}),
        (32, 3, {"architecture": "resnet", "conv_clamp": 2.0}),
        (16, 2, {"architecture": "orig", "channels": 7}),
    ],
)
def test_picture_and_gradients_are_those_of_the_plain_network(
    kernels, form, resolution, batch, config
):
    network = random_network(resolution, **config)
    w, noise, cotangent = inputs(network, batch)
    found = picture_and_gradients(FastStyleGAN2(network, kernels[form]), w, noise, cotangent)
    exact = picture_and_gradients(
        network.double(), w.double(), [maps.double() for maps in noise], cotangent.double()
    )
    assert len(found) == 2 + len(network.noise_sizes)
    for mine, theirs in zip(found, exact, strict=True):
        assert relative(mine, theirs) < 1e-4  # LeakyReLU has a kink, and the clamp


@pytest.mark.parametrize("form", ["eager", "compiled"])
def test_channels_of_scale_zero_are_no_exception(kernels, form):
    network = random_network(16)
    for name, parameter in network.named_parameters():
        if name.endswith(("affine.weight", "affine.bias")):
            parameter[::3] = 0
    w, noise, cotangent = inputs(network, 2)
    fast = FastStyleGAN2(network, kernels[form])
    assert fast.blocks[0][0][0].style(w[:, 0]).abs().min() >= TINY
    found = picture_and_gradients(fast, w, noise, cotangent)
    expected = picture_and_gradients(network, w, noise, cotangent)
    for mine, theirs in zip(found, expected, strict=True):
        assert relative(mine, theirs) < 1e-4


@pytest.mark.parametrize("form", ["eager", "compiled"])
@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_a_picture_is_the_same_with_and_without_gradients_and_neighbours(
    kernels, form, architecture
):
    network = random_network(32, architecture=architecture)
    fast = FastStyleGAN2(network, kernels[form])
    w, noise, _ = inputs(network, 3)
    with torch.no_grad():
        pictures = fast(w, noise)
    assert torch.equal(pictures, fast(w.requires_grad_(), noise).detach())
    alone = fast(w[1:2], [maps[1:2] for maps in noise]).detach()
    assert relative(alone, pictures[1:2]) < 1e-6
    shared = fast(w, [maps[1:2] for maps in noise]).detach()  # one map for all
    assert relative(shared[1:2], alone) < 1e-6


@pytest.mark.parametrize("form", ["eager", "compiled bfloat16"])
@pytest.mark.parametrize("architecture", ["skip", "resnet"])
def test_bfloat16_is_near_float32_and_keeps_the_search_in_float32(kernels, form, architecture):
    network = random_network(32, architecture=architecture, conv_clamp=256)
    fast = FastStyleGAN2(network, kernels[form], "bfloat16")
    w, noise, cotangent = inputs(network, 1)
    found = picture_and_gradients(fast, w, noise, cotangent)
    expected = picture_and_gradients(network, w, noise, cotangent)
    assert all(part.dtype == torch.float32 for part in found)
    assert 1e-5 < relative(found[0], expected[0]) < 0.1
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.95


def test_only_the_noise_maps_may_ask_for_a_gradient(kernels):
    network = random_network(16)
    w, noise, cotangent = inputs(network, 1)
    found = []
    for synthesize in (network, FastStyleGAN2(network, kernels["compiled"])):
        maps = [each.clone().requires_grad_(i == 1) for i, each in enumerate(noise)]
        (synthesize(w, maps) * cotangent).sum().backward()
        assert [each.grad is not None for each in maps] == [i == 1 for i in range(len(maps))]
        found.append(maps[1].grad)
    assert relative(*found) < 1e-5
