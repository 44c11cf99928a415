"""The FFHQ generator: where it is looked for, fetched from, and how it is checked."""

import hashlib
import http.server
import os
import threading
import time

import pytest
import torch
from conftest import command, random_networks
from PIL import Image
from weight_files import lernapparat, picture

from cli.errors import UserError
from drive import RemoteFile, Source
from generators import ffhq
from generators.load import load_generator
from generators.prior import fit_prior
from stylegan import G_mapping, G_synthesis


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


def test_a_wrong_file_in_the_cache_does_not_keep_the_right_one_out(ffhq_sized, server, tmp_path):
    path = tmp_path / ffhq.ONE_FILE.name
    path.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 9\n")
    with pytest.raises(UserError, match="is a Git LFS pointer"):
        load_generator("ffhq", tmp_path)
    saved(lernapparat(*random_networks(32)), path)
    with pytest.raises(UserError, match="is not the FFHQ generator"):
        load_generator("ffhq", tmp_path)
    saved(lernapparat(*ffhq_sized), path)  # as the sentence says
    generator = load_generator("ffhq", tmp_path)
    assert torch.equal(picture(generator.synthesis), picture(ffhq_sized[0]))


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
    (tmp_path / "input").mkdir()
    Image.new("RGB", (16, 16)).save(tmp_path / "input" / "face.png")
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
