"""What the search knows of a generator beforehand: of a linear one it is known what it must be."""

import contextlib
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, one_file, random_networks

from bicubic import BicubicDownSample
from cli.signals import Stopped, stopping_on_signals
from generators import fit as fits
from generators.fit import PIXEL_VARIANCE, cached_fit, fit_generator
from generators.prior import fit_prior
from PULSE import PULSE
from search_settings import Settings
from SphericalOptimizer import row_norm

pytestmark = pytest.mark.usefixtures("one_thread")

L, D, S = 3, 6, 4


def linear(seed: int = 0) -> SimpleNamespace:
    """A generator whose picture is the sum of a matrix times each layer's latent and of one times
    its first noise map.
    """
    random = torch.Generator().manual_seed(seed)
    A = 0.3 * torch.randn(L, 3 * S * S, D, generator=random)
    N = 0.5 * torch.randn(3 * S * S, S * S, generator=random)

    def synthesize(w, noise):
        x = torch.einsum("lxd,bld->bx", A, w) + noise[0].flatten(1) @ N.T
        return x.view(-1, 3, S, S)

    return SimpleNamespace(
        A=A / 2, N=N / 2, synthesize=synthesize, noise_sizes=[S] * L, mean=torch.zeros(D),
        num_layers=L, dlatent_size=D, resolution=S, w_of=lambda v: v, sha256="linear",
    )  # fmt: skip


def test_of_a_linear_generator_the_gain_is_that_of_bayes():
    generator = linear()
    fit = fit_generator(generator, generator.synthesize, S, progress=False)
    A = generator.A.sum(0).double()  # of one latent for all layers
    N = generator.N.double()
    C = A @ A.T + N @ N.T + PIXEL_VARIANCE * torch.eye(len(A), dtype=A.dtype)
    expected = torch.linalg.solve(C, A).T
    error = (fit.gain.double() - expected).norm() / expected.norm()
    assert error < 0.25  # of a sample of 1000


def test_of_a_linear_generator_the_curvature_is_the_jacobians():
    generator = linear()
    fit = fit_generator(generator, generator.synthesize, S, progress=False)
    found = torch.einsum("nli,nlj->lij", fit.gradients, fit.gradients) / len(fit.gradients)
    expected = generator.A.mT @ generator.A
    assert (found - expected).norm() / expected.norm() < 0.25
    assert fit.noise[0].item() == pytest.approx(generator.N.square().sum(0).mean().item(), rel=0.1)
    assert fit.noise[1:].tolist() == [0, 0]


@pytest.mark.parametrize("rows", [L, 1])
def test_the_preconditioner_undoes_the_curvature(rows):
    generator = linear()
    fit = fit_generator(generator, generator.synthesize, S, progress=False)
    A = generator.A if rows == L else generator.A.sum(0, keepdim=True)
    hessian = A.mT @ A + PIXEL_VARIANCE * torch.eye(D)
    v = torch.randn(2, rows, D, generator=torch.Generator().manual_seed(1))
    maps = torch.ones(2, 1, S, S)
    step, noise = fit.preconditioner(rows, [0])([torch.einsum("lij,blj->bli", hessian, v), maps])
    assert (step - v).norm() / v.norm() < 0.5
    assert torch.allclose(noise, maps * noise[0, 0, 0, 0]) and noise.max() < 10


def test_the_curvature_is_inverted_once_not_for_every_search(monkeypatch):
    generator = linear()
    fit = fit_generator(generator, generator.synthesize, S, progress=False)
    inverted, inv = [], torch.linalg.inv
    monkeypatch.setattr(torch.linalg, "inv", lambda x: inverted.append(x.shape) or inv(x))
    gradients = [torch.ones(2, L, D), torch.ones(2, 1, S, S)]
    first, again = (fit.preconditioner(L, [0])(gradients) for _ in range(2))
    assert inverted == [(D, D)] * L and torch.equal(first[0], again[0])
    fit.preconditioner(1, [])
    assert inverted == [(D, D)] * (L + 1)


def test_curvatures_are_inverted_in_the_threads_that_a_run_sets():
    """In a process of its own: where MKL hangs, only that one does."""
    code = """if True:
        import torch
        from generators.fit import _inverse_curvature
        torch.set_num_threads(2)
        g = torch.randn(600, 10, 512, generator=torch.Generator().manual_seed(0))
        inverse = _inverse_curvature(g).double()
        curvature = torch.einsum("nli,nlj->lij", g, g).double() / 600 + 2e-3 * torch.eye(512)
        assert (inverse @ curvature - torch.eye(512)).abs().max() < 1e-2
    """
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def few(monkeypatch):
    monkeypatch.setattr(fits, "PICTURES", 300)
    monkeypatch.setattr(fits, "GRADIENTS", 60)


