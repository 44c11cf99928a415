"""What is there to look at: animations, latent files and what is drawn from them again, progress.

The generator is small; where a run is killed it is a real process that dies at a chosen moment.
"""

import contextlib
import fcntl
import io
import json
import os
import pty
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, one_file
from PIL import Image

import run
from cli import progress as cli_progress
from cli.command import run_command
from cli.errors import UserError
from generators.latents import Latent, read_latent, redraw, write_latent
from imaging.animation import MAX_BYTES
from imaging.pictures import to_tensor
from PULSE import PULSE

STEPS = 6
EPS = 1


def noise(path, seed=0, side=4):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def pulse(tiny, tmp_path, monkeypatch, capsys):
    """`pulse("-animation", "gif")`: run.py on the small generator, in this process, in a folder of
    its own with the pictures a and b. Later flags win.
    """
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate("ab"):
        noise(tmp_path / "input" / f"{name}.png", seed)
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    threads = torch.get_num_threads()

    def call(*args, status=0, generator=tiny, threads=("-threads", 1)):
        fixed = ("-device", "cpu", *threads, "-seed", 0, "-steps", STEPS, "-eps", EPS)
        named = () if generator is None else ("-generator", generator)
        monkeypatch.setattr(sys, "argv", ["run.py", *map(str, (*named, *fixed, *args))])
        with pytest.raises(SystemExit) as left:
            run_command(run.main)
        told = capsys.readouterr()
        assert left.value.code == status, told.err
        assert "Traceback" not in told.err
        return SimpleNamespace(out=told.out, err=told.err)

    call.root, call.runs = tmp_path, tmp_path / "runs"
    yield call
    torch.set_num_threads(threads)
    for number, handler in handlers:
        signal.signal(number, handler)


