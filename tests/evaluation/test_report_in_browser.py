"""The report page in a real Chromium."""

from __future__ import annotations

import io
import json
import math
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from browser import CONTRASTS, DOWN, END, ENTER, HOME, LEFT, PAGE_DOWN, RIGHT, TAB, press
from PIL import Image
from report_cards import HOSTILE, LONG, TABLE, card, written

from evaluation.report import write_report


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Eight pictures: groups, a hostile name, a seed of 63 bits, curves with gaps and without."""
    cards = [card(i, group=f"group {'ab'[i // 4 % 2]}") for i in (10, 9, 2, 1, 3, 5)]
    cards[2].curve = [0.1, None, math.nan, 0.01]
    last = card(4, name="Zoë", curve=[], seed=2**63 - 1)
    hostile = card(6, name=HOSTILE, group=HOSTILE, l2=math.nan, within_eps=False)
    table = [[*TABLE[0], HOSTILE], [*TABLE[1], HOSTILE]]
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, HOSTILE, [table], [HOSTILE], [*cards, last, hostile])
    return path


def opened(chromium, path, width=1280, height=900, media="screen", **features):
    """The page, fresh, at that size; features are of CSS, such as prefers_color_scheme. Returns
    what runs a script in it.
    """
    chromium.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False},
    )
    named = [{"name": k.replace("_", "-"), "value": v} for k, v in features.items()]
    chromium.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": named})
    chromium.get(path.as_uri())
    return chromium.execute_script


def names(run) -> list[str]:
    """Of the cards that are seen, in their order."""
    return run(
        "return [...document.querySelectorAll('.card')].filter(card => card.offsetHeight)"
        ".map(card => card.querySelector('h3').textContent)"
    )


def status(run) -> str:
    """What a screen reader announces of what is shown."""
    return run("return document.querySelector('[role=status][aria-live=polite]').textContent")


def red_share(chromium) -> float:
    """How much of the first picture is red, looked at above its knob and labels."""
    box = chromium.find_element("css selector", ".pair").screenshot_as_png
    pixels = Image.open(io.BytesIO(box)).convert("RGB")
    row = [pixels.getpixel((x, pixels.height // 5)) for x in range(pixels.width)]
    return sum(red > 200 and blue < 60 for red, _, blue in row) / len(row)


def test_opens_and_works_without_a_console_message_or_a_request(chromium, report):
    chromium.get_log("browser"), chromium.get_log("performance")
    run = opened(chromium, report)
    run("document.querySelector('[type=search]').focus()")
    press(chromium, "face", ENTER)
    run("document.querySelector('.card input').focus()")
    press(chromium, RIGHT)
    run("document.querySelector('[type=reset]').click()")
    run("for (const card of document.querySelectorAll('.card')) card.scrollIntoView()")
    events = [json.loads(e["message"])["message"] for e in chromium.get_log("performance")]
    asked = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    # Its first empty tab is Chromium's own, and may still be loading.
    own = ("chrome:", "chrome-untrusted:")
    urls = [e["request"]["url"] for e in asked if not e["documentURL"].startswith(own)]
    assert [url for url in urls if not url.startswith("data:")] == [report.as_uri()]
    assert chromium.get_log("browser") == []


def test_the_page_cannot_ask_even_if_a_script_wants_to(chromium, report):
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_error(404)

        log_message = do_POST = do_GET

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    run = opened(chromium, report)
    blocked = run(
        """
        const url = arguments[0], blocked = [], named = e => blocked.push(e.effectiveDirective);
        document.addEventListener("securitypolicyviolation", named);
        const image = document.body.appendChild(new Image());
        image.src = url;
        const marks = "<p style='color: red' onclick='window.broken = 1'>";
        document.body.insertAdjacentHTML("beforeend", marks);
        document.body.lastElementChild.click(); // newer Chromium looks at a handler only now
        const script = document.createElement("script");
        script.text = "window.broken = 1";
        document.body.append(script);
        return fetch(url).catch(() => new Promise(then => setTimeout(() => then(blocked), 100)));
        """,
        f"http://127.0.0.1:{server.server_port}/",
    )
    server.shutdown()
    server.server_close()
    expected = {"img-src", "connect-src", "style-src-attr", "script-src-attr", "script-src-elem"}
    assert set(blocked) == expected and not asked and not run("return window.broken")
    chromium.get_log("browser")


def test_names_are_text_whatever_they_hold(chromium, report):
    run = opened(chromium, report)
    assert not run("return window.broken")
    for selector in ("h1", "thead th:last-child", "td:last-child", ".notes li"):
        assert run("return document.querySelector(arguments[0]).textContent", selector) == HOSTILE
    found = run(
        """
        const card = [...document.querySelectorAll(".card")].find(c => c.dataset.group);
        const options = Array.from(document.querySelector("[name=group]"), o => o.textContent);
        return [document.title, card.querySelector("h3").textContent, card.dataset.group,
                options.find(text => text[0] === "<"), card.querySelector("input").ariaLabel];
        """
    )
    assert found == [*[HOSTILE] * 4, f"Input over result, {HOSTILE}"]
    assert run("return document.querySelectorAll('script, img[src=x]').length") == 1


def test_keys_move_the_slider_and_what_is_seen_of_the_input(chromium, tmp_path):
    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (64, 64), "blue")
    run = opened(chromium, written(tmp_path, [card(1, lr=red, hr=blue), card(2)]))
    slider = chromium.find_element("css selector", ".card input")
    run("arguments[0].focus()", slider)
    assert red_share(chromium) == pytest.approx(0.5, abs=0.02)
    for key, value in ((HOME, 0), (END, 100), (LEFT, 99), (PAGE_DOWN, 89), (RIGHT, 90)):
        press(chromium, key)
        assert red_share(chromium) == pytest.approx(value / 100, abs=0.02)
        said = slider.get_attribute("aria-valuetext")
        assert said == f"{value} % input, {100 - value} % result"
    other = run("return document.querySelectorAll('.pair')[1].style.getPropertyValue('--cut')")
    assert other == "50%"


def test_a_click_moves_the_edge_to_where_it_was(chromium, tmp_path):
    from selenium.webdriver import ActionChains

    red, blue = Image.new("RGB", (16, 16), "red"), Image.new("RGB", (64, 64), "blue")
    opened(chromium, written(tmp_path, [card(1, lr=red, hr=blue)]))
    pair = chromium.find_element("css selector", ".pair")
    width = pair.rect["width"]
    for share in (0.05, 0.8):
        at = round((share - 0.5) * width)
        ActionChains(chromium, 0).move_to_element_with_offset(pair, at, 0).click().perform()
        assert red_share(chromium) == pytest.approx(share, abs=0.025)


def accessible(chromium) -> list[tuple]:
    """Role, name, description and value of everything that a screen reader is given."""
    nodes = chromium.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    keys = ("role", "name", "description", "value")
    return [
        tuple(str(node.get(key, {}).get("value", "")).strip() for key in keys) for node in nodes
    ]


def test_a_reader_of_the_screen_is_told_what_is_there(chromium, report):
    opened(chromium, report)
    curve = "0.10000 at step 0, lowest 0.01000 at step 3, 0.01000 at step 3; eps is 0.002."
    expected = {
        ("region", "Summary", "", ""),
        ("searchbox", "Name contains", "", ""),
        *(("radio", name, "", "") for name in ("all", "within eps", "outside eps")),
        ("combobox", "Group", "", "all groups"),
        ("combobox", "Sort by", "", "name"),
        ("article", "face_2", "", ""),
        ("slider", "Input over result, face_2", "", "50"),
        ("image", "Input: 16×16 pixels, enlarged", "", ""),
        ("image", "Result: an imaginary face", "", ""),
        ("image", "L2 over the steps, on a logarithmic scale", curve, ""),
    }
    until = time.monotonic() + 10  # the tree is made when Chromium finds the time
    while (missing := expected - set(accessible(chromium))) and time.monotonic() < until:
        time.sleep(0.1)
    assert not missing


def test_cards_are_sorted_by_the_keyboard_and_it_is_told(chromium, report):
    run = opened(chromium, report)
    by_number = [f"face_{i}" for i in (1, 2, 3)] + ["Zoë"] + [f"face_{i}" for i in (5, 9, 10)]
    faces = [name for name in by_number if name != "Zoë"]
    assert names(run) == [HOSTILE, *faces, "Zoë"]
    assert status(run) == "8 of 8 shown, by name"
    run("document.querySelector('[name=sort]').focus()")
    orders = {
        "L2, lowest first": [*by_number[::-1], HOSTILE],  # whose L2 is no number
        "L2, highest first": [*by_number, HOSTILE],
        "seconds, fewest first": [*by_number[:5], HOSTILE, *by_number[5:]],
        "seconds, most first": [*by_number[5:][::-1], HOSTILE, *by_number[:5][::-1]],
        "seed": [*faces[:4], HOSTILE, *faces[4:], "Zoë"],
    }
    for order, expected in orders.items():
        press(chromium, DOWN)
        assert (status(run), names(run)) == (f"8 of 8 shown, by {order}", expected)


def test_what_is_unknown_is_sorted_last(chromium, tmp_path):
    cards = [card(1, seed=None, seconds=None), card(2), card(3)]
    run = opened(chromium, written(tmp_path, cards))
    for order in ("seconds", "-seconds", "seed"):
        run(f"const s = document.querySelector('[name=sort]'); s.value = '{order}';"
            "s.dispatchEvent(new Event('input', {bubbles: true}))")  # fmt: skip
        assert names(run)[2] == "face_1", order


def test_filters_by_verdict_group_and_name_hide_the_others_and_it_is_told(chromium, report):
    run = opened(chromium, report)
    run("document.querySelector('[value=all]').focus()")
    press(chromium, RIGHT)
    assert names(run) == ["face_2", "face_10", "Zoë"]
    assert status(run) == "3 of 8 shown, by name"
    press(chromium, RIGHT)
    assert names(run) == [HOSTILE, "face_1", "face_3", "face_5", "face_9"]
    run("document.querySelector('[name=group]').focus()")
    press(chromium, "group a")
    assert names(run) == ["face_1", "face_3", "face_9"]
    run("document.querySelector('[name=search]').focus()")
    press(chromium, "E_3")
    assert names(run) == ["face_3"]
    press(chromium, "?")
    assert names(run) == [] and status(run).startswith("0 of 8 shown")
    press(chromium, *[TAB] * 4, ENTER)  # on to the button that the empty list has
    chromium.execute_async_script("setTimeout(arguments[0])")
    assert status(run) == "8 of 8 shown, by name" and len(names(run)) == 8


def test_a_name_is_found_however_its_accents_are_encoded(chromium, report):
    run = opened(chromium, report)
    run("document.querySelector('[name=search]').focus()")
    press(chromium, "ZOE\u0308")
    assert names(run) == ["Zoë"]


RING = """
const a = document.activeElement;
return getComputedStyle(a.closest(".pair, .choice label") ?? a).outlineStyle;
"""


def test_tab_reaches_everything_in_the_order_of_the_page_and_shows_where_it_is(chromium, report):
    run = opened(chromium, report)
    run("document.body.tabIndex = -1; document.body.focus()")
    seen = []
    for _ in range(8):
        press(chromium, TAB)
        seen.append(run("const a = document.activeElement; return a.className || a.name"))
        assert run(RING) == "solid", seen[-1]
    assert seen[:6] == ["skip", "table", "search", "verdict", "group", "sort"]
    assert run("return document.activeElement.type") == "range"


def test_a_phone_needs_no_horizontal_scrolling_and_long_names_wrap(chromium, tmp_path):
    many = [card(i, name=LONG, group=LONG, seed=2**63 - i) for i in (1, 2)]
    table = [["", *["a wide column"] * 9], ["PULSE", *["0.00123 (0.00100 to 0.00200)"] * 9]]
    path = written(tmp_path, many, tables=[table], notes=[LONG], title=LONG)
    run = opened(chromium, path, width=360, height=800)
    assert run("return document.scrollingElement.scrollWidth") <= 360
    run("document.documentElement.classList.remove('js')")  # and side by side
    assert run("return document.scrollingElement.scrollWidth") <= 360
    assert run("const t = document.querySelector('.table'); return t.scrollWidth > t.clientWidth")
    assert run("const h = document.querySelector('h3'); return h.scrollWidth <= h.clientWidth")
    assert chromium.find_element("css selector", "h3").rect["height"] > 60


TEXTS = "h1, .imaginary, th, td, .notes li, #controls label, legend, [type=search], select, #shown"
TEXTS += ", h3, .verdict, dt, dd, .missing, .curve text, footer, #nothing button"


def test_dark_mode_is_dark_and_text_has_contrast_in_both(chromium, report):
    grounds = []
    for scheme in ("light", "dark"):
        run = opened(chromium, report, prefers_color_scheme=scheme)
        grounds.append(run("return getComputedStyle(document.body).backgroundColor"))
        run("document.getElementById('nothing').hidden = false")
        contrasts = run(CONTRASTS, TEXTS)
        assert len(contrasts) > 80
        assert min(contrasts)[0] >= 4.5, (scheme, min(contrasts))
    light, dark = (sum(map(int, re.findall(r"\d+", ground)[:3])) for ground in grounds)
    assert light > 720 and dark < 100


def test_nothing_moves_where_motion_is_not_wanted(chromium, report):
    running = """
    return [...document.querySelectorAll("*")].map(e => getComputedStyle(e)).filter(s =>
      s.transitionDuration !== "0s" || s.animationName !== "none" || s.scrollBehavior !== "auto"
    ).length
    """
    assert opened(chromium, report, prefers_reduced_motion="reduce")(running) == 0
    assert opened(chromium, report, prefers_reduced_motion="no-preference")(running) > 0


def test_on_paper_both_pictures_stand_side_by_side_in_ink_on_white(chromium, report):
    run = opened(chromium, report, media="print", prefers_color_scheme="dark")
    left, right = (
        run(f"return document.querySelector('.{part} img').getBoundingClientRect()")
        for part in ("input", "result")
    )
    assert left["right"] <= right["left"] and left["width"] > 50
    for gone in ("#controls", "#shown", ".pair input"):
        assert run(f"return getComputedStyle(document.querySelector('{gone}')).display") == "none"
    assert run("return getComputedStyle(document.querySelector('.input')).clipPath") == "none"
    ground = run("return getComputedStyle(document.body).backgroundColor")
    assert min(map(int, re.findall(r"\d+", ground)[:3])) > 240


def test_without_scripts_both_pictures_are_seen_and_no_dead_control(chromium, report):
    chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        run = opened(chromium, report)
        parts = (".input img", ".result img", "#controls", ".pair input")
        box = "return document.querySelector(arguments[0]).getBoundingClientRect()"
        left, right, controls, slider = (run(box, part) for part in parts)
    finally:
        chromium.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert 0 < left["right"] <= right["left"] and right["width"] > 100
    assert controls["width"] == slider["width"] == 0


def test_without_pictures_table_or_notes_the_page_says_so_and_has_no_controls(chromium, tmp_path):
    run = opened(chromium, written(tmp_path, [], tables=[[]], notes=()))
    assert "There are no pictures." in run("return document.querySelector('main').innerText")
    assert run("return document.querySelector('#controls').offsetHeight") == 0
    assert "Summary" not in run("return document.body.innerText")
    assert chromium.get_log("browser") == []


def test_groups_have_a_table_of_their_own_under_the_summary(chromium, tmp_path):
    groups = [["group", "inputs"], [HOSTILE, "12"], ["b", "7"]]
    run = opened(chromium, written(tmp_path, [card(1)], tables=[TABLE, groups]))
    headings = run("return [...document.querySelectorAll('h2')].map(h => h.textContent)")
    assert headings == ["Summary", "By group", "Pictures"]
    cells = "return [...document.querySelectorAll('[aria-labelledby=by-group] td')]"
    assert run(f"{cells}.map(cell => cell.textContent)") == ["12", "7"]
    first = run("return document.querySelector('[aria-labelledby=by-group] tbody th').textContent")
    assert first == HOSTILE
    assert chromium.get_log("browser") == []


def test_many_notes_are_folded_away_from_the_pictures_and_a_key_opens_them(chromium, tmp_path):
    notes = [f"note number {i}" for i in range(12)]
    run = opened(chromium, written(tmp_path, [card(1)], notes=notes), width=360, height=800)
    seen = """
    return [...document.querySelectorAll(".notes li")].filter(
      li => li.checkVisibility({ contentVisibilityAuto: true })).length
    """
    top = "return document.querySelector('.card').getBoundingClientRect().top"
    assert run(seen) == 0
    folded = run(top)
    chromium.find_element("css selector", "summary").send_keys(ENTER)
    assert run(seen) == 12 and run(top) > folded + 12 * 20
    few = opened(chromium, written(tmp_path, [card(1)], notes=notes[:3]))
    assert few(seen) == 3


def test_without_groups_there_is_no_choice_of_groups(chromium, tmp_path):
    run = opened(chromium, written(tmp_path, [card(1), card(2)]))
    assert run("return document.querySelector('[name=group]').offsetHeight") == 0
    assert run("return document.querySelector('[name=sort]').offsetHeight") > 0


def test_a_line_at_the_top_says_that_nobody_is_shown(chromium, report):
    run = opened(chromium, report, width=360, height=800)
    line = chromium.find_element("css selector", "header .imaginary")
    for words in ("do not exist", "imaginary", "nobody can be identified"):
        assert words in line.text
    assert line.rect["y"] + line.rect["height"] < run("return innerHeight")
