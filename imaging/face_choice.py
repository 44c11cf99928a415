"""Which of the faces that the detector finds become pictures, and which way up a photograph is.

found = FaceChoice(largest=1, min_size=80).in_photograph(finder, photo)
crops = [align(found.photo, face.landmarks) for face in found.faces]
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from PIL import Image

from cli.errors import UserError
from cli.progress import count
from imaging.face_crop import Face, FaceFinder

# Degrees clockwise that stand a photograph upright which lies on its side or its head.
TURNS = {
    90: Image.Transpose.ROTATE_270,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_90,
}
ALIKE = 0.9  # the detector's squares come in sizes 6/5 apart; within one, widths differ by rounding


@dataclass(frozen=True)
class FoundFaces:
    """What a photograph holds: `photo` is turned by `turn` degrees clockwise, faces are numbered
    from 0, left to right.
    """

    photo: Image.Image
    turn: int
    faces: list[Face]
    number: int = 0  # of all that were found, chosen or not


@dataclass(frozen=True)
class FaceChoice:
    """The faces that are wanted. largest: so many of the largest; None: all. min_size: the least
    width of the detector's square around a face, in pixels of the photograph.
    """

    largest: int | None = None
    min_size: float = 0

    def flags(self) -> str:
        """The flags that decide it, where they are not the defaults."""
        largest = f" -faces {self.largest}" if self.largest else ""
        return largest + f" -min_size {self.min_size:g}" * bool(self.min_size)

    @staticmethod
    def parse(faces: str, min_size: int) -> FaceChoice:
        """From the flags -faces and -min_size. Raises: UserError."""
        if min_size < 0:
            raise UserError(f"-min_size {min_size} is no size: give pixels, such as 80")
        if faces == "all":
            return FaceChoice(None, min_size)
        if faces == "largest":
            return FaceChoice(1, min_size)
        if not re.fullmatch("0*[1-9][0-9]{0,8}", faces):
            raise UserError(f"-faces {faces} is no choice: give all, largest or a number above 0")
        return FaceChoice(int(faces), min_size)

    def of(self, faces: list[Face], scale: float = 1) -> list[Face]:
        """The chosen ones, in their order. scale: how much the photograph was enlarged."""
        large = [face for face in faces if face.width >= self.min_size * scale]
        chosen = by_size(large)[: self.largest]
        return [face for face in large if face in chosen]

    def in_photograph(self, finder: FaceFinder, photo: Image.Image, scale: float = 1) -> FoundFaces:
        """The chosen faces of `photo`; where it shows none, those of the turn whose best face has
        the highest score.

        scale: how much it was enlarged. Raises: UserError where no turn shows one.
        """
        found = finder.find(photo)
        chosen = self.of(found, scale)
        if chosen:
            return FoundFaces(photo, 0, chosen, len(found))
        best, seen = FoundFaces(photo, 0, []), len(found)
        for turn, transposed in TURNS.items():
            turned = photo.transpose(transposed)
            here = finder.find(turned)
            chosen, seen = self.of(here, scale), max(seen, len(here))
            if chosen and (not best.faces or top_score(chosen) > top_score(best.faces)):
                best = FoundFaces(turned, turn, chosen, len(here))
        if best.faces:
            return best
        if seen:
            raise UserError(
                f"{count(seen, 'face')} in it, none at least {self.min_size:g} pixels wide: give a "
                f"smaller -min_size"
            )
        raise UserError(
            "no face was found in it, also turned by 90, 180 and 270 degrees: try -upscale 2 for a "
            "small photograph, -mode resize for one that is aligned already"
        )


def by_size(faces: list[Face]) -> list[Face]:
    """The largest first; of those of one size of the detector the one with the highest score."""
    waiting, ordered = sorted(faces, key=lambda face: -face.width), []
    while waiting:
        alike = [face for face in waiting if face.width > ALIKE * waiting[0].width]
        ordered += sorted(alike, key=lambda face: -face.score)
        waiting = waiting[len(alike) :]
    return ordered


def top_score(faces: list[Face]) -> float:
    return max(face.score for face in faces)
