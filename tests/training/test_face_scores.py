"""training/face_scores.py: what dlib finds in samples."""

import torch

from training.face_scores import face_share


def test_no_face_is_found_where_there_is_none():
    assert face_share(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)) == 0
