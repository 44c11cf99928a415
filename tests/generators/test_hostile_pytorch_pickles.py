"""NVIDIA's PyTorch pickles made by an enemy: code in their storages and in their source text, sizes
that lie, networks without end. Each goes through a process that tells its time and memory.
"""

import contextlib
import io
import os
import pickle
import random
import struct
import subprocess
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import GOLDEN, lines_of, needs_proc
from generator_files import random_networks_of
from pytorch_pickles import Persisted, persisted, write
from test_hostile_weights import (
    LOADS,
    RUN,
    TOUCH,
    Calls,
    getattr_chain,
    require_refusals,
    with_pickle,
)

from cli.errors import UserError
from generators.formats import read_networks
from generators.load import describe
from generators.safe_loading import TORCH_LEGACY

MEMORY = 1000  # MB, beyond what the process has


class Stored:
    """A tensor, as its call in a pickle: any bytes for a storage, any place in them."""

    def __init__(self, raw, size=(1,), stride=(1,), offset=0):
        self.raw, self.place = raw, (offset, size, stride)

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, (Raw(self.raw), *self.place, False, {})


class Raw:
    def __init__(self, raw):
        self.raw = raw

    def __reduce__(self):
        return torch.storage._load_from_bytes, (self.raw,)


def saved(content, **options) -> bytes:
    """What torch.save writes of it, in the format of before PyTorch 1.6."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, file, **{"_use_new_zipfile_serialization": False, **options})
    return file.getvalue()


def storage(numbers: int) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return saved(torch.zeros(numbers).storage())


def claiming(numbers: int) -> bytes:
    """A storage of four numbers that says it has so many, at both places."""
    raw = storage(4).replace(struct.pack("<q", 4), struct.pack("<q", numbers))
    return raw.replace(b"K\x04N", b"\x8a\x08" + struct.pack("<q", numbers) + b"N")


def raw_storages() -> dict[str, bytes]:
    """Strings of bytes that are no storage of numbers."""
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Calls(os.system, TOUCH)))
    whole = storage(4)
    return {
        "system": pickle.dumps(Calls(os.system, TOUCH), protocol=2),
        "saved_system": saved(Calls(os.system, TOUCH)),
        "saved_eval": saved(Calls(eval, RUN)),
        "saved_exec": saved(Calls(exec, RUN)),
        "saved_popen": saved(Calls(subprocess.Popen, TOUCH.split())),
        "getattr_chain": TORCH_LEGACY + getattr_chain(),
        "zip": zipped.getvalue(),
        "new_format": saved(torch.zeros(4), _use_new_zipfile_serialization=True),
        "zip_behind": whole + zipped.getvalue(),
        "tensor": saved(torch.zeros(4)),
        "dictionary": saved({"a": torch.zeros(4)}),
        "nothing": b"",
        "beginning": TORCH_LEGACY,
        "cut": whole[:-5],
        "longer": whole + b"\0" * 16,
        "claims_much": claiming(1 << 40),
        "claims_some": claiming(5),
        "claims_less_than_nothing": claiming(-1),
        "long_head": TORCH_LEGACY + b"\x80\x02" + b"K\x01" * 10_000 + b".",
        "words": b"\x1b[31m\nTraceback",
    }


PLACES = {
    "beyond": ((4,), (1,), 1),
    "far_stride": ((2,), (1 << 40,), 0),
    "negative_stride": ((2,), (-1,), 1),
    "negative_offset": ((1,), (1,), -1),
    "negative_size": ((-1,), (1,), 0),
    "huge_size": ((1 << 62, 1 << 62), (0, 0), 0),
    "stretched": ((1 << 20, 1 << 20), (0, 0), 0),
    "other_length": ((1, 1), (1,), 0),
    "text": (("a",), (1,), 0),
    "no_tuple": (7, 1, 0),
}


def hostile_files(folder: Path) -> list[Path]:
    def with_weight(name: str, tensor, key="synthesis.b8.conv1") -> None:
        networks = random_networks_of("stylegan2", 8)
        G = persisted(networks.synthesis, networks.mapping)
        G[key].state["_parameters"]["weight"] = tensor
        write(folder / f"{name}.pkl", {"G": None, "D": None, "G_ema": G}, protocol=4)

    for name, raw in raw_storages().items():
        with_weight(f"raw_{name}", Stored(raw))
    with_weight("raw_number", Stored(7))
    for name, place in PLACES.items():
        with_weight(f"place_{name}", Stored(storage(4), *place))
    for dtype in (torch.complex64, torch.bool):
        raw = saved(torch.zeros(4, dtype=dtype).untyped_storage())
        with_weight(f"raw_untyped_{dtype}"[10:], Stored(raw))
    with_weight("no_tensor", 7)
    with_weight("code_in_place", Calls(os.system, TOUCH))
    with_weight("shape_that_does_not_fit", Stored(storage(4), (2, 2), (2, 1)))

    networks = random_networks_of("stylegan2", 8)
    G = persisted(networks.synthesis, networks.mapping)
    G.state["_modules"]["round"] = G
    G.meta["state"] = {**G.state, "_modules": {**G.state["_modules"]}}
    write(folder / "round.pkl", {"G_ema": G})
    deep = Persisted("Layer")
    for _ in range(100):  # 2^100 layers, if each way to them counted
        upper = Persisted("Layer")
        upper.state["_modules"] |= {"a": deep, "b": deep}
        deep = upper
    write(folder / "doubled.pkl", {"G_ema": deep})
    G = persisted(networks.synthesis, networks.mapping)
    G.state["_modules"] = [1, 2]
    write(folder / "list_of_modules.pkl", {"G_ema": G})
    write(folder / "numbers_of_modules.pkl", {"G_ema": numbered_modules()})
    for name, state in {"no_state": 7, "empty_state": {}}.items():
        empty = Persisted("Generator")
        empty.meta["state"] = state
        write(folder / f"{name}.pkl", {"G_ema": empty})
    source = persisted(networks.synthesis, networks.mapping)
    source.meta["module_src"] = Calls(os.system, TOUCH)  # no text, but a call
    write(folder / "call_in_source.pkl", {"G_ema": source})
    (folder / "million_tensors.pkl").write_bytes(million_tensors())
    # as long, in both formats of torch.save
    old = saved([1, 2]).replace(b"K\x01K\x02e.", b"N" + b"N0" * 1_000_001 + b"0K\x01K\x02e.")
    assert len(old) > 1 << 20
    (folder / "million_old.pt").write_bytes(old)
    with_pickle(folder / "million.pt", b"\x80\x02" + b"N0" * 1_000_001 + b"N.")
    for name, start in {"line": b"\x80\x02c", "text": b"\x80\x02X\xff\xff\xff\x7f"}.items():
        with open(folder / f"long_{name}.pkl", "wb") as file:
            file.write(start)
            file.truncate(1 << 36)  # 64 GB that take no room
    whole = (GOLDEN / "sg2_tiny.pkl").read_bytes()
    (folder / "cut.pkl").write_bytes(whole[: len(whole) // 2])
    (folder / "persistent.pkl").write_bytes(b"\x80\x02X\x01\x00\x00\x00aQ.")
    (folder / "persistent_place.pkl").write_bytes(b"\x80\x02K\x00K\x05\x86Q.")
    return sorted(folder.iterdir())


def numbered_modules() -> Persisted:
    G = Persisted("Generator")
    G.state["_modules"] = {1: Persisted("Layer")}
    return G


def million_tensors() -> bytes:
    """Calls that make small tensors of one storage, one after the other."""
    raw = storage(4)
    start = b"\x80\x03ctorch._utils\n_rebuild_tensor_v2\nq\x00ctorch.storage\n_load_from_bytes\n"
    start += b"B" + struct.pack("<I", len(raw)) + raw + b"\x85Rq\x01"
    tensor = b"h\x00(h\x01K\x00K\x01\x85K\x01\x85\x89}tR"
    return start + b"]q\x02(" + tensor * 1_000_000 + b"e."


@needs_proc
def test_hostile_pytorch_pickles_are_refused_in_one_sentence_and_run_nothing(tmp_path):
    (tmp_path / "files").mkdir()
    files = hostile_files(tmp_path / "files")
    assert len(files) >= 45
    answers = lines_of(LOADS, files, tmp_path)
    assert len(answers) == len(files)
    require_refusals(answers, MEMORY)
    assert not list(tmp_path.rglob("executed"))


@pytest.mark.parametrize("name", ["saved_system", "saved_eval", "saved_exec", "getattr_chain"])
def test_what_these_storages_would_run_is_real(tmp_path, monkeypatch, name):
    """torch.load, which NVIDIA's files ask for, runs it."""
    monkeypatch.chdir(tmp_path)
    raw = raw_storages()[name]
    raw = raw.removeprefix(TORCH_LEGACY) if name == "getattr_chain" else raw
    with contextlib.suppress(Exception):  # what it returns is no tensor
        if name == "getattr_chain":
            pickle.loads(raw)
        torch.load(io.BytesIO(raw), weights_only=False)
    assert (tmp_path / "executed").exists()


