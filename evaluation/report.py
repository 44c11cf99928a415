"""A run as one web page that needs no network: the summary, and a card for each picture.

    write_report(Path("report.html"), "PULSE", [["", "L2"], ["PULSE", "0.0019"]], [], cards)

Layout, style and script are in report_page.html; here it is filled. The page's content security
policy forbids every request, and any script or style but the page's own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import io
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, PngImagePlugin

from cli.errors import escaped
from imaging.provenance import IMAGINARY, XMP
from runner.records import VERSION
from safe_files import atomic_write

PAGE = Path(__file__).with_name("report_page.html")
LOSSLESS = 128  # pixels: up to this side hard pixels and small faces stay exact, as PNG
WEBP = {"quality": 85, "method": 2}  # above that; twice as fast as method 4, 3 % larger
# The drawing of a curve, in units of its own; left of it stand figures, right of it "eps".
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 300, 106, 42, 274, 8, 84
FOLDED = 3  # notes; of more only a line is seen until it is opened
MOST_DECADES = 8  # what is lower than that is drawn at the bottom
MOST_POINTS = 300  # one per unit of the drawing is enough


@dataclass
class Card:
    """One result. lr and hr: square pictures, hr of at most 512 pixels a side. l2 and eps: mean
    squared differences, of pixels in [0, 1]. curve: the L2 of every step, None where not finite.
    """

    name: str
    lr: Image.Image
    hr: Image.Image
    l2: float
    eps: float
    within_eps: bool
    seed: int
    seconds: float
    curve: list[float | None]
    group: str = ""


def write_report(
    path: Path,
    title: str,
    table: list[list[str]],
    notes: list[str],
    cards: Iterable[Card],
    groups: list[list[str]] | None = None,
) -> None:
    """Write the page. The first row of `table`, and of the table of groups where there is one, is
    its header; all texts are taken as plain text.

    Each card is written before the next is taken, so that memory does not grow with their number;
    `path` is whole or untouched. Raises: OSError.
    """
    page = PAGE.read_text(encoding="utf-8")
    above = _table("Summary", table), _table("By group", groups or []), _notes(notes)
    texts = {
        "policy": _policy(page),
        "title": _text(title),
        "summary": "\n".join(filter(None, above)),
        "version": VERSION,
    }
    # In one pass: a title that reads {{summary}} is a title.
    parts = [
        re.sub(r"\{\{(\w+)\}\}", lambda field: texts[field[1]], part).encode()
        for part in page.split("{{cards}}")
    ]
    with atomic_write(path) as file:
        file.write(parts[0])
        number = 0
        for number, card in enumerate(cards, 1):
            file.write(_card(card, number).encode())
        if number == 0:
            file.write(b"<li>There are no pictures.</li>")
        file.write(parts[1])


def _policy(page: str) -> str:
    """No request of any kind, no script and no style but those with the page's own hashes."""

    def own(tag: str) -> str:
        content = re.search(f"<{tag}>(.*?)</{tag}>", page, re.DOTALL)[1]
        return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"

    return (
        f"default-src 'none'; img-src data:; style-src {own('style')}; script-src {own('script')}; "
        f"base-uri 'none'; form-action 'none'"
    )


def _text(text: str) -> str:
    """Any text, also what file names may hold, as content or quoted attribute."""
    return html.escape(escaped(text))


def _table(heading: str, table: list[list[str]]) -> str:
    """A section with its heading; "" for an empty table."""
    if not table:
        return ""
    header, *rows = table
    columns = range(len(header))
    figures = {  # columns of figures are aligned to the right
        i for i in columns if rows and all(_is_figure(row[i]) for row in rows if i < len(row))
    }

    def cell(tag: str, i: int, text: str) -> str:
        number = ' class="number"' if i in figures else ""
        return f"<{tag}{number}>{_text(text)}</{tag.split()[0]}>"

    body = []
    for row in rows:
        cells = [cell("td" if i else 'th scope="row"', i, text) for i, text in enumerate(row)]
        body.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(cell('th scope="col"', i, text) for i, text in enumerate(header))
    name = heading.lower().replace(" ", "-")
    return (
        f'<section aria-labelledby="{name}">\n<h2 id="{name}">{heading}</h2>\n'
        f'<div class="table" role="region" aria-labelledby="{name}" tabindex="0">\n'
        f"<table>\n<thead><tr>{head}</tr></thead>\n"
        f"<tbody>\n{chr(10).join(body)}\n</tbody>\n</table>\n</div>\n</section>"
    )


def _notes(notes: list[str]) -> str:
    """A list; of more than FOLDED notes one that unfolds, so that the pictures come first."""
    if not notes:
        return ""
    items = "".join(f"<li>{_text(note)}</li>\n" for note in notes)
    told = f'<ul class="notes">\n{items}</ul>'
    if len(notes) <= FOLDED:
        return told
    line = "<summary>What the figures mean, and what is missing</summary>"
    return f"<details>\n{line}\n{told}\n</details>"


def _is_figure(text: str) -> bool:
    return re.match(r"[-+−±<>≤≥~]?\s*[\d.∞]|[-–—]?$", text) is not None


