"""align_face.py: the command on a real photograph, and with -degrade."""

import csv
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import align_face
from cli.command import run_command
from cli.errors import UserError
from imaging.face_crop import enlarged
from imaging.pictures import list_pictures
from imaging.provenance import (
    ALIGNED_FACE,
    ALIGNED_FROM,
    aligned_sources,
    picture_text,
    write_png,
)

# ------------------------------------------------------------ the command


def run_align_face(folder: Path, *flags: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, str(ROOT / "align_face.py"), *flags],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture
def aligned_here(called, tmp_path):
    """`aligned_here("-output_size", "64")`: as `run_align_face(tmp_path, …)`, in this process."""

    return lambda *flags: called("align_face.py", *flags, cwd=tmp_path)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_photograph_becomes_a_marked_face_without_exif(aligned_here, tmp_path, astronaut):
    (tmp_path / "input").mkdir()
    exif = Image.Exif()
    exif[0x0110] = "Secret camera"
    exif[0x0112] = 6  # stored lying on its side
    turned = astronaut.transpose(Image.Transpose.ROTATE_90)
    turned.save(tmp_path / "input" / "astro naut.jpg", exif=exif, quality=95)
    (tmp_path / "input" / "notes.txt").write_text("hello")
    done = run_align_face(tmp_path)
    assert done.returncode == 0, done.stderr
    assert "1 face from 1 photograph in input, 32x32 pixels" in done.stdout
    assert "Next: python run.py\n" in done.stdout
    assert "notes.txt" in done.stderr
    path = tmp_path / "input" / "astro naut_0.png"
    assert names(tmp_path / "input") == ["astro naut.jpg", path.name, "faces.csv", "notes.txt"]
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
    again = aligned_here()
    assert again.returncode == 0, again.stderr
    assert "1 photograph skipped" in again.stdout and "1 picture skipped" in again.stdout
    assert path.stat().st_mtime_ns == before

    assert aligned_here("-overwrite").returncode == 0
    assert path.stat().st_mtime_ns != before
    larger = aligned_here("-output_size", "64")
    assert larger.returncode == 0 and "64x64" in larger.stdout
    with Image.open(path) as face:
        assert face.size == (64, 64)


def test_every_face_is_cut_out_from_left_to_right(aligned_here, tmp_path, astronaut):
    two = Image.new("RGB", (1024, 400))
    two.paste(astronaut, (0, 0))
    two.paste(astronaut.convert("L"), (512, 0))
    (tmp_path / "realpics").mkdir()
    two.save(tmp_path / "realpics" / "two.png")
    done = aligned_here("-output_size", "0")  # realpics is read where it exists
    assert done.returncode == 0, done.stderr
    assert "2 faces from 1 photograph" in done.stdout and "Next" not in done.stdout
    assert names(tmp_path / "input") == ["faces.csv", "two_0.png", "two_1.png"]
    colourful = []
    for face in ("two_0.png", "two_1.png"):
        with Image.open(tmp_path / "input" / face) as crop:
            assert crop.size == (1024, 1024)
            pixels = np.asarray(crop, dtype=float)[400:600, 400:600]
        colourful.append((pixels[..., 0] - pixels[..., 2]).mean() > 20)
    assert colourful == [True, False]
    assert picture_text(tmp_path / "input" / "two_1.png")[ALIGNED_FACE] == "1"

    # With the right half gone, the second face must not stay behind for run.py to find.
    astronaut.save(tmp_path / "realpics" / "two.png")
    assert aligned_here("-output_size", "0").returncode == 0
    assert names(tmp_path / "input") == ["faces.csv", "two_0.png"]
    assert (tmp_path / "input" / "faces.csv").read_text().count("two.png") == 1


