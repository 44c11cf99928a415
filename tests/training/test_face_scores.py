"""training/face_scores.py: what dlib finds in samples."""

import numpy as np
import torch

from training.face_scores import face_descriptors, face_share, frechet_distance


def test_no_face_is_found_where_there_is_none():
    assert face_share(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)) == 0


def test_frechet_distance_is_that_of_the_gaussians():
    rng = np.random.default_rng(0)
    a = rng.standard_normal((4000, 3))
    assert abs(frechet_distance(a, a)) < 1e-9
    assert abs(frechet_distance(a, a[::-1] + [0, 2, 0]) - 4) < 1e-9  # |mean difference|²
    # of N(0, 1) and N(0, 9) in each of three directions: 3 · (1 + 9 − 2·√9)
    assert abs(frechet_distance(a, 3 * a) - 12) < 0.5
    turned = a @ np.linalg.qr(rng.standard_normal((3, 3)))[0]
    assert frechet_distance(a * [1, 2, 3], turned * [1, 2, 3]) < 0.05


def test_descriptors_are_of_pictures_of_any_size():
    random = torch.Generator().manual_seed(0)
    small = torch.randint(0, 256, (3, 3, 8, 8), generator=random).byte()
    large = small.repeat_interleave(16, 2).repeat_interleave(16, 3)
    descriptors = face_descriptors(large, chunk=2)
    assert descriptors.shape == (3, 128)
    apart = np.linalg.norm(descriptors[0] - descriptors[1])
    assert np.linalg.norm(face_descriptors(large[:1])[0] - descriptors[0]) < 0.01 * apart
