"""demo/app.py as a real process, and its page as a visitor has it."""

from __future__ import annotations

import importlib.util
import io
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, compiled_before
from PIL import Image

HANG = 120  # seconds: a bound for what takes a few


def require_gradio() -> None:
    """Skip the test where it is not installed; to import it, in this process, takes seconds."""
    if importlib.util.find_spec("gradio") is None:
        pytest.skip("gradio is not installed (requirements-app.txt)")


class Server:
    """demo/app.py on a free port, in an empty folder, with its own folder for temporary files.

    What it asks of other machines would go to a proxy that does not answer and counts.
    """

    def __init__(self, folder: Path, *args):
        self.temporary = folder / "temporary"
        self.temporary.mkdir(parents=True)
        self.proxy = socket.create_server(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{self.proxy.getsockname()[1]}"
        names = ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name}
        environment |= dict.fromkeys(names, proxy) | {"TMPDIR": str(self.temporary)}
        environment["GRADIO_HEARTBEAT_INTERVAL"] = "0.2"  # by which gradio's client in Python ends
        self.log = folder / "log.txt"
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "demo" / "app.py"), "-port", "0", *map(str, args)],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.log.open("w"),
            text=True,
        )
        line = self.process.stdout.readline()
        assert re.match("The page is at http://127", line), (line, self.log.read_text())
        self.url = line.split()[4]

    def asked_for(self) -> int:
        """How often it tried to reach other machines."""
        self.proxy.setblocking(False)
        number = 0
        while True:
            try:
                self.proxy.accept()[0].close()
            except BlockingIOError:
                return number
            number += 1

    def uploads(self) -> list[Path]:
        """The photographs that it has."""
        return list(self.temporary.glob("pulse_page_*/uploads/*/*"))

    def end(self) -> int:
        self.process.terminate()
        try:
            return self.process.wait(timeout=HANG)
        finally:
            self.process.kill()
            self.process.stdout.close()
            self.proxy.close()


def small_picture() -> bytes:
    """A PNG file of 8×8 pixels."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), "tan").save(file, "PNG")
    return file.getvalue()


def until(what, message="", within=HANG):
    """Wait for `what` to return something true, and return that."""
    deadline = time.monotonic() + within
    while not (found := what()):
        assert time.monotonic() < deadline, message() if callable(message) else message
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def served(c_cache, tmp_path_factory, tiny):
    """One server for all tests of a file, which offers `tiny` as well; afterwards it must have kept
    nothing.
    """
    require_gradio()
    folder = tmp_path_factory.mktemp("served")
    compiled_before(folder, c_cache)
    server = Server(folder, "-generators", tiny)
    yield server
    assert server.end() == 143
    left = [path.name for path in server.temporary.iterdir()]
    assert [name for name in left if not name.startswith("torchinductor")] == []  # PyTorch's cache


class Tab:
    """A page in a browser."""

    def __init__(self, chromium, url: str):
        self.chromium = chromium
        chromium.get(url)
        until(lambda: self.all("input[type=file]"), "the page is not built")

    def run(self, script: str, *args):
        return self.chromium.execute_script(script, *args)

    def all(self, selector: str) -> list:
        return self.chromium.find_elements("css selector", selector)

    def text(self, name: str) -> str:
        """What stands in #pulse-`name`."""
        return self.run(
            "return [...document.querySelectorAll(arguments[0])].map(e => e.innerText).join(' ')",
            f"#pulse-{name} :is(.status, .alert, .sheet, h2)",
        )

    def wait(self, name: str, pattern: str, within=HANG) -> str:
        """Until that text has the pattern; returns the text."""

        def found():
            return self.text(name) if re.search(pattern, self.text(name)) else ""

        return until(found, lambda: f"{pattern}: {self.text(name)}", within)

    def upload(self, path: Path, pattern: str) -> str:
        """Give it a photograph; returns what is said."""
        self.all("input[type=file]")[0].send_keys(str(path))
        return self.wait("notice", pattern)

    def button(self, name: str):
        return next(each for each in self.all("button") if each.text == name)

    def radio(self, value) -> None:
        self.run(
            "document.querySelector(`input[type=radio][value='${arguments[0]}']`).click()",
            str(value),
        )

    def fill(self, **values) -> None:
        """Type into the field of that label."""
        for label, value in values.items():
            field = self.field(label)
            field.clear()
            field.send_keys(str(value))

    def field(self, label: str):
        return self.run(
            "return [...document.querySelectorAll('label')].find("
            "l => l.innerText.trim() === arguments[0]).querySelector('input, textarea')",
            label,
        )

    def search(self, **values) -> None:
        self.fill(**values)
        button = until(lambda: (b := self.button("Search")).is_enabled() and b)
        self.run("arguments[0].click()", button)

    @property
    def live(self) -> str | None:
        """The picture of the search under way."""
        return self.run("return document.querySelector('#pulse-live img')?.src")