def test_refused_photographs_are_named_with_the_reason_and_the_rest_is_done(
    aligned_here, tmp_path, astronaut
):
    photos = tmp_path / "photos"
    photos.mkdir()
    astronaut.save(photos / "good.png")
    astronaut.save(photos / "twin.png")
    astronaut.save(photos / "twin.jpg")
    (photos / "good.NEF").write_bytes(b"raw")  # no rival of good.png
    Image.new("RGB", (300, 300), "grey").save(photos / "wall.png")
    Image.new("RGB", (1, 1)).save(photos / "dot.png")
    (photos / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (photos / "empty.png").touch()
    done = aligned_here("-input_dir", "photos", "--output_dir", "faces")
    assert done.returncode == 1
    assert names(tmp_path / "faces") == ["faces.csv", "good_0.png"]
    told = dict(line.split(": ", 1) for line in done.stderr.splitlines())
    assert re.fullmatch(r"1 face; 0: score 1\.\d\d, \d\d pixels wide", told.pop("good.png"))
    refused = {"good.NEF", "broken.jpg", "dot.png", "empty.png", "twin.jpg", "twin.png", "wall.png"}
    assert set(told) == refused, done.stderr
    assert "-upscale 2" in told["wall.png"] and "-mode resize" in told["wall.png"]
    assert told["good.NEF"] == "it is a camera raw file (NEF): export it as JPEG"
    assert told["twin.png"] == "twin.jpg would become twin_0.png too: rename one of them"
    assert "empty" in told["empty.png"]
    assert "7 photographs without a result" in done.stdout
    assert "Next: python run.py -input_dir faces" in done.stdout


def test_faces_can_be_chosen_and_a_photograph_on_its_side_has_its_face(aligned_here, tmp_path):
    portrait = pytest.importorskip("skimage.data").astronaut()  # with the badge that is face 0
    (tmp_path / "input").mkdir()
    Image.fromarray(portrait).save(tmp_path / "input" / "nasa.png")
    done = aligned_here("-output_dir", "all")
    assert "nasa.png: 2 faces; 0: score 0.1" in done.stderr
    side = Image.fromarray(portrait[:400]).transpose(Image.Transpose.ROTATE_90)
    side.save(tmp_path / "input" / "side.png")
    flags = ("-output_dir", "one", "-output_size", "64")
    done = aligned_here("-faces", "largest", "-min_size", "60", *flags)
    assert done.returncode == 0 and "2 faces from 2 photographs" in done.stdout
    assert "nasa.png: 1 face of 2; 0: score 1." in done.stderr
    assert re.search(r"side.png: 1 face; 0: .*, turned by 90 degrees", done.stderr)
    text = picture_text(tmp_path / "one" / "side_0.png")
    assert text["pulse:detected"].endswith("turned by 90 degrees")
    assert text["pulse:align"].endswith("-upscale 1 -faces 1 -min_size 60")
    turned, upright = (Image.open(tmp_path / "one" / f"{name}_0.png") for name in ("side", "nasa"))
    assert np.abs(pixels(turned) - pixels(upright)).mean() < 12
    with open(tmp_path / "one" / "faces.csv", encoding="utf-8-sig", newline="") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert (rows["nasa_0.png"]["found"], rows["side_0.png"]["turned"]) == ("2", "90")
    again = aligned_here("-faces", "1", "-min_size", "60", *flags)
    assert "2 photographs skipped" in again.stdout and again.stderr == ""
    (tmp_path / "one" / "faces.csv").write_text("somebody's")
    done = aligned_here("-output_dir", "one", "-overwrite")
    assert done.returncode == 2 and "is not align_face.py's" in done.stderr


def test_faces_that_could_not_be_listed_are_told_by_the_status(
    aligned_here, tmp_path, astronaut, monkeypatch
):
    (tmp_path / "input").mkdir()
    astronaut.save(tmp_path / "input" / "nasa.png")

    def full(table, records):
        raise UserError("its lines cannot be written")

    monkeypatch.setattr("imaging.face_records.FaceRecords.add", full)
    done = aligned_here()
    assert done.returncode == 1 and "nasa.png: its lines cannot be written" in done.stderr
    assert (tmp_path / "input" / "nasa_0.png").exists()


def test_a_file_that_is_not_a_face_of_the_photograph_is_never_written_over(aligned_here, tmp_path):
    (tmp_path / "input").mkdir()
    Image.new("RGB", (64, 64)).save(tmp_path / "input" / "me.jpg")
    other = tmp_path / "input" / "me_0.png"
    Image.new("RGB", (64, 64), "grey").save(other)
    before = other.read_bytes()
    done = aligned_here("-overwrite", "-mode", "resize")
    assert done.returncode == 1 and "me.jpg: " in done.stderr
    assert "move or rename" in done.stderr
    assert other.read_bytes() == before
    write_png(other, Image.new("RGB", (32, 32)), {ALIGNED_FROM: "another.jpg"})
    before = other.read_bytes()
    assert aligned_here("-mode", "resize").returncode == 1
    assert other.read_bytes() == before


def test_upscale_finds_a_face_that_is_too_small(aligned_here, tmp_path, astronaut):
    (tmp_path / "input").mkdir()
    astronaut.resize((128, 100), Image.Resampling.LANCZOS).save(tmp_path / "input" / "small.png")
    assert aligned_here().returncode == 1
    assert aligned_here("-upscale", "2.5").returncode == 0
    assert "small_0.png" in names(tmp_path / "input")
    with pytest.raises(UserError, match="smaller factor"):
        enlarged(astronaut, 1000)


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
    done = run_align_face(tmp_path, "-mode", "resize", **no_dlib)
    assert done.returncode == 1 and "little.png" in done.stderr and "64 pixels" in done.stderr
    with Image.open(tmp_path / "input" / "wide_0.png") as face:
        assert face.getcolors() == [(1024, (0, 0, 255))]
    assert picture_text(tmp_path / "input" / "ready_0.png")[ALIGNED_FROM] == "ready.png"

    (tmp_path / "input" / "new.png").write_bytes((tmp_path / "input" / "wide.png").read_bytes())
    searching = run_align_face(tmp_path, **no_dlib)
    assert searching.returncode == 2 and "pip install dlib" in searching.stderr
    assert len(searching.stderr.splitlines()) == 1


def test_what_can_be_checked_is_checked_before_anything_begins(aligned_here, tmp_path):
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
        (["-faces", "some"], "-faces"),
        (["-faces", "1", "-mode", "resize"], "-faces"),
        (["-min_size", "-1"], "-min_size"),
        (["-input_dir", "missing"], "missing"),
        (["-input_dir", "empty"], "empty"),
        (["-output_dir", "file"], "file"),
        (["-output_dir", "file/below"], "file"),
        (["-nonsense"], "-nonsense"),
    ]:
        done = aligned_here(*flags)
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
    done = run_align_face(
        tmp_path, PYTHONPATH=str(tmp_path / "no"), no_proxy="", NO_PROXY="", **proxies
    )
    assert done.returncode == 2 and "landmark model" in done.stderr
    assert len(done.stderr.splitlines()) == 3  # of both sources, a line each
    assert "Traceback" not in done.stderr and names(tmp_path / "input") == ["a.png"]


