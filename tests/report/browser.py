"""A headless Chromium, driven through its DevTools protocol by pipe: JSON messages that end in a zero byte.

https://chromedevtools.github.io/devtools-protocol/ has the messages; --remote-debugging-pipe takes them on descriptor 3
and answers on descriptor 4. So neither a port nor a driver of its own is needed.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

ANSWER_S = 30.0
_OPTIONS = (
    "--headless=new",
    "--no-sandbox",  # it does not run as root with one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND",  # whatever it wants of a network, it does not get
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

Json = dict[str, object]


class Browser:
    """One page of a browser. `problems`: exceptions and complaints of its console; `requests`: URLs it asked for."""

    def __init__(self, profile: Path) -> None:
        program = shutil.which("chromium")
        if program is None:
            pytest.skip("chromium is not installed: 'make browser' tries to")
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()
        command = [program, *_OPTIONS, f"--user-data-dir={profile}", "about:blank"]
        # The shell puts the pipes where Chromium looks for them: Popen has no option for that.
        script = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", script, "bash", *command],
            pass_fds=(to_read, to_write),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(to_read)
        os.close(to_write)
        self._pending = b""
        self._number = 0
        self._session = ""
        self.problems: list[str] = []
        self.requests: list[str] = []
        (target,) = (one for one in self._targets() if one["type"] == "page")
        self._session = str(self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)["sessionId"])
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """End it; its process is reaped."""
        if self._process.poll() is None:
            try:
                self._session = ""
                self.call("Browser.close")
                self._process.wait(ANSWER_S)
            finally:
                self._process.kill()
                self._process.wait()
        os.close(self._to)
        os.close(self._from)

    def call(self, method: str, **parameters: object) -> Json:
        """Have something done, and wait for the answer."""
        self._number += 1
        message: Json = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result = answer["result"]
                assert isinstance(result, dict)
                return result
            self._note(answer)

    def open(self, path: Path) -> None:
        """Load a file, and wait until it is drawn."""
        self.call("Page.navigate", url=path.as_uri())
        self.wait_for("document.readyState === 'complete'")
        self.settle()

    def run(self, expression: str) -> object:
        """The value of a JavaScript expression, which may be a promise; an exception is an AssertionError."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, f"{expression}: {found}"
        result = found["result"]
        assert isinstance(result, dict)
        return result.get("value")

    def wait_for(self, expression: str) -> None:
        """Until it is true."""
        end_s = time.monotonic() + ANSWER_S
        while not self.run(expression):
            assert time.monotonic() < end_s, f"in vain: {expression}"

    def settle(self) -> None:
        """Until what has changed is drawn: observers of sizes are called between two frames."""
        self.run("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))")

    def text(self, selector: str) -> str:
        """What is to be read in the first element that a selector finds."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def press(self, key: str) -> None:
        """A key, by its name in the DOM."""
        text = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **text)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)
        self.settle()

    def type(self, text: str) -> None:
        """Into what has the focus."""
        self.call("Input.insertText", text=text)
        self.settle()

    def box(self, selector: str) -> tuple[float, float, float, float]:
        """Where the first element that a selector finds is in the window, once scrolled to: x, y, width, height."""
        found = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            "one.scrollIntoView({block: 'center', behavior: 'instant'});"
            "const box = one.getBoundingClientRect(); return [box.x, box.y, box.width, box.height]; })()"
        )
        assert isinstance(found, list)
        x, y, width, height = map(float, found)
        return x, y, width, height

    def click(self, selector: str) -> None:
        """In the middle of the first element that a selector finds."""
        x, y, width, height = self.box(selector)
        self.mouse("mousePressed", x + width / 2, y + height / 2, button="left", clickCount=1)
        self.mouse("mouseReleased", x + width / 2, y + height / 2, button="left", clickCount=1)
        self.settle()

    def mouse(self, kind: str, x: float, y: float, **more: object) -> None:
        """An event of the mouse, as Input.dispatchMouseEvent takes it."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def emulate(self, *, width: int, height: int = 900, scheme: str = "light", medium: str = "") -> None:
        """A window of that size, a colour scheme, and perhaps another medium than the screen."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features: Sequence[Mapping[str, str]] = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)
        self.settle()

    def screenshot(self, path: Path) -> None:
        """The whole page, as a PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(str(found["data"])))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(str(self.call("Page.printToPDF", printBackground=False)["data"]))

    def _targets(self) -> list[Json]:
        end_s = time.monotonic() + ANSWER_S
        while time.monotonic() < end_s:
            found = self.call("Target.getTargets")["targetInfos"]
            assert isinstance(found, list)
            if any(one["type"] == "page" for one in found):
                return found
        raise AssertionError("Chromium opens no page")

    def _receive(self) -> Json:
        end_s = time.monotonic() + ANSWER_S
        while b"\0" not in self._pending:
            ready, _, _ = select.select([self._from], [], [], max(0.0, end_s - time.monotonic()))
            chunk = os.read(self._from, 1 << 20) if ready else b""
            assert chunk, f"Chromium does not answer (exit code {self._process.poll()})"
            self._pending += chunk
        message, self._pending = self._pending.split(b"\0", 1)
        found = json.loads(message)
        assert isinstance(found, dict)
        return found

    def _note(self, event: Json) -> None:
        method, parameters = event.get("method"), event.get("params")
        if method in ("Runtime.exceptionThrown", "Log.entryAdded"):
            self.problems.append(json.dumps(parameters))
        elif method == "Runtime.consoleAPICalled" and isinstance(parameters, dict):
            self.problems.append(json.dumps(parameters["args"]))
        elif method == "Network.requestWillBeSent" and isinstance(parameters, dict):
            self.requests.append(parameters["request"]["url"])