def test_changed_pickles_are_read_or_refused_in_one_sentence(tmp_path, one_thread):
    """Nothing but UserError comes of them: no catch-all around the readers hides a mistake."""
    chance = random.Random(0)
    odd = [None, True, -1, 0.5, float("nan"), 10**5000, "\x1b[31m", [1, 2], {1: 2}, b"x"]
    odd += [np.zeros(3), np.zeros((2, 2)), torch.zeros(0, 3), torch.ones(3).long()]
    odd += [torch.zeros(()), torch.zeros(3, dtype=torch.complex64), Persisted("Layer")]
    path, refused = tmp_path / "g.pkl", 0
    for turn in range(120):
        family = ("stylegan2", "stylegan3-t", "stylegan3-r")[turn % 3]
        networks = random_networks_of(family, 16)
        layer = G = persisted(networks.synthesis, networks.mapping)
        while layer.state["_modules"] and chance.random() < 0.8:
            layer = chance.choice(list(layer.state["_modules"].values()))
        where = chance.choice([layer.state, *(layer.state[kind] or layer.state for kind in KINDS)])
        key = chance.choice(list(where))
        if chance.random() < 0.7:
            where[key] = chance.choice(odd)
        elif chance.random() < 0.5:
            where[chance.choice(["x", "embed", "fc9", "b32", "L3_36_8", "w_avg"])] = where.pop(key)
        else:
            del where[key]
        try:
            describe(read_networks(write(path, {"G_ema": G}, chance.choice([2, 4]))))
        except UserError as error:
            assert str(error).startswith(f"{path} ") and "\n" not in str(error)
            refused += 1
    assert 40 < refused <= 120


KINDS = ("_parameters", "_buffers", "_modules")
