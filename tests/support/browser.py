"""Headless Chromium, driven over its DevTools protocol: what a page looks like, asks for and complains of."""

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from websockets.sync.client import ClientConnection, connect

from tests.support.bounded import running

LIMIT_S = 30.0
_ARGUMENTS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars"),
    # Else it looks for updates and the like elsewhere.
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"),
    "--remote-debugging-port=0",
)


class Tab:
    """A page that was opened. `requests` are the addresses asked for, `complaints` all that it wrote to its console."""

    def __init__(self, socket: ClientConnection, session: str) -> None:
        self._socket = socket
        self._session = session
        self._number = 0
        self._events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol and return what it answers."""
        self._number += 1
        message = {"id": self._number, "sessionId": self._session, "method": method, "params": parameters}
        self._socket.send(json.dumps(message))
        while (answer := self._receive()).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def _receive(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self._socket.recv(timeout=LIMIT_S))
        return found

    def go(self, url: str, *, width: int, dark: bool = False, scripts: bool = True) -> Self:
        """Open an address in a window so wide, in CSS pixels, and wait until it is loaded."""
        before = len(self._events)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 500
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events[before:]):
            self._events.append(self._receive())
        return self

    def evaluate(self, expression: str) -> Any:
        """Return what an expression, or the promise that it makes, comes to."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write the whole page as PNG."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def requests(self) -> list[str]:
        """The addresses that it has asked for, without data: addresses."""
        return [
            url
            for event in self._events
            if event.get("method") == "Network.requestWillBeSent"
            and not (url := event["params"]["request"]["url"]).startswith("data:")
        ]

    @property
    def complaints(self) -> list[str]:
        """What it wrote to its console, errors that were not caught, and what the browser itself reported, such as a refusal."""
        told = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
        return [json.dumps(event["params"]) for event in self._events if event.get("method") in told]


class Browser:
    """A Chromium that runs."""

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._number = 0

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number -= 1  # apart from those of the tabs
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            answer: dict[str, Any] = json.loads(self._socket.recv(timeout=LIMIT_S))
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                found: dict[str, Any] = answer["result"]
                return found

    @contextmanager
    def tab(self) -> Iterator[Tab]:
        """A new tab, closed in the end; one at a time."""
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        yield Tab(self._socket, session)
        self._call("Target.closeTarget", targetId=target)

    def close(self) -> None:
        """Let it end."""
        self._call("Browser.close")


@contextmanager
def running_browser(chromium: str, profile: Path) -> Iterator[Browser]:
    """A Chromium with an empty profile in a folder of its own; in the end it is gone."""
    log = profile.with_suffix(".log")
    command = [chromium, *_ARGUMENTS, f"--user-data-dir={profile}"]
    with log.open("wb") as out, running(command, stdout=out, stderr=out) as process:
        with connect(_address(process, profile / "DevToolsActivePort", log), max_size=None) as socket:
            browser = Browser(socket)
            yield browser
            browser.close()
        process.wait(LIMIT_S)


def _address(process: "subprocess.Popen[str]", file: Path, log: Path) -> str:
    """Return where it listens, as soon as it has written it."""
    deadline = time.monotonic() + LIMIT_S
    while not file.exists() or not file.read_text().count("\n"):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.02)
    port, path = file.read_text().split("\n")[:2]
    return f"ws://127.0.0.1:{port}{path}"
