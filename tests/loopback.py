"""Tests of drive.py against a real HTTP server on loopback: the server, a cache, their files."""

import hashlib
import os
import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

import drive
from cli.errors import UserError
from drive import RemoteFile, Source, open_url

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
    monkeypatch.setattr(drive, "READ_TIMEOUT", 0.5)


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
