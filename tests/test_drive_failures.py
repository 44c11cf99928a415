"""What drive.py does where servers are bad or silent: one plain sentence per source, soon."""

import socket
import subprocess
import sys
import threading
import time

import loopback
import pytest
from loopback import (
    CONTENT,
    GIT_SHA1,
    ROOT,
    SHA256,
    Handler,
    closed_port_url,
    parts,
    reason,
    serve,
    weights,
)

import drive
from cli.errors import UserError
from drive import RemoteFile, Source, open_url

pytestmark = pytest.mark.timed  # half a second of silence ends a download
server, cache = loopback.server, loopback.cache
short_waits_and_no_proxies = loopback.short_waits_and_no_proxies


# ---- bad servers ----


@pytest.mark.parametrize("status", [503, 429])
def test_a_busy_server_is_asked_again(server, cache, status):
    def busy(h):
        h.send(b"<html>busy", status, Content_Type="text/html")

    url = serve(server, busy, busy, Handler.send_rest)
    assert open_url(weights(url), cache).read_bytes() == CONTENT
    assert len(server.asked) == 3
    always = serve(server, busy)
    file = RemoteFile("v.pt", (Source(always),))
    with pytest.raises(UserError, match=f"HTTP {status}"):
        open_url(file, cache)
    assert len(server.asked) == 3 + drive.ATTEMPTS


@pytest.mark.parametrize("status", [404, 403])
def test_a_missing_file_is_not_asked_for_again(server, cache, status):
    assert reason(weights(serve(server, lambda h: h.send(b"", status))), cache) == f"HTTP {status}."
    assert len(server.asked) == 1


def test_a_connection_that_breaks_is_resumed_and_not_started_over(server, cache):
    url = serve(server, lambda h: h.send_rest(cut=200_000), Handler.send_rest)
    assert open_url(weights(url, sha256=SHA256), cache).read_bytes() == CONTENT
    assert server.asked == [("/w.pt", None), ("/w.pt", "bytes=200000-")]


def test_a_body_without_announced_length_is_held_against_the_known_size(server, cache):
    def cut_short(h):
        h.send_response(200)
        h.end_headers()
        h.wfile.write(CONTENT[:200_000])

    file = weights(serve(server, cut_short, Handler.send_rest), size=len(CONTENT), sha256=SHA256)
    assert open_url(file, cache).read_bytes() == CONTENT
    assert server.asked[1] == ("/w.pt", "bytes=200000-")


@pytest.mark.parametrize("length", ["²", "+512000", "512000.0", ""])
def test_a_length_that_is_no_number_is_as_none(server, cache, length):
    file = weights(serve(server, lambda h: h.send(CONTENT, length=length)))
    assert open_url(file, cache).read_bytes() == CONTENT


def test_a_length_that_no_number_holds_is_larger_than_any_file(server, cache):
    def endless(h):
        h.send(CONTENT, length="9" * 5000)  # Python reads no number of as many digits

    assert "larger than 1073.7 MB" in reason(weights(serve(server, endless)), cache)


def test_a_server_without_ranges_starts_the_file_over(server, cache):
    url = serve(
        server,
        lambda h: h.send(CONTENT[:200_000], length=len(CONTENT)),
        lambda h: h.send(CONTENT),
    )
    assert open_url(weights(url, sha256=SHA256), cache).read_bytes() == CONTENT
    assert server.asked[1] == ("/w.pt", "bytes=200000-")


def test_a_file_that_changed_on_the_server_is_not_spliced(server, cache):
    new = CONTENT[::-1]
    url = serve(
        server,
        lambda h: h.send_rest(cut=200_000, etag='"1"'),
        lambda h: h.send_rest(new, etag='"2"'),
    )
    assert open_url(weights(url), cache).read_bytes() == new
    assert len(server.asked) == 2


