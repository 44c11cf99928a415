"""bench.py: its tables, as a user gets them."""

import io
import json
import re
import runpy
import sys
import time
from contextlib import redirect_stdout
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import command
from PIL import Image

import bench
from benchmarks import hardware
from generators.load import DEMO, DEMO64


def once(work, device) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def first_in_process(patch):
    """In place of bench.in_process: a process for the first command only; what the others do is
    done here, without their import of PyTorch.
    """
    begun = []

    def run(_, module: str, request: str) -> tuple[float, str]:
        begun.append(request)
        if len(begun) == 1:
            return in_process("-m", module, request)
        patch.setattr(sys, "argv", [module, request])
        patch.delitem(sys.modules, module, raising=False)  # of which runpy would warn
        with redirect_stdout(io.StringIO()) as printed:
            runpy.run_module(module, run_name="__main__")
        return 0.0, printed.getvalue()

    in_process = bench.in_process
    return run


def cached_in(c_cache, measure):
    """`measure`, whose last argument is a folder for compiled code, with that of all tests."""
    return lambda *given: measure(*given[:-1], c_cache)


@pytest.fixture(scope="module")
def steps_and_profile(c_cache, tmp_path_factory):
    """What `bench.py -parts steps profile` prints, and its figures: the network has few channels,
    and the machine's rates are measured once, not eleven times.
    """
    file = tmp_path_factory.mktemp("bench") / "bench.json"
    words = ["-device", "cpu", "-resolution", "64", "-repeats", "1"]
    words += ["-parts", "steps", "profile", "-json", str(file)]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr(hardware, "seconds_of", once)
        patch.setattr(bench, "in_process", first_in_process(patch))
        for name in ("measure_steps", "measure_profile"):
            patch.setattr(bench, name, cached_in(c_cache, getattr(bench, name)))
        patch.setattr(bench, "random_generator", partial(bench.random_generator, fmap_max=64))
        patch.setattr(sys, "argv", ["bench.py", *words])
        assert bench.main() == 0
    return printed.getvalue(), json.loads(file.read_text())


def test_bench_tells_every_formulation_against_the_floor(steps_and_profile):
    printed, figures = steps_and_profile
    rows = figures["steps"]
    names = [row["formulation"] for row in rows]
    assert names[:4] == ["plain, F.instance_norm", "plain", "eager", "compiled"]
    for row in rows:
        assert row["median"] > 0 and row["peak_mb"] > 0 and row["times_floor"] > 0
    assert 100 < rows[0]["peak_mb"] < 5000  # of a process of its own, that has imported PyTorch
    assert rows[0]["times_faster"] == 1
    assert printed[: printed.index("a step in ")].count("float32") >= 5
    assert re.search(r"rate in float32, GFLOP/s: matrix [1-9]\d*, convolution [1-9]", printed)


def test_bench_tells_where_a_step_goes(steps_and_profile):
    for parts in steps_and_profile[1]["profile"].values():
        total = parts.pop("a step")
        assert sum(parts.values()) == pytest.approx(total)
        assert len(parts) == 4 and min(parts.values()) > 0  # nothing is counted twice