def test_a_name_that_is_no_text_is_aligned_and_recognised(aligned_here, tmp_path):
    (tmp_path / "input").mkdir()
    photo = tmp_path / "input" / os.fsdecode(b"caf\xe9.png")
    try:
        Image.new("RGB", (64, 64)).save(photo)
    except OSError:
        pytest.skip("this file system wants names to be text")
    assert aligned_here("-mode", "resize").returncode == 0
    again = aligned_here("-mode", "resize")
    assert again.returncode == 0 and "1 photograph skipped" in again.stdout
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
    done = run_align_face(tmp_path, *flags, PYTHONIOENCODING="ascii")
    assert done.returncode == 1, done.stderr
    assert r"1 face from 1 photograph in \u5199, 32x32 pixels" in done.stdout
    others, refused = done.stderr.splitlines()
    assert r"caf\udce9\x07.txt" in others
    assert refused.startswith(r"red\x1b[31m\n\u5199.png: it is empty")


@pytest.mark.timed
def test_help_answers_at_once_and_shows_examples(tmp_path):
    start = time.monotonic()
    done = run_align_face(tmp_path, "-h")
    assert time.monotonic() - start < 2
    assert done.returncode == 0 and "python align_face.py -input_dir" in done.stdout
    for flag in ("input_dir", "output_dir", "output_size", "cache_dir", "upscale", "mode"):
        assert f"-{flag}" in done.stdout
    assert "Exit status" in done.stdout
    code = "import sys, align_face; sys.exit(bool({'torch', 'numpy', 'PIL'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0


# ------------------------------------------------------------ -degrade


