"""The fast form of the synthesis network against the plain one, and against the golden files."""

import numpy as np
import pytest
import torch
from conftest import golden, golden_state, random_networks
from forms import every_form, golden_search, picture_and_gradients, relative

from fast.choose import FastForms
from fast.synthesis import FastSynthesis
from stylegan import G_synthesis


@pytest.fixture(scope="session")
def kernels(c_cache):
    """Both forms of what lies between convolutions, and the compiled one for bfloat16."""
    return every_form(c_cache)


@pytest.mark.parametrize("form", ["eager", "compiled"])
@pytest.mark.parametrize(("resolution", "batch"), [(8, 1), (16, 3), (64, 2)])
def test_picture_and_all_gradients_are_those_of_the_plain_network(kernels, form, resolution, batch):
    synthesis, _ = random_networks(resolution, fmap_base=512, fmap_max=24)
    synthesis.requires_grad_(False)
    torch.manual_seed(1)
    w = torch.randn(batch, synthesis.num_layers, 16)
    noise = [torch.randn(batch, 1, r, r) for r in synthesis.layer_sizes]
    cotangent = torch.randn(batch, 3, resolution, resolution)
    fast = FastSynthesis(synthesis, kernels[form])
    found = picture_and_gradients(fast, w, noise, cotangent)
    exact = picture_and_gradients(
        synthesis.double(), w.double(), [maps.double() for maps in noise], cotangent.double()
    )
    for mine, theirs in zip(found, exact, strict=True):
        assert relative(mine, theirs) < 2e-3  # that of the golden files: LeakyReLU has a kink


@pytest.mark.parametrize("form", ["eager", "compiled"])
@pytest.mark.parametrize("resolution", [32, 256])
def test_golden_network_and_its_gradients(kernels, form, resolution):
    arrays = golden(f"synthesis_{resolution}")
    config = {key: int(arrays[key]) for key in ("dlatent_size", "fmap_base", "fmap_max")}
    network = G_synthesis(resolution=resolution, **config).requires_grad_(False)
    network.load_state_dict(golden_state(arrays), strict=True)
    fast = FastSynthesis(network, kernels[form])
    noise = [torch.from_numpy(arrays[f"noise{i}"]) for i in range(network.num_layers)]
    found = picture_and_gradients(
        fast, torch.from_numpy(arrays["w"]), noise, torch.from_numpy(arrays["cotangent"])
    )
    names = ["image", "grad_w", *(f"grad_noise{i}" for i in range(4))]
    for name, mine in zip(names, found, strict=False):
        assert relative(mine, torch.from_numpy(arrays[name])) < 2e-3, name


@pytest.mark.parametrize("form", ["eager", "compiled"])
def test_a_channel_that_is_nearly_constant_loses_nothing(kernels, form):
    synthesis, _ = random_networks(8)
    synthesis.requires_grad_(False)
    for block in synthesis.blocks.values():
        block.epi1.noise.weight.mul_(1e-3)  # variance far below the mean's square
    torch.manual_seed(1)
    w = torch.randn(1, synthesis.num_layers, 16)
    noise = [torch.randn(1, 1, r, r) for r in synthesis.layer_sizes]
    cotangent = torch.randn(1, 3, 8, 8)
    found = picture_and_gradients(FastSynthesis(synthesis, kernels[form]), w, noise, cotangent)
    exact = picture_and_gradients(
        synthesis.double(), w.double(), [maps.double() for maps in noise], cotangent.double()
    )
    for mine, theirs in zip(found, exact, strict=True):
        assert relative(mine, theirs) < 2e-3


@pytest.mark.parametrize("form", ["eager", "compiled"])
def test_a_picture_is_the_same_with_and_without_gradients_and_neighbours(kernels, form):
    synthesis, _ = random_networks(32)
    fast = FastSynthesis(synthesis.requires_grad_(False), kernels[form])
    torch.manual_seed(1)
    w = torch.randn(1, synthesis.num_layers, 16)
    noise = [torch.randn(1, 1, r, r) for r in synthesis.layer_sizes]
    with torch.no_grad():
        picture = fast(w, noise)
    assert torch.equal(picture, fast(w.requires_grad_(), noise).detach())


@pytest.mark.parametrize("compile", ["off", "on"])
def test_golden_search_holds_on_the_fast_path(tmp_path, c_cache, compile):
    rows, LR, model, arrays = golden_search(tmp_path, c_cache, compile, 0.03)
    assert model.formulation == {"off": "eager", "on": "compiled"}[compile]
    np.testing.assert_allclose(rows, arrays["slow_trajectory_total_l2_geocross"], rtol=0.05)
    assert np.abs(LR.numpy() - arrays["slow_LR_best"]).mean() < 0.02


@pytest.mark.parametrize("compile", ["off", "on"])
def test_golden_search_at_the_published_learning_rate_begins_alike(tmp_path, c_cache, compile):
    rows, *_, arrays = golden_search(tmp_path, c_cache, compile, 0.4, steps=5)
    expected = arrays["trajectory_total_l2_geocross"]
    np.testing.assert_allclose(rows[:3], expected[:3], rtol=1e-3)
    np.testing.assert_allclose(rows[3:5], expected[3:5], rtol=5e-3)


@pytest.mark.parametrize("compile", ["off", "on"])
def test_bfloat16_is_near_float32_and_keeps_the_search_in_float32(c_cache, monkeypatch, compile):
    synthesis, _ = random_networks(32)
    synthesis.requires_grad_(False)
    monkeypatch.setattr("fast.precision.has_bfloat16", lambda: True)
    fast = FastForms(synthesis, c_cache, compile, "bfloat16").choose(1)
    assert fast.formulation == {"off": "eager", "on": "compiled"}[compile]
    torch.manual_seed(1)
    w = torch.randn(1, synthesis.num_layers, 16)
    noise = [torch.randn(1, 1, r, r) for r in synthesis.layer_sizes]
    cotangent = torch.randn(1, 3, 32, 32)
    found = picture_and_gradients(fast, w, noise, cotangent)
    expected = picture_and_gradients(synthesis, w, noise, cotangent)
    assert all(part.dtype == torch.float32 for part in found)
    error = (found[0] - expected[0]).norm() / expected[0].norm()
    assert 1e-5 < error < 0.1
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.95
