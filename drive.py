"""A URL becomes a verified local file: `path = open_url("https://…/w.pt", cache_dir="cache")`.

The cache holds only whole files under their final names. While a file comes in it is called
`.<name>.<hash>.part`; what a broken or killed download leaves there is where the next call goes on.
`.<name>.lock` lets one process fetch while the others wait. A `RemoteFile` adds to the address what
is known of a file: its size, its checksums, further sources, which are tried in order.
"""

import bz2
import contextlib
import hashlib
import os
import re
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote

from cli.errors import UserError
from cli.progress import tell
from safe_files import hex_digest, hold_lock
from webanswers import CHUNK, Answer, Budget, Failure, get

DRIVE = "https://drive.usercontent.google.com/download"
ATTEMPTS = 4  # per source, where trying again can help
BACKOFF = 0.5  # seconds before the second attempt, doubled before each later one


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
            if fault := _fault(path, file.size, file.sha256, file.git_blob_sha1):
                raise UserError(f"{path} is damaged ({fault}); delete it, then run again.")
            return path
    return None


def open_url(
    url_or_file: str | RemoteFile,
    cache_dir: str | Path = "cache",
    *,
    check: Callable[[Path], None] | None = None,
    answer_within: float = 20.0,
    total_time: float = 6 * 3600.0,
    progress: bool = True,
) -> Path:
    """The path in cache_dir of a whole and verified file, downloaded if it is not there yet.

    check: called with a fresh download under its temporary name; a ValueError refuses the download.
    answer_within: seconds, over all sources, until a first server must have answered.
    total_time: seconds for everything. progress: on stderr, a bar on a terminal, else one line.
    Raises: UserError if no source gave the file, if the cached one is damaged, or if cache_dir
    cannot hold it.
    """
    file = url_or_file if isinstance(url_or_file, RemoteFile) else _file_at(url_or_file)
    cache_dir = Path(cache_dir).expanduser()
    budget = Budget(time.monotonic() + total_time, answer_within)
    try:
        if found := find_cached(file, cache_dir):
            return found
        cache_dir.mkdir(parents=True, exist_ok=True)
        held = f"another process is downloading {file.name} to {cache_dir}"
        with hold_lock(
            cache_dir / f".{file.name}.lock",
            busy=f"{held}; wait for its end, then run again.",
            wait=budget.left(),
            on_wait=lambda: progress and tell(f"waiting: {held}", file=sys.stderr),
        ):
            # While this process waited for the lock, its holder may have fetched the file.
            return find_cached(file, cache_dir) or _fetch(file, cache_dir, check, budget, progress)
    except OSError as error:  # of the disk: those of the network have become Failure by now
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


def _fault(path: Path, size: int | None, sha256: str | None, git: str | None = None) -> str | None:
    """What is wrong with a file's size or checksums, as far as these are known."""
    actual = path.stat().st_size
    if size is not None and size != actual:
        return f"{actual} bytes instead of {size}"
    if sha256 and hex_digest(path, hashlib.sha256()) != sha256.lower():
        return "wrong SHA-256"
    if git and hex_digest(path, hashlib.sha1(b"blob %d\0" % actual)) != git.lower():
        return "wrong git blob SHA-1"
    return None


class _Part:
    """What has come in so far from one source, and which version of the server's file that is."""

    def __init__(self, cache_dir: Path, file: RemoteFile, source: Source):
        self.file, self.source = file, source
        self.path = cache_dir / f".{file.name}.{_short_hash(source.url)}.part"
        self.version_path = self.path.with_suffix(".version")
        self.finished_path = self.path.with_suffix(".unpacked") if source.bz2 else self.path

    def resumable(self) -> tuple[int, str]:
        """How many bytes are here to go on from, and their ETag or date, "" if unknown."""
        if not (self.path.exists() and self.version_path.exists()):
            return 0, ""
        version = self.version_path.read_text("latin-1")
        file, source = self.file, self.source
        if version or source.sha256 or file.sha256 or file.git_blob_sha1:
            return self.path.stat().st_size, version
        return 0, ""  # nothing would tell if the server's file had changed since

    def forget(self):
        for path in (self.path, self.version_path, self.finished_path):
            path.unlink(missing_ok=True)

    def fault(self, check) -> str | None:
        """What is wrong with the whole download; unpacks it if it is compressed."""
        file, source = self.file, self.source
        if fault := _fault(self.path, source.size, source.sha256):
            return fault
        if source.bz2 and (fault := _unpack(self.path, self.finished_path, file.max_bytes)):
            return fault
        if fault := _fault(self.finished_path, file.size, file.sha256, file.git_blob_sha1):
            return fault
        try:
            if check:
                check(self.finished_path)
        except ValueError as error:
            return str(error).rstrip(".") or "refused by its check"
        return None


