"""training/pixel_distance.py: distances that tell good samples from bad and from copied ones."""

import pytest
import torch

from training.pixel_distance import memorised_shares, nearest, sliced_wasserstein


def test_distance_of_pictures_tells_noise_from_more_of_the_same():
    random = torch.Generator().manual_seed(0)
    smooth = torch.rand(64, 3, 4, 4, generator=random) * 255
    smooth = torch.nn.functional.interpolate(smooth, size=32, mode="bilinear").byte()
    noise = (torch.rand(32, 3, 32, 32, generator=random) * 255).byte()
    same = sliced_wasserstein(smooth[:32], smooth[32:])
    assert sliced_wasserstein(smooth[:32], smooth[:32]) < same
    assert sliced_wasserstein(noise, smooth[32:]) > 3 * same


def test_a_copied_face_counts_as_memorised_also_when_it_is_mirrored():
    random = torch.Generator().manual_seed(0)
    known, unseen, new = ((torch.rand(20, 3, 8, 8, generator=random) * 255).byte() for _ in "abc")
    copies = torch.cat([known[:5], known[5:10].flip(3)])
    assert memorised_shares(copies, unseen, known)[0] == 1
    assert memorised_shares(new, unseen, known)[0] < 0.5
    assert nearest(copies, known).max() == 0


def test_training_faces_are_held_against_the_other_ones():
    random = torch.Generator().manual_seed(0)
    known = (torch.rand(20, 3, 8, 8, generator=random) * 255).byte()
    # neither to itself nor to its own mirror image
    assert nearest(known, known, step=1).min() > 20
    twice = torch.cat([known, known[:1].flip(3)])
    distance = nearest(twice, twice, step=1, chunk=8)
    assert distance[0] == distance[-1] == 0 and distance[1:-1].min() > 20
    assert torch.equal(nearest(twice[::5], twice, step=5), distance[::5])
    assert nearest(known[::5], twice).max() == 0
    # some of very many: the first and its mirror image are among every fourth of the twenty-one
    unseen = (torch.rand(20, 3, 8, 8, generator=random) * 255).byte()
    assert memorised_shares(unseen, unseen, twice, most=5)[1] == pytest.approx(2 / 6)
