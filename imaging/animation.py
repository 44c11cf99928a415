"""An animation of a search: its iterates, each beside its downscaled version, then the result for
one second.

    film = Film(steps=100, eps=2e-3, folder=Path("runs"))
    film.add(step, mse, HR, LR)                         # for every step that film.wants
    write_animation(Path("runs/animations/anna.gif"), film, best_step, mse, HR, LR)

HR (3, S, S) and LR (3, h, h) are tensors in [0, 1], mse their raw L2: mean((DS(HR) − LR)²).
"""

from __future__ import annotations

import errno
import importlib.util
import io
import itertools
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageColor, ImageDraw, ImageFont

from cli.errors import UserError
from imaging.pictures import to_picture
from imaging.provenance import IMAGINARY, XMP
from imaging.sheet import INK, OUTSIDE, WITHIN
from safe_files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("gif", "webp", "mp4")
SIDES = (512, 384, 256, 192)  # pixels a side of HR on a page; the largest that fits
MAX_BYTES = 5_000_000
GOAL = 2_500_000  # bytes: beyond it frames are left out, down to ENOUGH
MAX_FRAMES = 100
ENOUGH = 40  # frames: before they are fewer, they become smaller
SAMPLE = 6  # frames from which the size of all is estimated
RESULT_MS = 1000

Pages = Callable[[], Iterator[Image.Image]]  # drawn at every call: too large to keep


class Film:
    """The iterates of one search, at most MAX_FRAMES, evenly spread over its steps.

    They are kept in a temporary file without a name in `folder`: in memory, those of a large batch
    would need gigabytes. Raises: OSError.
    """

    def __init__(self, steps: int, eps: float, folder: Path):
        self.eps = eps
        self.wanted = set(spread(steps, MAX_FRAMES))
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.frames: list[tuple[int, float]] = []  # step, mse
        self.sizes: list[tuple[int, int]] = []  # of HR and LR in the file

    def __len__(self) -> int:
        return len(self.frames)

    def wants(self, step: int) -> bool:
        """Whether the iterate of that step is shown."""
        return step in self.wanted

    def add(self, step: int, mse: float, HR: Tensor, LR: Tensor) -> None:
        """Keep an iterate, in 8 bits and no larger than it is shown."""
        pair = _no_larger(to_picture(HR)), to_picture(LR)
        self.file.seek(0, os.SEEK_END)
        for picture in pair:
            self.file.write(picture.tobytes())
        self.sizes = [picture.size for picture in pair]
        self.frames.append((step, mse))

    def pair(self, number: int) -> list[Image.Image]:
        """HR and LR of frame `number`, from 0."""
        self.file.seek(number * sum(3 * w * h for w, h in self.sizes))
        return [Image.frombytes("RGB", (w, h), self.file.read(3 * w * h)) for w, h in self.sizes]

    def page(self, number: int, side: int) -> Image.Image:
        """Frame `number` as it is shown, HR with `side` pixels a side."""
        step, mse = self.frames[number]
        return _page(*self.pair(number), side, f"step {step}: L2 {mse:.5f}", mse <= self.eps)


def require_encoder(kind: str) -> None:
    """Raises: UserError where the package that writes that kind of file is not installed."""
    if kind == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(
            "-animation mp4 needs imageio-ffmpeg, which is not installed: `pip install "
            "imageio-ffmpeg`, or use -animation webp or gif"
        )


