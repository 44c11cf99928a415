"""A run as one web page that needs no network: the summary, and a card for each result.

    write_report(Path("report.html"), "PULSE", [[["", "L2"], ["PULSE", "0.0019"]]], [], cards)

report_page.html.j2 is the page, report_page.css its style and report_page.js its script. The page's
content security policy forbids every request, and any script or style but these.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from PIL import Image, PngImagePlugin

from cli.errors import UserError, escaped
from evaluation.per_image import Evaluation
from evaluation.results import Result, read_curve
from imaging.pictures import read_picture
from imaging.provenance import IMAGINARY, XMP
from runner.records import VERSION
from safe_files import atomic_write

PAGE = Path(__file__).with_name("report_page.html.j2")
SIDE = 512  # pixels of a result on the page, at most
LOSSLESS = 128  # pixels: up to this side hard pixels and small faces stay exact, as PNG
WEBP = {"quality": 85, "method": 2}  # above that; twice as fast as method 4, 3 % larger
# Of the drawing of a curve, in units of its own; left of it stand figures, right of it "eps".
AREA = {"width": 300, "height": 106, "left": 42, "right": 274, "top": 8, "bottom": 84}
MAX_DECADES = 8  # what is lower than that is drawn at the bottom
MAX_POINTS = 300  # one per unit of the drawing is enough
FIGURE = re.compile(r"[-+−±<>≤≥~]?\s*[\d.∞]|[-–—]?$")
# No request of any kind, no script and no style but the page's own.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'sha256-{}'; script-src 'sha256-{}'; "
    "base-uri 'none'; form-action 'none'"
)


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
    seed: int | None  # None: older records lack it, and some the seconds
    seconds: float | None
    curve: list[float | None]
    group: str = ""


def write_report(
    path: Path,
    title: str,
    tables: list[list[list[str]]],
    notes: list[str],
    cards: Iterable[Card],
) -> None:
    """Write the page. tables: the summary and, where there is one, that by group, the first row of
    each its header; all texts are taken as plain text.

    Each card is written before the next is taken, so that memory does not grow with their number;
    `path` is whole or untouched. Raises: OSError.
    """
    own = [PAGE.with_name(f"report_page.{kind}").read_text("utf-8") for kind in ("css", "js")]
    digests = [hashlib.sha256(text.encode()).digest() for text in own]
    template = ENVIRONMENT.get_template(PAGE.name)
    page = template.generate(
        policy=POLICY.format(*(base64.b64encode(digest).decode() for digest in digests)),
        style=Markup(own[0]),
        script=Markup(own[1]),
        title=title,
        tables=zip(("Summary", "By group"), tables, strict=False),
        notes=notes,
        cards=enumerate(cards, 1),
        version=VERSION,
    )
    with atomic_write(path) as file:
        for part in page:
            file.write(part.encode())


def cards_of(by_input: Iterable[list[Result]], evaluation: Evaluation) -> Iterator[Card]:
    """A card per result that was measured, its pictures read only now; those whose LR is missing
    are left out. by_input: the results of each input.
    """
    measured = {row["name"] for row in evaluation.rows if row["method"] == "PULSE"}
    for results in by_input:
        LR = evaluation.read_lr(results[0])
        for result in results if LR is not None else []:
            if result.path.stem not in measured:
                continue
            try:
                HR = read_picture(result.path)
            except UserError:  # gone since it was measured
                continue
            HR.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
            yield Card(
                name=result.path.stem,
                lr=LR,
                hr=HR,
                l2=result.l2,
                eps=result.eps,
                within_eps=result.within_eps,
                seed=result.seed,
                seconds=result.seconds,
                curve=read_curve(result.path),
                group=evaluation.groups.get(result.input, ""),
            )


def data_url(picture: Image.Image, imaginary: bool) -> Markup:
    """`picture` as an address that holds it; with `imaginary`, a copy saved from the page says that
    it is, as the results do.
    """
    bare = picture.convert("RGB")
    bare.info = {}  # Pillow would write a profile or EXIF found there
    content = io.BytesIO()
    if max(bare.size) <= LOSSLESS:
        chunks = PngImagePlugin.PngInfo()
        if imaginary:
            chunks.add_text("Description", IMAGINARY)
            chunks.add_itxt("XML:com.adobe.xmp", XMP)
        bare.save(content, "PNG", pnginfo=chunks, optimize=True)
        kind = "png"
    else:
        bare.save(content, "WEBP", **WEBP, xmp=XMP.encode() if imaginary else b"")
        kind = "webp"
    return Markup(f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}")


def draw_curve(curve: list[float | None], eps: float) -> dict | None:
    """What the page draws of the L2 of every step, in the units of AREA; None where none is finite.

    description: for a screen reader; decades: (y, label or "") each; eps: its y, or None; line: a
    path, in which missing steps are gaps; last_step.
    """
    steps = [
        (step, value)
        for step, value in enumerate(curve)
        if value is not None and math.isfinite(value)
    ]
    if not steps:
        return None
    values = [value for value in (*(value for _, value in steps), eps) if value > 0] or [1.0]
    # To half decades, and one and a half at least: two decades are within then, and labelled.
    top = math.ceil(2 * math.log10(max(values))) / 2
    bottom = math.floor(2 * math.log10(min(values))) / 2
    bottom = max(min(bottom, top - 1.5), top - MAX_DECADES)
    width, height = AREA["right"] - AREA["left"], AREA["bottom"] - AREA["top"]

    def point(step: int, value: float) -> str:
        return f"{AREA['left'] + width * step / max(len(curve) - 1, 1):.1f} {y(value):.1f}"

    def y(value: float) -> float:
        decade = math.log10(value) if value > 0 else bottom
        return AREA["bottom"] - height * (max(decade, bottom) - bottom) / (top - bottom)

    decades = range(math.ceil(bottom), math.floor(top) + 1)
    labelled = [decade for decade in decades if len(decades) <= 5 or decade % 2 == 0]
    stride = -(-len(steps) // MAX_POINTS)
    line, gaps = [], None
    for i in [*range(0, len(steps) - 1, stride), len(steps) - 1]:
        step, value = steps[i]
        if gaps == step - i:  # as many missing steps before this point as before the last
            line.append(f"L{point(step, value)}")
        else:
            line.append(f"M{point(step, value)}h0")  # a dot, should it stand alone
        gaps = step - i
    lowest = min(steps, key=lambda item: item[1])
    first, least, last = (
        f"{l2_text(value)} at step {step}" for step, value in (steps[0], lowest, steps[-1])
    )
    return {
        "description": f"{first}, lowest {least}, {last}; eps is {eps:g}.",
        "decades": [
            (y(10.0**n), f"{10.0**n:g}".replace("e-0", "e−") if n in labelled else "")
            for n in decades
        ],
        "eps": y(eps) if eps > 0 else None,
        "line": "".join(line),
        "last_step": len(curve) - 1,
    }


def l2_text(l2: float) -> str:
    """An L2 as the page shows it."""
    if not math.isfinite(l2):
        return "not finite"
    return f"{l2:.1e}" if 0 < l2 < 1e-4 else f"{l2:.5f}"


def columns_of_figures(table: list[list[str]]) -> set[int]:
    """The columns that hold nothing but figures below the header: they are aligned to the right."""
    header, *rows = table
    columns = {i: [row[i] for row in rows if i < len(row)] for i in range(len(header))}
    return {i for i, texts in columns.items() if texts and all(map(FIGURE.match, texts))}


# Of templates whose every text is escaped: what a terminal would obey, then HTML.
ENVIRONMENT = Environment(
    loader=FileSystemLoader(PAGE.parent),
    autoescape=True,
    finalize=lambda value: value if isinstance(value, Markup) else escaped(value),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
ENVIRONMENT.filters.update(
    columns_of_figures=columns_of_figures, data_url=data_url, drawing=draw_curve, l2=l2_text
)
ENVIRONMENT.tests.update(finite=math.isfinite)
ENVIRONMENT.globals.update(area=AREA)
