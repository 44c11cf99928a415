"""Names that a terminal would obey, not print, reach it from no command."""

import sys
from pathlib import Path

import pytest
from conftest import one_file
from forked_runs import face

import align_face
import convert
import evaluate
import run
from cli.command import run_command

EVIL = "\x1b[31m\x07\n\x9b\u202e"  # red, a bell, a second line, CSI in one byte, right to left


@pytest.fixture
def shown(tmp_path, monkeypatch, capsys):
    """`shown(module, args, status)`: all that a command prints, in a folder with evil names."""
    monkeypatch.chdir(tmp_path)
    folder = Path(f"in{EVIL}")
    face(folder / f"a{EVIL}.png")
    (folder / f"bad{EVIL}.png").write_text("no picture")
    (folder / f"notes{EVIL}.txt").write_text("nothing")
    one_file(Path(f"g{EVIL}.pt"), resolution=8)
    Path(f"groups{EVIL}.csv").write_text(f'file,group\n"a{EVIL}.png","x{EVIL}"\n"q{EVIL}.png",y\n')

    def show(module, *args, status=0) -> str:
        monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *map(str, args)])
        with pytest.raises(SystemExit) as left:
            run_command(module.main)
        told = capsys.readouterr()
        assert left.value.code == status, told.err
        return told.out + told.err

    return show


def test_names_with_control_characters_are_printed_as_escapes(shown):
    generator, folder = f"g{EVIL}.pt", f"in{EVIL}"
    settings = ("-generator", generator, "-device", "cpu", "-cache_dir", f"cache{EVIL}")
    written = ("-sheet", "-save_latent", "-compile", "off")
    files = [f"-{kind}={kind}{EVIL}" for kind in ("html", "csv", "json", "markdown")]
    runs = ("-input_dir", folder, "-output_dir", f"out{EVIL}", "-steps", 2, *settings)
    text = [
        shown(run, *runs, *written, status=1),
        shown(run, *runs, "-steps", 3, status=2),
        shown(run, "-render", f"out{EVIL}/outside_eps/a{EVIL}.npz", f"none{EVIL}", status=1),
        shown(run, "-loss_str", EVIL, status=2),
        shown(run, f"-{EVIL}", status=2),
        shown(align_face, "-input_dir", folder, "-mode", "resize", "-output_dir", f"faces{EVIL}",
              status=1),
        shown(evaluate, f"out{EVIL}", "-input_dir", folder, "-groups", f"groups{EVIL}.csv", *files,
              status=1),
        shown(convert, generator, "-o", f"converted{EVIL}.pt"),
        shown(convert, folder, "-info", status=2),
    ]  # fmt: skip
    for each in text:
        lines = each.split("\n")
        assert all(line.isprintable() for line in lines), ascii(each)
        assert r"\x1b[31m\x07\n\x9b\u202e" in each
    title = Path(f"markdown{EVIL}").read_text().splitlines()[0]
    assert title.startswith(r"# out\x1b[31m") and title.isprintable()
