"""Steps that can be recorded on CUDA and launched as a whole: what that rests on is tested on the
CPU, where the same steps run; the recording itself where there is a CUDA device.
"""

import pytest
import torch
from conftest import one_file
from torch.utils._python_dispatch import TorchDispatchMode

from fast.cuda_graph import WARM_UP, Replay
from PULSE import PULSE, Search
from search_settings import OPTIMISERS, Settings, lr_multiplier

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
WAITING = {"_local_scalar_dense", "nonzero", "is_nonzero", "item"}  # operations that wait


def lr_pictures(B: int) -> torch.Tensor:
    return torch.rand(B, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2


@pytest.fixture
def generator(tmp_path):
    return PULSE(one_file(tmp_path / "generator.pt"), device="cpu").generator


def all_tensors(search: Search) -> dict[str, torch.Tensor]:
    """Everything that a search is at between two steps."""
    found = {"v": search.v, "rate": search.rate, "index": search.index}
    found |= {f"noise {i}": maps for i, maps in enumerate(search.noise)}
    found |= {f"best {name}": value for name, value in search.best.items()}
    found |= {f"radius {i}": radius for i, radius in enumerate(search.optimiser.radii)}
    for i, state in enumerate(search.optimiser.opt.state.values()):
        found |= {f"{i} {name}": value for name, value in state.items() if torch.is_tensor(value)}
    return found


def plain(generator, ref_im, settings, seeds, **options) -> Search:
    return Search(generator, generator.synthesis, ref_im, settings, seeds, **options)


def replayed(generator, ref_im, settings, seeds) -> Search:
    return plain(generator, ref_im, settings, seeds, replay=Replay(generator.mean.device))


@pytest.mark.parametrize("opt_name", OPTIMISERS)
def test_a_step_changes_its_tensors_in_place(generator, opt_name):
    search = plain(generator, lr_pictures(2), Settings(steps=9, opt_name=opt_name), [0, 1])
    for _ in range(WARM_UP):
        search.step()
    before = all_tensors(search)
    places = {name: value.data_ptr() for name, value in before.items()}
    values = {name: value.detach().clone() for name, value in before.items()}
    for _ in range(3):
        search.step()
    after = all_tensors(search)
    assert {name: value.data_ptr() for name, value in after.items()} == places
    assert search.optimiser.opt.param_groups[0]["lr"] is search.rate
    for name in ("v", "noise 0", "rate", "index"):
        assert not torch.equal(after[name], values[name]), name


def test_the_tensors_are_all_that_a_step_depends_on(generator):
    """A recorded step sees what the tensors hold, and nothing of Python's."""
    settings = Settings(steps=40, learning_rate=0.1)
    search = plain(generator, lr_pictures(2), settings, [0, 1])
    for _ in range(WARM_UP):
        search.step()
    kept = {name: value.detach().clone() for name, value in all_tensors(search).items()}
    ends = []
    for _ in range(2):
        with torch.no_grad():
            for name, value in all_tensors(search).items():
                value.copy_(kept[name])
        for _ in range(4):  # Python's own count of the steps goes on the second time
            figures = search.step()
        ends.append(
            [figures["total"], *(value.detach().clone() for value in all_tensors(search).values())]
        )
    for first, second in zip(*ends, strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("lr_schedule", ["fixed", "linear1cycle", "linear1cycledrop"])
def test_the_learning_rate_is_that_of_the_step_whose_number_the_tensor_holds(
    generator, lr_schedule
):
    settings = Settings(steps=10, learning_rate=0.4, lr_schedule=lr_schedule)
    search = plain(generator, lr_pictures(1), settings, [0])
    for number in (0, 7, 3, 9):
        search.index.fill_(number)
        search._descend()
        assert search.rate.item() == 0.4 * lr_multiplier(lr_schedule, number, 10)
        assert search.index.item() == number + 1


def test_a_step_waits_for_nothing_but_what_pytorchs_optimiser_reads_on_a_cpu(generator):
    seen = []

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.__name__.split(".")[0])
            return function(*args, **(kwargs or {}))

    search = plain(generator, lr_pictures(2), Settings(steps=9), [0, 1])
    search.step()
    search.optimiser.opt.step = lambda closure=None: None  # on CUDA it is the capturable form
    with Seen():
        search.step()
    assert "where" in seen and "index_select" in seen
    assert not WAITING & set(seen)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_where_nothing_can_be_recorded_one_line_says_so_and_the_search_is_the_same(
    generator, caplog
):
    settings = Settings(steps=12)
    searches = [plain(generator, lr_pictures(2), settings, [0, 1]) for _ in range(2)]
    searches[1].replay = Replay(torch.device("cuda"))
    for _ in range(12):
        called, refused = (search.step() for search in searches)
        assert all(torch.equal(called[name], refused[name]) for name in called)
    assert torch.equal(searches[0].pictures[0], searches[1].pictures[0])
    assert len(caplog.messages) == 1 and "not replayed" in caplog.messages[0]


# ------------------------------------------------------------ with a CUDA device


def cuda_model(tmp_path, compile):
    return PULSE(one_file(tmp_path / "g.pt", 64), "cuda", tmp_path, compile, "float32")


@needs_cuda
@pytest.mark.parametrize("opt_name", OPTIMISERS)
def test_replayed_steps_are_those_that_are_called(tmp_path, opt_name, caplog):
    settings = Settings(steps=20, opt_name=opt_name, learning_rate=0.01)
    rows = []
    for replay in (False, True):
        generator = cuda_model(tmp_path, "off").generator
        search = (replayed if replay else plain)(generator, lr_pictures(3), settings, [0, 1, 2])
        rows.append(torch.stack([search.step()["total"] for _ in range(20)]).cpu())
        results = search.results
    assert not caplog.messages
    assert torch.allclose(*rows, rtol=1e-3)
    assert [result.best_step for result in results] == rows[1].argmin(dim=0).tolist()


@needs_cuda
def test_a_replayed_search_is_recorded_once_and_waits_for_nothing(tmp_path):
    generator = cuda_model(tmp_path, "off").generator
    search = replayed(generator, lr_pictures(2), Settings(steps=30), [0, 1])
    for _ in range(WARM_UP + 1):
        search.step()
    graph = search.replay.graph
    assert graph is not None
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(20):
            search.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert search.replay.graph is graph


@needs_cuda
def test_a_step_that_cannot_be_recorded_is_called_instead(tmp_path, caplog):
    generator = cuda_model(tmp_path, "off").generator

    def waiting(w, noise):
        picture = generator.synthesis(w, noise)
        assert picture.sum().isfinite().item()  # waits, which a recording forbids
        return picture

    search = replayed(generator, lr_pictures(1), Settings(steps=12), [0])
    search.synthesize = waiting
    for _ in range(12):
        figures = search.step()
    assert figures["total"].isfinite().all() and search.results[0].best_step > 0
    assert len(caplog.messages) == 1 and "not replayed" in caplog.messages[0]


@needs_cuda
def test_a_whole_search_on_cuda_ends_as_one_that_is_not_accelerated(tmp_path):
    ends = []
    for compile in ("off", "on"):
        search = cuda_model(tmp_path, compile)(
            lr_pictures(2).repeat(1, 1, 4, 4), seed=0, steps=15, learning_rate=0.01
        )
        for HR, _ in search:
            pass
        ends.append(HR)
    assert torch.allclose(*ends, atol=2e-2)