@pytest.fixture
def align(tmp_path, monkeypatch, capsys):
    """`align("-seed", 3)`: align_face.py -mode resize in this process, in a folder with photographs
    a.png, b.png and c.png.
    """
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for i, name in enumerate("abc"):
        noise = np.random.default_rng(i).integers(60, 200, (8, 8, 3), dtype=np.uint8)
        photo = Image.fromarray(noise).resize((128, 128), Image.Resampling.BICUBIC)
        photo.save(tmp_path / "photos" / f"{name}.png")
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def call(*args):
        args = ["-mode", "resize", "-input_dir", "photos", "-output_size", 16, *args]
        monkeypatch.setattr(sys, "argv", ["align_face.py", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run_command(align_face.main)
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return SimpleNamespace(status=left.value.code, out=told.out, err=told.err)

    call.root = tmp_path
    yield call
    for number, handler in handlers:
        signal.signal(number, handler)


def pixels(picture) -> np.ndarray:
    return np.asarray(picture).astype(float)


def faces(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.png"))}


@pytest.mark.parametrize("how", ["gaussian:25", "gaussian:50", "saltpepper:0.05", "motion:100"])
def test_the_same_seed_gives_the_same_bytes_whatever_else_is_in_the_folder(align, how):
    args = ("-degrade", how, "-seed", 3)
    assert align(*args, "-output_dir", "one").status == 0
    for name in "cab":
        alone = ("-input_dir", f"photos/{name}.png", "-output_dir", "two")
        assert align(*args, *alone).status == 0
    assert faces(align.root / "one") == faces(align.root / "two") != {}
    assert align("-output_dir", "clean").status == 0
    assert align("-degrade", how, "-seed", 4, "-output_dir", "other").status == 0
    for name in ("a_0.png", "b_0.png", "c_0.png"):
        noisy, other, clean = (
            pixels(Image.open(align.root / folder / name)) for folder in ("one", "other", "clean")
        )
        assert noisy.shape == clean.shape == (16, 16, 3)
        assert not np.array_equal(noisy, clean) and not np.array_equal(noisy, other)


def test_noise_is_laid_on_the_downscaled_face_and_motion_before(align):
    for how in ("gaussian:25", "motion:100"):
        assert align("-degrade", how, "-seed", 0, "-output_dir", how[:2]).status == 0
    assert align("-output_dir", "clean").status == 0
    clean = pixels(Image.open(align.root / "clean" / "a_0.png"))
    noise = pixels(Image.open(align.root / "ga" / "a_0.png")) - clean
    assert 20 < noise.std() < 30  # downscaled afterwards it would be an eighth
    # of the LR picture, whose 16 pixels are a photograph's 128, 100 of 1024 are 1.6
    blurred = pixels(Image.open(align.root / "mo" / "a_0.png"))
    assert 2 < np.abs(blurred - clean).mean() < 30
    assert blurred.mean() == pytest.approx(clean.mean(), abs=2)


def test_a_face_says_that_it_is_degraded_and_how(align):
    assert align("-degrade", "motion:100", "-seed", 5).status == 0
    text = picture_text(align.root / "input" / "a_0.png")
    told = r"motion:100, seed 5, 12\.5 pixels of 128, at \d+\.\d degrees"
    assert re.fullmatch(told, text["pulse:degraded"])
    assert text["pulse:align"].endswith("-degrade motion:100 -seed 5")
    assert align("-output_dir", "clean").status == 0
    assert "pulse:degraded" not in picture_text(align.root / "clean" / "a_0.png")


def test_a_drawn_seed_is_told_and_kept_for_what_is_added_later(align):
    (align.root / "photos" / "c.png").rename(align.root / "c.png")
    first = align("-degrade", "gaussian:25")
    seed = re.search(r"seed (\d+), drawn", first.err)[1]
    before = faces(align.root / "input")
    assert picture_text(align.root / "input" / "a_0.png")["pulse:degraded"].endswith(f"seed {seed}")
    (align.root / "c.png").rename(align.root / "photos" / "c.png")
    again = align("-degrade", "gaussian:25")
    assert again.status == 0 and f"seed {seed}, that of the faces which are there" in again.err
    assert "2 photographs skipped" in again.out
    after = faces(align.root / "input")
    assert before.items() < after.items()
    assert align("-degrade", "gaussian:25", "-seed", seed, "-output_dir", "repeated").status == 0
    assert faces(align.root / "repeated") == after


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((), ("-degrade", "gaussian:25", "-seed", 1)),
        (("-degrade", "gaussian:25", "-seed", 1), ()),
        (("-degrade", "gaussian:25", "-seed", 1), ("-degrade", "gaussian:25", "-seed", 2)),
        (("-degrade", "gaussian:25", "-seed", 1), ("-degrade", "gaussian:50", "-seed", 1)),
    ],
)
def test_faces_in_another_state_are_not_written_over_unasked(align, before, now):
    assert align(*before).status == 0
    there = faces(align.root / "input")
    done = align(*now)
    assert done.status == 1 and faces(align.root / "input") == there
    assert len(done.err.splitlines()) == 3 and done.err.count("give another -output_dir") == 3
    assert (f"degraded by {before[1]} -seed 1" if before else "not degraded") in done.err
    assert align(*now, "-overwrite").status == 0
    assert align(*now, "-output_dir", "fresh").status == 0
    assert faces(align.root / "input") == faces(align.root / "fresh")


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("-degrade", "gaussian:300"), "at most 255"),
        (("-degrade", "fog:3"), "motion:100"),
        (("-seed", 3), "-degrade"),
        (("-degrade", "motion:9", "-seed", -1), "2^63"),
    ],
)
def test_flags_that_cannot_be_are_one_line_and_nothing_is_begun(align, args, word):
    done = align(*args)
    assert done.status == 2 and len(done.err.splitlines()) == 1 and word in done.err
    assert not (align.root / "input").exists()


def test_quiet_tells_errors_and_the_summary_only(align):
    (align.root / "photos" / "notes.txt").write_text("nothing")
    (align.root / "photos" / "empty.png").touch()
    loud = align("-degrade", "gaussian:25", "-output_dir", "loud")
    assert "notes.txt" in loud.err and "drawn" in loud.err
    done = align("-degrade", "gaussian:25", "-quiet")
    assert done.status == 1
    (line,) = done.err.splitlines()
    assert line.startswith("empty.png: it is empty")
    assert "3 faces from 3 photographs" in done.out
