"""The same bytes whatever the batch, the order and the neighbours, and whatever kills a run."""

import errno
import os
import random
import signal
import time
from pathlib import Path

import pytest
from forked_runs import arguments, begun, face, leftovers, pictures, record_of, whole_results

from imaging.provenance import picture_text


@pytest.mark.parametrize("batch_size", [3, 5, 12])
def test_the_batch_size_changes_no_byte(study, start, tmp_path, batch_size):
    args = ["-input_dir", study.root / "input", "-batch_size", batch_size]
    process = start([*study.arguments, *args], tmp_path)
    assert process.wait() == 0, process.output
    assert pictures(tmp_path / "runs") == study.expected


def test_the_order_changes_no_byte(study, here, tmp_path):
    for i in reversed(range(12)):
        done = here("-input_dir", study.root / "input" / f"{i:02}.png")
        assert done.status == 0, done.err
    assert pictures(tmp_path / "runs") == study.expected


def test_neighbours_of_other_sizes_change_no_byte(study, here, tmp_path):
    for i in range(12):
        face(tmp_path / "input" / f"{i:02}.png", seed=i)
        face(tmp_path / "input" / f"{i:02}_small.png", seed=i, side=2)
    assert here("-batch_size", 5).status == 0
    made = pictures(tmp_path / "runs")
    assert {name: made.get(name) for name in study.expected} == study.expected


def kill_at_random(start, args, root: Path, chance: random.Random, kills: int, longest: float):
    """Runs that are killed until there were `kills` deaths; yields after each one, then after the
    last run, which may finish.

    A run that finished before its time leaves nothing to kill: its results go, and all begins
    again.
    """
    deaths = 0
    while deaths < kills:
        process = begun(start, args, root)
        time.sleep(chance.uniform(0, longest))
        process.send(signal.SIGKILL)
        status = process.wait()
        assert status in (0, -signal.SIGKILL), process.output
        if status == 0:
            for path in sorted((root / "runs").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            continue
        deaths += 1
        yield process
    process = start(args, root)
    assert process.wait() == 0, process.output
    yield process


def survive(start, args, root: Path, expected: dict, seed: int, kills: int, longest: float):
    before: dict = {}
    for _ in kill_at_random(start, args, root, random.Random(seed), kills, longest):
        now = whole_results(root / "runs")
        if before.items() - now.items():  # all began again
            assert len(now) < len(before) or before.keys() == {Path(name).name for name in expected}
        else:
            assert before.items() <= now.items()  # not lost, and not even written again
        before = now
    assert pictures(root / "runs") == expected
    assert not leftovers(root / "runs")


def test_a_run_that_is_killed_goes_on_to_the_same_bytes(study, start, tmp_path):
    args = [*study.arguments, "-input_dir", study.root / "input"]
    survive(start, args, tmp_path, study.expected, seed=1, kills=6, longest=0.15)


def test_fifty_kills_lose_nothing(study, start, tmp_path):
    args = [*study.arguments, "-input_dir", study.root / "input"]
    survive(start, args, tmp_path, study.expected, seed=2, kills=50, longest=0.15)


def test_overwriting_that_is_killed_never_pairs_an_old_picture_with_a_new_record(
    study, start, tmp_path
):
    chance = random.Random(3)
    for seed in range(5):
        args = [*study.arguments, "-input_dir", study.root / "input", "-seed", seed, "-overwrite"]
        process = begun(start, args, tmp_path)
        time.sleep(chance.uniform(0.05, 0.4))
        process.send(signal.SIGKILL)
        assert process.wait() in (0, -signal.SIGKILL)
        whole_results(tmp_path / "runs")


def test_where_a_picture_cannot_be_written_the_old_result_stays(here, tmp_path, monkeypatch):
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1).status == 0

    def full(file, *rest):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr("runner.jobs.encode_png", full)
        assert here("-eps", 1, "-seed", 1, "-overwrite").status == 1
    record = record_of(tmp_path / "runs", "a")
    left = tmp_path / "runs" / "a.png"
    assert record["seed"] == 0 and picture_text(left)["pulse:seed"] == "0"  # it lost nothing


@pytest.mark.parametrize("survived", [0, 1])
def test_a_new_record_never_stands_beside_an_old_picture(here, start, small, tmp_path, survived):
    """Killed before the record appears, and between it and the picture."""
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1).status == 0
    again = arguments(small, "-eps", 1, "-seed", 1, "-overwrite")
    process = start(again, tmp_path, killed_in=("os", "replace", survived))
    assert process.wait() == -signal.SIGKILL
    assert record_of(tmp_path / "runs", "a")["seed"] == survived
    assert not pictures(tmp_path / "runs")
    assert start(again, tmp_path).wait() == 0
    assert picture_text(tmp_path / "runs" / "a.png")["pulse:seed"] == "1"
