"""The method against the golden numbers of PULSE's published formulas."""

import json

import numpy as np
import pytest
import torch
from conftest import GOLDEN, golden, golden_state

from bicubic import BicubicDownSample, downscaling_matrix
from loss import LossBuilder
from search_settings import LR_SCHEDULES, OPTIMISERS, lr_multiplier
from SphericalOptimizer import SphericalOptimizer
from stylegan import G_mapping, G_synthesis


def relative(found: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference over the largest magnitude."""
    return np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("case", range(5))
def test_downscaling_is_the_published_bicubic(case):
    arrays = golden("bicubic")
    down = BicubicDownSample(int(arrays[f"factor{case}"]))
    found = down(torch.from_numpy(arrays[f"x{case}"]))
    assert np.abs(found.numpy() - arrays[f"y{case}"]).max() < 1e-5


def test_downscaling_to_two_pixels_reflects_on_both_sides():
    rows = downscaling_matrix(8, 4)
    assert rows.shape == (2, 8)
    assert torch.allclose(rows.sum(1), torch.ones(2, dtype=torch.float64))
    assert torch.allclose(rows, rows.flip(0, 1))


@pytest.mark.parametrize(("size", "factor"), [(16, 3), (16, 16), (16, 0)])
def test_downscaling_that_does_not_exist_is_refused(size, factor):
    with pytest.raises(ValueError, match="cannot be downscaled"):
        downscaling_matrix(size, factor)


@pytest.mark.parametrize("resolution", [32, 256])
def test_synthesis_network_and_its_gradients(resolution):
    arrays = golden(f"synthesis_{resolution}")
    config = {key: int(arrays[key]) for key in ("dlatent_size", "fmap_base", "fmap_max")}
    network = G_synthesis(resolution=resolution, **config)
    network.load_state_dict(golden_state(arrays), strict=True)
    w = torch.from_numpy(arrays["w"]).requires_grad_()
    noise = [torch.from_numpy(arrays[f"noise{i}"]) for i in range(network.num_layers)]
    for maps in noise[:4]:
        maps.requires_grad_()
    image = network(w, noise)
    (image * torch.from_numpy(arrays["cotangent"])).sum().backward()
    assert relative(image, arrays["image"]) < 2e-3
    assert relative(w.grad, arrays["grad_w"]) < 2e-3
    for i in range(4):
        assert relative(noise[i].grad, arrays[f"grad_noise{i}"]) < 2e-3


def test_mapping_network():
    arrays = golden("mapping")
    network = G_mapping()
    i, j = np.arange(512)[:, None], np.arange(512)[None, :]
    state = {}
    for k in range(8):
        state[f"dense{k}.weight"] = 100 * np.sin(12.9898 * i + 78.233 * j + k)
        state[f"dense{k}.bias"] = 10 * np.cos(np.arange(512) + k)
    state = {key: torch.from_numpy(value.astype(np.float32)) for key, value in state.items()}
    network.load_state_dict(state, strict=True)
    assert relative(network(torch.from_numpy(arrays["z"])), arrays["w"]) < 1e-4


def test_parameters_have_the_names_and_shapes_of_the_public_files():
    manifest = json.loads((GOLDEN / "state_dict_manifest.json").read_text())
    for name, network in (("synthesis.pt", G_synthesis()), ("mapping.pt", G_mapping())):
        shapes = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
        assert shapes == manifest[name]
    assert sum(parameter.numel() for parameter in G_synthesis().parameters()) == 24_110_771
    assert sum(parameter.numel() for parameter in G_mapping().parameters()) == 2_101_248


@pytest.mark.parametrize("name", ["sgd", "adam", "sgdm", "adamax"])
def test_spherical_optimizer_over_twelve_steps(name):
    arrays = {key: torch.from_numpy(value) for key, value in golden("spherical_optimizer").items()}
    variables = [arrays[f"{name}_{part}0"].clone().requires_grad_() for part in ("latent", "noise")]
    latent, noise = variables
    optimiser = OPTIMISERS[name]
    wrapped = getattr(torch.optim, optimiser.name)
    opt = SphericalOptimizer(wrapped, variables, lr=0.4, **optimiser.options)
    for step in range(12):
        opt.zero_grad()
        distance = (latent - arrays[f"{name}_target_latent"]).square().sum()
        (distance + (noise - arrays[f"{name}_target_noise"]).abs().sum()).backward()
        opt.step()
        assert (latent - arrays[f"{name}_latent"][step]).abs().max() < 1e-4, step
        assert (noise - arrays[f"{name}_noise"][step]).abs().max() < 1e-4, step


def test_spherical_optimizer_refuses_what_has_no_rows():
    with pytest.raises(ValueError, match="no rows"):
        SphericalOptimizer(torch.optim.Adam, [torch.zeros(3, 4, requires_grad=True)], lr=0.4)


@pytest.mark.parametrize("schedule", LR_SCHEDULES)
@pytest.mark.parametrize("steps", [10, 37, 100])
def test_learning_rate_schedules(schedule, steps):
    found = [lr_multiplier(schedule, step, steps) for step in range(steps)]
    np.testing.assert_allclose(found, golden("lr_schedules")[f"{schedule}_{steps}"], atol=1e-9)


@pytest.mark.parametrize("case", range(4))
def test_loss_terms_and_gradients(case):
    arrays = golden("loss")
    small = torch.from_numpy(arrays[f"small{case}"]).requires_grad_()
    latent = torch.from_numpy(arrays[f"latent{case}"]).requires_grad_()
    HR = small.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)
    eps = float(arrays.get(f"eps{case}", 2e-3))
    ref_im = torch.from_numpy(arrays[f"ref{case}"])
    loss = LossBuilder(ref_im, str(arrays[f"loss_str{case}"]), eps)
    total, terms = loss(latent, HR)
    total.sum().backward()
    assert total.sum().item() == pytest.approx(float(arrays[f"total{case}"]), rel=1e-4)
    checked = [term for term in ("L1", "L2", "GEOCROSS") if f"{term}{case}" in arrays]
    assert checked
    for term in checked:
        expected = float(arrays[f"{term}{case}"])
        assert terms[term].sum().item() == pytest.approx(expected, rel=1e-4)
    assert relative(small.grad, arrays[f"grad_small{case}"]) < 1e-4
    assert relative(latent.grad, arrays[f"grad_latent{case}"]) < 1e-4
