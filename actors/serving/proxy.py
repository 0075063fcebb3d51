"""What stands at Serve's proxy: nobody is let in to wait for too long, and who is refused is told when to come again.

A refusal here costs a tenth of one in the replica, so that what can be done is still done when far more is asked.
Imported into every proxy (with HAProxy, which runs no Python, into every replica), so it imports next to nothing.
"""

from __future__ import annotations

import json
import math
import os

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from actors.config import LimitsConfig
from actors.serving.pace import Pace

WAIT_S = "GAVEL_WAIT_S"
"""The environment variable with `limits.wait_s` for the proxy."""

RETRY_AFTER_S = 2
"""A full queue empties within seconds."""

_FEW = 64
"""Requests in progress at once of which none is refused."""

_PROMPT = ("/judge", "/rank", "/score", "/compare", "/v1/chat/completions")
"""Routes whose answers wait for the judge alone. Those of single samples also wait for the rest of their group."""

_OF_THE_PROXY = {408, 503}
_DIED = "The replica that was asked stopped before it answered, and is being replaced; try again"


def middlewares() -> list[Middleware]:
    """Named in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH: what Serve puts in front of every proxy."""
    limit = os.environ.get(WAIT_S)
    return [Middleware(Door, wait_s=float(limit) if limit else LimitsConfig().wait_s)]


class Door:
    """ASGI middleware that refuses a request which would wait for longer than `wait_s`, by the pace of those before.

    It also adds Retry-After to a 503 (queue full) or 408 (timeout) of the proxy's own, whose plain text becomes the
    `detail` of a JSON object. Where the replica died before it answered, the proxy says nothing at all and its web
    server 500: that becomes a 503 too. Everything else passes untouched.
    """

    def __init__(self, app: ASGIApp, wait_s: float):
        self._app = app
        self._wait_s = wait_s
        self._pace = Pace(_FEW)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Serve's own routes: health and routes
            await self._app(scope, receive, send)
        elif not scope["path"].endswith(_PROMPT):
            await self._explained(scope, receive, send)
        elif (wait := self._pace.wait_s) > self._wait_s:
            told = f"An answer would take {wait:.0f} s, more than the {self._wait_s:g} s allowed; try again"
            await _answer(send, 503, told, [], max(RETRY_AFTER_S, min(30, math.ceil(wait / 4))))
        else:
            self._pace.begin()
            try:
                await self._explained(scope, receive, send)
            finally:
                self._pace.end()

    async def _explained(self, scope: Scope, receive: Receive, send: Send) -> None:
        held: Message | None = None
        started = False
        text = bytearray()

        async def explained(message: Message) -> None:
            nonlocal held, started
            if message["type"] == "http.response.start":
                started = True
                names = {name.lower() for name, _ in message["headers"]}
                if message["status"] in _OF_THE_PROXY and b"retry-after" not in names:
                    held = message
                    return
            elif held is not None:
                text.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await _answer(send, held["status"], text.decode("utf-8", "replace"), held["headers"])
                return
            await send(message)

        await self._app(scope, receive, explained)
        if not started:
            await _answer(send, 503, _DIED, [])


async def _answer(
    send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]], retry_after_s: int = RETRY_AFTER_S
) -> None:
    body = json.dumps({"detail": text}).encode()
    replaced = {b"content-type", b"content-length"}
    kept = [(name, value) for name, value in headers if name.lower() not in replaced]
    added = {"content-type": "application/json", "content-length": str(len(body)), "retry-after": str(retry_after_s)}
    new = [(name.encode(), value.encode()) for name, value in added.items()]
    await send({"type": "http.response.start", "status": status, "headers": [*kept, *new]})
    await send({"type": "http.response.body", "body": body})
