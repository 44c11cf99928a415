"""What a user reads instead of a traceback."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LONGEST = 1000  # characters of a line: a stranger's file may have a name of a megabyte


class UserError(ValueError):
    """One sentence: what is wrong, where, and what to do. Further lines follow where several
    sources failed.

    Names and other people's text go in as they are: whoever prints it escapes them.
    """

    def __init__(self, *lines: object):
        texts = [str(line) for line in lines]
        self.lines = [t if len(t) <= LONGEST else f"{t[:LONGEST]} …" for t in texts]
        super().__init__("\n".join(self.lines))


def is_mistake(error: BaseException) -> bool:
    """Whether an error is a mistake of this project, whatever file or device it happened with: a
    line of ours asked for a name or an attribute that does not exist.

    What catches everything that a library makes of a damaged file, or of a device, raises it again.
    """
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    places = [Path(code.co_filename) for code in codes if code.co_name != "__getattr__"]
    place = places[-1] if places else Path()
    ours = place.is_relative_to(ROOT) and "site-packages" not in place.parts
    return ours and isinstance(error, (NameError, AttributeError, AssertionError))


def escaped(text: object) -> str:
    """`text` as one harmless line: what a terminal would obey, not print, becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))


class _Escaping(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = escaped(record.getMessage()), ()
        return True


# Where a program has no handler of its own, what is logged goes to the terminal.
logging.getLogger("pulse").addFilter(_Escaping())
