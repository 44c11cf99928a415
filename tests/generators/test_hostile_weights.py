"""Weight files made by an enemy, which would run code, hang or fill the memory.

They go through one process of their own, which tells how long every file took and how much memory:
what hangs, crashes or eats the machine cannot take the tests with it.
"""

import os
import pickle
import random
import re
import signal
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PEAK, lines_of, needs_proc, one_file, random_networks
from PIL import Image
from weight_files import genforce, lernapparat, nvidia_network, write_pickle

import run
from cli import command
from cli.errors import UserError
from generators.formats import FORMAT, read_networks
from generators.load import describe

SECONDS = 10  # for one weight file


def require_refusals(answers: list, megabytes: int) -> None:
    """What LOADS printed of files in a folder `files`: one sentence each, soon and in so much
    memory.
    """
    wrong = [
        answer
        for answer in answers
        if not answer[1].strip()
        or answer[1].startswith("NOT REFUSED")
        or any(not character.isprintable() for character in answer[1])
        or "files" not in answer[1]
        or len(answer[1]) > 1100
    ]
    assert not wrong
    assert max(seconds for *_, seconds, _ in answers) < SECONDS
    assert max(grown for *_, grown in answers) < megabytes


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


TOUCH = "touch executed"
RUN = f"__import__('os').system({TOUCH!r})"


def getattr_chain() -> bytes:
    """getattr(__import__("os"), "system")("touch executed") in opcodes."""
    text = b"".join(
        [
            b"\x80\x02cbuiltins\ngetattr\n",
            b"cbuiltins\n__import__\nX\x02\x00\x00\x00os\x85R",
            b"X\x06\x00\x00\x00system\x86R",
            b"X\x0e\x00\x00\x00touch executed\x85R.",
        ]
    )
    return text


def with_pickle(path: Path, code: bytes) -> Path:
    """A file of torch.save whose pickle is `code`."""
    whole = one_file(path.with_suffix(".whole"))
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, "w") as new:
        for entry in old.infolist():
            content = code if entry.filename.endswith("/data.pkl") else old.read(entry)
            new.writestr(entry.filename, content)
    whole.unlink()
    return path


def deflated_bomb(path: Path, megabytes: int) -> Path:
    """A file of torch.save whose storage is zeros, deflated to a hundredth and less."""
    whole = path.with_suffix(".whole")
    torch.save({"format": FORMAT, "synthesis": {"torgb.weight": torch.zeros(4)}}, whole)
    numbers = (megabytes << 18).to_bytes(4, "little")  # of 4 bytes
    with (
        zipfile.ZipFile(whole) as old,
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new,
    ):
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("/data.pkl"):  # cpu, then how many numbers there are
                content = re.sub(
                    rb"(cpuq.)K\x04", rb"\1J" + re.escape(numbers), content, flags=re.S
                )
            if entry.filename.endswith("/data/0"):
                content = bytes(megabytes << 20)
            new.writestr(entry.filename, content)
    whole.unlink()
    assert path.stat().st_size < megabytes << 14
    return path


def stretched(path: Path) -> Path:
    """A file of a few kB whose tensors claim gigabytes: views with a stride of 0."""
    from stylegan import G_synthesis

    config = {"resolution": 8, "fmap_base": 1 << 15, "fmap_max": 1 << 13, "dlatent_size": 16}
    with torch.device("meta"):
        state = G_synthesis(16, 3, 8, fmap_base=1 << 15, fmap_max=1 << 13).state_dict()
    state = {key: torch.zeros(1).expand(tensor.shape) for key, tensor in state.items()}
    fit = {"mean": torch.zeros(16), "std": torch.ones(16)}
    torch.save({"format": FORMAT, "config": config, "synthesis": state, "gaussian_fit": fit}, path)
    assert path.stat().st_size < 1e5
    return path


