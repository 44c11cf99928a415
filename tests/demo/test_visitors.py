"""What the page keeps, reads and searches, without the page."""

from __future__ import annotations

import gc
import sys
import tempfile
import threading
import time
import weakref

import loopback
import pytest
import torch
from conftest import one_file
from loopback import Handler, serve, weights
from PIL import Image

from cli.errors import UserError
from demo.web import reading, searches, visitors
from demo.web.reading import ENLARGED, FACES, SQUARE, Reader, lr_of
from demo.web.searches import Searcher
from demo.web.visitors import Cancelled, Uploads, Visitor, Visitors
from generators import ffhq
from imaging.face_files import AlignOptions, Photograph
from imaging.pictures import read_picture

server = loopback.server


@pytest.fixture
def tiny_task(tiny):
    def task(steps=3, duplicates=1, **more):
        visitor = Visitor()
        visitor.squares = [Image.new("RGB", (4, 4), "tan")]
        return visitor, visitor.task(0, 4, str(tiny), "1", duplicates, steps, **more)

    return task


@pytest.fixture
def searcher(tmp_path, one_thread):
    return Searcher("cpu", tmp_path)


@pytest.mark.parametrize(("kind", "flags"), [(FACES, {}), (SQUARE, {"mode": "resize"})])
def test_lr_pictures_are_those_of_align_face(astronaut, tmp_path, kind, flags):
    path = tmp_path / "photograph.png"
    astronaut.save(path)
    squares = Reader(tmp_path).squares(path, kind)
    assert [each.name for each in tmp_path.iterdir()] == ["photograph.png"]
    for side in (8, 32):
        options = AlignOptions(tmp_path / str(side), output_size=side, **flags)
        photograph = Photograph(path, options)
        finder = None
        if kind == FACES:
            finder = reading.FaceFinder(tmp_path)
        photograph.write_faces(finder)
        assert len(list((tmp_path / str(side)).iterdir())) == len(squares)
        expected = read_picture(photograph.target(0))
        assert lr_of(squares[0], side).tobytes() == expected.tobytes()


def test_a_small_picture_is_the_lr_picture_itself(tmp_path):
    Image.new("RGB", (16, 16), "tan").save(tmp_path / "photograph.png")
    (square,) = Reader(tmp_path).squares(tmp_path / "photograph.png", ENLARGED)
    assert square.size == (16, 16) and lr_of(square, 16).tobytes() == square.tobytes()
    assert lr_of(square, 8).size == (8, 8)
    with pytest.raises(UserError, match="too few"):
        lr_of(square, 32)


def test_a_huge_central_square_is_refused_and_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "MAX_SQUARE", 100)
    Image.new("RGB", (120, 101)).save(tmp_path / "photograph.png")
    with pytest.raises(UserError, match="101 pixels a side, more than 100"):
        Reader(tmp_path).squares(tmp_path / "photograph.png", SQUARE)


def test_an_upload_is_removed_by_the_next_one_by_leaving_and_when_nobody_claims_it(tmp_path):
    uploads, known = Uploads(tmp_path), Visitors()

    def upload() -> str:
        token, path = uploads.new("jpg")
        path.write_bytes(b"x")
        return token

    first, second, third = upload(), upload(), upload()
    visitor = known.of("a")
    path = visitor.take(first, uploads)
    assert path.read_bytes() == b"x" and visitor.take(first, uploads) == path
    again = visitor.take(second, uploads)
    assert not path.parent.exists() and again.exists()
    uploads.forget(second)  # claimed: it stays
    assert again.exists()
    with pytest.raises(UserError, match="did not arrive"):
        known.of("b").take(second, uploads)
    with pytest.raises(UserError, match="more than 200 MB"):
        known.of("b").take(visitors.TOO_LARGE, uploads)
    known.leave("a")
    uploads.forget(third)
    assert list(tmp_path.iterdir()) == []


def test_of_too_many_visitors_the_one_who_was_away_longest_is_forgotten(monkeypatch):
    monkeypatch.setattr(visitors, "MAX_VISITORS", 2)
    known = Visitors()
    first = known.of("a")
    known.of("b")
    assert known.of("a") is first
    known.of("c")
    assert list(known.known) == ["a", "c"]


def test_the_last_results_are_kept_and_no_more(tiny_task, searcher, monkeypatch):
    monkeypatch.setattr(visitors, "MAX_RESULTS", 3)
    visitor, task = tiny_task(duplicates=2)
    searcher.run(task)
    assert [finished.record.seed for finished in task.finished] == [1, 2]
    visitor.keep(task)
    visitor.keep(task)
    assert visitor.results == [*task.finished, task.finished[0]] and visitor.newest == 2


def test_no_result_is_ever_a_file(tiny_task, searcher, tmp_path, monkeypatch):
    """A program that is ended in the middle would leave it."""
    opened, plain = [], open
    monkeypatch.setattr("builtins.open", lambda *a, **k: opened.append(a[0]) or plain(*a, **k))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    _, task = tiny_task(duplicates=2)
    searcher.run(task)
    assert len(task.finished) == 2 and not list(tmp_path.rglob("*.png"))
    assert not [name for name in opened if str(name).endswith((".png", ".part", ".json"))]


