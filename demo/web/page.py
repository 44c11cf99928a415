"""The page, in gradio: what is on it, and what happens when it is used.

Pictures are shown and fetched from memory: gradio is given none, and so keeps no file.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import gradio as gr
from PIL import Image

from cli.errors import UserError
from demo.web.reading import FACES, READINGS, SMALL, SQUARE, Reader
from demo.web.searches import Searcher
from demo.web.shown import faces_shown, live_shown, outcome, results_shown, sentence
from demo.web.visitors import MAX_FACES, MAX_VISITORS, Cancelled, Task, Uploads, Visitor, Visitors
from search_settings import Settings

HERE = Path(__file__).resolve().parent
TITLE = "PULSE: imaginary faces for a small picture"
SIDES = (4, 8, 16, 32, 64, 128)  # of LR pictures, as far as the generator has them
SEARCHES = [("as published", "paper"), ("quick: about half the steps", "quick")]
POLL = 0.1  # seconds
# An output that is left unchanged at times gets gr.update otherwise, never a plain value: gradio
# makes a new component for each update, and would keep every plain value that follows one.
UNCHANGED = [gr.skip()]

log = logging.getLogger("pulse")

HEAD = f"""
<header>
<h1>{TITLE}</h1>
<p><b>The people in the results do not exist.</b> Many different faces downscale to the same small
picture; PULSE invents some of them. It does not restore, it does not reveal, and it identifies
nobody: a result says nothing about who is in the photograph.</p>
</header>"""
UPLOAD = """
<label class="drop"><span>Photograph, or small picture of a face</span>
<span>Drop it here. It is kept until this page is closed.</span>
<span class="choose" aria-hidden="true">Choose a file</span>
<input type="file" aria-describedby="pulse-notice"></label>"""


class Page:
    """The functions behind the page. generators: name → resolution and what is said of it."""

    def __init__(
        self,
        visitors: Visitors,
        reader: Reader,
        searcher: Searcher,
        uploads: Uploads,
        generators: dict[str, tuple[int, str]],
    ):
        self.visitors, self.reader, self.searcher = visitors, reader, searcher
        self.uploads, self.generators = uploads, generators
        self.blocks = self.built()

    async def read(self, token: str, reading: str, generator: str, request: gr.Request) -> list:
        """A photograph was dropped, or is to be read in another way."""
        visitor = self.visitors.of(request.session_hash)
        if not token:  # nothing was dropped yet
            return UNCHANGED * 5
        visitor.squares = []
        try:
            path = visitor.take(token, self.uploads)
            loop = asyncio.get_running_loop()
            squares = await loop.run_in_executor(
                self.reader.thread, self.reader.squares, path, reading
            )
            visitor.squares = squares[:MAX_FACES]
            notice = sentence(self.found(squares, reading))
        except UserError as error:
            notice = sentence(f"This file was refused: {error}", "alert")
        number = len(visitor.squares)
        faces = [(str(i + 1), i) for i in range(number)]
        return [
            gr.update(value=notice),
            gr.update(value=faces_shown(visitor.squares)),
            gr.update(choices=faces, value=0 if number else None, visible=number > 1),
            self.sides(generator, visitor),
            gr.update(interactive=number > 0),
        ]

    def found(self, squares: list[Image.Image], reading: str) -> str:
        width = squares[0].width
        if width <= SMALL:
            return f"A small picture, {width}×{width} pixels: it is the LR picture."
        if reading == SQUARE:
            return f"The central square, {width}×{width} pixels."
        if len(squares) > MAX_FACES:
            return f"{len(squares)} faces, of which the first {MAX_FACES} are shown: choose one."
        several = f"{len(squares)} faces, left to right: choose one."
        return several if len(squares) > 1 else "One face, aligned as the generator knows faces."

    def sides_of(self, generator: str) -> list[int]:
        """The sides of LR pictures that a generator has."""
        return [side for side in SIDES if side <= self.generators[generator][0] // 2]

    def sides(self, generator: str, visitor: Visitor):
        """The sides of LR pictures that generator and square allow."""
        width = visitor.squares[0].width if visitor.squares else 1024
        sides = [s for s in self.sides_of(generator) if s == width or 2 * s <= width]
        if width <= SMALL and width not in sides:
            sides.append(width)  # the search itself says what is wrong with it
        usual = 16 if 16 in sides else (sides or [None])[-1]
        return gr.update(choices=sides, value=width if width <= SMALL else usual)

    def choose(self, generator: str, request: gr.Request) -> list:
        """Another generator."""
        visitor = self.visitors.of(request.session_hash)
        return [sentence(self.generators[generator][1]), self.sides(generator, visitor)]

    async def search(
        self,
        face: int | None,
        side: int | None,
        generator: str,
        seed: str,
        duplicates: int | None,
        steps: int | None,
        search: str,
        request: gr.Request,
    ) -> AsyncIterator[list]:
        """Wait for a turn, search, and show both; yields live view, results, gallery, and which of
        the two buttons can be pressed.
        """
        visitor = self.visitors.of(request.session_hash)
        try:
            task = visitor.task(face or 0, side or 0, generator, seed, duplicates, steps, search)
            self.searcher.enter(task)
        except UserError as error:
            yield [sentence(f"This cannot be searched: {error}", "alert"), *self.still(visitor)]
            return
        visitor.tasks.append(task)
        say, running = "", None
        try:
            async for live in self.turn(task):
                buttons = gr.update(interactive=False), gr.update(interactive=True)
                yield [live, *UNCHANGED * 2, *buttons]
            loop = asyncio.get_running_loop()
            running = loop.run_in_executor(self.searcher.thread, self.searcher.run, task)
            running.add_done_callback(lambda done: done.cancelled() or done.exception())  # if we go
            shown = None
            while not running.done():
                if (live := live_shown(task)) != shown:
                    shown = live
                    yield [live, *UNCHANGED * 4]
                await asyncio.wait([running], timeout=POLL)
            running.result()
            say = sentence(outcome(task))
        except Cancelled:
            kept = f" {len(task.finished)} finished before." if task.finished else ""
            say = sentence(f"Cancelled.{kept}")
        except UserError as error:
            say = sentence(f"The search ended: {error}", "alert")
        except Exception:  # a mistake of ours: the page must not seem to search for ever
            log.exception("a search failed")
            say = sentence("The search failed: the terminal of this page says why.", "alert")
        finally:
            task.stop.set()  # where the page went away
            visitor.tasks.remove(task)
            self.searcher.waiting.remove(task)
            if visitor.left:  # gradio has begun to remember the page again
                self.forget(request.session_hash)
        if visitor.left:
            return
        visitor.keep(task)
        yield [say, *self.still(visitor)]

    async def turn(self, task: Task) -> AsyncIterator[str]:
        """Until no search is before this one; yields what is said meanwhile. Raises: Cancelled."""
        said = None
        while (place := self.searcher.waiting.index(task)) > 0:
            task.go_on()
            if place != said:
                said = place
                before = "one search is" if place == 1 else f"{place} searches are"
                yield sentence(f"Waiting: {before} before yours.")
            await asyncio.sleep(POLL)
        yield sentence("Starting.")

    def still(self, visitor: Visitor) -> list:
        """Results, gallery and buttons, while nothing is searched."""
        shown = results_shown(visitor.results, visitor.newest)
        return [
            *(gr.update(value=each) for each in shown),
            gr.update(interactive=True),
            gr.update(interactive=False),
        ]

    def cancel(self, request: gr.Request) -> None:
        self.visitors.of(request.session_hash).cancel()

    def closed(self, request: gr.Request) -> None:
        self.visitors.leave(request.session_hash)
        self.forget(request.session_hash)

    def forget(self, session: str) -> None:
        """Remove what gradio remembers of a page: all that it showed, pictures too."""
        remembered = self.blocks.state_holder
        remembered.session_data.pop(session, None)
        remembered.time_last_used.pop(session, None)

    def built(self) -> gr.Blocks:
        """The page itself."""
        defaults = Settings()
        names = list(self.generators)
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as blocks:
            gr.HTML(HEAD)
            with gr.Row():
                with gr.Column(scale=2, min_width=280):
                    upload = gr.HTML(
                        "",
                        html_template=UPLOAD,
                        js_on_load=(HERE / "upload.js").read_text(encoding="utf-8"),
                    )
                    reading = gr.Radio(list(READINGS), value=FACES, label="How it is read")
                    notice = gr.HTML(elem_id="pulse-notice")
                    squares = gr.HTML()
                    face = gr.Radio([], label="Face", visible=False)
                    side = gr.Radio(
                        self.sides_of(names[0]),
                        value=16,
                        label="Side of the small picture, in pixels",
                    )
                    generator = gr.Radio(names, value=names[0], label="Generator")
                    about = gr.HTML(sentence(self.generators[names[0]][1]))
                    with gr.Row():
                        seed = gr.Textbox(
                            label="Seed", placeholder="random", max_lines=1, min_width=80
                        )
                        duplicates = gr.Number(1, label="Faces", precision=0, min_width=80)
                        steps = gr.Number(defaults.steps, label="Steps", precision=0, min_width=80)
                    search = gr.Radio(SEARCHES, value=defaults.search, label="How it is searched")
                    with gr.Row():
                        start = gr.Button("Search", variant="primary", interactive=False)
                        cancel = gr.Button("Cancel", interactive=False)
                with gr.Column(scale=3, min_width=280, elem_id="pulse-right"):
                    live = gr.HTML(sentence("No search yet."), elem_id="pulse-live")
                    results = gr.HTML(elem_id="pulse-results")
                    gallery = gr.HTML(elem_id="pulse-gallery")

            asked = {"show_progress": "hidden", "concurrency_limit": None}
            gr.on(
                [upload.upload, reading.change],
                self.read,
                [upload, reading, generator],
                [notice, squares, face, side, start],
                api_name="read",
                trigger_mode="always_last",  # what comes while another is read is read after it
                **asked,
            )
            generator.change(self.choose, generator, [about, side], api_name="choose", **asked)
            start.click(
                self.search,
                [face, side, generator, seed, duplicates, steps, search],
                [live, results, gallery, start, cancel],
                api_name="search",
                **asked,
            )
            cancel.click(self.cancel, queue=False, api_name="cancel", **asked)
            blocks.unload(self.closed)
        blocks.state_session_capacity = MAX_VISITORS
        return blocks
