"""run.py as a user runs it: real processes, real folders, a small generator, and every refusal."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, command, compiled_before, golden, golden_state
from PIL import Image

import run
from bicubic import BicubicDownSample
from cli.command import run_command
from generators.formats import FORMAT
from imaging.pictures import read_picture, to_tensor
from imaging.provenance import picture_text
from PULSE import PULSE
from search_settings import SEARCHES, Settings


def face(path, side=4, seed=0, mode="RGB"):
    """A small picture of noise: to the search it is a face like any other."""
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def pulse(tiny, tmp_path, monkeypatch, capsys):
    """`pulse("-steps", 3, …)`: run.py on the small generator, in an empty folder of its own.

    In this process, which saves seconds a call; with process=True in one of its own.
    """
    monkeypatch.chdir(tmp_path)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]

    def call(*args, generator=tiny, process=False):
        args = ["-generator", generator, "-device", "cpu", *args]
        if process:
            return command("run.py", *args, cwd=tmp_path)
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run_command(run.main)
        told = capsys.readouterr()
        return SimpleNamespace(returncode=left.value.code, stdout=told.out, stderr=told.err)

    call.input, call.runs = tmp_path / "input", tmp_path / "runs"
    yield call
    for number, handler in handlers:
        signal.signal(number, handler)


def made(folder) -> list[str]:
    """Every picture below a folder."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))


@pytest.mark.timed
def test_help_is_quick_and_shows_defaults_and_two_examples():
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(ROOT / "run.py"), "-h"], capture_output=True, text=True, check=True
    )
    assert time.monotonic() - started < 5  # a bound against importing torch on a busy machine
    assert done.stdout.count("  python run.py ") == 2
    unwrapped = re.sub(r"\s+", " ", done.stdout)
    for default in (
        *("input", "runs", "cache", "ffhq", "auto", "1", "0.002", "trainable", "5", "17", "100"),
    ):
        assert f"(default: {default})" in unwrapped
    for default in ("100*L2+0.05*GEOCROSS", "adam", "0.4", "linear1cycledrop"):
        assert f"(default: {default}; with -search quick " in unwrapped


def test_asking_for_help_imports_nothing_that_takes_long():
    code = "import sys, run; run.parser(); print({'torch', 'PIL', 'numpy'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "set()"


def test_every_flag_of_2020_has_its_default():
    args = run.parser().parse_args([])
    of_search = {name for name in SEARCHES["paper"] if name in Settings.__dataclass_fields__}
    given = {name: value for name, value in vars(args).items() if name in vars(Settings())}
    assert all(given[name] is None for name in of_search)  # left to -search, which is paper
    assert Settings(**given) == Settings()
    assert vars(Settings()).items() >= SEARCHES["paper"].items()
    expected = {"duplicates": 1, "batch_size": 1, "seed": None, "save_intermediate": False}
    assert expected.items() <= vars(args).items()
    assert [str(args.input_dir), str(args.output_dir), str(args.cache_dir)] == [
        "input",
        "runs",
        "cache",
    ]


def test_a_folder_of_pictures_is_done_and_summed_up(pulse):
    for i, name in enumerate(["b.png", "a.jpg", "c.webp"]):
        face(pulse.input / name, seed=i)
    (pulse.input / "sub").mkdir()
    face(pulse.input / ".hidden.png")
    (pulse.input / "notes.txt").write_text("nothing")
    done = pulse("-steps", 3, "-seed", 0, "-eps", 1, process=True)
    assert done.returncode == 0, done.stderr
    assert made(pulse.runs) == ["a.png", "b.png", "c.png"]
    assert "3 faces made: 3 within eps 1, 0 outside; no pictures refused" in done.stdout
    assert "Pictures: runs" in done.stdout
    assert "notes.txt" in done.stderr
    assert "\r" not in done.stderr  # plain lines where there is no terminal
    lines = [line for line in done.stderr.splitlines() if "within eps, L2" in line]
    assert [line[:5] for line in lines] == ["1/3 a", "2/3 b", "3/3 c"]  # sorted by name


def test_double_dashes_and_equals_signs_work_too(pulse):
    face(pulse.input / "a.png")
    done = pulse("--steps=2", "--seed", "0", "--output_dir=elsewhere", "--tile_latent")
    assert done.returncode == 0, done.stderr
    assert made(pulse.runs.parent / "elsewhere") == ["outside_eps/a.png"]


