"""What a user reads is harmless, and no handler for damaged files hides a mistake of ours."""

import logging
import math

import numpy as np
import pytest
import torch
from conftest import one_file

import drive
from cli.errors import UserError, escaped, is_mistake
from evaluation.metrics import ExternalMetric
from fast import cuda_graph, inductor
from generators import latents, safe_loading
from generators.formats import read_networks
from generators.latents import Latent, encode_latent, read_latent
from runner import distributed
from training import efficientnet

HOSTILE = "a\x1b[31m\x07\n\x9b\u202eb"


def test_text_of_others_becomes_one_harmless_line():
    assert escaped(HOSTILE) == r"a\x1b[31m\x07\n\x9b\u202eb"
    assert escaped("Zoë 😀 日本") == "Zoë 😀 日本"


def test_what_is_logged_is_harmless_too(caplog):
    logging.getLogger("pulse").warning("not compiled (%s)", HOSTILE)
    assert caplog.messages == [f"not compiled ({escaped(HOSTILE)})"]


def raised(function) -> BaseException:
    with pytest.raises(Exception) as caught:
        function()
    return caught.value


def test_a_mistake_is_a_name_or_attribute_that_a_line_of_ours_asks_for():
    assert is_mistake(raised(lambda: nothing))  # noqa: F821
    assert is_mistake(raised(lambda: np.no_such_function))  # by way of numpy's __getattr__
    assert is_mistake(raised(lambda: "".no_such_method))
    # in a library, or of content
    assert not is_mistake(raised(lambda: np.linalg.norm("x")))
    assert not is_mistake(raised(lambda: torch.load("/nowhere", weights_only=True)))
    assert not is_mistake(raised(lambda: {}["key"]))
    assert not is_mistake(AttributeError("of nowhere"))


def _latent(tmp_path):
    record = {"settings": {}, "seed": 0}
    with open(tmp_path / "a.npz", "wb") as file:
        encode_latent(file, Latent(torch.zeros(1, 4), {}), record)
    read_latent(tmp_path / "a.npz")


def _pickle(tmp_path):
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02]q\x00.")
    read_networks(tmp_path / "a.pkl")


def _weights(tmp_path):
    read_networks(one_file(tmp_path / "a.pt"))


def _metric(tmp_path):
    ExternalMetric("M", 1, lambda: (lambda picture: no_such_name, "package 1"))(  # noqa: F821
        torch.zeros(3, 4, 4)
    )


def _recording(tmp_path):
    recorder = cuda_graph.Recorder(torch.device("cpu"))
    recorder.record = lambda step: step()
    replay = cuda_graph.Replay(recorder, (), [], None, None)
    replay.left = 0
    replay(lambda: no_such_name)  # noqa: F821


def _download(tmp_path):
    class Session:
        pass  # has no `get`

    drive._ask(Session(), "http://127.0.0.1", drive._Budget(math.inf, 10))


PLACES = {
    "a latent file": (_latent, latents, "_require_whole"),
    "a pickle": (_pickle, safe_loading, "_Unpickler"),
    "a file of torch.save": (_weights, safe_loading, "zipfile"),
    "a metric": (_metric, None, ""),
    "torch.compile": (
        lambda tmp_path: inductor.load(tmp_path, torch.device("cpu")),
        inductor,
        "InductorKernels",
    ),
    "steps that are recorded": (_recording, None, ""),
    "a download": (_download, None, ""),
    "EfficientNet": (
        lambda tmp_path: efficientnet.load_efficientnet(
            one_file(tmp_path / "a.pt"), 0, torch.device("cpu")
        ),
        efficientnet,
        "EfficientNetLite",
    ),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_mistake_of_ours_is_not_taken_for_a_damaged_file_or_device(place, tmp_path, monkeypatch):
    use, module, name = PLACES[place]
    if module is not None:
        monkeypatch.delattr(module, name)
    with pytest.raises((NameError, AttributeError)):
        use(tmp_path)


def test_waiting_for_partners_does_not_hide_it_either(monkeypatch):
    monkeypatch.setattr("torch.distributed.rendezvous", None)
    monkeypatch.delattr(distributed, "timedelta")
    for name, value in zip(distributed.LAUNCHER, ("0", "2", "127.0.0.1", "1", "0"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(NameError):
        distributed.join()


def test_a_damaged_file_is_still_one_sentence(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match="it is no .npz file"):
        read_latent(tmp_path / "a.npz")
