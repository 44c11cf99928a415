"""Which faces are taken, and which way up a photograph is; a stand-in for the detector knows where
they are.
"""

import numpy as np
import pytest
from PIL import Image

from cli.errors import UserError
from imaging.face_choice import TURNS, FaceChoice, by_size
from imaging.face_crop import Face

UPRIGHT = Image.new("RGB", (30, 20))
UPRIGHT.putpixel((0, 0), (255, 0, 0))


def face(width: float, score: float = 1.0) -> Face:
    return Face(np.zeros((68, 2)), score, width)


class Finder:
    """Finds `faces` of a photograph by where its red pixel is."""

    def __init__(self, **faces: list[Face]):
        self.faces = faces
        self.searched = 0

    def find(self, photo: Image.Image) -> list[Face]:
        self.searched += 1
        right, bottom = photo.width - 1, photo.height - 1
        corners = {"upright": (0, 0), "left": (0, bottom), "head": (right, bottom)}
        for corner, at in (corners | {"right": (right, 0)}).items():
            if photo.getpixel(at)[0] == 255:
                return self.faces.get(corner, [])
        raise AssertionError("not turned by a multiple of 90 degrees")


def test_the_default_takes_every_face_and_says_nothing_in_the_flags():
    faces = [face(10), face(500), face(40, 0.01)]
    assert FaceChoice.parse("all", 0) == FaceChoice() and FaceChoice().flags() == ""
    assert FaceChoice().of(faces) == faces


def test_the_largest_are_taken_and_stay_in_their_order():
    faces = [face(100), face(300), face(200), face(30)]
    assert FaceChoice.parse("largest", 0).of(faces) == [faces[1]]
    assert FaceChoice.parse("2", 0).of(faces) == faces[1:3]
    assert FaceChoice.parse("9", 0).of(faces) == faces
    assert FaceChoice.parse("largest", 80).flags() == " -faces 1 -min_size 80"


def test_of_one_size_the_surer_one_is_the_larger():
    badge, person, small = face(91, 0.12), face(90, 1.16), face(75, 3.0)
    assert by_size([badge, small, person]) == [person, badge, small]
    assert FaceChoice(1).of([badge, person, small]) == [person]
    badge, person = face(90, 0.12), face(91, 1.16)
    assert by_size([badge, person]) == [person, badge]


def test_the_smallest_size_is_of_the_photograph_as_it_was_before_it_was_enlarged():
    faces = [face(79), face(80)]
    assert FaceChoice(None, 80).of(faces) == faces[1:]
    assert FaceChoice(None, 40).of(faces, scale=2) == faces[1:]


@pytest.mark.parametrize("faces", ["none", "0", "-1", "1.5", ""])
def test_a_choice_that_cannot_be_is_refused(faces):
    with pytest.raises(UserError, match="all, largest or a number"):
        FaceChoice.parse(faces, 0)
    with pytest.raises(UserError, match="-min_size"):
        FaceChoice.parse("all", -1)


@pytest.mark.parametrize(("lies", "turn"), [("left", 90), ("head", 180), ("right", 270)])
def test_a_photograph_is_turned_to_where_its_face_is(lies, turn):
    # Upside down, as a face is seen in it: the turn brings the red pixel to where `lies` says.
    where = {90: "right", 180: "head", 270: "left"}[turn]
    finder = Finder(**{where: [face(50)]})
    found = FaceChoice().in_photograph(finder, UPRIGHT)
    assert (found.turn, found.number, len(found.faces)) == (turn, 1, 1)
    assert finder.searched == 4
    assert np.array_equal(found.photo, np.rot90(np.asarray(UPRIGHT), -turn // 90))


def test_the_turn_with_the_surest_face_is_taken():
    finder = Finder(
        right=[face(50, 0.2), face(50, 0.3)], head=[face(20, 0.9)], left=[face(90, 0.5)]
    )
    assert FaceChoice().in_photograph(finder, UPRIGHT).turn == 180
    assert FaceChoice(None, 80).in_photograph(finder, UPRIGHT).turn == 270


def test_a_photograph_with_a_face_is_not_turned():
    finder = Finder(upright=[face(50, 0.1)], head=[face(50, 3.0)])
    found = FaceChoice().in_photograph(finder, UPRIGHT)
    assert found.turn == 0 and found.photo is UPRIGHT and finder.searched == 1
    assert set(TURNS) == {90, 180, 270}


def test_no_face_and_only_small_faces_are_refused_with_different_words():
    with pytest.raises(UserError, match="no face was found in it, also turned by 90, 180 and 270"):
        FaceChoice().in_photograph(Finder(), UPRIGHT)
    for faces in ({"upright": [face(50)]}, {"left": [face(50)]}):
        with pytest.raises(UserError, match="1 face in it, none at least 80 pixels wide"):
            FaceChoice(None, 80).in_photograph(Finder(**faces), UPRIGHT)
