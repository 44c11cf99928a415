"""How a search is computed: what is chosen, and what where that cannot be had."""

import json
import os
from pathlib import Path

import pytest
import torch
from conftest import command, one_file, random_networks
from PIL import Image

from fast.choose import FastForms, choose_threads
from fast.precision import choose_precision
from generators.stylegan2 import StyleGAN2Synthesis
from stylegan import G_synthesis


def test_auto_compiles_where_it_pays_whatever_the_number_of_pictures(c_cache):
    small, large = (random_networks(r)[0].requires_grad_(False) for r in (16, 64))
    assert FastForms(small, c_cache, "auto", None).choose(100).formulation == "eager"
    assert FastForms(large, c_cache, "auto", None).choose(100).formulation == "compiled"
    assert FastForms(large, c_cache, "auto", None).choose(5).formulation == "eager"
    assert FastForms(large, c_cache, "off", None).choose(100).formulation == "eager"
    assert FastForms(small, c_cache, "on", None).choose(1).formulation == "compiled"


def as_on_cuda(network, cache: Path, index: int = 0, compile: str = "auto") -> FastForms:
    """The forms of a network that lies on the CPU, chosen as if it were on a GPU."""
    forms = FastForms(network.requires_grad_(False), cache, compile, "float32")
    forms.device = torch.device("cuda", index)
    return forms


def test_auto_compiles_nothing_on_cuda_and_all_searches_have_one_recorder(c_cache, monkeypatch):
    forms = as_on_cuda(random_networks(1024, fmap_base=2048, fmap_max=8)[0], c_cache)
    compiled = []
    monkeypatch.setattr(forms, "_compile", lambda: compiled.append(1) or (None, "a stand-in"))
    for steps in (1, 100, 100_000):
        for like in (None, "eager", "compiled"):  # one of an earlier search, which render follows
            assert forms.choose(steps, like).formulation == "eager"
    assert not compiled
    assert forms.recorder(100) is not None and forms.recorder(100) is forms.recorder(400)
    assert forms.recorder(3) is None  # as many as warm up


@pytest.mark.parametrize("family", ["stylegan1", "stylegan2"])
def test_kernels_are_compiled_and_tried_on_the_gpu_of_the_search(c_cache, monkeypatch, family):
    pytest.importorskip("triton")
    tried = []

    def load(*given):
        tried.extend(each for each in given if isinstance(each, torch.device))
        return None, "a stand-in"

    monkeypatch.setattr("fast.cuda.load", load)
    monkeypatch.setattr("fast.inductor.load", load)
    network = random_networks(16)[0]
    if family == "stylegan2":
        network = StyleGAN2Synthesis(16, 16, (8, 8, 8))
    as_on_cuda(network, c_cache, index=3, compile="on").choose(100)
    assert tried == [torch.device("cuda", 3)]


def environment(tmp_path: Path, **changes) -> dict:
    """Without any program but what `changes` name."""
    (tmp_path / "bin").mkdir(exist_ok=True)
    return {**os.environ, "PATH": str(tmp_path / "bin"), "CC": "", **changes}


@pytest.mark.parametrize("trouble", ["missing", "failing", "wrong"])
def test_without_a_working_compiler_the_search_goes_on_with_one_line(tmp_path, trouble):
    env = environment(tmp_path)
    if trouble != "missing":
        compiler = tmp_path / "bin" / "cc"
        said = {"failing": "echo 'no such target' >&2; exit 1", "wrong": "exit 0"}[trouble]
        compiler.write_text(f"#!/bin/sh\n{said}\n")
        compiler.chmod(0o755)
    one_file(tmp_path / "g.pt")
    (tmp_path / "input").mkdir()
    Image.new("RGB", (4, 4), "grey").save(tmp_path / "input" / "a.png")
    done = command(
        *("run.py", "-generator", "g.pt", "-steps", 2, "-seed", 0, "-device", "cpu"),
        *("-compile", "on"),
        cwd=tmp_path,
        env=env,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "not compiled" in line]
    assert len(lines) == 1 and "Traceback" not in done.stderr
    assert {"missing": "no C compiler", "failing": "no such target", "wrong": "could not"}[
        trouble
    ] in lines[0]
    record = next((tmp_path / "runs").rglob("a.json")).read_text()
    assert '"formulation": "eager"' in record


def test_a_small_generator_is_searched_by_one_thread_unless_told_otherwise(called, tmp_path):
    own = torch.get_num_threads()
    with torch.device("meta"):  # without their numbers
        small = G_synthesis(resolution=64, fmap_base=1024, fmap_max=128)
        small128 = G_synthesis(resolution=128, fmap_base=2048, fmap_max=256)
        larger, large = G_synthesis(resolution=256, fmap_base=2048, fmap_max=256), G_synthesis()
    networks = (small, small128, larger, large)
    assert [choose_threads(None, network) for network in networks] == [1, 1, own, own]
    assert [choose_threads(3, network) for network in networks] == [3, 3, 3, 3]
    one_file(tmp_path / "g.pt")
    (tmp_path / "input").mkdir()
    Image.new("RGB", (4, 4), "grey").save(tmp_path / "input" / "a.png")
    call = ("run.py", "-generator", "g.pt", "-steps", 2, "-seed", 0, "-device", "cpu")
    for threads, recorded in (((), 1), (("-threads", 2), 2)):
        done = called(*call, *threads, "-overwrite", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        record = json.loads(next((tmp_path / "runs").rglob("a.json")).read_text())
        assert record["threads"] == recorded


def test_precisions_that_a_device_lacks_fall_back_with_one_line(caplog, monkeypatch):
    cpu = torch.device("cpu")
    assert choose_precision(None, cpu) == "float32"
    assert choose_precision("tf32", cpu) == "float32"
    monkeypatch.setattr("fast.precision.has_bfloat16", lambda: False)
    assert choose_precision("bfloat16", cpu) == "float32"
    assert len(caplog.messages) == 2
    monkeypatch.setattr("fast.precision.has_bfloat16", lambda: True)
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    with pytest.raises(ValueError, match="unknown"):
        choose_precision("float16", cpu)


def test_multiply_adds_are_those_of_the_published_network():
    with torch.device("meta"):
        network = G_synthesis()
    assert network.count_multiply_adds(folded=False) == pytest.approx(31.9e9, rel=0.01)
    assert network.multiply_adds == pytest.approx(27.4e9, rel=0.01)
