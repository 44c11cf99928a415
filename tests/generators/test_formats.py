"""This project's weight files, PULSE's and lernapparat's; what no reader takes; files as other
programs leave them.
"""

import pickle
import pickletools
import zipfile

import pytest
import torch
import weight_files
from conftest import GOLDEN, one_file, random_networks
from weight_files import agree, lernapparat, picture

from cli.errors import UserError
from generators import formats, nvidia, persistent
from generators.formats import read_networks
from generators.lernapparat import read as read_lernapparat
from generators.networks import Networks
from generators.safe_loading import load_content
from stylegan import G_mapping


@pytest.fixture
def files(tmp_path):
    """One small random network of 32 pixels, in every format that is read."""
    synthesis, mapping = random_networks(32, d=24, seed=4)
    pair = tmp_path / "pair"
    old = tmp_path / "old_cache"
    for folder in (pair, old):
        folder.mkdir()
    torch.save(synthesis.state_dict(), pair / "synthesis.pt")
    torch.save(mapping.state_dict(), pair / "mapping.pt")
    torch.save(synthesis.state_dict(), old / f"{'6' * 32}_synthesis.pt")
    torch.save(mapping.state_dict(), old / f"{'0' * 32}_mapping.pt")
    torch.save(lernapparat(synthesis, mapping), tmp_path / "for_g_all.pt")
    one = one_file(tmp_path / "one.pt", 32, d=24, seed=4)
    half = torch.load(one, weights_only=True)
    half["synthesis"] = {key: value.half() for key, value in half["synthesis"].items()}
    torch.save(half, tmp_path / "half.pt")
    paths = {
        "one file": one,
        "half": tmp_path / "half.pt",
        "pair, its folder": pair,
        "pair, one of it": pair / "synthesis.pt",
        "pair, in a cache of 2020": old / f"{'6' * 32}_synthesis.pt",
        "lernapparat": tmp_path / "for_g_all.pt",
    }
    return synthesis, mapping, paths


def test_every_format_gives_the_same_pictures(files):
    synthesis, mapping, paths = files
    expected = picture(synthesis)
    z = torch.randn(4, 24, generator=torch.Generator().manual_seed(0))
    for name, path in paths.items():
        networks = read_networks(path)
        tolerance = 5e-3 if name == "half" else 0
        error = (picture(networks.synthesis) - expected).abs().max() / expected.abs().max()
        assert error <= tolerance, name
        assert torch.equal(networks.mapping(z), mapping(z)), name
        assert all(p.dtype == torch.float32 for p in networks.synthesis.parameters()), name


def test_each_reader_recognises_its_own_format_and_no_other(files, tmp_path):
    synthesis, mapping, paths = files
    checkpoint = {"models": {"generator": weight_files.genforce(synthesis, mapping)}}
    torch.save(checkpoint, tmp_path / "genforce.pth")
    network = weight_files.nvidia_network(synthesis, mapping)
    weight_files.write_pickle(tmp_path / "g.pkl", (network, network, network))
    written = {
        "one file": paths["one file"],
        "genforce": tmp_path / "genforce.pth",
        "lernapparat": paths["lernapparat"],
        "PULSE": paths["pair, one of it"],
        "rosinality": GOLDEN / "rosinality_train_tiny.pt",
        "NVIDIA StyleGAN2 pickle, TensorFlow": GOLDEN / "sg2_tf_tiny.pkl",
        "NVIDIA pickle": tmp_path / "g.pkl",
        "NVIDIA pickle, PyTorch": GOLDEN / "sg3t_tiny.pkl",
    }
    assert list(written) == [reader.name for reader in formats.READERS]
    for name, path in written.items():
        content = load_content(path, nvidia.STAND_INS, persistent.STAND_INS)
        for reader in formats.READERS:
            assert bool(reader.recognises(content)) == (reader.name == name)
            assert not reader.recognises({}) and not reader.recognises({"pickle": [7]})
        assert read_networks(path).origin == name


