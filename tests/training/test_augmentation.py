"""training/augmentation.py: what the discriminator sees, and how much of it is changed."""

import torch

from training.augmentation import augment
from training.train_settings import TrainSettings
from training.trainer import Training


def test_augmentation_keeps_the_gradient_and_differs_between_pictures():
    x = torch.rand(4, 3, 32, 32).mul(2).sub(1).requires_grad_()
    seen = augment(x, torch.Generator().manual_seed(0))
    assert seen.shape == x.shape and not torch.allclose(seen[0], seen[1])
    seen.sum().backward()
    assert all(gradient.isfinite().all() and (gradient != 0).any() for gradient in x.grad)
    holes = (seen == 0).all(dim=1).flatten(1).sum(1)  # mid-grey: beyond the edge, and the cutout
    assert (holes >= 49).all()


def test_augmentation_leaves_the_pictures_that_it_is_not_drawn_for():
    x = torch.rand(64, 3, 32, 32) * 2 - 1
    assert torch.allclose(augment(x, torch.Generator().manual_seed(0), p=0), x, atol=1e-6)
    seen = augment(x, torch.Generator().manual_seed(0), p=0.2)
    changed = (seen - x).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert 15 <= changed.sum() <= 50  # 1 - 0.8³ of 64 are 31


def test_a_discriminator_that_knows_the_faces_sees_them_augmented_more():
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    training = Training(TrainSettings(32, 64, 8, 16, 2, batch_size=8), faces, torch.device("cpu"))
    augmentation = training.adversaries["critic"].augment
    augmentation.sign.fill_(1)
    training.step(train_generator=False)
    assert (grown := augmentation.p.item()) > 0
    training.images = 0
    augmentation.sign.fill_(-1)
    training.step(train_generator=False)
    assert augmentation.p < grown
