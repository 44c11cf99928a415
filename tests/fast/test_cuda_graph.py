"""Steps that can be recorded on CUDA and launched as a whole: what that rests on is tested on the
CPU, where the same steps run, and who gets a recording with a stand-in for one; real recordings are
tested in test_on_cuda.py.
"""

import contextlib
import copy
from types import SimpleNamespace

import pytest
import torch
from conftest import one_file
from torch.utils._python_dispatch import TorchDispatchMode

from fast.cuda_graph import WARM_UP, Recorder
from PULSE import PULSE, Search
from search_settings import OPTIMISERS, Settings, lr_multiplier

pytestmark = pytest.mark.usefixtures("one_thread")

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
    optimiser = search.optimiser.opt
    lr = optimiser.lr if opt_name.startswith("lbfgs") else optimiser.param_groups[0]["lr"]
    assert lr is search.rate
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


# ------------------------------------------------------------ recordings, by a stand-in


class StandInGraph:
    """A graph that calls the step again, on what it was recorded with: on a CPU it is the same."""

    def __init__(self, step):
        self.search = copy.copy(step.__self__)  # with the tensors of now, as addresses would be
        self.outputs = {}
        self.replays = 0

    def replay(self):
        self.replays += 1
        for name, value in self.search._descend().items():
            self.outputs.setdefault(name, value.clone()).copy_(value)


class StandInRecorder(Recorder):
    """Records on a CPU; counts how often."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        self.graphs = []

    def aside(self, step):
        return step()

    def record(self, step):
        self.graphs.append(StandInGraph(step))
        return self.graphs[-1], self.graphs[-1].outputs


def ends(search: Search) -> list:
    for _ in search:
        pass
    return [*search.pictures, search.results, [latent.w for latent in search.latents]]


def same(first: list, second: list) -> bool:
    return (
        all(torch.equal(*each) for each in zip(first[:2], second[:2], strict=True))
        and first[2] == second[2]
        and all(torch.equal(*each) for each in zip(first[3], second[3], strict=True))
    )


@pytest.mark.parametrize("opt_name", OPTIMISERS)
def test_searches_of_one_kind_share_a_recording_and_end_as_without(generator, opt_name):
    settings = Settings(steps=9, opt_name=opt_name, learning_rate=0.1)
    recorder, pictures = StandInRecorder(), lr_pictures(6).split(2)
    expected = [ends(plain(generator, pictures[i], settings, [i, 9])) for i in range(3)]
    searches = []
    for i in range(3):
        search = plain(generator, pictures[i], settings, [i, 9], recorder=recorder)
        found = ends(search)
        assert same(found, expected[i]), i
        searches.append(search)
    assert [graph.replays for graph in recorder.graphs] == [9 - WARM_UP + 9 + 9]
    for i, search in enumerate(searches):  # what one has found, no later one changes
        assert same([*search.pictures, search.results, [w.w for w in search.latents]], expected[i])
        assert torch.equal(pictures[i], lr_pictures(6).split(2)[i])  # nor what the caller gave


@pytest.mark.parametrize("opt_name", ["adam", "lbfgs", "lbfgs+adam"])
def test_a_search_that_ends_early_hands_its_recording_on(generator, opt_name):
    """Each picture's own end is a tensor of the recorded step."""
    settings = Settings(
        steps=30, opt_name=opt_name, learning_rate=0.1, until="eps", polish=0.1, eps=0.06
    )
    recorder, pictures = StandInRecorder(), lr_pictures(6).split(2)
    found = []
    for i in range(3):
        expected = ends(plain(generator, pictures[i], settings, [i, 9]))
        search = plain(generator, pictures[i], settings, [i, 9], recorder=recorder)
        assert same(ends(search), expected), i
        found += [result.steps for result in search.results]
    assert len(recorder.graphs) == 1
    assert min(found) < 30 and len(set(found)) > 1


@pytest.mark.parametrize("change", ["batch", "settings", "network", "side"])
def test_a_search_of_another_kind_is_recorded_anew(generator, tmp_path, change):
    recorder, settings, network = StandInRecorder(), Settings(steps=8), generator.synthesis
    ends(Search(generator, network, lr_pictures(2), settings, [0, 1], recorder=recorder))
    pictures, seeds = lr_pictures(2), [0, 1]
    if change == "batch":
        pictures, seeds = lr_pictures(1), [0]
    elif change == "settings":
        settings = Settings(steps=8, loss_str="100*L1")
    elif change == "network":
        network = copy.deepcopy(network)
    else:
        pictures = torch.nn.functional.interpolate(pictures, scale_factor=2)
    again = ends(Search(generator, network, pictures, settings, seeds, recorder=recorder))
    assert len(recorder.graphs) == 2
    assert same(again, ends(Search(generator, network, pictures, settings, seeds)))


def test_two_searches_at_once_never_share_a_recording(generator):
    settings, recorder = Settings(steps=8), StandInRecorder()
    expected = [ends(plain(generator, lr_pictures(2), settings, [i, i])) for i in range(3)]
    ends(plain(generator, lr_pictures(2), settings, [0, 0], recorder=recorder))
    searches = [
        plain(generator, lr_pictures(2), settings, [i, i], recorder=recorder) for i in (1, 2)
    ]
    for _ in range(8):
        for search in searches:
            search.step()
    for i in (1, 2):
        assert same(ends(searches[i - 1]), expected[i])
    assert len(recorder.graphs) == 2