def _card(card: Card, number: int) -> str:
    """One item of the list of pictures."""
    name, verdict = _text(card.name), "within" if card.within_eps else "outside"
    side = f"{card.lr.width}×{card.lr.height}"
    seconds = f"{card.seconds:.1f} s" if math.isfinite(card.seconds) else "unknown"
    facts = {"L2": _figure(card.l2), "eps": f"{card.eps:g}", "time": seconds, "seed": card.seed}
    if card.group:
        facts["group"] = _text(card.group)
    told = "".join(f"<div><dt>{term}</dt><dd>{fact}</dd></div>" for term, fact in facts.items())
    return f"""\
<li class="card" data-verdict="{verdict}" data-group="{_text(card.group)}" data-l2="{card.l2}" \
data-seconds="{card.seconds}" data-seed="{card.seed}"><article aria-labelledby="name{number}">
<div class="pair">
<span class="input">{_image(card.lr, f"Input: {side} pixels, enlarged")}\
<small aria-hidden="true">input</small></span>
<span class="result">{_image(card.hr, "Result: an imaginary face", mark=True)}\
<small aria-hidden="true">result</small></span>
<input type="range" min="0" max="100" value="50" aria-label="Input over result, {name}">
</div>
<h3 id="name{number}"><bdi>{name}</bdi></h3>
<p class="verdict {verdict}">{verdict} eps</p>
{curve_drawing(card.curve, card.eps, number)}
<dl>{told}</dl>
</article></li>
"""


def _figure(l2: float) -> str:
    if not math.isfinite(l2):
        return "not finite"
    return f"{l2:.1e}" if 0 < l2 < 1e-4 else f"{l2:.5f}"


def _image(picture: Image.Image, alt: str, mark: bool = False) -> str:
    """An <img> that holds `picture`; with `mark`, a copy saved from it says that it is imaginary,
    as the results do.
    """
    bare = picture.convert("RGB")
    bare.info = {}  # Pillow would write a profile or EXIF found there
    content = io.BytesIO()
    if max(bare.size) <= LOSSLESS:
        chunks = PngImagePlugin.PngInfo()
        if mark:
            chunks.add_text("Description", IMAGINARY)
            chunks.add_itxt("XML:com.adobe.xmp", XMP)
        bare.save(content, "PNG", pnginfo=chunks, optimize=True)
        kind = "png"
    else:
        bare.save(content, "WEBP", **WEBP, xmp=XMP.encode() if mark else b"")
        kind = "webp"
    data = base64.b64encode(content.getvalue()).decode()
    return (
        f'<img src="data:image/{kind};base64,{data}" width="{bare.width}" height="{bare.height}" '
        f'alt="{alt}" loading="lazy" decoding="async">'
    )


def curve_drawing(curve: list[float | None], eps: float, number: int) -> str:
    """L2 over the steps as an inline SVG: logarithmic, decades as thin lines, eps as a dashed one.

    Steps whose L2 is None or not finite are gaps. `number` makes ids unique on the page.
    """
    steps = [
        (step, value)
        for step, value in enumerate(curve)
        if value is not None and math.isfinite(value)
    ]
    if not steps:
        return '<p class="missing">There is no L2 of the steps.</p>'
    heights = [value for value in (*(value for _, value in steps), eps) if value > 0] or [1.0]
    # To half decades, and one and a half at least: two decades are within then, and labelled.
    top = math.ceil(2 * math.log10(max(heights))) / 2
    bottom = math.floor(2 * math.log10(min(heights))) / 2
    bottom = max(min(bottom, top - 1.5), top - MOST_DECADES)

    def x(step: int) -> float:
        return LEFT + (RIGHT - LEFT) * step / max(len(curve) - 1, 1)

    def y(value: float) -> float:
        decade = math.log10(value) if value > 0 else bottom
        return BOTTOM - (BOTTOM - TOP) * (max(decade, bottom) - bottom) / (top - bottom)

    axes = []
    decades = range(math.ceil(bottom), math.floor(top) + 1)
    for decade in decades:
        at = y(10.0**decade)
        axes.append(f'<path class="axis" d="M{LEFT} {at:.1f}H{RIGHT}"/>')
        if len(decades) <= 5 or decade % 2 == 0:
            label = f"{10.0**decade:g}".replace("e-0", "e−")
            axes.append(f'<text x="{LEFT - 5}" y="{at + 3.5:.1f}" text-anchor="end">{label}</text>')
    if eps > 0:
        axes.append(f'<path class="eps" d="M{LEFT} {y(eps):.1f}H{RIGHT}"/>')
        axes.append(f'<text x="{RIGHT + 4}" y="{y(eps) + 3.5:.1f}">eps</text>')

    stride = -(-len(steps) // MOST_POINTS)
    line, gaps = [], None
    for i in [*range(0, len(steps) - 1, stride), len(steps) - 1]:
        step, value = steps[i]
        if gaps == step - i:  # as many missing steps before this point as before the last
            line.append(f"L{x(step):.1f} {y(value):.1f}")
        else:
            line.append(f"M{x(step):.1f} {y(value):.1f}h0")  # a dot, should it stand alone
        gaps = step - i
    lowest = min(steps, key=lambda item: item[1])
    last = len(curve) - 1
    return f"""\
<svg class="curve" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" \
aria-labelledby="curve{number}" aria-describedby="told{number}">
<title id="curve{number}">L2 over the steps, on a logarithmic scale</title>
<desc id="told{number}">{_figure(steps[0][1])} at step {steps[0][0]}, lowest \
{_figure(lowest[1])} at step {lowest[0]}, {_figure(steps[-1][1])} at step {steps[-1][0]}; \
eps is {eps:g}.</desc>
{"".join(axes)}
<path class="line" d="{"".join(line)}"/>
<text x="{LEFT}" y="{HEIGHT - 8}">0</text>
<text x="{(LEFT + RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">L2 over the steps</text>
<text x="{RIGHT}" y="{HEIGHT - 8}" text-anchor="end">{last}</text>
</svg>"""
