"""-retries: the best attempt counts, and all are recorded."""

from pathlib import Path

from forked_runs import face, faces, pictures, record_of

from runner.jobs import Job
from search_settings import SEEDS


def test_retries_keep_the_best_attempt_and_record_all(here, tmp_path):
    faces(tmp_path / "input", 4)
    assert here("-eps", 1e-9, "-retries", 3, "-duplicates", 2).status == 0
    better = 0
    for name in (f"{i:02}_{duplicate}" for i in range(4) for duplicate in (1, 2)):
        record = record_of(tmp_path / "runs", name)
        attempts = record["attempts"]
        job = Job(Path("a.png"), record["duplicate"], "a", Path("runs"))
        assert [each["seed"] for each in attempts] == [job.seed(0, i) for i in range(4)]
        assert len({each["seed"] for each in attempts}) == 4
        best = min(attempts, key=lambda each: each["total"])
        assert best.items() <= record.items()
        better += best is not attempts[0]
    assert better


def test_a_retry_is_the_search_from_that_seed(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here("-eps", 1e-9, "-retries", 2).status == 0
    for attempt in record_of(tmp_path / "runs", "a")["attempts"]:
        output = f"runs_{attempt['seed']}"
        assert here("-eps", 1e-9, "-seed", attempt["seed"], "-output_dir", output).status == 0
        assert attempt.items() <= record_of(tmp_path / output, "a").items()


def test_an_attempt_within_eps_is_the_last(study, here, tmp_path):
    assert here("-input_dir", study.root / "input", "-retries", 3).status == 0
    numbers = []
    for i in range(12):
        record = record_of(tmp_path / "runs", f"{i:02}")
        *before, last = record["attempts"]
        assert not any(each["within_eps"] for each in before)
        assert last["within_eps"] or len(before) == 3
        assert last["within_eps"] == record["within_eps"]
        numbers.append(len(record["attempts"]))
    assert 1 in numbers and max(numbers) > 1
    alone = tmp_path / "runs"
    assert here(
        *("-input_dir", study.root / "input", "-retries", 3, "-batch_size", 5),
        *("-output_dir", "batches"),
    ).status in (0, 1)
    assert pictures(tmp_path / "batches") == pictures(alone)


def test_seeds_of_attempts_are_63_bits_and_all_different():
    seeds = {
        Job(Path("a"), duplicate, "a", Path("runs")).seed(base, attempt)
        for base in (0, 1, SEEDS - 20)
        for duplicate in range(10)
        for attempt in range(1, 10)
    }
    assert len(seeds) == 270 and all(0 <= seed < SEEDS for seed in seeds)
    assert max(seeds) > SEEDS // 2
