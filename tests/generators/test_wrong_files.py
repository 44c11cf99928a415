"""What is no weight file of a generator is named for what it is, with what to do."""

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
import torchvision
from conftest import one_file, random_networks
from forked_runs import face
from PIL import Image

import convert
from cli.command import run_command
from cli.errors import UserError
from generators.formats import read_networks
from generators.wrong_files import FORMATS, another_network, what_is
from PULSE import PULSE
from training.discriminator import Discriminator

UNPACK = "give what it holds"


def packed(write) -> bytes:
    """What `write(file)` writes."""
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def zipped(**members: bytes) -> bytes:
    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            for name, content in members.items():
                archive.writestr(name, content)

    return packed(write)


def tarred(content: bytes) -> bytes:
    def write(file):
        with tarfile.open(fileobj=file, mode="w") as archive:
            info = tarfile.TarInfo("weights.pt")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))

    return packed(write)


def saved(content: object, **options) -> bytes:
    return packed(lambda file: torch.save(content, file, **options))


def safetensors() -> bytes:
    """As its specification has it: the header's length, a header in JSON, the numbers."""
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"conv.weight": entry}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def resnet() -> dict:
    with torch.device("meta"):
        names = torchvision.models.resnet18().state_dict()
    return {name: torch.zeros(1) for name in names}


def script() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's, that this format is old
        script = torch.jit.script(torch.nn.Linear(2, 2))
        return packed(lambda file: torch.jit.save(script, file))


PICTURE = Image.new("RGB", (8, 8), "red")
WEIGHTS = saved(random_networks(16)[0].state_dict())
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 5916672\n"
ONNX = b"\x08\x08\x12\x07pytorch\x1a\x052.5.0:\x80\x01\n\x0e\n\x05input\x12\x03out\x1a\x04node"
# name → content, what is said of it.
FILES = {
    "pointer.pt": (POINTER, "is a Git LFS pointer.*git lfs pull"),
    "page.pkl": (b"\n<!DOCTYPE html>\n<html>Virus scan warning</html>", "is a web page.*browser"),
    "denied.pt": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is XML"),
    "model.onnx": (ONNX, "is an ONNX model.*exported from"),
    "model.safetensors": (safetensors(), "is a safetensors file"),
    "script.pt": (script(), "is a TorchScript program.*exported from"),
    "weights.zip": (zipped(**{"a/weights.pt": WEIGHTS}), "zip archive of 1 file, a/weights.pt the"),
    "latent.npz": (zipped(**{"record.npy": b"", "w.npy": b""}), "is a latent file.*run.py -render"),
    "arrays.npz": (packed(lambda file: np.savez(file, a=np.ones(3))), r"archive of numpy \(.npz\)"),
    "array.npy": (packed(lambda file: np.save(file, np.ones(3))), "is an array of numpy"),
    "weights.tar": (tarred(WEIGHTS), "is a tar archive"),
    "weights.pt.gz": (gzip.compress(WEIGHTS), f"packed with gzip.*{UNPACK}"),
    "weights.pt.bz2": (bz2.compress(WEIGHTS), f"packed with bzip2.*{UNPACK}"),
    "weights.pt.xz": (lzma.compress(WEIGHTS), f"packed with xz.*{UNPACK}"),
    "model.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file"),
    "empty.pt": (b"", r"is empty \(0 bytes\)"),
    "cut.pt": (WEIGHTS[: len(WEIGHTS) // 2], "cut off or damaged: copy or fetch it again"),
    "face.png": (packed(lambda file: PICTURE.save(file, "PNG")), "is a picture.*-input_dir"),
    "face.jpg": (packed(lambda file: PICTURE.save(file, "JPEG")), "is a picture.*-input_dir"),
    "face.webp": (packed(lambda file: PICTURE.save(file, "WEBP")), "is a picture.*-input_dir"),
    "notes.txt": ("Größe: 64 pixels\n".encode(), "is text, which begins 'Größe: 64 pixels'"),
    "config.json": (b'{"resolution": 64}', "is text, which begins"),
    "resnet18.pth": (saved(resnet()), "holds a ResNet.*not a StyleGAN generator"),
    "critic.pt": (saved(Discriminator(16).state_dict()), "holds a discriminator"),
    "sd.ckpt": (
        saved({"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2)}}),
        "holds a diffusion model",
    ),
    "vgg.pth": (saved({"features.0.weight": torch.zeros(2)}), "classifies pictures"),
    "training.pt": (
        saved({"format": "pulse-training-1", "settings": {}, "data": "x"}),
        "is a checkpoint of training.train.*training.export",
    ),
    "other.pt": (saved({"weights": torch.zeros(3)}), "no generator in a known format"),
    "tensor.pt": (saved(torch.zeros(3)), "holds no dictionary of tensors"),
}
PROGRAM_WORDS = ("weights_only", "safe_globals", "magic number", "Traceback", "()")


@pytest.fixture
def said(here, tmp_path, monkeypatch, capsys):
    """`said(file)`: the one line of run.py, convert.py and PULSE about a file."""
    face(tmp_path / "input" / "a.png")  # run.py looks for pictures first

    def ask(name) -> str:
        done = here(generator=name)
        assert done.status == 2 and not done.out
        with pytest.raises(UserError) as caught:
            PULSE(generator=name, device="cpu")
        lines = {done.err.removeprefix("run.py: error: "), f"{caught.value}\n"}
        for more in (["-info"], ["-o", "converted.pt"]):
            monkeypatch.setattr(sys, "argv", ["convert.py", str(name), *more])
            with pytest.raises(SystemExit) as left:
                run_command(convert.main)
            told = capsys.readouterr()
            assert left.value.code == 2 and not told.out
            lines.add(told.err.removeprefix("convert.py: error: "))
        (line,) = lines
        return line

    return ask


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_file_is_named_for_what_it_is(name, said, tmp_path):
    content, words = FILES[name]
    (tmp_path / name).write_bytes(content)
    line = said(name)
    assert line.count("\n") == 1 and line.startswith(f"{name} ") and line.count(name) == 1
    with pytest.raises(UserError, match=words):
        read_networks(tmp_path / name)
    assert not any(each in line for each in PROGRAM_WORDS)
    assert ": " in line and len(line) < 250


def test_a_folder_says_what_it_lacks(said, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "folder is a folder without synthesis.pt: name the weight file" in said("folder")


def test_weights_are_never_taken_for_something_else(tmp_path):
    assert what_is(one_file(tmp_path / "weights.pt")) is None
    legacy = saved(torch.zeros(3), _use_new_zipfile_serialization=False)
    (tmp_path / "legacy.pt").write_bytes(legacy)
    (tmp_path / "g.pkl").write_bytes(b"\x80\x02clibrary\nKept\n)R.")
    for name in ("legacy.pt", "g.pkl", "nowhere.pt"):
        assert what_is(tmp_path / name) is None


def test_the_advice_names_a_page_that_exists():
    assert "docs/generators.md" in FORMATS and FORMATS in another_network({"layer1.0.conv1.w": 1})