def test_another_range_than_asked_for_is_not_spliced(server, cache):
    whole = f"bytes 0-{len(CONTENT) - 1}/{len(CONTENT)}"
    url = serve(
        server,
        lambda h: h.send_rest(cut=200_000),
        lambda h: h.send(CONTENT, status=206, Content_Range=whole),
        Handler.send_rest,
    )
    assert open_url(weights(url), cache).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=200000-", None]


@pytest.mark.parametrize("etag", [None, 'W/"1"'])
def test_without_etag_date_or_checksum_nothing_is_resumed(server, cache, etag):
    url = serve(
        server,
        lambda h: h.send_rest(cut=200_000, etag=etag),
        lambda h: h.send_rest(CONTENT[::-1], etag=etag),
    )
    assert open_url(weights(url), cache).read_bytes() == CONTENT[::-1]
    assert server.asked[1] == ("/w.pt", None)


def test_a_part_that_was_spoilt_is_found_out_and_fetched_afresh(server, cache):
    url = serve(server, lambda h: h.send_rest(cut=200_000), lambda h: h.send(status=404))
    with pytest.raises(UserError, match="404"):
        open_url(weights(url, sha256=SHA256), cache)
    (part,) = cache.glob(".*.part")
    part.write_bytes(bytes(200_000))
    serve(server, Handler.send_rest)
    assert open_url(weights(url, sha256=SHA256), cache).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked[2:]] == ["bytes=200000-", None]


@pytest.mark.parametrize("length", [len(CONTENT), 2 * len(CONTENT)])
def test_a_part_too_long_or_just_whole_does_not_block_the_next_call(server, cache, length):
    url = serve(server, lambda h: h.send_rest(cut=200_000), lambda h: h.send(status=404))
    with pytest.raises(UserError):
        open_url(weights(url), cache)
    (part,) = cache.glob(".*.part")
    part.write_bytes((CONTENT * 2)[:length])
    serve(server, Handler.send_rest)
    assert open_url(weights(url), cache).read_bytes() == CONTENT
    assert len(server.asked) == (3 if length == len(CONTENT) else 4)


def test_a_length_that_the_server_does_not_keep_is_named(server, cache):
    url = serve(server, lambda h: h.send(CONTENT[:40], length=100))
    assert reason(weights(url), cache) == "the connection broke after 40 bytes of 100 bytes."
    assert len(server.asked) == drive.ATTEMPTS


def test_another_length_or_another_content_than_known_is_named(server, cache):
    url = serve(server, lambda h: h.send(CONTENT[:40]))
    assert "serves 40 bytes instead of 512000" in reason(weights(url, size=len(CONTENT)), cache)
    assert reason(weights(url, sha256=SHA256), cache) == "wrong SHA-256."
    assert reason(weights(url, git_blob_sha1=GIT_SHA1), cache) == "wrong git blob SHA-1."
    assert len(server.asked) == 3 and parts(cache) == []


def test_an_empty_or_encoded_body_is_no_file(server, cache):
    assert reason(weights(serve(server, Handler.send)), cache) == "sent an empty file."
    url = serve(server, lambda h: h.send(b"x", Content_Encoding="gzip"))
    assert "encoded" in reason(weights(url), cache)


def test_an_endless_body_is_cut_off_at_max_bytes(server, cache):
    def endless(h):
        h.send_response(200)
        h.end_headers()
        for _ in range(1000):  # not quite endless: a failing test must not fill the disk
            h.wfile.write(bytes(100_000))
        sent_all.set()

    sent_all = threading.Event()
    file = weights(serve(server, endless), max_bytes=10**6)
    assert reason(file, cache) == "larger than 1.0 MB." and not sent_all.is_set()
    file = weights(serve(server, lambda h: h.send(b"x", length=10**7)), max_bytes=10**6)
    assert reason(file, cache) == "larger than 1.0 MB."
    assert parts(cache) == [] and len(server.asked) == 2


