"""A machine in numpy that runs PTX, the code that Triton's compiler writes for an NVIDIA GPU.

Triton's interpreter runs a kernel's Python and cannot see what the compiler makes of it. This
machine runs what it has made, without a GPU: all threads of some programs side by side, an
instruction at a time, each a few operations of numpy on arrays of one number a thread. It is
strict, so that what it computes can be believed: it stops with a PTXError at an instruction or a
form of one that it does not have, where threads of one program go different ways, and at an access
outside the tensors or at an address that is no multiple of its size.

It has what Triton writes for kernels without tensor cores (of numbers: ptx_arithmetic.py), and for
tensor cores of capability 8.0 (ptx_tensor_cores.py). It does not see races, since all threads go in
step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from ptx_arithmetic import DTYPES, UNSIGNED, arithmetic
from ptx_code import Address, Code, Instruction, Operand, PTXError
from ptx_tensor_cores import WARP, Copy, copy, load_matrices, multiply, some, store_matrices

MOST_THREADS = 16384  # side by side: more would be no faster
GAP = 256  # bytes at least between two tensors, a power of two


class Memory:
    """Bytes, of which only those that are open may be read or written."""

    def __init__(self, size: int):
        self.bytes = np.zeros(-(-size // GAP) * GAP, np.uint8)
        self.open = np.zeros(len(self.bytes), bool)

    def load(self, at: np.ndarray, size: int, many: int) -> list[np.ndarray]:
        """From each address `many` neighbours, of `size` bytes each."""
        first, numbers = self._numbers(at, size, many)
        return [numbers[first + i] for i in range(many)]

    def store(self, at: np.ndarray, size: int, values: Sequence[np.ndarray]) -> None:
        first, numbers = self._numbers(at, size, len(values))
        for i, value in enumerate(values):
            numbers[first + i] = value

    def _numbers(self, at: np.ndarray, size: int, many: int) -> tuple[np.ndarray, np.ndarray]:
        """All bytes as numbers of `size` bytes, and which of these is at each address."""
        whole = size * many
        if (at % whole).any():
            raise PTXError(f"an address that is no multiple of {whole}")
        inside = (at >= 0) & (at < len(self.bytes))
        if not inside.all() or not (self.open[at] & self.open[at + whole - 1]).all():
            raise PTXError("an access outside the tensors")
        return at // size, self.bytes.view(UNSIGNED[size])


class Tensors(Memory):
    """A GPU's memory with some arrays of bytes, all of them closed. places: their addresses."""

    def __init__(self, arrays: Sequence[np.ndarray]):
        self.places, end = [], GAP
        for each in arrays:
            self.places.append(end)
            end += (len(each) // GAP + 2) * GAP
        super().__init__(end)
        for place, each in zip(self.places, arrays, strict=True):
            self.bytes[place : place + len(each)] = each


def run(
    code: Code,
    parameters: Sequence[int],
    grid: tuple[int, int, int],
    memory: Memory,
    shared: int = 0,
) -> None:
    """All programs of a grid. parameters: the kernel's, as bits; shared: bytes of a program."""
    many, most = int(np.prod(grid)), max(MOST_THREADS // code.threads, 1)
    with np.errstate(all="ignore"):
        for first in range(0, many, most):
            programs = np.arange(first, min(first + most, many))
            of_programs = _shared_memory(len(programs), shared)
            registers = _special_registers(code.threads, grid, programs)
            groups = [Programs(code, parameters, memory, of_programs, registers)]
            while groups:
                groups += groups.pop().run()


def _shared_memory(programs: int, size: int) -> Memory:
    """As many equal parts of which the first `size` bytes are open."""
    whole = (size // GAP + 1) * GAP
    memory = Memory(programs * whole)
    memory.bytes[:] = 0xFF  # not a number, until something is stored
    memory.open.reshape(programs, whole)[:, :size] = True
    return memory


def _special_registers(
    threads: int, grid: tuple[int, int, int], programs: np.ndarray
) -> dict[str, np.ndarray]:
    """Of some programs of a grid."""
    registers = {"%tid.x": np.tile(np.arange(threads), len(programs))}
    places = np.unravel_index(programs, grid[::-1])[::-1]
    for axis, place, size in zip("xyz", places, grid, strict=True):
        registers[f"%ctaid.{axis}"] = place.repeat(threads)
        registers[f"%nctaid.{axis}"] = np.full(threads * len(programs), size)
    return {name: each.astype(np.uint32) for name, each in registers.items()}


class Programs:
    """Some programs, that go in step. The threads of each are neighbours. A register is an array of
    unsigned numbers, its bits, or of bools, one a thread. Where only some threads do something,
    `active` has their indices; elsewhere it is None.
    """

    def __init__(
        self,
        code: Code,
        parameters: Sequence[int],
        memory: Memory,
        shared: Memory,
        registers: dict[str, np.ndarray],
        position: int = 0,
    ):
        self.code, self.parameters = code, parameters
        self.memory, self.shared, self.registers = memory, shared, registers
        self.position = position  # of the next instruction
        self.active: np.ndarray | None = None
        self.threads = np.arange(len(registers["%tid.x"]))
        self.size_of_shared = len(shared.bytes) * code.threads // len(self.threads)
        self.copies: list[Copy] = []  # under way, not yet of a group
        self.groups: list[list[Copy]] = []

    def run(self) -> list[Programs]:
        """To the end; or to where some programs go one way and some another: then both groups."""
        while self.position < len(self.code.instructions):
            instruction = self.code.instructions[self.position]
            self.position += 1
            try:
                if instruction.parts[0] not in ("bra", "ret"):
                    self._do(instruction)
                elif groups := self._branch(instruction):
                    return groups
            except PTXError as error:
                raise PTXError(f"{self.code.name}: {instruction.text}: {error}") from None
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                reason = "a form of it that this machine does not have"
                raise PTXError(f"{self.code.name}: {instruction.text}: {reason}") from error
        return []

    def _branch(self, instruction: Instruction) -> list[Programs]:
        """bra and ret."""
        to = len(self.code.instructions)
        if instruction.parts[0] == "bra":
            to = self.code.labels[instruction.operands[0]]
        taken = self._guard(instruction).reshape(-1, self.code.threads)
        if (taken != taken[:, :1]).any():
            raise PTXError("threads of one program go different ways")
        if taken.all():
            self.position = to
        if taken.all() or not taken.any():
            return []
        taken = taken[:, 0]
        return [self._some(taken, to), self._some(~taken, self.position)]

    def _some(self, chosen: np.ndarray, position: int) -> Programs:
        """A copy of those programs that are chosen."""
        shared, threads = Memory(0), chosen.repeat(self.code.threads)
        shared.bytes = self.shared.bytes.reshape(len(chosen), -1)[chosen].reshape(-1)
        shared.open = self.shared.open.reshape(len(chosen), -1)[chosen].reshape(-1)
        registers = {name: each[threads] for name, each in self.registers.items()}
        group = Programs(self.code, self.parameters, self.memory, shared, registers, position)
        group.copies = some(self.copies, threads)
        group.groups = [some(each, threads) for each in self.groups]
        return group

    def _guard(self, instruction: Instruction) -> np.ndarray:
        if not instruction.guard:
            return np.ones(len(self.threads), bool)
        return self.registers[instruction.guard] != instruction.unless

    def _do(self, instruction: Instruction) -> None:
        self.active = None
        if instruction.guard and not (guard := self._guard(instruction)).all():
            self.active = np.flatnonzero(guard)
        parts, operands = instruction.parts, instruction.operands
        if parts[0] in METHODS:
            METHODS[parts[0]](self, parts, *operands)
            return
        kinds, function = arithmetic(parts)
        to, *sources = operands
        if len(sources) != len(kinds):
            raise PTXError(f"{len(sources)} operands are not {len(kinds)}")
        self.write(to, function(*map(self.value, sources, kinds)))

    def value(self, operand: str, kind: str) -> np.ndarray:
        """Of a register, of which a shorter type has the lower bits, or of a constant: an array of
        one number for each thread, or for all.
        """
        dtype = np.dtype(DTYPES[kind])
        if operand[0] != "%":
            return _constant(operand, dtype)
        if operand not in self.registers:
            raise PTXError(f"{operand} has not been written")
        bits = self.registers[operand]
        if bits.dtype.itemsize > dtype.itemsize:
            bits = bits.astype(UNSIGNED[dtype.itemsize])
        return bits.view(dtype)

    def write(self, to: str, value: np.ndarray) -> None:
        """Of all threads, into a register of those that are active."""
        if self.active is not None and value.ndim:
            value = value[self.active]
        self.write_active(to, value)

    def write_active(self, to: str, value: np.ndarray) -> None:
        """Of the active threads. What is shorter than the register is extended."""
        dtype = np.dtype(DTYPES[self.code.kinds[to.rstrip("0123456789")]])
        if value.dtype.kind == "f":
            value = value.view(UNSIGNED[value.dtype.itemsize])
        if value.dtype.itemsize < dtype.itemsize:
            value = value.astype(f"{value.dtype.kind}{dtype.itemsize}")
        if value.dtype.itemsize > dtype.itemsize:
            raise PTXError(f"{value.dtype} does not fit into {to}")
        value = value.view(dtype)
        if self.active is not None:
            new = np.full(self.threads.shape, -1).astype(dtype)
            whole = self.registers.get(to, new).copy()
            whole[self.active] = value
            value = whole
        self.registers[to] = self.every(value)

    def every(self, value: np.ndarray) -> np.ndarray:
        """A number for each thread."""
        return value if value.ndim else np.full(self.threads.shape, value)

    def addresses(self, space: str, address: Address) -> tuple[Memory, np.ndarray]:
        """Of the active threads, and in which memory."""
        kind = {"global": "u64", "shared": "u32"}[space]
        at = self.every(self.value(address.base, kind)).astype(np.int64) + address.offset
        threads = self.threads if self.active is None else self.active
        at = at[threads]
        if space == "global":
            return self.memory, at
        if len(at) and (at.min() < 0 or at.max() >= self.size_of_shared):
            raise PTXError("an access outside the program's shared memory")
        return self.shared, at + self.first_shared(threads)

    def first_shared(self, threads: np.ndarray) -> np.ndarray:
        """Where the shared memory of each one's program begins."""
        return threads // self.code.threads * self.size_of_shared

    # Instructions: the parts of the name, then the operands.

    def load(self, parts: tuple[str, ...], to: Operand, address: Address) -> None:
        """ld.global.v2.b32 {%r1, %r2}, [%rd1 + 16], and of a parameter, for all threads."""
        _, space, *vector, kind = parts
        dtype, many = np.dtype(DTYPES[kind]), _length(vector)
        if space == "param":
            bits = self.parameters[int(address.base.rpartition("_")[2])]
            self.write(to, _constant(str(bits), dtype))
            return
        memory, at = self.addresses(space, address)
        names = to if isinstance(to, tuple) else (to,)
        for name, value in zip(names, memory.load(at, dtype.itemsize, many), strict=True):
            self.write_active(name, value.view(dtype))

    def store(self, parts: tuple[str, ...], address: Address, source: Operand) -> None:
        _, space, *vector, kind = parts
        names = source if isinstance(source, tuple) else (source,)
        if len(names) != _length(vector):
            raise PTXError("numbers that are not as many as its name says")
        memory, at = self.addresses(space, address)
        size = np.dtype(DTYPES[kind]).itemsize
        values = (self.every(self.value(name, f"b{8 * size}")) for name in names)
        active = slice(None) if self.active is None else self.active
        memory.store(at, size, [each[active] for each in values])

    def move(self, parts: tuple[str, ...], to: Operand, source: Operand) -> None:
        """mov: of a number, or of the parts of one from the lowest bits on, {%rs1, %rs2}."""
        _, kind = parts
        if isinstance(to, tuple):
            bits = 8 * np.dtype(DTYPES[kind]).itemsize // len(to)
            whole = self.value(source, kind)
            for i, name in enumerate(to):
                if name == "_":  # nowhere
                    continue
                self.write(name, (whole >> whole.dtype.type(bits * i)).astype(DTYPES[f"u{bits}"]))
        elif isinstance(source, tuple):
            dtype, whole = DTYPES[kind], DTYPES[kind](0)
            bits = 8 * np.dtype(dtype).itemsize // len(source)
            for i, name in enumerate(source):
                whole = whole | self.value(name, f"u{bits}").astype(dtype) << dtype(bits * i)
            self.write(to, whole)
        else:
            self.write(to, self.value(source, kind))

    def shuffle(
        self, parts: tuple[str, ...], to: str, source: str, lane: str, clamp: str, members: str
    ) -> None:
        """shfl: what another thread of the warp has."""
        if self.active is not None or (clamp, members) != ("31", "-1"):
            raise PTXError("not all threads of a warp take part")
        if parts[1:] not in (("sync", "bfly", "b32"), ("sync", "idx", "b32")):
            raise PTXError("a way to shuffle that this machine does not have")
        lane = self.value(lane, "u32").astype(np.int64) % WARP
        own = self.threads % WARP
        other = own ^ lane if parts[2] == "bfly" else lane
        values = self.every(self.value(source, "b32"))
        self.write(to, values[self.threads - own + other])

    def wait(self, parts: tuple[str, ...], *which: Operand) -> None:
        """bar: all threads are where the others are."""
        if self.active is not None:
            raise PTXError("not all threads wait")


METHODS: dict[str, Callable[..., None]] = {
    "bar": Programs.wait,
    "barrier": Programs.wait,
    "cp": copy,
    "ld": Programs.load,
    "ldmatrix": load_matrices,
    "mma": multiply,
    "mov": Programs.move,
    "shfl": Programs.shuffle,
    "st": Programs.store,
    "stmatrix": store_matrices,
}


def _length(vector: Sequence[str]) -> int:
    """Of ("v4",) 4, of () 1."""
    forms = {(): 1, ("v2",): 2, ("v4",): 4}
    if tuple(vector) not in forms:
        raise PTXError("an access that this machine does not have")
    return forms[tuple(vector)]


def _constant(text: str, dtype: np.dtype) -> np.ndarray:
    """0f3F800000, the bits of a float, an integer, or the address of a program's shared memory."""
    if text == "global_smem":
        return np.array(0, dtype)
    if text.startswith("0f"):
        return np.array(int(text[2:], 16), np.uint32).view(dtype)
    number = int(text.removesuffix("U"), 0)
    if dtype == np.bool_:
        return np.array(number != 0)
    bits = 8 * dtype.itemsize
    return np.array(number % (1 << bits), UNSIGNED[dtype.itemsize]).view(dtype)
