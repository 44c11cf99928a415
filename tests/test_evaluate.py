"""The command evaluate.py: what it writes and where, its exit statuses, results of run.py."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, command
from result_folders import RECORDS, flat, noise, put, put_result

from bicubic import BicubicDownSample
from imaging.pictures import read_picture, to_tensor


def digests(folder):
    """Every file below a folder, with the SHA-256 of its content."""
    return {
        path: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in Path(folder).rglob("*")
        if path.is_file()
    }


def test_files_are_not_overwritten_unasked_and_results_never(scene):
    scene.add("a", flat(110), flat(100, 8))
    Path("o.json").write_text("a text")
    before = digests(".")
    for args in (
        ["-json", "o.json"],
        ["-json", "runs/a.json", "-overwrite"],
        ["-csv", "runs/a.png", "-overwrite"],
        ["-csv", "g.csv", "-groups", "g.csv", "-overwrite"],
        ["-html", "runs"],
        ["-json", "same", "-markdown", "same"],
        ["-csv", "o.json/o.csv"],
        ["-json", "o" * 300],
        ["-json", f"{'o' * 300}/o.json"],
        ["-json", "o.json", "-groups", "none.csv", "-overwrite"],
        ["-threads", "0"],
    ):
        Path("g.csv").write_text("file,group\na,x\n")
        done = scene(*args)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, args
        Path("g.csv").unlink()
        assert digests(".") == before
    assert scene("-json", "o.json", "-overwrite", "-html", "o.html").returncode == 0
    changed = {path for path, digest in digests(".").items() if before.get(path) != digest}
    assert changed == {Path("o.json"), Path("o.html")}


def test_a_folder_whose_name_is_too_long_is_refused_in_one_sentence(called, tmp_path):
    done = called("evaluate.py", "r" * 300, cwd=tmp_path)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "rr is no folder: name the -output_dir of a run.py" in done.stderr


def test_a_file_that_cannot_be_written_is_named_after_those_that_were(tmp_path):
    put_result(tmp_path / "runs", "a", flat(110), flat(100, 8), "a.png")
    put(tmp_path / "input", "a.png", flat(100, 8))
    evaluated = [sys.executable, ROOT / "evaluate.py", "runs", "-csv", "o.csv", "-html", "o.html"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -f 8; exec "$@"', "sh", *map(str, evaluated)],  # blocks a file
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr == (
        "evaluate.py: error: -html o.html cannot be written (File too large): make room there, or "
        "name another file\n"
    )
    assert done.stdout.endswith("\ncsv: o.csv\n")
    assert {path.name for path in tmp_path.iterdir()} == {"runs", "input", "o.csv"}


def test_evaluating_twice_gives_the_same_files(scene):
    for i in range(4):
        scene.add(f"{i}", noise(32, i), noise(8, i), within_eps=i % 2 == 0)
    Path("g.csv").write_text("file,group\n0,x\n1,x\n2,y\n3,z\n")
    for name in ("one", "two"):
        assert scene("-groups", "g.csv", "-json", f"{name}.json").returncode == 0
    assert Path("one.json").read_bytes() == Path("two.json").read_bytes()


def test_what_run_py_writes_is_evaluated_and_agrees_with_its_records(scene, tiny):
    for i in range(3):
        put("input", f"{i}.png", noise(4, i))
    args = ["-generator", tiny, "-device", "cpu", "-seed", 0, "-steps", 4, "-duplicates", 2]
    assert scene.run(*args, "-eps", 0.07).returncode == 0
    done = scene.figures()
    assert done.returncode == 0, done.stderr
    assert done.rows[RECORDS]["pictures"] == 6 and "steps 4" in done.stdout
    by_name = {row["name"]: row for row in done.document["pictures"] if "name" in row}
    for path in Path("runs").rglob("*_*.png"):
        record, row = json.loads(path.with_suffix(".json").read_text()), by_name[path.stem]
        assert row["record_l2"] == record["l2"]
        HR, LR = (to_tensor(read_picture(p)) for p in (path, Path("input", f"{path.stem[0]}.png")))
        expected = (BicubicDownSample(4)(HR[None])[0] - LR).square().mean().item()
        assert row["l2"] == pytest.approx(expected, rel=1e-4)
    assert done.PNG["diversity_rmse"] > 0


def test_it_ends_with_the_status_of_the_folder(called, tmp_path):
    put_result(tmp_path / "runs", "a", flat(110), flat(100, 8), "a.png")
    put(tmp_path / "lr", "a.png", flat(100, 8))
    args = ["runs", "--input_dir=lr", "-csv", "new/o.csv"]
    done = command("evaluate.py", *args, cwd=tmp_path)
    assert done.returncode == 0 and done.stderr == ""
    assert done.stdout.startswith("runs: 1 result of 1 input, eps 0.002, steps 100\n")
    assert (tmp_path / "new" / "o.csv").exists()
    (tmp_path / "runs" / "a.png").unlink()
    done = called("evaluate.py", "runs", cwd=tmp_path)
    assert done.returncode == 2
    assert "a.json: left out, a record without its picture" in done.stderr


def test_asking_for_help_imports_nothing_that_takes_long():
    code = "import sys, evaluate; evaluate.parser(); print({'torch', 'PIL', 'numpy', 'scipy'} & "
    done = subprocess.run(
        [sys.executable, "-c", code + "set(sys.modules))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "set()"
