"""Files that appear whole or not at all: `with atomic_write(path) as file: file.write(…)`."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cli.errors import UserError


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


def require_folder_writable(folder: Path, flag: str) -> None:
    """Prove that files can be written in `folder`, or that it can be made; leaves nothing behind.

    Raises: UserError, naming the flag, the folder and the reason.
    """
    there = folder.absolute()
    while not (there.exists() or there.is_symlink()):
        there = there.parent
    try:
        with tempfile.TemporaryFile(dir=there):  # without a name, where the system can
            pass
    except OSError as error:
        reason = f"{there} is no folder" if not there.is_dir() else error.strerror
        raise UserError(
            f"{flag} {folder} cannot be written ({reason}): give another folder"
        ) from None
