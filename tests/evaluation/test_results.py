"""What is wrong in a folder of results, or in a file of groups, is one sentence each."""

from pathlib import Path

import pytest
from result_folders import RECORDS, flat

from cli.errors import UserError
from evaluation.results import PictureFolder, Problems, read_curve, read_results


def test_nothing_to_evaluate_is_status_two_and_one_sentence(scene):
    assert "runs is no folder" in scene().stderr
    Path("runs").mkdir()
    done = scene()
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr == "evaluate.py: error: runs holds no result of run.py\n"


def test_records_without_pictures_and_pictures_without_records_are_named_once(scene):
    scene.add("good", flat(99), flat(100, 8))
    scene.add("gone", flat(99), flat(100, 8)).unlink()
    scene.add("far", flat(99), flat(100, 8), within_eps=False).with_suffix(".json").unlink()
    scene.add("bare", flat(99), flat(100, 8)).with_suffix(".json").unlink()
    scene.add("cut", flat(99), flat(100, 8)).with_suffix(".json").write_text('{"name": "cu')
    scene.add("odd", flat(99), flat(100, 8), l2="much")
    scene.add("huge", flat(99), flat(100, 8), l2=10**400)
    scene.add("minus", flat(99), flat(100, 8), l2=-0.001)
    scene.add("twice", flat(99), flat(100, 8), within_eps=False)
    scene.add("twice", flat(99), flat(100, 8), within_eps=True)
    Path("runs/figures.json").write_text('{"figures": 1}')  # an -json of before: nobody's record
    Path("runs/results.csv").write_text("name\n")
    done = scene.figures()
    assert done.returncode == 1 and done.rows[RECORDS]["pictures"] == 2
    lines = done.stderr.splitlines()
    assert len(lines) == 4
    assert lines[0].startswith("bare.png, outside_eps/far.png: left out, no record (.json)")
    assert lines[1].startswith(
        "cut.png, huge.png, minus.png, odd.png: left out, its record is damaged"
    )
    assert lines[2].startswith("gone.json: left out, a record without its picture")
    assert lines[3].startswith("outside_eps/twice.png: left out, a result of that name")


def test_a_groups_file_that_misses_pictures_or_has_unknown_ones_is_one_sentence_each(scene):
    for name in "abcde":
        scene.add(name, flat(99), flat(100, 8))
    Path("g.csv").write_text("file,group\na,x\nb,y\nb.png,z\nc,\nnobody,x\nnot.png,y\n")
    done = scene.figures("-groups", "g.csv")
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        "b.png: in several groups of -groups g.csv: the first one counts",
        "c: has no file or no group in -groups g.csv: give it both",
        "nobody, not.png: in -groups g.csv, but of none of the results: skipped",
        "c.png, d.png, e.png: not in -groups g.csv: left out of the groups, add a line of it",
    ]
    assert [group["inputs"] for group in done.document["groups"]["table"]] == [1, 1]
    assert done.PNG["pictures"] == 5 and done.document["problems"] == done.stderr.splitlines()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"name;group\na;x\n", "lacks the columns: its first line must be file,group"),
        (b"", "lacks the columns"),
        (b"file,group\n\xff\xfe\x00,x\n", "cannot be read (it is no CSV file in UTF-8)"),
        (None, "cannot be read (No such file"),
    ],
)
def test_a_groups_file_that_is_none_ends_it_before_anything_is_measured(scene, content, sentence):
    scene.add("a", flat(99), flat(100, 8))
    if content is not None:
        Path("g.csv").write_bytes(content)
    done = scene("-groups", "g.csv")
    assert done.returncode == 2 and sentence in done.stderr and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1


def test_the_curve_of_a_result_has_gaps_where_a_step_was_not_finite(scene):
    path = scene.add("a", flat(99), flat(100, 8), curve={"L2": [0.1, None, "much", 0.01]})
    assert read_curve(path) == [0.1, None, None, 0.01]
    for damaged in ({}, None, [1], {"L2": 0.1}):
        assert read_curve(scene.add("b", flat(99), flat(100, 8), curve=damaged)) == []
    assert read_curve(Path("runs/nothing.png")) == []


def test_results_of_one_input_are_together_and_its_picture_is_found_by_name_or_stem(scene):
    for name in ("b_2", "a", "b_1"):
        scene.add(name, flat(99), flat(100, 8), f"{name[0]}.png")
    problems = Problems()
    by_input = read_results(Path("runs"), problems)
    names = [[result.path.stem for result in results] for results in by_input]
    assert names == [["a"], ["b_1", "b_2"]] and problems.lines() == []
    Path("input/a.png").rename("input/a.bmp")
    Path("input/a.NEF").write_bytes(b"raw")  # a file that cannot be read is no rival
    folder = PictureFolder(Path("input"), "-input_dir")
    assert folder.label == "-input_dir input"
    assert [folder.read(results[0].input).size for results in by_input] == [(8, 8)] * 2
    Path("input/a.tif").write_bytes(Path("input/a.bmp").read_bytes())
    with pytest.raises(UserError, match=r"keep one of a\.bmp, a\.tif"):
        PictureFolder(Path("input"), "-input_dir").read("a.png")