def test_a_format_is_added_by_one_line(tmp_path, monkeypatch):
    """A reader of pickles with a class of their own."""

    class Kept:
        pass

    synthesis, mapping = random_networks(16)
    reader = formats.Reader(
        "another",
        lambda content: isinstance(content.get("pickle"), Kept),
        lambda content: Networks(synthesis, mapping),
        {("library", "Kept"): Kept},
    )
    (tmp_path / "a.pkl").write_bytes(b"\x80\x02clibrary\nKept\n)R.")
    with pytest.raises(UserError, match="asks for library.Kept"):
        read_networks(tmp_path / "a.pkl")
    monkeypatch.setattr(formats, "READERS", (*formats.READERS, reader))
    networks = read_networks(tmp_path / "a.pkl")
    assert networks.synthesis is synthesis and networks.origin == "another"


def test_a_file_without_mapping_and_prior_takes_the_mapping_beside_it(tmp_path):
    _, mapping = random_networks(16)
    z = torch.randn(4, 16, generator=torch.Generator().manual_seed(0))
    one_file(tmp_path / "g.pt", mapping=None, gaussian_fit=None)
    assert read_networks(tmp_path / "g.pt").mapping is None
    torch.save(mapping.state_dict(), tmp_path / "mapping.pt")
    assert torch.equal(read_networks(tmp_path / "g.pt").mapping(z), mapping(z))
    one_file(tmp_path / "g.pt", mapping=None)
    assert read_networks(tmp_path / "g.pt").mapping is None


def test_formats_are_told_apart_by_content_and_not_by_name(files, tmp_path):
    synthesis, _, paths = files
    disguised = tmp_path / "picture.png"
    disguised.write_bytes(paths["lernapparat"].read_bytes())
    assert torch.equal(picture(read_networks(disguised).synthesis), picture(synthesis))


@pytest.mark.parametrize("config", [{"fmap_base": 100}, {"fmap_base": 100, "fmap_max": 12}])
def test_channels_are_read_from_the_tensors(tmp_path, config):
    synthesis, mapping = random_networks(32, **{"fmap_max": 512, **config})
    torch.save(lernapparat(synthesis, mapping), tmp_path / "g.pt")
    assert torch.equal(picture(read_networks(tmp_path / "g.pt").synthesis), picture(synthesis))


def test_a_key_that_lernapparat_does_not_have_is_named():
    content = lernapparat(*random_networks(16))
    assert len(read_lernapparat(content).mapping) == 2
    with pytest.raises(UserError, match="^has the unknown key d_basic.weight"):
        read_lernapparat({**content, "d_basic.weight": torch.zeros(1)})


class Gadget:
    def __reduce__(self):
        import os

        return os.system, ("touch executed",)


