"""A real browser for tests: headless Chromium driven over its debugging pipe (two file descriptors, JSON between zero bytes).

The pipe needs no port, no driver and no package. `chromium()` names the program, or is None where there is none.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_PATIENCE = 120.0


def chromium() -> str | None:
    """The program: SLABENCH_CHROMIUM, else the first of the usual names."""
    named = os.environ.get("SLABENCH_CHROMIUM")
    return named or next((path for name in _NAMES if (path := shutil.which(name))), None)


class Page:
    """One tab. What it logs and asks the network for is kept in `errors` and `requests`."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self.out, self.into = to_browser, from_browser
        self.buffer = b""
        self.number = 0
        self.session: str | None = None
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.loaded = False

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and wait for its answer."""
        self.number += 1
        message: dict[str, Any] = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, f"{method}: {answer['error']}"
                result: dict[str, Any] = answer["result"]
                return result

    def open(self, file: Path) -> None:
        """Load a file and wait until it is there."""
        self.errors, self.requests, self.loaded = [], [], False
        self.call("Page.navigate", url=file.resolve().as_uri())
        while not self.loaded:
            self._next()

    def resize(self, width: int, height: int = 900, dark: bool = False) -> None:
        """The viewport in CSS pixels, and the theme that the reader prefers."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        theme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": theme}])

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, file: Path, whole: bool = False) -> None:
        """A PNG of the viewport, or of the whole page."""
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        file.write_bytes(base64.b64decode(data))

    def _next(self) -> dict[str, Any]:
        deadline = time.monotonic() + _PATIENCE
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.into], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError(f"the browser said nothing for {_PATIENCE:.0f} s")
            part = os.read(self.into, 1 << 16)
            if not part:
                raise EOFError("the browser ended")
            self.buffer += part
        line, _, self.buffer = self.buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, method: str, facts: dict[str, Any]) -> None:
        if method == "Page.loadEventFired":
            self.loaded = True
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(facts["exceptionDetails"]))
        elif method == "Runtime.consoleAPICalled" and facts["type"] in ("error", "warning", "assert"):
            self.errors.append(str(facts["args"]))
        elif method == "Log.entryAdded" and facts["entry"]["level"] in ("error", "warning"):
            self.errors.append(facts["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(facts["request"]["url"])


@contextlib.contextmanager
def page(folder: Path) -> Iterator[Page]:
    """A browser with one tab; its profile lies in `folder`, and it is ended with all of its processes."""
    program = chromium()
    assert program is not None
    to_child, from_parent = os.pipe()
    from_child, to_parent = os.pipe()
    flags = ["--headless=new", "--disable-gpu", "--no-first-run", "--hide-scrollbars", "--disable-dev-shm-usage"]
    flags += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # root has no sandbox to run in
        flags.append("--no-sandbox")

    def connect() -> None:
        # The pipe is where Chromium looks for it: commands on 3, answers on 4. First out of the way, then into place.
        read, write = os.dup(to_child), os.dup(to_parent)
        os.dup2(read, 3)
        os.dup2(write, 4)

    child = subprocess.Popen(
        [program, "--remote-debugging-pipe", f"--user-data-dir={folder}", *flags, "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=connect,
        close_fds=False,
        start_new_session=True,
    )
    os.close(to_child)
    os.close(to_parent)
    try:
        tab = Page(from_parent, from_child)
        target = tab.call("Target.createTarget", url="about:blank")["targetId"]
        tab.session = tab.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        yield tab
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        os.close(from_parent)
        os.close(from_child)
