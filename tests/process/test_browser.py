"""The pages in a real browser: nothing is loaded, nothing is complained about, nothing scrolls sideways.

The browser is driven over its debugging pipe (file descriptors 3 and 4), which needs no package and no port.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from fewmask.run.report import compare_runs, write_comparison, write_report
from fixtures_run import write_compared, write_doubtful, write_run

fcntl = pytest.importorskip("fcntl", reason="browsers are driven over pipes that Windows does not have")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")

ATTACKS = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a'b\"c&amp;", "\u202eevil",
    "x" * 120, "</style><style>body{display:none}", "</title>", "javascript:alert(1)",
]  # fmt: skip

# The contrast of every piece of text with what lies below it, by WCAG; text over pictures is not looked at.
CONTRAST = """
(() => {
  const parse = c => {
    const [r, g, b, a] = (c.match(/[\\d.]+/g) || [0, 0, 0, 0]).map(Number);
    return [r, g, b, a === undefined ? 1 : a];
  };
  const over = (top, low) => top.slice(0, 3).map((v, i) => v * top[3] + low[i] * (1 - top[3])).concat(1);
  const light = c => {
    const [r, g, b] = c.map(v => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = e => {
    const layers = [];
    for (; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((low, top) => over(top, low), [255, 255, 255, 1]);
  };
  const bad = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  let seen = 0;
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest('svg')) continue;
    const low = ground(e), top = over(parse(getComputedStyle(e).color), low);
    const [a, b] = [light(top), light(low)].sort((x, y) => y - x);
    const ratio = (a + 0.05) / (b + 0.05);
    seen += 1;
    if (ratio < 4.5) bad.push(`${ratio.toFixed(2)} ${e.tagName}.${e.className}: ${walk.currentNode.data.trim()}`);
  }
  return {seen, bad};
})()
"""

# What sticks out of the page, left out what scrolls inside a container of its own.
SIDEWAYS = """
(() => {
  const wide = document.documentElement.scrollWidth, view = document.documentElement.clientWidth;
  const out = [...document.body.querySelectorAll('*')].filter(e => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && box.right > view + 1 && !e.closest('.scroll, pre');
  }).map(e => `${e.tagName}.${e.className}`);
  return {wide, view, out: out.slice(0, 8)};
})()
"""


class Browser:
    """A headless browser with one tab."""

    def __init__(self, executable: str, profile: Path) -> None:
        to_browser, from_us = os.pipe()
        from_browser, to_us = os.pipe()
        inputs = [to_browser, to_us]

        def descriptors() -> None:  # the browser reads 3 and writes 4, which may be these pipes' own numbers
            copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 10) for fd in inputs]
            os.dup2(copies[0], 3)
            os.dup2(copies[1], 4)

        command = [
            executable, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run",
            "--remote-debugging-pipe", "--disable-background-networking", "--disable-component-update",
            "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank",
        ]  # fmt: skip
        with (profile.parent / "browser.log").open("w") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=False, preexec_fn=descriptors
            )
        os.close(to_browser)
        os.close(to_us)
        self._out, self._in = from_us, from_browser
        self._rest, self._number, self.events = b"", 0, []
        target = next(t for t in self.ask("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self.session = self.ask("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.tab(f"{domain}.enable")

    def ask(self, method: str, session: str | None = None, **params):
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def tab(self, method: str, **params):
        return self.ask(method, self.session, **params)

    def _read(self):
        while b"\0" not in self._rest:
            part = os.read(self._in, 1 << 20)
            assert part, "the browser has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def open(self, page: Path, width: int, dark: bool = False, height: int = 900) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.tab("Emulation.setEmulatedMedia", features=[scheme])
        self.tab(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.events.clear()
        self.tab("Page.navigate", url=page.absolute().as_uri())
        end = time.monotonic() + 30
        while self.evaluate("document.readyState + location.protocol") != "completefile:":
            assert time.monotonic() < end, "the page does not load"
            time.sleep(0.02)
        self.evaluate("Promise.all([...document.images].map(i => i.decode()))")

    def evaluate(self, expression: str):
        found = self.tab("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.tab("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def complaints(self) -> list[str]:
        """Return what the page wrote to the console, raised, or was blocked from."""
        kinds = (
            "Log.entryAdded",
            "Runtime.consoleAPICalled",
            "Runtime.exceptionThrown",
            "Page.javascriptDialogOpening",
        )
        return [json.dumps(e["params"])[:400] for e in self.events if e.get("method") in kinds]

    def requests(self) -> list[str]:
        """Return the addresses that were asked for, without what the page holds itself."""
        asked = [e["params"]["request"]["url"] for e in self.events if e.get("method") == "Network.requestWillBeSent"]
        return [url for url in asked if not url.startswith("data:")]

    def shot(self, target: Path) -> None:
        taken = self.tab("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(taken["data"]))

    def close(self) -> None:
        try:
            self.ask("Browser.close")
            self.process.wait(10)
        finally:
            self.process.kill()
            self.process.wait()
            os.close(self._out)
            os.close(self._in)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    executable = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if executable is None:
        pytest.skip(f"NO BROWSER: none of {', '.join(BROWSERS)} is on PATH, so the pages were not opened")
    made = Browser(executable, tmp_path_factory.mktemp("browser") / "profile")
    yield made
    made.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Pages of 2, 9 hostile and 150 classes, of an old run, and a comparison."""
    base = tmp_path_factory.mktemp("pages")
    write_compared(base / "two", ["background", "vessel"], verdict="not shown")
    write_compared(base / "hostile", ATTACKS, vanished=[3], absent=[5], verdict="hurt")
    write_doubtful(base / "hostile", ATTACKS[:3], (0.5, 0.2, 0.1))
    write_compared(base / "many", [f"class number {n}" for n in range(150)], vanished=[7, 80], absent=[11])
    write_run(base / "old", ["a", "b", "c"], new=False)
    names = ["two", "hostile", "many", "old"]
    found = {name: write_report(base / name) for name in names}
    comparison = compare_runs([base / "hostile", base / "hostile/baseline", base / "two", base / "many"])
    return found | {"compare": write_comparison(comparison, base / "compare.html")}