def test_what_does_not_fit_is_refused_in_one_sentence(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    synthesis, mapping, paths = files
    whole = torch.load(paths["one file"], weights_only=True)

    def changed(**entries):
        return {**whole, **entries}

    state = whole["synthesis"]
    first = "torgb.weight"
    (tmp_path / "folder").mkdir()
    cases = {
        "missing": (
            changed(synthesis={k: v for k, v in state.items() if k != first}),
            f"{first} is missing",
        ),
        "shape": (
            changed(synthesis={**state, first: torch.zeros(3, 1, 1, 1)}),
            rf"{first} is \(3, 1, 1, 1\), not",
        ),
        "unknown": (changed(synthesis={**state, "extra": torch.zeros(1)}), "extra is unknown"),
        "config": (changed(config={**whole["config"], "fmap_max": "many"}), "unusable config"),
        "no config": (changed(config=None), "lacks its config"),
        "channels": (changed(config={**whole["config"], "fmap_base": 7}), "no channels"),
        "resolution": (changed(config={**whole["config"], "resolution": 48}), "power of two"),
        "fit": (changed(gaussian_fit={"mean": torch.zeros(3), "std": torch.ones(3)}), "mean"),
        "mapping": (mapping.state_dict(), "give its synthesis.pt"),
        "width": (changed(mapping=G_mapping(8, 2).state_dict()), "do not belong together"),
        "other": ({"weights": torch.zeros(3)}, "no generator in a known format"),
        "list": ([torch.zeros(3)], "no dictionary"),
    }
    for name, (content, words) in cases.items():
        torch.save(content, tmp_path / f"{name}.pt")
        with pytest.raises(UserError, match=words) as caught:
            read_networks(tmp_path / f"{name}.pt")
        assert str(caught.value).startswith(f"{tmp_path / name}.pt ")
        assert str(caught.value).count(f"{name}.pt") == 1
        assert "\n" not in str(caught.value)
    data = paths["one file"].read_bytes()
    raw = {
        "truncated.pt": (data[: len(data) // 2], "cut off or damaged: copy or fetch it again"),
        "gadget.pt": (pickle.dumps(Gadget()), "asks for posix.system"),
        "noise.pt": (bytes(range(1, 255)), "cannot be read as PyTorch"),
    }
    for name, (content, words) in raw.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words) as caught:
            read_networks(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
    for missing, words in (("nowhere.pt", "does not exist"), ("folder", "without synthesis.pt")):
        with pytest.raises(UserError, match=words):
            read_networks(tmp_path / missing)


def test_a_generator_that_saves_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "pulse-generator-1", "config": Gadget()}, tmp_path / "gadget.pt")
    with pytest.raises(UserError, match="cannot be read"):
        read_networks(tmp_path / "gadget.pt")
    assert not (tmp_path / "executed").exists()


# ------------------------------------------------------------ files as they come


def prefixed(content):
    return {f"module.{key}": value for key, value in content.items()}


@pytest.mark.parametrize("change", ["half", "DataParallel", "legacy", "renamed"])
def test_files_as_other_programs_leave_them_work(tmp_path, change):
    synthesis, mapping = random_networks(32)
    states = [synthesis.state_dict(), mapping.state_dict()]
    options = {}
    if change == "half":
        states = [{key: value.half() for key, value in state.items()} for state in states]
        for network, state in zip((synthesis, mapping), states, strict=True):
            network.load_state_dict({key: value.float() for key, value in state.items()})
    if change == "DataParallel":
        states = [prefixed(state) for state in states]
    if change == "legacy":
        options["_use_new_zipfile_serialization"] = False
    names = ("a.jpg", "mapping.pt") if change == "renamed" else ("synthesis.pt", "mapping.pt")
    for name, state in zip(names, states, strict=True):
        torch.save(state, tmp_path / name, **options)
    agree(tmp_path / names[0], synthesis, mapping)


def test_tensors_that_were_saved_on_a_gpu_are_read_on_a_cpu(tmp_path):
    """The device of each tensor stands in the file; here it is changed there to `cuda:0`."""
    synthesis, mapping = random_networks(16)
    torch.save(mapping.state_dict(), tmp_path / "mapping.pt")
    torch.save(synthesis.state_dict(), tmp_path / "cpu.pt")
    with (
        zipfile.ZipFile(tmp_path / "cpu.pt") as source,
        zipfile.ZipFile(tmp_path / "synthesis.pt", "w") as target,
    ):
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith("data.pkl"):
                cpu = b"X\x03\x00\x00\x00cpu"
                assert cpu in data
                data = data.replace(cpu, b"X\x06\x00\x00\x00cuda:0")
                assert "cuda:0" in {arg for _, arg, _ in pickletools.genops(data)}
            target.writestr(info.filename, data)
    agree(tmp_path / "synthesis.pt", synthesis, mapping)


def test_a_file_that_claims_a_huge_network_takes_no_memory(tmp_path):
    synthesis, _ = random_networks(16)
    state = synthesis.state_dict()
    state["blocks.16x16.epi2.noise.weight"] = torch.zeros(3_000_000)
    torch.save(state, tmp_path / "synthesis.pt")
    with pytest.raises(UserError, match="does not fit"):
        read_networks(tmp_path / "synthesis.pt")
    one_file(
        tmp_path / "g.pt",
        config={"resolution": 2**40, "fmap_base": 2**60, "fmap_max": 2**40, "dlatent_size": 2**40},
    )
    with pytest.raises(UserError, match="unusable config|does not fit"):
        read_networks(tmp_path / "g.pt")


def test_what_trains_refuses_later_families_in_one_sentence(files):
    assert formats.read_stylegan1(files[2]["one file"]).synthesis.family == "stylegan1"
    with pytest.raises(UserError, match=r"sg3r_tiny.pkl is a StyleGAN3, configuration R: what is"):
        formats.read_stylegan1(GOLDEN / "sg3r_tiny.pkl")
