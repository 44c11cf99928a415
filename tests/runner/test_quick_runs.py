"""run.py with the quick search and with -until eps: records tell the truth, results of earlier
versions count, what is drawn again is the same, and retries, duplicates and resuming go on.
"""

import json

import pytest
from forked_runs import STEPS, face, faces, pictures, record_of

from generators import fit
from search_settings import ADDED, SEARCHES

QUICK = ("-search", "quick", "-eps", 0.05)


@pytest.fixture(autouse=True)
def few_pictures(monkeypatch):
    """A fit that takes no time."""
    monkeypatch.setattr(fit, "PICTURES", 200)
    monkeypatch.setattr(fit, "GRADIENTS", 60)


def test_the_record_names_the_search_and_all_that_it_sets(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here(*QUICK, "-learning_rate", 0.5).status == 0
    settings = record_of(tmp_path / "runs", "a")["settings"]
    assert settings["search"] == "quick" and settings["learning_rate"] == 0.5
    for name in SEARCHES["quick"].keys() - {"learning_rate"}:
        assert settings[name] == SEARCHES["quick"][name], name


@pytest.mark.parametrize("search", SEARCHES)
def test_until_eps_the_record_has_the_steps_that_were_taken(here, tmp_path, search):
    faces(tmp_path / "input", 4)
    ends = ("-until", "eps", "-polish", 0, "-steps", 30)
    assert here("-search", search, "-eps", 0.09, *ends).status == 0
    ended = 0
    for i in range(4):
        record = record_of(tmp_path / "runs", f"{i:02}")
        l2 = record["curve"]["L2"]
        assert len(l2) == record["steps"] <= 30 and record["settings"]["steps"] == 30
        if record["within_eps"]:
            assert l2[-1] <= 0.09 < min([*l2[:-1], 1])
            assert record["best_step"] == record["steps"] - 1
            ended += record["steps"] < 30
        else:
            assert record["steps"] == 30
    assert ended


@pytest.mark.parametrize("search", SEARCHES)
def test_what_comes_closer_is_told_of_what_was_not_tried(here, tmp_path, search):
    faces(tmp_path / "input", 1)
    told = here("-search", search, "-eps", 1e-9, "-steps", 2).out
    assert "-retries 3" in told
    assert ("-search quick" in told) == (search == "paper")


def test_a_quick_run_repeats_resumes_and_renders_to_the_byte(here, tmp_path):
    faces(tmp_path / "input", 3)
    options = (*QUICK, "-duplicates", 2, "-retries", 1, "-save_latent", "-until", "eps")
    assert here(*options).status == 0
    made = pictures(tmp_path / "runs")
    assert len(made) == 6 and len(set(made.values())) == 6
    (tmp_path / "runs" / next(iter(made))).unlink()
    assert "5 results kept" in here(*options).out
    assert pictures(tmp_path / "runs") == made
    latents = sorted((tmp_path / "runs").rglob("*.npz"))
    assert here("-render", *latents, "-output_dir", "again").status == 0
    assert pictures(tmp_path / "again") == made
    assert here(*QUICK, "-output_dir", "other", "-duplicates", 2, "-retries", 1).status == 0
    done = here("-output_dir", "runs", "-duplicates", 2, "-retries", 1)
    assert done.status == 2 and "was made with search quick, not paper" in done.err


def test_results_of_versions_without_these_settings_are_those_of_the_paper(here, tmp_path):
    faces(tmp_path / "input", 2)
    assert here("-save_latent").status == 0
    made = pictures(tmp_path / "runs")
    for path in (tmp_path / "runs").rglob("*.json"):
        record = json.loads(path.read_text())
        assert record["steps"] == STEPS
        del record["steps"]
        for name in ADDED:
            del record["settings"][name]
        path.write_text(json.dumps(record))
    assert "2 results kept" in here("-save_latent").out
    assert pictures(tmp_path / "runs") == made
    assert "was made with search paper, not quick" in here("-search", "quick").err
