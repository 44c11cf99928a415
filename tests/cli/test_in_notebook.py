"""The commands and the five lines of README.md in a notebook, whose kernel outlives all of it."""

import os
import re
import signal
import threading
import time

import pytest
from conftest import ROOT, compiled_before
from forked_runs import face

MISSING = "{} is not installed (requirements-app.txt)"
nbformat = pytest.importorskip("nbformat", reason=MISSING.format("nbformat"))
nbclient = pytest.importorskip("nbclient", reason=MISSING.format("nbclient"))
pytest.importorskip("ipykernel", reason=MISSING.format("ipykernel"))

README = (ROOT / "README.md").read_text(encoding="utf-8")
FIVE_LINES = re.search(r"```python\n(from imaging.*?)```", README, re.DOTALL)[1]
FEW_STEPS = FIVE_LINES.replace("seed=0)", "seed=0, steps=3)")  # of a hundred
DEMO = "-generator demo -seed 0 -quiet"
CELLS = f"""
import signal, sys
handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
---
%run {ROOT}/align_face.py -mode resize -output_size 8 -input_dir input -output_dir small
%run {ROOT}/run.py -input_dir small -output_dir here -steps 3 {DEMO}
---
!{{sys.executable}} {ROOT}/align_face.py -mode resize -output_size 8 -output_dir beside -quiet
!{{sys.executable}} {ROOT}/run.py -input_dir beside -output_dir there -steps 3 {DEMO}
---
sys.path.append({str(ROOT)!r})
{FEW_STEPS.replace("input/face.png", "small/face_0.png")}
print(HR.shape, search.results[0].within_eps)
---
%run {ROOT}/run.py -input_dir small -output_dir long -steps 1000000 {DEMO}
---
assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
open("sleeping", "w").close()
import time; time.sleep(600)
---
print("alive")
"""


def printed(cell) -> str:
    outputs = cell["outputs"]
    return "".join(each.get("text", "") + each.get("evalue", "") for each in outputs)


@pytest.fixture
def notebook(c_cache, tmp_path, monkeypatch):
    """Its client, with a kernel that runs in `tmp_path`."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as docs/python.md advises
    face(tmp_path / "input" / "face.png", side=8)
    compiled_before(tmp_path, c_cache)
    cells = [nbformat.v4.new_code_cell(source.strip("\n")) for source in CELLS.split("---\n")]
    client = nbclient.NotebookClient(
        nbformat.v4.new_notebook(cells=cells),
        timeout=300,
        kernel_name="python3",
        allow_errors=True,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    with client.setup_kernel():
        yield client


def interrupt_once(
    client: nbclient.NotebookClient, begun, seconds: float = 120
) -> threading.Thread:
    """The button of a notebook, pressed as soon as a file exists: it sends SIGINT."""

    def press() -> None:
        deadline = time.monotonic() + seconds
        while not begun.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.3)
        os.kill(client.km.provisioner.process.pid, signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    return thread


def test_a_notebook_runs_everything_and_outlives_an_interrupt(notebook, tmp_path):
    begun = {4: tmp_path / "long" / ".pulse.lock", 5: tmp_path / "sleeping"}
    said = []
    for number, cell in enumerate(notebook.nb.cells):
        thread = interrupt_once(notebook, begun[number]) if number in begun else None
        said.append(printed(notebook.execute_cell(cell, number)))
        if thread is not None:
            thread.join()
    before, here, there, lines, stopped, slept, alive = said
    assert before == "" and "1 face from 1 photograph in small" in here
    for told, folder in ((here, "here"), (there, "there")):
        assert "1 face made" in told and f"Pictures: {folder}" in told
        (result,) = (tmp_path / folder).rglob("face_0.png")
    assert (tmp_path / "here").exists() and (tmp_path / "face_hr.png").exists(), lines
    assert "torch.Size([1, 3, 128, 128])" in lines
    assert "run.py: stopped; what is finished is kept" in stopped and "130" in stopped
    assert "KeyboardInterrupt" in str(notebook.nb.cells[5].outputs) and not slept.strip("\n ")
    assert alive == "alive\n"
    nbformat.validate(notebook.nb)
