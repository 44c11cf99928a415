"""What drive.py promises, against a real HTTP server on loopback: whole and verified files only,
under the right names, and one plain sentence per source where that cannot be had."""

import bz2
import hashlib
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import drive
import webanswers
from cli.errors import UserError
from drive import RemoteFile, Source, find_cached, open_url

ROOT = Path(drive.__file__).parent
CONTENT = bytes(range(256)) * 2000  # 512,000 bytes
SHA256 = hashlib.sha256(CONTENT).hexdigest()
GIT_SHA1 = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers each path by the function in `routes`; `asked` lists (path, Range header)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self):
        self.routes, self.asked, self.over = {}, [], threading.Event()
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request, client_address):
        pass  # clients that are killed or give up are part of these tests


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append((self.path, self.headers.get("Range")))
        self.server.routes[self.path.split("?")[0]](self)

    def log_message(self, *args):
        pass

    def send(self, body=b"", status=200, length=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def send_rest(self, content=CONTENT, etag='"1"', cut=None, **headers):
        """Serves a file as good servers do: Range, If-Range and ETag; `cut` breaks off early."""
        start = 0
        wanted = self.headers.get("Range")
        if wanted and self.headers.get("If-Range", etag) == etag:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            self.send(status=416, Content_Range=f"bytes */{len(content)}")
            return
        if start:
            headers["Content_Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        status = 206 if start else 200
        if etag:
            headers["ETag"] = etag
        length = len(content) - start
        self.send(content[start:cut], status=status, length=length, **headers)


@pytest.fixture
def server():
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}).start()
        yield server
        server.over.set()
        server.shutdown()


@pytest.fixture
def cache(tmp_path):
    """A cache; afterwards it must hold nothing but whole files under names that users see."""
    cache = tmp_path / "cache"
    yield cache
    for path in cache.glob("[!.]*"):
        assert path.read_bytes() in (CONTENT, CONTENT[::-1]), f"{path} is not a whole file"


@pytest.fixture(autouse=True)
def short_waits_and_no_proxies(monkeypatch):
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(drive, "BACKOFF", 0.01)
    monkeypatch.setattr(webanswers, "READ_TIMEOUT", 0.5)


def weights(*urls, **known):
    return RemoteFile("w.pt", tuple(Source(url) for url in urls), **known)


def serve(server, *answers):
    """Gives /w.pt these answers in turn, the last one for ever; returns its URL."""
    left = list(answers)
    server.routes["/w.pt"] = lambda h: (left.pop(0) if len(left) > 1 else left[0])(h)
    return server.url + "/w.pt"


def parts(cache):
    return [path for path in cache.iterdir() if path.suffix != ".lock" and path.name[0] == "."]


def reason(file, cache, **settings):
    """The one line that a failed download gives for its only source."""
    with pytest.raises(UserError) as caught:
        open_url(file, cache, progress=False, **settings)
    advice, line = str(caught.value).split("\n")
    assert line.startswith(f"  {file.sources[0].url}: "), line
    assert "w.pt could not be downloaded" in advice and "Error" not in str(caught.value)
    return line.split(": ", 1)[1]


def closed_port_url():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}/w.pt"


# ---- the file comes in ----


def test_a_plain_url_gives_the_file_under_a_stable_name_and_is_asked_only_once(server, cache):
    url = serve(server, Handler.send_rest)
    path = open_url(url + "?x=1", cache)
    assert path.parent == cache and path.name.endswith("_w.pt") and path.read_bytes() == CONTENT
    assert open_url(url + "?x=1", cache) == path and len(server.asked) == 1
    assert open_url(url + "?x=2", cache) != path
    assert parts(cache) == []


def test_size_and_both_checksums_are_accepted_where_they_fit(server, cache):
    known = {"size": len(CONTENT), "sha256": SHA256.upper(), "git_blob_sha1": GIT_SHA1}
    file = weights(serve(server, Handler.send_rest), **known)
    assert open_url(file, cache) == cache / "w.pt"


