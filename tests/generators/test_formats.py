"""Other people's weight files, written here by following their public layouts, and hostile ones."""

import codecs
import pickle
import pickletools
import sys
import types

import numpy as np
import pytest
import torch
from conftest import command, one_file, random_networks

from cli.errors import UserError
from crosscheck import synthesize
from generators import nvidia
from generators.formats import read_networks
from PULSE import PULSE
from stylegan import G_mapping, G_synthesis


def draw(synthesis, seed=3):
    random = torch.Generator().manual_seed(seed)
    w = torch.randn(2, synthesis.num_layers, synthesis.dlatent_size, generator=random)
    noise = [torch.randn(2, 1, size, size, generator=random) for size in synthesis.layer_sizes]
    return w, noise


def picture(synthesis):
    with torch.no_grad():
        return synthesis(*draw(synthesis))


def agree(path, synthesis, mapping=None):
    """A file's network makes the original's pictures, to 1e-5 of the largest value."""
    networks = read_networks(path)
    expected = picture(synthesis)
    error = (picture(networks.synthesis) - expected).abs().max() / expected.abs().max()
    assert error < 1e-5
    if mapping is not None:
        z = torch.randn(3, mapping.dlatent_size, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(networks.mapping(z), mapping(z), rtol=1e-5, atol=1e-6)
    return networks


# ------------------------------------------------------------ NVIDIA's pickles


@pytest.fixture
def dnnlib(monkeypatch):
    """Modules of NVIDIA's names, so that pickle writes what its code wrote; gone afterwards."""
    network_module = types.ModuleType("dnnlib.tflib.network")
    util = types.ModuleType("dnnlib.util")

    class Network:
        def __init__(self, name, static_kwargs, variables, components=None):
            self.state = {
                "version": 3,
                "name": name,
                "static_kwargs": static_kwargs,
                "components": components or {},
                "build_module_src": "import os; os.system('touch executed')",
                "build_func_name": "G_style",
                "variables": variables,
            }

        def __getstate__(self):
            return self.state

        def __setstate__(self, state):
            self.state = state

    class EasyDict(dict):
        pass

    Network.__module__, Network.__qualname__ = "dnnlib.tflib.network", "Network"
    EasyDict.__module__, EasyDict.__qualname__ = "dnnlib.util", "EasyDict"
    network_module.Network, util.EasyDict = Network, EasyDict
    for name, module in (
        ("dnnlib", types.ModuleType("dnnlib")),
        ("dnnlib.tflib", types.ModuleType("dnnlib.tflib")),
        ("dnnlib.tflib.network", network_module),
        ("dnnlib.util", util),
    ):
        monkeypatch.setitem(sys.modules, name, module)
    return types.SimpleNamespace(Network=Network, EasyDict=EasyDict)


def nvidia_variables(synthesis: G_synthesis, mapping: G_mapping):
    """TensorFlow's variables of networks: matrices (in, out), convolutions (k, k, in, out)."""

    def matrix(tensor):
        return tensor.detach().numpy().T.copy()

    def kernel(tensor):
        return tensor.detach().numpy().transpose(2, 3, 1, 0).copy()

    def plain(tensor):
        return tensor.detach().numpy().copy()

    variables = [("lod", np.float32(0))]
    for name, block in synthesis.blocks.items():
        first = name == "4x4"
        if first:
            variables.append(("4x4/Const/const", plain(block.const)))
            variables.append(("4x4/Const/bias", plain(block.bias)))
            pairs = (("Const", None, block.epi1), ("Conv", block.conv, block.epi2))
        else:
            pairs = (("Conv0_up", block.conv0_up, block.epi1), ("Conv1", block.conv1, block.epi2))
        for layer, convolution, epilogue in pairs:
            if convolution is not None:
                variables.append((f"{name}/{layer}/weight", kernel(convolution.weight)))
                variables.append((f"{name}/{layer}/bias", plain(convolution.bias)))
            variables.append((f"{name}/{layer}/Noise/weight", plain(epilogue.noise.weight)))
            style = epilogue.style_mod.lin
            variables.append((f"{name}/{layer}/StyleMod/weight", matrix(style.weight)))
            variables.append((f"{name}/{layer}/StyleMod/bias", plain(style.bias)))
    variables.append(("ToRGB_lod0/weight", kernel(synthesis.torgb.weight)))
    variables.append(("ToRGB_lod0/bias", plain(synthesis.torgb.bias)))
    widths = [block.epi2.noise.weight.numel() for block in synthesis.blocks.values()]
    for lod, width in enumerate(reversed(widths[:-1]), start=1):  # unused, of smaller pictures
        variables.append((f"ToRGB_lod{lod}/weight", np.zeros((1, 1, width, 3), np.float32)))
        variables.append((f"ToRGB_lod{lod}/bias", np.zeros(3, np.float32)))
    variables += [
        (f"noise{i}", np.zeros((1, 1, r, r), np.float32))
        for i, r in enumerate(synthesis.layer_sizes)
    ]
    layers = [
        (f"Dense{i}/{kind}", matrix(t) if kind == "weight" else plain(t))
        for i, layer in enumerate(mapping)
        for kind, t in (("weight", layer.weight), ("bias", layer.bias))
    ]
    return variables, layers


def nvidia_network(dnnlib, synthesis, mapping, **settings):
    variables, layers = nvidia_variables(synthesis, mapping)
    resolution = synthesis.resolution
    settings = dnnlib.EasyDict(num_channels=3, resolution=resolution, label_size=0, **settings)
    parts = dnnlib.EasyDict(
        synthesis=dnnlib.Network("G_synthesis", dnnlib.EasyDict(settings), variables),
        mapping=dnnlib.Network("G_mapping", dnnlib.EasyDict(dlatent_size=16), layers),
    )
    average = [("dlatent_avg", np.zeros(synthesis.dlatent_size, np.float32))]
    return dnnlib.Network("Gs", settings, average, parts)


def write_pickle(path, content, protocol=2):
    with open(path, "wb") as file:
        pickle.dump(content, file, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4])
