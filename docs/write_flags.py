"""Write flags.md, every flag of every command, from the commands' own parsers.

python docs/write_flags.py
"""

from __future__ import annotations

import importlib
import re
import sys
from argparse import Action
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MODULES = (
    *("run", "align_face", "evaluate", "experiments", "bench", "convert"),
    *("training.train", "training.grow", "training.search_axes", "training.export"),
    *("training.score", "demo.app", "evaluation.naturalness"),
)
HEAD = """\
# Every flag

Written by `python docs/write_flags.py` (`make flags`), from what each command's `-h` prints.

Flags have one dash, as users of PULSE type them; two dashes work too.
"""


def row(action: Action) -> str:
    """A line of a table: flag, default, meaning."""
    flag = action.option_strings[0] if action.option_strings else action.metavar
    meaning, _, default = action.help.replace("%%", "%").partition(" (default: ")
    default = f"`{default.removesuffix(')')}`" if default else "required" * action.required
    meaning = re.sub(r"([<*|])", r"\\\1", meaning)  # as text, not as HTML or Markdown
    return f"| `{flag}` | {default} | {meaning} |"


def section(module: str) -> str:
    """A command's heading, the first sentence of its help, and the table of its flags."""
    parser = importlib.import_module(module).parser()
    command = f"python -m {module}" if "." in module else f"{module}.py"
    lines = [row(action) for action in parser._actions if action.dest != "help"]
    first = parser.description.split("\n\n")[0].replace("\n", " ")
    table = "\n".join(["| flag | default | meaning |", "|---|---|---|", *lines])
    return f"## {command}\n\n{first}\n\n{table}\n"


def page() -> str:
    return "\n".join([HEAD, *map(section, MODULES)])


if __name__ == "__main__":
    (ROOT / "docs" / "flags.md").write_text(page(), encoding="utf-8")