def test_a_file_name_sent_by_the_server_is_ignored(server, cache):
    header = {"Content_Disposition": 'attachment; filename="../../x"'}
    url = serve(server, lambda h: h.send_rest(**header))
    assert open_url(weights(url), cache) == cache / "w.pt"
    assert not list(cache.parent.parent.glob("**/x"))
    for name in ("../x", "a/b", "a\\b", "", ".."):
        with pytest.raises(ValueError, match="file name"):
            RemoteFile(name, ())
    assert drive._file_at("https://h/a/..%2f..%2fx?y/z").name.endswith("_x")


def test_a_bzip2_source_is_unpacked_and_both_its_forms_are_verified(server, cache):
    packed = bz2.compress(CONTENT)
    url = serve(server, lambda h: h.send_rest(packed))
    good = Source(url, bz2=True, size=len(packed), sha256=hashlib.sha256(packed).hexdigest())
    assert "SHA-256" in reason(RemoteFile("w.pt", (good,), sha256="0" * 64), cache)
    wrong = Source(url, bz2=True, sha256="0" * 64)
    assert "SHA-256" in reason(RemoteFile("w.pt", (wrong,), sha256=SHA256), cache)
    assert open_url(RemoteFile("w.pt", (good,), sha256=SHA256), cache).read_bytes() == CONTENT
    assert parts(cache) == []


@pytest.mark.parametrize("packed", [bz2.compress(CONTENT)[:-20], b"no bzip2 at all"])
def test_damaged_bzip2_data_are_named(server, cache, packed):
    source = Source(serve(server, lambda h: h.send(packed)), bz2=True)
    assert reason(RemoteFile("w.pt", (source,)), cache) == "its bzip2 data are damaged."
    assert parts(cache) == []


def test_a_zip_bomb_is_refused_at_max_bytes(server, cache):
    source = Source(serve(server, lambda h: h.send(bz2.compress(bytes(10**7)))), bz2=True)
    file = RemoteFile("w.pt", (source,), max_bytes=10**6)
    assert "larger than 1.0 MB when decompressed" in reason(file, cache)
    assert parts(cache) == []


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
    monkeypatch.setattr(webanswers, "READ_TIMEOUT", 20)
    server.routes["/a"] = server.routes["/b"] = lambda h: h.server.over.wait(20)
    file = weights(server.url + "/a", server.url + "/b")
    start = time.monotonic()
    with pytest.raises(UserError) as caught:
        open_url(file, cache, answer_within=0.8)
    assert time.monotonic() - start < 5
    assert str(caught.value).count("timed out") == 2 and len(server.asked) == 2
    file = weights(server.url + "/a", serve(server, Handler.send_rest))
    assert open_url(file, cache, answer_within=2).read_bytes() == CONTENT


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


# ---- addresses ----


def test_redirects_are_followed_also_relative_ones_but_not_for_ever(server, cache):
    serve(server, Handler.send_rest)
    server.routes["/a"] = lambda h: h.send(status=302, Location="b?x=1")
    server.routes["/b"] = lambda h: h.send(status=307, Location="/w.pt")
    server.routes["/loop"] = lambda h: h.send(status=302, Location="/loop")
    assert open_url(weights(server.url + "/a"), cache).read_bytes() == CONTENT
    (cache / "w.pt").unlink()
    assert "redirected more than" in reason(weights(server.url + "/loop"), cache)
    assert len(server.asked) == 3 + webanswers.MAX_HOPS


@pytest.mark.parametrize(
    "target, named",
    [
        ("http://example.invalid/x", "redirected to http://example.invalid, which is not https."),
        ("http://example.invalid\\@127.0.0.1/x", "which is not https."),
        ("file:///etc/passwd", "redirected to file://None, which is not https."),
        ("http://[", "not an address that can be asked."),
    ],
)
def test_a_redirect_away_from_https_is_refused(server, cache, target, named):
    url = serve(server, lambda h: h.send(status=302, Location=target))
    assert reason(weights(url), cache).endswith(named)


@pytest.mark.parametrize(
    "url", ["http://example.invalid/x", "http://127.0.0.1.example.invalid/x", "ftp://127.0.0.1/x"]
)
def test_plain_http_is_for_loopback_only(cache, url):
    assert reason(weights(url), cache).endswith("which is not https.")


