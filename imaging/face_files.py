"""A photograph and the files that its faces become: <output_dir>/<photograph>_<face>.png.

photograph = Photograph(Path("anna.jpg"), AlignOptions(output_dir=Path("input")))
if not photograph.is_done():
    photograph.write_faces(FaceFinder(Path("cache")))  # input/anna_0.png, input/anna_1.png, …
"""

from __future__ import annotations

import math
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from cli.errors import UserError
from imaging.degradations import Degradation, face_rng
from imaging.face_choice import FaceChoice
from imaging.face_crop import CROP, FaceFinder, align, central_square, downscale, enlarged
from imaging.face_records import FaceRecord
from imaging.pictures import read_picture
from imaging.provenance import (
    ALIGNED_FACE,
    ALIGNED_FROM,
    ALIGNED_SHA256,
    picture_text,
    storable,
    write_png,
)
from safe_files import sha256
from search_settings import require_seed

SETTINGS = "pulse:align"  # text chunk: the flags that a face was made with
DEGRADED = "pulse:degraded"  # text chunk: what -degrade did to it
DETECTED = "pulse:detected"  # text chunk: how sure the detector was, where there was a choice


@dataclass(frozen=True)
class AlignOptions:
    """How faces are made, the same for every photograph of a run.

    Raises: UserError for values that suit no photograph.
    """

    output_dir: Path
    output_size: int = 32  # pixels a side, a divisor of CROP; 0 keeps the crop
    upscale: float = 1.0  # before faces are searched; more than 1 for small photographs
    choice: FaceChoice = FaceChoice()  # of the faces that are found
    mode: str = "face"  # "resize" takes the central square, without a search
    degradation: Degradation | None = None
    seed: int | None = None  # of the degradation; needed before faces are written
    overwrite: bool = False

    def __post_init__(self):
        size, factor = self.output_size, self.upscale
        if size != 0 and (size < 2 or CROP % size):
            raise UserError(
                f"-output_size {size} does not divide {CROP}: give 2, 4, 8, 16, 32, 64, 128, 256 "
                f"or 512, or 0 to keep the crop"
            )
        if not 0 < factor < math.inf:
            raise UserError(f"-upscale {factor:g} is no factor: give a number above 0, such as 2")
        if self.mode == "resize" and factor != 1:
            raise UserError("-upscale is for the search for faces: leave it out with -mode resize")
        if self.mode == "resize" and self.choice != FaceChoice():
            flags = "-faces and -min_size are"
            raise UserError(f"{flags} for the search for faces: leave them out with -mode resize")
        if self.seed is not None and self.degradation is None:
            raise UserError(
                "-seed is for -degrade: leave it out, or add for example -degrade motion:100"
            )
        if self.seed is not None:
            require_seed(self.seed)

    def flags(self) -> str:
        """The flags that decide what a face looks like, as its text chunk holds them."""
        flags = f"-mode {self.mode} -output_size {self.output_size} -upscale {self.upscale:g}"
        degrade = f" -degrade {self.degradation} -seed {self.seed}" if self.degradation else ""
        return flags + self.choice.flags() + degrade


def settled_seed(photographs: list[Path], options: AlignOptions) -> tuple[int, str]:
    """A seed for options.degradation where none was given, and where it is from: the one that
    existing faces of these photographs were degraded with, so that they are kept, or a new one.
    """
    for path in [] if options.overwrite else photographs:
        flags = picture_text(Photograph(path, options).target(0)).get(SETTINGS, "")
        kind, _, seed = _degraded(flags).partition(" -seed ")
        if kind == str(options.degradation) and seed.isdecimal():
            return int(seed), "that of the faces which are there"
    return secrets.randbelow(2**31), "drawn"


def _degraded(flags: str) -> str:
    """`gaussian:25 -seed 7`, of the flags that a face was made with; "" without a degradation."""
    return flags.partition(" -degrade ")[2]


Made = tuple[Image.Image, dict[str, str], FaceRecord]  # a face, its text chunks, what is known


