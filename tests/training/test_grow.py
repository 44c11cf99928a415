"""training/grow.py: a wider network computes what the narrow one did, and its copies can part."""

import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT, one_file, random_networks

from cli.errors import UserError
from generators.formats import Networks, read_networks
from stylegan import G_synthesis
from training.discriminator import Discriminator
from training.grow import Growth, renumbered, take_over, widened

CPU = torch.device("cpu")


def test_a_wider_generator_makes_the_same_pictures():
    source = Networks(*random_networks(32))
    wide = G_synthesis(16, 3, 32, fmap_base=128, fmap_max=16)
    growth = Growth(source, wide, CPU, seed=0)
    w, noise, pictures = growth.inputs(4)
    torch.testing.assert_close(wide(w, noise), pictures, rtol=1e-4, atol=1e-4)
    assert not growth.new


def test_copies_of_a_channel_get_different_gradients():
    source = Networks(*random_networks(32))
    wide = G_synthesis(16, 3, 32, fmap_base=128, fmap_max=16)
    growth = Growth(source, wide, CPU, seed=0)
    wide.requires_grad_(True)
    w, noise, pictures = growth.inputs(4)
    (wide(w, noise) - pictures - 1).square().mean().backward()
    first, second = wide.blocks["8x8"].conv1.weight.grad.chunk(2)
    assert (first - second).norm() > 0.01 * first.norm() > 0


def test_a_wider_discriminator_says_the_same():
    torch.manual_seed(0)
    narrow, wide = Discriminator(32, 256, 16), Discriminator(32, 512, 32)
    assert not take_over(wide, renumbered(narrow.state_dict(), 0), torch.Generator())
    pictures = torch.rand(8, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(wide(pictures), narrow(pictures), rtol=1e-4, atol=1e-4)


def test_what_is_no_multiple_is_refused():
    with pytest.raises(UserError, match="conv1.weight.* cannot be widened to"):
        widened(torch.zeros(8, 8, 3, 3), torch.Size([12, 12, 3, 3]), "conv1.weight", None)


def test_a_discriminator_of_another_size_is_refused():
    source = Networks(*random_networks(16))
    growth = Growth(source, G_synthesis(16, 3, 32, fmap_base=128, fmap_max=16), CPU, seed=0)
    fitting = Discriminator(16, 128, 16).state_dict()
    del fitting["conv.weight"]
    others = [Discriminator(size, 128, 16).state_dict() for size in (8, 32)]
    for state in (*others, fitting, source.synthesis.state_dict(), {}):
        with pytest.raises(UserError, match="-critic is no discriminator of the size that -start"):
            growth.take_critic(state, Discriminator(32))


def test_twice_the_resolution_learns_the_old_pictures_enlarged(tmp_path):
    source = one_file(tmp_path / "small.pt", resolution=16)
    torch.save(Discriminator(16, 128, 16).state_dict(), tmp_path / "critic.pt")
    command = [sys.executable, "-m", "training.grow", "-start", tmp_path / "small.pt"]
    command += ["-critic", tmp_path / "critic.pt", "-output_dir", tmp_path / "grown"]
    command += ["-resolution", 32, "-fmap_base", 128, "-fmap_max", 16, "-critic_base", 256]
    command += ["-critic_max", 32, "-steps", 200, "-device", "cpu"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    for part in ("generator", "discriminator"):
        losses = [
            float(line.split(": ")[1])
            for line in done.stdout.splitlines()
            if line.startswith(f"new block of the {part}")
        ]
        assert losses[-1] < losses[0] / 2, (part, losses)
    grown = read_networks(tmp_path / "grown" / "generator.pt")
    assert grown.synthesis.resolution == 32 and grown.prior is not None
    assert torch.equal(grown.mapping[0].weight, read_networks(source).mapping[0].weight.half())
    critic = Discriminator(32, 256, 32)
    critic.load_state_dict(torch.load(tmp_path / "grown" / "critic.pt", weights_only=True))


def test_a_generator_is_widened_to_the_same_bytes_in_every_process(tmp_path):
    source = one_file(tmp_path / "small.pt", resolution=16)
    command = [sys.executable, "-m", "training.grow", "-start", source, "-resolution", 16]
    command += ["-fmap_base", 128, "-fmap_max", 16, "-device", "cpu", "-output_dir"]
    for seed in "12":  # of the order in which a set is gone through
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        words = list(map(str, [*command, tmp_path / seed]))
        subprocess.run(words, check=True, cwd=ROOT, env=environment, capture_output=True)
    first, second = (read_networks(tmp_path / seed / "generator.pt").synthesis for seed in "12")
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["-critic_base", 8], "-critic_base must be at least 16, not 8"),
        (["-critic_max", 0], "-critic_max must be at least 1, not 0"),
        (["-fmap_max", 0], "-fmap_max must be at least 1, not 0"),
        (["-steps", -2], "-steps must be at least 0, not -2"),
        (["-critic", "small.pt"], "-critic small.pt holds no weights: give the critic.pt"),
        (["-critic", "wrong.pt"], "-critic is no discriminator of the size that -start has"),
        (["-output_dir", "."], "generator.pt is the generator to start from: give another"),
        (["-output_dir", "beside"], "beside/critic.pt is what -critic names: give another"),
    ],
)
def test_what_cannot_be_grown_is_refused_before_anything_learns(called, tmp_path, flags, said):
    one_file(tmp_path / "small.pt", resolution=16)
    one_file(tmp_path / "generator.pt", resolution=16)
    (tmp_path / "beside").mkdir()
    torch.save(Discriminator(16, 128, 16).state_dict(), tmp_path / "beside" / "critic.pt")
    torch.save(Discriminator(8, 128, 16).state_dict(), tmp_path / "wrong.pt")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}
    words = {"-start": "generator.pt", "-critic": "beside/critic.pt", "-output_dir": "grown"}
    words |= {"-resolution": 32, "-fmap_base": 128, "-fmap_max": 16, "-critic_base": 256}
    words |= {"-critic_max": 32, "-steps": 1, "-device": "cpu", **dict([flags])}
    done = called("training.grow", *(each for pair in words.items() for each in pair), cwd=tmp_path)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not done.stdout
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*.pt")}


@pytest.mark.parametrize(("resolution", "status"), [(16, 0), (8, 2), (64, 2)])
def test_widening_needs_no_steps_and_other_sizes_are_refused(called, tmp_path, resolution, status):
    source = one_file(tmp_path / "small.pt", resolution=16)
    torch.save(Discriminator(16, 128, 16).state_dict(), tmp_path / "critic.pt")
    flags = ["-start", source, "-critic", "critic.pt", "-output_dir", "grown", "-device", "cpu"]
    flags += ["-resolution", resolution, "-fmap_base", 128, "-fmap_max", 16]
    flags += ["-critic_base", 256, "-critic_max", 32]
    done = called("training.grow", *flags, cwd=tmp_path)
    assert done.returncode == status, done.stderr
    if status:
        assert "can grow to: give 32, or 16, which only widens it" in done.stderr
    else:
        about = read_networks(tmp_path / "grown" / "generator.pt").about
        assert about["name"].endswith("grown to 16 pixels, not trained")