def _unpack(packed: Path, target: Path, max_bytes: int) -> str | None:
    with bz2.open(packed) as stream, open(target, "wb") as out:
        while True:
            try:
                chunk = stream.read(CHUNK)
            except (EOFError, OSError) as error:
                if getattr(error, "errno", None):  # bz2 gives its own errors no number
                    raise
                return "its bzip2 data are damaged"
            if not chunk:
                return None
            if out.tell() + len(chunk) > max_bytes:
                return f"larger than {_amount(max_bytes)} when decompressed"
            out.write(chunk)


def _fetch(file: RemoteFile, cache_dir: Path, check, budget: Budget, progress: bool) -> Path:
    target = cache_dir / file.name
    parts = [_Part(cache_dir, file, source) for source in file.sources]
    failures = []
    first_answer_by = time.monotonic() + budget.answer_within
    for i, part in enumerate(parts):
        # Equal shares of what is left: one silent source must not starve those after it.
        now = time.monotonic()
        budget.answer_by = now + (first_answer_by - now) / (len(parts) - i)
        try:
            _complete(part, check, budget, progress)
        except Failure as failure:
            failures.append(f"  {part.source.url}: {failure}.")
            continue
        with open(part.finished_path, "rb+") as stream:
            os.fsync(stream.fileno())
        os.replace(part.finished_path, target)
        for leftover in parts:
            leftover.forget()
        return target
    advice = f"{file.name} could not be downloaded; try later, or put the file there as {target}."
    raise UserError(advice, *failures)


def _complete(part: _Part, check, budget: Budget, progress: bool):
    """Downloads a part until it is whole and verified, in a bounded number of attempts."""
    for attempt in range(1, ATTEMPTS + 1):
        try:
            resumed = _download(part, budget, progress)
            fault = part.fault(check)
            if not fault:
                return
            part.forget()
            # The fault may lie in what an earlier attempt left: worth one fetch from the start.
            raise Failure(fault, again=resumed)
        except Failure as failure:
            pause = BACKOFF * 2 ** (attempt - 1)
            if not failure.again or attempt == ATTEMPTS or pause >= budget.left():
                raise
        time.sleep(pause)


def _download(part: _Part, budget: Budget, progress: bool) -> bool:
    """One attempt to bring a part to its whole length; True if it went on from an earlier one."""
    offset, version = part.resumable()
    with get(_address(part.source.url), budget, offset, version) as answer:
        _store(part, answer, progress)
        return answer.start > 0


def _address(url: str) -> str:
    if not url.startswith("drive:"):
        return url
    return f"{DRIVE}?id={quote(url.removeprefix('drive:'), safe='')}&export=download"


def _store(part: _Part, answer: Answer, progress: bool):
    """Appends an answer's body to a part and checks its length."""
    file, source = part.file, part.source
    expected = file.size if source.size is None and not source.bz2 else source.size
    total = expected if answer.total is None else answer.total
    limit = file.max_bytes if total is None else min(total, file.max_bytes)
    too_large = f"larger than {_amount(limit)}"
    unfit = expected is not None and total != expected
    if unfit or total is not None and total > limit:
        part.forget()
        fault = f"serves {total} bytes instead of {expected}" if unfit else too_large
        raise Failure(fault, again=answer.start > 0)
    if not answer.start:
        part.forget()  # before the new version is noted: an old beginning must not pass for it
        part.version_path.write_text(answer.version, "latin-1")
    done = answer.start
    with open(part.path, "ab") as out, _bar(file.name, answer, total, progress) as advance:
        try:
            while done <= limit and (chunk := next(answer.body, b"")):
                out.write(chunk)
                done += len(chunk)
                advance(len(chunk))
            broken = Failure("the connection broke", again=True) if done < (total or 0) else None
        except Failure as failure:
            broken = failure
    if broken:
        of_total = "" if total is None else f" of {_amount(total)}"
        raise Failure(f"{broken} after {_amount(done)}{of_total}", broken.again)
    if done > limit or not done and expected != 0:
        part.forget()
        raise Failure(too_large if done else "sent an empty file")


@contextlib.contextmanager
def _bar(name: str, answer: Answer, total: int | None, progress: bool):
    if progress and sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=name, initial=answer.start, total=total, unit="B", unit_scale=True) as bar:
            yield bar.update
    else:
        if progress:
            size = "" if total is None else f" ({_amount(total)})"
            tell(f"downloading {name}{size} from {answer.host}", file=sys.stderr)
        yield lambda n_bytes: None
