"""What Serve's proxy says by itself, at the edge: ASGI messages in, ASGI messages out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from actors.serving.proxy import RETRY_AFTER_S, SaysWhen, middlewares

Answer = tuple[int, dict[str, str], bytes]


def answered(*sent: dict[str, Any], path: str = "/judge") -> Answer:
    """What a client gets where the proxy sends these messages."""
    got: list[dict[str, Any]] = []

    async def proxy(scope: Any, receive: Any, send: Any) -> None:
        for message in sent:
            await send(message)

    async def send(message: Any) -> None:
        got.append(message)

    (middleware,) = middlewares()
    assert middleware.cls is SaysWhen
    asyncio.run(SaysWhen(proxy)({"type": "http", "path": path}, None, send))  # type: ignore[arg-type]
    if not got:
        return 0, {}, b""
    headers = {name.decode(): value.decode() for name, value in got[0]["headers"]}
    return got[0]["status"], headers, b"".join(message["body"] for message in got[1:])


def messages(status: int, headers: Sequence[tuple[bytes, bytes]], *parts: bytes) -> list[dict[str, Any]]:
    bodies = [
        {"type": "http.response.body", "body": part, "more_body": number + 1 < len(parts)}
        for number, part in enumerate(parts)
    ]
    return [{"type": "http.response.start", "status": status, "headers": list(headers)}, *bodies]


@pytest.mark.parametrize("status", [503, 408])
def test_the_proxys_own_refusals_say_why_and_when_to_come_again(status: int) -> None:
    plain = [(b"content-type", b"text/plain"), (b"content-length", b"9"), (b"x-request-id", b"1")]
    got, headers, body = answered(*messages(status, plain, b"queue ", b"is \xc3\xbcber"))
    assert (got, json.loads(body)) == (status, {"detail": "queue is über"})
    assert headers["retry-after"] == str(RETRY_AFTER_S)
    assert headers["content-type"] == "application/json"
    assert int(headers["content-length"]) == len(body)
    assert headers["x-request-id"] == "1"


def test_a_replica_that_died_before_it_answered_is_a_503() -> None:
    status, headers, body = answered()
    assert (status, headers["retry-after"]) == (503, str(RETRY_AFTER_S))
    assert "try again" in json.loads(body)["detail"]


@pytest.mark.parametrize(
    ("status", "headers"),
    [
        (200, [(b"content-type", b"text/event-stream")]),
        (422, [(b"content-type", b"application/json")]),
        (500, []),
        (503, [(b"Retry-After", b"7"), (b"content-type", b"application/json")]),
    ],
)
def test_what_the_judge_answers_passes_untouched(status: int, headers: list[tuple[bytes, bytes]]) -> None:
    got = answered(*messages(status, headers, b"one", b"two"))
    assert got == (status, {name.decode(): value.decode() for name, value in headers}, b"onetwo")


def test_serves_own_health_route_passes_untouched() -> None:
    assert answered(*messages(503, [], b"draining"), path="/-/healthz") == (503, {}, b"draining")
    assert answered(path="/-/routes") == (0, {}, b"")
