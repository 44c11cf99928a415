"""What is in a weight file, without running anything of it.

Files of torch.save are loaded with weights_only=True. Other pickles go through an unpickler that
knows no class of numpy or of anything else: it makes stand-ins, which keep what they are given, and
refuses every other name. A UserError raised here is worded to follow the name of the file.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import warnings
import zipfile
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch

from cli.errors import UserError, is_mistake

# How a file begins that torch.save wrote before PyTorch 1.6: a pickle of its magic number.
TORCH_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
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


def load_torch(path: Path) -> object:
    """What torch.save wrote: tensors, on the CPU, in plain containers. Raises: UserError."""
    unpacked = 0
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                unpacked = sum(entry.file_size for entry in archive.infolist())
        if unpacked <= path.stat().st_size:  # torch.save compresses nothing, a bomb does
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about pickles of other versions
                return torch.load(path, map_location="cpu", weights_only=True)
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


def unpickle(file: BinaryIO, *stand_ins: StandIns) -> object:
    """What a pickle holds: plain containers and numbers, `Array`s, and `stand_ins`.

    Raises: UserError for a name that has no stand-in, and for damage.
    """
    try:
        for number, (opcode, arg, _) in enumerate(pickletools.genops(file)):
            if opcode.name in ("PUT", "LONG_BINPUT") and arg > number:  # takes memory for so many
                raise ValueError(f"remembers object {arg} of {number}")
        file.seek(0)
        return _Unpickler(file, *stand_ins).load()
    except UserError:
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes
        if is_mistake(error):
            raise
        reason = str(error).split("\n")[0][:80] or type(error).__name__
        raise UserError(f"is a damaged pickle ({reason}): fetch it again") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: BinaryIO, *stand_ins: StandIns):
        super().__init__(file, encoding="latin1")
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

    value: np.ndarray | None = None

    def __init__(self, *_):
        pass

    def __setstate__(self, state) -> None:
        _, shape, dtype, fortran, raw = state
        raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2
        order = "F" if fortran else "C"
        self.value = np.frombuffer(raw, dtype.value).reshape(shape, order=order)


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