def hostile_files(folder: Path) -> list[Path]:
    """Weight files that must be refused; what they would run is `touch executed`."""

    def pickled(name: str, content) -> None:
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(content, protocol=2))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.save({"format": FORMAT, "config": content}, folder / f"{name}.pt")
            torch.save(content, folder / f"{name}_old.pt", _use_new_zipfile_serialization=False)

    pickled("system", Calls(os.system, TOUCH))
    pickled("eval", Calls(eval, RUN))
    pickled("exec", Calls(exec, RUN))
    pickled("popen", Calls(subprocess.Popen, TOUCH.split()))
    pickled("object_array", np.array([Calls(os.system, TOUCH)], dtype=object))
    (folder / "getattr.pkl").write_bytes(getattr_chain())
    with_pickle(folder / "getattr.pt", getattr_chain())
    (folder / "words.pkl").write_bytes(  # its names would speak to the terminal
        b"\x80\x04\x8c\x0cos\nTraceback\x8c\x0b\x1b[31msystem\n\x93."
    )
    (folder / "long_name.pkl").write_bytes(b"\x80\x04\x8c\x02osX\x40\x42\x0f\x00" + b"x" * 10**6)
    with open(folder / "long_name.pkl", "ab") as file:
        file.write(b"\x93.")
    deflated_bomb(folder / "bomb.pt", 1024)
    stretched(folder / "stretched.pt")
    odd = {
        "config_of_text": {"config": "resolution"},
        "resolution_of_text": {"config": {**CONFIG, "resolution": "16"}},
        "resolution_of_half": {"config": {**CONFIG, "resolution": 16.5}},
        "resolution_beyond": {"config": {**CONFIG, "resolution": 2**60}},
        "resolution_of_tensor": {"config": {**CONFIG, "resolution": torch.ones(3)}},
        "resolution_of_scalar": {"config": {**CONFIG, "resolution": torch.tensor(16)}},
        "list_of_state": {"synthesis": [1, 2]},
        "tensor_of_state": {"synthesis": torch.ones(3)},
        "numbered_state": {"synthesis": {1: torch.ones(3)}},
        "mapping_of_text": {"mapping": "none"},
        "numbered_mapping": {"mapping": {1: 2}},
        "about_of_text": {"about": "me"},
        "fit_of_text": {"gaussian_fit": {"mean": "mean", "std": "std"}},
        "fit_of_complex": {"gaussian_fit": {"mean": torch.zeros(16, dtype=torch.complex64)}},
    }
    for name, changes in odd.items():
        one_file(folder / f"{name}.pt", **changes)
    state = torch.load(one_file(folder / "x"), weights_only=True)["synthesis"]
    (folder / "x").unlink()
    key = "torgb.weight"
    terminal = {**state, "a\nTraceback\x1b[31m": torch.ones(3)}
    one_file(folder / "words_in_key.pt", synthesis=terminal)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch would rather be rid of such tensors
        for name, tensor in {
            "meta": state[key].to("meta"),
            "sparse": state[key].to_sparse(),
            "quantized": torch.quantize_per_tensor(state[key], 0.1, 0, torch.qint8),
        }.items():
            one_file(folder / f"{name}.pt", synthesis={**state, key: tensor})
    (folder / "nothing_in_it").mkdir()
    (folder / "loop_in_it").mkdir()
    (folder / "loop_in_it" / "synthesis.pt").symlink_to("synthesis.pt")
    os.mkfifo(folder / "pipe.pt")
    (folder / "loop.pt").symlink_to("loop.pt")
    (folder / "zero.pt").symlink_to("/dev/zero")
    (folder / "terminal.pt").symlink_to("/dev/tty")
    with open(folder / "hole.pt", "wb") as file:
        file.truncate(1 << 36)  # 64 GB that take no room
    return sorted(folder.iterdir())


CONFIG = {"resolution": 16, "fmap_base": 64, "fmap_max": 8, "dlatent_size": 16}

LOADS = (
    PEAK
    + """
import json, sys, time
from cli.errors import UserError, escaped
from generators.load import load_generator

for path in json.load(sys.stdin):
    before = peak()
    started = time.monotonic()
    try:
        load_generator(path, "cache")
        answer = ""
    except UserError as error:
        answer = escaped(error)  # as it is printed
    except BaseException as error:
        answer = f"NOT REFUSED BUT RAISED {type(error).__name__}: {error}"
    grown = peak() - before
    print(json.dumps([path, answer, time.monotonic() - started, grown]), flush=True)
"""
)


