"""What drive.py promises, against a real HTTP server on loopback: whole and verified files only,
under the right names."""

import bz2
import hashlib
import os
import struct
import subprocess
import sys
import time

import loopback
import pytest
from loopback import (
    CONTENT,
    GIT_SHA1,
    ROOT,
    SHA256,
    Handler,
    closed_port_url,
    parts,
    reason,
    serve,
    weights,
)

import drive
from cli.errors import UserError
from drive import RemoteFile, Source, find_cached, open_url

pytestmark = pytest.mark.timed  # half a second of silence ends a download
server, cache = loopback.server, loopback.cache
short_waits_and_no_proxies = loopback.short_waits_and_no_proxies


# ---- the file comes in ----


def test_a_plain_url_gives_the_file_under_a_stable_name_and_is_asked_only_once(server, cache):
    url = serve(server, Handler.send_rest)
    path = open_url(url + "?x=1", cache)
    assert path.parent == cache and path.name.endswith("_w.pt") and path.read_bytes() == CONTENT
    assert open_url(url + "?x=1", cache) == path and len(server.asked) == 1
    assert open_url(url + "?x=2", cache) != path
    assert parts(cache) == []


def test_size_and_both_checksums_are_accepted_where_they_fit(server, cache):
    known = {"size": len(CONTENT), "sha256": SHA256.upper(), "git_blob_sha1": GIT_SHA1}
    file = weights(serve(server, Handler.send_rest), **known)
    assert open_url(file, cache) == cache / "w.pt"


def test_a_file_name_sent_by_the_server_is_ignored(server, cache):
    header = {"Content_Disposition": 'attachment; filename="../../x"'}
    url = serve(server, lambda h: h.send_rest(**header))
    assert open_url(weights(url), cache) == cache / "w.pt"
    assert not list(cache.parent.parent.glob("**/x"))
    for name in ("../x", "a/b", "a\\b", "", ".."):
        with pytest.raises(ValueError, match="file name"):
            RemoteFile(name, ())
    assert drive._file_at("https://h/a/..%2f..%2fx?y/z").name.endswith("_x")


def test_a_bzip2_source_is_unpacked_and_both_its_forms_are_verified(server, cache):
    packed = bz2.compress(CONTENT)
    url = serve(server, lambda h: h.send_rest(packed))
    good = Source(url, bz2=True, size=len(packed), sha256=hashlib.sha256(packed).hexdigest())
    assert "SHA-256" in reason(RemoteFile("w.pt", (good,), sha256="0" * 64), cache)
    wrong = Source(url, bz2=True, sha256="0" * 64)
    assert "SHA-256" in reason(RemoteFile("w.pt", (wrong,), sha256=SHA256), cache)
    assert open_url(RemoteFile("w.pt", (good,), sha256=SHA256), cache).read_bytes() == CONTENT
    assert parts(cache) == []


@pytest.mark.parametrize("packed", [bz2.compress(CONTENT)[:-20], b"no bzip2 at all"])
def test_damaged_bzip2_data_are_named(server, cache, packed):
    source = Source(serve(server, lambda h: h.send(packed)), bz2=True)
    assert reason(RemoteFile("w.pt", (source,)), cache) == "its bzip2 data are damaged."
    assert parts(cache) == []


def test_a_zip_bomb_is_refused_at_max_bytes(server, cache):
    source = Source(serve(server, lambda h: h.send(bz2.compress(bytes(10**7)))), bz2=True)
    file = RemoteFile("w.pt", (source,), max_bytes=10**6)
    assert "larger than 1.0 MB when decompressed" in reason(file, cache)
    assert parts(cache) == []


# ---- the cache ----


def test_a_file_of_the_2020_release_is_found_under_its_old_name(cache):
    cache.mkdir()
    old = cache / "6b94_w.pt"
    old.write_bytes(CONTENT)
    file = weights(closed_port_url(), old_prefix="6b94_", git_blob_sha1=GIT_SHA1)
    assert find_cached(file, cache) == open_url(file, cache) == old
    assert find_cached(weights(), cache) is None
    assert find_cached(weights(), cache / "absent") is None


def test_a_damaged_cached_file_is_named_and_left_alone(tmp_path):
    (tmp_path / "w.pt").write_bytes(CONTENT[:-1])
    for known in ({"size": len(CONTENT)}, {"sha256": SHA256}, {"git_blob_sha1": GIT_SHA1}):
        with pytest.raises(UserError, match=r"w\.pt is damaged .*delete it"):
            open_url(weights(closed_port_url(), **known), tmp_path)
    assert (tmp_path / "w.pt").read_bytes() == CONTENT[:-1]