def test_one_file_may_be_the_input(pulse):
    face(pulse.input / "a.png")
    face(pulse.input / "b.png")
    assert pulse("-input_dir", "input/b.png", "-steps", 2, "-eps", 1).returncode == 0
    assert made(pulse.runs) == ["b.png"]


def test_duplicates_have_their_own_seeds_and_names_and_seed_zero_counts(pulse):
    face(pulse.input / "a.png")
    assert pulse("-steps", 3, "-seed", 0, "-duplicates", 3, "-eps", 1).returncode == 0
    assert made(pulse.runs) == ["a_1.png", "a_2.png", "a_3.png"]
    pictures = {(pulse.runs / f"a_{i}.png").read_bytes() for i in (1, 2, 3)}
    assert len(pictures) == 3
    assert [picture_text(pulse.runs / f"a_{i}.png")["pulse:seed"] for i in (1, 2, 3)] == list("012")
    done = pulse("-steps", 3, "-seed", 1, "-eps", 1, "-output_dir", "again")
    assert done.returncode == 0
    again = np.asarray(Image.open(pulse.runs.parent / "again" / "a.png"))
    assert np.array_equal(again, np.asarray(Image.open(pulse.runs / "a_2.png")))


@pytest.mark.parametrize("batch_size", [2])
def test_the_batch_size_changes_nothing_and_the_last_batch_may_be_smaller(pulse, batch_size):
    for i in range(5):
        face(pulse.input / f"{i}.png", side=8 if i == 2 else 4, seed=i)
    common = ("-steps", 6, "-seed", 7, "-eps", 1)
    assert pulse(*common, "-output_dir", "one").returncode == 0
    done = pulse(*common, "-output_dir", "many", "-batch_size", batch_size)
    assert done.returncode == 0, done.stderr
    one, many = pulse.runs.parent / "one", pulse.runs.parent / "many"
    assert made(one) == made(many) == [f"{i}.png" for i in range(5)]
    for name in made(one):
        assert (one / name).read_bytes() == (many / name).read_bytes()


def test_a_drawn_seed_is_printed_and_recorded(pulse):
    face(pulse.input / "a.png")
    done = pulse("-steps", 2, "-eps", 1)
    seed = re.search(r"-seed (\d+) repeats", done.stderr)[1]
    assert picture_text(pulse.runs / "a.png")["pulse:seed"] == seed
    assert pulse("-steps", 2, "-eps", 1, "-seed", seed, "-output_dir", "again").returncode == 0
    again = pulse.runs.parent / "again" / "a.png"
    assert again.read_bytes() == (pulse.runs / "a.png").read_bytes()


def test_outside_eps_is_kept_with_figures_and_advice(pulse):
    face(pulse.input / "a.png")
    done = pulse("-steps", 2, "-seed", 0, "-eps", 1e-9)
    assert done.returncode == 0
    assert made(pulse.runs) == ["outside_eps/a.png"]
    assert re.search(r"Outside eps, in runs/outside_eps: a \(0\.\d+\)", done.stdout)
    assert "-steps 200" in done.stdout


def test_strict_writes_nothing_outside_eps_and_exits_with_1(pulse):
    face(pulse.input / "a.png")
    done = pulse("-steps", 2, "-seed", 0, "-eps", 1e-9, "-strict")
    assert done.returncode == 1
    assert "not written" in done.stdout
    assert not made(pulse.runs) and not list(pulse.runs.rglob("*.json"))


def test_the_recorded_figures_are_those_of_the_picture(pulse, tiny):
    face(pulse.input / "a.png")
    pulse("-steps", 20, "-seed", 0, "-eps", 1)
    text = picture_text(pulse.runs / "a.png")
    HR = to_tensor(read_picture(pulse.runs / "a.png"))[None]
    difference = BicubicDownSample(4)(HR) - to_tensor(read_picture(pulse.input / "a.png"))
    # not equal: the figure is of the picture before it was clamped and rounded
    assert float(text["pulse:l2"]) == pytest.approx(difference.square().mean().item(), rel=0.1)
    assert text["pulse:within_eps"] == "True"
    assert text["pulse:generator"] == str(tiny)
    assert "does not exist" in text["Description"]


def test_intermediates_of_a_batch_lie_apart(pulse):
    for seed, name in enumerate("ab"):
        face(pulse.input / f"{name}.png", seed=seed)
    args = ("-save_intermediate", "-steps", 3, "-seed", 0, "-batch_size", 2, "-eps", 1)
    assert pulse(*args).returncode == 0
    for name in "ab":
        for kind, side in (("HR", 16), ("LR", 4)):
            frames = sorted((pulse.runs / name / kind).iterdir())
            assert [frame.name for frame in frames] == [f"{name}_{i}.png" for i in range(3)]
            assert Image.open(frames[0]).size == (side, side)
        last = Image.open(pulse.runs / name / "HR" / f"{name}_2.png")
        assert np.array_equal(np.asarray(last), np.asarray(Image.open(pulse.runs / f"{name}.png")))


