"""A name or a file becomes a generator, with which the search works."""

import pytest
import torch
from conftest import random_networks
from weight_files import nvidia_network, write_pickle

from cli.errors import UserError
from generators import prior
from generators.load import load_generator
from PULSE import PULSE


def test_without_a_mapping_and_without_a_prior_it_says_what_is_missing(tmp_path):
    synthesis, _ = random_networks(32)
    alone = tmp_path / "alone"
    alone.mkdir()
    torch.save(synthesis.state_dict(), alone / "synthesis.pt")
    with pytest.raises(UserError, match="mapping.pt beside it"):
        load_generator(alone / "synthesis.pt", tmp_path / "cache")


def test_the_demo_generator_is_here_and_says_what_it_is(tmp_path):
    generator = load_generator("demo", tmp_path)
    assert (generator.resolution, generator.num_layers, generator.dlatent_size) == (128, 12, 512)
    assert "non-commercial" in generator.about["licence"]
    assert not any(p.requires_grad for p in generator.synthesis.parameters())
    assert not any(tmp_path.iterdir())  # its prior lies in it


def test_demo64_stays_the_one_of_64_pixels(tmp_path):
    generator = load_generator("demo64", tmp_path)
    assert (generator.name, generator.resolution, generator.num_layers) == ("demo64", 64, 10)


def test_an_unknown_generator_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="an https address, or one of ffhq, demo, demo64, ffhq2, "):
        PULSE("ffqh", device="cpu", cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("resolution", "layers"), [(8, 4), (32, 8), (128, 12), (256, 14), (512, 16)]
)
def test_every_resolution_searches_with_the_smallest_and_largest_lr(tmp_path, resolution, layers):
    synthesis, mapping = random_networks(resolution, fmap_base=1024)
    Gs = nvidia_network(synthesis, mapping)
    path = write_pickle(tmp_path / "g.pkl", (None, None, Gs))
    fit = prior.fit_prior(mapping, draws=3200, chunk=1600)
    cache = tmp_path / "cache"
    cache.mkdir()
    key = prior.tensors_sha256(mapping.state_dict())
    torch.save({"mean": fit[0], "std": fit[1]}, cache / f"gaussian_fit_{key}.pt")
    model = PULSE(path, device="cpu", cache_dir=cache)
    assert model.generator.num_layers == layers
    for side in (2, resolution // 2):
        search = model(torch.rand(1, 3, side, side), seed=0, steps=2)
        for HR, LR in search:
            assert HR.shape[-1] == resolution and LR.shape[-1] == side
        assert search.results[0].best_step >= 0