def test_a_cache_that_cannot_be_written_ends_the_call_in_one_sentence(server, tmp_path):
    (tmp_path / "taken").write_text("a file, not a folder")
    file = weights(serve(server, Handler.send_rest), server.url + "/w.pt")
    with pytest.raises(UserError, match=r"cannot be kept in .*taken.* \(.*\); make room"):
        open_url(file, tmp_path / "taken" / "cache")
    assert server.asked == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_ends_the_call_in_one_sentence_and_asks_no_other_source(server, cache):
    url = serve(server, Handler.send_rest)
    code = f"""
import drive, resource
from cli.errors import UserError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    drive.open_url(drive.RemoteFile("w.pt", (drive.Source({url!r}),) * 2), {str(cache)!r})
except UserError as error:
    print(error)
"""
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "1"}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=60
    )
    assert run.stdout.startswith(f"w.pt cannot be kept in {cache} (File too large)"), run.stderr
    assert run.stdout.count("\n") == 1 and len(server.asked) == 1


def fetching_process(url, cache):
    code = f"import drive; print(drive.open_url({url!r}, {str(cache)!r}).name)"
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=pipe, stderr=pipe, text=True
    )


def test_eight_processes_at_once_download_once(server, cache):
    def slow(h):
        time.sleep(1)
        h.send_rest()

    url = serve(server, slow)
    running = [fetching_process(url, cache) for _ in range(8)]
    results = [process.communicate(timeout=60) for process in running]
    assert len({out for out, _ in results}) == 1 and results[0][0].endswith("_w.pt\n"), results
    assert len(server.asked) == 1 and parts(cache) == []


def test_after_a_killed_download_the_next_call_goes_on_where_it_stopped(server, cache):
    def stall(h):
        h.send_rest(cut=400_000)
        h.wfile.flush()
        h.server.over.wait(20)

    url = serve(server, stall, Handler.send_rest)
    process = fetching_process(url, cache)
    try:
        end = time.monotonic() + 30
        while not any(part.stat().st_size > 300_000 for part in cache.glob(".*.part")):
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert list(cache.glob("[!.]*")) == []
    assert open_url(url, cache).read_bytes() == CONTENT
    start = int(server.asked[1][1].removeprefix("bytes=").removesuffix("-"))
    assert len(server.asked) == 2 and 300_000 < start <= 400_000
    assert parts(cache) == []


def test_a_lock_that_is_held_ends_the_wait_with_the_total_time(server, cache):
    url = serve(server, lambda h: (h.server.over.wait(20), h.send_rest()))
    process = fetching_process(url, cache)
    try:
        end = time.monotonic() + 30
        while not server.asked:
            assert time.monotonic() < end
            time.sleep(0.02)
        with pytest.raises(UserError, match="another process"):
            open_url(url, cache, total_time=0.3)
    finally:
        process.kill()
        process.communicate(timeout=30)
    assert len(server.asked) == 1


# ---- what the user sees ----


def test_progress_is_one_line_without_a_terminal_and_can_be_silenced(server, tmp_path, capfd):
    url = serve(server, Handler.send_rest)
    open_url(weights(url), tmp_path / "a")
    assert capfd.readouterr() == ("", "downloading w.pt (0.5 MB) from 127.0.0.1\n")
    open_url(weights(url), tmp_path / "b", progress=False)
    assert capfd.readouterr() == ("", "")


def test_progress_goes_to_a_function_which_can_end_the_download(server, tmp_path):
    url, told = serve(server, Handler.send_rest), []
    open_url(weights(url), tmp_path / "a", progress=lambda *news: told.append(news))
    assert told[-1] == ("w.pt", len(CONTENT), len(CONTENT)) and len(told) > 1

    def end(name, done, total):
        raise KeyError(name)

    with pytest.raises(KeyError):
        open_url(weights(url), tmp_path / "b", progress=end)
    assert not (tmp_path / "b" / "w.pt").exists()
    assert open_url(weights(url), tmp_path / "b", progress=False).read_bytes() == CONTENT


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_progress_is_a_bar_on_a_terminal(server, tmp_path):
    import fcntl
    import pty
    import termios

    url = serve(server, Handler.send_rest)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    code = f"import drive; drive.open_url({url!r}, {str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=theirs, timeout=60, check=True)
    os.write(theirs, b"end")
    seen = b""
    while not seen.endswith(b"end"):
        seen += os.read(ours, 10_000)
    os.close(theirs)
    os.close(ours)
    assert b"512k/512k" in seen


def test_importing_drive_loads_neither_torch_nor_requests():
    code = "import drive, sys; sys.exit(bool({'torch', 'requests', 'tqdm'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60, check=True)
