"""PyTorch networks in the pickles of stylegan2-ada-pytorch and stylegan3, as stand-ins.

Each network and each of its layers is stored as the name of its class, its attributes, and the
source text of the authors' module, which is dropped unread. Tensors are stored as a place in a
string of bytes, which is itself a file of torch.save. They are made here, and only those that are
asked for.
"""

from __future__ import annotations

import io
import pickletools
from collections import OrderedDict

import torch
from torch import Tensor

from cli.errors import UserError
from generators.networks import State, worded
from generators.nvidia import EasyDict
from generators.safe_loading import TORCH_LEGACY, Array, InFile, StandIns, content_of, load_torch

HEAD = 4096  # bytes; in a storage's file, its numbers begin before
MOST_LAYERS = 10_000


class Network:
    """A network or a layer of one: `state` holds its attributes, by name."""

    def __init__(self, kept: dict):
        if not isinstance(kept, dict) or not isinstance(kept.get("state"), dict):
            raise UserError("holds a network without attributes")
        self.class_name, self.state = worded(kept.get("class_name")), kept["state"]

    def parts(self, kind: str) -> dict[str, object]:
        """Its `_modules`, `_parameters` or `_buffers` that are not None, by name."""
        found = self.state.get(kind, {})
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise UserError(f"holds a network whose {kind} have no names")
        return {name: part for name, part in found.items() if part is not None}

    def layers(self) -> dict[str, Network]:
        """All layers in it, and it itself as "", by the joint names of their way from here."""
        found, known, waiting = {}, set(), [("", self)]
        while waiting:
            name, layer = waiting.pop()
            if not isinstance(layer, Network):
                raise UserError(f"holds a network whose {name} is no layer")
            if id(layer) in known or len(known) > MOST_LAYERS:  # or round in a circle
                raise UserError("holds a network with too many layers, or one layer twice")
            known.add(id(layer))
            found[name] = layer
            inner = layer.parts("_modules").items()
            waiting += [(f"{name}.{each}" if name else each, part) for each, part in inner]
        return found

    def tensors(self) -> State:
        """Its state dict, as PyTorch names it."""
        stored = {}
        for prefix, layer in self.layers().items():
            for kind in ("_parameters", "_buffers"):
                for name, tensor in layer.parts(kind).items():
                    key = f"{prefix}.{name}" if prefix else name
                    if not isinstance(tensor, StoredTensor):
                        raise UserError(f"does not fit: {key} is no tensor of stored numbers")
                    stored[key] = tensor
        storages: dict[int, Tensor] = {}
        return {key: stored[key].made(key, storages) for key in sorted(stored)}

    def setting(self, name: str) -> object:
        """An attribute: a number, a text, or a list. Raises: UserError where it is missing."""
        if name not in self.state:
            raise UserError(f"lacks the setting {name} of its {self.class_name}")
        value = self.state[name]
        return value.value.tolist() if isinstance(value, Array) else value


class StoredTensor:
    """Arguments of the call that would make a tensor."""

    def __init__(self, storage, offset=0, size=(), stride=(), *_):
        self.storage, self.offset, self.size, self.stride = storage, offset, size, stride

    @property
    def shape(self) -> tuple:
        return self.size

    def made(self, key: str, storages: dict[int, Tensor]) -> Tensor:
        """The tensor. storages: those that were read before, by the identity of their bytes.

        Raises: UserError where it reaches beyond its storage.
        """
        size, stride = self.size, self.stride
        tuples = isinstance(size, tuple) and isinstance(stride, tuple)
        if not (isinstance(self.storage, Storage) and tuples and len(size) == len(stride)):
            raise UserError(f"does not fit: {key} is no tensor of stored numbers")
        if not all(type(n) is int and 0 <= n < 2**48 for n in (self.offset, *size, *stride)):
            raise UserError(f"does not fit: {key} has an impossible size or stride")
        raw = self.storage.raw
        if id(raw) not in storages:
            storages[id(raw)] = _read_storage(raw)
        storage = storages[id(raw)]
        last = self.offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
        if 0 not in size and last >= len(storage):
            raise UserError(f"does not fit: {key} reaches beyond its storage")
        return storage.as_strided(size, stride, self.offset)


class Storage:
    """What the real one gives to torch.load, code included: kept as bytes."""

    def __init__(self, raw: bytes | InFile):
        if not isinstance(raw, (bytes, InFile)):
            raise UserError("holds a storage that is no string of bytes")
        self.raw = raw


def _read_storage(raw: bytes | InFile) -> Tensor:
    """The numbers (n,) of a storage, whose bytes are a file of torch.save from before PyTorch 1.6.

    Raises: UserError where they are anything else, or not as many as they say.
    """
    content = content_of(raw)
    if not content.startswith(TORCH_LEGACY):
        raise UserError("holds a storage in another format than that of its time: not opened")
    head = io.BytesIO(content[:HEAD])
    try:
        for _ in range(5):  # the magic number, the version, type sizes, the storage, its key
            for _ in pickletools.genops(head):
                pass
    except Exception:  # whatever damage provokes
        raise UserError("holds a storage that is damaged: fetch it again") from None
    count = int.from_bytes(head.read(8), "little")
    size = len(content) - head.tell()
    if count > size:
        raise UserError("holds a storage that claims more numbers than it has: not opened")
    storage = load_torch(io.BytesIO(content))
    if not isinstance(storage, torch.TypedStorage):
        raise UserError("holds a storage of something else than numbers: not opened")
    numbers = torch.tensor([], dtype=storage.dtype).set_(storage)
    if numbers.is_complex() or numbers.is_quantized or numbers.nbytes != size:
        raise UserError(f"holds a storage of {numbers.dtype} that is not its numbers: not opened")
    return numbers


class Parameter:
    """A parameter is its tensor."""

    def __new__(cls, tensor, *_):
        return tensor


STAND_INS: StandIns = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): Network,
    ("torch._utils", "_rebuild_parameter"): Parameter,
    ("torch._utils", "_rebuild_tensor_v2"): StoredTensor,
    ("torch.storage", "_load_from_bytes"): Storage,
    ("dnnlib", "EasyDict"): EasyDict,
    ("dnnlib.util", "EasyDict"): EasyDict,
    ("collections", "OrderedDict"): OrderedDict,
    ("builtins", "set"): set,
    ("__builtin__", "set"): set,
}
