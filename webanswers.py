"""An address becomes the answer that holds its file: redirects, Google Drive's pages, one budget of
time, and a few plain words where there is no file to be had.

    budget = Budget(ends=time.monotonic() + 3600, answer_within=20)
    with get("https://…/w.pt", budget) as answer:
        for chunk in answer.body: …

Only https is asked, and plain http on this machine's loopback.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import re
import socket
import ssl
import time
from collections.abc import Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoResultYet
from dataclasses import dataclass
from html.parser import HTMLParser
from http.client import HTTPException
from threading import Thread
from urllib.parse import urlencode, urljoin, urlsplit

LOOPBACK = ("127.0.0.1", "localhost", "::1")  # the only hosts that may be asked over plain http
READ_TIMEOUT = 20.0  # seconds of silence after which a connection counts as broken
MAX_HOPS = 10  # redirects and confirmation pages followed for one file
CHUNK = 1 << 18  # bytes read at once
PAGE_BYTES = 1 << 18  # bytes of a web page that are read to tell what it says
HTML = re.compile(rb"(\xef\xbb\xbf)?\s*<(!doctype\s+html|html|head)\b", re.IGNORECASE)


class Failure(Exception):
    """Why an attempt gave no file, in a few words; `again`: another attempt may succeed."""

    def __init__(self, reason: str, again: bool = False):
        super().__init__(reason)
        self.again = again


@dataclass
class Budget:
    """The time that is left, for everything and until a first server answers."""

    ends: float  # on the monotonic clock, in seconds
    answer_within: float  # seconds
    answer_by: float = math.inf  # the present source's share of the time for a first answer
    answered: bool = False

    def left(self) -> float:
        """Seconds."""
        return min(self.ends, math.inf if self.answered else self.answer_by) - time.monotonic()


@dataclass(frozen=True)
class Answer:
    """A file that comes in, or the rest of one."""

    body: Iterator[bytes]  # raises Failure where the connection breaks or time is up
    start: int  # bytes of the file that precede the body
    total: int | None  # bytes of the whole file, as far as the server tells
    version: str  # the ETag or date by which to ask for the rest later, "" if there is none
    host: str


@contextlib.contextmanager
def get(url: str, budget: Budget, start: int = 0, version: str = "") -> Iterator[Answer]:
    """The file at `url` from byte `start` on, if the server still has that version of it and can
    send parts; else from its beginning. Raises: Failure.
    """
    response, body = _follow(url, _wanted(start, version), budget)
    if start and _refuses_the_rest(response, start):
        response.close()
        start = 0
        response, body = _follow(url, _wanted(0, ""), budget)
    with response:
        yield _answer(response, body, start)


def _wanted(start: int, version: str) -> dict[str, str]:
    headers = {"Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if version:
            headers["If-Range"] = version
    return headers


def _refuses_the_rest(response, start: int) -> bool:
    given_range = response.headers.get("Content-Range", "")
    if response.status_code == 416:
        return given_range != f"bytes */{start}"  # else there is no rest: it is whole already
    return response.status_code == 206 and f"bytes {start}-" not in given_range


def _answer(response, body: Iterator[bytes], start: int) -> Answer:
    status, given = response.status_code, response.headers
    host = urlsplit(response.url).hostname
    if start and status == 416:
        return Answer(iter(()), start, total=start, version="", host=host)
    if status == 200:
        start = 0
    elif not (status == 206 and start):
        raise Failure(f"HTTP {status}", again=status == 429 or status >= 500)
    if given.get("Content-Encoding", "identity").lower() != "identity":
        raise Failure("sent an encoded body although none was asked for")
    length = "" if "Transfer-Encoding" in given else given.get("Content-Length", "")
    total = start + int(length) if length.isdigit() else None
    etag = given.get("ETag", "W/")  # a weak one (W/…) does not promise the same bytes
    version = given.get("Last-Modified", "") if etag.startswith("W/") else etag
    return Answer(body, start, total, version, host)


def _follow(url: str, headers: dict[str, str], budget: Budget):
    """Follows redirects and Drive's confirmation page to (response, iterator over its body)."""
    import requests  # late, so that importing this file costs nothing

    session = requests.Session()
    session.auth = lambda request: request  # no passwords from ~/.netrc or the URL
    # requests would read the whole body of a redirect, however long; redirects are followed here.
    session.get_redirect_target = lambda response: None
    previous, confirmed = None, False
    for _ in range(MAX_HOPS):
        url = _permitted(url, previous)
        session.trust_env = not _is_loopback(url)  # a proxy cannot reach this machine's loopback
        response = _ask(session, url, headers, budget)
        previous = url
        if response.status_code in (301, 302, 303, 307, 308) and "Location" in response.headers:
            response.close()
            url = response.headers["Location"]
            continue
        body = _body(response, budget)
        head = next(body, b"") if response.ok else b""
        if "html" not in response.headers.get("Content-Type", "").lower() and not HTML.match(head):
            return response, itertools.chain([head] if head else [], body)
        while len(head) < PAGE_BYTES and (chunk := next(body, b"")):
            head += chunk
        page = _Page(head.decode(errors="replace"))
        if page.tells_quota():
            raise Failure("Google Drive's quota for this file is used up; try again in a day")
        if not response.ok:
            return response, body
        response.close()
        if page.asks_password or urlsplit(url).hostname == "accounts.google.com":
            raise Failure("asks to sign in, so the file is not public")
        if page.action is None or confirmed:
            raise Failure("answered with a web page, not the file")
        # As a browser submits the form: its inputs replace the query of its address.
        url = f"{re.split('[?#]', page.action)[0]}?{urlencode(page.inputs)}"
        confirmed = True
    raise Failure(f"redirected more than {MAX_HOPS} times")


