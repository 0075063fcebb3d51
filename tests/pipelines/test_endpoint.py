"""Who is shown which API key, when an endpoint is asked what it is."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from fastapi import FastAPI, Request

from actors.config import LimitsConfig
from actors.rollout import Sampling
from actors.serving.metrics import Metrics
from actors.serving.protection import ApiKeys, Guard
from pipelines.endpoint import EndpointJudge
from pipelines.judges import JudgeError

KEY, OTHER = "k" * 20, "o" * 20
SAMPLING = Sampling(samples=1, temperature=0, top_p=1, max_new_tokens=64)


@pytest.fixture
def seen() -> list[str]:
    """Every Authorization header that arrived."""
    return []


@pytest.fixture
def gavel(monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> Iterator[str]:
    """Gavel's guard, with a key, before a card, at the URL; no key is set in the environment."""
    for name in ("GAVEL_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GAVEL_API_KEYS", KEY)
    app = FastAPI()

    @app.get("/version")
    def version() -> dict[str, object]:
        return {"format": "compact", "model": "judge", "max_new_tokens": 64, "version": 3}

    app.add_middleware(Guard, keys=ApiKeys.load(None), limits=LimitsConfig(), metrics=Metrics(), wait_s=lambda: 0.0)
    yield from served(app, seen)


@pytest.fixture
def other(monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> Iterator[str]:
    """A server that is not Gavel's and has no /version."""
    yield from served(FastAPI(), seen)


def served(app: FastAPI, seen: list[str]) -> Iterator[str]:
    @app.middleware("http")
    async def note(request: Request, call_next):  # type: ignore[no-untyped-def]
        seen.append(request.headers.get("authorization", ""))
        return await call_next(request)

    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_a_judge_with_keys_is_asked_with_gavels(monkeypatch: pytest.MonkeyPatch, gavel: str, seen: list[str]) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    with pytest.raises(JudgeError, match=r"wants an API key; set GAVEL_API_KEY"):
        EndpointJudge.find(gavel, None, None, SAMPLING, 1)
    monkeypatch.setenv("GAVEL_API_KEY", "wrong" * 5)
    with pytest.raises(JudgeError, match=r"the key in GAVEL_API_KEY is refused: This API key is not known here"):
        EndpointJudge.find(gavel, None, None, SAMPLING, 1)
    monkeypatch.setenv("GAVEL_API_KEY", KEY)
    found = EndpointJudge.find(gavel, None, None, SAMPLING, 1)
    assert (found.gavel, found.name, found.key, found.settings["version"]) == (True, "judge", KEY, 3)
    assert not [header for header in seen if OTHER in header], "the other key is not shown to it"


def test_another_endpoint_is_not_shown_gavels_key(monkeypatch: pytest.MonkeyPatch, other: str, seen: list[str]) -> None:
    monkeypatch.setenv("GAVEL_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_API_KEY", OTHER)
    found = EndpointJudge.find(other, "model", None, SAMPLING, 1)
    assert (found.gavel, found.key) == (False, OTHER)
    assert seen == [""]
