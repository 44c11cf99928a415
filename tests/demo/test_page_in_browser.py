"""The page of demo/app.py in a real Chromium."""

from __future__ import annotations

import json
import re
import struct
import zlib

import numpy as np
import pytest
from browser import CONTRASTS, CONTROL, ENTER, TAB, console_errors
from conftest import compiled_before
from open_page import Tab, until
from PIL import Image

from demo.web.reading import FACES, SQUARE, Reader

DONE = "repeats this search"
STEPS = 10  # of what is compared with run.py


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, astronaut):
    """A photograph of two faces, one of one, and a small picture."""
    folder = tmp_path_factory.mktemp("photographs")
    pixels = np.asarray(astronaut.crop((96, 0, 352, 300)))  # what is around it takes seconds
    Image.fromarray(np.concatenate([pixels, pixels[:, ::-1]], 1)).save(folder / "two.png")
    astronaut.save(folder / "one.jpg")
    face = astronaut.crop((160, 20, 288, 148)).resize((16, 16))
    face.save(folder / "small.png")
    return folder


ERRORS: list[dict] = []  # of the console, of all pages of this file


@pytest.fixture
def tab(chromium, served):
    """A fresh page of usual size in light colours."""
    seen(chromium)
    return fresh(chromium, served)


def fresh(chromium, served) -> Tab:
    """A new page in place of the present one, whose errors are kept; not those by which gradio
    tells that it was cut off when it was left.
    """
    ERRORS.extend(console_errors(chromium))
    tab = Tab(chromium, served.url)
    console_errors(chromium)
    return tab


def seen(chromium, width=1280, height=900, scheme="light"):
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    chromium.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def small(tab, photographs):
    tab.upload(photographs / "small.png", "16×16")


def test_of_two_faces_one_is_chosen_and_the_download_is_the_file_of_run_py(
    tab, served, photographs, called, c_cache, tmp_path
):
    compiled_before(tmp_path, c_cache)
    said = tab.upload(photographs / "two.png", "choose")
    assert said == "2 faces, left to right: choose one."
    tab.radio(1)  # the second
    lives = set()

    def done():
        lives.add(tab.live)
        return DONE in tab.text("live")

    tab.search(Seed=5, Faces=2, Steps=STEPS)
    until(done, lambda: tab.text("live"))
    assert len(lives - {None}) > 2
    assert re.match("2 imaginary faces, . within eps", tab.text("live"))
    shown = tab.text("results")
    assert shown.count("Imaginary: this person does not exist.") == 2
    assert "seed 5, L2 0.0" in shown and "seed 6, L2 0.0" in shown

    downloads = tmp_path / "downloads"
    where = {"behavior": "allow", "downloadPath": str(downloads)}
    tab.chromium.execute_cdp_cmd("Browser.setDownloadBehavior", where)
    for link in tab.all("#pulse-results a"):
        tab.run("arguments[0].click()", link)
    names = {f"imaginary_face_seed_{seed}.{kind}" for seed in (5, 6) for kind in ("png", "json")}
    until(lambda: downloads.is_dir() and {p.name for p in downloads.iterdir()} == names)

    aligned = called("align_face.py", "-input_dir", photographs / "two.png", "-output_size", 16,
                     "-output_dir", "input", cwd=tmp_path)  # fmt: skip
    assert aligned.returncode == 0, aligned.stderr
    ran = called("run.py", "-input_dir", "input/two_1.png", "-generator", "demo", "-seed", 5,
                 "-duplicates", 2, "-steps", STEPS, cwd=tmp_path)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    for i, seed in enumerate((5, 6), 1):
        theirs = next((tmp_path / "runs").rglob(f"two_1_{i}.png"))
        page = downloads / f"imaginary_face_seed_{seed}.png"
        assert page.read_bytes() == theirs.read_bytes()
        records = [json.loads(p.with_suffix(".json").read_text()) for p in (theirs, page)]
        for record in records:
            del record["seconds"], record["name"], record["input"]["file"]
        assert records[0] == records[1]


def test_the_quick_search_is_chosen_and_in_the_record(tab, photographs, tiny):
    tab.radio(tiny)
    until(lambda: not tab.all("input[type=radio][value='16']"))
    small(tab, photographs)
    tab.radio(8)
    tab.radio("quick")
    tab.search(Seed=3, Steps=3)
    assert "Seed 3 repeats" in tab.wait("live", DONE)
    link = tab.all("#pulse-results a")[1].get_attribute("href")
    fetched = "return fetch(arguments[0]).then(answer => answer.json())"
    assert tab.run(fetched, link)["settings"]["search"] == "quick"


