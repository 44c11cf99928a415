"""The parts of bench.py: what is timed, and how the times are summed up."""

import argparse
import contextlib
import math
import runpy
import signal
import statistics
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, needs_proc, one_file

import bench
from benchmarks import hardware, search_quality, search_times, step_profile, step_time
from benchmarks.step_time import random_stylegan2
from cli.progress import Progress
from cli.signals import Stopped, stopping_on_signals
from generators import fit as fits
from generators.load import load_generator, save_generator
from generators.networks import Networks
from generators.stylegan2 import StyleGAN2Synthesis
from PULSE import PULSE, Search
from search_settings import Settings


def test_every_form_and_batch_is_a_row_and_the_plain_ones_come_first():
    rows = bench.rows_for(torch.device("cpu"), [1, 4])
    assert [row.formulation for row in rows[:2]] == ["plain, F.instance_norm", "plain"]
    assert {(row.formulation, row.batch) for row in rows[2:]} == {
        (form, batch) for form in ("eager", "compiled") for batch in (1, 4)
    }
    cuda = bench.rows_for(torch.device("cuda"), [1])
    assert {row.precision for row in cuda} == {"float32", "tf32", "bfloat16"}
    assert "compiled" not in {row.formulation for row in bench.rows_for(torch.device("mps"), [1])}


def test_stylegan2_is_held_against_its_own_plain_form_and_floor(monkeypatch, capsys, tmp_path):
    def in_this_process(_, module, request) -> tuple[float, str]:
        """What the process of a row does, without its import of PyTorch."""
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [module, request])
        monkeypatch.delitem(sys.modules, module, raising=False)  # of which runpy would warn
        runpy.run_module(module, run_name="__main__")
        return 0.0, capsys.readouterr().out

    monkeypatch.setattr(bench, "in_process", in_this_process)
    network = random_stylegan2_file(tmp_path / "g.pt")
    monkeypatch.setattr(bench, "machine_rates", lambda device, precision: {"matrix": 1e9})
    monkeypatch.setattr(bench, "has_bfloat16", lambda: False)
    args = argparse.Namespace(batches=[1], repeats=1)
    given = torch.device("cpu"), network, tmp_path / "g.pt", tmp_path
    rows = bench.measure_steps(args, *given)
    assert [row["formulation"] for row in rows] == ["plain", "eager", "compiled"]
    assert rows[0]["times_faster"] == 1
    for row in rows:
        floor = 2 * network.multiply_adds / 1e9
        assert row["times_floor"] == pytest.approx(row["median"] / floor)
        assert row["times_faster"] == pytest.approx(rows[0]["median"] / row["median"])
        assert row["peak_mb"] > 100


def random_stylegan2_file(path):
    network = StyleGAN2Synthesis(64, 16, [8] * 5)
    save_generator(Networks(network, None), (torch.zeros(16), torch.ones(16)), path)
    return network


def test_the_random_stylegan2_is_of_config_f(tmp_path):
    network = random_stylegan2(tmp_path / "g.pt", 128)
    loaded = load_generator(tmp_path / "g.pt", tmp_path).synthesis
    assert loaded.config == network.config
    assert loaded.config["channels"] == [512, 512, 512, 512, 512, 256]
    assert loaded.b128.conv1.noise_strength > 0


def test_seconds_are_the_median_of_nine_after_two():
    calls = []
    seconds = hardware.seconds_of(lambda: calls.append(0), torch.device("cpu"))
    assert len(calls) == 11 and 0 <= seconds < 1
    assert hardware.processor().strip()


@needs_proc
def test_peak_memory_is_that_of_the_process_alone():
    large = bytearray(10**9)
    large[::4096] = b"1" * len(large[::4096])
    code = "import torch; from benchmarks.hardware import peak_megabytes as peak; "
    code += "print(peak(torch.device('cpu'))); x = torch.ones(50_000_000); "
    code += "print(peak(torch.device('cpu')))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    before, after = map(float, done.stdout.split())
    assert 50 < before < 1000  # less than this process has
    assert 190 < after - before < 220


def test_peak_memory_without_proc_is_that_of_the_system_or_blank(tmp_path, monkeypatch):
    resource, cpu = pytest.importorskip("resource"), torch.device("cpu")
    monkeypatch.setattr(hardware, "Path", lambda path: tmp_path / path.removeprefix("/"))
    for platform, unit in (("darwin", 1), ("freebsd14", 1024)):
        monkeypatch.setattr(sys, "platform", platform)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
        assert hardware.peak_megabytes(cpu) == pytest.approx(peak, rel=0.05)
    monkeypatch.setattr(hardware, "resource", None)
    assert hardware.peak_megabytes(cpu) is None
    assert [bench.whole(figure) for figure in (None, 1284.4)] == ["", "1284"]


def test_help_is_given_where_python_has_no_module_resource():
    code = "import runpy, sys; sys.modules['resource'] = None; sys.argv = ['bench.py', '-h']; "
    code += "import benchmarks.step_time, benchmarks.stylegan3_steps; "
    code += "runpy.run_path('bench.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage: bench.py"), done.stderr


@pytest.mark.usefixtures("called")  # which restores the handlers of signals
def test_a_signal_whose_exception_is_lost_ends_what_bench_does_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(fits, "PICTURES", 40)
    monkeypatch.setattr(fits, "GRADIENTS", 20)
    whole, steps = Search.step, []

    def step(search):
        steps.append(search)
        if len(steps) == 2:
            with contextlib.suppress(BaseException):
                signal.raise_signal(signal.SIGTERM)
        return whole(search)

    monkeypatch.setattr(Search, "step", step)
    file, cpu = one_file(tmp_path / "g.pt", 64), torch.device("cpu")
    model, pictures = PULSE(file, "cpu", tmp_path, compile="off"), torch.full((2, 3, 16, 16), 0.5)
    search = model(pictures, seed=[0, 1], settings=Settings(steps=99))
    for work in (
        lambda: search_times.time_searches(file, cpu, tmp_path, 9, 1, "off"),
        lambda: search_quality.search_all(model, "eager", pictures, Settings(steps=9), Progress(2)),
        lambda: step_profile.profile(model, 9),
        lambda: hardware.seconds_of(search.step, cpu),
    ):
        steps.clear()
        with pytest.raises(Stopped), stopping_on_signals():
            work()
        assert len(steps) == 2