@pytest.mark.parametrize("side", [4, 8])
def test_a_corrected_start_is_closer_keeps_its_norm_and_its_seed_counts(tiny, monkeypatch, side):
    few(monkeypatch)
    generator = PULSE(tiny, device="cpu").generator
    synthesize = generator.synthesis
    fit = fit_generator(generator, synthesize, min(side, 4), progress=False)
    random = torch.Generator().manual_seed(3)
    noise = [torch.randn(8, 1, r, r, generator=random) for r in synthesize.layer_sizes]
    v = torch.randn(8, 1, generator.dlatent_size, generator=random)
    down = BicubicDownSample(16 // side)

    def LR_of(v):
        w = generator.w_of(v).expand(-1, generator.num_layers, -1)
        return down(synthesize(w, noise) / 2 + 0.5)

    with torch.no_grad():
        other = torch.randn(1, 1, generator.dlatent_size, generator=random)
        LR = LR_of(other.expand(8, -1, -1))
        start = fit.start(generator, synthesize, LR, v, noise)
        before, after = ((LR_of(each) - LR).square().mean() for each in (v, start))
    assert after < 0.7 * before
    assert torch.allclose(row_norm(start), row_norm(v), rtol=1e-4)
    assert torch.cdist(start[:, 0], start[:, 0])[~torch.eye(8, dtype=torch.bool)].min() > 0.1


def test_a_fit_is_made_once_and_again_where_it_is_damaged(tmp_path, monkeypatch):
    few(monkeypatch)
    generator = linear()
    made = []
    monkeypatch.setattr(
        fits, "fit_generator", lambda *a, **k: made.append(1) or fit_generator(*a, **k)
    )

    def cached(by="cpu"):
        return cached_fit(generator, generator.synthesize, S, tmp_path, by, progress=False)

    first, again = cached(), cached()
    assert len(made) == 1 and torch.equal(first.gain, again.gain)
    (file,) = tmp_path.iterdir()
    file.write_bytes(b"damaged")
    assert torch.equal(cached().gain, first.gain) and len(made) == 2
    cached("cuda")
    assert len(made) == 3 and len(list(tmp_path.iterdir())) == 2


def test_a_fit_that_cannot_be_kept_is_used_all_the_same(tmp_path, monkeypatch, caplog):
    few(monkeypatch)
    (tmp_path / "file").write_text("")
    generator = linear()
    fit = cached_fit(generator, generator.synthesize, S, tmp_path / "file", "cpu", progress=False)
    again = fit_generator(generator, generator.synthesize, S, progress=False)
    assert torch.equal(fit.gain, again.gain)
    (line,) = caplog.messages
    assert line.startswith("-cache_dir ") and line.endswith("another folder keeps it")


def test_a_log_is_told_of_a_fit_and_nobody_else(monkeypatch, capsys):
    few(monkeypatch)
    generator = linear()
    for progress, lines in ((True, 1), (False, 0), (print, 0)):
        fit_generator(generator, generator.synthesize, S, progress=progress)
        told = capsys.readouterr()
        assert told.out == "" and told.err.count("\n") == lines
        assert not lines or told.err.startswith("fit of the search: ")


@pytest.mark.parametrize("fits_prior", [False, True])
def test_a_signal_whose_exception_was_lost_ends_a_fit(monkeypatch, fits_prior):
    few(monkeypatch)
    generator = linear()
    with stopping_on_signals():
        with contextlib.suppress(Stopped):  # as a bare `except` somewhere does
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            if fits_prior:
                fit_prior(random_networks(8)[1], draws=20)
            else:
                fit_generator(generator, generator.synthesize, S, progress=False)


def test_only_searches_that_use_a_fit_make_one(tmp_path, monkeypatch):
    few(monkeypatch)
    model = PULSE(one_file(tmp_path / "g.pt"), "cpu", tmp_path / "cache", progress=False)
    assert model.fit_for(Settings(), 4) is None
    assert not (tmp_path / "cache").exists()
    fit = model.fit_for(Settings(search="quick"), 4)
    assert model.fit_for(Settings(opt_name="lbfgs"), 4) is fit
    assert model.fit_for(Settings(opt_name="lbfgs+adam"), 4) is fit
    assert model.fit_for(Settings(start="regression"), 2) is not fit
