"""A training step on CUDA, launched as a whole, as a search's step is (fast/cuda_graph.py): its
thousands of small kernels would keep the processor busy for longer than the GPU.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

import torch
from torch import Tensor

from cli.errors import is_mistake
from cli.progress import tell
from fast.cuda_graph import WARM_UP, Recorder, Step
from fast.device import first_line
from fast.memory import is_out_of_memory


class Replay:
    """Calls the first WARM_UP steps of each kind, and replays all others from a recording; where a
    step cannot be recorded, one line says why, and all are called.
    """

    def __init__(self, device: torch.device, random: torch.Generator):
        self.recorder, self.random = Recorder(device), random
        self.called: Counter[Hashable] = Counter()
        self.recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, dict[str, Tensor]] | None] = {}

    def __call__(self, kind: Hashable, step: Step) -> dict[str, Tensor]:
        """One step of this kind: steps of a kind differ in the values of tensors only, and change
        tensors in place only.
        """
        if self.called[kind] < WARM_UP:
            self.called[kind] += 1
            return self.recorder.aside(step)
        if kind not in self.recordings:
            self.recordings[kind] = self._record(step)
        if self.recordings[kind] is None:
            return step()
        graph, figures = self.recordings[kind]
        graph.replay()
        return {name: value.clone() for name, value in figures.items()}

    def _record(self, step: Step) -> tuple[torch.cuda.CUDAGraph, dict[str, Tensor]] | None:
        try:
            recorded, reason = self.recorder.record(step, [self.random]), "too little memory"
        except Exception as error:  # of whatever kind: CUDA's own, or a driver too old
            if is_mistake(error) or is_out_of_memory(error):
                raise
            recorded, reason = None, first_line(error)
        if recorded is None:
            tell(f"steps are not replayed ({reason}): slower, and otherwise the same")
        return recorded
