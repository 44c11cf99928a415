"""A comparison sheet: LR, its bicubic enlargement and every result of a search on one picture.

    sheet = comparison_sheet(LR, [(HR, small, "seed 1", True)], "anna.png", "Made by PULSE.")

From Pillow pictures to a Pillow picture; no file is read or written.
"""

from __future__ import annotations

import textwrap
import unicodedata

from PIL import Image, ImageDraw, ImageFont

TILE, GAP, MARGIN = 256, 16, 32  # pixels of a comparison sheet
PER_ROW = 6  # LR, bicubic and four results, or six results
INK, FAINT = "#1a1a1a", "#666666"
WITHIN, OUTSIDE = "#1c6b3a", "#9b1c1c"  # within and outside eps; both dark enough for white
IN_ASCII = str.maketrans({"×": "x", "–": "-", "’": "'", "→": "->"})


def comparison_sheet(
    lr: Image.Image,
    results: list[tuple[Image.Image, Image.Image, str, bool]],
    title: str,
    note: str,
) -> Image.Image:
    """LR, its bicubic enlargement, and every result over its own downscaled version, on white.

    results: (HR, HR downscaled to the size of LR, caption, within eps). LR and the downscaled
    pictures have hard pixels, for the eye to compare; within eps is shown by word and by colour.
    """
    side = f"{lr.width}x{lr.height}"
    # (upper picture, lines of its caption with their colours, lower picture)
    cells = [
        (_tile(lr, Image.Resampling.NEAREST), [(f"LR {side}", INK)], None),
        (_tile(lr, Image.Resampling.BICUBIC), [("bicubic", INK)], None),
    ]
    for hr, small, caption, within_eps in results:
        resample = Image.Resampling.LANCZOS if hr.width > TILE else Image.Resampling.BICUBIC
        verdict = ("within eps", WITHIN) if within_eps else ("outside eps", OUTSIDE)
        lower = _tile(small, Image.Resampling.NEAREST)
        cells.append((_tile(hr, resample), [(caption, INK), verdict], lower))

    rows = -(-len(cells) // PER_ROW)
    columns = -(-len(cells) // rows)  # rows of even length
    width = 2 * MARGIN + columns * (TILE + GAP) - GAP
    # Drawn on a sheet that is long enough, then cropped.
    sheet = Image.new("RGB", (width, 4 * MARGIN + 600 + rows * (2 * TILE + 400)), "white")
    draw = ImageDraw.Draw(sheet)
    y = _write(draw, MARGIN, MARGIN, title, 26, width - 2 * MARGIN, INK) + GAP
    for start in range(0, len(cells), columns):
        row = cells[start : start + columns]
        below = y + TILE
        for i, (upper, caption, _) in enumerate(row):
            x = MARGIN + i * (TILE + GAP)
            sheet.paste(upper, (x, y))
            line_y = y + TILE + 8
            for line, colour in caption:
                line_y = _write(draw, x, line_y, line, 17, TILE, colour)
            below = max(below, line_y)
        y = below + 8
        for i, (_, _, lower) in enumerate(row):
            if lower is not None:
                sheet.paste(lower, (MARGIN + i * (TILE + GAP), y))
        if start == 0:
            hint = f"Below each result: the same picture downscaled to {side}, to hold against LR."
            _write(draw, MARGIN, y, hint, 17, 2 * TILE + GAP, FAINT)
        y += TILE + GAP + 8
    y = _write(draw, MARGIN, y, note, 15, width - 2 * MARGIN, FAINT)
    return sheet.crop((0, 0, width, y + MARGIN))


def _tile(picture: Image.Image, resample: Image.Resampling) -> Image.Image:
    return picture.convert("RGB").resize((TILE, TILE), resample)


def _write(
    draw: ImageDraw.ImageDraw, x: int, y: int, text: str, size: int, width: int, colour: str
) -> int:
    """Write `text`, wrapped to `width` pixels; return the y below it."""
    font = ImageFont.load_default(size)
    # Pillow's own font has hardly more than ASCII, and a system may have no other.
    text = unicodedata.normalize("NFKD", text.translate(IN_ASCII))
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = text.encode("ascii", "replace").decode()
    for line in text.splitlines():
        letters = max(int(len(line) * width / max(draw.textlength(line, font), 1)) - 1, 8)
        for part in textwrap.wrap(line, letters) if letters < len(line) else [line]:
            draw.text((x, y), part, fill=colour, font=font)
            y += round(size * 1.35)
    return y