PAGES = ("two", "hostile", "many", "old", "compare")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_nothing_and_complains_about_nothing(browser, pages, name, dark):
    browser.open(pages[name], 1400, dark)
    assert browser.complaints() == []
    assert browser.requests() == [pages[name].absolute().as_uri()]
    assert browser.evaluate("document.scripts.length") == 0
    assert browser.evaluate("[...document.images].every(i => i.naturalWidth > 0)")
    found = browser.evaluate(CONTRAST)
    assert found["seen"] > 50 and found["bad"] == []


@pytest.mark.parametrize("width", [380, 700, 1400])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_does_not_scroll_sideways(browser, pages, name, width):
    browser.open(pages[name], width)
    found = browser.evaluate(SIDEWAYS)
    assert found["view"] == width and found["wide"] == width and found["out"] == [], found
    inner = "Math.max(...[...document.querySelectorAll('.scroll')].map(e => e.scrollWidth - e.clientWidth))"
    if width == 380 and name != "old":  # its tables are too wide for that, and scroll inside their containers
        assert browser.evaluate(inner) > 0


PAPER = """(() => ({
  choices: [...document.querySelectorAll('.look, nav, details:not([open])')].filter(e => e.checkVisibility()).length,
  cut: [...document.querySelectorAll('.scroll, pre')].filter(
    e => e.checkVisibility() && getComputedStyle(e).overflow !== 'visible').length,
}))()"""


