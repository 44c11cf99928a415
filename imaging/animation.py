"""A search as a moving picture: its iterates, each with its downscaled version beside it, then the
result for one second.

    film = Film(steps=100, eps=2e-3, folder=Path("runs"))
    film.add(step, l2, HR, LR)                          # for every step that film.wants
    write_animation(Path("runs/animations/anna.gif"), film, best_step, l2, HR, LR)

HR (3, S, S) and LR (3, h, h) are tensors in [0, 1], as the search yields them.
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

from PIL import Image, ImageColor, ImageDraw, ImageFont

from cli.errors import UserError
from imaging.pictures import to_picture
from imaging.provenance import IMAGINARY, XMP
from imaging.sheet import INK, OUTSIDE, WITHIN
from safe_files import atomic_write

KINDS = ("gif", "webp", "mp4")
SIDES = (512, 384, 256, 192)  # pixels of HR as it is shown; the first that fits
MAX_BYTES = 5_000_000
GOAL = 2_500_000  # bytes: beyond it, frames are left out as long as there are ENOUGH
MAX_FRAMES = 100
ENOUGH = 40  # frames: sooner than fewer, smaller ones are made
SAMPLE = 6  # frames from which the size of all is estimated
RESULT_MS = 1000

Frames = Callable[[], Iterator[Image.Image]]  # pages, anew at every call: they are large


class Film:
    """The iterates of one search, at most MAX_FRAMES, evenly spread over its steps.

    They wait on the disk, in a file without a name in `folder`: in memory, those of a large batch
    would need gigabytes. It goes with the film. Raises: OSError.
    """

    def __init__(self, steps: int, eps: float, folder: Path):
        self.eps = eps
        self.wanted = set(spread(steps, MAX_FRAMES))
        self.file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
        self.frames: list[tuple[int, float]] = []  # step, L2
        self.sizes: list[tuple[int, int]] = []  # of HR and LR as they are kept

    def __len__(self) -> int:
        return len(self.frames)

    def wants(self, step: int) -> bool:
        """Whether the iterate of that step is one of those that are shown."""
        return step in self.wanted

    def add(self, step: int, l2: float, HR, LR) -> None:
        """Keep an iterate, in 8 bits and no larger than it is shown."""
        pair = _no_larger(to_picture(HR)), to_picture(LR)
        self.file.seek(0, os.SEEK_END)
        for picture in pair:
            self.file.write(picture.tobytes())
        self.sizes = [picture.size for picture in pair]
        self.frames.append((step, l2))

    def pair(self, number: int) -> list[Image.Image]:
        """HR and LR of frame `number`, from 0."""
        lengths = [3 * width * height for width, height in self.sizes]
        self.file.seek(number * sum(lengths))
        return [
            Image.frombytes("RGB", size, self.file.read(length))
            for size, length in zip(self.sizes, lengths, strict=True)
        ]

    def shown(self, number: int, side: int) -> Image.Image:
        """Frame `number` as it is shown, HR with `side` pixels."""
        step, l2 = self.frames[number]
        return _frame(*self.pair(number), side, f"step {step}: L2 {l2:.5f}", l2 <= self.eps)


def require_encoder(kind: str) -> None:
    """Raises: UserError where what writes that kind of file is not installed."""
    if kind == "mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise UserError(
            "-animation mp4 needs imageio-ffmpeg, which is not installed: `pip install "
            "imageio-ffmpeg`, or use -animation webp or gif"
        )


def write_animation(
    path: Path, film: Film, step: int, l2: float, HR, LR, max_bytes: int = MAX_BYTES
) -> None:
    """Write film and result, at most `max_bytes`: with fewer frames or smaller ones, if need be;
    with fewer also to stay below GOAL, while there are ENOUGH.

    The suffix of `path` says which kind. Raises: OSError.
    """
    kind = path.suffix.removeprefix(".")
    best = _no_larger(to_picture(HR)), to_picture(LR)
    caption = f"result, step {step}: L2 {l2:.5f}"

    def encoded(side: int, numbers: list[int]) -> bytes:
        def frames() -> Iterator[Image.Image]:
            return (film.shown(number, side) for number in numbers)

        last = _frame(*best, side, caption, l2 <= film.eps)
        each_ms = min(max(5000 // max(len(numbers), 1), 50), 200) // 10 * 10  # GIF has hundredths
        return _ENCODERS[kind](frames, last, each_ms)

    for side in SIDES:
        middle = range(len(film))[max(len(film) - SAMPLE, 0) // 2 :][:SAMPLE]
        sample = len(encoded(side, list(middle))) / (len(middle) + 1)
        fitting = [int(size / sample) - 1 for size in (GOAL, max_bytes)]
        number = min(len(film), max(fitting[0], ENOUGH), fitting[1])
        if number >= min(len(film), ENOUGH):
            break
    number = max(number, 1)
    while len(content := encoded(side, spread(len(film), number))) > max_bytes and number > 1:
        number = max(min(int(number * max_bytes / len(content)), number - 1), 1)
    with atomic_write(path) as file:
        file.write(content)


def spread(count: int, number: int) -> list[int]:
    """At most `number` of 0 … count − 1, evenly spread; the first and the last among them, or of
    one the last.
    """
    number = min(number, count)
    if number < 2:
        return [count - 1]
    return [round((count - 1) * i / (number - 1)) for i in range(number)]


def _no_larger(picture: Image.Image) -> Image.Image:
    side = min(picture.width, SIDES[0])
    return picture.resize((side, side), Image.Resampling.LANCZOS)


def _frame(
    HR: Image.Image, LR: Image.Image, side: int, caption: str, within_eps: bool
) -> Image.Image:
    """HR, and LR with hard pixels beside it, on white, a caption under each."""
    margin, size = side // 32, max(side // 25, 11)
    # Even, as video wants it.
    page = Image.new("RGB", (2 * side + 4 * margin, side + 2 * margin + 2 * size), "white")
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
    shrunk = HR.resize(
        (side, side), Image.Resampling.LANCZOS if HR.width > side else Image.Resampling.BICUBIC
    )
    page.paste(shrunk, (margin, margin))
    page.paste(LR.resize((side, side), Image.Resampling.NEAREST), (side + 3 * margin, margin))
    y = side + margin + size // 2
    draw.text((margin, y), caption, fill=WITHIN if within_eps else OUTSIDE, font=font)
    told = f"downscaled to {LR.width}x{LR.height}"
    draw.text((side + 3 * margin, y), told, fill=INK, font=font)
    return page


def _gif(frames: Frames, last: Image.Image, each_ms: int) -> bytes:
    # The iterates share a palette: what does not change from one to the next then costs nothing.
    # The result has its own, so that its colours are as near as they can be.
    shared = _palette(list(itertools.islice(frames(), 0, None, 4)))
    pages = [_in_colours(page, shared) for page in frames()]
    pages.append(_in_colours(last, _palette([last])))
    return _saved(pages, "GIF", each_ms, comment=IMAGINARY.encode())


def _palette(pages: list[Image.Image]) -> Image.Image:
    """A picture whose palette fits those pages, all of one size, and the captions."""
    width, height = pages[0].width // 4, pages[0].height // 4  # enough, in a sixth of the time
    strip = Image.new("RGB", (width * len(pages), height))
    for i, page in enumerate(pages):
        strip.paste(page.resize((width, height), Image.Resampling.NEAREST), (i * width, 0))
    colours = strip.quantize(240, kmeans=1).getpalette()[: 3 * 240]
    for ink in (INK, WITHIN, OUTSIDE):  # of the captions, and white as it is
        for share in (0, 0.25, 0.5, 0.75, 1):
            colours += [round(255 + share * (part - 255)) for part in ImageColor.getrgb(ink)]
    palette = Image.new("P", (1, 1))
    palette.putpalette(colours)
    return palette


def _in_colours(page: Image.Image, palette: Image.Image) -> Image.Image:
    """Without dithering: its grain would treble the file, and unsettle the hard pixels of LR."""
    return page.quantize(palette=palette, dither=Image.Dither.NONE)


def _webp(frames: Frames, last: Image.Image, each_ms: int) -> bytes:
    return _saved([*frames(), last], "WEBP", each_ms, xmp=XMP.encode(), quality=80, method=3)


def _saved(pages: list[Image.Image], form: str, each_ms: int, **options) -> bytes:
    file = io.BytesIO()
    durations = [each_ms] * (len(pages) - 1) + [RESULT_MS]
    pages[0].save(
        file, form, save_all=True, append_images=pages[1:], duration=durations, loop=0, **options
    )
    return file.getvalue()


def _mp4(frames: Frames, last: Image.Image, each_ms: int) -> bytes:
    from imageio_ffmpeg import write_frames

    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "animation.mp4")
        writer = write_frames(
            path,
            last.size,
            fps=1000 / each_ms,
            codec="libx264",
            quality=6,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=["-movflags", "+faststart", "-metadata", f"comment={IMAGINARY}"],
        )
        try:
            writer.send(None)
            for frame in frames():
                writer.send(frame.tobytes())
            for _ in range(RESULT_MS // each_ms):
                writer.send(last.tobytes())
            writer.close()
            return Path(path).read_bytes()
        except OSError as error:
            raise OSError(errno.EIO, f"ffmpeg failed: {str(error).splitlines()[0]}") from None


_ENCODERS = {"gif": _gif, "webp": _webp, "mp4": _mp4}
