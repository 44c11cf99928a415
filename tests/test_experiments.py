"""experiments.py: its figures are those of evaluate.py, it goes on where it was stopped, and says
what is wrong; the plots can be read. On a small generator; runs that are stopped are processes.
"""

import contextlib
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image

import align_face
import experiments
from cli.command import run_command

SIDE = 4  # of the LR, a quarter of the small generator's
CHOSEN = ["defaults", "steps-50", "noise-all", "gaussian-25"]


def photographs(folder, number, side=32):
    """Pictures of noise, and their LR as align_face.py makes them, in hr and lr."""
    (folder / "hr").mkdir()
    for i in range(number):
        pixels = np.random.default_rng(i).integers(0, 256, (side, side, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "hr" / f"{i}.png")
    args = ["-mode", "resize", "-input_dir", "hr", "-output_dir", "lr", "-output_size", str(SIDE)]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["align_face.py", "-quiet", *args])
        assert align_face.main() == 0


@pytest.fixture(scope="module")
def measured(tiny, tmp_path_factory):
    """A folder in which experiments.py has run, in this process, and what it said."""
    folder = tmp_path_factory.mktemp("experiments")
    photographs(folder, 3)
    args = ["-input_dir", "lr", "-hr_dir", "hr", "-generator", tiny, "-device", "cpu"]
    args += ["-processes", 2, "-only", *CHOSEN]
    said, told = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["experiments.py", *map(str, args)])
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
            assert experiments.main() == 0, told.getvalue()
    done = SimpleNamespace(stdout=said.getvalue(), stderr=told.getvalue())
    document = json.loads((folder / "experiments" / "experiments.json").read_text())
    rows = {row["name"]: row for row in document["experiments"]}
    out = folder / "experiments"
    return SimpleNamespace(
        folder=folder, out=out, args=args, rows=rows, document=document, done=done
    )