def test_paper_has_no_buttons_and_cuts_nothing_off(browser, pages):
    browser.open(pages["many"], 800)
    assert browser.evaluate(PAPER)["choices"] > 2 and browser.evaluate(PAPER)["cut"] > 2
    browser.tab("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.evaluate(PAPER) == {"choices": 0, "cut": 0}
    finally:
        browser.tab("Emulation.setEmulatedMedia", media="")


SEEN = """(() => { const figure = document.querySelector(".picture:has(.look)");
  return [...figure.querySelectorAll(".panels > div")].map(d => {
    const box = d.getBoundingClientRect();
    return box.width ? [Math.round(box.left), Math.round(box.top)] : null; }); })()"""


@pytest.mark.parametrize("width", [380, 1400])
def test_truth_prediction_and_mistakes_lie_over_the_image(browser, pages, width):
    """By a choice that the keyboard reaches: side by side first, then one at a time at the place of the image."""
    browser.open(pages["two"], width)
    places = browser.evaluate(SEEN)
    assert places[3] is None and len({tuple(place) for place in places[:3]}) == 3
    browser.evaluate("document.querySelector('.look input').focus()")
    browser.press("ArrowRight", 39)  # the slider
    for shown in ([0], [0, 1], [0, 2], [0, 3]):
        browser.press("ArrowRight", 39)
        places = browser.evaluate(SEEN)
        assert [n for n, place in enumerate(places) if place is not None] == shown
        assert len({tuple(places[n]) for n in shown}) == 1
    assert browser.complaints() == []


UNDER = """(() => { const panels = document.querySelector(".picture:has(.look) .panels");
  const box = panels.getBoundingClientRect(), sheets = [...panels.children];
  return [0.05, 0.45, 0.55, 0.95].map(at => sheets.indexOf(
    document.elementFromPoint(box.left + at * panels.clientWidth, box.top + 20).closest(".panels > div"))); })()"""
SCROLL = """(() => { const panels = document.querySelector(".picture:has(.look) .panels");
  panels.scrollLeft = SHARE * panels.clientWidth; return panels.scrollLeft / panels.clientWidth; })()"""


@pytest.mark.parametrize("width", [380, 1400])
def test_the_slider_draws_image_truth_and_prediction_over_each_other(browser, pages, tmp_path, width):
    browser.open(pages["two"], width)
    browser.evaluate("document.querySelector('.look input').focus()")
    browser.press("ArrowRight", 39)
    browser.evaluate("document.querySelector('.picture:has(.look)').scrollIntoView()")
    assert browser.evaluate("document.querySelector('.look input:checked').value") == "slider"
    for share, seen in ((0, [0, 0, 0, 0]), (0.5, [0, 0, 1, 1]), (1, [1, 1, 1, 1]), (1.5, [1, 1, 2, 2]), (9, [2] * 4)):
        reached = browser.evaluate(SCROLL.replace("SHARE", str(share)))
        assert reached == pytest.approx(min(share, 2), abs=0.01) and browser.evaluate(UNDER) == seen
        left = "[...document.querySelectorAll('.picture:has(.look) .panels img')][2].getBoundingClientRect().left"
        start = "document.querySelector('.picture:has(.look) .panels').getBoundingClientRect().left"
        assert browser.evaluate(f"{left} - {start}") == pytest.approx(0, abs=1), "the pictures stay where they are"
    browser.evaluate(SCROLL.replace("SHARE", "0"))
    browser.press("Tab", 9)  # from the choice to the scroll bar
    browser.press("ArrowRight", 39)
    moved, end = "document.querySelector('.picture:has(.look) .panels').scrollLeft", time.monotonic() + 5
    while browser.evaluate(moved) == 0 and time.monotonic() < end:
        time.sleep(0.05)
    assert browser.evaluate(moved) > 0, "the keyboard reaches the slider"
    found = browser.evaluate(SIDEWAYS)
    assert found["wide"] == width and browser.complaints() == []


def test_hostile_names_stay_text(browser, pages):
    browser.open(pages["hostile"], 1400)
    text = browser.evaluate("document.body.textContent")
    for name in ATTACKS:
        assert name in text
    assert "7 * 7" in text and "49" not in browser.evaluate("document.querySelector('.classes').tHead.textContent")
    assert browser.evaluate("document.querySelectorAll('script, [onerror], a[href^=\"javascript\"]').length") == 0
    assert browser.evaluate("document.querySelectorAll('style').length") == 1


def test_the_browser_test_sees_faults(browser, tmp_path):
    """A page with every fault that is looked for is caught."""
    page = tmp_path / "faulty.html"
    page.write_text(
        "<!doctype html><meta name='viewport' content='width=device-width'><title>x</title>"
        "<body style='margin:0'><img src='http://127.0.0.1:9/x.png' alt=''>"
        "<p style='width:900px;color:#999;background:#fff'>grey</p><script>console.error('no')</script>"
    )
    with pytest.raises(AssertionError):  # the picture cannot be decoded
        browser.open(page, 380)
    assert browser.complaints() and any("127.0.0.1" in url for url in browser.requests())
    found = browser.evaluate(SIDEWAYS)
    assert found["wide"] > 380 and found["out"]
    assert browser.evaluate(CONTRAST)["bad"]