def files(folder, *suffixes) -> dict[str, bytes]:
    """Everything below a folder with one of these suffixes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in suffixes and not path.name.startswith(".")
    }


# ------------------------------------------------------------ animations


def pages(path) -> list[tuple[Image.Image, int]]:
    """The frames of an animation, each with its milliseconds."""
    found = []
    with Image.open(path) as animation:
        for number in range(animation.n_frames):
            animation.seek(number)
            animation.load()
            found.append((animation.convert("RGB"), animation.info["duration"]))
    return found


def hr_of(page: Image.Image) -> np.ndarray:
    """HR on a page of 512 pixels a side, reduced to 16."""
    return np.asarray(page.crop((16, 16, 528, 528)).resize((16, 16), Image.Resampling.BOX), float)


@pytest.mark.parametrize("kind", ["gif", "webp"])
def test_an_animation_shows_every_step_and_the_result_for_a_second(pulse, kind):
    args = ("-input_dir", "input/a.png", "-duplicates", 2, "-batch_size", 2, "-save_intermediate")
    pulse("-animation", kind, *args)
    names = {"a_1", "a_2"}
    assert set(files(pulse.runs / "animations", f".{kind}")) == {f"{n}.{kind}" for n in names}
    for name in names:
        shown = pages(pulse.runs / "animations" / f"{name}.{kind}")
        assert len(shown) == STEPS + 1
        assert {page.size for page, _ in shown} == {(1088, 584)}
        *between, last = (duration for _, duration in shown)
        assert last == 1000 and len(set(between)) == 1 and 50 <= between[0] <= 200
        first = np.asarray(Image.open(pulse.runs / name / "HR" / f"{name}_0.png"), float)
        result = np.asarray(Image.open(pulse.runs / f"{name}.png"), float)
        assert np.abs(first - result).mean() > 12
        assert np.abs(hr_of(shown[0][0]) - first).mean() < 6
        assert np.abs(hr_of(shown[-1][0]) - result).mean() < 6


def test_an_animation_shows_the_iterates_and_not_the_best_so_far(pulse, tiny):
    """With a learning rate far too high, most iterates are worse than one before."""
    pulse("-animation", "webp", "-learning_rate", 30, "-lr_schedule", "fixed", "-steps", 5)
    record = json.loads((pulse.runs / "a.json").read_text())
    iterates = []

    def keep(step, figures):
        iterates.append(search.iterates[0][0])
        assert search.iterates[1].shape == (1, 3, 4, 4)

    search = PULSE(tiny, "cpu")(
        to_tensor(Image.open(pulse.root / "input" / "a.png")),
        **{"seed": 0, "steps": 5, "eps": EPS, "learning_rate": 30, "lr_schedule": "fixed"},
        on_step=keep,
    )
    ((best, _),) = list(search)
    shown = pages(pulse.runs / "animations" / "a.webp")
    for (page, _), HR in zip(shown, [*iterates, best[0]], strict=True):
        assert np.abs(hr_of(page) - HR.permute(1, 2, 0).numpy() * 255).mean() < 8
    assert record["best_step"] < 4
    assert not torch.equal(iterates[-1], best[0])


def test_an_animation_says_that_it_is_imaginary_and_has_no_exif(pulse):
    for kind in ("gif", "webp"):
        pulse("-animation", kind)
    gif = Image.open(pulse.runs / "animations" / "a.gif")
    assert b"This person does not exist" in gif.info["comment"]
    webp = Image.open(pulse.runs / "animations" / "a.webp")
    assert b"trainedAlgorithmicMedia" in webp.info["xmp"]
    assert not gif.getexif() and not webp.getexif()
    assert "exif" not in gif.info and "exif" not in webp.info


@pytest.mark.parametrize(("retries", "kept"), [(1, 0), (2, 2)])
def test_the_animation_of_a_retried_picture_is_of_the_attempt_that_is_kept(pulse, retries, kept):
    args = ("-input_dir", "input/a.png", "-eps", 1e-9, "-animation", "gif")
    pulse(*args, "-retries", retries)
    record = json.loads((pulse.runs / "outside_eps" / "a.json").read_text())
    assert record["seed"] == record["attempts"][kept]["seed"]
    pulse(*args, "-seed", record["seed"], "-output_dir", "alone")
    assert files(pulse.root / "alone", ".gif") == files(pulse.runs, ".gif") != {}


def test_strict_makes_no_animation_of_what_it_does_not_write(pulse):
    pulse("-animation", "gif", "-save_latent", "-eps", 1e-9, "-strict", status=1)
    assert not files(pulse.runs, ".gif", ".npz", ".png")


def test_a_result_without_its_animation_is_made_again_to_the_same_bytes(pulse):
    pulse()
    before = files(pulse.runs, ".png")
    assert "results kept" not in pulse("-animation", "gif").out
    assert files(pulse.runs, ".png") == before
    assert "2 results kept" in pulse("-animation", "gif").out
    pulse("-seed", 1, "-overwrite")  # an animation of another search would now be a lie
    assert not files(pulse.runs, ".gif")


def test_a_video_is_a_video(pulse):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="it makes mp4 files")
    pulse("-animation", "mp4")
    path = pulse.runs / "animations" / "a.mp4"
    assert b"This person does not exist" in path.read_bytes() and path.stat().st_size < MAX_BYTES
    reader = imageio_ffmpeg.read_frames(str(path))
    about = next(reader)
    frames = [np.frombuffer(frame, np.uint8).reshape(584, 1088, 3) for frame in reader]
    assert about["size"] == (1088, 584)
    assert len(frames) / about["fps"] == pytest.approx(STEPS / about["fps"] + 1, abs=0.3)
    result = np.asarray(Image.open(pulse.runs / "a.png"), float)
    assert np.abs(hr_of(Image.fromarray(frames[-1])) - result).mean() < 8


def test_a_video_without_its_encoder_is_one_sentence_before_anything_is_loaded(pulse, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    done = pulse("-animation", "mp4", generator="nothing.pt", status=2)
    assert done.err.count("\n") == 1 and "pip install imageio-ffmpeg" in done.err
    assert not pulse.runs.exists()


# ------------------------------------------------------------ latent files


def test_a_latent_file_holds_what_it_says_and_no_pickle(pulse, tiny):
    pulse("-save_latent", "-num_trainable_noise_layers", 3)
    with np.load(pulse.runs / "a.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"format", "w", "noise_0", "noise_1", "noise_2", "record"}
        assert arrays["w"].shape == (6, 16) and arrays["w"].dtype == np.float32
        assert [arrays[f"noise_{i}"].shape for i in range(3)] == [(4, 4), (4, 4), (8, 8)]
        there = json.loads(arrays["record"].item())
    record = json.loads((pulse.runs / "a.json").read_text())
    assert there == {name: record[name] for name in there}
    assert {"seed", "settings", "generator", "device", "threads", "versions"} <= there.keys()
    latent, again = read_latent(pulse.runs / "a.npz")
    assert again == there and latent.w.shape == (6, 16) and set(latent.noise) == {0, 1, 2}


def test_a_latent_file_at_1024_has_less_than_a_megabyte(tmp_path, pulse):
    pulse("-save_latent")
    record = json.loads((pulse.runs / "a.json").read_text())
    noise_maps = {i: torch.randn(2 ** (i // 2 + 2), 2 ** (i // 2 + 2)) for i in range(5)}
    write_latent(tmp_path / "large.npz", Latent(torch.randn(18, 512), noise_maps), record)
    assert (tmp_path / "large.npz").stat().st_size < 1_000_000


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("-tile_latent",),
        ("-noise_type", "zero"),
        ("-noise_type", "fixed", "-bad_noise_layers", "2.4"),
        ("-num_trainable_noise_layers", 6, "-duplicates", 2, "-batch_size", 3),
        ("-retries", 2, "-eps", 1e-9),
        ("-eps", 0.08, "-steps", 40, "-learning_rate", 0.2),
    ],
)
def test_drawn_again_a_picture_has_the_same_bytes(pulse, more):
    pulse("-save_latent", *more)
    before = files(pulse.runs, ".png")
    latents = [pulse.runs / name.replace(".png", ".npz") for name in before]
    done = pulse("-render", *latents, "-output_dir", "again")
    assert files(pulse.root / "again", ".png") == before
    assert f"{len(before)} pictures drawn again in again; no files refused" in done.out


def test_render_gives_the_tensor_that_the_search_gave(pulse, tiny):
    model = PULSE(tiny, "cpu")
    pulse("-save_latent")
    torch.set_num_threads(1)
    search = model(
        to_tensor(Image.open(pulse.root / "input" / "a.png")), seed=0, steps=STEPS, eps=EPS
    )
    ((HR, _),) = list(search)
    again = model.render(pulse.runs / "a.npz")
    assert again.shape == (1, 3, 16, 16) and torch.equal(again, HR)
    assert torch.equal(search.latents[0].w, read_latent(pulse.runs / "a.npz")[0].w)


def test_drawing_again_uses_the_number_of_threads_of_the_search_and_its_generator(pulse):
    pulse("-save_latent", "-threads", 3)
    torch.set_num_threads(2)
    pulse("-render", "runs/a.npz", "-output_dir", "again", generator=None, threads=())
    assert torch.get_num_threads() == 3
    assert (pulse.root / "again" / "a.png").read_bytes() == (pulse.runs / "a.png").read_bytes()


def test_files_of_several_precisions_are_each_drawn_in_their_own(pulse):
    pulse("-save_latent")
    pulse("-save_latent", "-precision", "bfloat16", "-output_dir", "half")
    before = {**files(pulse.runs, ".png"), "b.png": (pulse.root / "half/b.png").read_bytes()}
    assert before != files(pulse.runs, ".png")
    for order in (1, -1):
        latents = ["runs/a.npz", "half/b.npz"][::order]
        pulse("-render", *latents, "-output_dir", "again", "-overwrite")
        assert files(pulse.root / "again", ".png") == before


def test_a_latent_of_another_generator_is_refused_by_name(pulse, tmp_path):
    other = one_file(tmp_path / "other.pt", seed=1)
    pulse("-save_latent")
    record = json.loads((pulse.runs / "a.json").read_text())
    done = pulse("-render", "runs/a.npz", "-output_dir", "again", generator=other, status=1)
    assert done.err.count("\n") == 1
    sha256 = PULSE(other, "cpu").generator.sha256
    for part in ("tiny.pt", record["generator"]["sha256"][:8], "other.pt", sha256[:8]):
        assert part in done.err
    assert not files(pulse.root / "again", ".png")


def test_nothing_is_drawn_over_a_picture_unasked(pulse):
    pulse("-save_latent")
    shutil.copy(pulse.runs / "a.npz", pulse.root / "b.npz")
    (pulse.runs / "b.png").write_bytes(b"mine")
    before = files(pulse.runs, ".png")
    done = pulse("-render", "runs/a.npz", "runs/b.npz", status=1)
    assert files(pulse.runs, ".png") == before
    assert done.err.count("is there: give another -output_dir, or -overwrite") == 2
    pulse("-render", "runs/a.npz", "runs/b.npz", "-overwrite")
    assert (pulse.runs / "b.png").read_bytes() != b"mine"
    args = ("-output_dir", "again", "-render", "runs/b.npz", "b.npz", "runs/a.npz")
    done = pulse(*args, status=1)  # of two with one name the first is drawn
    assert done.err.count("has the same name") == 1 and "2 pictures drawn again" in done.out


def arrays_of(path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def damages(path) -> dict[str, bytes]:
    """Files that are no latent files of ours, or no longer."""

    def saved(**changes) -> bytes:
        arrays = {**arrays_of(path), **changes}
        file = io.BytesIO()
        np.savez(file, **{name: value for name, value in arrays.items() if value is not None})
        return file.getvalue()

    def recorded(**changes) -> bytes:
        record = {**json.loads(arrays_of(path)["record"].item()), **changes}
        return saved(record=np.array(json.dumps(record)))

    record = json.loads(arrays_of(path)["record"].item())
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("format", "w", "record"):
            archive.writestr(f"{name}.npy", b"\0" * (150 << 20))
    plain = io.BytesIO()
    np.save(plain, np.zeros(3))
    whole, w = path.read_bytes(), arrays_of(path)["w"]
    broken = np.array([{}, []], dtype=object)
    return {
        "empty": b"",
        "text": b"nothing of the kind",
        "cut": whole[: len(whole) // 2],
        "flipped": whole[:300] + bytes(255 - byte for byte in whole[300:700]) + whole[700:],
        "array": plain.getvalue(),
        "bomb": bomb.getvalue(),
        "foreign": saved(format=None),
        "newer": saved(format=np.array("pulse-latent-9")),
        "no_w": saved(w=None),
        "no_record": saved(record=None),
        "no_map": saved(noise_1=None),
        "more_maps": saved(noise_5=w),
        "odd_map": saved(noise_x=w),
        "objects": saved(w=broken),
        "doubles": saved(w=w.astype(np.float64)),
        "short": saved(w=w[:, :3]),
        "one_row": saved(w=w[:1]),
        "flat": saved(w=w[0]),
        "nan": saved(w=w * np.nan),
        "json": saved(record=np.array("{")),
        "list": saved(record=np.array("[]")),
        "seed": recorded(seed=-1),
        "threads": recorded(threads=10**9),
        "settings": recorded(settings={}),
        "steps": recorded(settings={**record["settings"], "steps": "many"}),
        "layers": recorded(settings={**record["settings"], "bad_noise_layers": "17"}),
        "generator": recorded(generator={"name": "x"}),
        "l2": recorded(l2="small"),
    }


def test_damaged_latent_files_are_one_sentence_each_and_the_rest_is_drawn(pulse):
    pulse("-save_latent")
    (pulse.root / "bad").mkdir()
    for name, content in damages(pulse.runs / "a.npz").items():
        (pulse.root / "bad" / f"{name}.npz").write_bytes(content)
    (pulse.root / "bad" / "folder.npz").mkdir()
    os.mkfifo(pulse.root / "bad" / "pipe.npz")
    bad = sorted((pulse.root / "bad").iterdir()) + [pulse.root / "bad" / "missing.npz"]
    done = pulse("-render", *bad, "runs/a.npz", "-output_dir", "again", status=1)
    lines = [line for line in done.err.splitlines() if line.startswith("refused: ")]
    assert [line.split(": ")[1] for line in lines] == list(map(str, bad))
    assert all(len(line.split(": ", 2)[2]) > 20 for line in lines)
    assert len(done.err.splitlines()) == len(bad) + 1
    assert list(files(pulse.root / "again", ".png")) == ["a.png"]
    assert f"1 picture drawn again in again; {len(bad)} files refused" in done.out
    generator = PULSE("demo", "cpu").generator
    for path in bad:
        with pytest.raises(UserError):
            redraw(generator, generator.synthesis, path)


def test_drawing_into_a_folder_that_cannot_be_is_one_line(pulse):
    pulse("-save_latent")
    (pulse.root / "file").write_text("in the way")
    done = pulse("-render", "runs/a.npz", "-output_dir", "file", status=2)
    assert done.err.count("\n") == 1 and "is no folder" in done.err


# ------------------------------------------------------------ going on


def test_a_result_without_a_whole_latent_is_made_again_to_the_same_bytes(pulse):
    pulse()
    before = files(pulse.runs, ".png")
    assert "results kept" not in pulse("-save_latent").out
    assert files(pulse.runs, ".png") == before
    latents = files(pulse.runs, ".npz")
    assert set(latents) == {"a.npz", "b.npz"}
    assert "2 results kept" in pulse("-save_latent").out
    assert "2 results kept" in pulse().out and files(pulse.runs, ".npz") == latents
    (pulse.runs / "a.npz").write_bytes(latents["a.npz"][:500])
    shutil.copy(pulse.runs / "a.npz", pulse.root)
    (pulse.runs / "b.npz").unlink()
    pulse("-save_latent")
    assert files(pulse.runs, ".npz") == latents and files(pulse.runs, ".png") == before
    (pulse.runs / "a.npz").write_bytes(latents["b.npz"])  # whole, but of another picture
    assert "1 result kept" in pulse("-save_latent").out
    assert files(pulse.runs, ".npz") == latents


def test_a_latent_goes_with_its_picture(pulse):
    pulse("-save_latent")
    assert set(files(pulse.runs, ".npz")) == {"a.npz", "b.npz"}
    pulse("-save_latent", "-eps", 1e-9, "-overwrite")
    assert set(files(pulse.runs, ".npz")) == {"outside_eps/a.npz", "outside_eps/b.npz"}
    pulse("-seed", 1, "-overwrite")
    assert not files(pulse.runs, ".npz") and len(files(pulse.runs, ".png")) == 2


KILLED = """
import os, signal, sys
import run
from generators import latents
from imaging import animation
from runner import folder, jobs
import torch._dynamo  # every optimiser imports it, which takes seconds
from cli.command import run_command

