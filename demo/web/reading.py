"""A photograph becomes squares, and a square the LR picture, as align_face.py makes them."""

from __future__ import annotations

import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from cli.errors import UserError
from imaging.face_crop import FaceFinder, central_square, downscale
from imaging.face_files import AlignOptions, Photograph
from imaging.pictures import read_picture

SMALL = 64  # pixels: a square picture no larger is an LR picture already
SMALL_FILE = 1_000_000  # bytes: a larger one is a photograph
MAX_SQUARE = 4096  # pixels a side of a central square: it is kept in memory

FACES, ENLARGED, SQUARE = "find the faces", "enlarge it ×2, then find the faces", "central square"
READINGS = {  # as align_face.py's flags have it
    FACES: {},
    ENLARGED: {"upscale": 2.0},
    SQUARE: {"mode": "resize"},
}


class Reader:
    """Reads photographs as align_face.py does, one after another, in a thread of its own."""

    def __init__(self, cache_dir: Path):
        self.cache_dir = cache_dir
        self.thread = ThreadPoolExecutor(1)
        self.finder: FaceFinder | None = None

    def squares(self, path: Path, reading: str) -> list[Image.Image]:
        """What the photograph `path` becomes: the FFHQ crop of every face, left to right; its
        central square; a small square picture, itself. Raises: UserError.
        """
        changes = READINGS[reading]
        if reading == SQUARE or path.stat().st_size <= SMALL_FILE:
            width, height = read_picture(path).size
            if width == height <= SMALL:
                return [read_picture(path)]
            if reading == SQUARE and min(width, height) > MAX_SQUARE:
                raise UserError(
                    f"its central square has {min(width, height)} pixels a side, more than "
                    f"{MAX_SQUARE}, the limit of this page: make it smaller first, or use "
                    f"align_face.py"
                )
        finder = None
        if reading != SQUARE:
            finder = self.finder = self.finder or FaceFinder(self.cache_dir)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            photograph = Photograph(path, AlignOptions(Path(folder), output_size=0, **changes))
            photograph.write_faces(finder)
            files = itertools.takewhile(Path.exists, map(photograph.target, itertools.count()))
            return [read_picture(file) for file in files]


def lr_of(square: Image.Image, side: int) -> Image.Image:
    """The LR picture that align_face.py -output_size `side` makes. Raises: UserError."""
    square = central_square(square, side)
    return square if square.width == side else downscale(square, side)
