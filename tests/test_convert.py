"""convert.py, as a user runs it."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import GOLDEN, ROOT, command, one_file, random_networks
from generator_files import FAMILIES, generator_file
from weight_files import agree, nvidia_network, write_pickle

import convert
from cli.errors import UserError
from generators import load
from generators.formats import FORMAT, FORMAT_2
from generators.load import load_generator, save_generator
from generators.prior import fit_prior


def test_convert_and_describe_as_commands(called, tmp_path):
    synthesis, mapping = random_networks(32, d=16)
    Gs = nvidia_network(synthesis, mapping)
    write_pickle(tmp_path / "cats.pkl", (None, None, Gs))
    done = called("convert.py", "cats.pkl", "-info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("NVIDIA pickle", "32x32", "layers: 8", "latent width: 16", "CC BY-NC 4.0"):
        assert words in done.stdout
    done = command("convert.py", "cats.pkl", "-o", "cats.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    networks = agree(tmp_path / "cats.pt", synthesis, mapping)
    assert networks.prior is not None
    read = load_generator(tmp_path / "cats.pkl", tmp_path / "cache")  # the prior lies there now
    written = load_generator(tmp_path / "cats.pt", tmp_path / "nowhere")
    assert f"the same generator, SHA-256 {written.sha256}\n" in done.stdout
    assert written.sha256 == read.sha256
    before = (tmp_path / "cats.pt").read_bytes()
    done = called("convert.py", "cats.pkl", "-o", "cats.pt", cwd=tmp_path)
    assert done.returncode == 2 and "-overwrite" in done.stderr
    assert (tmp_path / "cats.pt").read_bytes() == before


def test_of_a_file_of_several_labels_one_is_described_and_written(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(fit_prior, "__defaults__", (1600, 160, 0))
    name = str(GOLDEN / "sg2_tiny_conditional_nhwc.pkl")

    def told(*args) -> str:
        monkeypatch.setattr("sys.argv", ["convert.py", *args, "-cache_dir", str(tmp_path)])
        assert convert.main() == 0
        return capsys.readouterr().out

    assert "labels: 3, one is chosen with -label 0 to -label 2\n" in told(name, "-info")
    described = told(name, "-info", "-label", "1")
    assert "label: 1, of 3\n" in described and "mapping of 2 layers" in described
    with pytest.raises(UserError, match="3 labels, so not 7: choose one"):
        told(name, "-info", "-label", "7")
    with pytest.raises(UserError, match="3 labels: choose one"):
        told(name, "-o", str(tmp_path / "no.pt"))
    written = str(tmp_path / "one.pt")
    assert "read back: the same generator" in told(name, "-label", "1", "-o", written)
    assert "label: 1, of 3\n" in told(written, "-info")
    with pytest.raises(UserError, match="has no labels, so not 2"):
        told(written, "-info", "-label", "2")


@pytest.mark.parametrize("args", [["nothing.pt", "-info"], ["broken.pt", "-o", "x.pt"], ["a.pt"]])
def test_what_cannot_be_converted_is_one_line(called, tmp_path, args):
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 nothing")
    done = called("convert.py", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("convert.py: error: ")
    assert not (tmp_path / "x.pt").exists()


def test_a_file_that_reads_back_as_another_is_no_success(tmp_path, monkeypatch):
    def save_another(networks, prior, path):
        save_generator(networks, (prior[0] + 1, prior[1]), path)

    monkeypatch.setattr(load, "save_generator", save_another)
    monkeypatch.setattr("sys.argv", ["convert.py", "demo64", "-o", str(tmp_path / "demo.pt")])
    with pytest.raises(UserError, match="is not what demo64 holds"):
        convert.main()


def test_what_is_missing_or_cannot_be_written_is_named(called, tmp_path):
    one_file(tmp_path / "bare.pt", mapping=None, gaussian_fit=None)
    one_file(tmp_path / "no_prior.pt", d=4, gaussian_fit=None)
    (tmp_path / "file").touch()
    for args, words in (
        (["bare.pt", "-o", "x.pt"], "bare.pt has neither a mapping network nor a prior fit"),
        (["demo64", "-o", "file/x.pt"], "file/x.pt cannot be written"),
        (["no_prior.pt", "-o", "x.pt", "-cache_dir", "file"], "-cache_dir file cannot be written"),
        (["demo64", "-o", "x" * 300], "cannot be written (File name too long)"),
        (["demo64", "-info", "-o", "x.pt"], "-info only describes the file: leave it out, or -o"),
    ):
        done = called("convert.py", *args, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert words in done.stderr
        assert not (tmp_path / "x.pt").exists()


def test_help_comes_without_pytorch(tmp_path):
    code = f"""
import runpy, sys
sys.argv = ["convert.py", "-h"]
try:
    runpy.run_path({str(ROOT / "convert.py")!r}, run_name="__main__")
except SystemExit:
    print("torch" in sys.modules or "numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert "-overwrite" in done.stdout and done.stdout.endswith("False\n"), done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_is_converted_to_one_file_and_back(called, tmp_path, family):
    path = generator_file(tmp_path, family, 16)
    done = called("convert.py", path, "-o", "again.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "read back: the same generator" in done.stdout
    first, again = (load_generator(each, tmp_path) for each in (path, tmp_path / "again.pt"))
    assert first.sha256 == again.sha256 and first.synthesis.config == again.synthesis.config
    content = torch.load(path, weights_only=True)
    new = family != "stylegan1"
    assert content["format"] == (FORMAT_2 if new else FORMAT)
    assert content["config"].get("family") == (family if new else None)


def test_one_label_of_a_file_is_converted(called, tmp_path):
    path = GOLDEN / "sg2_tiny_conditional_nhwc.pkl"
    done = called("convert.py", path, "-info", cwd=tmp_path)
    assert done.returncode == 0 and "labels: 3" in done.stdout
    done = called("convert.py", path, "-o", "x.pt", cwd=tmp_path)
    assert done.returncode == 2 and "3 labels: choose one" in done.stderr
    done = called("convert.py", path, "-o", "x.pt", "-label", 1, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = load_generator(tmp_path / "x.pt", tmp_path)
    assert written.about["label"] == "1, of 3" and written.mapping is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"family": "stylegan4"}, "of the family 'stylegan4', which is not known"),
        ({"family": "stylegan3-r"}, "unusable config"),
        ({"channels": [8, 8]}, "need 3 numbers of channels"),
        ({"channels": "888"}, "unusable config"),
        ({"resolution": 1 << 40}, "need 39 numbers of channels"),
        ({"more": 1}, "unusable config"),
    ],
)
def test_later_families_with_an_unusable_config_are_one_sentence(tmp_path, changes, words):
    path = generator_file(tmp_path, "stylegan2", 16)
    content = torch.load(path, weights_only=True)
    content["config"] |= changes
    torch.save(content, path)
    with pytest.raises(UserError, match=words) as caught:
        load_generator(path, tmp_path)
    assert "\n" not in str(caught.value)
