"""Searches on a real CUDA device: the fast path is what runs, and nothing on it is refused."""

import threading

import numpy as np
import pytest
import torch
from conftest import one_file
from forms import golden_search, relative
from generator_files import generator_file as file_of

from benchmarks.step_time import random_generator
from cli.errors import UserError
from fast.cuda_graph import WARM_UP
from fast.device import before_ampere, choose_device
from fast.kernel_check import first_wrong, first_wrong_convolution
from fast.layers import channels_last
from fast.memory import free_memory
from fast.precision import convolutions_in, dtype_of
from PULSE import PULSE, Search
from runner.jobs import Job
from runner.options import RunOptions
from runner.retries import LoadedJob, search_with_retries
from search_settings import OPTIMISERS, Settings

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def generator_file(tmp_path_factory):
    return one_file(tmp_path_factory.mktemp("generator") / "g.pt", 64)


@pytest.fixture
def cuda_model(generator_file, tmp_path):
    def make(compile="auto", precision="float32", file=generator_file):
        return PULSE(file, "cuda", tmp_path, compile, precision, progress=False)

    return make


def lr_pictures(B: int, seed: int = 0, side: int = 16) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    return torch.rand(B, 3, side, side, generator=random) * 0.6 + 0.2


def totals(search: Search) -> torch.Tensor:
    """(T, B)."""
    return torch.stack([search.step()["total"] for _ in range(search.settings.steps)]).cpu()


def said(caplog) -> list[str]:
    """By this project: torch.compile logs its own doings."""
    return [record.getMessage() for record in caplog.records if record.name == "pulse"]


def require_recorded(model: PULSE, messages: list[str], formulation: str = "eager") -> None:
    """The fast path was taken, and nothing was refused on it."""
    recorder = model._forms.recorder(100)
    assert recorder.kept is not None and not recorder.refused
    assert model.formulation == formulation and not model._forms._refused
    assert not messages


@pytest.mark.parametrize("precision", ["float32", "tf32", "bfloat16"])
@pytest.mark.parametrize("opt_name", OPTIMISERS)
def test_replayed_steps_are_those_that_are_called(cuda_model, caplog, opt_name, precision):
    settings = Settings(steps=20, opt_name=opt_name, learning_rate=0.01)
    rows = []
    for compile in ("off", "auto"):
        model = cuda_model(compile, precision)
        if precision != model.precision:
            pytest.skip(f"this GPU has no {precision}")
        search = model(lr_pictures(3), seed=[0, 1, 2], settings=settings)
        rows.append(totals(search))
        results = search.results
    require_recorded(model, said(caplog))
    assert torch.allclose(*rows, rtol=1e-3 if precision == "float32" else 2e-2)
    assert [result.best_step for result in results] == rows[1].argmin(dim=0).tolist()


def test_the_next_search_of_the_same_shapes_takes_the_recording_over(cuda_model, caplog):
    settings = Settings(steps=15, learning_rate=0.01)
    model, called = cuda_model("auto"), cuda_model("off")
    graphs, found = [], []
    for seed in range(3):
        search = model(lr_pictures(2, seed), seed=seed, settings=settings)
        expected = totals(called(lr_pictures(2, seed), seed=seed, settings=settings))
        assert torch.allclose(totals(search), expected, rtol=1e-3)
        graphs.append(model._forms.recorder(15).kept.graph)
        found.append((search, search.results, search.pictures[0]))
        require_recorded(model, said(caplog))
    assert graphs[0] is graphs[1] is graphs[2]
    for search, results, HR in found:  # no later search has touched them
        assert search.results == results and torch.equal(search.pictures[0], HR)
    totals(model(lr_pictures(1), seed=0, settings=settings))
    assert model._forms.recorder(15).kept.graph is not graphs[0]
    require_recorded(model, said(caplog))


def test_a_replayed_search_waits_for_nothing(cuda_model, caplog):
    model = cuda_model()
    search = model(lr_pictures(2), seed=0, settings=Settings(steps=30))
    for _ in range(WARM_UP + 1):
        search.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            search.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    totals_left = [search.step() for _ in range(30 - WARM_UP - 21)]
    assert totals_left[-1]["total"].isfinite().all()
    require_recorded(model, said(caplog))


