"""The face files of a photograph: which they are, when they are complete, what stops them."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from PIL import Image

from cli.errors import UserError
from imaging.degradations import parse
from imaging.face_choice import FaceChoice
from imaging.face_crop import FaceFinder
from imaging.face_files import AlignOptions, Photograph, settled_seed
from imaging.face_records import FaceRecord
from imaging.provenance import ALIGNED_FACE, picture_text


@pytest.fixture
def photograph(tmp_path) -> Photograph:
    """anna.png, 64 pixels a side, whose central square becomes faces/anna_0.png."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "anna.png")
    return Photograph(tmp_path / "anna.png", AlignOptions(tmp_path / "faces", mode="resize"))


def changed(photograph: Photograph, **changes) -> Photograph:
    return replace(photograph, options=replace(photograph.options, **changes))


def test_a_photograph_is_done_by_its_own_faces_with_the_same_flags(photograph):
    assert not photograph.is_done()
    assert photograph.write_faces(None) == [FaceRecord("anna_0.png", "anna.png", 0)]
    face = photograph.target(0)
    assert face == photograph.path.parent / "faces" / "anna_0.png"
    assert picture_text(face) == {**photograph.marks(), ALIGNED_FACE: "0"}
    assert photograph.is_done() and not changed(photograph, output_size=16).is_done()
    assert changed(photograph, overwrite=True).is_done()
    Image.new("RGB", (64, 64)).save(photograph.path)  # another photograph of that name
    assert not photograph.is_done()
    photograph.path.unlink()
    assert not photograph.is_done()


def test_the_seed_of_existing_faces_is_kept_and_otherwise_drawn(photograph):
    options = replace(photograph.options, degradation=parse("gaussian:25"))
    paths = [photograph.path]
    assert settled_seed(paths, options)[1] == "drawn"
    assert settled_seed(paths, options) != settled_seed(paths, options)
    changed(photograph, degradation=options.degradation, seed=7).write_faces(None)
    assert settled_seed(paths, options) == (7, "that of the faces which are there")
    assert options.seed is None
    for other in ({"overwrite": True}, {"degradation": parse("gaussian:26")}):
        assert settled_seed(paths, replace(options, **other))[1] == "drawn"


def test_options_do_not_change_and_fit_at_least_one_photograph(photograph):
    with pytest.raises(FrozenInstanceError):
        photograph.options.seed = 1
    for wrong in (
        *({"output_size": 33}, {"upscale": 0}, {"upscale": 2}, {"seed": 1}),
        {"choice": FaceChoice(1)},  # photograph's mode is resize
    ):
        with pytest.raises(UserError):
            changed(photograph, **wrong)


class Finder(FaceFinder):
    """A face finder that fails."""

    def __init__(self, error: Exception):
        self.error = error

    def find(self, photo):
        raise self.error


def test_an_error_of_dlib_is_one_sentence_and_a_mistake_of_ours_is_not(photograph):
    for kind in (RuntimeError, ValueError):
        sentence = rf"cut out \({kind.__name__}: bad image\): try -mode resize"
        with pytest.raises(UserError, match=sentence):
            photograph.write_faces(Finder(kind("bad image")))
    with pytest.raises(UserError, match="does not fit into memory"):
        photograph.write_faces(Finder(MemoryError()))
    with pytest.raises(AttributeError):
        photograph.write_faces(Finder(AttributeError("a mistake")))
    assert not photograph.target(0).parent.exists()