@pytest.fixture
def call(tiny, monkeypatch, capsys):
    """`call("-only", "defaults")` in this process, in the present folder."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()

    def call(*args, generator=tiny):
        words = ["-generator", generator, "-device", "cpu", "-input_dir", "lr", *args]
        monkeypatch.setattr(sys, "argv", ["experiments.py", *map(str, words)])
        with pytest.raises(SystemExit) as left:
            run_command(experiments.main)
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return SimpleNamespace(status=left.value.code, out=captured.out, err=captured.err)

    yield call
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)


# ------------------------------------------------------------ figures


@pytest.mark.parametrize("name", CHOSEN)
def test_the_figures_are_those_of_evaluate_on_the_same_folder(measured, called, name):
    lr = f"experiments/lr/{name}" if name == "gaussian-25" else "lr"
    args = [f"experiments/{name}", "-input_dir", lr, "-clean", "lr", "-json", f"{name}.json"]
    done = called("evaluate.py", *args, cwd=measured.folder)
    assert done.returncode == 0, done.stderr
    table = json.loads((measured.folder / f"{name}.json").read_text())["table"]
    records, files = table[0], table[1]
    row = measured.rows[name]
    for key in ("pictures", "within_eps", "l2", "l2_error", "worst_l2", "geocross", "seconds"):
        assert row[key] == records[key], key
    assert row["pictures"] == 3 and row["l2_error"] > 0 and row["geocross"] > 0
    if name in ("defaults", "gaussian-25"):
        assert (row["clean_l2"], row["clean_psnr"]) == (files["clean_l2"], files["clean_psnr"])
    else:
        assert "clean_l2" not in row


def test_an_experiment_is_run_py_with_its_flags_and_one_seed(measured):
    for name, setting, value in (
        ("steps-50", "steps", 50),
        ("noise-all", "num_trainable_noise_layers", 6),
        ("defaults", "steps", 100),
    ):
        for path in (measured.out / name).rglob("*.json"):
            record = json.loads(path.read_text())
            assert record["settings"][setting] == value and record["settings"]["seed"] == 0
            assert record["threads"] == 1


def test_degraded_lr_are_held_against_the_clean_ones(measured):
    row = measured.rows["gaussian-25"]
    damage = []
    for path in (measured.folder / "lr").glob("*.png"):
        clean, noisy = (
            np.asarray(Image.open(place), float) / 255
            for place in (path, measured.out / "lr" / "gaussian-25" / path.name)
        )
        damage.append(((clean - noisy) ** 2).mean())
    assert row["damage"] == pytest.approx(np.mean(damage), rel=1e-9)
    assert measured.rows["defaults"]["damage"] == 0
    assert row["clean_within_eps"]["of"] == 3


def test_the_tables_tell_the_figures_how_they_were_made_and_when(measured):
    text = (measured.out / "experiments.md").read_text()
    flat = [f"{row['l2']:.5f}" for row in measured.rows.values()]
    assert all(f"| {value} |" in text for value in flat)
    assert "| steps | `-steps 50` |" in text
    assert "| noise | `-num_trainable_noise_layers 6` |" in text
    assert "| `gaussian:25` |" in text and "| none |" in text
    assert re.search(r"Measured on 20\d\d-\d\d-\d\d by `python experiments.py -input_dir lr", text)
    assert "3 pictures of 4×4, generator tiny.pt, seed 0" in text
    assert all(value in measured.done.stdout for value in flat)


def test_every_plot_is_a_small_png_with_something_on_it(measured):
    for name in ("knobs", "steps", "naturalness", "robustness"):
        path = measured.out / f"{name}.png"
        assert path.stat().st_size < 150_000
        assert np.asarray(Image.open(path).convert("L"), float).std() > 10


def test_progress_is_told_while_it_runs(measured):
    for name in CHOSEN:
        assert re.search(
            rf"^{name}: \d of 3 within eps, mean L2 0\.\d+$", measured.done.stderr, re.M
        )


# ------------------------------------------------------------ stopped, and run again


def test_the_same_command_again_searches_for_nothing_and_tells_the_same(measured, called, tmp_path):
    again = ["defaults", "gaussian-25"]  # on LR that were given, and on some that were made
    shutil.copytree(measured.folder, tmp_path, dirs_exist_ok=True)

    def results():
        return {
            path: path.stat().st_mtime_ns
            for name in again
            for path in (tmp_path / "experiments" / name).rglob("*.png")
        }

    before = results()
    assert len(before) == 3 * len(again)
    args = measured.args[: -len(CHOSEN)]
    done = called("experiments.py", *args, *again, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert results() == before
    document = json.loads((tmp_path / "experiments" / "experiments.json").read_text())
    assert document["experiments"] == [measured.rows[name] for name in again]


def test_results_of_a_picture_that_was_removed_do_not_count(measured, call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("lr", "hr", "experiments"):
        shutil.copytree(measured.folder / name, name)
    gone = sorted(Path("lr").iterdir())[0]
    gone.unlink()
    chosen = ["defaults", "gaussian-25"]  # the degraded LR of that picture lies there still
    done = call("-hr_dir", "hr", "-quiet", "-only", *chosen)
    assert done.status == 0, done.err
    rows = json.loads(Path("experiments/experiments.json").read_text())["experiments"]
    for name, row in zip(chosen, rows, strict=True):
        assert row["pictures"] == row["within_eps"]["of"] == 2
        found = Path("experiments", name).rglob(f"{gone.stem}.json")
        left_out = json.loads(next(found).read_text())["l2"]
        all_three = 3 * measured.rows[name]["l2"]
        assert row["l2"] == pytest.approx((all_three - left_out) / 2)
    assert " of 2" in done.out and " of 3" not in done.out
    assert done.err == "" and "Written" not in done.out  # -quiet: errors and the tables


@pytest.mark.parametrize(
    ("how", "chosen"), [(signal.SIGTERM, ["defaults", "steps-50"]), (signal.SIGKILL, ["steps-50"])]
)
def test_a_stopped_run_leaves_no_process_and_goes_on_to_the_figures_of_one_that_was_not(
    measured, called, how, chosen, tmp_path
):
    shutil.copytree(measured.folder / "lr", tmp_path / "lr")
    args = [*measured.args[:2], *measured.args[4:8], "-processes", 2]
    args += ["-only", *chosen]
    words = [sys.executable, str(ROOT / "experiments.py"), *map(str, args)]
    process = subprocess.Popen(
        words, cwd=tmp_path, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    until = time.monotonic() + 120
    while not list((tmp_path / "experiments").rglob("*.png")) and time.monotonic() < until:
        time.sleep(0.01)
    if how == signal.SIGKILL:  # as a machine that goes down: all at once
        os.killpg(process.pid, how)
    else:
        process.send_signal(how)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == (-how if how == signal.SIGKILL else 128 + how), stderr
    if how == signal.SIGTERM:
        with pytest.raises(ProcessLookupError):  # nobody of its session is left
            os.killpg(process.pid, 0)
        assert "stopped; what is finished is kept" in stderr
    done = called("experiments.py", *args, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "experiments" / "experiments.json").read_text())
    assert [row["name"] for row in document["experiments"]] == chosen
    for row in document["experiments"]:
        for key in ("within_eps", "l2", "l2_error", "worst_l2", "geocross"):
            assert row[key] == measured.rows[row["name"]][key], (row["name"], key)


# ------------------------------------------------------------ what is wrong


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-input_dir", "nowhere"], "-input_dir nowhere cannot be read"),
        (["-input_dir", "void"], "-input_dir void holds no picture"),
        (["-input_dir", "mixed"], "all pictures must have one size, but there are 4, 8"),
        (["-hr_dir", "void"], "-hr_dir void holds no picture"),
        (["-hr_dir", "other", "-only", "gaussian-25"], "not what align_face.py -mode resize makes"),
        (["-output_dir", "a_file"], "-output_dir a_file cannot be written"),
        (["-output_dir", "lr"], "-output_dir lr is where the pictures are"),
        (["-processes", "0"], "processes must be a whole number of at least 1"),
        (["-batch_size", "0"], "batch_size must be"),
        (["-seed", "-1"], "seed must be"),
        (["-only", "steps-51"], "-only steps-51 is unknown: use defaults, until-eps, "),
        (["-only", "gaussian-25"], "those of robustness need -hr_dir"),
        (["-generator", "nothing"], "or one of ffhq, demo, demo64"),
        (["-device", "abacus"], "'abacus'"),
        (["-hr_dir"], "expected one argument"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_no_search_is_begun(
    measured, call, tmp_path, monkeypatch, args, words
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured.folder / "lr", "lr")
    Path("void").mkdir()
    Path("a_file").write_text("")
    for name, sides in (("mixed", (4, 8)), ("other", (32, 32, 32))):
        Path(name).mkdir()
        for i, side in enumerate(sides):
            Image.new("RGB", (side, side)).save(f"{name}/{i}.png")
    done = call(*args)
    assert done.status == 2, done.err
    assert words in done.err and len(done.err.splitlines()) == 1
    assert not Path("experiments", "defaults").exists() and done.out == ""


def test_degraded_lr_of_another_seed_are_not_taken_for_those_that_were_asked_for(
    measured, call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    for name in ("hr", "lr", "experiments/lr"):
        shutil.copytree(measured.folder / name, name)
    args = ["-hr_dir", "hr", "-only", "gaussian-25"]
    done = call(*args, "-seed", 1)
    assert done.status == 2 and len(done.err.splitlines()) == 1
    assert "0_0.png is there, degraded by gaussian:25 -seed 0" in done.err
    assert not Path("experiments", "gaussian-25").exists()
    before = Path("experiments/lr/gaussian-25/0_0.png").read_bytes()
    assert call(*args, "-seed", 1, "-overwrite").status == 0
    assert Path("experiments/lr/gaussian-25/0_0.png").read_bytes() != before


def test_an_experiment_that_fails_is_named_and_the_others_are_measured(
    measured, call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured.folder / "lr", "lr")
    shutil.copytree(measured.out / "defaults", "experiments/defaults")
    shutil.copytree(measured.out / "defaults", "experiments/steps-50")  # of other settings
    Image.new("RGB", (SIDE, SIDE + 1)).save("lr/long.png")
    Path("lr/damaged.png").write_bytes(b"no picture")
    done = call("-only", "defaults", "steps-50")
    assert done.status == 1
    assert re.search(r"steps-50: left out: .*was made with steps 100, not 50", done.err)
    log = Path("experiments/defaults.log")
    assert f"defaults: some pictures were refused, see {log}" in done.err
    assert "long.png" in log.read_text() and "damaged.png" in log.read_text()
    rows = json.loads(Path("experiments/experiments.json").read_text())["experiments"]
    assert [row["name"] for row in rows] == ["defaults"]
    assert rows[0]["l2"] == measured.rows["defaults"]["l2"]


def test_without_matplotlib_the_tables_are_written_all_the_same(
    measured, call, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(measured.folder / "lr", "lr")
    shutil.copytree(measured.out / "defaults", "experiments/defaults")
    monkeypatch.delitem(sys.modules, "evaluation.plots")
    monkeypatch.delattr("evaluation.plots")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    done = call("-only", "defaults")
    assert done.status == 0
    assert "matplotlib is not installed (pip install matplotlib)" in done.err
    assert Path("experiments/experiments.md").exists() and not list(
        Path("experiments").glob("*.png")
    )
    assert "the defaults" in done.out


def test_asking_for_help_imports_nothing_that_takes_long():
    code = "import sys, experiments; experiments.parser(); print({'torch', 'PIL', 'matplotlib'} & "
    done = subprocess.run(
        [sys.executable, "-c", code + "set(sys.modules))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