@needs_proc
def test_hostile_weight_files_are_refused_in_one_sentence_and_run_nothing(tmp_path):
    (tmp_path / "files").mkdir()
    files = hostile_files(tmp_path / "files")
    assert len(files) >= 40
    answers = lines_of(LOADS, files, tmp_path)
    assert len(answers) == len(files)
    require_refusals(answers, megabytes=300)
    assert not list(tmp_path.rglob("executed"))


ODD = {
    **{"none": None, "yes": True, "less": -1, "half": 0.5, "nan": float("nan"), "huge": 10**5000},
    **{"text": "\x1b[31m", "list": [1, 2], "dictionary": {"a": 1}, "numbers": {1: 2}},
    **{"scalar": torch.tensor(1.0), "empty": torch.zeros(0, 3), "vector": torch.zeros(16)},
    **{"long": torch.ones(3, 4).long(), "complex": torch.ones(3, 4).to(torch.complex64)},
    **{"meta": torch.ones(3, 4).to("meta"), "sparse": torch.ones(3, 4).to_sparse()},
    **{"view": torch.zeros(1).expand(1 << 14, 1 << 14), "dtype": torch.float32},
}
SETTINGS = ("fmap_base", "fmap_decay", "blur_filter", "fused_scale", "mapping", "synthesis")
ODD_KEYS = (
    *("x", "module.x", "format", "generator", "torgb.weight", "dense5.weight"),
    *(f"blocks.{size}x{size}.epi2.noise.weight" for size in ("0", "4", "999999999", "9" * 5000)),
    *(f"synthesis.layer{layer}.weight" for layer in ("0", "99", "9" * 12)),
)


def changed_somewhere(content: dict, chance: random.Random) -> dict:
    """With an entry, at any depth, missing, renamed or of another kind."""
    content = {key: value for key, value in content.items()}
    key = chance.choice(list(content))
    inner = content[key]
    if isinstance(inner, dict) and inner and chance.random() < 0.8:
        content[key] = changed_somewhere(inner, chance)
    elif chance.random() < 0.7:
        content[key] = chance.choice(list(ODD.values()))
    elif chance.random() < 0.5:
        content[chance.choice(ODD_KEYS)] = content.pop(key)
    else:
        del content[key]
    return content


@pytest.mark.parametrize("format_name", ["one file", "genforce", "lernapparat", "PULSE"])
def test_changed_contents_are_read_or_refused_in_one_sentence(tmp_path, format_name):
    """Nothing but UserError comes of them: no catch-all around the readers hides a mistake."""
    synthesis, mapping = random_networks(16)
    content = {
        "one file": lambda: torch.load(one_file(tmp_path / "x.pt"), weights_only=True),
        "genforce": lambda: {"generator_smooth": genforce(synthesis, mapping), "const_input": True},
        "lernapparat": lambda: lernapparat(synthesis, mapping),
        "PULSE": synthesis.state_dict,
    }[format_name]()
    chance = random.Random(0)
    path = tmp_path / "g.pt"
    refused = 0
    for _ in range(150):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch would rather be rid of such tensors
            torch.save(changed_somewhere(content, chance), path)
            try:
                describe(read_networks(path))
            except UserError as error:
                assert str(error).startswith(f"{path} ") and "\n" not in str(error)
                refused += 1
    assert 75 < refused <= 150


