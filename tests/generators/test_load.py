"""Weight files of every format, sound and damaged, and where the FFHQ generator is looked for."""

import hashlib
import http.server
import pickle
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from conftest import command, one_file, random_networks

from cli.errors import UserError
from drive import RemoteFile, Source
from generators import ffhq
from generators.formats import read_networks
from generators.load import load_generator
from generators.prior import cached_prior, fit_prior, tensors_sha256
from PULSE import PULSE
from stylegan import G_mapping, G_synthesis


def picture(synthesis: G_synthesis) -> torch.Tensor:
    random = torch.Generator().manual_seed(3)
    w = torch.randn(2, synthesis.num_layers, synthesis.dlatent_size, generator=random)
    noise = [torch.randn(2, 1, size, size, generator=random) for size in synthesis.layer_sizes]
    with torch.no_grad():
        return synthesis(w, noise)


def lernapparat(synthesis: G_synthesis, mapping: G_mapping) -> dict:
    """The layout of that file: prefixes, `top_epi`, no blur kernels."""
    content = {f"g_mapping.{key}": value for key, value in mapping.state_dict().items()}
    for key, value in synthesis.state_dict().items():
        if not key.endswith("intermediate.kernel"):
            for epilogue in ("epi1", "epi2"):
                key = key.replace(f".{epilogue}.noise.", f".{epilogue}.top_epi.noise.")
            content[f"g_synthesis.{key}"] = value
    return content


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
        assert f"{name}.pt" in str(caught.value)
        assert "\n" not in str(caught.value)
    data = paths["one file"].read_bytes()
    raw = {
        "truncated.pt": data[: len(data) // 2],
        "empty.pt": b"",
        "page.pt": b"<!DOCTYPE html><html>quota exceeded</html>",
        "gadget.pt": pickle.dumps(Gadget()),
    }
    for name, content in raw.items():
        (tmp_path / name).write_bytes(content)
        words = "asks for posix.system" if name == "gadget.pt" else "cannot be read as PyTorch"
        with pytest.raises(UserError, match=words) as caught:
            read_networks(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "executed").exists()
    for missing in ("nowhere.pt", "folder"):
        with pytest.raises(UserError, match="does not exist"):
            read_networks(tmp_path / missing)


def test_a_generator_that_saves_code_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"format": "pulse-generator-1", "config": Gadget()}, tmp_path / "gadget.pt")
    with pytest.raises(UserError, match="cannot be read"):
        read_networks(tmp_path / "gadget.pt")
    assert not (tmp_path / "executed").exists()


def test_without_a_mapping_and_without_a_prior_it_says_what_is_missing(files, tmp_path):
    synthesis, *_ = files
    alone = tmp_path / "alone"
    alone.mkdir()
    torch.save(synthesis.state_dict(), alone / "synthesis.pt")
    with pytest.raises(UserError, match="mapping.pt beside it"):
        load_generator(alone / "synthesis.pt", tmp_path / "cache")


# ------------------------------------------------------------ the prior


