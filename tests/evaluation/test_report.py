"""The report page that is written, without a browser."""

from __future__ import annotations

import base64
import io
import math
import re
import weakref
from xml.etree import ElementTree

import pytest
from PIL import Image
from report_cards import card, face, written
from result_folders import flat


def embedded(page: str) -> list[Image.Image]:
    """The pictures that a page holds, in its order."""
    found = re.findall(r'src="data:image/\w+;base64,([^"]+)"', page)
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in found]


# ------------------------------------------------------------ what is written


def test_what_older_records_lack_is_unknown(scene):
    scene.add("a", flat(110), flat(100, 8), seed=None, seconds=None)
    scene.add("b", flat(110), flat(100, 8), seed=0, seconds=0.0)
    assert scene("-html", "o.html").returncode == 0
    page = (scene.folder / "o.html").read_text(encoding="utf-8")
    shown = re.findall("<dt>time</dt><dd>(.*?)</dd>|<dt>seed</dt><dd>(.*?)</dd>", page)
    assert ["".join(each) for each in shown] == ["unknown", "unknown", "0.0 s", "0"]


def test_input_pixels_are_exact_and_the_result_says_that_it_is_imaginary(tmp_path):
    lr, small, large = face(1, 16), face(2, 64), face(3, 512)
    small.info = {"icc_profile": b"of another", "exif": b"Exif\0\0place", "comment": b"home"}
    cards = [card(0, lr=lr, hr=small), card(1, lr=lr, hr=large)]
    shown = embedded(written(tmp_path, cards).read_text(encoding="utf-8"))
    assert [picture.format for picture in shown] == ["PNG", "PNG", "PNG", "WEBP"]
    assert shown[0].tobytes() == lr.tobytes() and shown[1].tobytes() == small.tobytes()
    assert "does not exist" in shown[1].info["Description"]
    for result in (shown[1], shown[3]):
        assert "trainedAlgorithmicMedia" in str(result.info)
        assert not result.getexif() and "icc_profile" not in result.info


def test_fifty_pictures_of_512_pixels_stay_far_below_15_MB(tmp_path):
    grain = Image.effect_noise((512, 512), 32).convert("RGB")  # skin and hair are not smooth
    faces = [Image.blend(face(i, 512), grain, 0.15) for i in range(5)]
    cards = (card(i, hr=faces[i % 5], curve=[0.1] * 1000) for i in range(50))
    assert written(tmp_path, cards).stat().st_size < 6e6


def test_a_card_is_let_go_before_the_next_is_taken(tmp_path):
    seen = []

    def cards():
        for i in range(20):
            assert all(earlier() is None for earlier in seen[:-1])
            one = card(i)
            seen.append(weakref.ref(one))
            yield one
            del one

    written(tmp_path, cards())
    assert len(seen) == 20


def test_a_run_that_breaks_off_leaves_the_earlier_report_and_nothing_else(tmp_path):
    path = written(tmp_path, [card(0)])
    before = path.read_bytes()

    def cards():
        yield card(1)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        written(tmp_path, cards())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_an_OSError(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError):
        written(tmp_path / "file", [card(0)])


def test_control_characters_of_names_are_written_as_escapes(tmp_path):
    cards = [card(1, name="c\u202e", group="d\r")]
    table = [["", "e\x00"], ["f\x9b", "g\x08"]]
    page = written(tmp_path, cards, [table], ["b\x07"], "a\x1b[2J").read_text(encoding="utf-8")
    assert not any(character in page for character in "\u202e\r\x00\x9b\x08\x07\x1b")
    assert all(text in page for text in ("a\\x1b[2J", "b\\x07", "c\\u202e", "d\\r", "e\\x00"))


# ------------------------------------------------------------ the curve


def drawn(folder, curve, eps=0.01):
    """The SVG of a curve on a page, the path of its line and the height of its dashed line."""
    page = written(folder, [card(1, curve=curve, eps=eps)]).read_text(encoding="utf-8")
    svg = ElementTree.fromstring(re.search(r'<svg class="curve".*?</svg>', page, re.DOTALL)[0])
    path = {one.get("class"): one.get("d") for one in svg.iter("path")}
    return svg, path["line"], float(path["eps"].split()[1].split("H")[0])


def test_the_curve_is_logarithmic_and_eps_stands_where_its_value_is(tmp_path):
    _, line, eps = drawn(tmp_path, [0.1, 0.01, 0.001])
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", line)
    (x0, y0), (x1, y1), (x2, y2) = ([float(figure) for figure in point] for point in points)
    assert x1 - x0 == pytest.approx(x2 - x1) and x0 < x1
    assert y1 - y0 == pytest.approx(y2 - y1) and y0 < y1 == eps


@pytest.mark.parametrize("missing", [None, math.nan, math.inf])
def test_a_missing_step_is_a_gap_and_no_number_that_is_none(tmp_path, missing):
    svg, line, _ = drawn(tmp_path, [0.1, 0.05, missing, 0.02, missing, 0.01, 0.005])
    assert [len(re.findall("L", part)) for part in line.split("M")[1:]] == [1, 0, 1]
    assert not re.search("nan|inf|None", ElementTree.tostring(svg, "unicode"))
    assert "lowest 0.00500 at step 6" in svg.find("desc").text


@pytest.mark.parametrize(
    "curve", [[0.0], [0.0, 0.0], [0.1, 0.0], [1e-300, 1e300], [5.0], [0.002] * 3, [0.3] * 100_000]
)
def test_any_curve_stays_inside_its_drawing_and_is_short(tmp_path, curve):
    svg, line, eps = drawn(tmp_path, curve)
    _, _, width, height = map(float, svg.get("viewBox").split())
    points = re.findall(r"[ML]([\d.]+) ([\d.]+)", line)
    assert all(0 < float(x) < width and 0 < float(y) < height for x, y in points)
    assert 1 <= len(points) <= 302 and 0 < eps < height
    labels = [text.text for text in svg.iter("text") if text.get("text-anchor") == "end"]
    assert len(labels) - 1 >= 2  # two decades have a figure, besides the last step


@pytest.mark.parametrize("curve", [[], [None, None], [math.nan]])
def test_without_any_figure_there_is_a_sentence(tmp_path, curve):
    page = written(tmp_path, [card(1, curve=curve)]).read_text(encoding="utf-8")
    assert "There is no L2 of the steps." in page and "<svg" not in page
