"""What instructions of PTX compute of numbers, in numpy: those that Triton writes for kernels
without tensor cores.

Approximations (div.full, sqrt.approx) are computed exactly, and nothing is flushed to zero.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial

import numpy as np
from ptx_code import PTXError

UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}  # by bytes
DTYPES = {f"{kind}{8 * size}": each for size, each in UNSIGNED.items() for kind in "bu"}
DTYPES |= {"s8": np.int8, "s16": np.int16, "s32": np.int32, "s64": np.int64}
DTYPES |= {"f32": np.float32, "f64": np.float64, "pred": np.bool_}
DTYPES |= {"bf16": np.uint16, "bf16x2": np.uint32}  # their bits

Function = Callable[..., np.ndarray]


def _fma(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (a.astype(np.float64) * b + c).astype(np.float32)  # the product is exact


def _quotient(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of integers, rounded towards zero."""
    return np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))


def _remainder(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Of the sign of a."""
    return a - _quotient(a, b) * b


FLOATS: dict[str, tuple[int, Function]] = {  # how many numbers each takes
    "abs": (1, np.abs),
    "add": (2, np.add),
    "div": (2, np.divide),
    "ex2": (1, np.exp2),
    "fma": (3, _fma),
    "lg2": (1, np.log2),
    "max": (2, np.fmax),  # of a number and none the number
    "min": (2, np.fmin),
    "mul": (2, np.multiply),
    "neg": (1, np.negative),
    "rcp": (1, np.reciprocal),
    "rsqrt": (1, lambda x: 1 / np.sqrt(x)),
    "sqrt": (1, np.sqrt),
    "sub": (2, np.subtract),
}
INTEGERS: dict[str, tuple[int, Function]] = {  # all of them modulo 2^bits
    "abs": (1, np.abs),
    "add": (2, np.add),
    "div": (2, _quotient),
    "max": (2, np.maximum),
    "min": (2, np.minimum),
    "neg": (1, np.negative),
    "rem": (2, _remainder),
    "sub": (2, np.subtract),
}
BITS: dict[str, tuple[int, Function]] = {
    "and": (2, np.bitwise_and),
    "not": (1, np.invert),
    "or": (2, np.bitwise_or),
    "xor": (2, np.bitwise_xor),
}
COMPARISONS = {
    "eq": np.equal,
    "ge": np.greater_equal,
    "gt": np.greater,
    "le": np.less_equal,
    "lt": np.less,
    "ne": np.not_equal,
}
ROUNDING = {"rn", "full", "approx", "ftz"}  # of floats: all the same to us


@cache
def arithmetic(parts: tuple[str, ...]) -> tuple[tuple[str, ...], Function]:
    """For the name of an instruction, split at its dots: the types of the numbers that it takes,
    and what it makes of them.
    """
    name, *modifiers, kind = parts
    for table, kinds, allowed in (
        (FLOATS, {"f32"}, ROUNDING),
        (INTEGERS, {"s16", "s32", "s64", "u16", "u32", "u64"}, set()),
        (BITS, {"b16", "b32", "b64", "pred"}, set()),
    ):
        if name in table and kind in kinds and allowed.issuperset(modifiers):
            many, function = table[name]
            return (kind,) * many, function
    with suppress(KeyError, ValueError):  # a modifier too many or too few, or an unknown one
        return OTHERS[name](modifiers, kind)
    raise PTXError("an instruction, or a form of one, that this machine does not have")


def _multiplied(modifiers: list[str], kind: str, add: bool) -> tuple[tuple[str, ...], Function]:
    """mul and mad of integers: the lower or, of mul, the upper half of a product, or all of it."""
    (part,) = modifiers
    bits, double = int(kind[1:]), f"{kind[0]}{2 * int(kind[1:])}"
    wide = {"lo": kind, "wide": double}[part] if add or part != "hi" else double
    dtype = {"s": DTYPES, "u": DTYPES}[kind[0]][wide]

    def function(a, b, c=0):
        product = a.astype(dtype) * b.astype(dtype) + c
        return (product >> bits).astype(DTYPES[kind]) if part == "hi" else product

    return (kind, kind, wide)[: 2 + add], function


def _shifted(modifiers: list[str], kind: str, left: bool) -> tuple[tuple[str, ...], Function]:
    """shl and shr, by any number of bits; of a negative number to the right with its sign."""
    () = modifiers
    dtype, bits = DTYPES[kind], 8 * np.dtype(DTYPES[kind]).itemsize

    def function(a, by):
        some = np.minimum(by, bits - 1).astype(dtype)
        found = a << some if left else a >> some
        return found if kind[0] == "s" else np.where(by < bits, found, dtype(0))

    return (kind, "u32"), function


def _field(modifiers: list[str], kind: str) -> tuple[tuple[str, ...], Function]:
    """bfe: of a number so many bits from one on; of an s32 the uppermost is the sign."""
    () = modifiers
    dtype = {"s32": np.int32, "u32": np.uint32}[kind]

    def function(a, first, many):
        first, many = (first & 0xFF).astype(np.int64), (many & 0xFF).astype(np.int64)
        found = a.astype(np.int64) >> first & (np.int64(1) << many) - 1
        if kind == "s32":
            found -= (found >> np.maximum(many - 1, 0) & 1) << many
        return found.astype(dtype)

    return (kind, "u32", "u32"), function


def _permuted(modifiers: list[str], kind: str) -> tuple[tuple[str, ...], Function]:
    """prmt: of the eight bytes of two numbers four, each named by four bits of a third."""
    () = modifiers

    def function(a, b, order):
        both, found = a | b.astype(np.uint64) << np.uint64(32), np.uint64(0)
        for i in range(4):
            each = order >> np.uint32(4 * i) & np.uint32(15)
            byte = both >> (8 * (each & np.uint32(7))).astype(np.uint64) & np.uint64(255)
            sign = np.where(byte > 127, np.uint64(255), np.uint64(0))  # eight times
            byte = np.where(each > 7, sign, byte)
            found = found | byte << np.uint64(8 * i)
        return found.astype(np.uint32)

    return ("u32",) * 3, function


def _compared(modifiers: list[str], kind: str) -> tuple[tuple[str, ...], Function]:
    """setp. Of floats that are no numbers only what is so named (`ltu`) is true."""
    (comparison,) = modifiers
    either = kind[0] == "f" and comparison.endswith("u")
    compare = COMPARISONS[comparison.removesuffix("u") if either else comparison]

    def function(a, b):
        if kind[0] != "f":
            return compare(a, b)
        numbers = (a == a) & (b == b)
        return compare(a, b) | ~numbers if either else compare(a, b) & numbers

    return (kind, kind), function


def _selected(modifiers: list[str], kind: str) -> tuple[tuple[str, ...], Function]:
    () = modifiers
    return (kind, kind, "pred"), lambda a, b, chosen: np.where(chosen, a, b)


def to_bfloat16(x: np.ndarray) -> np.ndarray:
    """The bits of the nearest, of two that are as near the even one."""
    bits = x.view(np.uint32)
    rounded = (bits + (0x7FFF + (bits >> 16 & 1)).astype(np.uint32)) >> 16
    return np.where(np.isnan(x), 0x7FFF, rounded).astype(np.uint16)


def _two_to_bfloat16(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return to_bfloat16(high).astype(np.uint32) << 16 | to_bfloat16(low)


def _from_bfloat16(bits: np.ndarray) -> np.ndarray:
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _converted(modifiers: list[str], source: str) -> tuple[tuple[str, ...], Function]:
    """cvt: floats to the nearest; to an integer only of an integer, modulo 2^bits."""
    *rounding, to = modifiers
    form = (*rounding, to, source)
    if form == ("rn", "bf16x2", "f32"):
        return ("f32", "f32"), _two_to_bfloat16
    if form == ("rn", "bf16", "f32"):
        return ("f32",), to_bfloat16
    if form == ("f32", "bf16"):
        return ("bf16",), _from_bfloat16
    if source[0] not in "su" or (to[0] not in "su" if not rounding else form[:2] != ("rn", "f32")):
        raise ValueError(form)
    dtype = DTYPES[to]
    return (source,), lambda x: x.astype(dtype)


OTHERS: dict[str, Callable[[list[str], str], tuple[tuple[str, ...], Function]]] = {
    "bfe": _field,
    "cvt": _converted,
    "mad": partial(_multiplied, add=True),
    "mul": partial(_multiplied, add=False),
    "prmt": _permuted,
    "selp": _selected,
    "setp": _compared,
    "shl": partial(_shifted, left=True),
    "shr": partial(_shifted, left=False),
}
