"""demo/photograph.py, which writes the demo's photograph."""

from __future__ import annotations

import pytest
from conftest import command
from PIL import Image


def test_it_writes_the_photograph_into_a_folder_that_it_makes(astronaut, tmp_path):
    done = command("demo/photograph.py", "a/b", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, "photograph: a/b/eileen_collins.png\n")
    with Image.open(tmp_path / "a" / "b" / "eileen_collins.png") as written:
        assert written.tobytes() == astronaut.tobytes()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: FOLDER (-h lists every flag)"),
        (["file"], "file/eileen_collins.png cannot be written (File exists): give another folder"),
    ],
)
def test_without_a_folder_that_can_be_written_it_says_one_sentence(arguments, said, tmp_path):
    (tmp_path / "file").touch()
    done = command("demo/photograph.py", *arguments, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"photograph.py: error: {said}\n"