def test_a_cancelled_search_ends_at_its_next_step_and_keeps_what_was_finished(tiny_task, searcher):
    _, task = tiny_task(steps=100, duplicates=16)
    failed = []

    def run():
        try:
            searcher.run(task)
        except Cancelled as cancelled:
            failed.append(cancelled)

    thread = threading.Thread(target=run)
    thread.start()
    while not task.finished:
        assert thread.is_alive()
        time.sleep(0.01)
    task.stop.set()
    thread.join(timeout=60)
    assert len(failed) == 1 and 1 <= len(task.finished) < 16


def test_the_quick_search_is_that_of_run_py_and_tells_of_its_fit(
    tiny, tiny_task, searcher, called, tmp_path
):
    visitor, task = tiny_task(steps=20, search="quick")
    stages, fitting = [], task.fitting
    task.fitting = lambda *news: (fitting(*news), stages.append(task.stage))
    searcher.run(task)
    assert stages[-1].endswith("the first time for a size of the small picture: 100 %.")
    visitor.squares[0].save(tmp_path / "tan.png")
    ran = called("run.py", "-input_dir", "tan.png", "-generator", tiny, "-search", "quick",
                 "-seed", 1, "-steps", 20, "-threads", 1, cwd=tmp_path)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    (theirs,) = (tmp_path / "runs").rglob("tan.png")
    assert task.finished[0].png == theirs.read_bytes()
    searcher.run(again := tiny_task(steps=20, search="quick")[1])
    assert again.finished[0].png == task.finished[0].png and len(stages) == 50  # made once
    for _ in range(2):
        other = tiny_task(steps=20, search="quick")[1]
        other.fitting, other.LR = task.fitting, Image.new("RGB", (8, 8), "tan")
        searcher.run(other)
        assert len(stages) == 100  # and once for another size


def test_a_fit_can_be_cancelled(tiny_task, searcher):
    _, task = tiny_task(search="quick")
    fitting, told = task.fitting, []
    task.fitting = lambda *news: (told.append(news), task.stop.set(), fitting(*news))
    with pytest.raises(Cancelled):
        searcher.run(task)
    assert len(told) == 1 and not task.finished


def test_a_download_is_told_and_can_be_cancelled(tiny_task):
    _, task = tiny_task()
    task.downloading("w.pt", 1_500_000, 105_000_000)
    assert task.stage == "Downloading w.pt: 1.5 of 105.0 MB."
    task.downloading("w.pt", 1_500_000, None)
    assert task.stage == "Downloading w.pt: 1.5 MB."
    task.stop.set()
    with pytest.raises(Cancelled):
        task.downloading("w.pt", 1, 2)


def test_the_download_of_a_generator_is_told_while_it_comes_in(
    server, searcher, tmp_path, monkeypatch
):
    url = serve(server, Handler.send_rest)
    monkeypatch.setattr(ffhq, "ways", lambda: [(weights(url),)])
    visitor = Visitor()
    visitor.squares = [Image.new("RGB", (4, 4))]
    task = visitor.task(0, 4, "ffhq", "1", 1, 2)
    stages = []
    downloading = task.downloading
    task.downloading = lambda *news: (downloading(*news), stages.append(task.stage))
    with pytest.raises(UserError, match="could not be fetched"):  # it is no generator
        searcher.run(task)
    assert stages[-1] == "Downloading w.pt: 0.5 of 0.5 MB." and len(stages) > 1
    assert not (tmp_path / "w.pt").exists()


def test_nothing_of_a_search_is_kept_with_the_generator(tiny_task, searcher):
    _, task = tiny_task(duplicates=2, search="quick")  # the first, for which it is loaded
    searcher.run(task)
    kept = [weakref.ref(each) for each in (task, task.LR, task.finished[0])]
    del task, _
    gc.collect()
    assert searcher.model is not None and [each() for each in kept] == [None] * 3


def test_the_fit_shows_no_bar_in_the_terminal(tiny_task, searcher, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    searcher.run(tiny_task(search="quick")[1])
    assert capsys.readouterr().err == ""


def test_the_queue_has_an_end(tiny_task, searcher, monkeypatch):
    monkeypatch.setattr(searches, "MAX_WAITING", 2)
    for _ in range(2):
        searcher.enter(tiny_task()[1])
    with pytest.raises(UserError, match="2 searches are waiting"):
        searcher.enter(tiny_task()[1])


def test_another_generator_takes_the_place_of_the_first(tiny_task, searcher, tmp_path):
    _, task = tiny_task()
    searcher.run(task)
    first = searcher.model
    searcher.run(tiny_task()[1])
    assert searcher.model is first and torch.get_num_threads() == 1
    visitor = Visitor()
    visitor.squares = [Image.new("RGB", (4, 4))]
    other = one_file(tmp_path / "other.pt", resolution=8)
    searcher.run(visitor.task(0, 4, str(other), "", 1, 2))
    assert searcher.model.generator.resolution == 8
    with pytest.raises(UserError, match="its side is 4 pixels; for this generator|one of 2"):
        visitor.squares = [Image.new("RGB", (8, 8))]
        searcher.run(visitor.task(0, 8, str(other), "", 1, 2))
