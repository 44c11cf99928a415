"""What answers the browser: gradio's page, uploads, results from memory, and what is refused."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import socket
from collections.abc import Callable
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.requests import ClientDisconnect

from cli.signals import heed_signals
from demo.web.page import HERE, Page
from demo.web.reading import Reader
from demo.web.searches import Searcher
from demo.web.visitors import MAX_UPLOAD, TOO_LARGE, Uploads, Visitors

UNCLAIMED = 60.0  # seconds after which an upload is removed that no page reads
MAX_CALL = 100_000  # bytes of a call of a function of the page; photographs are none
# gradio's ways to files and other machines: the page has no use for them.
CLOSED = re.compile(
    r"/(gradio_api/(upload|file|proxy|stream|runs|deep_link|component_server)|file|proxy|"
    r"upload|monitoring|login|logout|openapi|docs|redoc)\b"
)
POLICY = (  # for the browser: nothing from elsewhere; gradio's page is made of scripts in itself
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; "
    "object-src 'none'; base-uri 'self'; form-action 'none'; frame-ancestors 'none'"
)


def same_origin(request: Request) -> bool:
    """Whether it comes from our own page, or from no page at all."""
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


class Guard:
    """Before everything: other sites, gradio's ways to files and visitors' paths are refused, and
    every answer forbids the browser to ask other machines.
    """

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope, receive)
        calls = scope["method"] == "POST" and scope["path"].startswith("/gradio_api/")
        if CLOSED.match(scope["path"]) or not same_origin(request):
            await Response(status_code=404)(scope, receive, send)
            return
        if calls:
            body = await self.body(request)
            if body is None:
                await Response(status_code=400)(scope, receive, send)
                return
            receive = replayed(body, receive)

        async def answer(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    (b"content-security-policy", POLICY.encode()),
                    (b"referrer-policy", b"no-referrer"),
                    (b"x-content-type-options", b"nosniff"),
                ]
            await send(message)

        await self.app(scope, receive, answer)

    async def body(self, request: Request) -> bytes | None:
        """A call's body; None where it is too large, or names a file, which gradio would open."""
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > MAX_CALL:
                return None
        try:
            text = json.dumps(json.loads(body or b"null"), ensure_ascii=False)
        except (ValueError, RecursionError):
            return None
        return None if "FileData" in text else body


def replayed(body: bytes, receive):
    """`receive`, with a body that was read already."""
    given = False

    async def again():
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def application(page: Page, uploads: Uploads, visitors: Visitors) -> FastAPI:
    """Everything that the browser can ask for."""
    app = FastAPI(openapi_url=None)

    @app.post("/photograph")
    async def photograph(request: Request, ending: str = "") -> Response:
        token, path = uploads.new(ending)
        size = 0
        try:
            with open(path, "wb") as file:
                async for part in request.stream():
                    size += len(part)
                    if size > MAX_UPLOAD:
                        break
                    file.write(part)
        except (ClientDisconnect, OSError):
            uploads.forget(token)
            return Response("lost")
        if size > MAX_UPLOAD:
            uploads.forget(token)
            return Response(TOO_LARGE)
        asyncio.get_running_loop().call_later(UNCLAIMED, uploads.forget, token)
        return Response(token, media_type="text/plain")

    @app.get("/result/{name}")
    async def result(name: str) -> Response:
        token, _, kind = name.partition(".")
        finished = visitors.result(token)
        if finished is None or kind not in ("png", "json"):
            return Response(status_code=404)
        content = finished.png if kind == "png" else finished.record.to_json()
        media = "image/png" if kind == "png" else "application/json"
        return Response(content, media_type=media, headers={"Cache-Control": "no-store"})

    page.blocks.queue(default_concurrency_limit=None)
    app = gr.mount_gradio_app(
        app,
        page.blocks,
        "/",
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        enable_monitoring=False,
        show_error=False,
        theme=gr.themes.Default(
            primary_hue="neutral", font=["system-ui", "sans-serif"], font_mono=["monospace"]
        ).set(
            button_primary_background_fill="*neutral_800",
            button_primary_background_fill_hover="*neutral_700",
            button_primary_background_fill_dark="*neutral_200",
            button_primary_background_fill_hover_dark="white",
            button_primary_text_color="white",
            button_primary_text_color_dark="*neutral_900",
            button_primary_text_color_hover_dark="*neutral_900",
        ),
        css=(HERE / "page.css").read_text(encoding="utf-8"),
    )
    app.add_middleware(Guard)
    return app


def worth_a_line(line: logging.LogRecord) -> bool:
    """Not that pages were open when the program was ended."""
    error = line.exc_info[1] if line.exc_info else None
    return "graceful" not in line.getMessage() and not isinstance(error, asyncio.CancelledError)


def serve(
    listener: socket.socket,
    folder: Path,
    generators: dict[str, tuple[int, str]],
    device: str,
    cache_dir: Path,
    ready: Callable[[], object],
) -> None:
    """Answer until a signal asks for an end. folder: for uploads, while their pages are open;
    whoever gave it removes it.
    """
    visitors, uploads = Visitors(), Uploads(folder / "uploads")
    uploads.folder.mkdir()
    reader, searcher = Reader(cache_dir), Searcher(device, cache_dir)
    page = Page(visitors, reader, searcher, uploads, generators)
    app = application(page, uploads, visitors)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        timeout_graceful_shutdown=1,
    )

    logging.getLogger("uvicorn.error").addFilter(worth_a_line)

    class Server(uvicorn.Server):
        async def startup(self, sockets=None) -> None:
            await super().startup(sockets)
            ready()

    try:
        heed_signals()  # the next one is uvicorn's
        Server(config).run([listener])
    finally:
        for session in list(visitors.known):
            visitors.leave(session)
