"""demo/PULSE.ipynb runs from top to bottom, in a checkout and where there is none."""

from __future__ import annotations

import base64
import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from conftest import ROOT, compiled_before
from PIL import Image

nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed")
NOTEBOOK = nbformat.read(ROOT / "demo" / "PULSE.ipynb", as_version=4)
CODE = [cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code"]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A repository of what is in this one, that can be cloned."""
    folder = tmp_path_factory.mktemp("repository") / "pulse"
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and not name.startswith("tests/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    for arguments in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "all of it"]):
        subprocess.run(["git", *arguments], cwd=folder, check=True)
    return folder


def executed(folder: Path, monkeypatch):
    """The notebook, after it ran in that folder with few steps."""
    nbclient = pytest.importorskip("nbclient", reason="nbclient is not installed")
    pytest.importorskip("ipykernel", reason="ipykernel is not installed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.from_dict(NOTEBOOK)
    few = {
        r"STEPS = \d+": "STEPS = 3",
        r"FEWER, MORE = \d+, \d+": "FEWER, MORE = 2, 12",
        "run.py.*": r"\g<0> -steps 3",
    }
    for cell in notebook.cells:
        for pattern, replacement in few.items() if cell.cell_type == "code" else ():
            cell.source = re.sub(pattern, replacement, cell.source)
    client = nbclient.NotebookClient(
        notebook,
        timeout=600,
        startup_timeout=300,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def outputs(notebook, containing: str) -> list:
    (cell,) = (
        cell
        for cell in notebook.cells
        if cell.cell_type == "code" and re.search(containing, cell.source, re.MULTILINE)
    )
    return cell.outputs


def text(found: list) -> str:
    return "".join(output.get("text", "") for output in found)


def picture(output) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(output.data["image/png"])))


@pytest.mark.parametrize("where", ["demo", "empty"])
def test_it_runs_in_a_checkout_and_in_an_empty_folder(
    where, checkout, c_cache, tmp_path, monkeypatch
):
    if where == "demo":
        folder = checkout / "demo"  # where Jupyter opens it
    else:
        folder = tmp_path / "an empty folder"
        folder.mkdir()
        monkeypatch.setenv("PULSE_REPOSITORY", str(checkout))
    compiled_before(folder / "pulse_notebook", c_cache)
    notebook = executed(folder, monkeypatch)
    work = folder / "pulse_notebook"
    assert (folder / "pulse" / "PULSE.py").exists() == (where == "empty")
    assert f"{work}" in text(outputs(notebook, "^WORK = "))
    assert "demo: 128 pixels" in text(outputs(notebook, "^device = "))
    assert "1024 pixels; LR: 16 pixels" in text(outputs(notebook, "^LR = "))
    assert picture(outputs(notebook, "^face.resize")[0]).size == (256, 256)
    (search,) = outputs(notebook, "^found = ")
    assert picture(search).width > 700  # in the end the sheet, where the LR picture was at first
    assert len(outputs(notebook, "^faces = ")) == 3
    assert picture(outputs(notebook, r"^sheet\(\*faces")[0]).width > 1000
    fewer, more, between = re.findall(r"0\.\d+", text(outputs(notebook, "^def difference")))
    assert float(more) < float(fewer) and float(between) > 0
    assert "1 face made" in text(outputs(notebook, "run.py"))
    results = list((work / "runs").rglob("*.png"))
    assert [path.name for path in results] == ["eileen_collins_0.png"]
    shown = outputs(notebook, r"rglob\(")
    assert str(results[0].relative_to(work)) in text(shown)
    assert any("image/png" in output.get("data", {}) for output in shown)


def test_its_commands_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    known = {
        re.sub(r"\s+#.*", "", line).strip()
        for block in re.findall(r"```sh\n(.*?)```", readme, re.DOTALL)
        for line in block.replace(" && ", "\n").splitlines()
    }
    known.add("python demo/photograph.py realpics")  # the Makefile's, for another folder
    assert "python demo/photograph.py" in (ROOT / "Makefile").read_text().replace("$(BIN)/", "")
    typed = [line for source in CODE for line in source.splitlines() if "!{" in line]
    commands = {
        re.sub(r'\{sys.executable\} "\{PULSE_FOLDER\}/([\w/.]+)"', r"python \1", line).strip(" !")
        for line in typed
    }
    assert len(commands) == 3 and commands <= known
    assert any(line.startswith("git clone") for line in known)
    assert "pip install -r requirements.txt" in known


def test_it_is_clean_small_and_says_that_nobody_is_shown():
    kept = [output for cell in NOTEBOOK.cells for output in cell.get("outputs", [])]
    assert len(kept) == 1 and set(kept[0].data) == {"image/jpeg", "text/plain"}
    assert (ROOT / "demo" / "PULSE.ipynb").stat().st_size < 100_000
    assert all(cell.get("execution_count") is None for cell in NOTEBOOK.cells)
    assert max(source.count("\n") for source in CODE) < 20
    assert "The people in the results do not exist." in NOTEBOOK.cells[0].source
    assert "These people do not exist." in "".join(CODE)
    assert os.environ["HOME"] not in (ROOT / "demo" / "PULSE.ipynb").read_text(encoding="utf-8")


def test_another_generator_after_demo_has_all_threads_again(
    one_thread, tiny, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    (cell,) = (source for source in CODE if "PULSE(generator=GENERATOR)" in source)
    names, threads = {"torch": torch}, []
    for generator in ("demo", "demo", str(tiny)):
        names["GENERATOR"] = generator
        exec(cell, names)
        threads.append(torch.get_num_threads())
    assert threads == [1, 1, 2]


def test_a_face_that_is_not_there_is_told_of(tmp_path, monkeypatch, astronaut):
    (cell,) = (source for source in CODE if "FACE, SIDE" in source)
    monkeypatch.chdir(tmp_path)
    astronaut.save("photograph.png")
    with pytest.raises(AssertionError, match="faces in photograph.png: 1; FACE counts them from 0"):
        exec(cell.replace("= 0, 16", "= 1, 16"), {"Path": Path, "PHOTOGRAPH": "photograph.png"})
