"""Cards and pages for the tests of the report."""

from __future__ import annotations

from PIL import Image, ImageDraw, ImageFilter

from evaluation.report import Card, write_report

HOSTILE = (
    "<script>window.broken = 1</script>\"'><img src=x onerror='window.broken = 1'> &amp; {{table}}"
)
LONG = "a_name_without_any_place_to_break_it_" * 6
TABLE = [["", "pictures", "within eps", "said of it"], ["PULSE", "8", "50 %", "a word"]]


def face(seed: int, side: int) -> Image.Image:
    """Something like a face: an oval with eyes and mouth before a soft ground, without noise."""
    ground = ((seed * 37) % 256, (seed * 59 + 80) % 256, (seed * 83 + 160) % 256)
    picture = Image.new("RGB", (256, 256), ground)
    draw = ImageDraw.Draw(picture)
    draw.ellipse((60, 30, 196, 226), fill=(150 + seed % 90, 110 + seed % 70, 90 + seed % 50))
    draw.pieslice((50, 10, 206, 200), 180, 360, fill=(seed * 11 % 90, seed * 7 % 60, 30))
    for x in (98, 158):
        draw.ellipse((x - 14, 108, x + 14, 124), fill="white")
        draw.ellipse((x - 7, 109, x + 7, 123), fill=(40, 60 + seed % 60, 70))
    draw.arc((96, 150, 160, 196), 20, 160, fill=(150, 50, 60), width=8)
    return picture.filter(ImageFilter.GaussianBlur(1.5)).resize((side, side), Image.BICUBIC)


def card(number: int, name: str = "", **changes) -> Card:
    """Even numbers are within eps; the higher the number, the lower L2 and the more seconds."""
    fields = {
        "name": name or f"face_{number}",
        "lr": face(number, 16),
        "hr": face(number, 64),
        "l2": (20 - number) / 10_000,
        "eps": 0.002,
        "within_eps": number % 2 == 0,
        "seed": number,
        "seconds": number + 0.5,
        "curve": [0.1 / (step + 1) for step in range(20)],
        "group": "",
    }
    return Card(**{**fields, **changes})


def written(folder, cards, tables=(TABLE,), notes=("a note",), title="A run"):
    path = folder / "report.html"
    write_report(path, title, list(tables), list(notes), cards)
    return path
