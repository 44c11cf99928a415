"""Locks between processes, which the system frees when their holder dies, however it dies."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt


@contextlib.contextmanager
def held_open(path: Path) -> Iterator:
    """The open lock file `path`, to be taken with `try_lock`; it is let go when the block ends.

    Raises: OSError where the folder cannot be written.
    """
    with open(path, "ab") as handle:
        try:
            yield handle
        finally:
            if fcntl:  # closing alone would not do while a forked child has the file open too
                fcntl.flock(handle, fcntl.LOCK_UN)


def try_lock(handle) -> bool:
    """Take the lock if nobody has it. Raises: OSError where the file system knows no locks."""
    try:
        if fcntl:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            handle.seek(0)
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        raise
    return True
