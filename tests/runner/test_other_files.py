"""Files that no run wrote are not lost, and one damaged file does not end a run."""

import socket

import pytest
from forked_runs import arguments, face, faces, pictures, record_of
from PIL import Image

from cli.errors import UserError
from imaging.provenance import picture_text, write_png
from runner import folder
from runner.records import FOLDERS


@pytest.mark.parametrize("name", ["a.png", "a.json", "a.npz"])
@pytest.mark.parametrize("place", [".", "outside_eps"])
def test_a_file_in_the_place_of_a_result_is_kept(here, tmp_path, name, place):
    faces(tmp_path / "input", 1)
    face(tmp_path / "input" / "a.png")
    other = tmp_path / "runs" / place / name
    other.parent.mkdir(parents=True, exist_ok=True)
    other.write_bytes(b"mine")
    done = here("-eps", 1)
    assert done.status == 1 and "1 face made" in done.out
    assert f"{name} is there and is not of a result: move it" in done.err
    assert other.read_bytes() == b"mine"
    assert [path for path in (tmp_path / "runs").rglob("a.*") if path != other] == []
    done = here("-eps", 1, "-overwrite")
    assert done.status == 0 and "a.png" in pictures(tmp_path / "runs")


def test_a_face_of_align_face_in_the_place_of_a_result_is_kept(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    face(tmp_path / "runs" / "a.png", side=64)
    before = pictures(tmp_path / "runs")
    assert here("-eps", 1).status == 1
    assert pictures(tmp_path / "runs") == before


@pytest.mark.parametrize("place", FOLDERS)
def test_inputs_where_results_go_are_refused(here, tmp_path, place):
    face(tmp_path / "runs" / place / "a.png")
    done = here("-input_dir", tmp_path / "runs" / place)
    assert done.status == 2 and "is where the inputs are" in done.err


def test_a_file_in_the_place_of_a_sheet_is_kept(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    mine = face(tmp_path / "runs" / "sheets" / "a.png", side=64)
    before = mine.read_bytes()
    done = here("-eps", 1, "-sheet")
    assert done.status == 1 and "sheets/a.png is there and is no sheet: move it" in done.err
    assert mine.read_bytes() == before and (tmp_path / "runs" / "a.png").exists()
    assert here("-eps", 1, "-sheet", "-overwrite").status == 0 and mine.read_bytes() != before
    assert here("-eps", 1, "-sheet").status == 0  # its own it makes again


def test_a_result_of_the_first_version_is_a_result(here, tmp_path):
    """It had no record, and no version in its picture."""
    face(tmp_path / "input" / "a.png")
    place = tmp_path / "runs" / "a.png"
    write_png(place, Image.new("RGB", (8, 8)), {"Software": "PULSE", "pulse:seed": "3"})
    assert here("-eps", 1).status == 0 and picture_text(place)["pulse:seed"] == "0"


def test_what_a_killed_run_left_goes_and_nothing_of_others(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    left = tmp_path / "runs" / "outside_eps" / ".123-0123abcd.part"
    others = tmp_path / "runs" / "another_run" / ".456-0123abcd.part"
    for path in (left, others):
        path.parent.mkdir(parents=True)
        path.touch()
    named_like_one = tmp_path / "runs" / ".789-0123abcd.part"
    named_like_one.mkdir()
    assert here("-eps", 1).status == 0
    assert not left.exists() and others.exists() and named_like_one.is_dir()


def test_a_list_that_is_not_of_results_is_kept(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    mine = tmp_path / "runs" / "results.csv"
    mine.parent.mkdir()
    mine.write_text("my,own,table\n")
    for more in ((), ("-summary",)):
        done = here(*more)
        assert done.status == 2 and "results.csv is there and is not a list of results" in done.err
    assert mine.read_text() == "my,own,table\n" and not pictures(tmp_path / "runs")
    mine.unlink()
    assert here().status == 0
    for saved in (
        mine.read_text("utf-8-sig").replace("best_step,steps,", "best_step,"),  # before there was
        mine.read_text("utf-8-sig").replace(",", ";"),  # again, by a spreadsheet
        mine.read_text("utf-8-sig").replace("name,input", '"name","input"'),
    ):
        mine.write_text(saved)
        assert here().status == 0 and mine.read_text("utf-8-sig").startswith("name,input,seed")


def test_a_list_that_cannot_be_written_is_not_promised(here, tmp_path, monkeypatch):
    face(tmp_path / "input" / "a.png")

    def full(folder):
        raise OSError(28, "No space left on device", str(folder / "results.csv"))

    monkeypatch.setattr("runner.records.write_summary", full)
    done = here("-eps", 1)
    assert done.status == 1 and "listed" not in done.out
    assert "results.csv cannot be written (No space left on device)" in done.err


def test_a_lock_that_cannot_be_opened_is_one_sentence(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    (tmp_path / "runs" / ".pulse.lock").mkdir(parents=True)
    done = here()
    assert done.status == 2 and done.err.count("\n") == 1
    assert ".pulse.lock cannot be opened (Is a directory)" in done.err


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:200]), "damaged or cut off"),
        (lambda path: face(path, side=10), "10 pixels wide: it is no result of this picture"),
    ],
)
def test_a_damaged_result_costs_its_own_sheet_only(here, tmp_path, damage, why):
    faces(tmp_path / "input", 3)
    assert here("-eps", 1).status == 0
    damage(tmp_path / "runs" / "01.png")
    done = here("-eps", 1, "-sheet")
    assert done.status == 1 and "3 results kept" in done.out
    assert f"no sheet of {tmp_path / 'input' / '01.png'}".split("/")[-1] in done.err
    assert done.err.count(why) == 1 and "runs/01.png" in done.err
    assert "run.py: error: 1 sheet missing, for the reasons above" in done.err
    assert {path.name for path in (tmp_path / "runs" / "sheets").iterdir()} == {"00.png", "02.png"}


