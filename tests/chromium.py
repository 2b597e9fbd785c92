"""A headless Chromium without a network, driven over a pipe with the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/ ; on the pipe a message is JSON that ends with a NUL byte.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120.0  # seconds; a bound for a broken browser
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--proxy-server=127.0.0.1:1",  # a port nobody listens on: whatever a page asks for fails
)
# The browser reads from 3 and writes to 4, whatever numbers the pipes had with us.
TAKE_PIPES = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(end), fcntl.F_DUPFD_CLOEXEC, 10) for end in sys.argv[1:3]]
for place, end in enumerate(pipes, 3):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""


def find_chromium() -> str | None:
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Page:
    """One tab. `requests` are the addresses it asked for, `complaints` what went wrong in its scripts."""

    browser: "Browser"
    session: str
    requests: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    loaded: bool = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.call(method, parameters, self.session)

    def look(self, width: int, height: int = 900, *, theme: str = "light", scale: float = 1) -> None:
        """Become as wide as a desktop or a telephone, in the light or in the dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def open(self, address: Path | str) -> None:
        """Go to a file or a URL. Returns when the page and its scripts have run."""
        self.loaded = False
        self.call("Page.navigate", url=address.as_uri() if isinstance(address, Path) else address)
        while not self.loaded:
            self.browser.pump()

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def settle(self) -> None:
        """Wait until what was asked for is painted."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def until(self, condition: str) -> None:
        """Wait until an expression is true, looked at with every frame."""
        self.evaluate(f"""new Promise((done) => {{
          const look = () => ({condition}) ? done() : requestAnimationFrame(look);
          look();
        }})""")

    def write(self, text: str) -> None:
        """Into what has the focus, as from a keyboard."""
        self.call("Input.insertText", text=text)

    def press(self, key: str, code: int, text: str = "") -> None:
        """A key down and up again; `code` is its virtual key code, `text` what it writes."""
        named = {"key": key, "code": key, "windowsVirtualKeyCode": code}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.call("Input.dispatchKeyEvent", type="keyUp", **named)

    def drag(self, start: float, end: float, y: float) -> None:
        """Press the button at `start`, move to `end`, let go; CSS pixels of the window."""
        self._mouse("mousePressed", start, y)
        self._mouse("mouseMoved", (start + end) / 2, y)
        self._mouse("mouseMoved", end, y)
        self._mouse("mouseReleased", end, y)
        self.settle()

    def double_click(self, x: float, y: float) -> None:
        for clicks in (1, 2):
            self._mouse("mousePressed", x, y, clicks)
            self._mouse("mouseReleased", x, y, clicks)
        self.settle()

    def _mouse(self, kind: str, x: float, y: float, clicks: int = 1) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=clicks)

    def screenshot(self, path: Path) -> None:
        """The whole page, not only what a window would show."""
        path.parent.mkdir(parents=True, exist_ok=True)
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}
        answer = self.call("Page.captureScreenshot", captureBeyondViewport=True, format="png", clip=clip)
        path.write_bytes(base64.b64decode(answer["data"]))

    def heard(self, method: str, parameters: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            details = parameters["exceptionDetails"]
            self.complaints.append(details.get("exception", {}).get("description") or details["text"])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.complaints.append(parameters["entry"]["text"])


class Browser:
    """Sends commands and hands what happens to the pages it happens to."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands, self._answers = commands, answers
        self._buffer = b""
        self._last = 0
        self._replies: dict[int, dict[str, Any]] = {}
        self._pages: dict[str, Page] = {}

    def page(self) -> Page:
        target = self.call("Target.createTarget", {"url": "about:blank"})["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Network", "Log"):
            page.call(f"{domain}.enable")
        return page

    def call(self, method: str, parameters: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        data = json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0"
        while data:
            data = data[os.write(self._commands, data) :]
        while self._last not in self._replies:
            self.pump()
        reply = self._replies.pop(self._last)
        assert "error" not in reply, f"{method}: {reply['error']}"
        answer: dict[str, Any] = reply["result"]
        return answer

    def pump(self) -> None:
        """Wait for one message at least, and take in all there are."""
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no word from Chromium within {PATIENCE} s"
            data = os.read(self._answers, 1 << 16)
            assert data, "Chromium has ended"
            self._buffer += data
        *messages, self._buffer = self._buffer.split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._replies[message["id"]] = message
            elif page := self._pages.get(message.get("sessionId", "")):
                page.heard(message["method"], message["params"])


@contextmanager
def chromium(program: str) -> Iterator[Browser]:
    """A browser of its own, with an empty profile that goes with it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        hears, commands = os.pipe()
        answers, says = os.pipe()
        command = [sys.executable, "-c", TAKE_PIPES, str(hears), str(says), program, f"--user-data-dir={profile}"]
        process = subprocess.Popen(
            [*command, *FLAGS],
            pass_fds=(hears, says),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(hears)
        os.close(says)
        try:
            yield Browser(commands, answers)
        finally:
            os.close(commands)  # which ends it
            os.close(answers)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
