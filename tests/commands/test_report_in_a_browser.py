"""The page of `pipeline report`, made of hostile names, in a real browser."""

from __future__ import annotations

import fcntl
import json
import os
import re
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.commands.hostile_report import SCRIPT, hostile_folder, page

__all__ = ["hostile_folder", "page"]  # fixtures


class Browser:
    """Chromium with one page, spoken to over a pipe (the Chrome DevTools Protocol)."""

    def __init__(self, program: str, profile: Path) -> None:
        theirs, self._say = os.pipe()
        self._hear, said = os.pipe()
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10) for descriptor in (theirs, said)]

        def where_it_listens() -> None:
            for number, descriptor in enumerate(high, start=3):
                os.dup2(descriptor, number)

        options = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
        self._process = subprocess.Popen(
            [program, *options, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            close_fds=False,  # 3 and 4 are its own; all others close themselves
            preexec_fn=where_it_listens,
        )
        for descriptor in (theirs, said, *high):
            os.close(descriptor)
        self._unread = b""
        self._count = 0
        self._session = ""
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        os.close(self._say)
        os.close(self._hear)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Have it do something; what it complains of meanwhile is kept."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        message |= {"sessionId": self._session} if self._session else {}
        os.write(self._say, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown"):
                self.complaints.append(json.dumps(answer["params"]))
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def open(self, page: Path, ready: str, width: int = 1200) -> None:
        """Open a page, and wait until an expression is true."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        self.call("Page.navigate", url=page.as_uri())
        self.wait_for(ready)

    def wait_for(self, expression: str) -> None:
        """Wait until an expression is true."""
        deadline = time.monotonic() + 30
        while self.value(expression) is not True:
            assert time.monotonic() < deadline, (expression, self.complaints)
            time.sleep(0.05)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._unread:
            assert select.select([self._hear], [], [], 60)[0], "the browser does not answer"
            self._unread += os.read(self._hear, 1 << 20)
        message, _, self._unread = self._unread.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """A browser to look at pages with."""
    programs = ("chromium", "chromium-browser", "google-chrome")
    program = next(filter(None, map(shutil.which, programs)), None)
    if program is None:
        pytest.skip("no chromium here, in which the page would be opened")
    browser = Browser(program, tmp_path / "profile")
    yield browser
    browser.close()


DRAWN = "document.documentElement.dataset.charts === 'drawn'"


def test_report__in_a_browser(page: Path, browser: Browser) -> None:
    browser.open(page, DRAWN)
    charts = browser.value("[...document.querySelectorAll('.chart canvas')].map(c => c.closest('[id]').id)")
    assert charts == ["roc", "precision-recall", "calibration", "learning", "map"]
    assert browser.value("document.scripts.length") == 3  # its own, and none that a name has become
    assert browser.value("document.images.length") > 0
    assert browser.value("[...document.images].every(i => i.complete && i.naturalWidth === 72)")
    assert browser.complaints == []


def test_report__numbers_of_the_confusion_open_their_images(page: Path, browser: Browser) -> None:
    browser.open(page, DRAWN)
    shown = "[...document.querySelectorAll('.cell')].filter(c => c.offsetHeight > 0).map(c => c.id)"
    assert browser.value(shown) == []
    count = browser.value("document.querySelector('a[href=\"#cell-0-0\"]').textContent")
    browser.value("document.querySelector('a[href=\"#cell-0-0\"]').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")
    browser.wait_for(f"{shown}.length > 0")
    assert browser.value(shown) == ["cell-0-0"]
    assert browser.value("document.querySelectorAll('#cell-0-0 li').length") == int(count)
    assert browser.complaints == []


def test_report__pointing_at_the_map_shows_the_image(page: Path, browser: Browser) -> None:
    browser.open(page, DRAWN, width=390)
    told = browser.value("""(() => {
        const canvas = document.querySelector('#map canvas'), tip = document.getElementById('tip');
        canvas.scrollIntoView({block: 'center'});
        const {left, right, top, bottom} = canvas.getBoundingClientRect();
        const told = new Set();
        for (let clientY = top; clientY < bottom && told.size < 2; clientY += 5)
            for (let clientX = left; clientX < right; clientX += 5) {
                canvas.dispatchEvent(new PointerEvent('pointermove', {clientX, clientY, bubbles: true}));
                if (!tip.hidden && tip.querySelector('img').src.startsWith('data:image/jpeg'))
                    told.add(tip.querySelectorAll('div')[1].textContent);
            }
        return [...told].sort();
    })()""")
    assert told == [f"class: {SCRIPT}", "class: cat"]
    assert browser.complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_report__on_a_phone(page: Path, browser: Browser, scheme: str) -> None:
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.call("Emulation.setEmulatedMedia", features=[feature])
    browser.open(page, DRAWN, width=390)
    assert browser.value("document.documentElement.scrollWidth") == 390  # nothing to be scrolled aside
    colour = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (max(map(int, re.findall(r"\d+", colour))) < 64) == (scheme == "dark")
    assert browser.complaints == []


def test_browser__complains_of_what_the_policy_forbids(browser: Browser, tmp_path: Path) -> None:
    """Else the tests above would prove nothing."""
    page = tmp_path / "page.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"default-src 'none'\">"
    page.write_text(f"{policy}<script>1</script><p id=there style='color: red'>")
    browser.open(page, "document.getElementById('there') !== null")
    assert len(browser.complaints) == 2