def test_a_public_server_cannot_redirect_to_this_machine():
    with pytest.raises(webanswers.Failure, match="not https"):
        webanswers._permitted("http://127.0.0.1:1/x", "https://example.invalid/")
    assert webanswers._permitted("http://localhost:1/x", None) == "http://localhost:1/x"
    assert webanswers._permitted("http://[::1]:1/x", None) == "http://[::1]:1/x"


def test_no_passwords_are_sent(server, cache, monkeypatch, tmp_path):
    headers = []
    url = serve(server, lambda h: (headers.append(dict(h.headers)), h.send_rest()))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    open_url(weights(url.replace("//", "//me:secret@")), cache)
    assert "Authorization" not in headers[0] and headers[0]["Accept-Encoding"] == "identity"


def test_a_proxy_is_not_asked_for_loopback(server, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", closed_port_url())
    open_url(weights(serve(server, Handler.send_rest)), cache)


# ---- Google Drive ----


def page(title, body):
    html = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{body}</body></html>"
    return html.encode()


CONFIRM = page(
    "Google Drive - Virus scan warning",
    '<form id="search" action="/no"><input type="hidden" name="no" value="no"></form>'
    '<form id="download-form" action="%s" method="get"><input type="submit" value="Download"/>'
    '<input type="hidden" name="id" value="AN-ID"><input type="hidden" name="confirm" value="t">'
    '<input type="hidden" name="uuid" value="a&amp;b"></form>'
    '<input type="hidden" name="after" value="no">',
)
QUOTA = page("Google Drive - Quota exceeded", "Sorry, you can't view or download this file.")
TOO_MANY = page("Error", "Too many users have viewed or downloaded this file recently.")


@pytest.fixture
def on_drive(server, monkeypatch):
    """Serves pages for Drive's address; the file is the source "drive:AN-ID"."""

    def start(body, **headers):
        headers.setdefault("Content_Type", "text/html; charset=utf-8")
        server.routes["/download"] = lambda h: h.send(body, **headers)
        monkeypatch.setattr(drive, "DRIVE", server.url + "/download")
        return weights("drive:AN-ID")

    return start


def test_drives_confirmation_page_is_submitted(server, cache, on_drive):
    file = on_drive(CONFIRM.replace(b"%s", f"{server.url}/confirmed?old=1".encode()))
    server.routes["/confirmed"] = Handler.send_rest
    assert open_url(file, cache).read_bytes() == CONTENT
    confirmed = "/confirmed?id=AN-ID&confirm=t&uuid=a%26b"
    assert [path for path, _ in server.asked] == ["/download?id=AN-ID&export=download", confirmed]


def test_a_confirmation_page_is_submitted_once_and_only_over_https(server, cache, on_drive):
    file = on_drive(CONFIRM.replace(b"%s", b"/download"))
    assert "answered with a web page" in reason(file, cache)
    assert len(server.asked) == 2
    file = on_drive(CONFIRM.replace(b"%s", b"http://example.invalid/x"))
    assert "not https" in reason(file, cache)


@pytest.mark.parametrize("status", [200, 403, 429])
@pytest.mark.parametrize("body", [QUOTA, TOO_MANY])
def test_drives_quota_is_named_and_not_hammered(server, cache, on_drive, body, status):
    file = on_drive(body, status=status)
    assert "quota" in reason(file, cache) and len(server.asked) == 1
    assert parts(cache) == []


def test_a_sign_in_page_is_named(cache, on_drive):
    file = on_drive(page("Sign in", '<form><input type="password" name="p"></form>'))
    assert "sign in" in reason(file, cache)


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
@pytest.mark.parametrize("body", [page("Welcome", "to our hotel"), b"\n<HTML><![oops x]>"])
def test_any_other_web_page_is_not_taken_for_the_file(cache, on_drive, body, kind):
    file = on_drive(body, Content_Type=kind)
    assert reason(file, cache) == "answered with a web page, not the file."


# ---- the cache ----


def test_a_file_of_the_2020_release_is_found_under_its_old_name(cache):
    cache.mkdir()
    old = cache / "6b94_w.pt"
    old.write_bytes(CONTENT)
    file = weights(closed_port_url(), old_prefix="6b94_", git_blob_sha1=GIT_SHA1)
    assert find_cached(file, cache) == open_url(file, cache) == old
    assert find_cached(weights(), cache) is None
    assert find_cached(weights(), cache / "absent") is None


def test_a_damaged_cached_file_is_named_and_left_alone(tmp_path):
    (tmp_path / "w.pt").write_bytes(CONTENT[:-1])
    for known in ({"size": len(CONTENT)}, {"sha256": SHA256}, {"git_blob_sha1": GIT_SHA1}):
        with pytest.raises(UserError, match=r"w\.pt is damaged .*delete it"):
            open_url(weights(closed_port_url(), **known), tmp_path)
    assert (tmp_path / "w.pt").read_bytes() == CONTENT[:-1]


def test_a_cache_that_cannot_be_written_ends_the_call_in_one_sentence(server, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    file = weights(serve(server, Handler.send_rest), server.url + "/w.pt")
    with pytest.raises(UserError, match=r"cannot be kept in .*taken.* \(.*\); make room"):
        open_url(file, tmp_path / "taken" / "cache")
    assert server.asked == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_ends_the_call_in_one_sentence_and_asks_no_other_source(server, cache):
    url = serve(server, Handler.send_rest)
    code = f"""
import drive, resource
from cli.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    drive.open_url(drive.RemoteFile("w.pt", (drive.Source({url!r}),) * 2), {str(cache)!r})
except UserError as error:
    print(error)
"""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.startswith(f"w.pt cannot be kept in {cache} (File too large)"), run.stderr
    assert run.stdout.count("\n") == 1 and len(server.asked) == 1


def fetching_process(url, cache):
    code = f"import drive; print(drive.open_url({url!r}, {str(cache)!r}).name)"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )


def test_eight_processes_at_once_download_once(server, cache):
    def slow(h):
        time.sleep(1)
        h.send_rest()

    url = serve(server, slow)
    running = [fetching_process(url, cache) for _ in range(8)]
    results = [process.communicate(timeout=60) for process in running]
    assert len({out for out, _ in results}) == 1 and results[0][0].endswith("_w.pt\n"), results
    assert len(server.asked) == 1 and parts(cache) == []


def test_after_a_killed_download_the_next_call_goes_on_where_it_stopped(server, cache):
    def stall(h):
        h.send_rest(cut=400_000)
        h.wfile.flush()
        h.server.over.wait(20)

    url = serve(server, stall, Handler.send_rest)
    process = fetching_process(url, cache)
    try:
        end = time.monotonic() + 30
        while not any(part.stat().st_size > 300_000 for part in cache.glob(".*.part")):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert list(cache.glob("[!.]*")) == []
    assert open_url(url, cache).read_bytes() == CONTENT
    start = int(server.asked[1][1].removeprefix("bytes=").removesuffix("-"))
    assert len(server.asked) == 2 and 300_000 < start <= 400_000
    assert parts(cache) == []


def test_a_lock_that_is_held_ends_the_wait_with_the_total_time(server, cache):
    url = serve(server, lambda h: (h.server.over.wait(20), h.send_rest()))
    process = fetching_process(url, cache)
    try:
        end = time.monotonic() + 30
        while not server.asked:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(UserError, match="another process"):
            open_url(url, cache, total_time=0.3)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert len(server.asked) == 1


# ---- what the user sees ----


def test_progress_is_one_line_without_a_terminal_and_can_be_silenced(server, tmp_path, capfd):
    url = serve(server, Handler.send_rest)
    open_url(weights(url), tmp_path / "a")
    assert capfd.readouterr() == ("", "downloading w.pt (0.5 MB) from 127.0.0.1\n")
    open_url(weights(url), tmp_path / "b", progress=False)
    assert capfd.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_is_a_bar_on_a_terminal(server, tmp_path):
    import fcntl
    import pty
    import termios

    url = serve(server, Handler.send_rest)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    code = f"import drive; drive.open_url({url!r}, {str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, timeout=60, check=True)
    os.write(theirs, b"end")
    seen = b""
    while not seen.endswith(b"end"):
        seen += os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)
    assert b"512k/512k" in seen


def test_importing_drive_loads_neither_torch_nor_requests():
    code = "import drive, sys; sys.exit(bool({'torch', 'requests', 'tqdm'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)
