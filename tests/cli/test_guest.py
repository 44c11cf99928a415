"""In somebody else's process, a notebook's or a test's, everything is left as it was found."""

import os
import signal
import subprocess
import sys
import threading

import pytest
from conftest import ROOT
from forked_runs import face

from cli.command import run_command
from cli.guest import owns_process

BEFORE = f"""
import sys
sys.path += [{str(ROOT)!r}, {str(ROOT / "tests" / "cli")!r}]
# What these change is not ours: the packages that PULSE imports, and what a first search imports.
import torch, numpy, tqdm, PIL.Image, torch._dynamo, scipy.special, torchmetrics
from process_state import changes, state
"""
IMPORT = """
before = state()
from PULSE import PULSE
assert not changes(before, state()), changes(before, state())
"""
SEARCH = """
ref_im = torch.rand(3, 8, 8)
before = state()
for HR, LR in PULSE(generator="demo", cache_dir="cache")(ref_im, seed=0, steps=3):
    pass
assert not changes(before, state()), changes(before, state())
"""
# As functions of another program, which had its own wishes.
COMMANDS = """
import signal, warnings
import align_face, evaluate, run
import evaluation.per_image, imaging.pictures  # which give Pillow's logger a handler
from cli.command import run_command

signal.signal(signal.SIGTERM, lambda number, frame: print("mine"))
warnings.simplefilter("error", UserWarning)
torch.set_num_threads(2)
demo = ("-generator", "demo", "-cache_dir", "cache", "-quiet")
for module, *args in (
    (align_face, "-mode", "resize", "-input_dir", "input", "-output_dir", "small", "-quiet",
     "-output_size", 8, "-degrade", "gaussian:5"),
    (run, "-input_dir", "small", "-output_dir", "runs", "-steps", 3, "-save_latent", *demo),
    (run, "-render", "runs/outside_eps/a_0.npz", "-output_dir", "again", *demo),
    (run, "-input_dir", "small", "-output_dir", "runs", "-steps", 4, *demo),
    (evaluate, "runs", "-input_dir", "small"),
    (run, "-unknown"),
):
    sys.argv = [module.__name__ + ".py", *map(str, args)]
    for call in (module.main, lambda: run_command(module.main)):
        before = state()
        try:
            call()
        except (SystemExit, ValueError):
            pass
        assert not changes(before, state()), (sys.argv, changes(before, state()))
"""


def test_nothing_that_is_shared_is_changed(tmp_path):
    face(tmp_path / "input" / "a.png", side=8)
    done = subprocess.run(
        [sys.executable, "-c", BEFORE + IMPORT + SEARCH + COMMANDS],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    for words in ("1 face from", "1 face made", "1 picture drawn again", "PULSE, PNG files"):
        assert words in done.stdout


def status_of(main, resumes: bool = True) -> int:
    with pytest.raises(SystemExit) as left:
        run_command(main, resumes)
    return left.value.code


def interrupted() -> int:
    """A command that the user of a notebook stops, and once more while it clears up."""
    try:
        os.kill(os.getpid(), signal.SIGINT)
    finally:
        os.kill(os.getpid(), signal.SIGINT)
    return 0


def test_two_interrupts_end_a_guest_but_not_its_process(capsys):
    assert not owns_process()
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert status_of(interrupted) == 130
    assert "stopped; what is finished is kept" in capsys.readouterr().err
    assert status_of(interrupted, resumes=False) == 130
    assert capsys.readouterr().err.endswith(": stopped\n")  # nothing is promised
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_a_command_runs_in_a_thread_too(capsys):
    found = []
    thread = threading.Thread(target=lambda: found.append(status_of(lambda: print("ran") or 0)))
    thread.start()
    thread.join()
    assert found == [0] and capsys.readouterr().out == "ran\n"


PRINTING = f"""
import os, sys
sys.path.append({str(ROOT)!r})
from cli.command import run_command
from cli.progress import Progress, tell

def main():
    Progress(1).error("refused")
    open("done", "wb").close()
    tell("summary")
    return 0

run_command(main)
"""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the full disk is /dev/full")
@pytest.mark.parametrize(
    ("streams", "status", "err"),
    [
        (">/dev/full", 1, "refused\ncommand.py: error: stdout cannot be written (No space left"),
        ("2>/dev/full", 0, ""),
        (">/dev/full 2>/dev/full", 1, ""),
        ("2> >(exit)", 0, ""),
        ("> >(exit)", 0, "refused\n"),
    ],
)
def test_a_full_disk_or_a_closed_pipe_ends_nothing_but_the_talk(tmp_path, streams, status, err):
    (tmp_path / "command.py").write_text(PRINTING)
    command = f"sleep 0.1; {sys.executable} command.py {streams}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert (tmp_path / "done").exists()
    assert done.returncode == status and done.stderr.startswith(err), done.stderr
    assert "Traceback" not in done.stderr


def test_a_folder_that_was_removed_is_one_sentence(tmp_path):
    face(tmp_path / "input" / "a.png")
    script = f"mkdir gone; cd gone; rmdir ../gone; {sys.executable} {ROOT / 'run.py'}"
    command = f"{script} -input_dir {tmp_path / 'input'}"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("run.py: error: the folder in which this was started does not")
    assert done.stderr.count("\n") == 1


CLOSED = f"""
import os, sys
sys.path.append({str(ROOT)!r})
from cli.command import run_command
from cli.progress import Progress, tell

def main():
    for stream in (0, 1, 2):
        os.fstat(stream)  # taken, so that no file of ours gets the number
    tell("said")
    tell("said", file=sys.stderr)
    Progress(1).say("said")
    with open("done", "wb"):
        return 0

run_command(main)
"""


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed_are_no_error(tmp_path, closed):
    (tmp_path / "command.py").write_text(CLOSED)
    done = subprocess.run(
        f"{sys.executable} command.py {closed}",
        shell=True,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "done").exists()
    assert done.stdout in ("said\n", "") and done.stderr in ("said\nsaid\n", "")