def write_animation(
    path: Path, film: Film, step: int, mse: float, HR: Tensor, LR: Tensor, limit: int = MAX_BYTES
) -> None:
    """Write film and result, in the format that the suffix of `path` names: below GOAL with fewer
    frames, down to ENOUGH; in at most `limit` bytes with fewer or smaller ones. Raises: OSError.
    """
    kind = path.suffix.removeprefix(".")
    best = _no_larger(to_picture(HR)), to_picture(LR)
    caption = f"result, step {step}: L2 {mse:.5f}"

    def encoded(side: int, numbers: list[int]) -> bytes:
        def pages() -> Iterator[Image.Image]:
            return (film.page(number, side) for number in numbers)

        last = _page(*best, side, caption, mse <= film.eps)
        each_ms = min(max(5000 // max(len(numbers), 1), 50), 200) // 10 * 10  # GIF has hundredths
        return _ENCODERS[kind](pages, last, each_ms)

    for side in SIDES:
        middle = range(len(film))[max(len(film) - SAMPLE, 0) // 2 :][:SAMPLE]
        sample = len(encoded(side, list(middle))) / (len(middle) + 1)
        fitting = [int(size / sample) - 1 for size in (GOAL, limit)]
        number = min(len(film), max(fitting[0], ENOUGH), fitting[1])
        if number >= min(len(film), ENOUGH):
            break
    number = max(number, 1)
    while len(content := encoded(side, spread(len(film), number))) > limit and number > 1:
        number = max(min(int(number * limit / len(content)), number - 1), 1)
    with atomic_write(path) as file:
        file.write(content)


def spread(count: int, number: int) -> list[int]:
    """At most `number` of 0 … count − 1, evenly spread from the first to the last; if only one, the
    last.
    """
    number = min(number, count)
    if number < 2:
        return [count - 1]
    return [round((count - 1) * i / (number - 1)) for i in range(number)]


def _no_larger(picture: Image.Image) -> Image.Image:
    side = min(picture.width, SIDES[0])
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def _page(
    HR: Image.Image, LR: Image.Image, side: int, caption: str, within_eps: bool
) -> Image.Image:
    """HR, and LR with hard pixels beside it, on white, a caption under each."""
    margin, size = side // 32, max(side // 25, 11)
    # Even numbers of pixels, as video needs them.
    page = Image.new("RGB", (2 * side + 4 * margin, side + 2 * margin + 2 * size), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
    resample = Image.Resampling.LANCZOS if HR.width > side else Image.Resampling.BICUBIC
    page.paste(HR.resize((side, side), resample), (margin, margin))
    page.paste(LR.resize((side, side), Image.Resampling.NEAREST), (side + 3 * margin, margin))
    y = side + margin + size // 2
    draw.text((margin, y), caption, fill=WITHIN if within_eps else OUTSIDE, font=font)
    size_of_lr = f"downscaled to {LR.width}x{LR.height}"
    draw.text((side + 3 * margin, y), size_of_lr, fill=INK, font=font)
    return page


def _gif(pages: Pages, last: Image.Image, each_ms: int) -> bytes:
    # The iterates share a palette: what does not change from one to the next then takes no bytes.
    # The result has its own, for the best colours.
    shared = _palette(list(itertools.islice(pages(), 0, None, 4)))
    quantized = [_quantized(page, shared) for page in pages()]
    quantized.append(_quantized(last, _palette([last])))
    return _saved(quantized, "GIF", each_ms, comment=IMAGINARY.encode())


def _palette(pages: list[Image.Image]) -> Image.Image:
    """A picture with a palette for those pages, all of one size, and for the captions."""
    width, height = pages[0].width // 4, pages[0].height // 4  # enough, in a sixth of the time
    strip = Image.new("RGB", (width * len(pages), height))
    for i, page in enumerate(pages):
        strip.paste(page.resize((width, height), Image.Resampling.NEAREST), (i * width, 0))
    colours = strip.quantize(240, kmeans=1).getpalette()[: 3 * 240]
    for ink in (INK, WITHIN, OUTSIDE):  # of the captions, antialiased down to white
        for share in (0, 0.25, 0.5, 0.75, 1):
            colours += [round(255 + share * (part - 255)) for part in ImageColor.getrgb(ink)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def _quantized(page: Image.Image, palette: Image.Image) -> Image.Image:
    """Without dithering: its grain would treble the file, and blur the hard pixels of LR."""
    return page.quantize(palette=palette, dither=Image.Dither.NONE)


def _webp(pages: Pages, last: Image.Image, each_ms: int) -> bytes:
    return _saved([*pages(), last], "WEBP", each_ms, xmp=XMP.encode(), quality=80, method=3)


def _saved(pages: list[Image.Image], form: str, each_ms: int, **options) -> bytes:
    file = io.BytesIO()
    options |= {"duration": [each_ms] * (len(pages) - 1) + [RESULT_MS], "loop": 0}
    pages[0].save(file, form, save_all=True, append_images=pages[1:], **options)
    return file.getvalue()


def _mp4(pages: Pages, last: Image.Image, each_ms: int) -> bytes:
    from imageio_ffmpeg import write_frames

    h264 = {"codec": "libx264", "quality": 6, "macro_block_size": 2, "ffmpeg_log_level": "error"}
    h264["output_params"] = ["-movflags", "+faststart", "-metadata", f"comment={IMAGINARY}"]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "animation.mp4")
        writer = write_frames(str(path), last.size, fps=1000 / each_ms, **h264)
        try:
            writer.send(None)
            for page in itertools.chain(pages(), [last] * (RESULT_MS // each_ms)):
                writer.send(page.tobytes())
            writer.close()
            return path.read_bytes()
        except OSError as error:
            raise OSError(errno.EIO, f"ffmpeg failed: {str(error).splitlines()[0]}") from None


_ENCODERS = {"gif": _gif, "webp": _webp, "mp4": _mp4}
