"""How many kernels a step of the search launches on CUDA, and how much memory they move, counted on
a GPU that does not exist.

    python tests/fast/count_kernels.py

Each operation that PyTorch carries out counts as one kernel, which reads its arguments and writes
its results once; views and empty tensors count as nothing. What a convolution's library launches
beside it is not known here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1])]

import pytest
import torch
from fake_device import Watch, fake_device, search_on
from torch.utils._pytree import tree_leaves

from fast import cuda
from fast.synthesis import TorchKernels
from search_settings import Settings

FORMS = {"eager": TorchKernels, "compiled": cuda.TritonKernels}
NOTHING = {  # operations without a kernel
    *("view", "_unsafe_view", "_reshape_alias", "t", "transpose", "permute", "select", "slice"),
    *("unsqueeze", "squeeze", "expand", "detach", "alias", "as_strided", "split", "unbind"),
    "split_with_sizes",
    *("empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided", "diagonal"),
    *("is_same_size", "lift_fresh", "device", "_record_function_enter_new", "_RecordFunction"),
}


@dataclass
class Count:
    """Of one step."""

    launches: int = 0
    bytes: int = 0

    def add(self, tensors: list[torch.Tensor]) -> None:
        self.launches += 1
        self.bytes += sum(
            each.untyped_storage().nbytes() if _is_view(each) else each.nbytes for each in tensors
        )


def _is_view(x: torch.Tensor) -> bool:
    """Whether it claims more than is stored, as an expanded one."""
    return x.nbytes > x.untyped_storage().nbytes()


class Counting(Watch):
    """A watch that counts what is launched while `count` is set."""

    count: Count | None = None

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = super().__torch_dispatch__(function, types, args, kwargs)
        name = str(function).split(".")[1]
        if name == "convolution":  # the fake one forgets that it is channels last
            options = {"memory_format": torch.channels_last}
            result = super().__torch_dispatch__(
                torch.ops.aten.clone.default, (), (result,), options
            )
        if self.strict and self.count is not None and name not in NOTHING:
            tensors = [
                each for each in tree_leaves((args, kwargs, result)) if torch.is_tensor(each)
            ]
            self.count.add([each for each in tensors if each.device.type == "cuda"])
        return result


def of_a_step(form: str, precision: str, resolution: int, batch: int = 1) -> Count:
    """A warm step of the published search on a network of StyleGAN's layout."""
    count = Count()

    def launch(kernel, grid, *arguments, **constants):
        if watch.strict:
            count.add([each for each in arguments if torch.is_tensor(each)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_launch", launch)
        with fake_device("cuda", patch, Counting) as watch:
            watch.count = count
            layout = {"resolution": resolution, "fmap_base": 8192, "fmap_max": 512, "width": 512}
            given = FORMS[form](), precision, batch, Settings(steps=4)
            search_on(watch, *given, side=32, watched={2}, **layout)  # the last does not move
    return count


def main() -> None:
    print("a step at 1024 pixels   kernels     GB")
    for form in FORMS:
        for precision in ("float32", "tf32", "bfloat16"):
            count = of_a_step(form, precision, 1024)
            print(f"{form:10} {precision:10} {count.launches:9} {count.bytes / 1e9:6.2f}")


if __name__ == "__main__":
    main()
