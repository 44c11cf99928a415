"""What gradio remembers of the pages of demo/app.py: seen from inside their process only."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import requests
from open_page import require_gradio, small_picture, until

from demo.web.reading import FACES, Reader
from demo.web.searches import Searcher
from demo.web.visitors import Uploads, Visitors


class Inside:
    """A server in this process that offers one tiny generator."""

    def __init__(self, folder, cache_dir, generator: str):
        import uvicorn  # late, as all that imports gradio: every process of pytest reads this file

        from demo.web.page import Page
        from demo.web.server import application

        self.visitors, self.uploads = Visitors(), Uploads(folder / "uploads")
        self.uploads.folder.mkdir()
        reader, searcher = Reader(folder), Searcher("cpu", cache_dir)
        self.generator = generator
        about = {generator: (16, "a random network of the tests")}
        self.page = Page(self.visitors, reader, searcher, self.uploads, about)
        app = application(self.page, self.uploads, self.visitors)
        self.server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run)
        self.thread.start()
        until(lambda: self.server.started)
        port = self.server.servers[0].sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/"

    @property
    def sessions(self) -> dict:
        return self.page.blocks.state_holder.session_data

    def visit(self):
        """gradio's client of a page with a picture."""
        from gradio_client import Client

        client = Client(self.url, verbose=False)
        token = requests.post(f"{self.url}photograph?ending=png", small_picture()).text
        client.predict(token, FACES, self.generator, api_name="/read")
        return client

    def search(self, client, steps: int, duplicates=1):
        return client.submit(0, 8, self.generator, "1", duplicates, steps, api_name="/search")


@pytest.fixture
def inside(c_cache, tmp_path, tiny, one_thread, monkeypatch):
    require_gradio()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("GRADIO_HEARTBEAT_INTERVAL", "0.2")
    inside = Inside(tmp_path, c_cache, str(tiny))
    yield inside
    inside.server.should_exit = inside.server.force_exit = True
    inside.thread.join()


def test_no_component_is_kept_for_each_search(inside):
    client, kept = inside.visit(), []
    for _ in range(3):
        assert "Seed 1 repeats" in inside.search(client, steps=2).result()[0]
        (session,) = inside.sessions.values()
        kept.append((len(session.blocks_config.blocks), len(session.config_values)))
    assert kept[0] == kept[1] == kept[2]
    client.close()


def test_a_closed_page_is_forgotten_also_in_the_middle_of_a_search(inside):
    client = inside.visit()
    running = inside.search(client, steps=1000, duplicates=16)
    until(lambda: any("step" in str(each) for each in running.outputs()))
    (visitor,) = inside.visitors.known.values()
    kept = [weakref.ref(each) for each in (visitor, *visitor.tasks, visitor.tasks[0].LR)]
    del visitor
    shown = "".join(str(each.config_values) for each in inside.sessions.values())
    assert "base64" in shown  # there is something to forget
    client.close()
    until(lambda: not inside.visitors.known and not inside.page.searcher.waiting)
    until(lambda: not inside.sessions, lambda: list(inside.sessions))
    assert not inside.page.blocks.state_holder.time_last_used
    assert list(inside.uploads.folder.iterdir()) == []

    def gone() -> bool:
        gc.collect()
        return not any(each() for each in kept)

    until(gone, "something holds its search")
    assert inside.page.searcher.model is not None  # loaded for that page