def test_nvidia_pickles_give_the_same_pictures(dnnlib, tmp_path, monkeypatch, protocol):
    monkeypatch.chdir(tmp_path)
    G = nvidia_network(dnnlib, *random_networks(128, seed=1))
    synthesis, mapping = random_networks(128, seed=2)
    Gs = nvidia_network(dnnlib, synthesis, mapping)
    D = dnnlib.Network("D", dnnlib.EasyDict(), [("4x4/weight", np.zeros((3, 3), np.float32))])
    path = write_pickle(tmp_path / "network.pkl", (G, D, Gs), protocol)
    for name in ("dnnlib", "dnnlib.tflib", "dnnlib.tflib.network", "dnnlib.util"):
        monkeypatch.delitem(sys.modules, name)  # as on a machine without NVIDIA's code
    networks = agree(path, synthesis, mapping)
    assert networks.origin == "NVIDIA pickle"
    assert not (tmp_path / "executed").exists()


def test_a_pickle_of_one_generator_alone_is_read(dnnlib, tmp_path):
    synthesis, mapping = random_networks(32)
    agree(write_pickle(tmp_path / "g.pkl", nvidia_network(dnnlib, synthesis, mapping)), synthesis)


def test_other_channel_settings_are_read_from_the_file(dnnlib, tmp_path):
    config = {"fmap_base": 90, "fmap_max": 12, "fmap_decay": 0.8}
    synthesis, mapping = random_networks(64, **config)
    Gs = nvidia_network(dnnlib, synthesis, mapping, **config)
    networks = agree(write_pickle(tmp_path / "g.pkl", (None, None, Gs)), synthesis, mapping)
    assert networks.synthesis.config["fmap_decay"] == 0.8


def test_arrays_of_other_byte_orders_and_old_pythons_are_read():
    array = np.arange(6, dtype=">f4").reshape(2, 3, order="F")
    for protocol in (2, 4):
        data = pickle.dumps(array, protocol=protocol)
        import io

        found = nvidia._Unpickler(io.BytesIO(data)).load().value()
        assert np.array_equal(found, array)


@pytest.mark.parametrize(
    "setting",
    [
        {"fused_scale": True},
        {"nonlinearity": "relu"},
        {"use_pixel_norm": True},
        {"blur_filter": [1, 3, 3, 1]},
    ],
)
def test_settings_that_make_another_network_are_refused_by_name(dnnlib, tmp_path, setting):
    Gs = nvidia_network(dnnlib, *random_networks(16), **setting)
    with pytest.raises(UserError, match=next(iter(setting))):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))


class Calls:
    """Pickles as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def by_name(module: str, name: str) -> bytes:
    """A pickle that asks for module.name and calls it with `touch executed`."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + b"X\x0e\x00\x00\x00touch executed\x85R."


