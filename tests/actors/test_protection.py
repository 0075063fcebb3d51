"""Keys and limits, at the edge where requests come in: ASGI messages in, ASGI messages out."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from actors.config import LimitsConfig
from actors.serving.metrics import Metrics
from actors.serving.protection import ENVIRONMENT, ApiKeys, Guard, KeysError

KEY, OTHER = "k" * 20, "o" * 20


@pytest.fixture
def keys(tmp_path: Path) -> ApiKeys:
    file = tmp_path / "keys"
    file.write_text(f"# ours\n{KEY}\n\n{OTHER} 2999-12-31\n{'x' * 20} 2020-01-31T12:00\n")
    return ApiKeys.load(file)


class Server:
    """A guard in front of an application that echoes the size of the body once it is let to."""

    def __init__(self, keys: ApiKeys, **limits: Any):
        self.answer = asyncio.Event()
        self.seen = 0
        self.metrics = Metrics()
        self.wait_s = 0.0
        self.guard = Guard(self.app, keys, LimitsConfig(**limits), self.metrics, lambda: self.wait_s)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.seen += 1
        body = (await receive()).get("body", b"") if scope["type"] == "http" else b""
        await self.answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": str(len(body)).encode()})

    async def ask(
        self, key: str | None = None, body: bytes = b"{}", path: str = "/judge", root: str = "", chunk: int = 10**9
    ) -> Any:
        headers = [] if key is None else [(b"authorization", key.encode())]
        chunks = [body[at : at + chunk] for at in range(0, len(body), chunk)] or [b""]
        messages = [
            {"type": "http.request", "body": part, "more_body": number + 1 < len(chunks)}
            for number, part in enumerate(chunks)
        ]
        sent: list[Any] = []

        async def receive() -> Any:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await self.guard({"type": "http", "path": path, "root_path": root, "headers": headers}, receive, send)
        names = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        return sent[0]["status"], names, sent[1]["body"]


def served(keys: ApiKeys, *asked: dict[str, Any], **limits: Any) -> list[Any]:
    async def all_() -> list[Any]:
        server = Server(keys, **limits)
        server.answer.set()
        return [await server.ask(**one) for one in asked]

    return asyncio.run(all_())


def test_known_keys_come_through_and_others_are_told_why(keys: ApiKeys) -> None:
    asked = [
        f"Bearer {KEY}",
        f"bearer {OTHER}",
        None,
        "Bearer nonsense",
        f"Basic {KEY}",
        f"Bearer {'x' * 20}",
        "Bearer ",
    ]
    answers = served(keys, *({"key": key} for key in asked))
    assert [status for status, _, _ in answers] == [200, 200, 401, 401, 401, 401, 401]
    says = [json.loads(body)["detail"] for status, _, body in answers if status == 401]
    assert "Authorization: Bearer KEY" in says[0]
    assert "not known" in says[1]
    assert "expired on 2020-01-31 12:00 UTC" in says[3]
    assert {headers["www-authenticate"] for status, headers, _ in answers if status == 401} == {"Bearer"}
    assert not any(KEY in says_ or "nonsense" in says_ for says_ in says), "a key is never repeated"


@pytest.mark.parametrize("path", ["/", "/health", "/docs", "/openapi.json", "/static/page.js"])
def test_what_needs_no_key(keys: ApiKeys, path: str) -> None:
    assert [status for status, _, _ in served(keys, {"path": path}, {"path": f"/judge{path}", "root": "/judge"})] == [
        200
    ] * 2


@pytest.mark.parametrize(
    "path", ["/judge", "/metrics", "/version", "/v1/models", "//judge", "/static", "/health/../judge"]
)
def test_what_needs_one(keys: ApiKeys, path: str) -> None:
    assert served(keys, {"path": path})[0][0] == 401


def test_without_keys_everybody_may_ask() -> None:
    assert [status for status, _, _ in served(ApiKeys(), {}, {"key": "Bearer whatever"})] == [200, 200]


def test_a_large_body_is_refused_before_it_is_read_to_its_end() -> None:
    limit = 2**20
    fits, over, chunked = served(
        ApiKeys(),
        {"body": b"x" * limit, "chunk": 1000},
        {"body": b"x" * (limit + 1)},
        {"body": b"x" * (50 * limit), "chunk": 2**16},
        body_mib=1,
    )
    assert fits[0] == 200
    assert fits[2] == str(limit).encode(), "the application gets all of it"
    for status, _, body in (over, chunked):
        assert status == 413
        assert "larger than 1 MiB" in json.loads(body)["detail"]


def test_more_than_allowed_at_once_are_told_to_come_again(keys: ApiKeys) -> None:
    async def scenario() -> None:
        server = Server(keys, requests=3, requests_per_key=2)
        first = [asyncio.create_task(server.ask(f"Bearer {KEY}")) for _ in range(2)]
        await asyncio.sleep(0.01)
        status, headers, body = await server.ask(f"Bearer {KEY}")
        assert (status, int(headers["retry-after"]) > 0) == (429, True)
        assert "2 requests with this API key" in json.loads(body)["detail"]
        other = asyncio.create_task(server.ask(f"Bearer {OTHER}"))
        await asyncio.sleep(0.01)
        status, headers, _ = await server.ask(f"Bearer {OTHER}")
        assert (status, int(headers["retry-after"]) > 0) == (503, True)
        server.answer.set()
        assert [status for status, _, _ in await asyncio.gather(*first, other)] == [200, 200, 200]
        assert (await server.ask(f"Bearer {KEY}"))[0] == 200, "the places are free again"
        assert server.seen == 4, "what was refused never came to the application"

    asyncio.run(scenario())


def test_nobody_is_let_in_to_wait_too_long() -> None:
    async def run() -> None:
        server = Server(ApiKeys(), wait_s=15)
        server.answer.set()
        server.wait_s = 15
        assert (await server.ask())[0] == 200
        server.wait_s = 15.5
        status, headers, body = await server.ask()
        assert (status, server.seen) == (503, 1)
        assert int(headers["retry-after"]) >= 1
        assert "16 s here, more than the 15 s" in str(body)

    asyncio.run(run())


def test_memory_of_waiting_requests_is_bounded() -> None:
    async def scenario() -> None:
        server = Server(ApiKeys(), waiting_mib=1, body_mib=1)
        waiting = asyncio.create_task(server.ask(body=b"x" * 2**20))
        await asyncio.sleep(0.01)
        assert (await server.ask())[0] == 503
        server.answer.set()
        assert (await waiting)[0] == 200
        assert (await server.ask())[0] == 200

    asyncio.run(scenario())


def test_a_client_that_goes_away_frees_its_place() -> None:
    async def scenario() -> None:
        server = Server(ApiKeys(), requests=1)
        waiting = asyncio.create_task(server.ask())
        await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        server.answer.set()
        assert (await server.ask())[0] == 200
        counted = server.metrics.text(0, 1).decode()
        assert 'status="499"' in counted
        assert "gavel_requests_in_progress 0.0" in counted

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("short", "line 1: an API key needs at least 16 characters"),
        (f"\n{KEY} tomorrow", "line 2: the second word must be the date"),
        (f"{KEY} 2027-01-31 x", "line 1: a line holds one API key"),
        ("# nothing\n", "holds no API key"),
    ],
)
def test_a_broken_file_of_keys_is_named_without_its_keys(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "keys"
    file.write_text(text)
    with pytest.raises(KeysError, match=says) as raised:
        ApiKeys.load(file)
    assert str(file) in str(raised.value)
    assert KEY not in str(raised.value)
    with pytest.raises(KeysError, match="cannot be read"):
        ApiKeys.load(tmp_path / "nowhere")


def test_keys_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ApiKeys.load(None) == ApiKeys()
    monkeypatch.setenv(ENVIRONMENT, f"{KEY}, {OTHER}")
    found = ApiKeys.load(None)
    assert [status for status, _, _ in served(found, {"key": f"Bearer {OTHER}"}, {})] == [200, 401]
    assert KEY not in repr(found), "what travels are digests"
