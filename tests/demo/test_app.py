"""demo/app.py as a command and as a server: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import io
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from conftest import ROOT, command
from open_page import Server, require_gradio, small_picture, until
from PIL import Image

from demo.web.reading import FACES

APP = "demo/app.py"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def refused(folder, port, *args) -> str:
    """What is said of an address."""
    done = command(APP, "-port", port, *args, cwd=folder)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_a_port_that_cannot_be_had_is_one_sentence(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for port in (taken.getsockname()[1], 99999, -1):
            said = refused(tmp_path, port)
            assert f" -host 127.0.0.1 -port {port} cannot be listened at (" in said
            assert said.endswith(": give another port\n")


@pytest.mark.parametrize("host", ["", "a..b", "192.0.2.1", "x" * 70])
def test_a_host_that_is_not_this_machine_is_one_sentence_about_the_host(host, tmp_path):
    said = refused(tmp_path, 0, "-host", host)
    assert f" -host {host} is no address of this machine (" in said
    assert said.endswith("): give another host, such as 127.0.0.1\n") and "port" not in said


def test_without_gradio_it_says_what_to_install(tmp_path):
    (tmp_path / "gradio.py").write_text("raise ImportError('no gradio here')")
    env = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = command(APP, cwd=tmp_path, env=env)
    assert done.returncode == 2
    assert "pip install -r requirements-app.txt" in done.stderr and done.stderr.count("\n") == 1


LOSES_A_SIGNAL = """
import contextlib, os, signal, sys
with contextlib.suppress(BaseException):
    os.kill(os.getpid(), signal.SIGTERM)
