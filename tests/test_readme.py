"""What the README and the environment files promise is so."""

import os
import re
import subprocess
import sys

from conftest import ROOT, compiled_before
from PIL import Image

README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]

# Printed by a program that imported PULSE: which names at the root of this repository that took.
NAMES_AT_THE_ROOT = f"""
import pathlib
files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
ours = [pathlib.Path(f) for f in files if f and pathlib.Path(f).is_relative_to({str(ROOT)!r})]
ours = [path.relative_to({str(ROOT)!r}) for path in ours if ".venv" not in path.parts]
print(*sorted({{path.parts[0].removesuffix(".py") for path in ours}}))
"""


def test_it_is_short():
    assert len(README.splitlines()) <= 170


def test_the_five_lines_run_beside_files_of_a_project_but_for_the_names_that_are_listed(
    c_cache, tmp_path
):
    assert len([line for line in EXAMPLE.splitlines() if line]) == 5
    compiled_before(tmp_path, c_cache)
    (tmp_path / "input").mkdir()
    Image.new("RGB", (16, 16), (120, 100, 90)).save(tmp_path / "input" / "face.png")
    own = ["settings", "images", "report", "utils", "run", "evaluate", "runner", "training"]
    for name in own:
        (tmp_path / f"{name}.py").write_text("OWN = True\n")
    example = EXAMPLE.replace('"demo"', '"demo64"').replace("seed=0)", "seed=0, steps=3)")
    program = f"import sys\nsys.path.append({str(ROOT)!r})\n{example}print(search.results)\n"
    program += "".join(f"import {name}\nassert {name}.OWN\n" for name in own)
    (tmp_path / "program.py").write_text(program + NAMES_AT_THE_ROOT)
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    results, names = done.stdout.splitlines()
    assert "within_eps" in results
    assert Image.open(tmp_path / "face_hr.png").size == (64, 64)
    listed = re.search(r"Your project must not have modules called (.*?)\. ", README, re.DOTALL)[1]
    assert set(names.split()) == set(re.findall(r"`(\w+)`", listed))


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
    listed = set(re.findall(r"^ +- (\S+)$", environment, re.MULTILINE))
    listed -= {"conda-forge", "pip", "pip:"}
    assert listed - {"python>=3.10"} == packages
    assert "prefix" not in environment and not re.search(r"=\w+_\d+", environment)