def test_an_abandoned_search_takes_its_recording_with_it(generator):
    settings, recorder = Settings(steps=8), StandInRecorder()
    ends(plain(generator, lr_pictures(2), settings, [0, 1], recorder=recorder))
    left = plain(generator, lr_pictures(2), settings, [5, 6], recorder=recorder)
    left.step()
    search = plain(generator, lr_pictures(2), settings, [0, 1], recorder=recorder)
    assert same(ends(search), ends(plain(generator, lr_pictures(2), settings, [0, 1])))
    assert len(recorder.graphs) == 2


def test_where_nothing_can_be_recorded_one_line_says_so_and_the_search_is_the_same(
    generator, caplog
):
    class Refusing(StandInRecorder):
        def record(self, step):
            raise RuntimeError("")  # errors without a word exist

    settings, recorder = Settings(steps=12), Refusing()
    for seed in (0, 1):
        found = ends(plain(generator, lr_pictures(1), settings, [seed], recorder=recorder))
        assert same(found, ends(plain(generator, lr_pictures(1), settings, [seed])))
    assert caplog.messages == [
        "steps are not replayed (RuntimeError): slower, and otherwise the same"
    ]


def test_without_room_for_a_recording_all_steps_are_called_and_the_next_search_is_asked_again(
    generator, caplog
):
    class Tight(StandInRecorder):
        asked = 0

        def record(self, step):
            self.asked += 1
            return None if self.asked == 1 else super().record(step)

    settings, recorder = Settings(steps=9), Tight()
    for seed in (0, 1):
        found = ends(plain(generator, lr_pictures(1), settings, [seed], recorder=recorder))
        assert same(found, ends(plain(generator, lr_pictures(1), settings, [seed])))
    assert recorder.asked == 2 and len(recorder.graphs) == 1
    assert not caplog.messages


def test_an_error_of_the_step_itself_is_not_taken_for_one_of_the_recording(generator, caplog):
    def broken(w, noise):
        raise RuntimeError("a kernel failed")

    search = plain(generator, lr_pictures(1), Settings(steps=9), [0], recorder=StandInRecorder())
    search.synthesize = broken
    with pytest.raises(RuntimeError, match="a kernel failed"):
        search.step()
    assert not caplog.messages


def test_memory_that_runs_out_while_recording_is_the_batchs_fault(generator, caplog):
    class Full(StandInRecorder):
        def record(self, step):
            raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    search = plain(generator, lr_pictures(1), Settings(steps=9), [0], recorder=Full())
    with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
        ends(search)
    assert not caplog.messages


# ------------------------------------------------------------ torch.cuda, by stand-ins


class Stream:
    """Has no work to wait for."""

    def wait_stream(self, other):
        pass


@pytest.fixture
def cuda(monkeypatch):
    """torch.cuda without a device: `current` is the present stream, `modes` are those in which
    graphs were recorded; the end of a recording raises `error`, if there is one.
    """
    state = SimpleNamespace(current=Stream(), modes=[], error=None)

    class Inside:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.before, state.current = state.current, self.stream

        def __exit__(self, *error):
            state.current = self.before

    class Graph:
        def capture_begin(self, *pool, capture_error_mode="global", **more):
            state.modes.append(capture_error_mode)

        def capture_end(self):
            if state.error is not None:
                raise state.error

    stand_ins = {
        "CUDAGraph": Graph,
        "Stream": Stream,
        "stream": Inside,
        "current_stream": lambda: state.current,
        "device": lambda device: contextlib.nullcontext(),
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "memory_reserved": lambda: 0,
    }
    for name, stand_in in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(Recorder, "_has_room", lambda self: True)
    return state


@pytest.mark.parametrize("broken", ["", "the step", "the end of the recording"])
def test_a_step_is_recorded_beside_other_threads_and_no_stream_is_left_current(cuda, broken):
    present, streams = cuda.current, []

    def step():
        streams.append(cuda.current)
        if broken == "the step" and len(streams) == 3:
            raise RuntimeError(broken)
        return {}

    if broken == "the end of the recording":
        cuda.error = RuntimeError(broken)
    recorder = Recorder(torch.device("cuda", 0))
    for _ in range(2):
        recorder.aside(step)
    with pytest.raises(RuntimeError, match=broken) if broken else contextlib.nullcontext():
        recorder.record(step)
    assert cuda.modes == ["thread_local"]  # the thread that writes results may copy from the device
    assert len(streams) == 3 and len(set(streams)) == 1 and present not in streams
    assert cuda.current is present


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_device_no_stream_is_left_current(generator, caplog):
    """The real recorder, which cannot even make a stream here: the error is the step's."""
    recorder = Recorder(torch.device("cuda", 0))
    search = plain(generator, lr_pictures(1), Settings(steps=9), [0], recorder=recorder)
    with pytest.raises((RuntimeError, AssertionError)):
        search.step()
