"""Files that other processes can rely on: they appear whole or not at all, and locks keep them.

with atomic_write(path) as file:
    file.write(…)
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
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
            settle(file)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def settle(file: BinaryIO) -> None:
    """Bring what was written onto the disk. Raises: OSError where it has no room."""
    file.flush()
    os.fsync(file.fileno())


def require_folder_writable(folder: Path, flag: str) -> None:
    """Prove that files can be written in `folder`, or that it can be made; leaves nothing behind.

    Raises: UserError, naming the flag, the folder and the reason.
    """
    existing = folder.absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    try:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.stat(folder)  # fails also where a name is too long
        with tempfile.TemporaryFile(dir=existing):  # without a name, where the system can
            pass
    except OSError as error:
        reason = error.strerror if os.path.isdir(existing) else f"{existing} is no folder"
        raise UserError(
            f"{flag} {folder} cannot be written ({reason}): give another folder"
        ) from None


def require_file_writable(path: Path, flag: str, overwrite: bool) -> None:
    """Raises: UserError, naming the flag, where `path` is a folder, cannot be written or, unless
    `overwrite`, is there already.
    """
    given = f"{flag} {path}"
    try:
        if stat.S_ISDIR(path.stat().st_mode):
            raise UserError(f"{given} is a folder: name a file")
        if not overwrite:
            raise UserError(f"{given} is there already: give another name, or -overwrite")
    except (FileNotFoundError, NotADirectoryError):
        pass  # what is wrong with its folder is found below
    except OSError as error:  # a name that is too long, for example
        reason = f"cannot be written ({error.strerror}): give another name"
        raise UserError(f"{given} {reason}") from None
    require_folder_writable(path.parent, flag)


@contextlib.contextmanager
def hold_lock(
    path: Path,
    busy: str,
    *,
    wait: float = 0.0,
    on_wait: Callable[[], object] = lambda: None,
    optional: bool = False,
) -> Iterator[None]:
    """Keep the lock file `path` (made if missing, left behind) locked while the block runs.

    The system frees the lock when its holder dies, however it dies.

    wait: seconds that another process has to let go of it; on_wait: called when they begin.
    optional: where the file system has no locks, run the block without.
    Raises: UserError(busy) where another process holds it; OSError where the folder cannot be
    written or, unless optional, the file system has no locks.
    """
    # Late: it takes a tenth of a second. A descriptor's lock, because FileLock would fall back on
    # marker files where a file system has no locks.
    from filelock import lock_descriptor, unlock_descriptor

    locked, deadline = False, time.monotonic() + wait
    with open(path, "ab") as file:
        try:
            locked = lock_descriptor(file.fileno(), blocking=False)
            if not locked and wait > 0:
                on_wait()
            while not locked:
                if time.monotonic() >= deadline:
                    raise UserError(busy)
                time.sleep(0.1)
                locked = lock_descriptor(file.fileno(), blocking=False)
        except OSError as error:
            if not optional or error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
                raise
        try:
            yield
        finally:
            if locked:  # closing alone would not do while a forked child has the file open too
                unlock_descriptor(file.fileno())


def hex_digest(path: Path, digest: hashlib._Hash) -> str:
    """`digest` of what it holds already and a file's content, in hexadecimal. Raises: OSError."""
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, as 64 hexadecimal digits. Raises: OSError."""
    return hex_digest(path, hashlib.sha256())
