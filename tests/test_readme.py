"""What the README and the environment files promise is so."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

import align_face
import evaluate
import experiments
import run
from evaluation import ablation

README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("script", "module"),
    [
        ("run.py", run),
        ("align_face.py", align_face),
        ("evaluate.py", evaluate),
        ("experiments.py", experiments),
    ],
)
def test_the_table_lists_every_flag_with_its_default(script, module):
    section = README.split(f"### {script}\n")[1].split("\n### ")[0]
    told = dict(re.findall(r"^\| `-(\w+)` \| (.*?) \|", section, re.MULTILINE))
    parser = module.parser()
    flags = {action.dest: action for action in parser._actions if action.option_strings}
    del flags["help"]
    assert told.keys() == flags.keys()
    for name, action in flags.items():
        shown = re.search(r"\(default: (.+)\)$", action.help)
        if shown and name != "seed" and (script, name) != ("align_face.py", "input_dir"):
            assert told[name] == f"`{shown[1]}`", name


def test_the_experiments_that_commands_name_are_there():
    named = re.search(r"^python experiments\.py.*\\\n\s*-only (.+)$", README, re.MULTILINE)[
        1
    ].split()
    there = {experiment.name for experiment in ablation.experiments(18, robustness=True)}
    assert len(named) > 1 and set(named) <= there


def test_the_python_example_runs_as_it_stands(tmp_path):
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert len([line for line in example.splitlines() if line]) == 5
    (tmp_path / "input").mkdir()
    Image.new("RGB", (16, 16), (120, 100, 90)).save(tmp_path / "input" / "face.png")
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{example}print(search.results)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "within_eps" in done.stdout
    assert Image.open(tmp_path / "face_hr.png").size == (64, 64)


def test_every_link_to_a_file_of_the_repository_leads_somewhere():
    for target in re.findall(r"\]\((?!https?:|#)([^)]+)\)", README):
        assert (ROOT / target).exists(), target


def test_pip_refuses_to_install_it_in_one_sentence():
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "--dry-run", "--disable-pip-version-check", ROOT],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert re.fullmatch(r"ERROR: Directory '.*' is not installable\. .*\n", done.stderr)


def test_both_environments_have_the_same_packages():
    conda_names = {"torch": "pytorch", "dlib-bin": "dlib"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    packages = {re.sub(r"^[\w-]+", lambda m: conda_names.get(m[0], m[0]), line) for line in wanted}
    environment = (ROOT / "pulse.yml").read_text()
    listed = set(re.findall(r"^  - (\S+)$", environment, re.MULTILINE)) - {"conda-forge"}
    assert listed - {"python>=3.10"} == packages
    assert "prefix" not in environment and not re.search(r"=\w+_\d+", environment)
