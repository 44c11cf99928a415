"""Files of StyleGAN2 and StyleGAN3 in every format, with the pictures that the authors' programs
make of them.
"""

import numpy as np
import pytest
import torch
from conftest import GOLDEN, golden

from cli.errors import UserError
from generators.formats import read_networks
from generators.load import describe
from generators.prior import fit_prior
from PULSE import PULSE

# Each file, with the tolerance of its family, relative to the largest value.
FILES = {
    "sg2_tiny.pkl": 1e-5,
    "sg2_tiny_by_stylegan3.pkl": 1e-5,
    "sg2_tiny_conditional_nhwc.pkl": 1e-5,
    "sg3t_tiny.pkl": 1e-4,
    "sg3t_tiny_torch2.pkl": 1e-4,
    "sg3r_tiny.pkl": 1e-4,
    "sg2_tf_tiny.pkl": 1e-5,
    "rosinality_tiny.pt": 1e-5,
    "rosinality_train_tiny.pt": 1e-5,
}


@pytest.fixture(autouse=True)
def quick_fit(monkeypatch, one_thread):
    monkeypatch.setattr(fit_prior, "__defaults__", (1600, 160, 0))


def error_of(found: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference, relative to the largest value."""
    return float(np.abs(found.detach().numpy() - expected).max() / np.abs(expected).max())


def model_of(name: str, tmp_path, label=None) -> PULSE:
    return PULSE(GOLDEN / name, device="cpu", cache_dir=tmp_path, label=label)


def expected_of(name: str) -> dict[str, np.ndarray]:
    """What the authors' program makes of a file; both of rosinality's hold one network."""
    prefix = name.split(".")[0].replace("_train", "") + "/"
    return {
        key.removeprefix(prefix): value
        for key, value in golden("tiny_expected").items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("name", FILES)
def test_the_authors_files_give_the_authors_pictures(tmp_path, name):
    tolerance = FILES[name]
    expected = expected_of(name)
    labels = expected["c"].argmax(1).tolist() if "c" in expected else [None]
    for row, label in enumerate(labels):
        part = slice(None) if label is None else slice(row, row + 1)
        model = model_of(name, tmp_path, label)
        z, true_w, image = (expected[key][part] for key in ("z", "w", "image"))
        w = model.map(torch.from_numpy(z))
        assert error_of(w, true_w) < 1e-5
        assert error_of(model.synthesize(torch.from_numpy(true_w)), image) < tolerance
        assert error_of(model.synthesize(w), image) < tolerance


@pytest.mark.parametrize("name", ["rosinality_tiny.pt", "rosinality_train_tiny.pt"])
def test_gradients_are_those_of_the_authors_program(tmp_path, name):
    expected = expected_of(name)
    model = model_of(name, tmp_path)
    w = torch.from_numpy(expected["wplus"]).requires_grad_()
    noise = [maps.clone().requires_grad_() for maps in model.generator.fixed_noise]
    image = model.synthesize(w, noise)
    assert error_of(image, expected["image_wplus"]) < 1e-5
    (image * torch.from_numpy(expected["cotangent"])).sum().backward()
    assert error_of(w.grad, expected["grad_w"]) < 1e-5
    for i, maps in enumerate(noise):
        assert error_of(maps.grad, expected[f"grad_noise{i}"]) < 1e-5


@pytest.mark.parametrize("name", ["rosinality_tiny.pt", "sg3t_tiny.pkl"])
def test_a_second_gradient_of_one_picture_is_refused_in_words(tmp_path, name, tiny):
    for model in (PULSE(tiny, device="cpu"), model_of(name, tmp_path)):
        generator = model.generator
        w = torch.randn(1, generator.dlatent_size).requires_grad_()
        image = model.synthesize(w)
        torch.autograd.grad(image.sum(), w, retain_graph=True)
        if generator.synthesis.family == "stylegan2":  # keeps what it needs
            torch.autograd.grad(image.sum(), w)
        else:
            with pytest.raises(RuntimeError, match="differentiated once"):
                torch.autograd.grad(image.sum(), w)


def test_labels_are_chosen_or_asked_for_in_one_sentence(tmp_path):
    name = "sg2_tiny_conditional_nhwc.pkl"
    with pytest.raises(UserError, match="3 labels: choose one, from -label 0 to -label 2"):
        model_of(name, tmp_path)
    with pytest.raises(UserError, match="3 labels, so not 3"):
        model_of(name, tmp_path, 3)
    with pytest.raises(UserError, match="has no labels, so not 0: leave -label out"):
        model_of("sg2_tiny.pkl", tmp_path, 0)
    first, second = (model_of(name, tmp_path, label).generator for label in (0, 1))
    assert first.sha256 != second.sha256  # each has a prior of its own
    assert len(list(tmp_path.glob("gaussian_fit_*"))) == 2


def test_a_file_of_one_label_needs_none():
    networks = read_networks(GOLDEN / "sg2_tiny_conditional_nhwc.pkl")
    networks.labels = 1
    assert "labels: 1, which is taken" in describe(networks)
    networks.choose_label(None)
    assert networks.mapping is not None and networks.about["label"] == "0, of 1"


def test_what_python_is_given_in_a_wrong_shape_is_named(tmp_path):
    model = model_of("sg2_tiny.pkl", tmp_path)
    w, noise = torch.zeros(2, 32), model.generator.fixed_noise
    for call, words in (
        (lambda: model.map(torch.zeros(2, 16)), r"z must be \(B, 32\)"),
        (lambda: model.synthesize(torch.zeros(2, 5, 32)), r"w must be \(B, 32\) or \(B, 6, 32\)"),
        (lambda: model.synthesize(w[:0]), r"not \(0, 32\)"),
        (lambda: model.synthesize(w, noise[1:]), "a list of 5 maps, not of 4"),
        (lambda: model.synthesize(w, noise[::-1]), r"noise map 0 must be \(B, 1, 4, 4\)"),
    ):
        with pytest.raises(UserError, match=words):
            call()
    maps = [torch.zeros(2, 1, r, r) for r in model.generator.noise_sizes]
    assert not torch.equal(model.synthesize(w, maps), model.synthesize(w))
