"""What Serve's proxy answers by itself, said as the endpoint says it: as JSON, and with when to come again.

Imported into every proxy, so it imports next to nothing.
"""

from __future__ import annotations

import json

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

RETRY_AFTER_S = 2
"""A full queue empties within seconds."""

_OF_THE_PROXY = {408, 503}
_DIED = "The replica that was asked stopped before it answered, and is being replaced; try again"


def middlewares() -> list[Middleware]:
    """Named in RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH: what Serve puts in front of every proxy."""
    return [Middleware(SaysWhen)]


class SaysWhen:
    """ASGI middleware that adds Retry-After to a 503 (queue full) or 408 (timeout) of the proxy's own.

    The plain text that came with it becomes the `detail` of a JSON object. Where the replica died before it answered,
    the proxy says nothing at all and its web server 500: that becomes a 503 too. Everything else passes untouched.
    """

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http" or scope["path"].startswith("/-/"):  # Serve's own routes: health and routes
            await self._app(scope, receive, send)
            return
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


async def _answer(send: Send, status: int, text: str, headers: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps({"detail": text}).encode()
    replaced = {b"content-type", b"content-length"}
    kept = [(name, value) for name, value in headers if name.lower() not in replaced]
    added = {"content-type": "application/json", "content-length": str(len(body)), "retry-after": str(RETRY_AFTER_S)}
    new = [(name.encode(), value.encode()) for name, value in added.items()]
    await send({"type": "http.response.start", "status": status, "headers": [*kept, *new]})
    await send({"type": "http.response.body", "body": body})