GADGETS = [
    ("os", "system"),
    ("posix", "system"),
    ("subprocess", "Popen"),
    ("subprocess", "check_output"),
    ("builtins", "eval"),
    ("builtins", "exec"),
    ("builtins", "getattr"),
    ("__builtin__", "apply"),
    ("builtins", "__import__"),
    ("importlib", "import_module"),
    ("pickle", "loads"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "fromstring"),
    ("torch", "load"),
    ("dnnlib.tflib.network", "Network.run"),
    ("dnnlib.util", "call_func_by_name"),
    ("shutil", "rmtree"),
    ("socket", "create_connection"),
    ("functools", "partial"),
    ("operator", "attrgetter"),
]


@pytest.mark.parametrize(("module", "name"), GADGETS)
def test_a_pickle_that_asks_for_anything_else_is_refused_by_name(
    tmp_path, monkeypatch, module, name
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "g.pkl").write_bytes(by_name(module, name))
    with pytest.raises(UserError, match=rf"asks for {module}\.{name}"):
        read_networks(tmp_path / "g.pkl")
    assert not (tmp_path / "executed").exists()


def test_the_gadgets_would_work_on_an_unpickler_that_admits_everything(tmp_path, monkeypatch):
    """What the test above refuses is a real attack."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(by_name("os", "system"))
    assert (tmp_path / "executed").exists()


def hostile_files():
    deep = b"\x80\x02" + b"(" * 100_000 + b"l" * 100_000 + b"."
    objects = pickle.dumps(np.array([object, 1], dtype=object), protocol=2)
    structured = pickle.dumps(np.zeros(2, dtype=[("a", "f4"), ("b", "O")]), protocol=2)
    array = pickle.dumps(np.zeros(4, dtype=np.float32), protocol=2)
    return {
        "nothing": b"\x80",
        "deep": deep,
        "object array": objects,
        "structured array": structured,
        "cut": array[: len(array) // 2],
        "huge claim": b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",
        "no network": array,
        "a number": pickle.dumps(7, protocol=2),
        "a tuple of text": pickle.dumps(("G", "D", "Gs"), protocol=2),
        "persistent": b"\x80\x02X\x01\x00\x00\x00aQ.",
        "code": pickle.dumps(Calls(codecs.encode, "x", "rot13"), protocol=2),
    }


@pytest.mark.parametrize("name", hostile_files())
def test_hostile_and_damaged_pickles_get_one_sentence(tmp_path, name):
    (tmp_path / "g.pkl").write_bytes(hostile_files()[name])
    with pytest.raises(UserError) as caught:
        read_networks(tmp_path / "g.pkl")
    assert "g.pkl" in str(caught.value) and "\n" not in str(caught.value)


def test_unknown_and_missing_variables_are_named(dnnlib, tmp_path):
    Gs = nvidia_network(dnnlib, *random_networks(16))
    variables = Gs.state["components"]["synthesis"].state["variables"]
    variables.append(("8x8/Conv2/weight", np.zeros(3, np.float32)))
    with pytest.raises(UserError, match="8x8/Conv2/weight"):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))
    variables[:] = [pair for pair in variables if "Conv2" not in pair[0]]
    variables[:] = [pair for pair in variables if pair[0] != "8x8/Conv1/bias"]
    with pytest.raises(UserError, match=r"blocks\.8x8\.conv1\.bias is missing"):
        read_networks(write_pickle(tmp_path / "g.pkl", (None, None, Gs)))


def test_the_size_of_the_ffhq_pickle_is_what_nvidia_prints(dnnlib):
    """26,219,627 parameters, with the ToRGB layers of smaller pictures, which are not used."""
    with torch.device("meta"):
        synthesis, mapping = G_synthesis(), G_mapping()
    widths = [block.epi2.noise.weight.numel() for block in synthesis.blocks.values()]
    unused = sum(3 * width + 3 for width in widths[:-1])
    kept = sum(p.numel() for network in (synthesis, mapping) for p in network.parameters())
    assert kept + unused == 26_219_627


# ------------------------------------------------------------ genforce


def genforce_state(synthesis: G_synthesis, mapping: G_mapping) -> dict[str, torch.Tensor]:
    state = {f"mapping.{key}": value for key, value in mapping.state_dict().items()}
    state["truncation.w_avg"] = torch.zeros(synthesis.dlatent_size)
    state["synthesis.lod"] = torch.zeros(())
    for b, block in enumerate(synthesis.blocks.values()):
        convolutions = (None, block.conv) if b == 0 else (block.conv0_up, block.conv1)
        for i, (convolution, epilogue) in enumerate(
            zip(convolutions, (block.epi1, block.epi2), strict=True)
        ):
            name = f"synthesis.layer{2 * b + i}"
            if convolution is None:
                state[f"{name}.const"], state[f"{name}.bias"] = block.const, block.bias
            else:
                state[f"{name}.weight"] = convolution.weight
                state[f"{name}.bias"] = convolution.bias
            state[f"{name}.style.weight"] = epilogue.style_mod.lin.weight
            state[f"{name}.style.bias"] = epilogue.style_mod.lin.bias
            state[f"{name}.apply_noise.weight"] = epilogue.noise.weight
            size = synthesis.layer_sizes[2 * b + i]
            state[f"{name}.apply_noise.noise"] = torch.zeros(1, 1, size, size)
        width = block.epi2.noise.weight.numel()
        last = b == len(synthesis.blocks) - 1
        weight, bias = torch.zeros(3, width, 1, 1), torch.zeros(3)
        state[f"synthesis.output{b}.weight"] = synthesis.torgb.weight if last else weight
        state[f"synthesis.output{b}.bias"] = synthesis.torgb.bias if last else bias
    return {key: value.detach().clone() for key, value in state.items()}


@pytest.mark.parametrize("resolution", [16, 128])
def test_genforce_checkpoints_give_the_same_pictures(tmp_path, resolution):
    other, networks = random_networks(resolution, seed=1), random_networks(resolution, seed=2)
    content = {"generator": genforce_state(*other), "generator_smooth": genforce_state(*networks)}
    torch.save(content, tmp_path / "stylegan.pth")
    assert agree(tmp_path / "stylegan.pth", *networks).origin == "genforce"
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    agree(tmp_path / "old.pth", *networks)


def test_other_settings_of_genforce_are_refused_by_name(tmp_path):
    state = genforce_state(*random_networks(16))
    for content, words in (
        ({"generator_smooth": {**state, "synthesis.layer3.final.tanh": torch.ones(1)}}, "tanh"),
        ({"generator_smooth": state, "fused_scale": True}, "fused_scale = True"),
        (
            {"generator_smooth": {k: v for k, v in state.items() if not k.endswith(".const")}},
            "constant input",
        ),
    ):
        torch.save(content, tmp_path / "g.pth")
        with pytest.raises(UserError, match=words):
            read_networks(tmp_path / "g.pth")


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
    import zipfile

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


@pytest.mark.parametrize(
    ("resolution", "layers"), [(8, 4), (32, 8), (128, 12), (256, 14), (512, 16)]
)
def test_every_resolution_searches_with_the_smallest_and_largest_lr(
    dnnlib, tmp_path, resolution, layers
):
    synthesis, mapping = random_networks(resolution, fmap_base=1024)
    Gs = nvidia_network(dnnlib, synthesis, mapping)
    path = write_pickle(tmp_path / "g.pkl", (None, None, Gs))
    from generators import prior

    fit = prior.fit_prior(mapping, draws=3200, chunk=1600)
    cache = tmp_path / "cache"
    cache.mkdir()
    key = prior.tensors_sha256(mapping.state_dict())
    torch.save({"mean": fit[0], "std": fit[1]}, cache / f"gaussian_fit_{key}.pt")
    model = PULSE(path, device="cpu", cache_dir=cache)
    assert model.generator.num_layers == layers
    for side in (2, resolution // 2):
        search = model(torch.rand(1, 3, side, side), seed=0, steps=2)
        for HR, LR in search:
            assert HR.shape[-1] == resolution and LR.shape[-1] == side
        assert search.results[0].best_step >= 0


# ------------------------------------------------------------ convert and describe


@pytest.mark.parametrize("resolution", [16, 128])
def test_the_independent_formulation_agrees_with_the_network(resolution):
    synthesis, _ = random_networks(resolution)
    expected = picture(synthesis)
    found = synthesize(synthesis.state_dict(), *draw(synthesis))
    assert (found - expected).abs().max() / expected.abs().max() < 1e-4


def test_convert_and_describe_as_commands(dnnlib, tmp_path):
    synthesis, mapping = random_networks(32, d=16)
    Gs = nvidia_network(dnnlib, synthesis, mapping)
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
