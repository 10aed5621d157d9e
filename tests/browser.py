"""A headless Chromium that looks at pages as people do, driven through a pipe by its own protocol."""

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needed = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed here (Debian: chromium)")
_ANSWER_S = 60.0
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars"),
    *("--disable-dev-shm-usage", "--disable-background-networking", "--remote-debugging-pipe"),
)
_CODES = {"Enter": 13, "Escape": 27, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40}


class Browser:
    """A tab. `loaded` are the addresses of what it was made to load, `errors` what went wrong in the page."""

    def __init__(self, into: int, out: int) -> None:
        self._into, self._out, self._rest, self._last = into, out, b"", 0
        self.loaded: list[str] = []
        self.errors: list[str] = []
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self._ask(f"{domain}.enable")

    def open(self, path: Path, *, width: int = 1280, dark: bool = False, script: bool = True) -> None:
        """Show a page at a width, by a system that is light or dark."""
        self.loaded, self.errors = [], []
        self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=850,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        look = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._ask("Emulation.setEmulatedMedia", features=[look])
        self._ask("Emulation.setScriptExecutionDisabled", value=not script)
        self._ask("Page.navigate", url=path.absolute().as_uri())
        end = time.monotonic() + _ANSWER_S
        while self._value("[document.readyState, location.href]") != ["complete", path.absolute().as_uri()]:
            assert time.monotonic() < end, "the page is not loaded"
            time.sleep(0.02)

    def value(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self._value(expression)

    def becomes(self, expression: str, expected: Any) -> None:
        """Fail unless the value is soon the one that is expected: events of a dialog come later."""
        end = time.monotonic() + _ANSWER_S / 4
        while (found := self._value(expression)) != expected:
            assert time.monotonic() < end, f"{expression} is {found!r}, not {expected!r}"
            time.sleep(0.02)

    def press(self, *keys: str) -> None:
        for key in keys:
            text = {"Enter": "\r"}.get(key, key if len(key) == 1 else "")
            code = _CODES.get(key, ord(key.upper()) if len(key) == 1 else 0)
            given = {"key": key, "windowsVirtualKeyCode": code, "text": text}
            self._ask("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **given)
            self._ask("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def print_media(self, on: bool) -> None:
        """Show the page as it is printed."""
        self._ask("Emulation.setEmulatedMedia", media="print" if on else "")

    def picture(self, path: Path, *, whole: bool = False) -> None:
        shot = self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))

    def _value(self, expression: str) -> Any:
        answer = self._ask("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def _ask(self, method: str, **given: Any) -> dict[str, Any]:
        self._last += 1
        asked: dict[str, Any] = {"id": self._last, "method": method, "params": given}
        if self._session is not None:
            asked["sessionId"] = self._session
        os.write(self._into, json.dumps(asked).encode() + b"\0")
        while True:
            heard = self._hear()
            if heard.get("id") == self._last:
                assert "error" not in heard, heard
                return dict(heard["result"])

    def _hear(self) -> dict[str, Any]:
        end = time.monotonic() + _ANSWER_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._out], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._out, 1 << 20) if ready else b""
            assert part, "the browser has gone, or does not answer"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        heard = dict(json.loads(message))
        match heard.get("method"):
            case "Network.requestWillBeSent":
                self.loaded.append(heard["params"]["request"]["url"])
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(heard["params"]["exceptionDetails"]))
            case "Log.entryAdded":
                self.errors.append(heard["params"]["entry"]["text"])
        return heard


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """Run a browser that keeps what it keeps in `folder`, and end it."""
    assert CHROMIUM is not None
    commands, into = os.pipe()
    out, answers = os.pipe()
    line = ["bash", "-c", f'exec "$@" 3<&{commands} 4>&{answers}', "bash", CHROMIUM, *_FLAGS]
    with subprocess.Popen(
        [*line, f"--user-data-dir={folder}"], pass_fds=(commands, answers), stderr=subprocess.DEVNULL
    ) as process:
        os.close(commands)
        os.close(answers)
        try:
            yield Browser(into, out)
        finally:
            process.terminate()
            process.wait(_ANSWER_S)
            os.close(into)
            os.close(out)
