"""A run that goes on: what is finished is kept, what is not is made."""

import pytest
from conftest import one_file
from forked_runs import face, faces, leftovers, record_of
from PIL import Image

from imaging.pictures import read_picture
from runner.jobs import pixels_sha256


@pytest.fixture
def finished(here, tmp_path):
    """A folder with three results, two duplicates each."""
    faces(tmp_path / "input", 3)

    def again(*more):
        return here("-duplicates", 2, "-eps", 1, *more)

    assert again().status == 0
    again.runs, again.input = tmp_path / "runs", tmp_path / "input"
    again.times = {path: path.stat().st_mtime_ns for path in again.runs.glob("[!.]*.[pj]*")}
    assert len(again.times) == 12
    return again


def test_what_is_finished_is_skipped_in_one_line(finished):
    done = finished()
    assert done.status == 0 and not done.err
    assert done.out.count("6 results kept from before") == 1
    assert {path: path.stat().st_mtime_ns for path in finished.times} == finished.times


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (("-steps", 9), "steps 8, not 9"),
        (("-seed", 1), "seed 0, not 1"),
        (("-loss_str", "100*L1", "-steps", 9), "loss_str 100*L2+0.05*GEOCROSS, not 100*L1"),
        (("-retries", 1), "retries 0, not 1"),
        (("-tile_latent",), "tile_latent False, not True"),
        (("-generator", "other.pt"), "generator_sha256 "),
    ],
)
def test_changed_settings_are_refused_and_nothing_changes(finished, changed, named):
    one_file(finished.runs.parent / "other.pt", resolution=8, seed=1)
    done = finished(*changed)
    assert done.status == 2
    assert named in done.err and "-overwrite" in done.err and done.err.count("\n") == 1
    assert {path: path.stat().st_mtime_ns for path in finished.times} == finished.times
    assert finished(*changed, "-overwrite").status == 0
    assert all(path.stat().st_mtime_ns > before for path, before in finished.times.items())


def test_an_input_with_other_pixels_is_refused_by_name(finished):
    face(finished.input / "01.png", seed=99)
    done = finished()
    assert done.status == 1
    assert done.err.count("01.png") == 1 and "has changed since its result was made" in done.err
    assert {path: path.stat().st_mtime_ns for path in finished.times} == finished.times
    assert finished("-overwrite").status == 0
    assert record_of(finished.runs, "01_1")["input"]["pixels_sha256"] == pixels_sha256(
        read_picture(finished.input / "01.png")
    )


def test_an_input_that_was_saved_anew_with_the_same_pixels_is_the_same(finished):
    Image.open(finished.input / "01.png").save(finished.input / "01.bmp")
    (finished.input / "01.png").unlink()
    assert "6 results kept" in finished().out


@pytest.mark.parametrize(
    "record",
    [
        None,
        b"",
        b"{",
        b"[]",
        b"7",
        b'{"settings": {}}',
        b'{"settings": 5, "within_eps": true, "input": {}}',
        b'{"settings": {"seed": 0}, "within_eps": true}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
def test_a_result_without_a_whole_record_is_made_again(finished, record):
    path = finished.runs / "01_2.json"
    path.unlink()
    if record is not None:
        path.write_bytes(record)
    assert "5 results" in finished("-summary").out
    done = finished()
    assert done.status == 0 and "5 results kept" in done.out
    assert record_of(finished.runs, "01_2")["seed"] == 1
    others = {path: at for path, at in finished.times.items() if path.stem != "01_2"}
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_a_record_without_its_picture_is_made_again(finished):
    before = (finished.runs / "01_2.png").read_bytes()
    (finished.runs / "01_2.png").unlink()
    assert "5 results" in finished("-summary").out
    assert "5 results kept" in finished().out
    assert (finished.runs / "01_2.png").read_bytes() == before


def test_what_a_killed_run_left_is_swept_and_nothing_else(finished):
    (finished.runs / ".123-0a1b2c3d.part").write_bytes(b"half")
    (finished.runs / "outside_eps").mkdir(exist_ok=True)
    (finished.runs / "outside_eps" / ".77-00000000.part").write_bytes(b"half")
    (finished.runs / ".mine.part").write_bytes(b"of somebody else")
    (finished.runs / "notes.txt").write_text("mine")
    assert finished().status == 0
    assert [path.name for path in leftovers(finished.runs)] == [".mine.part"]
    assert (finished.runs / "notes.txt").read_text() == "mine"
