"""A real Chromium for the tests of pages, and what is typed into it."""

from __future__ import annotations

import shutil

import pytest

# Keys, as the WebDriver standard numbers them.
TAB, ENTER, CONTROL = "\ue004", "\ue007", "\ue009"
PAGE_DOWN, END, HOME = "\ue00f", "\ue010", "\ue011"
LEFT, RIGHT, DOWN = "\ue012", "\ue014", "\ue015"

# Of every element of a selector: the contrast of its text with what is behind, and its HTML.
CONTRASTS = """
const channels = colour => colour.match(/[\\d.]+/g).map(Number);
const light = colour => {
  const linear = c => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4;
  const [r, g, b] = channels(colour).map(c => linear(c / 255));
  return .2126 * r + .7152 * g + .0722 * b;
};
return [...document.querySelectorAll(arguments[0])].map(element => {
  const style = getComputedStyle(element);
  let behind = element;
  while (channels(getComputedStyle(behind).backgroundColor)[3] === 0) behind = behind.parentElement;
  const ink = light(element.closest("svg") ? style.fill : style.color);
  const ground = light(getComputedStyle(behind).backgroundColor);
  const [low, high] = [ink, ground].sort((a, b) => a - b);
  return [(high + .05) / (low + .05), element.outerHTML.slice(0, 80)];
});
"""


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    """One headless Chromium for all tests, which can reach nothing but this machine."""
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        name = "Chromium" if program is None else "chromedriver"
        pytest.skip(f"no {name} is installed (Debian: apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (PyPI)")
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = program
    for argument in (
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("no_proxy", "localhost,127.0.0.1")  # selenium would ask a proxy for itself
        browser = webdriver.Chrome(options=options, service=Service(driver))
        yield browser
        browser.quit()


def press(chromium, *keys):
    """Type, with whatever has the focus."""
    for key in keys:
        chromium.switch_to.active_element.send_keys(key)


def console_errors(chromium) -> list[dict]:
    """What the console has had since the last call, but for remarks."""
    return [entry for entry in chromium.get_log("browser") if entry["level"] != "INFO"]
