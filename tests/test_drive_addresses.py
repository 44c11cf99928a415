"""Which addresses drive.py asks, and what it makes of Google Drive's pages."""

import loopback
import pytest
from loopback import CONTENT, Handler, closed_port_url, parts, reason, serve, weights

import drive
from drive import open_url

pytestmark = pytest.mark.timed  # half a second of silence ends a download
server, cache = loopback.server, loopback.cache
short_waits_and_no_proxies = loopback.short_waits_and_no_proxies


# ---- addresses ----


def test_redirects_are_followed_also_relative_ones_but_not_for_ever(server, cache):
    serve(server, Handler.send_rest)
    server.routes["/a"] = lambda h: h.send(status=302, Location="b?x=1")
    server.routes["/b"] = lambda h: h.send(status=307, Location="/w.pt")
    server.routes["/loop"] = lambda h: h.send(status=302, Location="/loop")
    assert open_url(weights(server.url + "/a"), cache).read_bytes() == CONTENT
    (cache / "w.pt").unlink()
    assert "redirected more than" in reason(weights(server.url + "/loop"), cache)
    assert len(server.asked) == 3 + drive.MAX_HOPS


def test_the_body_of_a_redirect_is_not_waited_for(server, cache):
    def redirect(h):
        h.send(status=302, length=10**9, Location="/w.pt")
        h.wfile.flush()
        h.server.over.wait(20)

    serve(server, Handler.send_rest)
    server.routes["/a"] = redirect
    assert open_url(weights(server.url + "/a"), cache).read_bytes() == CONTENT
    assert len(server.asked) == 2


@pytest.mark.parametrize(
    "target, named",
    [
        ("http://example.invalid/x", "redirected to http://example.invalid, which is not https."),
        ("http://example.invalid\\@127.0.0.1/x", "which is not https."),
        ("file:///etc/passwd", "redirected to file://None, which is not https."),
        ("http://[", "not an address that can be asked."),
    ],
)
def test_a_redirect_away_from_https_is_refused(server, cache, target, named):
    url = serve(server, lambda h: h.send(status=302, Location=target))
    assert reason(weights(url), cache).endswith(named)


@pytest.mark.parametrize(
    "url", ["http://example.invalid/x", "http://127.0.0.1.example.invalid/x", "ftp://127.0.0.1/x"]
)
def test_plain_http_is_for_loopback_only(cache, url):
    assert reason(weights(url), cache).endswith("which is not https.")


def test_a_public_server_cannot_redirect_to_this_machine():
    with pytest.raises(drive._Failure, match="not https"):
        drive._permitted("http://127.0.0.1:1/x", "https://example.invalid/")
    assert drive._permitted("http://localhost:1/x", None) == "http://localhost:1/x"
    assert drive._permitted("http://[::1]:1/x", None) == "http://[::1]:1/x"


def test_no_passwords_are_sent(server, cache, monkeypatch, tmp_path):
    headers = []
    url = serve(server, lambda h: (headers.append(dict(h.headers)), h.send_rest()))
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    open_url(weights(url.replace("//", "//me:secret@")), cache)
    assert "Authorization" not in headers[0] and headers[0]["Accept-Encoding"] == "identity"


def test_a_proxy_is_not_asked_for_loopback(server, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", closed_port_url())
    open_url(weights(serve(server, Handler.send_rest)), cache)


# ---- Google Drive ----


def page(title, body):
    html = f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{body}</body></html>"
    return html.encode()


CONFIRM = page(
    "Google Drive - Virus scan warning",
    '<form id="search" action="/no"><input type="hidden" name="no" value="no"></form>'
    '<form id="download-form" action="%s" method="get"><input type="submit" value="Download"/>'
    '<input type="hidden" name="id" value="AN-ID"><input type="hidden" name="confirm" value="t">'
    '<input type="hidden" name="uuid" value="a&amp;b"></form>'
    '<input type="hidden" name="after" value="no">',
)
QUOTA = page("Google Drive - Quota exceeded", "Sorry, you can't view or download this file.")
TOO_MANY = page("Error", "Too many users have viewed or downloaded this file recently.")


@pytest.fixture
def on_drive(server, monkeypatch):
    """Serves pages for Drive's address; the file is the source "drive:AN-ID"."""

    def start(body, **headers):
        headers.setdefault("Content_Type", "text/html; charset=utf-8")
        server.routes["/download"] = lambda h: h.send(body, **headers)
        monkeypatch.setattr(drive, "DRIVE", server.url + "/download")
        return weights("drive:AN-ID")

    return start


def test_drives_confirmation_page_is_submitted(server, cache, on_drive):
    file = on_drive(CONFIRM.replace(b"%s", f"{server.url}/confirmed?old=1".encode()))
    server.routes["/confirmed"] = Handler.send_rest
    assert open_url(file, cache).read_bytes() == CONTENT
    confirmed = "/confirmed?id=AN-ID&confirm=t&uuid=a%26b"
    assert [path for path, _ in server.asked] == ["/download?id=AN-ID&export=download", confirmed]


def test_a_confirmation_page_of_many_lines_is_submitted_too(server, cache, on_drive):
    lines = CONFIRM.replace(b"%s", b"/confirmed").replace(b"><", b">\n  <")
    server.routes["/confirmed"] = Handler.send_rest
    assert open_url(on_drive(lines), cache).read_bytes() == CONTENT
    assert server.asked[1][0] == "/confirmed?id=AN-ID&confirm=t&uuid=a%26b"


def test_a_confirmation_page_is_submitted_once_and_only_over_https(server, cache, on_drive):
    file = on_drive(CONFIRM.replace(b"%s", b"/download"))
    assert "answered with a web page" in reason(file, cache)
    assert len(server.asked) == 2
    file = on_drive(CONFIRM.replace(b"%s", b"http://example.invalid/x"))
    assert "not https" in reason(file, cache)


@pytest.mark.parametrize("status", [200, 403, 429])
@pytest.mark.parametrize("body", [QUOTA, TOO_MANY])
def test_drives_quota_is_named_and_not_hammered(server, cache, on_drive, body, status):
    file = on_drive(body, status=status)
    assert "quota" in reason(file, cache) and len(server.asked) == 1
    assert parts(cache) == []


def test_a_sign_in_page_is_named(cache, on_drive):
    file = on_drive(page("Sign in", '<form><input type="password" name="p"></form>'))
    assert "sign in" in reason(file, cache)


@pytest.mark.parametrize("kind", ["text/html", "application/octet-stream"])
@pytest.mark.parametrize("body", [page("Welcome", "to our hotel"), b"\n<HTML><![oops x]>"])
def test_any_other_web_page_is_not_taken_for_the_file(cache, on_drive, body, kind):
    file = on_drive(body, Content_Type=kind)
    assert reason(file, cache) == "answered with a web page, not the file."