def test_the_callers_check_refuses_a_file_and_the_next_source_is_taken(server, cache):
    server.routes["/bad"] = lambda h: h.send(b"junk")
    seen = []

    def check(path):
        seen.append(path)
        assert not (cache / "w.pt").exists()
        if path.read_bytes() != CONTENT:
            raise ValueError("it lacks G_mapping.")

    assert reason(weights(server.url + "/bad"), cache, check=check) == "it lacks G_mapping."
    file = weights(server.url + "/bad", serve(server, Handler.send_rest))
    assert open_url(file, cache, check=check).read_bytes() == CONTENT
    assert len(seen) == 3 and parts(cache) == []


# ---- time ----


def test_silent_servers_cost_no_more_than_the_time_for_an_answer(server, cache, monkeypatch):
    monkeypatch.setattr(drive, "READ_TIMEOUT", 20)
    server.routes["/a"] = server.routes["/b"] = lambda h: h.server.over.wait(20)
    file = weights(server.url + "/a", server.url + "/b")
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        open_url(file, cache, answer_within=0.8)
    assert time.monotonic() - start < 5
    assert str(caught.value).count("timed out") == 2 and len(server.asked) == 2
    file = weights(server.url + "/a", serve(server, Handler.send_rest))
    assert open_url(file, cache, answer_within=2).read_bytes() == CONTENT


def test_the_time_for_an_answer_does_not_end_a_download_under_way(server, cache, monkeypatch):
    monkeypatch.setattr(drive, "READ_TIMEOUT", 20)

    def slow(h):
        h.send_rest(cut=200_000)
        h.wfile.flush()
        time.sleep(1)
        h.wfile.write(CONTENT[200_000:])

    file = weights(serve(server, slow))
    assert open_url(file, cache, answer_within=0.5).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_a_look_up_of_the_host_that_hangs_is_given_up(cache, monkeypatch):
    # No loopback server can make the system's look-up hang, so this one piece is stood in for.
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args: time.sleep(8))
    start = time.monotonic()
    assert reason(weights("https://weights.invalid/w.pt"), cache, answer_within=0.5) == "timed out."
    assert time.monotonic() - start < 5


def test_a_server_that_falls_silent_midway_is_given_up_by_name(server, cache):
    def stall(h):
        h.send_rest(cut=200_000)
        h.wfile.flush()
        h.server.over.wait(20)

    url = serve(server, stall, Handler.send_rest)
    assert open_url(weights(url), cache).read_bytes() == CONTENT
    url = serve(server, lambda h: (h.send(b"x" * 40, length=100), h.server.over.wait(20)))
    (cache / "w.pt").unlink()
    assert reason(weights(url), cache) == "timed out after 40 bytes of 100 bytes."


def test_a_body_that_drips_ends_with_the_total_time(server, cache):
    def drip(h):
        h.send(b"", length=10**6)
        while not h.server.over.wait(0.05):
            h.wfile.write(b"x")

    start = time.monotonic()
    assert "timed out after" in reason(weights(serve(server, drip)), cache, total_time=1.0)
    assert time.monotonic() - start < 6


def test_without_network_one_message_names_every_source_soon(cache):
    urls = [closed_port_url(), "https://weights.invalid/w.pt", "drive:SOME-ID"]
    drive_url = closed_port_url()
    code = f"""
import drive, sys
from cli.errors import UserError
drive.DRIVE = {drive_url!r}
file = drive.RemoteFile("w.pt", tuple(drive.Source(url) for url in {urls!r}))
try:
    drive.open_url(file, {str(cache)!r}, answer_within=6)
except UserError as error:
    print(error)
"""
    start = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert time.monotonic() - start < 20
    lines = run.stdout.splitlines()
    assert run.returncode == 0 and len(lines) == 4 and str(cache / "w.pt") in lines[0]
    for url, line in zip(urls, lines[1:], strict=True):
        assert line.startswith(f"  {url}: ")
    assert lines[1].endswith("connection refused.") and lines[3].endswith("connection refused.")
    assert "no such host" in lines[2] or "timed out" in lines[2]
    assert run.stderr == "" and list(cache.glob("[!.]*")) == []
