"""A headless Chromium with one tab, where the machine has one: there is no wheel of it.

It is told over a pipe (the Chrome DevTools Protocol): no port is opened, no driver is needed, and it ends when the pipe
does. https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from tests.support.processes import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MISSING = "Chromium is missing: install the package chromium (apt-get install chromium), or Google Chrome"
_NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chromium-browser")
_ANSWERS_WITHIN_S = 30.0
_OPTIONS = (
    "--headless",
    "--remote-debugging-pipe",
    # It shows this project's own pages on loopback, and as root or in a container there is no other way.
    "--no-sandbox",
    "--no-first-run",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# Chromium reads commands at 3 and writes answers at 4; what it has to say otherwise goes to the log.
_PIPES = 'exec "$0" "$@" 3<&0 4>&1 </dev/null >&2'
_PRESS = {"type": "mousePressed", "button": "left", "clickCount": 1}


class NotAnswered(Exception):
    """Chromium could not do it, mostly because the page is just being replaced."""


class Chromium:
    """One browser session with one tab."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process, self._said, self._asked, self._session = process, b"", 0, ""
        tab = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=tab, flatten=True)["sessionId"]
        self._ask("Page.enable")
        self.resize(1000, 700)

    @property
    def address(self) -> str:
        """Where the tab is."""
        return str(self._evaluate("location.href"))

    @property
    def referrer(self) -> str:
        """Where the tab said that it had come from."""
        return str(self._evaluate("document.referrer"))

    def open(self, address: str) -> None:
        """Go there, and wherever that leads."""
        failed = self._ask("Page.navigate", url=address).get("errorText")
        assert not failed, failed
        eventually(lambda: self._evaluate("document.readyState") == "complete")

    def text(self, selector: str = "body") -> str:
        """Return what a person reads in an element; empty while there is none."""
        return str(self._evaluate(f"document.querySelector({json.dumps(selector)})?.innerText ?? ''") or "")

    def wait_for(self, words: str, *, within: str = "body") -> None:
        """Return once an element shows these words."""
        try:
            eventually(lambda: words in self.text(within), within_s=_ANSWERS_WITHIN_S)
        except AssertionError:
            raise AssertionError(f"{words!r} never appeared at {self.address}:\n{self.text()}") from None

    def click(self, selector: str) -> None:
        """Click into the middle of an element with the mouse, and return once the tab is elsewhere or it is gone."""
        before = self._evaluate("performance.timeOrigin")
        eventually(lambda: self._clicked(selector, before), every_s=0.2)

    def choose(self, selector: str) -> None:
        """Click an element that leads nowhere."""
        eventually(lambda: self._press(selector))

    def resize(self, width: int, height: int) -> None:
        """Make the window that large."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self._ask("Emulation.setDeviceMetricsOverride", **size)

    def must_be_scrolled_sideways(self) -> bool:
        """Say whether the page is wider than its window."""
        return bool(self._evaluate("document.documentElement.scrollWidth > window.innerWidth"))

    def photograph(self, file: Path) -> None:
        """Write down as a PNG what the whole page looks like."""
        file.write_bytes(base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]))

    def _clicked(self, selector: str, before: object) -> bool:
        """Say whether a click has led away; a page that reloads itself may swallow one."""
        if self._evaluate("performance.timeOrigin") == before and self._press(selector):
            return False
        return bool(self._evaluate("document.readyState") == "complete")

    def _press(self, selector: str) -> bool:
        place = self._evaluate(
            f"(e => {{ if (!e) return null; e.scrollIntoView({{block: 'center'}}); const r = e.getBoundingClientRect();"
            f" return [r.x + r.width / 2, r.y + r.height / 2] }})(document.querySelector({json.dumps(selector)}))"
        )
        if place is None:
            return False
        for kind in ("mousePressed", "mouseReleased"):
            self._ask("Input.dispatchMouseEvent", **_PRESS | {"type": kind}, x=place[0], y=place[1])
        return True

    def _evaluate(self, expression: str) -> Any:
        """Return what JavaScript says in the page; None while it is being replaced."""
        try:
            return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")
        except NotAnswered:
            return None

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._asked += 1
        asked = {"id": self._asked, "method": method, "params": parameters}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(asked | ({"sessionId": self._session} if self._session else {})).encode())
        self._process.stdin.write(b"\0")
        self._process.stdin.flush()
        while True:
            said = self._hear()
            if said.get("id") == self._asked:
                if "error" in said:
                    raise NotAnswered(f"{method}: {said['error']}")
                return dict(said["result"])

    def _hear(self) -> dict[str, Any]:
        """Return the next of its answers and events."""
        assert self._process.stdout is not None
        give_up = time.monotonic() + _ANSWERS_WITHIN_S
        while b"\0" not in self._said:
            ready, _, _ = select.select([self._process.stdout], [], [], max(0.0, give_up - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 1 << 20) if ready else b""
            assert more, "Chromium says nothing any more"
            self._said += more
        first, _, self._said = self._said.partition(b"\0")
        return dict(json.loads(first))


def find_chromium() -> str | None:
    """Return a program that starts (what bears the name may be a hint to install it); None if there is none."""
    for found in filter(None, map(shutil.which, _NAMES)):
        if not subprocess.run([found, "--version"], capture_output=True, timeout=60, check=False).returncode:
            return found
    return None


@contextmanager
def chromium(program: str, directory: Path) -> Iterator[Chromium]:
    """Run it with a profile of its own in an empty directory."""
    # A path of pytest's is too long for the socket that it makes in TMPDIR.
    with (directory / "chromium.log").open("wb") as log, tempfile.TemporaryDirectory(prefix="qbo-") as home:
        process = subprocess.Popen(
            ["/bin/sh", "-c", _PIPES, program, *_OPTIONS, f"--user-data-dir={home}/profile"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home},
            start_new_session=True,
        )
        with process:
            try:
                yield Chromium(process)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
