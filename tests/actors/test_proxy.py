"""What Serve's proxy says by itself, at the edge: ASGI messages in, ASGI messages out."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from actors.serving import proxy as module
from actors.serving.proxy import RETRY_AFTER_S, WAIT_S, Door, middlewares

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
    assert middleware.cls is Door
    asyncio.run(Door(proxy, 15)({"type": "http", "path": path}, None, send))  # type: ignore[arg-type]
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


class Waiting:
    """A door, and behind it a judge that answers one request after the other, `seconds` each."""

    def __init__(self, seconds: float, wait_s: float = 1.0):
        self.asked: list[str] = []
        self._seconds = seconds
        self._free = asyncio.Lock()
        self._door = Door(self._judge, wait_s)

    async def _judge(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked.append(scope["path"])
        async with self._free:
            await asyncio.sleep(self._seconds)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def ask(self, path: str = "/judge") -> tuple[int, dict[bytes, bytes]]:
        got: list[Any] = []

        async def send(message: Any) -> None:
            got.append(message)

        await self._door({"type": "http", "path": path}, None, send)  # type: ignore[arg-type]
        return got[0]["status"], dict(got[0]["headers"])


def test_who_would_wait_too_long_is_refused_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_FEW", 4)

    async def run() -> None:
        judge = Waiting(seconds=0.02, wait_s=1.0)
        first = [asyncio.create_task(judge.ask()) for _ in range(90)]
        await asyncio.sleep(0.4)  # its pace is known: 50 a second, and about 70 are waiting
        status, headers = await judge.ask()
        assert status == 503
        assert int(headers[b"retry-after"]) >= 1
        assert len(judge.asked) == 90, "what was refused never came to the judge"
        single = asyncio.create_task(judge.ask("/get_reward"))
        assert {status for status, _ in await asyncio.gather(*first)} == {200}, "who was let in is answered"
        assert (await single)[0] == 200, "single samples also wait for their group, which is no queue"
        assert (await judge.ask("/prefix/rank"))[0] == 200

    asyncio.run(run())


def test_a_burst_is_let_in_as_long_as_few_are_there() -> None:
    async def run() -> None:
        judge = Waiting(seconds=0.005, wait_s=0.01)
        for _ in range(5):
            answers = await asyncio.gather(*(judge.ask() for _ in range(module._FEW)))
            assert {status for status, _ in answers} == {200}

    asyncio.run(run())


def test_the_wait_is_named_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WAIT_S, raising=False)
    assert middlewares()[0].kwargs == {"wait_s": 10}
    monkeypatch.setenv(WAIT_S, "2.5")
    assert middlewares()[0].kwargs == {"wait_s": 2.5}
