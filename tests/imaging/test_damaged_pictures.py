"""Pictures damaged at random: read or refused, by a process of their own, which tells how long
every file took and how much memory.
"""

import random
from pathlib import Path

import numpy as np
from conftest import PEAK, lines_of, needs_proc
from PIL import Image

KINDS = ("png", "jpg", "webp", "bmp", "gif", "tif")

READS = (
    PEAK
    + """
import json, sys, time
from cli.errors import UserError, escaped
from imaging.pictures import read_picture

for path in json.load(sys.stdin):
    started = time.monotonic()
    try:
        picture = read_picture(path)
        answer = picture.mode
    except UserError as error:
        answer = escaped(error)  # as it is printed
    print(json.dumps([path, answer, time.monotonic() - started, peak()]), flush=True)
"""
)


def whole_pictures(folder: Path) -> dict[str, list[bytes]]:
    """Several whole files of each kind: colours, palettes, alpha, many frames, compressions."""
    noise = np.random.default_rng(1).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    rgba = Image.fromarray(noise)
    smooth = Image.linear_gradient("L").resize((48, 48)).convert("RGB")
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("P")
    wide = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [smooth.resize(rgb.size)]}
    variants = {
        "png": [(rgba, {}), (palette, {}), (wide, {}), (smooth, {}), (rgb, frames)],
        "jpg": [(rgb, {}), (grey, {}), (smooth, {"progressive": True}), (rgb.convert("CMYK"), {})],
        "webp": [(rgba, {"lossless": True}), (smooth, {}), (rgb, frames)],
        "bmp": [(rgb, {}), (palette, {}), (grey, {}), (rgba, {})],
        "gif": [(palette, {}), (smooth, {}), (rgb, frames)],
        "tif": [
            *((rgb, {"compression": name}) for name in ("tiff_lzw", "tiff_adobe_deflate", "jpeg")),
            *((grey.convert("1"), {"compression": name}) for name in ("group4", "packbits")),
            (wide, {}),
            (rgba, frames),
        ],
    }
    found: dict[str, list[bytes]] = {}
    for kind, pairs in variants.items():
        for picture, options in pairs:
            path = folder / f"whole.{kind}"
            picture.save(path, **options)
            found.setdefault(kind, []).append(path.read_bytes())
    return found


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """With bytes changed, most of them in the header, or cut, doubled, or filled in places."""
    content = bytearray(whole)
    for _ in range(chance.choice([1, 1, 2, 4, 16, 64])):
        where = chance.randrange(min(len(content), chance.choice([32, 64, 256, 10**9])))
        content[where] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)])
    where = chance.randrange(len(content))
    change = chance.random()
    if change < 0.15:
        del content[where:]
    elif change < 0.25:
        del content[where : where + chance.randrange(1, 64)]
    elif change < 0.35:
        content[where:where] = content[where : where + chance.randrange(1, 256)]
    elif change < 0.4:
        content[where : where + 16] = b"\xff" * 16
    return bytes(content)


@needs_proc
def test_two_thousand_damaged_pictures_never_crash_hang_or_fill_the_memory(tmp_path):
    whole = whole_pictures(tmp_path)
    chance = random.Random(0)
    paths = []
    for i in range(2000):
        kind = KINDS[i % len(KINDS)]
        path = tmp_path / f"{i:04}.{kind}"
        path.write_bytes(damaged(chance.choice(whole[kind]), chance))
        paths.append(path)
    answers = lines_of(READS, paths, tmp_path)
    assert len(answers) == 2000
    read = [answer for _, answer, _, _ in answers if answer == "RGB"]
    assert 200 < len(read) < 1800  # the damage neither spares all nor spoils all
    assert all(answer == "RGB" or len(answer) > 15 for _, answer, _, _ in answers)
    assert all(answer.isprintable() for _, answer, _, _ in answers)
    assert max(answers, key=lambda answer: answer[2])[2] < 5
    assert max(answers, key=lambda answer: answer[3])[3] < 1000  # MB