def test_intermediates_sort_beyond_a_hundred_steps(pulse):
    face(pulse.input / "a.png")
    pulse("-save_intermediate", "-steps", 101, "-seed", 0, "-noise_type", "zero")
    frames = sorted((pulse.runs / "a" / "HR").iterdir())
    assert [frame.name for frame in frames] == [f"a_{i:03}.png" for i in range(101)]


def test_intermediates_of_duplicates_have_their_number(pulse):
    face(pulse.input / "a.png")
    pulse("-save_intermediate", "-steps", 2, "-seed", 0, "-duplicates", 2, "-eps", 1)
    assert "a_2/HR/a_2_0.png" in made(pulse.runs)


def test_existing_results_are_kept_until_overwrite_is_asked_for(pulse):
    face(pulse.input / "a.png")
    assert pulse("-steps", 2, "-seed", 0, "-eps", 1).returncode == 0
    before = (pulse.runs / "a.png").stat().st_mtime_ns
    face(pulse.input / "b.png")
    done = pulse("-steps", 2, "-eps", 1)  # the seed is that of what is there
    assert done.returncode == 0
    assert "1 result kept from before" in done.stdout
    assert made(pulse.runs) == ["a.png", "b.png"]
    assert (pulse.runs / "a.png").stat().st_mtime_ns == before
    done = pulse("-steps", 2, "-seed", 5, "-eps", 1e-9, "-overwrite")
    assert done.returncode == 0
    assert made(pulse.runs) == ["outside_eps/a.png", "outside_eps/b.png"]  # each in one place


def test_sheets_show_each_picture_with_its_results(pulse):
    face(pulse.input / "a.png")
    done = pulse("-steps", 2, "-seed", 0, "-duplicates", 2, "-sheet")
    assert done.returncode == 0, done.stderr
    assert "sheet: runs/sheets/a.png" in done.stdout
    assert Image.open(pulse.runs / "sheets" / "a.png").width > 4 * 200


