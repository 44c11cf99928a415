"""training/replay.py: steps that are recorded are those that are called."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from training.replay import Replay
from training.train_settings import TrainSettings
from training.trainer import Training

SETTINGS = TrainSettings(
    32, 64, 8, 16, 2, critic_base=256, batch_size=8, search_weight=0, r1_every=2, learning_rate=1e-4
)


class Recorder:
    """Of one step of each kind, where it may; counts what is asked of it."""

    def __init__(self, error: Exception | None):
        self.error, self.asked, self.full = error, Counter(), False

    def aside(self, step):
        self.asked["aside"] += 1
        return step()

    def record(self, step, random):
        self.asked["record"] += 1
        self.random = random
        if self.error:
            raise self.error
        if self.full:
            return None
        figures = step()
        self.replay = lambda: [value.add_(1) for value in figures.values()]
        return self, figures


def figures(value: float):
    return lambda: {"loss": torch.tensor(value)}


def replay(error: Exception | None = None) -> Replay:
    made = Replay(torch.device("cpu"), torch.Generator())
    made.recorder = Recorder(error)
    return made


def test_each_kind_of_steps_is_called_thrice_then_recorded_and_replayed():
    made = replay()
    found = [made(kind, figures(10 * kind))["loss"] for kind in (0, 0, 0, 0, 1, 0, 1, 1, 1)]
    assert made.recorder.asked == {"aside": 6, "record": 2}
    assert made.recorder.random == [made.random]  # else each replay would draw the same
    assert [value.item() for value in found] == [0, 0, 0, 1, 10, 2, 10, 10, 11]


@pytest.mark.parametrize("search_weight", [0.0, 200.0])
def test_steps_are_replayed_by_whether_r1_is_in_them_and_never_with_searches(search_weight):
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    settings = replace(SETTINGS, search_weight=search_weight)
    training, kinds = Training(settings, faces, torch.device("cpu")), []

    def replayed(kind, step):
        kinds.append(kind)
        losses = step()
        assert ("critic_r1" in losses) == (kind > 0)
        return losses

    training.replay = replayed
    for train_generator in (False, True, True, True):
        training.step(train_generator)
    assert kinds == ([] if search_weight else [0, 2, 0])
    assert training.images == 32


def test_steps_that_cannot_be_recorded_are_called(capsys):
    made = replay(RuntimeError("no graphs here"))
    assert [made(0, figures(5))["loss"].item() for _ in range(6)] == [5] * 6
    assert made.recorder.asked == {"aside": 3, "record": 1}
    assert capsys.readouterr().out.count("steps are not replayed (no graphs here)") == 1


def test_steps_for_whose_recording_memory_is_too_little_are_called(capsys):
    made = replay()
    made.recorder.full = True
    assert [made(0, figures(5))["loss"].item() for _ in range(5)] == [5] * 5
    assert "steps are not replayed (too little memory)" in capsys.readouterr().out


def test_a_mistake_in_a_step_is_no_reason_to_call_it():
    with pytest.raises(NameError):
        made = replay(NameError("name 'x' is not defined"))
        for _ in range(4):
            made(0, figures(5))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_replayed_training_steps_are_those_that_are_called(capsys):
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    replayed, called = (Training(SETTINGS, faces, torch.device("cuda")) for _ in range(2))
    called.replay = None
    for training in (replayed, called):
        for step in range(10):  # the last two R1 are replayed
            training.scale_rates(1 - step / 20)
            losses = training.step()
    assert "not replayed" not in capsys.readouterr().out
    assert set(replayed.replay.recordings) == {0, 2}
    assert all(value.isfinite() for value in losses.values())
    assert replayed.random.get_state().equal(called.random.get_state())
    pairs = zip(replayed.averaged.parameters(), called.averaged.parameters(), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs, rtol=1e-2, atol=1e-3)
    assert replayed.adversaries["critic"].augment.p == called.adversaries["critic"].augment.p
