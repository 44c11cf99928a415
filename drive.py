"""A URL becomes a verified local file: `path = open_url("https://…/w.pt", cache_dir="cache")`.

The cache holds only whole files under their final names. An unfinished one is called
`.<name>.<hash>.part`, and the next call goes on from what a broken or killed download left of it.
By `.<name>.lock` one process downloads while the others wait.

gdown reads the confirmation pages of Google Drive; the download itself is requests and this file,
because gdown's has no limit of size or time, follows redirects to plain http, sends passwords from
~/.netrc, and goes on with a part that may be of another version of the server's file.
"""

from __future__ import annotations

import bz2
import hashlib
import itertools
import math
import os
import re
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from urllib.parse import quote, unquote, urljoin, urlsplit

from cli.errors import UserError, is_mistake
from cli.progress import tell
from safe_files import hex_digest, hold_lock, sha256

DRIVE = "https://drive.usercontent.google.com/download"
LOOPBACK = ("127.0.0.1", "localhost", "::1")  # the only hosts that may be asked over plain http
ATTEMPTS = 4  # per source, where trying again can help
BACKOFF = 0.5  # seconds before the second attempt, doubled before each later one
READ_TIMEOUT = 20.0  # seconds of silence after which a connection counts as broken
MAX_HOPS = 10  # redirects and confirmation pages followed for one file
CHUNK = 1 << 18  # bytes read at once; of a web page no more are read to see what it says
HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head)\b", re.IGNORECASE)
QUOTA = re.compile("quota exceeded|too many users have viewed or downloaded this file", re.I)
PASSWORD = re.compile(r"""<input\b[^>]*\btype\s*=\s*["']?password""", re.I)


@dataclass(frozen=True)
class Source:
    """One address of a file; its size and checksum are of what is served, before decompression."""

    url: str  # https://…, or "drive:ID" for a Google Drive id
    bz2: bool = False  # the address serves the file bzip2-compressed
    size: int | None = None  # bytes
    sha256: str | None = None


@dataclass(frozen=True)
class RemoteFile:
    """What is known of a file before it is here; size and checksums are of the finished file."""

    name: str  # its file name in cache_dir, never taken from a server
    sources: tuple[Source, ...]  # tried in order
    size: int | None = None  # bytes
    sha256: str | None = None
    git_blob_sha1: str | None = None  # SHA-1 of b"blob <size>\0" + content
    old_prefix: str | None = None  # caches of the 2020 release hold it as <old_prefix><name>
    max_bytes: int = 1 << 30  # a larger file is refused, as served and as decompressed

    def __post_init__(self):
        if self.name in ("", ".", "..") or re.search(r"[/\\:\0]", self.name):
            raise ValueError(f"{self.name!r} is no plain file name; give one without a folder.")


def find_cached(file: RemoteFile, cache_dir: str | Path) -> Path | None:
    """The file in cache_dir under its name, else under its name of 2020; None if it is not there.

    Raises: UserError if it is there and is not what it should be; deletes nothing.
    """
    names = [file.name] + ([file.old_prefix + file.name] if file.old_prefix else [])
    for path in (Path(cache_dir).expanduser() / name for name in names):
        if path.is_file():
            try:
                _verify(path, file)
            except _Fault as fault:
                sentence = f"{path} is damaged ({fault}); delete it, then run again."
                raise UserError(sentence) from None
            return path
    return None


def open_url(
    url_or_file: str | RemoteFile,
    cache_dir: str | Path = "cache",
    *,
    check: Callable[[Path], None] | None = None,
    answer_within: float = 20.0,
    total_time: float = 6 * 3600.0,
    progress: bool | Callable = True,
) -> Path:
    """The path in cache_dir of a whole and verified file, downloaded if it is not there yet.

    check: called with a fresh download under its temporary name; a ValueError refuses the download.
    answer_within: seconds, over all sources, until a first server must have answered.
    total_time: seconds for everything. progress: on stderr, a bar on a terminal, else one line; a
    function is called as progress(name, bytes so far, bytes in all or None), too.
    Raises: UserError if no source gave the file, if the cached one is damaged, or if cache_dir
    cannot hold it.
    """
    file = url_or_file if isinstance(url_or_file, RemoteFile) else _file_at(url_or_file)
    cache_dir = Path(cache_dir).expanduser()
    ends = time.monotonic() + total_time
    held = f"another process is downloading {file.name} to {cache_dir}"
    try:
        if found := find_cached(file, cache_dir):
            return found
        cache_dir.mkdir(parents=True, exist_ok=True)
        with hold_lock(
            cache_dir / f".{file.name}.lock",
            busy=f"{held}; wait for its end, then run again.",
            wait=total_time,
            on_wait=lambda: progress and tell(f"waiting: {held}", file=sys.stderr),
        ):
            budget = _Budget(ends, answer_within)
            # While this process waited for the lock, its holder may have fetched the file.
            return find_cached(file, cache_dir) or _fetch(file, cache_dir, check, budget, progress)
    except OSError as error:  # of the disk: those of the network have become _Failure by now
        reason = error.strerror or type(error).__name__
        raise UserError(
            f"{file.name} cannot be kept in {cache_dir} ({reason}); "
            "make room there or choose another folder for the cache."
        ) from None


