"""What a user reads instead of a traceback."""

from __future__ import annotations

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


def escaped(text: object) -> str:
    """`text` as one harmless line: what a terminal would obey, not print, becomes an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
