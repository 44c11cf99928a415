"""A step of the search on CUDA, launched as a whole: its hundreds of small kernels are recorded
once, as a CUDA graph, and then started by one call.

    recorder = Recorder(device)                      # one for all searches on a generator
    replay = recorder.begin(kind, tensors, optimiser)
    for _ in range(100):
        outputs = replay(step)                       # step() → a dict of tensors
    replay.finish(step)

What is recorded is kernels and addresses. So `step` must change tensors in place only, decide
nothing in Python by what it has computed, and not wait for the device (the search's does so). The
next search of the same kind moves into the memory of the recorded one, and needs no recording.
"""

from __future__ import annotations

import contextlib
import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cli.errors import is_mistake
from fast.device import first_line
from fast.memory import is_out_of_memory

WARM_UP = 3  # steps before the recording: libraries make their handles and workspaces in the first
ROOM = 1.25  # what a recorded step may take of the memory that a called one takes

Step = Callable[[], dict[str, Tensor]]

log = logging.getLogger("pulse")


@dataclass
class Recording:
    """One recorded step. `keep` holds what else it reads: the search that was recorded."""

    graph: torch.cuda.CUDAGraph
    outputs: dict[str, Tensor]  # what each replay overwrites
    signature: tuple
    tensors: Sequence[Tensor]  # what a search begins with
    state: list[Tensor]  # the optimiser's, zero at the start of a search
    keep: object = field(default=None, repr=False)

    @torch.no_grad()
    def move_in(self, tensors: Sequence[Tensor]) -> None:
        """Let `tensors`, of another search at its start, lie where the graph reads and writes."""
        for recorded, new in zip(self.tensors, tensors, strict=True):
            recorded.copy_(new)
            new.data = recorded.data
        for each in self.state:
            each.zero_()


class Recorder:
    """Records steps on one CUDA device, on one stream of its own; the last recording is kept for
    the next search. Where recording fails, one line says why, and no step is recorded any more.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.kept: Recording | None = None
        self.refused = False
        self._stream: torch.cuda.Stream | None = None

    def begin(
        self, kind: object, tensors: Sequence[Tensor], optimiser: torch.optim.Optimizer
    ) -> Replay:
        """For a search at its start.

        kind: compares equal for two searches exactly where their steps differ in nothing but the
        values of `tensors`. tensors: all that a step reads or changes in place, except the state of
        `optimiser`, which begins as zeros.
        """
        signature = (kind, [(each.shape, each.dtype) for each in tensors])
        kept, self.kept = self.kept, None  # a second search beside this one does not get it
        if kept is not None and kept.signature == signature:
            kept.move_in(tensors)
            return Replay(self, signature, tensors, optimiser, kept)
        return Replay(self, signature, tensors, optimiser, None)

    def forget(self) -> None:
        """Let go of the recording, and with it of the memory in which it computes."""
        self.kept = None

    def aside(self, step: Step) -> dict[str, Tensor]:
        """One step, on the stream that will record."""
        with torch.cuda.device(self.device):
            if self._stream is None:
                self._stream = torch.cuda.Stream()
            present = torch.cuda.current_stream()
            self._stream.wait_stream(present)
            with torch.cuda.stream(self._stream):
                outputs = step()
            present.wait_stream(self._stream)
        return outputs

    def record(
        self, step: Step, random: Sequence[torch.Generator] = ()
    ) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]] | None:
        """Record a step without running it; None where memory is too little for a recording.
        random: the generators that it draws from, beside PyTorch's own.

        It is asked for before: older PyTorch does not get back what a recording had allocated that
        ran out of memory.
        """
        with torch.cuda.device(self.device):
            torch.cuda.synchronize()
            gc.collect()  # what is destroyed while a graph is recorded may break it off
            if not self._has_room():
                return None
            graph, pool = torch.cuda.CUDAGraph(), torch.cuda.graph_pool_handle()
            for generator in random:
                graph.register_generator_state(generator)
            with torch.cuda.stream(self._stream):
                # Other threads may go on using the device: they read and write results.
                graph.capture_begin(pool, capture_error_mode="thread_local")
                try:
                    try:
                        outputs = step()
                    except BaseException:
                        with contextlib.suppress(Exception):  # which would say less than the first
                            graph.capture_end()
                        raise
                    graph.capture_end()
                except BaseException:
                    self._leave(pool)
                    raise
        return graph, outputs

    def _leave(self, pool: tuple[int, int]) -> None:
        """After a recording whose end has failed, PyTorch would go on as if it was under way: keep
        this stream's memory for it, and empty no cache where memory runs out. Where the recording
        was ended, or PyTorch has no such functions, this raises what is of no interest.
        """
        with contextlib.suppress(Exception):
            device = torch.cuda.current_device()
            torch._C._cuda_endAllocateToPool(device, pool)
            torch._C._cuda_releasePool(device, pool)

    def _has_room(self) -> bool:
        """Whether memory is enough for another step beside what the search holds. Empties the
        cache: a graph has memory of its own, and cannot ask for what lies there.
        """
        before = torch.cuda.memory_reserved()
        torch.cuda.empty_cache()
        of_a_step = before - torch.cuda.memory_reserved()
        try:
            torch.empty(int(ROOM * of_a_step), dtype=torch.uint8, device=self.device)
        except torch.cuda.OutOfMemoryError:
            return False
        finally:
            torch.cuda.empty_cache()
        return True


class Replay:
    """The steps of one search: the first WARM_UP are called, all others replayed from a recording,
    or all of them, where `recording` is that of an earlier search. Nothing is done twice. Where
    memory is enough for steps but not for a recording beside them, all are called.
    """

    def __init__(
        self,
        recorder: Recorder,
        signature: tuple,
        tensors: Sequence[Tensor],
        optimiser: torch.optim.Optimizer,
        recording: Recording | None,
    ):
        self.recorder, self.recording = recorder, recording
        self.signature, self.tensors, self.optimiser = signature, tensors, optimiser
        self.left = WARM_UP
        self.recordable = True

    def __call__(self, step: Step) -> dict[str, Tensor]:
        """One step; the next one may overwrite what it returns."""
        if self.recording is None and self.recordable and not self.recorder.refused:
            if self.left > 0:
                self.left -= 1
                return self.recorder.aside(step)
            self.recording = self._record(step)
        if self.recording is None:
            return step()
        self.recording.graph.replay()
        return self.recording.outputs

    def _record(self, step: Step) -> Recording | None:
        try:
            recorded = self.recorder.record(step)
        except Exception as error:  # of whatever kind: CUDA's own, or a driver too old
            if is_mistake(error) or is_out_of_memory(error):
                raise  # in the latter case the batch is too large, recorded or not
            self.recorder.refused = True
            log.warning(
                f"steps are not replayed ({first_line(error)}): slower, and otherwise the same"
            )
            return None
        if recorded is None:
            self.recordable = False
            return None
        state = [
            value
            for values in self.optimiser.state.values()
            for value in values.values()
            if isinstance(value, Tensor)
        ]
        return Recording(*recorded, self.signature, self.tensors, state)

    def finish(self, step: Step) -> None:
        """The search has ended, and has copied what it wants to keep: its recording is kept for the
        next one.
        """
        if self.recording is not None:
            self.recording.keep = self.recording.keep or step
            self.recorder.kept = self.recording
