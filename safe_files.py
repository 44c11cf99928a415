"""Files that appear whole or not at all: `with atomic_write(path) as file: file.write(…)`."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """A binary file that becomes `path`, replacing what is there, when the block ends without an
    error.

    Until then it is a hidden file in the same folder (made if missing); it is removed if the block
    raises, and `path` is as it was. Raises: OSError where the folder cannot be written or the disk
    is full.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Nothing of the name itself: with more around it, a long one would be too long for the disk.
    temporary = path.with_name(f".{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise
