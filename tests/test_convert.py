"""convert.py, as a user runs it."""

import pytest
from conftest import command, random_networks
from weight_files import agree, nvidia_network, write_pickle


def test_convert_and_describe_as_commands(tmp_path):
    synthesis, mapping = random_networks(32, d=16)
    Gs = nvidia_network(synthesis, mapping)
    write_pickle(tmp_path / "cats.pkl", (None, None, Gs))
    done = command("convert.py", "cats.pkl", "-info", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("NVIDIA pickle", "32x32", "layers: 8", "latent width: 16", "CC BY-NC 4.0"):
        assert words in done.stdout
    done = command("convert.py", "cats.pkl", "-o", "cats.pt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    difference = float(done.stdout.split("10 latents: ")[1].split()[0])
    assert 0 < difference < 1e-4
    networks = agree(tmp_path / "cats.pt", synthesis, mapping)
    assert networks.prior is not None
    before = (tmp_path / "cats.pt").read_bytes()
    done = command("convert.py", "cats.pkl", "-o", "cats.pt", cwd=tmp_path)
    assert done.returncode == 2 and "-overwrite" in done.stderr
    assert (tmp_path / "cats.pt").read_bytes() == before


@pytest.mark.parametrize("args", [["nothing.pt", "-info"], ["broken.pt", "-o", "x.pt"], ["a.pt"]])
def test_what_cannot_be_converted_is_one_line(tmp_path, args):
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 nothing")
    done = command("convert.py", *args, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("convert.py: error: ")
    assert not (tmp_path / "x.pt").exists()