@dataclass(frozen=True)
class Photograph:
    """A photograph, and its faces as files. Faces are numbered from 0, left to right."""

    path: Path
    options: AlignOptions

    def target(self, face: int) -> Path:
        """The file of that face."""
        return self.options.output_dir / f"{self.path.stem}_{face}.png"

    def marks(self) -> dict[str, str]:
        """What the text chunks of all its faces say. Raises: OSError."""
        return {
            ALIGNED_FROM: storable(self.path.name),
            ALIGNED_SHA256: sha256(self.path),
            SETTINGS: self.options.flags(),
        }

    def is_done(self) -> bool:
        """Whether face 0, which is written last, exists, of this photograph and these options."""
        text = picture_text(self.target(0))
        try:
            return bool(text) and self.marks().items() <= text.items()
        except OSError:
            return False

    def write_faces(self, finder: FaceFinder | None) -> list[FaceRecord]:
        """Write its faces, or without a finder its central square; return what is known of each.

        Raises: UserError; nothing is written then, unless the disk is full.
        """
        self._require_replaceable(self.target(0))  # before the search, which takes seconds
        try:
            faces = self._faces(finder)
        except UserError:
            raise
        except MemoryError:
            raise UserError("it does not fit into memory: make it smaller first") from None
        except (RuntimeError, ValueError) as error:  # dlib's errors, and PyTorch's without memory
            why = f"{type(error).__name__}: {error}"
            raise UserError(f"its face cannot be cut out ({why}): try -mode resize") from None
        for face in range(len(faces)):
            self._require_replaceable(self.target(face))
        try:
            marks = self.marks()
            for picture, text, record in reversed(faces):  # face 0 last: where it exists, all do
                text = marks | {ALIGNED_FACE: str(record.face)} | text
                write_png(self.target(record.face), picture, text)
            stale = len(faces)
            while self._is_face(self.target(stale)):  # of an earlier run that found more
                self.target(stale).unlink()
                stale += 1
        except OSError as error:
            raise UserError(
                f"its faces cannot be written to {self.options.output_dir} ({error.strerror}): "
                f"make room there and run this again"
            ) from None
        return [record for _, _, record in faces]

    def _faces(self, finder: FaceFinder | None) -> list[Made]:
        """Every face, degraded and downscaled, with text chunks of its own. Raises: UserError."""
        degradation, size = self.options.degradation, self.options.output_size
        faces = []
        for crop, record in self._crops(finder):
            text = {}
            if record.turned or self.options.choice != FaceChoice():
                text[DETECTED] = record.detail()
            if degradation:
                rng = face_rng(self.options.seed, self.path.name, record.face)
                crop, detail = degradation.of_hr(crop, rng)
                text[DEGRADED] = f"{degradation}, seed {self.options.seed}{detail}"
            if size not in (0, crop.width):
                crop = downscale(crop, size)
            crop = degradation.of_lr(crop, rng) if degradation else crop
            faces.append((crop, text, record))
        return faces

    def _crops(self, finder: FaceFinder | None) -> list[tuple[Image.Image, FaceRecord]]:
        """The square around every face that is wanted, or without a finder the central one.
        Raises: UserError.
        """
        photo, scale = read_picture(self.path, reduce=True), self.options.upscale
        if finder is None:
            square = central_square(photo, self.options.output_size)
            return [(square, FaceRecord(self.target(0).name, self.path.name, 0))]
        found = self.options.choice.in_photograph(finder, enlarged(photo, scale), scale)
        return [
            (
                align(found.photo, face.landmarks),
                FaceRecord(
                    self.target(number).name,
                    self.path.name,
                    number,
                    round(face.score, 3),
                    round(face.width / scale, 1),
                    found.turn,
                    found.number,
                ),
            )
            for number, face in enumerate(found.faces)
        ]

    def _is_face(self, file: Path) -> bool:
        return picture_text(file).get(ALIGNED_FROM) == storable(self.path.name)

    def _require_replaceable(self, file: Path) -> None:
        """Raises: UserError where `file` is not a face of this photograph, or one that was degraded
        in another way.
        """
        if not os.path.lexists(file):
            return
        if not self._is_face(file):
            raise UserError(f"{file} is there and is not a face of it: move or rename one of them")
        before = _degraded(picture_text(file).get(SETTINGS, ""))
        if before != _degraded(self.options.flags()) and not self.options.overwrite:
            was = f"degraded by {before}" if before else "not degraded"
            raise UserError(f"{file} is there, {was}: give another -output_dir, or -overwrite")
