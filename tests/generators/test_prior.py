"""The prior that the search walks on: its fit, and where it is kept."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from generators import prior
from generators.prior import cached_prior, fit_prior, tensors_sha256
from stylegan import G_mapping


def test_the_prior_is_the_fit_of_the_unfolded_mapping():
    mapping = G_mapping(16, num_layers=2)
    z = torch.randn(3200, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = F.leaky_relu(mapping(z), 5)
    mean, std = fit_prior(mapping, draws=3200, chunk=160)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(std, x.std(0, unbiased=True), rtol=1e-5, atol=1e-6)


def test_the_prior_is_kept_under_the_weights_and_for_no_other_generator(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_prior, "__defaults__", (2000, 100, 0))
    cache, cwd = tmp_path / "cache", tmp_path / "work"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    first, second = G_mapping(16, 2), G_mapping(16, 2)
    torch.save({"mean": torch.zeros(16), "std": torch.ones(16)}, cwd / "gaussian_fit.pt")
    mean, std = cached_prior(first, cache)
    assert mean.any() and not torch.equal(std, torch.ones(16))  # the old release's file is not read
    (kept,) = cache.iterdir()
    assert kept.name == f"gaussian_fit_{tensors_sha256(first.state_dict())}.pt"
    other, _ = cached_prior(second, cache)
    assert not torch.equal(other, mean)
    torch.save({"mean": mean + 1, "std": std}, kept)  # seen to be read back, not made again
    assert torch.equal(cached_prior(first, cache)[0], mean + 1)
    kept.write_bytes(b"damaged")
    assert torch.equal(cached_prior(first, cache)[0], mean)
    assert sorted(path.name for path in cwd.iterdir()) == ["gaussian_fit.pt"]


@pytest.mark.parametrize(
    "kept",
    [
        [1, 2],
        {"mean": torch.zeros(16)},
        {"mean": torch.zeros(16), "std": torch.ones(8)},
        {"mean": torch.zeros(16), "std": "ones"},
        {"mean": torch.zeros(16), "std": np.float64(1)},
    ],
    ids=["list", "std missing", "shape", "text", "not plain"],
)
def test_a_kept_prior_that_is_none_is_computed_again(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(fit_prior, "__defaults__", (160, 160, 0))
    mapping = G_mapping(16, 2)
    mean, _ = cached_prior(mapping, tmp_path)
    (path,) = tmp_path.iterdir()
    torch.save(kept, path)
    assert torch.equal(cached_prior(mapping, tmp_path)[0], mean)
    assert torch.equal(torch.load(path, weights_only=True)["mean"], mean)


def test_mistakes_while_a_kept_prior_is_looked_at_are_not_hidden(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_prior, "__defaults__", (160, 160, 0))
    mapping = G_mapping(16, 2)
    cached_prior(mapping, tmp_path)
    monkeypatch.setattr(prior, "read_prior", lambda content: content)  # takes two arguments
    with pytest.raises(TypeError):
        cached_prior(mapping, tmp_path)