sys.path.remove(os.path.dirname(__file__))
del sys.modules["gradio"]
import gradio
"""


def test_a_signal_whose_exception_is_lost_before_it_serves_ends_it_all_the_same(tmp_path):
    require_gradio()
    for name in ("modules", "temporary"):
        (tmp_path / name).mkdir()
    (tmp_path / "modules" / "gradio.py").write_text(LOSES_A_SIGNAL)
    places = {"PYTHONPATH": str(tmp_path / "modules"), "TMPDIR": str(tmp_path / "temporary")}
    done = command(APP, "-port", 0, cwd=tmp_path, env={**os.environ, **places}, timeout=60)
    assert (done.returncode, done.stdout) == (143, ""), done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "temporary").glob("pulse_page*"))


def test_the_commands_neither_import_nor_need_gradio_or_jupyter(tmp_path):
    for name in ("gradio", "gradio_client", "fastapi", "uvicorn", "IPython", "ipykernel"):
        (tmp_path / f"{name}.py").write_text("raise RuntimeError('imported')")
    (tmp_path / "input").mkdir()
    Image.new("RGB", (8, 8), "tan").save(tmp_path / "input" / "face.png")
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    arguments = ("-generator", "demo", "-steps", 2, "-seed", 0, "-sheet", "-animation", "gif")
    done = command("run.py", *arguments, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    done = command("align_face.py", "-mode", "resize", "-output_size", 4, "-output_dir", "aligned",
                   cwd=tmp_path, env=env)  # fmt: skip
    assert done.returncode == 0, done.stderr
    makefile = (ROOT / "Makefile").read_text()
    demo = makefile[makefile.index("\ndemo:") : makefile.index("\napp:")]
    assert "photograph.py" in demo and "app-installed" not in demo
    needed = (ROOT / "requirements.txt").read_text() + (ROOT / "pulse.yml").read_text()
    assert "gradio" not in needed and "nbclient" not in needed and "ipykernel" not in needed


def test_help_answers_without_gradio_or_torch():
    code = f"import runpy, sys; sys.argv = ['app.py', '-h']; sys.path.insert(0, {str(ROOT)!r})\n"
    code += f"try: runpy.run_path({str(ROOT / APP)!r}, run_name='__main__')\n"
    code += "except SystemExit: sys.exit(bool({'gradio', 'torch'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "-host" in done.stdout
    assert "no password" in " ".join(done.stdout.split())


class Alone:
    """A server, and what talks to it without a browser."""

    def __init__(self, folder: Path, *args):
        self.server = Server(folder, *args)
        self.url = self.server.url

    def client(self):
        from gradio_client import Client

        return Client(self.url, verbose=False)

    def photograph(self, content: bytes, ending: str = "png") -> str:
        """Upload; returns what names it."""
        return requests.post(f"{self.url}photograph?ending={ending}", content).text

    def refuses(self, path: str, body: bytes = b"", **headers) -> bool:
        answer = requests.post(self.url + path, data=body, headers=headers)
        return answer.status_code in (400, 404)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    require_gradio()
    alone = Alone(tmp_path_factory.mktemp("alone"))
    yield alone
    alone.server.end()


def test_no_name_or_path_of_a_visitor_is_used(alone):
    for ending in ("png", "PNG", "..%2F..%2Fx", "a%00b", "toolong", "é", ""):
        before = set(alone.server.uploads())
        alone.photograph(b"x", ending)
        (new,) = set(alone.server.uploads()) - before
        assert new.name == ("photograph.png" if ending.lower() == "png" else "photograph")
    named = {"path": "/etc/passwd", "meta": {"_type": "gradio.FileData"}}
    call = {"data": [named, "find the faces", "demo"], "fn_index": 0, "session_hash": "x"}
    assert alone.refuses("gradio_api/queue/join", json.dumps(call).encode())
    hidden = json.dumps(call).replace("FileData", "File\\u0044ata").encode()
    assert alone.refuses("gradio_api/queue/join", hidden)
    assert not alone.refuses("gradio_api/queue/join", hidden.replace(b"File\\u0044ata", b"x"))


def test_gradios_ways_to_files_and_other_machines_are_closed(alone):
    for path in ("gradio_api/upload", "gradio_api/proxy=http://127.0.0.1:1/"):
        assert alone.refuses(path, b"x"), path
    for path in ("gradio_api/file=/etc/passwd", "file=/etc/passwd", "monitoring", "docs"):
        assert requests.get(alone.url + path).status_code == 404, path
    assert alone.refuses("gradio_api/queue/join", b"{" * 200_000)
    policy = requests.get(alone.url).headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "http" not in policy


def test_another_site_cannot_use_the_page(alone):
    for path in ("photograph", "gradio_api/queue/join", "gradio_api/run/cancel"):
        for origin in ("http://elsewhere.example", "null", "http://[", "http://é"):
            assert alone.refuses(path, b"{}", Origin=origin.encode()), (path, origin)
    assert not alone.refuses("photograph", b"x", Origin=alone.url.rstrip("/"))


def test_a_result_is_had_by_its_own_name_only_and_gone_with_its_page(alone):
    client = alone.client()
    client.predict(alone.photograph(small_picture()), FACES, "demo", api_name="/read")
    live, results, *_ = client.predict(0, 8, "demo", "1", 1, 2, api_name="/search")
    assert "Seed 1 repeats" in live
    link = re.search(r"result/[0-9a-f]{32}[.]png", results["value"])[0]
    answer = requests.get(alone.url + link)
    assert Image.open(io.BytesIO(answer.content)).size == (128, 128)
    assert answer.headers["cache-control"] == "no-store"
    assert requests.get(alone.url + f"result/{'0' * 32}.png").status_code == 404
    assert requests.get(alone.url + link.replace(".png", ".exe")).status_code == 404
    for name in ("é.png", "%FF.png", "%00", link[7:-4] + "é.png"):
        assert requests.get(alone.url + f"result/{name}").status_code == 404, name
    client.close()
    until(lambda: requests.get(alone.url + link).status_code == 404, "the result is still there")


def test_what_cannot_be_searched_is_one_sentence(alone):
    client = alone.client()

    def said(*asked) -> str:
        return client.predict(*asked, api_name="/search")[0]

    assert "choose a photograph first" in said(None, 8, "demo", "1", 1, 2)
    refused = client.predict("0" * 32, FACES, "demo", api_name="/read")[0]["value"]
    assert "did not arrive" in refused
    client.predict(alone.photograph(small_picture()), FACES, "demo", api_name="/read")
    assert "seed must be a whole number" in said(0, 8, "demo", "-1", 1, 2)
    assert "seed must be a whole number from 0 to 2^63" in said(0, 8, "demo", str(2**63), 1, 2)
    assert "steps must be a whole number of at least 1" in said(0, 8, "demo", "1", 1, 0)
    assert "duplicates is at most 16" in said(0, 8, "demo", "1", 17, 2)
    assert "steps is at most 1000" in said(0, 8, "demo", "1", 1, 1001)


@pytest.mark.timed
def test_sigterm_ends_it_within_five_seconds_in_the_middle_of_a_search(alone):
    """The last: it ends the server."""
    client = alone.client()
    client.predict(alone.photograph(small_picture()), FACES, "demo", api_name="/read")
    running = client.submit(0, 8, "demo", "1", 16, 1000, api_name="/search")
    until(lambda: any("step" in str(each) for each in running.outputs()))
    assert alone.server.uploads()
    started = time.monotonic()
    assert alone.server.end() == 143
    assert time.monotonic() - started < 5
    assert not list(alone.server.temporary.glob("pulse_page*"))
    assert "Traceback" not in alone.server.log.read_text()