def test_what_no_picture_can_be_searched_with_ends_with_the_summary(here, tmp_path, monkeypatch):
    faces(tmp_path / "input", 3)
    whole, searched = folder.search_with_retries, []

    def fails(model, batch, *rest):
        searched.append(batch)
        if len(searched) == 2:
            raise UserError("this device lacks an operation")
        return whole(model, batch, *rest)

    monkeypatch.setattr(folder, "search_with_retries", fails)
    done = here("-eps", 1)
    assert done.status == 1 and len(searched) == 2
    assert "run.py: error: this device lacks an operation" in done.err
    assert "1 face made" in done.out and (tmp_path / "runs" / "results.csv").exists()


def test_a_process_that_fails_does_not_leave_the_first_waiting(start, small, tmp_path):
    faces(tmp_path / "input", 2)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    both = [
        start(arguments(generator), tmp_path, RANK=f"{i}", LOCAL_RANK=f"{i}", **together)
        for i, generator in enumerate((small, "missing.pt"))
    ]
    statuses = [process.wait() for process in both]
    assert statuses == [1, 2]
    assert "2 faces made" in both[0].output
    assert "run.py: error: another process ended before all was done" in both[0].output


def steps_of(folder, kind="HR") -> list[str]:
    return sorted(path.name for path in (folder / kind).iterdir())


def test_the_steps_of_each_attempt_have_a_folder_of_their_own(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    done = here("-eps", 1e-9, "-retries", 1, "-save_intermediate")
    assert done.status == 0 and len(record_of(tmp_path / "runs", "a")["attempts"]) == 2
    first = here("-eps", 1e-9, "-save_intermediate", "-output_dir", "first")
    assert first.status == 0
    runs, expected = tmp_path / "runs" / "a", tmp_path / "first" / "a"
    assert pictures(runs / "HR") == pictures(expected / "HR")  # of the search without retries
    assert steps_of(runs / "attempt_2") == steps_of(expected)
    assert pictures(runs / "attempt_2" / "HR") != pictures(expected / "HR")


def test_the_steps_of_an_earlier_search_go_with_its_result(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    here("-eps", 1e-9, "-retries", 1, "-save_intermediate", "-steps", 12)
    mine = face(tmp_path / "runs" / "a" / "HR" / "mine.png")
    here("-eps", 1e-9, "-save_intermediate", "-steps", 3, "-overwrite")
    assert steps_of(tmp_path / "runs" / "a") == ["a_0.png", "a_1.png", "a_2.png", mine.name]
    assert steps_of(tmp_path / "runs" / "a", "LR") == ["a_0.png", "a_1.png", "a_2.png"]
    assert not steps_of(tmp_path / "runs" / "a" / "attempt_2")


def test_steps_that_are_asked_for_later_are_searched_for(here, tmp_path):
    face(tmp_path / "input" / "a.png")
    assert here().status == 0
    before = pictures(tmp_path / "runs")
    assert "1 face made" in here("-save_intermediate").out
    assert len(steps_of(tmp_path / "runs" / "a")) == 8
    assert before.items() <= pictures(tmp_path / "runs").items()
    assert "1 result kept" in here("-save_intermediate").out
    for kind in ("HR", "LR"):  # as a run that was stopped leaves them
        (tmp_path / "runs" / "a" / kind / "a_7.png").unlink()
        assert "1 face made" in here("-save_intermediate").out
        assert len(steps_of(tmp_path / "runs" / "a", kind)) == 8