def test_warm_steps_that_are_called_wait_for_nothing_either(cuda_model):
    search = cuda_model("off")(lr_pictures(2), seed=0, settings=Settings(steps=12))
    for _ in range(3):
        search.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(9):
            search.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_other_threads_may_use_the_device_while_a_step_is_recorded(cuda_model, caplog):
    """As the one does that writes results."""
    model, stop, copies = cuda_model(), threading.Event(), []

    def copy():
        x = torch.ones(1 << 20, device="cuda")
        while not stop.is_set():
            copies.append((x + 1).cpu()[0].item())

    thread = threading.Thread(target=copy)
    thread.start()
    try:
        for seed in range(5):
            model.free_memory()  # and with it the recording
            found = totals(model(lr_pictures(2), seed=seed, settings=Settings(steps=12)))
            assert found.isfinite().all()
            require_recorded(model, said(caplog))
    finally:
        stop.set()
        thread.join()
    assert copies and set(copies) == {2.0}


def test_a_step_that_cannot_be_recorded_is_called_instead(cuda_model, caplog):
    model = cuda_model()
    stream = torch.cuda.current_stream()
    search = model(lr_pictures(1), seed=0, settings=Settings(steps=12))
    synthesize = search.synthesize

    def waiting(w, noise):
        picture = synthesize(w, noise)
        assert picture.sum().isfinite().item()  # waits, which a recording forbids
        return picture

    search.synthesize = waiting
    assert totals(search).isfinite().all() and search.results[0].best_step > 0
    assert len(said(caplog)) == 1 and "not replayed" in said(caplog)[0]
    assert torch.cuda.current_stream() == stream
    assert totals(model(lr_pictures(1), seed=0, settings=Settings(steps=12))).isfinite().all()
    assert len(said(caplog)) == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_kernels_compute_what_pytorch_does(precision):
    from fast import cuda  # which imports Triton

    assert first_wrong(cuda.TritonKernels(), dtype_of(precision), "cuda") is None


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_convolutions_of_few_channels_are_pytorchs(precision):
    from fast import cuda
    from fast.cuda_convolution import serves
    from fast.layers import Convolution

    if before_ampere(choose_device("cuda")):
        pytest.skip(f"this GPU has no {precision}")
    assert first_wrong_convolution(cuda.TritonKernels(), precision, "cuda") is None
    dtype = dtype_of(precision)
    for fan_in, fan_out, up, pixels in (
        *((16, 16, False, 1024), (32, 16, True, 512)),
        *((32, 32, False, 512), (32, 32, True, 256)),
    ):
        if not serves(fan_in, fan_out, dtype):
            continue
        shape = (fan_in, fan_out, 4, 4) if up else (fan_out, fan_in, 3, 3)
        given = Convolution(torch.randn(*shape, device="cuda", dtype=dtype), up)
        found = cuda.TritonKernels().convolution(given, precision)
        assert isinstance(found, cuda.TritonConvolution)
        size = pixels * (2 if up else 1)
        for name, C, r in (("convolve", fan_in, pixels), ("convolve_back", fan_out, size)):
            x = channels_last(torch.randn(2, C, r, r, device="cuda").to(dtype))
            with convolutions_in(precision, x.device):
                right = getattr(given, name)(x).float()
            y = getattr(found, name)(x)
            assert y.dtype == dtype and relative(y.float(), right) < (
                2e-2 if precision == "bfloat16" else 2e-3
            )
            assert torch.equal(y, getattr(found, name)(x))


def test_compiled_searches_end_as_eager_ones(cuda_model, caplog, tiny):
    ends = []
    for compile, name in (("off", "eager"), ("on", "compiled")):
        model = cuda_model(compile, file=tiny)
        search = model(lr_pictures(2, side=4), seed=0, steps=15, learning_rate=0.01)
        for HR, _ in search:
            pass
        ends.append(HR)
        assert model.formulation == name
    assert torch.allclose(*ends, atol=2e-2)
    require_recorded(model, said(caplog), "compiled")
    # a last, smaller batch
    for HR, _ in model(lr_pictures(2, side=4)[:1], seed=0, steps=15, learning_rate=0.01):
        pass
    assert torch.allclose(HR, ends[1][:1], atol=2e-2)


