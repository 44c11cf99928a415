"""The fast formulation of the synthesis network against the plain one, and its fallbacks."""

import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, command, golden, golden_state, one_file, random_networks
from PIL import Image

from fast import cpu
from fast.choose import Accelerator, choose_precision, choose_threads, multiply_adds
from fast.synthesis import FastSynthesis, TorchKernels, inductor_kernels
from generators.formats import FORMAT
from PULSE import PULSE
from stylegan import G_synthesis


@pytest.fixture(scope="session")
def cache(tmp_path_factory) -> Path:
    """Where fast.c is compiled to, once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def kernels(cache):
    """Both forms of what lies between convolutions, and the compiled one for bfloat16."""
    found = {"eager": TorchKernels()}
    for name, dtype in (("compiled", torch.float32), ("compiled bfloat16", torch.bfloat16)):
        found[name], reason = cpu.load(cache, dtype)
        assert found[name] is not None, f"CI has a C compiler, and here it is missing: {reason}"
    return found


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    """The largest difference over the largest magnitude."""
    return ((found - expected).abs().max() / expected.abs().max()).item()


def picture_and_gradients(synthesize, w, noise, cotangent) -> list[torch.Tensor]:
    """The picture, and the gradients of its product with `cotangent` for w and all noise maps."""
    w, noise = w.clone().requires_grad_(), [maps.clone().requires_grad_() for maps in noise]
    picture = synthesize(w, noise)
    return [picture.detach(), *torch.autograd.grad((picture * cotangent).sum(), [w, *noise])]


@pytest.mark.parametrize("form", ["eager", "compiled"])
@pytest.mark.parametrize(("resolution", "batch"), [(8, 1), (16, 3), (64, 2)])
def test_picture_and_all_gradients_are_those_of_the_plain_network(kernels, form, resolution, batch):
    synthesis, _ = random_networks(resolution, fmap_base=512, fmap_max=24)
    synthesis.requires_grad_(False)
    torch.manual_seed(1)
    w = torch.randn(batch, synthesis.num_layers, 16)
    noise = [torch.randn(batch, 1, r, r) for r in synthesis.layer_sizes]
    cotangent = torch.randn(batch, 3, resolution, resolution)
    fast = FastSynthesis(synthesis, kernels[form])
    found = picture_and_gradients(fast, w, noise, cotangent)
    exact = picture_and_gradients(
        synthesis.double(), w.double(), [maps.double() for maps in noise], cotangent.double()
    )
    for mine, theirs in zip(found, exact, strict=True):
        assert relative(mine, theirs) < 2e-3  # that of the golden files: LeakyReLU has a kink


@pytest.mark.parametrize("form", ["eager", "compiled"])
@pytest.mark.parametrize("resolution", [32, 256])
def test_golden_network_and_its_gradients(kernels, form, resolution):
    arrays = golden(f"synthesis_{resolution}")
    config = {key: int(arrays[key]) for key in ("dlatent_size", "fmap_base", "fmap_max")}
    network = G_synthesis(resolution=resolution, **config).requires_grad_(False)
    network.load_state_dict(golden_state(arrays), strict=True)
    fast = FastSynthesis(network, kernels[form])
    noise = [torch.from_numpy(arrays[f"noise{i}"]) for i in range(network.num_layers)]
    found = picture_and_gradients(
        fast, torch.from_numpy(arrays["w"]), noise, torch.from_numpy(arrays["cotangent"])
    )
    names = ["image", "grad_w", *(f"grad_noise{i}" for i in range(4))]
    for name, mine in zip(names, found, strict=False):
        assert relative(mine, torch.from_numpy(arrays[name])) < 2e-3, name


@pytest.mark.parametrize("form", ["eager", "compiled"])
def test_a_channel_that_is_nearly_constant_loses_nothing(kernels, form):
    synthesis, _ = random_networks(8)
    synthesis.requires_grad_(False)
    for block in synthesis.blocks.values():
        block.epi1.noise.weight.mul_(1e-3)  # variance far below the mean's square
    torch.manual_seed(1)
    w = torch.randn(1, synthesis.num_layers, 16)
    noise = [torch.randn(1, 1, r, r) for r in synthesis.layer_sizes]
    cotangent = torch.randn(1, 3, 8, 8)
    found = picture_and_gradients(FastSynthesis(synthesis, kernels[form]), w, noise, cotangent)
    exact = picture_and_gradients(
        synthesis.double(), w.double(), [maps.double() for maps in noise], cotangent.double()
    )
    for mine, theirs in zip(found, exact, strict=True):
        assert relative(mine, theirs) < 2e-3


@pytest.mark.parametrize("form", ["eager", "compiled"])
def test_a_picture_is_the_same_with_and_without_gradients_and_neighbours(kernels, form):
    synthesis, _ = random_networks(32)
    fast = FastSynthesis(synthesis.requires_grad_(False), kernels[form])
    torch.manual_seed(1)
    w = torch.randn(1, synthesis.num_layers, 16)
    noise = [torch.randn(1, 1, r, r) for r in synthesis.layer_sizes]
    with torch.no_grad():
        picture = fast(w, noise)
    assert torch.equal(picture, fast(w.requires_grad_(), noise).detach())


@pytest.mark.parametrize("form", ["compiled", "compiled bfloat16"])
def test_compiled_sums_do_not_depend_on_the_number_of_threads(kernels, form):
    torch.manual_seed(0)
    x = torch.randn(1, 16, 128, 128).contiguous(memory_format=torch.channels_last)
    x = x.to(kernels[form].dtype)
    found, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            bias = torch.zeros(16)
            found.append(kernels[form].leaky(x.clone(), bias, bias, None, True))
    finally:
        torch.set_num_threads(threads)
    for other in found[1:]:
        for mine, theirs in zip(found[0], other, strict=True):
            assert torch.equal(mine, theirs)


def every_function(kernels, channels, x, y) -> dict[str, torch.Tensor]:
    """What the functions of `kernels` make of x and y (2, channels, 12, 12), by name."""
    random = torch.Generator().manual_seed(channels)
    mean, a, b, c = torch.randn(4, 2, channels, generator=random)
    noise, grad = (torch.randn(2, n, 12, 12, generator=random) for n in (1, 3))
    weight, bias = torch.randn(3, channels, generator=random), torch.randn(3, generator=random)

    def g():  # anew, since it may be overwritten
        return kernels.picture_grad(grad, weight, x.dtype)

    found = {
        "affine": kernels.affine(x, mean, a, b, overwrite=False),
        "picture": kernels.picture(x, mean, a, b, weight, bias, overwrite=False),
        "leaky_grad of a picture": kernels.leaky_grad(g(), x, mean, a, b, c, False),
        "sums": torch.stack(kernels.sums(y, x, mean)),
        "sums of a picture": torch.stack(kernels.sums(g(), x, mean)),
    }
    for blur in (False, True):
        leaky = kernels.leaky(y.clone(), a[0], b[0], noise, blur)
        found[f"leaky, blur {blur}"], found[f"moments, blur {blur}"] = (
            leaky[0],
            torch.stack([each.double() for each in leaky[1:]]),
        )
        found[f"leaky_grad, blur {blur}"] = kernels.leaky_grad(y.clone(), x, mean, a, b, c, blur)
    return found


def two_pictures(channels, dtype):
    torch.manual_seed(channels)
    return (
        torch.randn(2, channels, 12, 12).contiguous(memory_format=torch.channels_last).to(dtype)
        for _ in range(2)
    )


@pytest.mark.parametrize("channels", [1, 5, 16, 24, 48, 64])
def test_each_function_of_fast_c_computes_what_pytorch_does(kernels, channels):
    x, y = two_pictures(channels, torch.float32)
    expected = every_function(kernels["eager"], channels, x, y)
    for name, found in every_function(kernels["compiled"], channels, x, y).items():
        assert torch.allclose(found.double(), expected[name].double(), rtol=1e-4, atol=1e-4), name


@pytest.mark.parametrize("channels", [1, 5, 16, 24, 48, 64])
def test_bfloat16_is_float32_that_is_only_rounded_when_it_is_stored(kernels, channels):
    x, y = two_pictures(channels, torch.bfloat16)
    exact = every_function(kernels["compiled"], channels, x.float(), y.float())
    for name, found in every_function(kernels["compiled bfloat16"], channels, x, y).items():
        if name == "picture":
            assert found.dtype == torch.float32
            assert torch.allclose(found, exact[name], rtol=1e-5, atol=1e-5)
        elif found.dtype == torch.bfloat16:
            # its gradient of a picture is itself stored, row by row
            close = 0.02 if name == "leaky_grad of a picture" else 0
            difference = (found.float() - exact[name].bfloat16().float()).abs()
            assert (difference <= close * exact[name].abs().clamp(min=1)).all(), name
        else:  # of numbers that were rounded, not of those before
            assert torch.allclose(found, exact[name], rtol=1e-2, atol=1e-2 * 144), name


def test_moments_of_bfloat16_are_those_of_what_is_stored(kernels):
    _, y = two_pictures(16, torch.bfloat16)
    zeros = torch.zeros(16)
    x, mean, variance = kernels["compiled bfloat16"].leaky(y.clone(), zeros, zeros, None, True)
    expected = torch.var_mean(x.double(), dim=(2, 3), correction=0)
    assert torch.allclose(mean, expected[1], rtol=0, atol=1e-6)
    assert torch.allclose(variance, expected[0], rtol=1e-5)


def test_bfloat16_is_rounded_to_the_nearest_even_and_what_is_no_number_stays_so(kernels):
    bits = [0x3F808000, 0x3F818000, 0x3F808001, 0x3F807FFF, 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF]
    bits += [0x7F800001, 0x00000001, 0x00018000]  # a signalling NaN; what is not normalised
    b = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    b = torch.cat([b, -b], dim=1)
    x = torch.zeros(1, b.shape[1], 4, 4, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last)
    zeros = torch.zeros_like(b)
    found = kernels["compiled bfloat16"].affine(x, zeros, zeros, b, overwrite=False)[..., 0, 0]
    assert torch.equal(found.isnan(), b.isnan())
    assert torch.equal(found.nan_to_num(nan=0.0), b.bfloat16().nan_to_num(nan=0.0))


def test_torch_compile_keeps_a_form_for_each_layer(cache, monkeypatch):
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    monkeypatch.setattr(config, limit, 2)  # PyTorch's own is 8
    compiled, reason = inductor_kernels(cache, device="cpu")
    assert compiled is not None, reason
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    for channels in range(1, 5):
        x = torch.ones(1, channels, 4, 4)
        each = torch.full((1, channels), 2.0)
        assert torch.equal(compiled.affine(x, each, each, each, False), torch.zeros_like(x))
    assert graphs["unique_graphs"] - before == 4


class Enough(Exception):
    """So many steps were asked for, of a search that has more."""


def golden_search(tmp_path, cache, compile, learning_rate, steps=30):
    """`steps` of the 30 of the golden search of 1024 pixels: their figures, LR (None where there
    are more to come), model and golden arrays.
    """
    arrays = golden("search_1024")
    content = {
        "format": FORMAT,
        "config": {
            "resolution": 1024,
            "fmap_base": int(arrays["fmap_base"]),
            "fmap_max": int(arrays["fmap_max"]),
            "dlatent_size": 512,
        },
        "synthesis": golden_state(arrays),
        "mapping": None,
        "gaussian_fit": {k: torch.from_numpy(arrays[k]) for k in ("mean", "std")},
    }
    torch.save(content, tmp_path / "golden.pt")
    model = PULSE(tmp_path / "golden.pt", "cpu", cache, compile=compile)
    rows = []

    def on_step(step, figures):
        l2 = max(figures["L2"].item(), float(arrays["eps"]))
        rows.append([figures["total"].item(), l2, figures["GEOCROSS"].item()])
        if len(rows) == steps < 30:
            raise Enough

    search = model(
        torch.from_numpy(arrays["ref"]),
        seed=int(arrays["seed"]),
        steps=30,
        learning_rate=learning_rate,
        loss_str=str(arrays["loss_str"]),
        eps=float(arrays["eps"]),
        on_step=on_step,
    )
    LR = None
    with contextlib.suppress(Enough):
        _, LR = list(search)[-1]
    return np.array(rows), LR, model, arrays


@pytest.mark.parametrize("compile", ["off", "on"])
def test_golden_search_holds_on_the_fast_path(tmp_path, cache, compile):
    rows, LR, model, arrays = golden_search(tmp_path, cache, compile, 0.03)
    assert model.formulation == {"off": "eager", "on": "compiled"}[compile]
    np.testing.assert_allclose(rows, arrays["slow_trajectory_total_l2_geocross"], rtol=0.05)
    assert np.abs(LR.numpy() - arrays["slow_LR_best"]).mean() < 0.02


@pytest.mark.parametrize("compile", ["off", "on"])
def test_golden_search_at_the_published_learning_rate_begins_alike(tmp_path, cache, compile):
    rows, *_, arrays = golden_search(tmp_path, cache, compile, 0.4, steps=5)
    expected = arrays["trajectory_total_l2_geocross"]
    np.testing.assert_allclose(rows[:3], expected[:3], rtol=1e-3)
    np.testing.assert_allclose(rows[3:5], expected[3:5], rtol=5e-3)


# ------------------------------------------------------------ what is chosen, and what if not


def test_auto_compiles_where_it_pays_whatever_the_number_of_pictures(cache):
    small, large = (random_networks(r)[0].requires_grad_(False) for r in (16, 64))
    assert Accelerator(small, cache, "auto", None).choose(100)[0] == "eager"
    assert Accelerator(large, cache, "auto", None).choose(100)[0] == "compiled"
    assert Accelerator(large, cache, "auto", None).choose(5)[0] == "eager"
    assert Accelerator(large, cache, "off", None).choose(100)[0] == "eager"
    assert Accelerator(small, cache, "on", None).choose(1)[0] == "compiled"


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


def test_a_damaged_file_in_the_cache_is_no_error(tmp_path):
    cpu.compiled_path(tmp_path).write_bytes(b"not a library")
    kernels, reason = cpu.load(tmp_path)
    assert kernels is None and "delete it" in reason


def test_compiled_code_is_kept_and_used_again(tmp_path):
    assert cpu.load(tmp_path)[0] is not None
    kept = cpu.compiled_path(tmp_path)
    changed = kept.stat().st_mtime_ns
    assert cpu.load(tmp_path)[0] is not None
    assert kept.stat().st_mtime_ns == changed and list(tmp_path.iterdir()) == [kept]


def test_several_processes_compile_at_once_into_one_cache(tmp_path):
    code = (
        "import sys; from pathlib import Path; from fast import cpu; "
        "assert cpu.load(Path(sys.argv[1]))[0] is not None"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT) for _ in range(3)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert list(tmp_path.iterdir()) == [cpu.compiled_path(tmp_path)]


def test_a_small_generator_is_searched_by_one_thread_unless_told_otherwise(tmp_path):
    own = torch.get_num_threads()
    small, large = G_synthesis(resolution=64, fmap_base=1024, fmap_max=128), G_synthesis()
    assert [choose_threads(None, network) for network in (small, large)] == [1, own]
    assert [choose_threads(3, network) for network in (small, large)] == [3, 3]
    one_file(tmp_path / "g.pt")
    (tmp_path / "input").mkdir()
    Image.new("RGB", (4, 4), "grey").save(tmp_path / "input" / "a.png")
    call = ("run.py", "-generator", "g.pt", "-steps", 2, "-seed", 0, "-device", "cpu")
    for threads, recorded in (((), 1), (("-threads", 2), 2)):
        done = command(*call, *threads, "-overwrite", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        record = json.loads(next((tmp_path / "runs").rglob("a.json")).read_text())
        assert record["threads"] == recorded


def test_precisions_that_a_device_lacks_fall_back_with_one_line(caplog, monkeypatch):
    cpu = torch.device("cpu")
    assert choose_precision(None, cpu) == "float32"
    assert choose_precision("tf32", cpu) == "float32"
    monkeypatch.setattr("fast.choose.has_bfloat16", lambda: False)
    assert choose_precision("bfloat16", cpu) == "float32"
    assert len(caplog.messages) == 2
    monkeypatch.setattr("fast.choose.has_bfloat16", lambda: True)
    assert choose_precision("bfloat16", cpu) == "bfloat16"
    with pytest.raises(ValueError, match="unknown"):
        choose_precision("float16", cpu)


@pytest.mark.parametrize("compile", ["off", "on"])
def test_bfloat16_is_near_float32_and_keeps_the_search_in_float32(cache, monkeypatch, compile):
    synthesis, _ = random_networks(32)
    synthesis.requires_grad_(False)
    monkeypatch.setattr("fast.choose.has_bfloat16", lambda: True)
    name, fast = Accelerator(synthesis, cache, compile, "bfloat16").choose(1)
    assert name == {"off": "eager", "on": "compiled"}[compile]
    torch.manual_seed(1)
    w = torch.randn(1, synthesis.num_layers, 16)
    noise = [torch.randn(1, 1, r, r) for r in synthesis.layer_sizes]
    cotangent = torch.randn(1, 3, 32, 32)
    found = picture_and_gradients(fast, w, noise, cotangent)
    expected = picture_and_gradients(synthesis, w, noise, cotangent)
    assert all(part.dtype == torch.float32 for part in found)
    error = (found[0] - expected[0]).norm() / expected[0].norm()
    assert 1e-5 < error < 0.1
    for mine, theirs in zip(found[1:], expected[1:], strict=True):
        assert torch.cosine_similarity(mine.flatten(), theirs.flatten(), dim=0) > 0.95


def test_bench_tells_every_formulation_against_the_floor(tmp_path):
    done = command(
        *("bench.py", "-device", "cpu", "-resolution", 64, "-repeats", 1, "-parts", "steps"),
        *("-json", "bench.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "bench.json").read_text())["steps"]
    names = [row["formulation"] for row in rows]
    assert names[:4] == ["plain, F.instance_norm", "plain", "eager", "compiled"]
    for row in rows:
        assert row["median"] > 0 and row["peak_mb"] > 100 and row["times_floor"] > 0
    assert rows[0]["times_faster"] == 1
    assert done.stdout.count("float32") >= 5
    assert re.search(r"rate in float32, GFLOP/s: matrix [1-9]\d*, convolution [1-9]", done.stdout)


def test_bench_tells_where_a_step_goes(tmp_path):
    done = command(
        *("bench.py", "-device", "cpu", "-resolution", 64, "-repeats", 2, "-parts", "profile"),
        *("-json", "bench.json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    for parts in json.loads((tmp_path / "bench.json").read_text())["profile"].values():
        total = parts.pop("a step")
        assert sum(parts.values()) == pytest.approx(total)
        assert len(parts) == 4 and min(parts.values()) > 0  # nothing is counted twice


def test_bench_compares_searches_on_plain_and_fast_forms_over_faces(tmp_path):
    (tmp_path / "faces").mkdir()
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (64, 48, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "faces" / f"{i}.png")
    done = command(
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


def test_bench_without_the_faces_it_is_to_search_says_what_to_give(tmp_path):
    for words in (("-parts", "faces"), ("-parts", "steps", "-faces", ".")):
        done = command("bench.py", *words, cwd=tmp_path)
        assert done.returncode == 2 and "-parts faces -faces FOLDER" in done.stderr


def test_multiply_adds_are_those_of_the_published_network():
    network = G_synthesis()
    assert multiply_adds(network, folded=False) == pytest.approx(31.9e9, rel=0.01)
    assert multiply_adds(network, folded=True) == pytest.approx(27.4e9, rel=0.01)
