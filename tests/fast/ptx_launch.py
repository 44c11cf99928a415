"""Triton kernels without a GPU: compiled as Triton would for a launch with these arguments on a GPU
of some capability, and run by ptx_machine.py.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from ptx_code import Code, parse
from ptx_machine import Tensors, run
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel, compile

if "constexprs" not in inspect.signature(ASTSource).parameters:
    reason = "a Triton that compiles for GPUs that are not here as this one does, 3.3 or newer"
    pytest.skip(f"missing: {reason}", allow_module_level=True)

WARP = 32  # threads
OPTIONS = "num_warps", "num_stages"
TYPES = {
    torch.float32: "fp32",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.uint8: "u8",
}


class Launch:
    """launch(kernel, grid, *arguments, **constants), as cuda._launch, of tensors on the CPU.
    launched: how often, by the name of a kernel; variants: what has been compiled, and its PTX.
    """

    def __init__(self, capability: int = 90) -> None:
        self.target = GPUTarget("cuda", capability, WARP)
        self.variants: dict[tuple, tuple[CompiledKernel, Code]] = {}
        self.launched: Counter[str] = Counter()

    def __call__(self, kernel, grid: tuple[int, ...], *arguments, **constants) -> None:
        options = {name: constants.pop(name) for name in OPTIONS if name in constants}
        names = [name for name in kernel.arg_names if name not in constants]
        given = dict(zip(names, arguments, strict=True))
        own = _Memory(each for each in arguments if isinstance(each, Tensor))
        types, attributes, parameters = {}, {}, []
        for i, each in enumerate(kernel.params):
            value = given.get(each.name)
            types[each.name] = _type_of(value, each.do_not_specialize)
            if types[each.name] == "constexpr":
                constants.setdefault(each.name, value)
                continue
            bits = own.address(value) if isinstance(value, Tensor) else _bits_of(value)
            parameters.append(bits)
            if types[each.name] != "fp32" and bits % 16 == 0 and not each.do_not_specialize:
                attributes[(i,)] = [["tt.divisibility", 16]]
        made, code = self._compiled(kernel, types, constants, attributes, options)
        run(code, parameters, (*grid, 1, 1)[:3], own.memory, made.metadata.shared)
        own.copy_back()
        self.launched[code.name] += 1

    def _compiled(
        self, kernel, types, constants, attributes, options
    ) -> tuple[CompiledKernel, Code]:
        key = kernel, *map(str, (types, constants, attributes, options))
        if key not in self.variants:
            source = ASTSource(kernel, types, constexprs=constants, attrs=attributes)
            made = compile(source, target=self.target, options=options)
            self.variants[key] = made, parse(made.asm["ptx"])
        return self.variants[key]


class _Memory:
    """Tensors in a GPU's memory: those that share theirs on the CPU share it there."""

    def __init__(self, tensors: Iterable[Tensor]):
        tensors = list(tensors)
        storages = {each.untyped_storage().data_ptr(): each for each in tensors}
        self.arrays = {at: _bytes_of(each) for at, each in storages.items()}
        self.memory = Tensors(list(self.arrays.values()))
        self.places = dict(zip(self.arrays, self.memory.places, strict=True))
        for each in tensors:
            end = 1 + sum(
                (size - 1) * stride for size, stride in zip(each.shape, each.stride(), strict=True)
            )
            begin = self.address(each)
            self.memory.open[begin : begin + end * each.element_size()] = True

    def address(self, tensor: Tensor) -> int:
        offset = tensor.storage_offset() * tensor.element_size()
        return self.places[tensor.untyped_storage().data_ptr()] + offset

    def copy_back(self) -> None:
        for at, array in self.arrays.items():
            array[:] = self.memory.bytes[self.places[at] : self.places[at] + len(array)]


def _bytes_of(tensor: Tensor) -> np.ndarray:
    """All that it is a view of."""
    storage = tensor.untyped_storage()
    return torch.empty(0, dtype=torch.uint8).set_(storage).numpy()


def _bits_of(value: int | float) -> int:
    return int(np.float32(value).view(np.uint32)) if isinstance(value, float) else value


def _type_of(value: Tensor | int | float | None, general: bool) -> str:
    """Of an argument. An integer that is 1 is a constant, unless the kernel is to be general."""
    if isinstance(value, Tensor):
        return f"*{TYPES[value.dtype]}"
    if isinstance(value, float):
        return "fp32"
    return "constexpr" if value is None or value == 1 and not general else "i32"
