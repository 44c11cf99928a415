"""What safe_files.py promises: whole files or none, and locks that go with their holders."""

import errno
import hashlib
import os
import subprocess
import sys
import time

import filelock
import pytest
from conftest import ROOT

from cli.errors import UserError
from safe_files import atomic_write, hold_lock, require_folder_writable, sha256

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


# ---- files ----


def test_a_file_appears_when_its_block_ends_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "made" / "on" / "the" / "way" / f"{'x' * 251}.txt"  # as long as names can be
    for content in (b"first", b"second"):
        with atomic_write(path) as file:
            file.write(content)
            file.flush()
            assert not path.exists() or path.read_bytes() == b"first"
        assert path.read_bytes() == content and names(path.parent) == [path.name]


@pytest.mark.parametrize("reason", [ValueError("a fault"), KeyboardInterrupt()])
def test_a_block_that_raises_leaves_the_old_file_and_nothing_else(tmp_path, reason):
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    with pytest.raises(type(reason)), atomic_write(path) as file:
        file.write(b"new")
        raise reason
    assert path.read_bytes() == b"old" and names(tmp_path) == ["a.txt"]


def test_a_writable_folder_is_left_as_it_was(tmp_path):
    require_folder_writable(tmp_path, "-output_dir")
    require_folder_writable(tmp_path / "not" / "made", "-output_dir")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named_with_its_flag(tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(UserError, match=r"^-output_dir \S+new cannot .*file is no folder\): give"):
        require_folder_writable(tmp_path / "file" / "new", "-output_dir")


def test_sha256_is_that_of_the_content(tmp_path):
    content = bytes(range(256)) * 10_000  # more than is read at once
    (tmp_path / "a").write_bytes(content)
    assert sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


# ---- locks ----


@pytest.fixture
def holder(tmp_path):
    """A process that holds the lock tmp_path/lock."""
    code = "from safe_files import hold_lock; import sys, time\n"
    code += f"with hold_lock({str(tmp_path / 'lock')!r}, 'busy'): print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == os.linesep.encode()
        yield holder
        holder.kill()


@pytest.mark.timed
def test_a_lock_that_another_process_holds_ends_in_the_callers_sentence_at_once(holder, tmp_path):
    start = time.monotonic()
    with pytest.raises(UserError, match="^taken$"), hold_lock(tmp_path / "lock", "taken"):
        pytest.fail("two processes hold one lock")
    assert time.monotonic() - start < 5


def test_a_lock_goes_with_its_holder_however_that_dies(holder, tmp_path):
    holder.kill()
    holder.wait()
    for _ in range(2):  # and with the block of its holder
        with hold_lock(tmp_path / "lock", "taken"):
            pass


def test_a_wait_is_announced_once_and_ends_with_the_lock_or_the_time(holder, tmp_path):
    announced = []
    with (
        pytest.raises(UserError, match="taken"),
        hold_lock(tmp_path / "lock", "taken", wait=0.3, on_wait=lambda: announced.append(1)),
    ):
        pytest.fail("two processes hold one lock")
    assert announced == [1]
    with hold_lock(tmp_path / "lock", "taken", wait=30, on_wait=holder.kill):
        assert holder.wait(timeout=30) != 0
    with hold_lock(tmp_path / "lock", "taken", wait=30, on_wait=pytest.fail):
        pass


@needs_fork
def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """Worker processes inherit the open lock file, and may outlive the block."""
    read, write = os.pipe()
    with hold_lock(tmp_path / "lock", "taken"):
        child = os.fork()
        if child == 0:
            os.close(write)
            os.read(read, 1)  # until the parent closes its end
            os._exit(0)
    try:
        with hold_lock(tmp_path / "lock", "taken"):
            pass
    finally:
        os.close(write)
        os.close(read)
        os.waitpid(child, 0)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EIO])
def test_a_file_system_without_locks_is_borne_where_the_lock_is_optional(
    tmp_path, monkeypatch, number
):
    def refuse(*_, **__):  # in place of such a file system
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(filelock, "lock_descriptor", refuse)
    with pytest.raises(OSError), hold_lock(tmp_path / "lock", "taken"):
        pytest.fail("not locked")
    if number == errno.EIO:
        with pytest.raises(OSError), hold_lock(tmp_path / "lock", "taken", optional=True):
            pytest.fail("a broken disk is no file system without locks")
    else:
        with hold_lock(tmp_path / "lock", "taken", optional=True):
            (tmp_path / "written").touch()
        assert (tmp_path / "written").exists()


def test_importing_safe_files_stays_cheap():
    """Every command imports it before its -h: filelock is loaded where a lock is taken."""
    code = "import safe_files, sys; sys.exit('filelock' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)
