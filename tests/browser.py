"""A headless Chromium, spoken to over its DevTools: pages are tested as a person uses them."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from websockets.sync.client import ClientConnection, connect

CHROMIUM = next((found for name in ("chromium", "google-chrome", "chrome") if (found := shutil.which(name))), None)


class Browser:
    """One page of a headless Chromium, spoken to over the DevTools protocol."""

    def __init__(self, profile: Path):
        flags = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run")
        command = [str(CHROMIUM), *flags, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
        self.process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            self.socket = self._attach(profile / "DevToolsActivePort")
        except BaseException:
            self.process.kill()
            raise
        self.number = 0
        self.complaints: list[str] = []
        """What the page wrote to the console as an error, and exceptions that nothing caught."""
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    @staticmethod
    def _attach(file: Path) -> ClientConnection:
        for _ in range(200):
            if file.exists() and len(lines := file.read_text().split()) == 2:
                break
            time.sleep(0.05)
        else:
            raise TimeoutError("Chromium did not open its DevTools within 10 s")
        with connect(f"ws://127.0.0.1:{lines[0]}{lines[1]}", open_timeout=10) as socket:
            socket.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            targets = json.loads(socket.recv(10))["result"]["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        return connect(f"ws://127.0.0.1:{lines[0]}/devtools/page/{page}", max_size=None, open_timeout=10)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self.socket.recv(30))
            if answer.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(answer["params"]))
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression: str, seconds: float = 20) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.js(f"Boolean({expression})"):
            assert time.monotonic() < end, f"{expression} did not come true"
            time.sleep(0.02)

    def press(self, key: str, *, code: str = "", ctrl: bool = False, alt: bool = False, shift: bool = False) -> None:
        """Press and release one key."""
        modifiers = alt + 2 * ctrl + 8 * shift
        codes = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "Backspace": 8}
        given = {"key": key, "code": code or key, "modifiers": modifiers, "windowsVirtualKeyCode": codes.get(key, 0)}
        text = {"Enter": "\r", " ": " "}.get(key) if not modifiers else None
        self.call(
            "Input.dispatchKeyEvent",
            type="keyDown" if text else "rawKeyDown",
            **given,
            **({"text": text} if text else {}),
        )
        self.call("Input.dispatchKeyEvent", type="keyUp", **given)

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.call("Input.insertText", text=text)

    def close(self) -> None:
        self.socket.close()
        self.process.terminate()
        self.process.wait(10)
