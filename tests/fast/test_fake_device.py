"""A whole search on a GPU that does not exist: every tensor is on it, and nothing waits for it."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch
from fake_device import LATER, UNAVAILABLE, fake_device, search_on

import PULSE
from fast import choose
from fast.cuda import TritonKernels
from fast.synthesis import TorchKernels
from search_settings import OPTIMISERS, Settings

pytestmark = [
    pytest.mark.skipif(bool(UNAVAILABLE), reason=UNAVAILABLE),
    pytest.mark.usefixtures("one_thread"),
]

FORMS = [
    (None, "float32"),
    (TorchKernels, "float32"),
    (TorchKernels, "bfloat16"),
    (TritonKernels, "float32"),
    (TritonKernels, "bfloat16"),
]
PRECISIONS = [("plain", "float32"), ("fast", "float32"), ("fast", "bfloat16")]
FAULTS = {
    "a number is read": lambda search: search.rate.item(),
    "an index lies on the CPU": lambda search: search.rates.index_select(
        0, torch.zeros(1, dtype=torch.int64)
    ),
    "a constant lies on the CPU": lambda search: search.v.detach() + torch.ones(16),
    "something is copied to the device": lambda search: torch.ones(16).to(search.v.device),
}


@pytest.mark.parametrize("opt_name", OPTIMISERS)
@pytest.mark.parametrize(("kernels", "precision"), FORMS)
def test_a_search_on_cuda_waits_for_nothing_and_leaves_the_device_never(
    monkeypatch, opt_name, kernels, precision
):
    launched = []

    def launch(kernel, grid, *arguments, **constants):
        tensors = [each for each in arguments if isinstance(each, torch.Tensor)]
        assert {each.device.type for each in tensors} == {"cuda"} and min(grid) > 0
        launched.append(kernel)

    monkeypatch.setattr("fast.cuda._launch", launch)
    with fake_device("cuda", monkeypatch) as watch:
        search_on(
            *(watch, kernels and kernels(), precision, 3),
            Settings(steps=4, opt_name=opt_name),
        )
    assert torch.float64 not in watch.dtypes
    assert bool(launched) == (kernels is TritonKernels)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("settings", [{"tile_latent": True}, {"noise_type": "zero"}])
def test_so_does_a_search_of_other_shapes(monkeypatch, batch, settings):
    with fake_device("cuda", monkeypatch) as watch:
        search_on(watch, TorchKernels(), "float32", batch, Settings(steps=4, **settings))


def search_later(watch, name: str, form: str, precision: str) -> None:
    """A search on one of LATER."""
    kernels = choose.FORMS[name.split()[0]].eager() if form == "fast" else None
    search_on(watch, kernels, precision, 2, Settings(steps=4), network=LATER[name])
    assert torch.float64 not in watch.dtypes


@pytest.mark.parametrize("name", LATER)
@pytest.mark.parametrize(("form", "precision"), PRECISIONS)
def test_so_does_a_search_on_a_later_network(monkeypatch, name, form, precision):
    with fake_device("cuda", monkeypatch) as watch:
        search_later(watch, name, form, precision)


@pytest.fixture
def few_gathering(monkeypatch):
    """Of its fifty steps, all alike, three."""
    monkeypatch.setattr("generators.latents.GATHERING", 3)


@pytest.mark.parametrize("device", ["cuda", "mps"])
@pytest.mark.parametrize("more", [{}, {"tile_latent": True}, {"until": "eps", "polish": 0.5}])
@pytest.mark.usefixtures("few_gathering")
def test_so_does_the_quick_search(monkeypatch, device, more):
    with fake_device(device, monkeypatch) as watch:
        search_on(watch, TorchKernels(), "float32", 2, Settings(steps=6, search="quick", **more))
    assert torch.float64 not in watch.dtypes


@pytest.mark.parametrize("search", ["paper", "quick"])
@pytest.mark.usefixtures("few_gathering")
def test_whether_all_are_found_is_asked_every_few_steps_only(monkeypatch, search):
    settings = {"search": search, "until": "eps"}
    with fake_device("cuda", monkeypatch) as watch:
        search_on(
            watch, TorchKernels(), "float32", 2, Settings(steps=PULSE.ASK_EVERY - 1, **settings)
        )
        with pytest.raises(AssertionError, match="waits for the device"):
            search_on(
                watch, TorchKernels(), "float32", 2, Settings(steps=PULSE.ASK_EVERY + 1, **settings)
            )


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_step_is_seen(monkeypatch, fault):
    descend = PULSE.Search._descend

    def faulty(search):
        FAULTS[fault](search)
        return descend(search)

    monkeypatch.setattr(PULSE.Search, "_descend", faulty)
    with (
        fake_device("cuda", monkeypatch) as watch,
        pytest.raises((AssertionError, RuntimeError), match=r"waits|on \{|device"),
    ):
        search_on(watch, TorchKernels(), "float32", 2, Settings(steps=4))


@pytest.fixture(scope="module")
def on_mps() -> set[str]:
    """The operations that have a form on MPS, read in PyTorch's own list of all operations."""
    found = importlib.util.find_spec("torchgen")
    folder = Path(found.submodule_search_locations[0]) if found else Path("none")
    listed = folder / "packaged" / "ATen" / "native" / "native_functions.yaml"
    if not listed.exists():
        pytest.skip("this PyTorch comes without its list of operations")
    known: dict[str, bool | str] = {}
    for entry in re.split(r"^- func: ", listed.read_text(), flags=re.MULTILINE)[1:]:
        name = entry.split("(")[0]
        delegate = re.search(r"^  structured_delegate: (\S+)", entry, re.MULTILINE)
        forms = re.findall(r"^    ([\w, ]+): \S+", entry, re.MULTILINE)
        keys = {key for form in forms for key in form.split(", ")}
        everywhere = any(key.startswith("CompositeExplicit") for key in keys) or not keys
        known[name] = delegate[1] if delegate else "MPS" in keys or everywhere
    # A structured operation has the forms of its variant that writes into a given tensor.
    return {name for name, has in known.items() if (known[has] if isinstance(has, str) else has)}


@pytest.mark.parametrize("opt_name", OPTIMISERS)
def test_mps_has_every_operation_of_a_search_and_no_float64(monkeypatch, on_mps, opt_name):
    assert "add.Tensor" in on_mps and "linalg_eig" not in on_mps
    used = set()
    for kernels, precision in FORMS[:3]:
        with fake_device("mps", monkeypatch) as watch:
            search_on(
                watch, kernels and kernels(), precision, 2, Settings(steps=4, opt_name=opt_name)
            )
        used |= set(watch.operations)
        assert torch.float64 not in watch.dtypes
    assert len(used) > 20
    assert not {name.removeprefix("aten.") for name in used if "aten." in name} - on_mps


@pytest.mark.parametrize("name", LATER)
def test_mps_has_every_operation_of_a_search_on_a_later_network(monkeypatch, on_mps, name):
    used = set()
    for form, precision in PRECISIONS:
        with fake_device("mps", monkeypatch) as watch:
            search_later(watch, name, form, precision)
        used |= set(watch.operations)
    assert len(used) > 20
    assert not {name.removeprefix("aten.") for name in used if "aten." in name} - on_mps
