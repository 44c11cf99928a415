"""What is in a weight file, without running anything of it.

Files of torch.save are loaded with weights_only=True. Other pickles go through an unpickler that
knows no class of numpy or of anything else: it makes stand-ins, which keep what they are given, and
refuses every other name. Long strings of bytes, the numbers of a network, stay in the file until
they are asked for: of the networks in a file only one is needed. A UserError raised here is worded
to follow the name of the file.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import os
import pickle
import pickletools
import re
import warnings
import zipfile
from argparse import Namespace
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from cli.errors import UserError, is_mistake

# How a file begins that torch.save wrote before PyTorch 1.6: a pickle of its magic number.
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
LONG = 1 << 14  # bytes; a string of so many stays in its file
LONGEST = 1 << 26  # bytes; other strings, and those of Python 2, are shorter
MOST_INSTRUCTIONS = 1_000_000  # of a pickle; published networks have fewer than 100,000
TOO_MANY = f"is a pickle of more than {MOST_INSTRUCTIONS:,} instructions: no generator is"
StandIns = dict[tuple[str, str], type]  # (module, name), as a pickle asks for it → stand-in


def load_content(path: Path, *stand_ins: StandIns) -> dict[str, object]:
    """What a file holds, by name: of torch.save as it is, of another pickle as {"pickle": …}.

    stand_ins: for what a pickle may ask for, besides arrays. Raises: UserError; OSError where the
    file cannot be opened.
    """
    if not path.is_file():
        wrong = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{wrong}: give the file of a generator")
    with open(path, "rb") as file:
        start = file.read(len(TORCH_LEGACY))
        file.seek(0)
        if start[:1] == b"\x80" and start != TORCH_LEGACY:
            return {"pickle": unpickle(file, *stand_ins)}
    return entries(load_torch(path))


def entries(content: object) -> dict[str, object]:
    """A dictionary by name, without the prefix that DataParallel puts before every name. Raises:
    UserError for anything else.
    """
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError("holds no dictionary of tensors: give the file of a generator")
    if all(key.startswith("module.") for key in content):
        return {key.removeprefix("module."): value for key, value in content.items()}
    return content


def load_torch(source: Path | BinaryIO) -> object:
    """What torch.save wrote, to a file or to memory: tensors, on the CPU, in plain containers; and
    argparse's Namespace, in which training programs keep their flags. Raises: UserError.
    """
    unpacked = 0
    try:
        if isinstance(source, Path) and zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        if isinstance(source, Path) and unpacked <= source.stat().st_size:
            _require_few_instructions(source)
        # torch.save compresses nothing, a bomb does
        if unpacked == 0 or unpacked <= source.stat().st_size:
            with warnings.catch_warnings(), torch.serialization.safe_globals([Namespace]):
                warnings.simplefilter("ignore")  # about pickles of other versions
                return torch.load(source, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes
        if is_mistake(error):
            raise
        if unsafe := re.search(r"GLOBAL (\S+)", str(error)):  # else it says how to run the code
            words = f"cannot be read: it asks for {unsafe[1]}, which no generator needs"
        else:
            reason = str(error).strip().split("\n")[0][:120]
            words = f"cannot be read as PyTorch weights ({reason}): if damaged, fetch it again"
        raise UserError(words) from None
    raise UserError(f"would unpack to {unpacked / 1e6:.0f} MB, more than it has: not opened")


def _require_few_instructions(path: Path) -> None:
    """Raises: UserError where the pickles of a file of torch.save are too long: PyTorch reads them
    slowly. What is damaged is left to PyTorch.
    """
    number, pickles = 0, 1
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(ValueError, IndexError))
        file = stack.enter_context(open(path, "rb"))
        if zipfile.is_zipfile(path):
            archive = stack.enter_context(zipfile.ZipFile(file))
            names = [name for name in archive.namelist() if name.endswith("data.pkl")]
            file = stack.enter_context(archive.open(names[0]))
        else:
            pickles = 5  # magic number, version, type sizes, the content, its keys
        for _ in range(pickles):
            for _ in pickletools.genops(_Bounded(file)):
                number += 1
                if number > MOST_INSTRUCTIONS:
                    break
    if number > MOST_INSTRUCTIONS:
        raise UserError(TOO_MANY)


class _Bounded:
    """A file, of which no part of a pickle is longer than any string of a generator: what is longer
    would fill the memory.
    """

    def __init__(self, file: BinaryIO):
        self.file, self.tell = file, file.tell

    def read(self, size: int) -> bytes:
        if size > LONGEST:
            raise ValueError(f"a string of {size} bytes")
        return self.file.read(size)

    def readline(self) -> bytes:
        line = self.file.readline(LONGEST)
        if len(line) == LONGEST:
            raise ValueError(f"a line of {LONGEST} bytes and more")
        return line


def unpickle(file: BinaryIO, *stand_ins: StandIns) -> object:
    """What a pickle holds: plain containers and numbers, `Array`s, and `stand_ins`.

    Long strings are read later, from the path that the file was opened with; of a file without one,
    now. Raises: UserError for a name that has no stand-in, and for damage.
    """
    try:
        return _Unpickler(file, *stand_ins).load()
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes
        if is_mistake(error):
            raise
        reason = str(error).split("\n")[0][:80] or type(error).__name__
        raise UserError(f"is a damaged pickle ({reason}): fetch it again") from None


@dataclass(frozen=True)
class InFile:
    """A long string of bytes, left in the file of its pickle."""

    path: str | os.PathLike
    start: int
    length: int

    def __len__(self) -> int:
        return self.length

    def read(self) -> bytes:
        with open(self.path, "rb") as file:
            file.seek(self.start)
            return file.read(self.length)


def content_of(raw: bytes | InFile) -> bytes:
    return raw.read() if isinstance(raw, InFile) else raw


def _without_long_strings(file: BinaryIO) -> bytes:
    """A pickle in which a persistent id, (start, length), stands for every long string of bytes.

    Raises: UserError, ValueError for a pickle that has persistent ids of its own, that remembers
    more objects than it has (which takes memory for so many), or that is of more instructions than
    any network.
    """
    size = file.seek(0, os.SEEK_END)
    named = isinstance(getattr(file, "name", None), (str, os.PathLike))
    parts, begin = [], file.seek(0)  # what is taken over begins here

    def take(end: int) -> None:
        here = file.tell()
        file.seek(begin)
        parts.append(file.read(end - begin))
        file.seek(here)

    for number in itertools.count():
        at = file.tell()
        opcode = pickletools.code2op.get(file.read(1).decode("latin1"))
        if opcode is None:
            raise ValueError(f"instruction {number} is none")
        if number == MOST_INSTRUCTIONS:
            raise UserError(TOO_MANY)
        if opcode.name in ("BINBYTES", "BINBYTES8"):
            digits = 4 if opcode.name == "BINBYTES" else 8
            length = int.from_bytes(file.read(digits), "little")
            start = file.tell()
            if length > size - start:
                raise ValueError("it is cut off")
            file.seek(length, os.SEEK_CUR)
            if named and length > LONG:
                take(at)
                place = pickletools.optimize(pickle.dumps((start, length), protocol=2))
                parts.append(place[2:-1] + pickle.BINPERSID)  # without its protocol and its end
                begin = file.tell()
            continue
        arg = None if opcode.arg is None else opcode.arg.reader(_Bounded(file))
        if opcode.name in ("PUT", "LONG_BINPUT") and arg > number:
            raise ValueError(f"remembers object {arg} of {number}")
        if opcode.name in ("PERSID", "BINPERSID"):
            raise UserError("asks for a persistent object, which no generator needs: not opened")
        if opcode.name in ("FRAME", "STOP"):  # frames, of other lengths now, are not needed
            take(at)
            begin = file.tell()
        if opcode.name == "STOP":
            return b"".join([*parts, pickle.STOP])


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, *stand_ins: StandIns):
        super().__init__(io.BytesIO(_without_long_strings(file)), encoding="latin1")
        self.path = getattr(file, "name", "")
        # subclasses for each file: what a pickle does to a class does not reach the next file
        self.admitted = {
            asked: type(asked[1], (kept,), {})
            for table in (NUMPY, *stand_ins)
            for asked, kept in table.items()
        }

    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in self.admitted:
            raise UserError(f"asks for {module}.{name}, which no generator needs: not opened")
        return self.admitted[module, name]

    def persistent_load(self, pid: tuple[int, int]) -> InFile:
        return InFile(self.path, *pid)


class Dtype:
    """The dtype of an array: plain numbers only."""

    def __init__(self, code, *_):
        if not re.fullmatch(r"f[248]|[iu][1248]|b1", code):
            raise UserError(f"holds an array of dtype {code!r}, not of numbers")
        self.value = np.dtype(code)

    def __setstate__(self, state) -> None:
        self.value = self.value.newbyteorder(state[1])


class Array:
    """An array, put together here and not by numpy, over the bytes that the file holds of it."""

    shape, dtype, order, raw = None, None, "C", b""

    def __init__(self, *_):
        pass

    def __setstate__(self, state) -> None:
        _, shape, dtype, fortran, raw = state
        self.raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2
        self.shape, self.dtype, self.order = shape, dtype.value, "F" if fortran else "C"
        if isinstance(raw, InFile):
            if len(raw) != math.prod(shape) * self.dtype.itemsize:
                raise ValueError("an array of another size than its shape")
        else:
            _ = self.value

    @cached_property
    def value(self) -> np.ndarray | None:
        if self.dtype is None:  # the file did not say
            return None
        numbers = np.frombuffer(content_of(self.raw), self.dtype)
        return numbers.reshape(self.shape, order=self.order)


class Scalar:
    """numpy's scalar(dtype, bytes) becomes a number of Python."""

    def __new__(cls, dtype, raw):
        array = Array()
        array.__setstate__((1, (), dtype, False, raw))
        return array.value.item()


class Encoded:
    """_codecs.encode(text, "latin1"), by which Python 3 writes bytes for Python 2."""

    def __new__(cls, text, encoding="latin1"):
        return text.encode("latin1")


NUMPY: StandIns = {
    ("numpy", "dtype"): Dtype,
    ("numpy", "ndarray"): Array,
    ("_codecs", "encode"): Encoded,
}
for _module in ("numpy.core.multiarray", "numpy._core.multiarray"):  # before numpy 2, and since
    NUMPY |= {(_module, "_reconstruct"): Array, (_module, "scalar"): Scalar}