def kill(*args, **options):
    os.kill(os.getpid(), signal.SIGKILL)

for number, (module, name) in enumerate([
    (animation, "atomic_write"), (folder, "write_result"), (latents.np, "savez"),
    (jobs, "write_picture"),
]):
    child = os.fork()
    if child == 0:
        setattr(module, name, kill)
        sys.argv = ["run.py", *sys.argv[1:], "-output_dir", f"killed_{number}"]
        run_command(run.main)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL, name
"""


def test_a_run_that_is_killed_between_any_two_files_goes_on_to_the_same_bytes(pulse, tiny):
    args = ("-save_latent", "-animation", "gif", "-input_dir", "input/a.png")
    pulse(*args)
    expected = files(pulse.runs, ".png", ".npz", ".gif")
    assert len(expected) == 3
    fixed = ("-device", "cpu", "-threads", 1, "-seed", 0, "-steps", STEPS, "-eps", EPS)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, "-generator", *map(str, (tiny, *fixed, *args))],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=pulse.root,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    killed = sorted(pulse.root.glob("killed_*"))
    assert len(killed) == 4
    for folder in killed:
        assert not files(folder, ".png")  # the picture is the last: where it is, all is
        for path in folder.rglob("*.npz"):
            read_latent(path)
        pulse(*args, "-output_dir", folder.name)
        assert files(folder, ".png", ".npz", ".gif") == expected
        assert [path.name for path in folder.rglob(".*")] == [".pulse.lock"]


# ------------------------------------------------------------ progress


class Clock:
    """Time that passes when it is told to."""

    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(cli_progress, "time", clock)
    return clock


def test_the_time_that_is_left_is_sane_within_the_first_picture(clock):
    progress = cli_progress.Progress(10, "face")
    assert progress.left() == ""
    clock.now += 60  # loading, and compiling in the first step: that does not come again
    progress.live("", 0.01)
    assert progress.left() == ""
    for step in range(2, 51):
        clock.now += 1
        progress.live("", step / 100)
        told = progress.left()
        steps = 1000 - step  # of a second each
        assert told == f", about {steps / 60:.0f} min left"
    clock.now += 50
    progress.live("", 1.0)
    progress.advance_to(1)
    assert progress.left() == ", about 15 min left"
    clock.now += 100 * 8.5
    progress.live("", 8.5)
    assert progress.left() == ", about 50 s left"
    progress.advance_to(10)
    assert progress.left() == ""


def test_pictures_that_are_refused_or_written_late_do_not_make_the_estimate_jump_back(clock):
    progress = cli_progress.Progress(8, "face")
    progress.live("", 0.08)
    clock.now += 100
    progress.live("", 8)  # a batch of eight, searched
    progress.advance_to(1)  # and now written one by one
    assert progress.left() == ", about 0 s left"
    long = cli_progress.Progress(100_000)
    long.live("", 0)
    clock.now += 3600
    long.advance_to(1000)
    assert long.left() == ", about 99.0 h left"


def test_a_log_tells_l2_eps_steps_pictures_and_time_in_plain_lines(pulse, monkeypatch):
    monkeypatch.setattr(cli_progress.Progress, "EVERY", 0)
    done = pulse("-steps", 250)
    assert "\r" not in done.err
    number = r"\d+(\.\d+)?"
    live = rf"[ab]: L2 {number} \(eps 1\), step \d+ of 250; [01] of 2 faces done"
    lines = done.err.splitlines()
    assert any(re.fullmatch(live, line) for line in lines)  # nothing known yet
    assert any(re.fullmatch(rf"{live}, about {number} (s|min) left", line) for line in lines)
    finished = [line for line in lines if "within eps, L2" in line]
    assert re.fullmatch(r"1/2 a: .*, runs/a\.png, about \d+ s left", finished[0])
    assert re.fullmatch(r"2/2 b: .*, runs/b\.png", finished[1])


def test_a_terminal_has_one_bar_with_all_of_it(pulse, monkeypatch):
    ours, theirs = pty.openpty()
    parts = []

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(ours, 1 << 16):
                parts.append(part)

    reader = threading.Thread(target=read)
    reader.start()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 25, 120, 0, 0))
    with open(theirs, "w", closefd=True) as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        pulse("-steps", 200)
    reader.join(60)
    os.close(ours)
    shown = b"".join(parts).decode()
    assert re.search(r"0 of 2 faces \|.*a: L2 \d\.\d+ \(eps 1\), step \d+ of 200", shown)
    assert re.search(r"\d\d:\d\d, about \d+ s left, a: L2", shown)
    assert re.search(r"1 of 2 faces \|.*b: L2", shown)
    assert "1/2 a: within eps" in shown  # a line that stays


def test_quiet_tells_errors_and_the_summary_only(pulse):
    (pulse.root / "input" / "bad.png").write_text("no picture")
    (pulse.root / "input" / "notes.txt").write_text("nothing")
    done = pulse("-quiet", "-sheet", "-animation", "gif", status=1)
    (line,) = done.err.splitlines()
    assert line.startswith("refused: input/bad.png: it is not a picture")
    first, second = done.out.splitlines()
    assert first.startswith("2 faces made: 2 within eps 1") and second.startswith("Pictures: runs")
    pulse("-quiet", "-save_latent", "-overwrite", status=1)
    done = pulse("-quiet", "-render", "runs/a.npz", "runs/x.npz", "-output_dir", "again", status=1)
    (line,) = done.err.splitlines()
    assert line.startswith("refused: runs/x.npz: it cannot be opened (No such file")
    assert done.out == "1 picture drawn again in again; 1 file refused\n"
