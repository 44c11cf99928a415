"""A step of the search on CUDA, launched as a whole: its hundreds of small kernels are recorded
once, as a CUDA graph, and then started by one call.

    replay = Replay(device)
    for _ in range(100):
        figures = replay(step)  # step() → a dict of tensors

What is recorded is kernels and addresses. So `step` must change tensors in place only, decide
nothing in Python by what it has computed, and not wait for the device (walk.py's does so).
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # steps before the recording: libraries make their handles and workspaces in the first

log = logging.getLogger("pulse")


class Replay:
    """Calls steps on a CUDA device: the first WARM_UP as they are, then recorded and replayed.

    Nothing is done twice: steps that warm up are steps of the search. Where recording fails, one
    line says why, and steps are called as they are from then on.
    """

    def __init__(self, device: torch.device):
        self.device = device
        self.left = WARM_UP
        self.refused = False
        self.stream: torch.cuda.Stream | None = None  # both warm-up and recording need one aside
        self.graph: torch.cuda.CUDAGraph | None = None
        self.figures: dict[str, Tensor] = {}  # what the graph writes its results to

    def __call__(self, step: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """One step; its results are the caller's own."""
        if self.graph is None and not self.refused:
            try:
                if self.left > 0:
                    self.left -= 1
                    return self._aside(step)
                self._record(step)
            except torch.OutOfMemoryError:
                raise  # the batch is too large, recorded or not
            except Exception as error:  # of whatever kind: CUDA's own, or a driver too old
                self.graph, self.refused = None, True
                reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
                log.warning(f"steps are not replayed ({reason}): slower, and otherwise the same")
        if self.graph is None:
            return step()
        self.graph.replay()
        return {name: values.clone() for name, values in self.figures.items()}

    def _aside(self, step: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """One step on the stream that will record."""
        with torch.cuda.device(self.device):
            if self.stream is None:
                self.stream = torch.cuda.Stream()
            present = torch.cuda.current_stream()
            self.stream.wait_stream(present)
            with torch.cuda.stream(self.stream):
                figures = step()
            present.wait_stream(self.stream)
        return figures

    def _record(self, step: Callable[[], dict[str, Tensor]]) -> None:
        """Record a step without running it."""
        with torch.cuda.device(self.device):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self.stream):
                self.figures = step()
            self.graph = graph
