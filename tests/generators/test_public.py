"""Generators by name, from a server on loopback in the place of NVIDIA's."""

import hashlib
import re

import loopback
import pytest
from conftest import GOLDEN, ROOT
from loopback import Server

from cli.errors import UserError
from generators import public
from generators.load import load_generator
from generators.prior import fit_prior

server = loopback.server
short_waits_and_no_proxies = loopback.short_waits_and_no_proxies
CONTENT = (GOLDEN / "sg2_tiny.pkl").read_bytes()
FILE = "stylegan2-ffhq-1024x1024.pkl"


@pytest.fixture
def nvidia(server: Server, monkeypatch):
    """That server; `ffhq2` is a file of 16 pixels here, all else is the same."""
    tiny = public.BY_NAME["ffhq2"]._replace(pixels=16, megabytes=len(CONTENT) / 1e6)
    monkeypatch.setitem(public.BY_NAME, "ffhq2", tiny)
    monkeypatch.setitem(public.SERVERS, "stylegan2", f"{server.url}/files/")
    monkeypatch.setattr(fit_prior, "__defaults__", (1600, 160, 0))
    return server


def serve(server: Server, *answers) -> None:
    """These answers in turn, the last one for ever."""
    left = list(answers)
    server.routes[f"/files/{FILE}"] = lambda h: (left.pop(0) if len(left) > 1 else left[0])(h)


def refusal(cache) -> str:
    """Why `ffhq2` cannot be had; nothing may be left in the cache under its name."""
    with pytest.raises(UserError) as caught:
        load_generator("ffhq2", cache, progress=False)
    assert not list(cache.glob("[!.]*"))
    return str(caught.value)


def test_a_name_is_fetched_once_with_its_licence_and_held_to_its_sha256(nvidia, tmp_path, capfd):
    serve(nvidia, lambda h: h.send_rest(CONTENT))
    generator = load_generator("ffhq2", tmp_path, progress=False)
    told = capfd.readouterr().err
    assert hashlib.sha256(CONTENT).hexdigest() in told
    assert "licence of ffhq2: NVIDIA Source Code License" in told and "not for commercial" in told
    assert generator.facts["licence"] == generator.licence == generator.about["licence"]
    assert (generator.resolution, generator.synthesis.family) == (16, "stylegan2")
    again = load_generator("ffhq2", tmp_path, progress=False)
    assert again.sha256 == generator.sha256 and len(nvidia.asked) == 1
    assert not capfd.readouterr().err
    (tmp_path / FILE).write_bytes((GOLDEN / "sg2_tiny_by_stylegan3.pkl").read_bytes())
    with pytest.raises(UserError, match="has changed since it was first loaded"):
        load_generator("ffhq2", tmp_path)


def test_a_download_that_broke_goes_on_where_it_stopped(nvidia, tmp_path):
    serve(
        nvidia,
        lambda h: h.send_rest(CONTENT, cut=100_000),
        lambda h: h.send_rest(CONTENT),
    )
    load_generator("ffhq2", tmp_path, progress=False)
    assert [wanted for _, wanted in nvidia.asked] == [None, "bytes=100000-"]
    assert (tmp_path / FILE).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda h: h.send(status=404), "HTTP 404"),
        (lambda h: h.send(b"<!DOCTYPE html><html>Sign in</html>"), "a web page, not the file"),
        (lambda h: h.send(CONTENT[:50_000]), "it is of 0.1 MB, where about 0.3"),
        (lambda h: h.send(CONTENT[:300_000]), "is a damaged pickle"),
        (lambda h: h.send(CONTENT + bytes(10**6)), "larger than 0.5 MB"),
        (lambda h: h.send((GOLDEN / "sg3t_tiny.pkl").read_bytes()), "it is a StyleGAN3"),
    ],
    ids=["missing", "page", "small", "cut", "large", "another"],
)
def test_what_is_not_the_file_is_refused_in_one_line(nvidia, tmp_path, answer, words):
    serve(nvidia, answer)
    first, reason = refusal(tmp_path).split("\n")
    assert words in reason and FILE in first


def test_any_address_is_a_generator(nvidia, tmp_path):
    serve(nvidia, lambda h: h.send_rest(CONTENT))
    url = f"{nvidia.url}/files/{FILE}"
    first = load_generator(url, tmp_path, progress=False)
    assert load_generator(url, tmp_path, progress=False).sha256 == first.sha256
    assert len(nvidia.asked) == 1 and list(tmp_path.glob(f"*{FILE}.sha256"))
    with pytest.raises(UserError, match="is http://example.org, which is not https"):
        load_generator("http://example.org/a.pkl", tmp_path)


def test_every_name_is_one_file_of_nvidia_and_stands_in_the_documentation():
    files = [each.remote.sources[0].url for each in public.PUBLIC]
    assert len(set(files)) == len(public.BY_NAME) == len(public.PUBLIC)
    assert len({each.file for each in public.PUBLIC}) == len(files)  # all in one cache
    table = (ROOT / "docs" / "generators.md").read_text()
    for each in public.PUBLIC:
        assert re.match(r"https://(api\.ngc|nvlabs-fi-cdn)\.nvidia\.com/", files.pop(0))
        row = next(line for line in table.splitlines() if f"| `{each.name}` |" in line)
        assert f"| {each.pixels} |" in row and f"`{each.file}`" in row
        if match := re.search(r"(\d+)x\1", each.file):
            assert int(match[1]) == each.pixels