def _file_at(url: str) -> RemoteFile:
    last = unquote(re.split("[?#]", url)[0].rstrip("/").rsplit("/", 1)[-1])
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", last)[-80:]
    return RemoteFile(f"{_short_hash(url)}_{name}", (Source(url),))


def _short_hash(url: str) -> str:
    return hashlib.sha256(url.encode()).hexdigest()[:8]


def _amount(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes >= 100_000 else f"{n_bytes} bytes"


def _verify(path: Path, known: Source | RemoteFile):
    """Raises: _Fault naming what is wrong with a file's size or checksums, as far as known."""
    size, git = path.stat().st_size, getattr(known, "git_blob_sha1", None)
    if known.size not in (None, size):
        raise _Fault(f"{size} bytes instead of {known.size}")
    if known.sha256 and sha256(path) != known.sha256.lower():
        raise _Fault("wrong SHA-256")
    if git and hex_digest(path, hashlib.sha1(b"blob %d\0" % size)) != git.lower():
        raise _Fault("wrong git blob SHA-1")


class _Failure(Exception):
    """Why an attempt gave no file, in a few words; `again`: another attempt may succeed."""

    def __init__(self, reason: str, again: bool = False):
        super().__init__(reason)
        self.again = again


class _Fault(_Failure):
    """What is wrong with the bytes that came; none of them is kept."""


class _Budget:
    """The seconds that are left, for everything and until a first server answers."""

    def __init__(self, ends: float, answer_within: float):
        self.ends, self.answer_within = ends, answer_within  # `ends` on the monotonic clock
        self.first_answer_by = time.monotonic() + answer_within
        self.answer_by = math.inf  # what of that the present source may use

    def left(self) -> float:
        return min(self.ends, self.answer_by) - time.monotonic()


def _fetch(file: RemoteFile, cache_dir: Path, check, budget: _Budget, progress) -> Path:
    parts = [_Part(cache_dir, file, source) for source in file.sources]
    failures = []
    for i, part in enumerate(parts):
        # Equal shares of what is left: one silent source must not starve those after it.
        now = time.monotonic()
        budget.answer_by = now + (budget.first_answer_by - now) / (len(parts) - i)
        try:
            part.complete(check, budget, progress)
        except _Failure as failure:
            failures.append(f"  {part.source.url}: {failure}.")
            continue
        with open(part.finished, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part.finished, cache_dir / file.name)
        for leftover in parts:
            leftover.forget()
        return cache_dir / file.name
    advice = f"try later, or put the file there as {cache_dir / file.name}."
    raise UserError(f"{file.name} could not be downloaded; {advice}", *failures)


class _Part:
    """What has come in of a file from one source, and how the rest of it comes in."""

    def __init__(self, cache_dir: Path, file: RemoteFile, source: Source):
        self.file, self.source = file, source
        self.path = cache_dir / f".{file.name}.{_short_hash(source.url)}.part"
        self.version = self.path.with_suffix(".version")  # its ETag or date, "" if unknown
        self.finished = self.path.with_suffix(".unpacked") if source.bz2 else self.path
        self.expected = source.size if source.bz2 or source.size is not None else file.size
        self.resumed = 0  # bytes that this attempt found here and goes on from

    def forget(self):
        for path in (self.path, self.version, self.finished):
            path.unlink(missing_ok=True)

    def complete(self, check, budget: _Budget, progress):
        """Downloads until the file is whole and verified, in a bounded number of attempts."""
        for attempt in range(ATTEMPTS):
            try:
                self.download(budget, progress)
                self.verify(check)
                return
            except _Failure as failure:
                again = failure.again
                if isinstance(failure, _Fault):
                    # It may lie in what an earlier attempt left: worth one fetch from the start.
                    again = self.resumed > 0
                    self.forget()
                pause = BACKOFF * 2**attempt
                if not again or attempt + 1 == ATTEMPTS or pause >= budget.left():
                    raise
            time.sleep(pause)

    def verify(self, check):
        """Unpacks the download if it is compressed. Raises: _Fault."""
        _verify(self.path, self.source)
        if self.source.bz2:
            _unpack(self.path, self.finished, self.file.max_bytes)
        _verify(self.finished, self.file)
        try:
            if check:
                check(self.finished)
        except ValueError as error:
            raise _Fault(str(error).rstrip(".") or "refused by its check") from None

    def download(self, budget: _Budget, progress):
        """One attempt to bring the part to its whole length."""
        version = self.version.read_text("latin-1") if self.version.exists() else ""
        # Without any of these, nothing would show if the server's file had changed since.
        known = version or self.source.sha256 or self.file.sha256 or self.file.git_blob_sha1
        start = self.path.stat().st_size if known and self.path.exists() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        if start and version:
            headers["If-Range"] = version
        response, body = _follow(self.source.url, headers, budget)
        with response:
            status, given_range = response.status_code, response.headers.get("Content-Range", "")
            self.resumed = 0 if status == 200 else start
            whole = status == 416 and given_range == f"bytes */{start}"  # no bytes are left
            if whole and 0 < start <= self.file.max_bytes:
                return
            if start and (status == 416 or status == 206 and f"bytes {start}-" not in given_range):
                raise _Fault("sent other bytes than asked for")
            if status != 200 and not (start and status == 206):
                raise _Failure(f"HTTP {status}", again=status == 429 or status >= 500)
            if response.headers.get("Content-Encoding", "identity").lower() != "identity":
                raise _Failure("sent an encoded body although none was asked for")
            self.receive(response, body, progress)

    def receive(self, response, body: Iterator[bytes], progress):
        """Appends a response's body to the part and checks its length."""
        from tqdm import tqdm

        done, given, name = self.resumed, response.headers, self.file.name
        length = "" if "Transfer-Encoding" in given else given.get("Content-Length", "")
        total = done + int(length[:20]) if re.fullmatch("[0-9]+", length) else self.expected
        limit = min(math.inf if total is None else total, self.file.max_bytes)
        if self.expected not in (None, total):
            raise _Fault(f"serves {total} bytes instead of {self.expected}")
        if total is not None and total > limit:
            raise _Fault(f"larger than {_amount(limit)}")
        if not done:
            self.forget()  # before the new version is noted: an old beginning must not pass for it
            etag = given.get("ETag", "W/")  # a weak one (W/…) does not promise the same bytes
            version = given.get("Last-Modified", "") if etag.startswith("W/") else etag
            self.version.write_text(version, "latin-1")
        bar = progress is True and sys.stderr.isatty()
        if progress and not bar:
            size = "" if total is None else f" ({_amount(total)})"
            host = urlsplit(response.url).hostname
            tell(f"downloading {name}{size} from {host}", file=sys.stderr)
        unit = {"unit": "B", "unit_scale": True, "disable": not bar}
        with open(self.path, "ab") as out, tqdm(None, name, total, initial=done, **unit) as shown:
            try:
                while done <= limit and (chunk := next(body, b"")):
                    out.write(chunk)
                    done += len(chunk)
                    shown.update(len(chunk))
                    callable(progress) and progress(name, done, total)
                if done < (total or 0):
                    raise _Failure("the connection broke", again=True)
            except _Failure as broken:
                of_total = "" if total is None else f" of {_amount(total)}"
                raise _Failure(f"{broken} after {_amount(done)}{of_total}", broken.again) from None
        if done > limit:
            raise _Fault(f"larger than {_amount(limit)}")
        if not done and self.expected != 0:
            raise _Fault("sent an empty file")


def _unpack(packed: Path, target: Path, max_bytes: int):
    """Raises: _Fault where the bzip2 data are damaged, or the file is larger than max_bytes."""
    try:
        with bz2.open(packed) as stream, open(target, "wb") as out:
            while chunk := stream.read(CHUNK):
                if out.tell() + len(chunk) > max_bytes:
                    raise _Fault(f"larger than {_amount(max_bytes)} when decompressed")
                out.write(chunk)
    except (EOFError, OSError) as error:
        if getattr(error, "errno", None):  # of the disk: bz2 gives its own errors no number
            raise
        raise _Fault("its bzip2 data are damaged") from None


def _follow(url: str, headers: dict[str, str], budget: _Budget):
    """Follows redirects and Drive's confirmation page to (response, iterator over its body)."""
    import requests

    if url.startswith("drive:"):
        url = f"{DRIVE}?id={quote(url.removeprefix('drive:'), safe='')}&export=download"
    session = requests.Session()
    session.headers.update({"Accept-Encoding": "identity"} | headers)
    session.auth = lambda request: request  # no passwords from ~/.netrc or the URL
    # requests would read the whole body of a redirect, however long; redirects are followed here.
    session.get_redirect_target = lambda response: None
    previous, confirmed = None, False
    for _ in range(MAX_HOPS):
        previous = url = _permitted(url, previous)
        # A proxy cannot reach this machine's loopback.
        session.trust_env = urlsplit(url).hostname not in LOOPBACK
        response = _ask(session, url, budget)
        if response.is_redirect:
            response.close()
            url = response.headers["Location"]
            continue
        body = _body(response, budget)
        head = next(body, b"") if response.ok else b""
        if "html" not in response.headers.get("Content-Type", "").lower() and not HTML.match(head):
            return response, itertools.chain([head] if head else [], body)
        while len(head) < CHUNK and (chunk := next(body, b"")):
            head += chunk
        page = head.decode(errors="replace")
        if QUOTA.search(page):
            raise _Failure("Google Drive's quota for this file is used up; try again in a day")
        if not response.ok:
            return response, body
        response.close()
        if PASSWORD.search(page) or urlsplit(url).hostname == "accounts.google.com":
            raise _Failure("asks to sign in, so the file is not public")
        url, confirmed = None if confirmed else _confirmed_url(page), True
        if not url:
            raise _Failure("answered with a web page, not the file")
    raise _Failure(f"redirected more than {MAX_HOPS} times")


def _permitted(url: str, previous: str | None) -> str:
    """The address as requests reads it; _Failure unless https, or http from and to loopback."""
    import requests

    try:
        url = requests.Request("GET", urljoin(previous or url, url)).prepare().url
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:  # requests' own errors about addresses are ValueErrors too
        raise _Failure("not an address that can be asked") from None
    local = host in LOOPBACK and urlsplit(previous or url).hostname in LOOPBACK
    if scheme == "https" or scheme == "http" and local:
        return url
    raise _Failure(f"{'redirected to' if previous else 'is'} {scheme}://{host}, which is not https")


def _confirmed_url(page: str) -> str | None:
    """Where Drive's form to download a file unscanned leads; None of any other page."""
    from gdown.download import get_url_from_gdrive_confirmation

    # On one line, because gdown reads line by line. As in a browser, the inputs of the form replace
    # the query of its address.
    page = re.sub(r"""(\baction=["'][^"'?]*)\?[^"']*""", r"\1", " ".join(page.splitlines()))
    try:
        return get_url_from_gdrive_confirmation(page)
    except Exception:  # its own error, or whatever a stranger's page makes its HTML parser raise
        return None


def _ask(session, url: str, budget: _Budget):
    """The response to one GET request, its body still unread."""
    answers, seconds = [], min(budget.left(), budget.answer_within)

    def ask():
        try:
            answers.append(session.get(url, stream=True, timeout=(seconds, READ_TIMEOUT)))
        except Exception as error:
            answers.append(error if is_mistake(error) else _network_failure(error))

    # Nothing can interrupt a name look-up, so it is left behind in its thread when time is up.
    thread = Thread(target=ask, daemon=True)
    if seconds > 0:
        thread.start()
        thread.join(seconds)
    answer = answers[0] if answers else _Failure("timed out")
    if isinstance(answer, Exception):
        raise answer
    budget.first_answer_by = budget.answer_by = math.inf
    return answer


def _body(response, budget: _Budget) -> Iterator[bytes]:
    """Raises: _Failure where the connection breaks or time is up."""
    read = getattr(response.raw, "read1", response.raw.read)  # urllib3 1 has no read1
    while True:
        try:
            chunk = read(CHUNK)
        except Exception as error:
            raise _Failure(str(_network_failure(error)), again=True) from None
        if not chunk:
            return
        if budget.left() <= 0:
            raise _Failure("timed out")
        yield chunk


def _network_failure(error: BaseException) -> _Failure:
    """A plain name for what went wrong, out of the exceptions that wrap each other."""
    chain = [error]
    while error := error.__cause__ or error.__context__:
        chain.append(error)
    for kind, reason in (
        (socket.gaierror, "no such host, or no network"),
        (ConnectionRefusedError, "connection refused"),
        (TimeoutError, "timed out"),
        (ssl.SSLCertVerificationError, "its TLS certificate cannot be trusted"),
        ((ConnectionError, HTTPException, ssl.SSLError), "the connection broke"),
    ):
        if any(isinstance(link, kind) for link in chain):
            return _Failure(reason, again=reason == "the connection broke")
    named = [link.strerror.lower() for link in chain if getattr(link, "strerror", None)]
    return _Failure(named[-1] if named else f"no connection ({type(chain[0]).__name__})")
