"""training/search_axes.py: other coordinates of W, and the samples stay."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT, one_file, random_networks

from bicubic import BicubicDownSample
from cli.errors import UserError
from generators.formats import Networks, read_networks
from stylegan import G_mapping
from training.samples import samples
from training.search_axes import OFFSET, changed, coordinates, main, moments, sensitivity


@pytest.fixture(scope="module")
def before() -> Networks:
    """Networks whose W varies most, and moves the picture most, in directions that are no axes."""
    synthesis, mapping = random_networks(16)
    uneven = torch.logspace(0.2, -0.2, 16).diag()
    with torch.no_grad():
        mapping[-1].weight.copy_(mapping[-1].weight @ uneven)
        mapping[-1].bias.normal_(std=30)
        turn = torch.linalg.qr(torch.randn(16, 16)).Q @ uneven
        for name, parameter in synthesis.named_parameters():
            if name.endswith("lin.weight"):
                parameter.copy_(parameter @ turn @ turn.T)
    networks = Networks(synthesis, mapping, about={"name": "uneven"})
    synthesis.requires_grad_(False), mapping.requires_grad_(False)
    return networks


def correlations(C: torch.Tensor) -> torch.Tensor:
    """Of a covariance, those between two numbers; 0 on the diagonal."""
    scale = C.diagonal().sqrt()
    return C / scale.outer(scale) - torch.eye(len(C))


def test_numbers_become_uncorrelated_and_distances_changes_of_the_picture(before):
    mean, C = moments(before.mapping, 50_000)
    H = sensitivity(before, 8, 512)
    after = changed(before, mean, C, coordinates(C, H))
    new_mean, new_C = moments(after.mapping, 20_000, seed=1)
    assert correlations(C).abs().max() > 0.2
    assert correlations(new_C).abs().max() < 0.05
    assert torch.allclose(new_mean, OFFSET * new_C.diagonal().sqrt(), rtol=0.05)
    new_H = sensitivity(after, 8, 512, seed=1)
    unit = new_H / new_H.diagonal().mean()  # Euclidean: the identity, but for chance
    assert (unit - torch.eye(16)).abs().max() < 0.3
    assert (H / H.diagonal().mean() - torch.eye(16)).abs().max() > 0.5


def test_the_sensitivity_is_that_of_small_steps(before):
    """Against differences of pictures, in the direction that moves them most, and in another."""
    H = sensitivity(before, 8, 1024)
    vectors = torch.linalg.eigh(H).eigenvectors.T[[-8, -1]].float()
    random = torch.Generator().manual_seed(5)
    z = torch.randn(256, 16, generator=random)
    noise = [torch.randn(256, 1, r, r, generator=random) for r in before.synthesis.layer_sizes]
    w = before.mapping(z)[:, None].repeat(1, before.synthesis.num_layers, 1)
    downscale = BicubicDownSample(2)
    for direction in vectors:
        found = 0.0
        for layer in range(before.synthesis.num_layers):
            step = torch.zeros_like(w)
            step[:, layer] = 1e-2 * direction
            plus, minus = (downscale(before.synthesis(w + s * step, noise)) for s in (1, -1))
            found += ((plus - minus) / 2e-2).square().sum().item() / len(z)
        direction = direction.double()
        assert found == pytest.approx((direction @ H @ direction).item(), rel=0.2)


def test_what_moves_nothing_and_what_w_lacks_leave_the_coordinates_invertible():
    random = torch.Generator().manual_seed(0)
    seen, present = (
        torch.randn(16, rank, generator=random, dtype=torch.float64) for rank in (3, 10)
    )
    A = coordinates(present @ present.T, seen @ seen.T)
    assert torch.linalg.cond(A) < 1e8
    moved = (A @ present)[:3].norm() / (A @ present).norm()  # of W, by what is seen of it
    assert moved > 0.9


def test_samples_stay(before):
    mean, C = moments(before.mapping, 50_000)
    after = changed(before, mean, C, coordinates(C, sensitivity(before, 8, 64)))
    old, new = (samples(n.synthesis, n.mapping, range(32)).int() for n in (before, after))
    difference = (old - new).abs()  # of 255 levels
    assert difference.max() <= 8 and (difference > 1).float().mean() < 0.01
    assert old.float().std(dim=0).mean() > 3  # samples differ from each other by more


def test_the_command_writes_a_generator_of_the_same_samples_and_undoes_it(tmp_path, monkeypatch):
    one_file(tmp_path / "small.pt")
    command = [sys.executable, "-m", "training.search_axes", "-start", tmp_path / "small.pt"]
    command += ["-output_dir", tmp_path / "turned", "-draws", 20_000, "-prior_draws", 20_000]
    command += ["-side", 8, "-pictures", 64]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    start, written = (
        read_networks(tmp_path / name) for name in ("small.pt", "turned/generator.pt")
    )
    old, new = (samples(n.synthesis, n.mapping, range(32)).int() for n in (start, written))
    assert (old - new).abs().float().mean() < 0.2
    mean, std = written.prior
    assert torch.allclose(mean, OFFSET * std, rtol=0.05)
    assert correlations(moments(written.mapping, 20_000, seed=1)[1]).abs().max() < 0.05
    assert len(written.mapping) == len(start.mapping) + 1
    assert written.about == {**start.about, "search_axes": "for LR of 8 pixels"}
    flags = ("-undo", "-start", "turned/generator.pt", "-output_dir", "before")
    assert run_here(tmp_path, monkeypatch, *flags, "-prior_draws", 20_000) == 0
    before = read_networks(tmp_path / "before" / "generator.pt")
    assert before.about == start.about and len(before.mapping) == len(start.mapping)
    back = samples(before.synthesis, before.mapping, range(32)).int()
    assert (back - old).abs().float().mean() < 0.2
    for name, value in start.synthesis.state_dict().items():
        assert torch.allclose(before.synthesis.state_dict()[name], value, atol=0.02), name


def run_here(folder, monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["search_axes", "-side", "8", *map(str, flags)])
    monkeypatch.chdir(folder)
    return main()


def narrow(width: int) -> dict:
    """Of a mapping network of `width` numbers in its hidden layers."""
    return {"mapping": G_mapping(16, 3, hidden_size=width).state_dict()}


@pytest.mark.parametrize(
    ("changes", "flags", "said"),
    [
        ({"mapping": None}, (), "small.pt has no mapping network: give"),
        (
            {"about": {"search_axes": "for LR of 8 pixels"}},
            (),
            "already: take them away with -undo",
        ),
        ({}, ("-undo",), "there is nothing to undo"),
        (narrow(24), (), "mapping network whose layers differ in width"),
        ({}, ("-side", 16), "-side 16 must be at least 2, divide 16, and be less"),
        ({}, ("-side", 1), "-side 1 must be at least 2"),
        ({}, ("-side", 6), "-side 6 must be at least 2, divide 16"),
        ({}, ("-draws", 159), "-draws must be at least 160, not 159"),
        ({}, ("-pictures", 0), "-pictures must be at least 1, not 0"),
        ({}, ("-prior_draws", 1), "-prior_draws must be at least 2, not 1"),
    ],
)
def test_what_cannot_be_changed_is_refused(tmp_path, monkeypatch, changes, flags, said):
    path = one_file(tmp_path / "small.pt", **changes)
    with pytest.raises(UserError, match=said):
        run_here(tmp_path, monkeypatch, "-start", path, *flags)
    assert not (tmp_path / "turned").exists()


def test_a_generator_that_float16_cannot_hold_so_is_refused_and_its_own_file_kept(
    tmp_path, monkeypatch
):
    mapping = random_networks(16)[1]
    with torch.no_grad():
        mapping[-1].weight.mul_(1e-4)
    path = one_file(tmp_path / "generator.pt", mapping=mapping.state_dict())
    flags = ("-start", path, "-draws", 20_000, "-pictures", 32)
    with pytest.raises(UserError, match="generator.pt would change by .* of 255 levels: give more"):
        run_here(tmp_path, monkeypatch, *flags)
    assert not (tmp_path / "turned").exists()
    with pytest.raises(UserError, match="is the generator to start from: give another -output_dir"):
        run_here(tmp_path, monkeypatch, *flags, "-output_dir", tmp_path)