@pytest.mark.parametrize("compile", ["auto", "on"])
@pytest.mark.parametrize("family", ["stylegan2", "stylegan3-t", "stylegan3-r"])
def test_searches_on_later_networks_end_as_plain_ones(tmp_path, caplog, family, compile):
    settings, seeds = Settings(steps=15, learning_rate=0.01), [0, 1]
    model = PULSE(file_of(tmp_path, family, 64), "cuda", tmp_path, compile, "float32")
    generator, LR = model.generator, lr_pictures(2)
    plain = totals(Search(generator, generator.synthesis, LR, settings, seeds))
    found = totals(model(LR, seed=seeds, settings=settings))
    assert torch.allclose(found, plain, rtol=1e-2)
    recorder = model._forms.recorder(100)
    assert recorder.kept is not None and not recorder.refused
    if family == "stylegan2" and compile == "on":
        require_recorded(model, said(caplog), "compiled")


def test_precision_is_the_searchs_own(cuda_model, caplog):
    cudnn = torch.backends.cudnn
    before = cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32
    models = {name: cuda_model("auto", name) for name in ("float32", "tf32", "bfloat16")}
    pictures = {}
    for _ in range(2):  # the second time with what the others may have left behind
        for name, model in models.items():
            if model.precision != name:
                pytest.skip(f"this GPU has no {name}")
            search = model(lr_pictures(2), seed=0, steps=12, learning_rate=1e-3)
            for HR, _ in search:
                pass
            if name in pictures:
                assert torch.allclose(pictures[name], HR, atol=1e-4)
            pictures[name] = HR
            require_recorded(model, said(caplog))
    assert (pictures["float32"] - pictures["tf32"]).abs().max() > 1e-6
    assert (pictures["float32"] - pictures["bfloat16"]).abs().max() > 1e-4
    after = cudnn.conv.fp32_precision if hasattr(cudnn, "conv") else cudnn.allow_tf32
    assert after == before


@pytest.mark.parametrize("compile", ["off", "auto", "on"])
def test_golden_search_holds_on_cuda(tmp_path, compile):
    rows, LR, model, arrays = golden_search(
        *(tmp_path, tmp_path, compile, 0.03), device="cuda", precision="float32"
    )
    assert model.formulation == ("compiled" if compile == "on" else "eager")
    np.testing.assert_allclose(rows, arrays["slow_trajectory_total_l2_geocross"], rtol=0.05)
    assert np.abs(LR.numpy() - arrays["slow_LR_best"]).mean() < 0.02
    if compile != "off":
        recorder = model._forms.recorder(30)
        assert recorder.kept is not None and not recorder.refused


def test_memory_that_runs_out_halves_the_batch(tmp_path, caplog):
    random_generator(tmp_path / "g.pt", 256, fmap_base=2048, fmap_max=8, dlatent_size=16)
    model = PULSE(tmp_path / "g.pt", "cuda", tmp_path, "auto", "float32")
    batch = [
        LoadedJob(Job(tmp_path / f"{i}.png", 0, str(i), tmp_path), lr_pictures(1, i)[0], "")
        for i in range(64)
    ]
    total = torch.cuda.get_device_properties(model.device).total_memory
    model.free_memory()
    held = torch.cuda.memory_reserved(model.device)
    torch.cuda.set_per_process_memory_fraction((held + (400 << 20)) / total, model.device)
    halves = []
    try:
        too_large = search_with_retries(
            *(model, batch, Settings(steps=12), RunOptions(), 0),
            *(lambda step, figures: None, halves.append),
        )
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, model.device)
    assert not too_large and halves and halves[0] == 32
    assert all(each.best.HR.isfinite().all() for each in batch)
    assert not said(caplog)
    del batch
    model.free_memory()
    free_memory(model.device)


def test_devices_are_named_and_counted():
    assert choose_device("cuda").type == "cuda" and choose_device("auto").type == "cuda"
    assert choose_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(UserError, match="does not exist"):
        choose_device("cuda:77")
