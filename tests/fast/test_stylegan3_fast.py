"""The fast form of StyleGAN3 against the plain network, and against the golden files."""

import pytest
import torch
from forms import relative
from stylegan3_networks import GOLDEN_STYLEGAN3, golden_stylegan3, random_stylegan3

from fast import stylegan3_cpu
from fast.stylegan3 import FastStyleGAN3
from fast.stylegan3_kernels import TorchStyleGAN3Kernels

pytestmark = pytest.mark.usefixtures("one_thread")
FORMS = ["eager", "compiled"]


@pytest.fixture(scope="session")
def stylegan3_kernels(c_cache) -> dict:
    """Both forms of the kernels, and the compiled one for bfloat16."""
    found = {"eager": TorchStyleGAN3Kernels()}
    for name, dtype in (("compiled", torch.float32), ("compiled bfloat16", torch.bfloat16)):
        found[name], reason = stylegan3_cpu.load(c_cache, dtype)
        assert found[name] is not None, f"CI has a C compiler, and here it is missing: {reason}"
    return found


def picture_and_gradient(synthesize, w, cotangent) -> tuple[torch.Tensor, torch.Tensor]:
    w = w.clone().requires_grad_()
    picture = synthesize(w, [])
    (picture * cotangent).sum().backward()
    return picture.detach(), w.grad


def drawn(network, B: int) -> tuple[torch.Tensor, torch.Tensor]:
    """w and a cotangent for B pictures."""
    torch.manual_seed(1)
    S = network.resolution
    return torch.randn(B, network.num_layers, network.dlatent_size), torch.randn(B, 3, S, S)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", GOLDEN_STYLEGAN3)
def test_golden_picture_and_gradient(stylegan3_kernels, form, name):
    network, arrays = golden_stylegan3(name)
    fast = FastStyleGAN3(network, stylegan3_kernels[form])
    assert fast.formulation == form
    w, cotangent = (torch.from_numpy(arrays[key]) for key in ("w", "cotangent"))
    image, grad = picture_and_gradient(fast, w, cotangent)
    assert image.is_contiguous() and image.dtype == torch.float32
    assert relative(image, torch.from_numpy(arrays["image"])) < 1e-5
    assert relative(grad, torch.from_numpy(arrays["grad_w"])) < 1e-5


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("family", "config"),
    [
        ("stylegan3-t", {"resolution": 256, "depth": 4, "channel_base": 1024, "channel_max": 3}),
        ("stylegan3-r", {"resolution": 128, "depth": 4, "channel_base": 512, "channel_max": 3}),
        ("stylegan3-r", {"resolution": 32, "depth": 6, "channel_base": 512, "channel_max": 20}),
        ("stylegan3-r", {"resolution": 64, "depth": 3, "num_critical": 0, "margin_size": 0}),
        ("stylegan3-t", {"resolution": 16, "conv_clamp": float("inf")}),
        ("stylegan3-r", {"resolution": 32, "conv_clamp": 0.3}),
    ],
)
def test_picture_and_gradient_are_those_of_the_plain_network(
    stylegan3_kernels, form, family, config
):
    network = random_stylegan3(family=family, **config)
    w, cotangent = drawn(network, 2)
    found = picture_and_gradient(FastStyleGAN3(network, stylegan3_kernels[form]), w, cotangent)
    exact = picture_and_gradient(network.double(), w.double(), cotangent.double())
    assert relative(found[0], exact[0]) < 1e-4
    assert relative(found[1], exact[1]) < 1e-4


@pytest.mark.parametrize("form", FORMS)
def test_a_picture_is_the_same_with_and_without_gradients_and_neighbours(stylegan3_kernels, form):
    network = random_stylegan3(32)
    fast = FastStyleGAN3(network, stylegan3_kernels[form])
    w, _ = drawn(network, 3)
    with torch.no_grad():
        alone = fast(w[:1])
    assert torch.equal(alone, fast(w[:1].clone().requires_grad_()).detach())
    assert relative(fast(w)[:1], alone) < 1e-5


def test_a_picture_does_not_depend_on_the_number_of_threads(stylegan3_kernels):
    network = random_stylegan3(64, "stylegan3-r", channel_max=40)
    fast, found = FastStyleGAN3(network, stylegan3_kernels["compiled"]), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        found.append(picture_and_gradient(fast, *drawn(network, 1)))
    for other in found[1:]:
        assert all(torch.equal(*pair) for pair in zip(found[0], other, strict=True))


@pytest.mark.parametrize("form", ["eager", "compiled bfloat16"])
@pytest.mark.parametrize("family", ["stylegan3-t", "stylegan3-r"])
def test_bfloat16_is_near_float32_and_keeps_the_search_in_float32(stylegan3_kernels, form, family):
    network = random_stylegan3(64, family, channel_max=24)
    w, cotangent = drawn(network, 1)
    expected = picture_and_gradient(network, w, cotangent)
    fast = FastStyleGAN3(network, stylegan3_kernels[form], "bfloat16")
    found = picture_and_gradient(fast, w, cotangent)
    assert all(part.dtype == torch.float32 for part in found)
    assert 1e-5 < (found[0] - expected[0]).norm() / expected[0].norm() < 0.1
    assert torch.cosine_similarity(found[1].flatten(), expected[1].flatten(), dim=0) > 0.95


def test_later_changes_of_the_network_are_not_seen(stylegan3_kernels):
    network = random_stylegan3(16)
    fast, (w, _) = FastStyleGAN3(network, stylegan3_kernels["eager"]), drawn(network, 1)
    before = fast(w)
    for tensor in network.state_dict().values():
        tensor.add_(0.1)
    assert torch.equal(before, fast(w)) and not torch.equal(before, network(w))


def test_a_channel_that_no_w_moves_has_a_gradient_of_zero(stylegan3_kernels):
    network = random_stylegan3(16)
    affine = network.layers[2].affine
    affine.weight[0], affine.bias[0] = 0.0, 0.0
    w, cotangent = drawn(network, 1)
    found = picture_and_gradient(
        FastStyleGAN3(network, stylegan3_kernels["compiled"]), w, cotangent
    )
    exact = picture_and_gradient(network.double(), w.double(), cotangent.double())
    assert found[1].isfinite().all() and relative(found[1], exact[1]) < 1e-4
