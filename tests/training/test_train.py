"""demo/train.py and demo/score.py: training that goes on where it was, and scores that tell."""

import csv
import io
import os
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
from generators.load import load_generator
from PULSE import PULSE, Search
from search_settings import Settings
from training import score, train
from training.discriminator import augment, minibatch_stddev
from training.search_loss import Group, Searches
from training.train_settings import TrainSettings
from training.trainer import Training

SMALL = (
    *("-resolution", "32", "-fmap_base", "64", "-fmap_max", "8", "-dlatent_size", "16"),
    *("-mapping_layers", "2", "-batch_size", "8", "-device", "cpu", "-compile", "off"),
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
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
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
    assert run_train(monkeypatch, "-data", faces, *SMALL, "-output_dir", again, *flags) == 0
    first, second = (read_networks(each / "generator.pt").synthesis for each in (out, again))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
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
    assert "multiple of 8" in refused("-data", faces, *SMALL, *out, "-batch_size", 6)
    assert "resolution 64, not 32" in refused("-data", faces, *SMALL, *out, "-start", train.DEMO)

    assert run_train(monkeypatch, "-data", faces, *SMALL, *out, "-minutes", 0) == 0
    assert "fmap_max 8, not 4" in refused("-data", faces, *SMALL, *out, "-fmap_max", 4)
    for name in ("learning_rate", "ema_images", "search_weight", "r1_weight"):
        changed = ("-minutes", 0, f"-{name}", 7)
        assert run_train(monkeypatch, "-data", faces, *SMALL, *out, *changed) == 0
    state = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    torch.save({**state, "searches": {}}, tmp_path / "out" / "checkpoint.pt")
    assert "lacks something" in refused("-data", faces, *SMALL, *out)
    (tmp_path / "out" / "checkpoint.pt").write_bytes(b"damaged")
    assert "no checkpoint" in refused("-data", faces, *SMALL, *out)


def test_a_search_in_training_is_the_search_of_PULSE(tmp_path):
    generator = PULSE(one_file(tmp_path / "g.pt", resolution=32), "cpu", tmp_path).generator
    sizes, random = generator.synthesis.layer_sizes, torch.Generator().manual_seed(0)
    searches = Searches(4, sizes, generator.dlatent_size, torch.device("cpu"))
    searches.prior = generator.mean, generator.std
    faces = torch.rand(4, 3, 32, 32, generator=random) * 2 - 1
    searches.renew(faces, lambda *shape: torch.randn(*shape, generator=random))
    LR = searches.groups[0].LR
    search = Search(generator, generator.synthesis, LR, Settings(), [0])
    start = [search.v, *search.noise]
    v, *noise = (each.detach().clone() for each in start)
    group = searches.groups[0] = Group(LR, v, noise, Settings())
    assert [group.age for group in searches.groups] == [0, 25, 50, 75]
    for _ in range(4):
        figures = search.step()
        w, maps = searches.inputs()
        total, distance = searches.judge(w, generator.synthesis(w, maps))
        torch.testing.assert_close(total[:1].detach(), figures["total"], rtol=1e-4, atol=0)
        torch.testing.assert_close(distance[:1].detach(), figures["L2"], rtol=1e-4, atol=0)
        searches.advance(torch.autograd.grad(total.sum(), searches.searched()))
    assert group.age == 4
    for mine, theirs in zip([group.v, *group.noise], start, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3)


def test_searches_that_ended_make_room_for_new_faces():
    random = torch.Generator().manual_seed(0)
    searches = Searches(8, [4, 4, 8, 8, 16, 16, 32, 32], 16, torch.device("cpu"))

    def draw(*shape):
        return torch.randn(*shape, generator=random)

    faces = torch.ones(8, 3, 32, 32)
    searches.renew(-faces, draw)
    for group in searches.groups:
        group.age += 25
    searches.renew(faces, draw)
    assert [group.age for group in searches.groups] == [0, 25, 50, 75]
    assert [group.LR.mean().round().item() for group in searches.groups] == [1, 0, 0, 0]
    assert searches.weights().tolist() == sorted(searches.weights().tolist())


def test_training_goes_on_exactly_where_it_was():
    settings = TrainSettings(32, 64, 8, 16, 2, batch_size=8)
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    whole = Training(settings, faces, torch.device("cpu"))
    whole.step()
    kept = io.BytesIO()
    torch.save(whole.state_dict(), kept)
    whole.step()
    again = Training(settings, faces, torch.device("cpu"))
    kept.seek(0)
    again.load_state_dict(torch.load(kept, weights_only=True))
    again.step()
    for mine, theirs in zip(again.averaged.parameters(), whole.averaged.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    for mine, theirs in zip(again.searches.searched(), whole.searches.searched(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_embedded_generator_can_be_trained_on_from_with_its_critic():
    faces = torch.randint(0, 256, (64, 3, 64, 64), dtype=torch.uint8)
    training = Training(TrainSettings(), faces, torch.device("cpu"))
    critic = torch.load(ROOT / "demo" / "critic64.pt", weights_only=True)
    networks = read_networks(train.DEMO)
    training.start_from(networks, critic)
    assert training.images_before == networks.about["images_seen"] > 211_200
    assert training.hours_before == networks.about["hours"] > 2
    mine = training.networks["discriminator"].state_dict()
    assert all(torch.equal(mine[key], value.float()) for key, value in critic.items())


def test_a_training_may_go_on_with_another_learning_rate():
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    first, later = (
        Training(
            TrainSettings(32, 64, 8, 16, 2, batch_size=8, learning_rate=rate),
            faces,
            torch.device("cpu"),
        )
        for rate in (2.5e-3, 1e-3)
    )
    first.step()
    later.load_state_dict(first.state_dict())
    assert later.optimisers["generator"].param_groups[0]["lr"] == 1e-3
    assert later.images == 8


def test_augmentation_keeps_the_gradient_and_differs_between_pictures():
    x = torch.rand(4, 3, 32, 32).mul(2).sub(1).requires_grad_()
    seen = augment(x, torch.Generator().manual_seed(0))
    assert seen.shape == x.shape and not torch.allclose(seen[0], seen[1])
    seen.sum().backward()
    assert all(gradient.isfinite().all() and (gradient != 0).any() for gradient in x.grad)
    holes = (seen == 0).all(dim=1).flatten(1).sum(1)  # mid-grey: beyond the edge, and the cutout
    assert (holes >= 49).all()


def test_augmentation_leaves_the_pictures_that_it_is_not_drawn_for():
    x = torch.rand(64, 3, 32, 32) * 2 - 1
    assert torch.allclose(augment(x, torch.Generator().manual_seed(0), p=0), x, atol=1e-6)
    seen = augment(x, torch.Generator().manual_seed(0), p=0.2)
    changed = (seen - x).abs().amax(dim=(1, 2, 3)) > 1e-3
    assert 15 <= changed.sum() <= 50  # 1 - 0.8³ of 64 are 31


def test_a_discriminator_that_knows_the_faces_sees_them_augmented_more():
    faces = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8)
    training = Training(TrainSettings(32, 64, 8, 16, 2, batch_size=8), faces, torch.device("cpu"))
    training.augment.sign.fill_(1)
    training.step(train_generator=False)
    assert (grown := training.augment.p) > 0
    training.images = 0
    training.augment.sign.fill_(-1)
    training.step(train_generator=False)
    assert training.augment.p < grown


def test_minibatch_deviation_is_zero_for_equal_pictures_only():
    same = torch.ones(4, 2, 4, 4)
    assert minibatch_stddev(same)[:, 2].max() < 1e-3
    assert minibatch_stddev(same * torch.arange(4).view(-1, 1, 1, 1))[:, 2].min() > 0.5


def test_distance_of_pictures_tells_noise_from_more_of_the_same():
    random = torch.Generator().manual_seed(0)
    smooth = torch.rand(64, 3, 4, 4, generator=random) * 255
    smooth = torch.nn.functional.interpolate(smooth, size=32, mode="bilinear").byte()
    noise = (torch.rand(32, 3, 32, 32, generator=random) * 255).byte()
    same = score.sliced_wasserstein(smooth[:32], smooth[32:])
    assert score.sliced_wasserstein(smooth[:32], smooth[:32]) < same
    assert score.sliced_wasserstein(noise, smooth[32:]) > 3 * same


def test_a_copied_face_counts_as_memorised_also_when_it_is_mirrored():
    random = torch.Generator().manual_seed(0)
    known, unseen, new = ((torch.rand(20, 3, 8, 8, generator=random) * 255).byte() for _ in "abc")
    copies = torch.cat([known[:5], known[5:10].flip(3)])
    assert score.memorised_share(copies, unseen, known) == 1
    assert score.memorised_share(new, unseen, known) < 0.5
    assert score.nearest(copies, known).max() == 0


def test_training_faces_are_held_against_the_other_ones():
    random = torch.Generator().manual_seed(0)
    known = (torch.rand(20, 3, 8, 8, generator=random) * 255).byte()
    assert score.nearest(known, known).min() > 20  # neither to itself nor to its own mirror image
    twice = torch.cat([known, known[:1].flip(3)])
    distance = score.nearest(twice, twice)
    assert distance[0] == distance[-1] == 0 and distance[1:-1].min() > 20


def test_no_face_is_found_where_there_is_none():
    assert score.face_share(torch.full((2, 3, 64, 64), 128, dtype=torch.uint8)) == 0


def test_scores_of_the_embedded_generator_are_printed(tmp_path, faces):
    command = [sys.executable, "-m", "training.score", "-parts", "ad", "-samples", "40"]
    big = tmp_path / "big"
    big.mkdir()
    for i in range(70):
        Image.new("RGB", (64, 64), (3 * i, 90, 200)).save(big / f"{i}.png")
    done = subprocess.run(
        [*command, "-data", str(big), "-val", str(big), "-grid", str(tmp_path / "grid.png")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    share = float(done.stdout.split("(a) exactly one face: ")[1].split("%")[0])
    assert share >= 85  # of 40: it is 95 % or more of 1,000
    assert Image.open(tmp_path / "grid.png").size == (1024, 512)
