"""training/trainer.py: a training goes on exactly, from a checkpoint or from a generator."""

import io

import torch
from conftest import ROOT

from generators.formats import read_networks
from generators.load import DEMO64
from training.train_settings import TrainSettings
from training.trainer import Training


def test_training_goes_on_exactly_where_it_was():
    settings = TrainSettings(32, 64, 8, 16, 2, batch_size=8)
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    whole = Training(settings, faces, torch.device("cpu"))
    whole.step()
    kept = io.BytesIO()
    torch.save(whole.state_dict(), kept)
    whole.step()
    again = Training(settings, faces, torch.device("cpu"))
    kept.seek(0)
    again.load_state_dict(torch.load(kept, weights_only=True))
    again.step()
    for mine, theirs in zip(again.averaged.parameters(), whole.averaged.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(again.searches.searched(), whole.searches.searched(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_embedded_generator_can_be_trained_on_from_with_its_critic():
    faces = torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8)
    training = Training(TrainSettings(), faces, torch.device("cpu"))
    critic = torch.load(ROOT / "demo" / "critic64.pt", weights_only=True)
    networks = read_networks(DEMO64)
    training.start_from(networks, critic=critic)
    assert training.images_before == networks.about["images_seen"] > 211_200
    assert training.hours_before == networks.about["hours"] > 2
    mine = training.adversaries["critic"].network.state_dict()
    assert all(torch.equal(mine[key], value.float()) for key, value in critic.items())


def test_a_training_may_go_on_with_another_learning_rate():
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    first, later = (
        Training(
            TrainSettings(32, 64, 8, 16, 2, batch_size=8, learning_rate=rate),
            faces,
            torch.device("cpu"),
        )
        for rate in (2.5e-3, 1e-3)
    )
    first.step()
    later.load_state_dict(first.state_dict())
    assert later.optimisers["generator"].param_groups[0]["lr"] == 1e-3
    assert later.images == 8


def test_the_average_that_a_training_starts_from_is_kept():
    faces = torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8)
    training = Training(TrainSettings(search_weight=0, batch_size=8), faces, torch.device("cpu"))
    networks = read_networks(DEMO64)
    trained = read_networks(DEMO64)
    with torch.no_grad():
        trained.synthesis.torgb.bias.add_(1)
    training.start_from(networks, trained)
    training.step(train_generator=False)
    moved = training.averaged["synthesis"].torgb.bias - networks.synthesis.torgb.bias
    assert (moved > 0).all() and (moved < 0.01).all()  # 8 images of a half-life of 10,000
