"""faces.csv: a line for every face that exists, whatever happened in between."""

import csv

import pytest

from cli.errors import UserError
from imaging.face_records import FaceRecord, FaceRecords, summary
from imaging.pictures import FACES_CSV, list_pictures


def record(name: str, score: float = 1.5, face: int = 0) -> FaceRecord:
    return FaceRecord(f"{name}_{face}.png", f"{name}.jpg", face, score, 90.5, 0, 1)


def rows(folder) -> list[dict[str, str]]:
    with open(folder / FACES_CSV, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def faces(folder, *records: FaceRecord) -> None:
    for each in records:
        (folder / each.file).touch()


def test_lines_are_added_and_the_last_one_of_a_face_that_exists_remains(tmp_path):
    one, two = record("anna"), record("=bö,rn")
    faces(tmp_path, one, two)
    records = FaceRecords(tmp_path)
    records.add([one, record("gone")])
    assert [row["file"] for row in rows(tmp_path)] == ["anna_0.png", "gone_0.png"]
    again = FaceRecords(tmp_path)  # another run
    again.add([two])
    again.add([record("anna", 0.25)])
    again.tidy()
    assert [(row["file"], row["score"]) for row in rows(tmp_path)] == [
        ("anna_0.png", "0.25"),
        ("'=bö,rn_0.png", "1.5"),  # no formula for a table program
    ]
    content = (tmp_path / FACES_CSV).read_bytes()
    assert content.startswith(b"\xef\xbb\xbffile,photograph,face,score,width,turned,found\n")
    assert content.count(b"\xef\xbb\xbf") == 1
    again.tidy()
    assert (tmp_path / FACES_CSV).read_bytes() == content


def test_a_line_that_a_killed_run_cut_off_costs_only_itself(tmp_path):
    faces(tmp_path, record("anna"), record("bert"))
    FaceRecords(tmp_path).add([record("anna")])
    with open(tmp_path / FACES_CSV, "ab") as file:
        file.write(b"bert_0.png,bert.j")
    records = FaceRecords(tmp_path)
    records.add([record("bert")])
    records.tidy()
    assert [row["file"] for row in rows(tmp_path)] == ["anna_0.png", "bert_0.png"]


@pytest.mark.parametrize("content", [b"name,age\n", b"\xff\xfe\0", b"", b"\x89PNG\r\n"])
def test_a_table_of_somebody_else_is_left_alone(tmp_path, content):
    (tmp_path / FACES_CSV).write_bytes(content)
    with pytest.raises(UserError, match="not align_face.py's"):
        FaceRecords(tmp_path)
    assert (tmp_path / FACES_CSV).read_bytes() == content


def test_the_table_is_no_news_to_whoever_lists_the_folder(tmp_path):
    FaceRecords(tmp_path).add([record("anna")])
    assert list_pictures(tmp_path) == ([], [])


def test_a_table_that_cannot_be_written_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        FaceRecords(tmp_path / "missing").add([record("anna")])


def test_the_line_of_a_photograph_names_scores_turns_and_what_was_left_out():
    turned = FaceRecord("a_0.png", "a.jpg", 0, 1.164, 91.0, 90, 3)
    assert summary([turned]) == ("1 face of 3; 0: score 1.16, 91 pixels wide, turned by 90 degrees")
    many = [FaceRecord(f"a_{n}.png", "a.jpg", n, 1.0, 50.0, 0, 12) for n in range(12)]
    assert summary(many).startswith("12 faces; 0: ") and summary(many).endswith("; and 2 more")