@pytest.mark.usefixtures("called")
def test_so_it_ends_a_fit_that_bench_times(tmp_path):
    def main():
        with contextlib.suppress(BaseException):
            signal.raise_signal(signal.SIGTERM)
        file = one_file(tmp_path / "g.pt", 64)
        search_times.time_searches(file, torch.device("cpu"), tmp_path, 9, 1, "off")

    with pytest.raises(Stopped), stopping_on_signals():
        main()
    assert not list(tmp_path.glob("*fit*"))


def test_a_device_is_waited_for_by_its_number(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    for name in ("cuda:1", "mps", "cpu"):
        hardware.wait_for_device(torch.device(name))
    assert waited == [torch.device("cuda:1"), "mps"]


def searches_by_call(monkeypatch, module) -> list[tuple]:
    """(`compile`, number of pictures) of every search that `module` has a PULSE begin, as run.py
    does, so that on CUDA its steps are replayed. The model is on the CPU, whatever is asked for.
    """
    begun = []

    class OnCPU(PULSE):
        def __init__(self, file, device_name, cache_dir, compile, precision):
            super().__init__(file, "cpu", cache_dir, "off", "float32")
            self.asked = compile

        def __call__(self, ref_im, **given):
            begun.append((self.asked, ref_im.shape[0] if ref_im.ndim == 4 else 1))
            return super().__call__(ref_im, **given)

    monkeypatch.setattr(module, "PULSE", OnCPU)
    return begun


def test_what_is_timed_is_the_search_of_run_with_replayed_steps(tmp_path, monkeypatch):
    file = one_file(tmp_path / "g.pt", 64)
    begun = searches_by_call(monkeypatch, step_time)
    for form in ("plain", "eager", "compiled"):
        row = step_time.Row(form, "float32", 2)
        found = step_time.time_row(row, file, "cuda", 1, tmp_path)
        assert len(found["seconds"]) == 1
    assert begun == 2 * [("auto", 1)] + 2 * [("on", 1)]


def test_what_is_compared_is_the_search_of_run_with_replayed_steps(tmp_path, monkeypatch, capsys):
    file = one_file(tmp_path / "g.pt")
    begun = searches_by_call(monkeypatch, search_quality)
    pictures = torch.full((2, 3, 4, 4), 0.5)
    forms = search_quality.forms_for(torch.device("cuda"))
    search_quality.compare(file, torch.device("cuda"), tmp_path, pictures, 3)
    assert len(forms) == 7 and begun == 6 * [("auto", 1)] + 6 * [("on", 1)]


def test_the_parts_of_a_step_add_up_to_it(tmp_path):
    model = PULSE(one_file(tmp_path / "g.pt", 64), "cpu", tmp_path, compile="off")
    parts = step_profile.profile(model, 2)
    whole = parts.pop("a step")
    assert sum(parts.values()) == pytest.approx(whole)
    assert all(seconds > 0 for seconds in parts.values()) and len(parts) == 4


def test_both_searches_are_timed_in_turn_and_the_fit_apart(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(fits, "PICTURES", 40)
    monkeypatch.setattr(fits, "GRADIENTS", 20)
    order, call = [], PULSE.__call__
    monkeypatch.setattr(
        PULSE,
        "__call__",
        lambda self, *args, **given: (
            order.append(given["settings"].search) or call(self, *args, **given)
        ),
    )
    file, threads = one_file(tmp_path / "g.pt", 64), torch.get_num_threads()
    given = file, torch.device("cpu"), tmp_path / "cache", 3, 2
    found = search_times.time_searches(*given, "off", "float32")
    assert order == 3 * ["paper", "quick"] and torch.get_num_threads() == threads
    assert found["resolution"] == 64 and found["fit"] > 0
    for name in ("paper", "quick"):
        for by in ("seconds", "processor"):
            assert len(found[name][by]) == 2 and min(found[name][by]) > 0
    found["paper"] = {"seconds": [0.3, 0.6, 0.9], "processor": [0.3, 0.3, 0.3]}
    found["quick"] = {"seconds": [0.9, 0.9, 1.2], "processor": [0.6, 0.6, 0.6]}
    found["fit"] = 6.0
    search_times.print_searches(found)
    title, _, paper, quick, fit = capsys.readouterr().out.splitlines()
    assert ", 3 steps, eager in float32, " in title
    assert paper.split() == ["paper", "0.60", "0.30-0.90", "200.0", "100.0", "1.00"]
    assert quick.split() == ["quick", "0.90", "0.90-1.20", "300.0", "200.0", "1.50"]
    assert "6.0 s, 10.0 published searches" in fit


def test_the_reference_of_a_comparison_is_the_plain_form_in_float32():
    forms = search_quality.forms_for(torch.device("cuda"))
    assert forms[0] == ("plain", "float32") and ("compiled", "tf32") in forms
    assert search_quality.forms_for(torch.device("mps"))[1:] == [("eager", "float32")]


def test_a_standard_error_is_of_the_mean():
    values = [0.1, 0.4, 0.2, 0.3]
    assert search_quality.standard_error(values) == statistics.stdev(values) / 2
    assert math.isnan(search_quality.standard_error([1.0]))