def test_bench_compares_searches_on_plain_and_fast_forms_over_faces(
    called, c_cache, tmp_path, monkeypatch
):
    compare = bench.compare
    monkeypatch.setattr(bench, "compare", lambda *given: compare(*given[:2], c_cache, *given[3:]))
    (tmp_path / "faces").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "faces" / f"{i}.png")
    done = called(
        *("bench.py", "-device", "cpu", "-parts", "faces", "-faces", "faces", "-steps", 3),
        *("-json", "bench.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())["faces"]
    assert [row["formulation"] for row in rows] == ["plain"] + ["compiled"] * (len(rows) - 1)
    assert [row["precision"] for row in rows][:2] == ["float32", "float32"]
    for row in rows:
        assert len(row["l2"]) == 3 and row["mean_l2"] == pytest.approx(np.mean(row["l2"]))
        error = np.std(row["l2"], ddof=1) / np.sqrt(3)
        assert row["mean_l2_error"] == pytest.approx(error)
    # after two moves rounding has not yet been amplified; the forms differ, and hardly
    assert 0 < abs(rows[1]["apart"]) < 1e-3 * rows[0]["mean_l2"]


@pytest.mark.parametrize(
    ("device", "forms"),
    [
        ("cpu", [("auto", None)]),
        ("cuda", [("auto", None), ("on", "float32"), ("on", "tf32"), ("on", "bfloat16")]),
    ],
)
def test_on_cuda_searches_are_timed_compiled_as_well(device, forms, tmp_path, monkeypatch):
    timed = []
    monkeypatch.setattr(bench, "time_searches", lambda *given: timed.append(given))
    monkeypatch.setattr(bench, "print_searches", lambda figures: None)
    args = SimpleNamespace(steps=3, repeats=2)
    bench.measure_search(args, torch.device(device), tmp_path / "g.pt", tmp_path)
    assert [given[-2:] for given in timed] == 3 * forms
    assert [given[0] for given in timed[:: len(forms)]] == [DEMO64, DEMO, tmp_path / "g.pt"]


def test_what_cannot_be_measured_or_written_is_refused_before_anything_is_measured(
    called, tmp_path
):
    (tmp_path / "old.json").write_text("figures of yesterday")
    for name in ("void", "faces"):
        (tmp_path / name).mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "faces" / "a.png")
    faces = ["-parts", "steps", "faces", "-faces"]
    for words, sentence in (
        (
            ["-json", "old.json"],
            "-json old.json is there already: give another name, or -overwrite",
        ),
        (["-json", "faces"], "-json faces is a folder: name a file"),
        (["-json", "old.json/new.json"], "-json old.json cannot be written"),
        (["-json", "j" * 300], "jj cannot be written (File name too long): give another name"),
        (["-parts", "search", "-steps", 0], "steps must be a whole number of at least 1"),
        ([*faces, "faces", "-steps", 0], "steps must be a whole number of at least 1"),
        ([*faces, "nowhere"], "-faces nowhere cannot be read"),
        ([*faces, "void"], "-faces void holds no picture"),
    ):
        done = called("bench.py", "-device", "cpu", "-resolution", 64, *words, cwd=tmp_path)
        assert done.returncode == 2 and done.stdout == "", words
        assert sentence in done.stderr and done.stderr.count("\n") == 1
    assert (tmp_path / "old.json").read_text() == "figures of yesterday"


def test_faces_of_which_none_can_be_used_are_refused_and_a_file_is_replaced_if_asked(
    called, tmp_path, monkeypatch
):
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "a.png").write_text("no picture")
    words = ["bench.py", "-device", "cpu", "-parts", "faces", "-faces", "faces"]
    words += ["-json", "old.json", "-overwrite"]
    (tmp_path / "old.json").write_text("figures of yesterday")
    done = called(*words, cwd=tmp_path)
    assert done.returncode == 2 and "-faces faces holds no picture that can be used" in done.stderr
    assert (tmp_path / "old.json").read_text() == "figures of yesterday"
    monkeypatch.setattr(bench, "measure_faces", lambda *given: ["a row"])
    assert called(*words, cwd=tmp_path).returncode == 0
    assert json.loads((tmp_path / "old.json").read_text())["faces"] == ["a row"]


def test_bench_without_the_faces_it_is_to_search_says_what_to_give(called, tmp_path):
    for call, *words in (
        (command, "-parts", "faces"),  # as a user runs it
        (called, "-parts", "steps", "-faces", "."),
    ):
        done = call("bench.py", *words, cwd=tmp_path)
        assert done.returncode == 2 and "-parts faces -faces FOLDER" in done.stderr