def test_photographs_whose_aligned_faces_lie_beside_them_are_passed_over(pulse, called, tmp_path):
    """The oldest way of working: photographs in input/, align_face.py, run.py."""
    pytest.importorskip("dlib", reason="dlib finds the faces")
    skimage_data = pytest.importorskip("skimage.data", reason="scikit-image has the photograph")
    pulse.input.mkdir()
    photo = pulse.input / "collins.png"
    Image.fromarray(skimage_data.astronaut()[:400]).save(photo)
    before = photo.read_bytes()
    done = called("align_face.py", "-output_size", 8, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = pulse("-steps", 2, "-seed", 0, "-eps", 1)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("collins.png") == 1
    assert "aligned faces lie beside them: collins.png" in done.stderr
    assert made(pulse.runs) == ["collins_0.png"]
    assert photo.read_bytes() == before


def test_the_golden_search_through_the_command_line(pulse, c_cache, one_thread, tmp_path):
    arrays = golden("search_1024")
    config = {"resolution": 1024, "dlatent_size": 512}
    config |= {key: int(arrays[key]) for key in ("fmap_base", "fmap_max")}
    content = {
        "format": FORMAT,
        "config": config,
        "synthesis": golden_state(arrays),
        "mapping": None,
        "gaussian_fit": {key: torch.from_numpy(arrays[key]) for key in ("mean", "std")},
    }
    torch.save(content, tmp_path / "golden.pt")
    pixels = (arrays["ref"][0].transpose(1, 2, 0) * 255).round().astype(np.uint8)
    pulse.input.mkdir()
    Image.fromarray(pixels).save(pulse.input / "ref.png")
    seed = int(arrays["seed"])
    args = ("-steps", 30, "-learning_rate", 0.03, "-seed", seed)
    compiled_before(tmp_path, c_cache)
    done = pulse(*args, generator=tmp_path / "golden.pt")
    assert done.returncode == 0, done.stderr
    result = pulse.runs / "outside_eps" / "ref.png"
    record = json.loads(result.with_suffix(".json").read_text())
    curve = record["curve"]
    rows = np.array([curve["total"], np.maximum(curve["L2"], 2e-3), curve["GEOCROSS"]]).T
    expected = arrays["slow_trajectory_total_l2_geocross"]
    assert np.abs(rows / expected - 1).max() < 0.05
    assert record["best_step"] == expected[:, 0].argmin()
    HR = to_tensor(read_picture(result))[None]
    for factor, name in ((32, "slow_LR_best"), (16, "slow_HR_best_64")):
        assert np.abs(BicubicDownSample(factor)(HR).numpy() - arrays[name]).mean() < 0.02


# ------------------------------------------------------------ pictures that work, and that do not


def test_every_kind_of_picture_works(pulse):
    rgb = Image.open(face(pulse.input / "rgb.png"))
    rgb.convert("L").save(pulse.input / "grey.png")
    rgb.convert("RGBA").save(pulse.input / "alpha.png")
    rgb.convert("P").save(pulse.input / "palette.png")
    rgb.convert("CMYK").save(pulse.input / "cmyk.jpg")
    wide = np.asarray(rgb.convert("L")).astype(np.uint16) * 257
    Image.fromarray(wide).save(pulse.input / "sixteen.png")
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "a camera"
    rgb.save(pulse.input / "rotated.jpg", exif=exif)
    done = pulse("-steps", 1, "-seed", 0, "-eps", 1)
    assert done.returncode == 0, done.stderr
    assert len(made(pulse.runs)) == 7
    for name in made(pulse.runs):
        assert b"a camera" not in (pulse.runs / name).read_bytes()


def bomb() -> bytes:
    """The header of a PNG of 100,000 × 100,000 pixels."""
    import struct
    import zlib

    header = b"IHDR" + struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    data = struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
    return start + struct.pack(">I", zlib.crc32(header)) + data


def test_bad_pictures_are_named_once_and_the_rest_is_done(pulse):
    for i, name in enumerate(["good.png", "zgood.png", "same.png", "same.jpg"]):
        face(pulse.input / name, seed=i)
    (pulse.input / "text.png").write_text("no picture")
    (pulse.input / "empty.png").write_bytes(b"")
    whole = face(pulse.input / "cut.jpg", side=64).read_bytes()
    (pulse.input / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (pulse.input / "bomb.png").write_bytes(bomb())
    face(pulse.input / "odd.png", side=5)
    face(pulse.input / "large.png", side=32)
    face(pulse.input / "one.png", side=1)
    Image.new("RGB", (8, 4)).save(pulse.input / "oblong.png")
    done = pulse("-steps", 1, "-seed", 0, "-eps", 1, "-duplicates", 2, process=True)
    assert done.returncode == 1
    assert made(pulse.runs) == ["good_1.png", "good_2.png", "zgood_1.png", "zgood_2.png"]
    reasons = {
        "text.png": "not a picture",
        "empty.png": "empty",
        "cut.jpg": "truncated",
        "bomb.png": "pixels",
        "odd.png": "must be one of 2, 4, 8",
        "large.png": "must be one of 2, 4, 8",
        "one.png": "must be one of 2, 4, 8",
        "oblong.png": "8×4, not square",
        "same.png": "same.jpg would write the same result",
        "same.jpg": "same.png would write the same result",
    }
    for name, reason in reasons.items():
        (line,) = [ln for ln in done.stderr.splitlines() if f"refused: input/{name}:" in ln]
        assert reason in line, line
    assert "4 faces made" in done.stdout and "10 pictures refused" in done.stdout
    assert "Traceback" not in done.stderr and "Warning" not in done.stderr


# ------------------------------------------------------------ nothing is begun


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["-loss_str", "100*L3"], "unknown term 'L3'"),
        (["-loss_str", "100L2"], "not a sum of weight*TERM"),
        (["-loss_str", "nan*L2"], "not a sum of weight*TERM"),
        (["-opt_name", "newton"], "opt_name 'newton' is unknown"),
        (["-lr_schedule", "cosine"], "lr_schedule 'cosine' is unknown"),
        (["-noise_type", "pink"], "noise_type 'pink' is unknown"),
        (["-device", "tpu"], "device 'tpu' is unknown"),
        (["-bad_noise_layers", "17,16"], "not a list of layer numbers"),
        (["-steps", "0"], "steps must be"),
        (["-steps", "-3"], "steps must be"),
        (["-steps", "many"], "invalid int value"),
        (["-batch_size", "0"], "batch_size must be"),
        (["-duplicates", "-1"], "duplicates must be"),
        (["-eps", "0"], "eps must be"),
        (["-eps", "-1e-3"], "eps must be"),
        (["-eps", "nan"], "eps must be"),
        (["--eps", "-1"], "eps must be"),
        (["-eps"], "expected one argument"),
        (["-loss_str", "-1*L2+"], "not a sum of weight*TERM"),
        (["-learning_rate", "inf"], "learning_rate must be"),
        (["-seed", "-1"], "seed must be"),
        (["-num_trainable_noise_layers", "-1"], "num_trainable_noise_layers must be"),
        (["-unheard_of", "1"], "unrecognized arguments"),
        (["-input_dir", "nowhere"], "cannot be read"),
        (["-input_dir", "void"], "holds no picture"),
        (["-input_dir", "texts"], "holds no picture, only notes.txt: put small pictures of faces"),
        (["-output_dir", "a_file"], "cannot be written"),
        (["-output_dir", "a_file/below"], "cannot be written"),
        (["-output_dir", "input"], "give another folder"),
        (["-generator", "nothing"], "or one of ffhq, demo, demo64"),
        (["-input_dir", "years"], "holds no picture (its subfolders are not searched: 2017, 2018)"),
        (["-generator", "a_file"], "a_file is text, which begins 'in the way'"),
        (["-bad_noise_layers", "17"], "names layer 17, but the generator has 6 noise layers"),
        (["-num_trainable_noise_layers", "7"], "the generator has 6 noise layers"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_begun(
    pulse, tmp_path, monkeypatch, capsys, tiny, args, words
):
    face(pulse.input / "a.png")
    (tmp_path / "void").mkdir()
    (tmp_path / "texts").mkdir()
    for below in ("2018", "2017", ".hidden"):
        face(tmp_path / "years" / below / "a.png")
    (tmp_path / "texts" / "notes.txt").write_text("nothing")
    (tmp_path / "a_file").write_text("in the way")
    monkeypatch.chdir(tmp_path)
    generator = [] if "-generator" in args else ["-generator", str(tiny)]
    monkeypatch.setattr(sys, "argv", ["run.py", *args, *generator])
    with pytest.raises(SystemExit) as left:
        run_command(run.main)
    assert left.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    told = [line for line in lines if not line.startswith(("seed", "skipped"))]
    assert len(told) == 1, told
    assert words in told[0] and told[0].startswith("run.py: error: ")
    assert not pulse.runs.exists()
    assert (tmp_path / "a_file").read_text() == "in the way"


def test_an_error_of_a_real_process_is_one_line_and_status_2(pulse):
    face(pulse.input / "a.png")
    done = pulse("-loss_str", "100*L3", process=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr


def test_ctrl_c_is_one_line(pulse, tiny, tmp_path):
    face(pulse.input / "a.png")
    arguments = ["-generator", str(tiny), "-device", "cpu", "-steps", "1000000", "-seed", "0"]
    arguments += ["-save_intermediate", "-compile", "off"]
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run.py"), *arguments],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not made(pulse.runs.parent) or not pulse.runs.exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors and "stopped" in errors
    assert not [name for name in os.listdir(pulse.runs) if name.endswith(".part")]


def memory_for(searches, monkeypatch):
    """Only searches with these numbers, from 1, find memory."""
    whole, number = PULSE.__call__, 0

    def call(model, ref_im, **settings):
        nonlocal number
        number += 1
        if number not in searches:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(model, ref_im, **settings)

    monkeypatch.setattr(PULSE, "__call__", call)


def test_pictures_too_large_for_memory_are_refused_and_the_rest_done(pulse, monkeypatch):
    for i, name in enumerate("abc"):
        face(pulse.input / f"{name}.png", seed=i)
    memory_for([3], monkeypatch)
    done = pulse("-steps", 2, "-seed", 0, "-eps", 1, "-batch_size", 2)
    assert done.returncode == 1
    assert made(pulse.runs) == ["c.png"]
    for name in "ab":
        assert (
            f"refused: input/{name}.png: not enough memory for it on cpu, even alone" in done.stderr
        )
    assert "1 face made" in done.stdout and "2 pictures refused" in done.stdout


def test_a_retry_without_memory_keeps_what_the_first_search_found(pulse, monkeypatch):
    face(pulse.input / "a.png")
    memory_for([1], monkeypatch)
    done = pulse("-steps", 2, "-seed", 0, "-eps", "1e-9", "-retries", 3)
    assert done.returncode == 1 and "not enough memory" in done.stderr
    assert made(pulse.runs) == ["outside_eps/a.png"]