def test_the_prior_is_the_fit_of_the_unfolded_mapping():
    mapping = G_mapping(16, num_layers=2)
    z = torch.randn(3200, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        x = F.leaky_relu(mapping(z), 5)
    mean, std = fit_prior(mapping, draws=3200, chunk=160)
    torch.testing.assert_close(mean, x.mean(0), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(std, x.std(0, unbiased=True), rtol=1e-5, atol=1e-6)


def test_the_prior_is_kept_under_the_weights_and_for_no_other_generator(tmp_path, monkeypatch):
    monkeypatch.setattr(fit_prior, "__defaults__", (2000, 100, 0))
    cache, cwd = tmp_path / "cache", tmp_path / "work"
    cwd.mkdir()
    monkeypatch.chdir(cwd)
    first, second = G_mapping(16, 2), G_mapping(16, 2)
    torch.save({"mean": torch.zeros(16), "std": torch.ones(16)}, cwd / "gaussian_fit.pt")
    mean, std = cached_prior(first, cache)
    assert mean.any() and not torch.equal(std, torch.ones(16))  # the old release's file is not read
    (kept,) = cache.iterdir()
    assert kept.name == f"gaussian_fit_{tensors_sha256(first.state_dict())}.pt"
    other, _ = cached_prior(second, cache)
    assert not torch.equal(other, mean)
    torch.save({"mean": mean + 1, "std": std}, kept)  # seen to be read back, not made anew
    assert torch.equal(cached_prior(first, cache)[0], mean + 1)
    kept.write_bytes(b"damaged")
    assert torch.equal(cached_prior(first, cache)[0], mean)
    assert sorted(path.name for path in cwd.iterdir()) == ["gaussian_fit.pt"]


def test_the_demo_generator_is_here_and_says_what_it_is(tmp_path):
    generator = load_generator("demo", tmp_path)
    assert (generator.resolution, generator.num_layers, generator.dlatent_size) == (64, 10, 512)
    assert "non-commercial" in generator.about["licence"]
    assert not any(p.requires_grad for p in generator.synthesis.parameters())
    assert not any(tmp_path.iterdir())  # its prior lies in it


# ------------------------------------------------------------ FFHQ, from cache or network


@pytest.fixture
def ffhq_sized(monkeypatch):
    """`ffhq` stands for small networks here, so that its files are small; the code is the same."""
    monkeypatch.setattr(ffhq, "G_synthesis", lambda: random_networks(16)[0])
    monkeypatch.setattr(ffhq, "G_mapping", lambda: random_networks(16)[1])
    monkeypatch.setattr(fit_prior, "__defaults__", (1600, 160, 0))
    return random_networks(16, seed=9)


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server on loopback in the place of every public address; what it serves, and what it was
    asked.
    """
    served, asked = {}, []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            name = next((name for name in served if name in self.path), None)
            body = served.get(name, b"")
            self.send_response(200 if name else 404)
            kind = "text/html" if body.startswith(b"<!DOCTYPE") else "application/octet-stream"
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http_server:
        threading.Thread(target=http_server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{http_server.server_port}/"

        def local(file: RemoteFile, name: str, **changes) -> RemoteFile:
            return RemoteFile(file.name, (Source(address + name),), **changes)

        monkeypatch.setattr(ffhq, "ONE_FILE", local(ffhq.ONE_FILE, "one"))
        monkeypatch.setattr(ffhq, "PICKLE", local(ffhq.PICKLE, "pickle"))
        for part in ("synthesis", "mapping"):
            file = getattr(ffhq, part.upper())
            monkeypatch.setattr(
                ffhq,
                part.upper(),
                local(file, part, old_prefix=file.old_prefix),
            )
        yield served, asked
        http_server.shutdown()


def saved(content, path) -> bytes:
    torch.save(content, path)
    return path.read_bytes()


def test_ffhq_is_fetched_once_and_its_sha256_kept(ffhq_sized, server, tmp_path, capfd):
    served, asked = server
    served["one"] = saved(lernapparat(*ffhq_sized), tmp_path / "x.pt")
    load_generator("ffhq", tmp_path / "quiet", progress=False)
    assert "downloading" not in capfd.readouterr().err and len(asked) == 1
    asked.clear()
    cache = tmp_path / "cache"
    generator = load_generator("ffhq", cache)
    assert torch.equal(picture(generator.synthesis), picture(ffhq_sized[0]))
    digest = hashlib.sha256(served["one"]).hexdigest()
    told = capfd.readouterr().err
    assert digest in told and "downloading" in told
    path = cache / ffhq.ONE_FILE.name
    assert path.with_name(path.name + ".sha256").read_text().startswith(digest)
    load_generator("ffhq", cache)
    assert len(asked) == 1
    path.write_bytes(saved(lernapparat(*random_networks(16, seed=1)), tmp_path / "y.pt"))
    with pytest.raises(UserError, match="has changed since"):
        load_generator("ffhq", cache)


def test_ffhq_comes_from_the_second_source_where_the_first_is_dead(ffhq_sized, server, tmp_path):
    served, asked = server
    for part, network in zip(("synthesis", "mapping"), ffhq_sized, strict=True):
        served[part] = saved(network.state_dict(), tmp_path / "x.pt")
    generator = load_generator("ffhq", tmp_path / "cache")
    assert torch.equal(picture(generator.synthesis), picture(ffhq_sized[0]))
    assert asked == ["/one", "/synthesis", "/mapping"]
    assert (tmp_path / "cache" / "ffhq_source.txt").read_text() == "synthesis.pt\n"


@pytest.mark.parametrize("prefix", ["", "old"])
def test_ffhq_weights_in_the_cache_are_found_also_those_of_the_old_release(
    ffhq_sized, server, tmp_path, prefix
):
    for part, network in zip(("synthesis", "mapping"), ffhq_sized, strict=True):
        file = getattr(ffhq, part.upper())
        torch.save(network.state_dict(), tmp_path / ((prefix and file.old_prefix) + file.name))
    generator = load_generator("ffhq", tmp_path)
    assert torch.equal(picture(generator.synthesis), picture(ffhq_sized[0]))
    assert not server[1]


def test_wrong_weights_and_web_pages_never_reach_the_cache(ffhq_sized, server, tmp_path):
    served, _ = server
    wrong = lernapparat(*random_networks(32))
    served["one"] = saved(wrong, tmp_path / "x.pt")
    served["synthesis"] = b"<!DOCTYPE html><html>Google Drive - Quota exceeded</html>"
    cache = tmp_path / "cache"
    with pytest.raises(UserError) as caught:
        load_generator("ffhq", cache)
    message = str(caught.value)
    assert "not the FFHQ generator" in message
    assert "page" in message or "quota" in message.lower()
    assert "-generator demo" in message
    assert not [path for path in cache.iterdir() if not path.name.startswith(".")]


def test_the_full_size_ffhq_file_loads_strictly(tmp_path, monkeypatch):
    """The real layout: 1024 pixels, 18 layers, 26 million numbers in lernapparat's file."""
    monkeypatch.setattr(fit_prior, "__defaults__", (160, 160, 0))
    with torch.no_grad():
        content = lernapparat(G_synthesis(), G_mapping())
    torch.save(content, tmp_path / ffhq.ONE_FILE.name)
    generator = load_generator("ffhq", tmp_path)
    assert (generator.resolution, generator.num_layers) == (1024, 18)


def test_no_weights_and_no_network_gives_one_message_within_30_seconds(tmp_path):
    from PIL import Image

    (tmp_path / "input").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "input" / "face.png")
    import os

    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9"}
    started = time.monotonic()
    done = command("run.py", cwd=tmp_path, env={**os.environ, **nowhere})
    assert time.monotonic() - started < 30
    assert done.returncode == 2
    for words in (
        ffhq.ONE_FILE.name,
        "synthesis.pt",
        "mapping.pt",
        ffhq.ONE_FILE.sources[0].url,
        "1TCViX1YpQyRsklTVYEJwdbmK91vklCo8",
        "cache",
        ffhq.SYNTHESIS.git_blob_sha1,
        "-generator demo",
    ):
        assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


def test_an_unknown_generator_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="use the names ffhq or demo"):
        PULSE("ffqh", device="cpu", cache_dir=tmp_path)
