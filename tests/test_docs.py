"""What README, docs/ and the model cards say of commands, flags and files is so."""

import importlib
import os
import re
import runpy
import shlex
import subprocess
import sys

import pytest
from conftest import ROOT, compiled_before
from PIL import Image

from evaluation import ablation

PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in [ROOT / "README.md", ROOT / "MODEL_CARD.md", ROOT / "demo" / "MODEL.md"]
    + sorted((ROOT / "docs").glob("*.md"))
}
WRITE_FLAGS = runpy.run_path(str(ROOT / "docs" / "write_flags.py"))
PARSERS = {module: importlib.import_module(module).parser() for module in WRITE_FLAGS["MODULES"]}
# Python's own, and two of C compilers.
OTHER_FLAGS = {"-h", "-m", "-c", "-ffast-math", "-mprefer-vector-width"}


def code_of(page: str) -> list[str]:
    """The lines of shell blocks, and what stands between backticks in sentences."""
    blocks = re.findall(r"```(?:sh)?\n(.*?)```", page, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return lines + re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page, flags=re.DOTALL))


def commands(page: str) -> list[tuple[str, list[str]]]:
    """Every command of ours that a page says to type: its module and its arguments."""
    found = []
    for line in code_of(page):
        for command in re.split("&&|;", line):
            if not re.match(r"\s*(python|torchrun|srun) ", command):
                continue
            words = shlex.split(re.sub(r"\$\w+", "16", command), comments=True)
            for i, word in enumerate(words):
                if (module := word.removesuffix(".py")) in PARSERS:
                    found.append((module, words[i + 1 :]))
    return found


def anchors(page: str) -> set[str]:
    """The names by which a link reaches the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", re.sub(r"```.*?```", "", page, flags=re.DOTALL), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_flags_md_is_what_the_parsers_say():
    assert PAGES["docs/flags.md"] == WRITE_FLAGS["page"](), "run `make flags`"


def test_every_flag_has_a_help_text_and_its_own_row():
    for module, parser in PARSERS.items():
        section = WRITE_FLAGS["section"](module)
        rows = re.findall(r"^\| `-(\w+)` \| .* \| (.+) \|$", section, re.MULTILINE)
        flags = [action.dest for action in parser._actions if action.option_strings]
        assert ["help", *(name for name, _ in rows)] == flags


@pytest.mark.parametrize("name", PAGES)
def test_every_command_that_a_page_says_to_type_is_understood(name):
    for module, arguments in commands(PAGES[name]):
        PARSERS[module].parse_args(arguments)


@pytest.mark.parametrize("name", PAGES)
def test_every_flag_that_a_page_names_exists(name):
    known = {option for parser in PARSERS.values() for option in parser._option_string_actions}
    named = {
        flag for code in code_of(PAGES[name]) for flag in re.findall(r"^-[A-Za-z][\w-]*", code)
    }
    assert named <= known | OTHER_FLAGS


def test_the_experiments_that_commands_name_exist():
    calls = [call for page in PAGES.values() for call in commands(page) if "-only" in call[1]]
    known = {experiment.name for experiment in ablation.experiments(18, robustness=True)}
    named = {
        name for module, arguments in calls for name in PARSERS[module].parse_args(arguments).only
    }
    assert len(named) > 1 and named <= known


@pytest.mark.parametrize("name", PAGES)
def test_every_link_leads_to_a_file_and_a_heading(name):
    for link in re.findall(r"\]\((?!https?:)([^)]+)\)", PAGES[name]):
        file, _, heading = link.partition("#")
        target = (ROOT / name).parent / file if file else ROOT / name
        assert target.exists(), link
        if heading:
            page = os.path.relpath(target, ROOT).replace(os.sep, "/")
            assert heading in anchors(PAGES[page]), link


def test_the_readme_links_every_page():
    linked = re.findall(r"\]\(([\w/.-]+)", PAGES["README.md"])
    assert {name for name in PAGES if name != "README.md"} - {"demo/MODEL.md"} <= set(linked)


def test_the_python_of_python_md_runs_as_it_stands(c_cache, tmp_path):
    """But with the smaller generator."""
    blocks = re.findall(r"```python\n(.*?)```", PAGES["docs/python.md"], re.DOTALL)
    assert blocks[0] in PAGES["README.md"]
    compiled_before(tmp_path, c_cache)
    (tmp_path / "input").mkdir()
    for file in ("face.png", "input/face.png"):
        Image.new("RGB", (16, 16), (120, 100, 90)).save(tmp_path / file)
    code = "\n".join(blocks).replace("/path/to/pulse", str(ROOT)).replace('"demo"', '"demo64"')
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nprint(to_picture(HR[0]).size)"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(64, 64)\n"