def write_text(path):
    path.write_text("no picture")


def write_bomb(path):
    def chunk(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", b""))


def write_empty(path):
    path.write_bytes(b"")


def write_108_megapixels(path):
    Image.new("L", (12_000, 9_000), 128).save(path.with_suffix(".jpg"), quality=20)
    path.with_suffix(".jpg").rename(path)


@pytest.mark.parametrize(
    ("write", "reading"),
    [
        (write_text, FACES),
        (write_bomb, FACES),
        (write_empty, FACES),
        (write_108_megapixels, SQUARE),
    ],
)
def test_a_file_that_cannot_be_read_is_one_sentence_that_of_the_commands(
    tab, write, reading, tmp_path
):
    path = tmp_path / "file.png"
    write(path)
    with pytest.raises(ValueError) as refused:
        Reader(tmp_path).squares(path, reading)
    tab.radio(reading)
    said = tab.upload(path, "refused")
    assert said == f"This file was refused: {refused.value}"
    assert not tab.button("Search").is_enabled()


def test_after_a_refused_file_another_is_read_and_read_in_another_way(tab, photographs, tmp_path):
    write_text(tmp_path / "text.png")
    tab.upload(tmp_path / "text.png", "refused")
    tab.upload(photographs / "one.jpg", "One face")
    tab.radio(SQUARE)
    tab.wait("notice", "The central square, 400×400")
    tab.search(Steps=3, Seed=1)
    tab.wait("live", DONE)


def test_a_photograph_that_is_chosen_while_another_is_read_takes_its_place(tab, photographs):
    (field,) = tab.all("input[type=file]")
    field.send_keys(str(photographs / "two.png"))  # its faces take a second or more to find
    field.send_keys(str(photographs / "small.png"))
    tab.wait("notice", "16×16", within=30)


def test_a_search_is_cancelled_in_the_middle_and_the_next_one_runs(tab, photographs):
    small(tab, photographs)
    tab.search(Steps=1000, Faces=2)
    tab.wait("live", r"Face 1 of 2: step \d+")
    tab.run("arguments[0].click()", tab.button("Cancel"))
    tab.wait("live", r"^Cancelled\.$")
    tab.search(Steps=5, Faces=1, Seed=3)
    assert "Seed 3 " in tab.wait("live", DONE)


def test_a_reload_in_the_middle_ends_the_search_and_forgets_the_photograph(
    tab, served, photographs
):
    small(tab, photographs)
    assert len(served.uploads()) >= 1
    tab.search(Steps=1000, Faces=16)
    tab.wait("live", "step [0-9]")
    tab = fresh(tab.chromium, served)
    assert tab.text("live") == "No search yet."
    until(lambda: not served.uploads(), served.uploads)
    small(tab, photographs)
    tab.search(Steps=5, Seed=4)
    assert "Seed 4 " in tab.wait("live", DONE, within=30)


def test_of_two_tabs_the_second_waits_says_so_and_then_searches(chromium, tab, served, photographs):
    small(tab, photographs)
    tab.search(Steps=1000, Faces=16)
    tab.wait("live", "step [0-9]")
    first = chromium.current_window_handle
    chromium.switch_to.new_window("tab")
    second = Tab(chromium, served.url)
    small(second, photographs)
    second.search(Steps=5, Seed=6)
    assert second.wait("live", "Waiting") == "Waiting: one search is before yours."
    here = chromium.current_window_handle
    chromium.switch_to.window(first)
    tab.run("arguments[0].click()", tab.button("Cancel"))
    tab.wait("live", "Cancelled")
    chromium.switch_to.window(here)
    assert "Seed 6 " in second.wait("live", DONE)
    chromium.close()
    chromium.switch_to.window(first)


def test_everything_is_done_by_the_keyboard_alone(chromium, tab, photographs):
    from selenium.webdriver import ActionChains

    def press(*keys):  # to nobody in particular: a file field would take a key for a path
        ActionChains(chromium, 0).send_keys(*keys).perform()

    def focused(what: str, most=30):
        """Press Tab until an element of that selector has the focus, and is seen to have it."""
        for _ in range(most):
            press(TAB)
            if tab.run("return document.activeElement.matches(arguments[0])", what):
                ring = tab.run(
                    "const e = document.activeElement; return [e, e.closest('label')]"
                    ".some(x => x && getComputedStyle(x).outlineStyle === 'solid')"
                )
                assert ring, what
                return chromium.switch_to.active_element
        raise AssertionError(f"{what} is not reached")

    tab.run("document.body.tabIndex = -1; document.body.focus()")
    focused("input[type=file]").send_keys(str(photographs / "two.png"))
    tab.wait("notice", "2 faces")
    focused("input[type=radio][value='1']")  # the second face
    press(" ")
    assert tab.run("return document.activeElement.checked")
    focused("textarea, input[type=text]").send_keys("7")  # seed
    focused("input[type=number]")  # faces
    focused("input[type=number]")  # steps
    ActionChains(chromium, 0).key_down(CONTROL).send_keys("a").key_up(CONTROL).perform()
    press("4")
    assert tab.run("return document.activeElement.value") == "4"
    focused("button")
    press(ENTER)
    assert "Seed 7 " in tab.wait("live", DONE)
    assert focused("#pulse-results a").get_attribute("download").endswith("seed_7.png")


def test_a_phone_needs_no_horizontal_scrolling(chromium, tab, photographs):
    seen(chromium, 360, 800)
    for step in ("empty", "read", "done"):
        if step == "read":
            tab.upload(photographs / "two.png", "choose")
        if step == "done":
            tab.search(Faces=3, Steps=3)
            tab.wait("live", DONE)
        assert tab.run("return document.scrollingElement.scrollWidth") <= 360, step
        wide = "return [...document.querySelectorAll('img, button, input, p')]"
        wide += ".filter(e => e.getBoundingClientRect().right > 361).map(e => e.outerHTML)"
        assert tab.run(wide) == [], step
    assert min(tab.run(CONTRASTS, TEXTS))[0] >= 4.5  # of a page that is opened in the light


TEXTS = "h1, h2, header p, .drop span, .status, .alert, figcaption, figcaption b, figcaption a, "
TEXTS += "[data-testid=block-info], label span, button:not([disabled])"


def test_dark_mode_is_dark_and_text_has_contrast_in_both(chromium, served, photographs):
    """A page that is opened in the dark, and follows its browser into the light."""

    def ground() -> int:
        colour = tab.run("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    def least() -> list:
        """Contrast and text."""
        contrasts = tab.run(CONTRASTS, TEXTS)
        assert len(contrasts) > 20
        return min(contrasts)

    seen(chromium, scheme="dark")
    tab = fresh(chromium, served)
    tab.upload(photographs / "two.png", "choose")
    for number in (1, 2):  # the second has an earlier one
        tab.search(Steps=3, Seed=number)
        tab.wait("live", f"Seed {number} ")
    assert ground() < 100
    assert least()[0] >= 4.5, ("dark", least())
    seen(chromium, scheme="light")
    until(lambda: ground() > 700, ground, within=10)  # colours may take a moment to turn
    until(lambda: least()[0] >= 4.5, lambda: ("light", least()), within=10)


def test_the_page_says_at_its_top_that_nobody_is_shown(tab):
    header = tab.all("header")[0]
    assert "The people in the results do not exist." in header.text
    assert "identifies nobody" in " ".join(header.text.split())
    assert header.rect["y"] + header.rect["height"] < 300


def test_the_page_has_its_width_before_there_is_a_result(tab, photographs):
    (drop,) = tab.all(".drop")
    before = drop.rect
    small(tab, photographs)
    tab.search(Faces=3, Steps=3)
    tab.wait("live", DONE)
    assert drop.rect == before
    heights = {tab.field(label).rect["height"] for label in ("Seed", "Faces", "Steps")}
    assert max(heights) - min(heights) <= 4


def test_all_of_that_without_a_console_error_or_a_request_to_another_machine(chromium, served):
    """The last: the logs are of all tests of this file."""
    assert ERRORS + console_errors(chromium) == []
    messages = [json.loads(each["message"])["message"] for each in chromium.get_log("performance")]
    asked = [
        message["params"]["request"]["url"]
        for message in messages
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert len(asked) > 100
    here = (served.url, "data:", "blob:", "chrome:")  # the last for a tab that is still empty
    elsewhere = [url for url in asked if not url.startswith(here)]
    assert elsewhere == []
    assert served.asked_for() == 0
    assert "Traceback" not in served.log.read_text()
