"""A headless Chromium, told what to do by its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.patience import patience

_OPTIONS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-sandbox",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-extensions",
    "--hide-scrollbars",
    # Whoever asks for another host than a server of the test gets nobody.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
)
# A snap sees nothing of /tmp, where tests have their files.
_SNAPS = "/snap/"


def program() -> str | None:
    """What is to be started, if it is there."""
    found = (shutil.which(name) for name in ("chromium", "google-chrome"))
    return next((path for path in found if path and not path.startswith(_SNAPS)), None)


# WCAG 2.1: how well a colour can be read on what is behind it; 4.5 is enough.
CONTRAST = """(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [red, green, blue] = numbers(colour).slice(0, 3).map((part) => {
      const value = part / 255;
      return value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const contrast = (one, other) => {
    const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
    return (high + 0.05) / (low + 0.05);
  };
  const isClear = (colour) => numbers(colour)[3] === 0;
  const behind = (element) => {
    while (element.parentElement && isClear(getComputedStyle(element).backgroundColor)) element = element.parentElement;
    const colour = getComputedStyle(element).backgroundColor;
    return isClear(colour) ? 'rgb(255, 255, 255)' : colour;
  };
  const all = [];
  for (const one of document.querySelectorAll('h1, p, th, td, button, label, li, .faint, .bad, .good')) {
    if (one.textContent.trim()) all.push([contrast(getComputedStyle(one).color, behind(one)), one.textContent]);
  }
  for (const text of document.querySelectorAll('svg g:not(.edge) text')) {
    const box = text.parentElement.querySelector('rect');
    all.push([contrast(getComputedStyle(text).fill, getComputedStyle(box).fill), text.textContent]);
  }
  return all.filter(([ratio]) => ratio < 4.5);
})()"""
# By how many pixels the page is wider than its window.
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


class Browser:
    """One process and one page. `complaints`: what the page has done wrong; `requests`: what it has asked for."""

    def __init__(self) -> None:
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self._numbers = itertools.count(1)
        self._session = ""
        self._unread = b""

    def __enter__(self) -> Self:
        with ExitStack() as started:
            self._start(started)
            self._ended = started.pop_all()
        return self

    def _start(self, started: ExitStack) -> None:
        home = started.enter_context(tempfile.TemporaryDirectory(prefix="rulegen-browser-", ignore_cleanup_errors=True))
        there, self._writer = os.pipe()
        self._reader, back = os.pipe()
        words = [program() or "chromium", *_OPTIONS, f"--user-data-dir={home}", "about:blank"]
        # The protocol is spoken on descriptors 3 and 4.
        script = f'exec "$@" 3<&{there} 4>&{back}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *words],
            pass_fds=(there, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"HOME": home},
        )
        started.callback(os.close, self._reader)
        started.callback(self._end)
        os.close(there)
        os.close(back)
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ended.close()

    def _end(self) -> None:
        """Where nobody tells it anything any more, it ends."""
        os.close(self._writer)
        try:
            self._process.wait(patience(10))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def open(self, path: Path, fragment: str = "") -> None:
        """A file, until its script has done what it does at the start."""
        self.complaints.clear()
        self.requests.clear()
        # To another fragment of the same page nothing would be loaded.
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=path.as_uri() + fragment)
        self.until("location.protocol === 'file:' && document.body?.dataset.ready === ''")

    def visit(self, url: str) -> None:
        """A page without scripts, from a server."""
        self.complaints.clear()
        self.requests.clear()
        self.send("Page.navigate", url="about:blank")
        self.send("Page.navigate", url=url)
        self.until(f"location.href === {json.dumps(url)} && document.readyState === 'complete'")

    def evaluate(self, expression: str) -> Any:
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def until(self, expression: str) -> None:
        """Waits until an expression is true."""
        end = time.monotonic() + patience(20)
        while not self.evaluate(f"Boolean({expression})"):
            assert time.monotonic() < end, (expression, self.complaints)
            time.sleep(0.02)

    def press(self, key: str) -> None:
        """A key as a person presses it: `Enter`, `ArrowDown`, or a sign."""
        codes = {"Enter": 13, "Escape": 27, "ArrowUp": 38, "ArrowDown": 40, "Tab": 9}
        named: dict[str, Any] = {"key": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **named)
        self.send("Input.dispatchKeyEvent", type="keyUp", **named)

    def type(self, text: str) -> None:
        for sign in text:
            self.press(sign)

    def resize(self, width: int, height: int) -> None:
        self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )

    def prefer(self, scheme: str) -> None:
        """`dark` or `light`."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a command."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        return self._read(lambda answer: answer.get("id") == number)

    def _read(self, is_wanted: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        end = time.monotonic() + patience(30)
        while True:
            while b"\0" not in self._unread:
                ready, _, _ = select.select([self._reader], [], [], max(0.0, end - time.monotonic()))
                data = os.read(self._reader, 1 << 16) if ready else b""
                assert data, "chromium says nothing; is it there? `scripts/install-packages tests` installs it"
                self._unread += data
            line, _, self._unread = self._unread.partition(b"\0")
            answer = json.loads(line)
            if is_wanted(answer):
                assert "error" not in answer, answer
                return dict(answer["result"])
            self._note(answer)

    def _note(self, event: dict[str, Any]) -> None:
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(event["params"]["exceptionDetails"])[:2000])
            case "Log.entryAdded":
                self.complaints.append(event["params"]["entry"]["text"])
            case "Network.requestWillBeSent":
                self.requests.append(event["params"]["request"]["url"])
