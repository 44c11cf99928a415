"""Instructions of PTX for tensor cores and what feeds them, as on GPUs of capability 8.0 (of those
that Triton writes for later ones: the matrices only). Each takes ptx_machine.Programs, the parts of
its name and its operands.

Thread t of a warp has numbers of rows g = t // 4 and t // 4 + 8 of a matrix, or of column g.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ptx_code import Address, PTXError

if TYPE_CHECKING:
    from ptx_machine import Programs

WARP = 32  # threads
TF32 = np.uint32(0xFFFFE000)  # the bits of a float that are read
COPIED = 4  # bytes at once, of those that a thread copies


class Copy(NamedTuple):
    """Under way into shared memory."""

    threads: np.ndarray
    at: np.ndarray  # in the shared memory of each one's program
    values: list[np.ndarray]


def load_matrices(
    programs: Programs, parts: tuple[str, ...], to: tuple[str, ...], address: Address
) -> None:
    """ldmatrix: 8×8 numbers of 16 bits. Where row r of matrix i is, thread 8·i + r of a warp says;
    each thread gets two neighbours of row g as one number of 32 bits. trans: of column g.
    """
    trans = "trans" in parts
    for name, at in zip(to, _matrices(programs, parts, len(to), address), strict=True):
        if trans:
            low, high = (programs.shared.load(each, 2, 1)[0].astype(np.uint32) for each in at)
            programs.write(name, low | high << np.uint32(16))
        else:
            programs.write(name, programs.shared.load(at[0], 4, 1)[0])


def store_matrices(
    programs: Programs, parts: tuple[str, ...], address: Address, source: tuple[str, ...]
) -> None:
    """stmatrix, the reverse."""
    if "trans" in parts:
        raise PTXError("matrices that this machine does not have")
    for name, at in zip(source, _matrices(programs, parts, len(source), address), strict=True):
        programs.shared.store(at[0], 4, [programs.every(programs.value(name, "b32"))])


def _matrices(
    programs: Programs, parts: tuple[str, ...], many: int, address: Address
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each matrix the addresses of the two numbers of each thread."""
    form = ["sync", "aligned", "m8n8", f"x{many}", "shared", "b16"]
    if trans := "trans" in parts:
        form.insert(4, "trans")
    if programs.active is not None or parts[1:] != tuple(form):
        raise PTXError("matrices that this machine does not have")
    _, at = programs.addresses("shared", address)
    lane = programs.threads % WARP
    if (at % 16)[lane < 8 * many].any():
        raise PTXError("a row whose address is no multiple of 16")
    found = []
    for i in range(many):
        first = programs.threads - lane + 8 * i  # the thread that knows row 0
        row, column = lane // 4, lane % 4 * 2
        if trans:
            found.append((at[first + column] + 2 * row, at[first + column + 1] + 2 * row))
        else:
            found.append((at[first + row] + 2 * column, at[first + row] + 2 * column + 2))
    return found


def multiply(
    programs: Programs,
    parts: tuple[str, ...],
    to: tuple[str, ...],
    a: tuple[str, ...],
    b: tuple[str, ...],
    c: tuple[str, ...],
) -> None:
    """mma: of each warp A (16, K)·B (K, 8) + C, of tf32 with K = 8 or bfloat16 with K = 16."""
    forms = {("m16n8k8", "tf32"): 1, ("m16n8k16", "bf16"): 2}  # numbers of a register
    sync, aligned, shape, *order, of_d, kind, same, of_c = parts[1:]
    many = forms.get((shape, kind))
    known = (sync, aligned, *order, of_d, of_c) == ("sync", "aligned", "row", "col", "f32", "f32")
    if many is None or not known or same != kind or programs.active is not None:
        raise PTXError("a product that this machine does not have")
    A, B, C = (
        np.zeros((len(programs.threads) // WARP, *size))
        for size in ((16, 8 * many), (8 * many, 8), (16, 8))
    )
    lane = np.arange(WARP)
    row, column = lane // 4, lane % 4
    for i, name in enumerate(a):
        for j, value in enumerate(_numbers(programs, name, many)):
            A[:, row + i % 2 * 8, column * many + j + i // 2 * 4 * many] = value
    for i, name in enumerate(b):
        for j, value in enumerate(_numbers(programs, name, many)):
            B[:, column * many + j + i * 4 * many, row] = value
    places = [(row + i // 2 * 8, column * 2 + i % 2) for i in range(4)]
    for (i, j), name in zip(places, c, strict=True):
        C[:, i, j] = programs.every(programs.value(name, "f32")).reshape(-1, WARP)
    found = (A @ B + C).astype(np.float32)
    for (i, j), name in zip(places, to, strict=True):
        programs.write(name, found[:, i, j].reshape(-1))


def _numbers(programs: Programs, name: str, many: int) -> list[np.ndarray]:
    """The one or two in a register, (warps, 32)."""
    bits = programs.every(programs.value(name, "b32")).reshape(-1, WARP)
    each = [bits & TF32] if many == 1 else [bits << np.uint32(16), bits & np.uint32(0xFFFF0000)]
    return [x.view(np.float32) for x in each]


def copy(
    programs: Programs,
    parts: tuple[str, ...],
    to: Address | None = None,
    source: Address | None = None,
    size: str = "",
    used: str = "",
) -> None:
    """cp.async: into shared memory, where it arrives when it is waited for. used: how many bytes
    are read, all or none; others become 0.
    """
    if parts == ("cp", "async", "commit_group"):
        programs.groups.append(programs.copies)
        programs.copies = []
        return
    if parts == ("cp", "async", "wait_group"):
        _wait(programs, int(to))
        return
    if parts[1:] not in (("async", "cg", "shared", "global"), ("async", "ca", "shared", "global")):
        raise PTXError("a way to copy that this machine does not have")
    whole = int(size, 0)
    _, at = programs.addresses("shared", to)
    memory, begin = programs.addresses("global", source)
    threads = programs.threads if programs.active is None else programs.active
    read = programs.every(programs.value(used or size, "u32"))[threads]
    if not np.isin(read, (0, whole)).all() or (at % whole).any():
        raise PTXError("a copy that this machine does not have")
    values = [np.zeros(len(threads), np.uint32) for _ in range(whole // COPIED)]
    for value, loaded in zip(
        values, memory.load(begin[read > 0], COPIED, len(values)), strict=True
    ):
        value[read > 0] = loaded
    programs.copies.append(Copy(threads, at - programs.first_shared(threads), values))


def _wait(programs: Programs, most: int) -> None:
    """Until at most so many groups of copies are under way, of those that began last."""
    while len(programs.groups) > most:
        for threads, at, values in programs.groups.pop(0):
            programs.shared.store(at + programs.first_shared(threads), COPIED, values)


def some(group: list[Copy], chosen: np.ndarray) -> list[Copy]:
    """Of those threads that are chosen, which have new numbers."""
    number = np.cumsum(chosen) - 1
    found = []
    for threads, at, values in group:
        own = chosen[threads]
        found.append(Copy(number[threads[own]], at[own], [value[own] for value in values]))
    return found
