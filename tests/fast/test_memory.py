"""Memory that runs out: it is given back, the batch is halved, and the search goes on."""

import copy
import gc
import re
import sys
import weakref
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

import PULSE
import run
from fast.memory import free_memory, is_out_of_memory
from runner.folder import Run
from runner.jobs import Job
from runner.options import RunOptions
from runner.retries import LoadedJob, search_halving, search_with_retries
from search_settings import Settings

PICTURES = 5

ERRORS = {
    "CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "a CUDA call": RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"),
    "cuDNN": RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    "cuDNN 9": RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
    "no workspace": RuntimeError("GET was unable to find an engine to execute this computation"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"),
    "MPS": RuntimeError("MPS backend out of memory (MPS allocated: 17.93 GB, other allocations"),
    "a CPU": RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    "fast/cpu.c": MemoryError("pulse_sums of cpu.c found no memory for a few rows of pixels"),
}


pytestmark = pytest.mark.usefixtures("one_thread")


class Device(TorchDispatchMode):
    """Memory for so many pictures: a batch with more of them runs out of it, by `error`, at the
    operation of that number which makes a tensor of the network's.
    """

    def __init__(self, pictures: int, error: Exception, at: int = 1):
        super().__init__()
        self.pictures, self.error, self.at, self.seen = pictures, error, at, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        maps = isinstance(result, torch.Tensor) and result.ndim == 4 and result.shape[1] == 8
        # weights of the network are for more channels, or one pixel
        if maps and result.shape[-1] > 1 and self.pictures < len(result) <= PICTURES:
            self.seen += 1
            if self.seen % self.at == 0:
                raise type(self.error)(*self.error.args)  # again: one that is kept keeps its frames
        return result


@pytest.fixture
def model(tiny, tmp_path):
    return PULSE.PULSE(tiny, "cpu", tmp_path, compile="off")


@pytest.fixture
def batch(tmp_path):
    pictures = torch.rand(PICTURES, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    return [
        LoadedJob(Job(tmp_path / f"{i}.png", 0, str(i), tmp_path), pictures[i], "")
        for i in range(PICTURES)
    ]


@pytest.fixture
def searches(monkeypatch):
    """A weak reference to every Search that is made."""
    made = []
    original = PULSE.Search.__init__

    def init(self, *args, **options):
        original(self, *args, **options)
        gc.collect()
        made.append(weakref.ref(self))

    monkeypatch.setattr(PULSE.Search, "__init__", init)
    return made


def search(model, batch, retries=0):
    """What was too large, and the sizes of the halves."""
    halves = []
    options = RunOptions(retries=retries)
    settings = Settings(steps=4, eps=1e-9)
    too_large = search_with_retries(
        *(model, batch, settings, options, 1, lambda step, figures: None, halves.append)
    )
    return [each.job.name for each in too_large], halves


@pytest.mark.parametrize("name", ERRORS)
def test_every_library_that_runs_out_of_memory_is_recognised(name):
    assert is_out_of_memory(ERRORS[name])


def test_other_errors_are_not_taken_for_it():
    for error in (
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("expected a tensor"),
        ValueError("out of memory"),
    ):
        assert not is_out_of_memory(error)


@pytest.mark.parametrize("at", [1, 2, 7, 13, 20])
@pytest.mark.parametrize("error", ["CUDA", "cuDNN", "MPS"])
def test_a_batch_that_does_not_fit_is_halved_until_it_does(model, batch, error, at):
    with Device(2, ERRORS[error], at):
        too_large, halves = search(model, batch)
    assert not too_large and halves == [3, 2]
    assert [len(each.attempts) for each in batch] == [1] * PICTURES
    assert all(each.best.HR.isfinite().all() for each in batch)


def test_results_are_those_of_the_smaller_batches(model, batch):
    with Device(1, ERRORS["CUDA"], at=9):
        search(model, batch)
    for i, each in enumerate(batch):
        alone = model(each.LR, seed=1, settings=Settings(steps=4, eps=1e-9))
        for HR, _ in alone:
            pass
        assert torch.equal(each.best.HR, HR[0]), i


def test_one_picture_that_does_not_fit_is_named_and_the_others_are_searched(model, batch):
    searched = []

    def search_part(part):
        if any(each.job.name == "3" for each in part):
            raise ERRORS["cuDNN"]
        searched.extend(each.job.name for each in part)

    halves = []
    too_large = search_halving(model, batch, search_part, halves.append)
    assert [each.job.name for each in too_large] == ["3"]
    assert sorted(searched) == ["0", "1", "2", "4"] and halves == [3, 1]


def test_what_failed_is_freed_before_the_search_goes_on(model, batch, searches):
    gc.disable()
    try:
        with Device(1, ERRORS["CUDA"]):
            too_large, halves = search(model, batch[:4])
    finally:
        gc.enable()
    assert not too_large and halves == [2, 1, 1]
    assert not [made() for made in searches if made() is not None]


def test_retries_go_on_after_memory_was_not_enough(model, batch):
    with Device(3, ERRORS["CUDA"]):
        too_large, halves = search(model, batch, retries=1)
    assert not too_large
    assert halves == [3, 3]
    assert [len(each.attempts) for each in batch] == [2] * PICTURES


def test_no_memory_for_one_picture_names_it_and_gives_no_result(model, batch):
    with Device(0, ERRORS["MPS"]):
        too_large, _ = search(model, batch, retries=2)
    assert too_large == [each.job.name for each in batch]
    assert not any(each.attempts for each in batch)


def test_an_error_of_another_kind_ends_the_search(model, batch):
    with (
        Device(1, RuntimeError("CUDA error: an illegal memory access")),
        pytest.raises(RuntimeError, match="illegal memory access"),
    ):
        search(model, batch)


def test_a_run_halves_its_batches_once_and_says_so(tmp_path, monkeypatch, capsys, tiny):
    original = Run.claim

    def claim_in_batches(self):
        twin = copy.copy(self)  # for claiming alone: on a CPU pictures are claimed one by one
        twin.model = SimpleNamespace(device=torch.device("cuda"), generator=self.model.generator)
        return original(twin)

    monkeypatch.setattr(Run, "claim", claim_in_batches)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "input").mkdir()
    for i in range(6):
        Image.new("RGB", (4, 4), (30 * i, 99, 99)).save(tmp_path / "input" / f"{i}.png")
    words = ["-generator", tiny, "-device", "cpu", "-steps", 2, "-seed", 0, "-batch_size", 3]
    words += ["-eps", 1, "-threads", 1]
    monkeypatch.setattr(sys, "argv", ["run.py", *map(str, words)])
    whole = PULSE.PULSE.__call__

    def call(model, ref_im, **options):
        if len(ref_im) > 1:
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
        return whole(model, ref_im, **options)

    monkeypatch.setattr(PULSE.PULSE, "__call__", call)
    assert run.main() == 0
    said = capsys.readouterr()
    assert len(list((tmp_path / "runs").glob("*.png"))) == 6
    lines = [line for line in said.err.splitlines() if "not enough memory" in line]
    assert [re.search(r"once: (\d) from here on", line)[1] for line in lines] == ["2", "1"]
    assert "refused" not in said.err


def test_freeing_lets_go_of_what_only_a_cycle_holds():
    class Held:
        pass

    held = Held()
    held.itself, held.tensor = held, torch.zeros(8)
    seen = weakref.ref(held)
    gc.disable()
    try:
        del held
        assert seen() is not None
        free_memory(torch.device("cpu"))
        assert seen() is None
    finally:
        gc.enable()