def _is_loopback(url: str) -> bool:
    return urlsplit(url).hostname in LOOPBACK


def _permitted(url: str, previous: str | None) -> str:
    """The address as requests would read it; Failure unless https, or http within loopback."""
    import requests

    try:
        url = requests.Request("GET", urljoin(previous or url, url)).prepare().url
        scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    except ValueError:  # requests' own errors about addresses are ValueErrors too
        raise Failure("not an address that can be asked") from None
    from_loopback = previous is None or _is_loopback(previous)
    if scheme == "https" or scheme == "http" and _is_loopback(url) and from_loopback:
        return url
    raise Failure(f"{'redirected to' if previous else 'is'} {scheme}://{host}, which is not https")


def _ask(session, url: str, headers: dict, budget: Budget):
    """The response to one GET request, its body still unread."""
    seconds = min(budget.left(), budget.answer_within)
    if seconds <= 0:
        raise Failure("timed out")
    answer = Future()

    def ask():
        try:
            timeout = (seconds, READ_TIMEOUT)
            answer.set_result(session.get(url, headers=headers, stream=True, timeout=timeout))
        except BaseException as error:
            answer.set_exception(error)

    # Nothing can interrupt a name look-up, so it is left behind in its thread when time is up.
    Thread(target=ask, daemon=True).start()
    try:
        response = answer.result(timeout=seconds)
    except NoResultYet:
        raise Failure("timed out") from None
    except Exception as error:
        raise _network_failure(error) from None
    budget.answered = True
    return response


def _body(response, budget: Budget) -> Iterator[bytes]:
    read = getattr(response.raw, "read1", response.raw.read)  # urllib3 1 has no read1
    while True:
        try:
            chunk = read(CHUNK)
        except Exception as error:
            raise Failure(str(_network_failure(error)), again=True) from None
        if not chunk:
            return
        if budget.left() <= 0:
            raise Failure("timed out")
        yield chunk


def _network_failure(error: BaseException) -> Failure:
    """A plain name for what went wrong, out of the exceptions that wrap each other."""
    chain = []
    while error:
        chain.append(error)
        error = error.__cause__ or error.__context__
    for kind, reason in (
        (socket.gaierror, "no such host, or no network"),
        (ConnectionRefusedError, "connection refused"),
        (TimeoutError, "timed out"),
        (ssl.SSLCertVerificationError, "its TLS certificate cannot be trusted"),
        ((ConnectionError, HTTPException, ssl.SSLError), "the connection broke"),
    ):
        if any(isinstance(link, kind) for link in chain):
            return Failure(reason, again=reason == "the connection broke")
    named = [link.strerror.lower() for link in chain if getattr(link, "strerror", None)]
    return Failure(named[-1] if named else f"no connection ({type(chain[0]).__name__})")


class _Page(HTMLParser):
    """A web page that came where a file should be."""

    def __init__(self, text: str):
        super().__init__()
        self.text = text.lower()
        self.action, self.inputs = None, {}  # of Drive's form to download a file unscanned
        self.in_form = self.asks_password = False
        with contextlib.suppress(AssertionError):  # html.parser's answer to some broken pages
            self.feed(text)

    def handle_starttag(self, tag: str, attrs: list):
        given = dict(attrs)
        if tag == "form" and given.get("id") == "download-form":
            self.action, self.in_form = given.get("action") or "", True
        elif tag == "input":
            self.asks_password |= given.get("type") == "password"
            if self.in_form and given.get("name"):
                self.inputs[given["name"]] = given.get("value") or ""

    def handle_endtag(self, tag: str):
        self.in_form &= tag != "form"

    def tells_quota(self) -> bool:
        words = ("quota exceeded", "too many users have viewed or downloaded this file")
        return any(these in self.text for these in words)