def test_changed_pickles_are_read_or_refused_in_one_sentence(tmp_path):
    """As above, for NVIDIA's networks."""
    odd = [value for value in ODD.values() if not isinstance(value, torch.Tensor | torch.dtype)]
    odd += [np.zeros(3), np.zeros((0, 3), "f8"), np.zeros((1,) * 20, "f4"), np.float32(2), b"x"]
    names = ("lod", "4x4/Conv0_up/weight", "0x0/Conv/bias", "Dense77/weight", "8x8/Conv2/bias")
    chance = random.Random(0)
    refused = 0
    for _ in range(150):
        network = nvidia_network(*random_networks(16), fmap_base=64, fmap_decay=1.0)
        parts = network.state["components"]
        state = chance.choice([network, parts["synthesis"], parts["mapping"]]).state
        key = chance.choice(["variables", "static_kwargs", "components"])
        if chance.random() < 0.2:
            state[key] = chance.choice(odd)
        elif key == "variables":
            i = chance.randrange(len(state[key]))
            name, array = state[key][i]
            kept = [(name, chance.choice(odd)), (chance.choice(names), array), chance.choice(odd)]
            state[key][i] = chance.choice(kept)
        else:
            state[key] = {**state[key], chance.choice(SETTINGS): chance.choice(odd)}
        path = write_pickle(tmp_path / "g.pkl", (None, network), chance.choice([2, 4]))
        try:
            describe(read_networks(path))
        except UserError as error:
            assert str(error).startswith(f"{path} ") and "\n" not in str(error)
            refused += 1
    assert 50 < refused <= 150


def test_what_these_files_would_run_is_real(tmp_path, monkeypatch):
    """Each attack succeeds on an unpickler that admits everything."""
    monkeypatch.chdir(tmp_path)
    for code in (
        getattr_chain(),
        *(pickle.dumps(call) for call in (Calls(os.system, TOUCH), Calls(eval, RUN))),
        pickle.dumps(np.array([Calls(os.system, TOUCH)], dtype=object)),
    ):
        pickle.loads(code)
        (tmp_path / "executed").unlink()


def test_the_bomb_would_explode(tmp_path):
    """torch.load itself takes a smaller one for a whole file."""
    path = deflated_bomb(tmp_path / "bomb.pt", 64)
    tensor = torch.load(path, weights_only=True)["synthesis"]["torgb.weight"]
    assert tensor.untyped_storage().nbytes() == 64 << 20


@pytest.mark.parametrize("name", ["system.pkl", "eval.pt", "getattr.pt", "pipe.pt", "loop.pt"])
def test_run_refuses_a_hostile_generator_in_one_line(tmp_path, monkeypatch, capsys, name):
    (tmp_path / "files").mkdir()
    hostile = {path.name: path for path in hostile_few(tmp_path / "files")}
    (tmp_path / "input").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "input" / "a.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", "-generator", str(hostile[name])])
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(SystemExit) as left:
        command.run_command(run.main)
    for number, handler in handlers:
        signal.signal(number, handler)
    told = capsys.readouterr().err.splitlines()
    assert left.value.code == 2 and len(told) == 1 and told[0].startswith("run.py: error: ")
    assert not list(tmp_path.rglob("executed")) and not (tmp_path / "runs").exists()


def hostile_few(folder: Path) -> list[Path]:
    (folder / "system.pkl").write_bytes(pickle.dumps(Calls(os.system, TOUCH), protocol=2))
    torch.save({"format": FORMAT, "config": Calls(eval, RUN)}, folder / "eval.pt")
    with_pickle(folder / "getattr.pt", getattr_chain())
    os.mkfifo(folder / "pipe.pt")
    (folder / "loop.pt").symlink_to("loop.pt")
    return list(folder.iterdir())


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root can be another")
def test_a_weight_file_that_may_not_be_read_is_one_sentence(tmp_path):
    path = one_file(tmp_path / "secret.pt")
    path.chmod(0)
    child = os.fork()
    if child == 0:  # as nobody, for whom the permission bits count
        status = 1
        try:
            from generators.load import load_generator

            for folder in (*tmp_path.parents, tmp_path):
                if str(folder).startswith("/tmp/"):
                    folder.chmod(0o755)
            os.setuid(65534)
            load_generator(path, tmp_path / "cache")
        except UserError as error:
            status = 0 if "secret.pt" in str(error) and "\n" not in str(error) else 2
        except BaseException:
            status = 3
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
