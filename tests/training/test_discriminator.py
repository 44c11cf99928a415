"""training/discriminator.py: what the discriminator can see."""

import torch

from training.discriminator import minibatch_stddev


def test_minibatch_deviation_is_zero_for_equal_pictures_only():
    same = torch.ones(4, 2, 4, 4)
    assert minibatch_stddev(same)[:, 2].max() < 1e-3
    assert minibatch_stddev(same * torch.arange(4).view(-1, 1, 1, 1))[:, 2].min() > 0.5
