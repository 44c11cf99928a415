"""training/adversaries.py: what a generator is trained against learns, pulls, and goes on."""

import copy

import torch

from training.adversaries import adam, adversaries, load_optimiser, set_rate
from training.train_settings import TrainSettings

SETTINGS = TrainSettings(32, 64, 8, 16, 2, critic_base=256, batch_size=8, learning_rate=2e-3)


def critic():
    torch.manual_seed(0)
    return adversaries(SETTINGS, torch.Generator().manual_seed(0), None)["critic"]


def pictures(seed: int, brightness: float) -> torch.Tensor:
    noise = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return (0.2 * noise + brightness).clamp(-1, 1)


def test_a_critic_learns_what_is_real_and_pulls_towards_it():
    adversary = critic()
    real, fake = pictures(0, 0.5), pictures(1, -0.5)
    losses = [adversary.learn(real, fake, lazily=0)["loss"].item() for _ in range(30)]
    assert losses[-1] < 0.5 * losses[0]
    before = copy.deepcopy(adversary.network.state_dict())
    gradient, _ = adversary.pull(fake)
    nearer = fake.detach() - 0.2 * gradient / gradient.abs().mean()
    assert (adversary.doubt(nearer) > adversary.doubt(fake)).all()  # what the generator goes after
    after = adversary.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_r1_and_augmentation_are_brought_up_to_date_lazily():
    adversary = critic()
    adversary.augment.sign.fill_(1)  # it knows the real pictures by heart
    assert "r1" not in adversary.learn(pictures(0, 0.5), pictures(1, -0.5), lazily=0)
    assert adversary.augment.p == 0
    assert adversary.learn(pictures(0, 0.5), pictures(1, -0.5), lazily=16)["r1"] > 0
    assert adversary.augment.p > 0


def test_an_adversary_goes_on_from_its_state():
    first, second = critic(), critic()
    real, fake = pictures(0, 0.5), pictures(1, -0.5)
    first.learn(real, fake, lazily=16)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for adversary in (first, second):
        adversary.augment.random.manual_seed(1)
    assert first.learn(real, fake, 0)["loss"] == second.learn(real, fake, 0)["loss"]
    mine, theirs = (each.network.state_dict() for each in (first, second))
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_an_optimiser_goes_on_on_another_device_with_the_rate_of_now():
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser, later = (adam([weight], rate) for rate in (1e-3, 2e-3))
    weight.grad = torch.ones(3)
    optimiser.step()
    state = optimiser.state_dict()
    # as CUDA keeps it
    state["param_groups"][0] |= {"lr": torch.tensor(1e-3), "fused": True, "capturable": True}
    load_optimiser(later, state)
    group = later.param_groups[0]
    assert (group["lr"], group["fused"], group["capturable"]) == (2e-3, False, False)
    set_rate(later, 5e-4)
    assert group["lr"] == 5e-4
    before = weight.detach().clone()
    later.step()
    torch.testing.assert_close(before - weight.detach(), torch.full((3,), 5e-4))
    assert later.state_dict()["state"][0]["step"] == 2
