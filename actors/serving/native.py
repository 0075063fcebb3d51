"""Gavel's own routes: pairs, rankings, scores, and what is being served."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Depends, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from actors.serving.engine import EngineStoppedError
from actors.serving.judging import Say
from actors.serving.service import Service, the_service
from actors.serving.wire import (
    Health,
    JudgeRequest,
    JudgeResponse,
    Problem,
    RankRequest,
    RankResponse,
    ScoreRequest,
    ScoreResponse,
    Version,
)

router = APIRouter(tags=["Gavel"])

Here = Annotated[Service, Depends(the_service)]

_EVENTS = {
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
    "description": "The answer. With `stream`, server-sent events: `delta` (comparison, order, sample, text; in a "
    "ranking also a and b), `judgement`, in a ranking `comparison`, and last `result`, or `error` with its detail",
}

A = TypeVar("A", bound=BaseModel)


@router.post("/judge", summary="Judge two responses", responses={200: _EVENTS}, response_model=JudgeResponse)
async def judge(request: JudgeRequest, here: Here) -> Response:
    """Compare two responses to the same question, and say why."""
    if request.stream:
        return _streamed(lambda say: here.judging.judge(request, say))
    return _json(await here.judging.judge(request))


@router.post("/rank", summary="Rank several responses", responses={200: _EVENTS}, response_model=RankResponse)
async def rank(request: RankRequest, here: Here) -> Response:
    """Compare responses to the same question with each other, and score each."""
    if request.stream:
        return _streamed(lambda say: here.judging.rank(request, say))
    return _json(await here.judging.rank(request))


@router.post("/score", summary="Score one response", response_model=ScoreResponse)
async def score(request: ScoreRequest, here: Here) -> Response:
    """Score one response: against a reference answer or an anchor, else by a rating from 1 to 10.

    A judge that was trained to compare may give no rating; the score is then the middle of the range, and `neutral`.
    """
    return _json(await here.judging.score(request))


@router.get("/health", summary="Is the engine alive?", responses={503: {"model": Problem}})
async def health(here: Here) -> Health:
    """Answers 503 where it is not."""
    if here.engine.stopped:
        raise EngineStoppedError
    return Health(running=here.engine.running)


@router.get("/version", summary="What is being served?")
async def version(here: Here) -> Version:
    """The judge's name, its weight version, its prompt format and the limits."""
    return Version(
        **here.card.model_dump(), model=here.name, limits=here.limits.model_dump(), refused=here.engine.refused
    )


@router.get("/metrics", summary="What was counted, for Prometheus", response_class=Response)
async def metrics(here: Here) -> Response:
    """The replica's counters in Prometheus' text format."""
    text = here.metrics.text(here.engine.running, here.engine.version)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8")


def _json(answer: BaseModel) -> Response:
    """The answer as it is: validated when it was made, and not once more."""
    return Response(answer.model_dump_json(), media_type="application/json")


def _streamed(work: Callable[[Say], Awaitable[A]]) -> StreamingResponse:
    """Server-sent events of what `work` says, and its result at the end. Closed early, it ends the work."""

    async def events() -> AsyncIterator[str]:
        said: asyncio.Queue[tuple[str, Any] | None] = asyncio.Queue()
        task = asyncio.ensure_future(work(lambda name, data: said.put_nowait((name, data))))
        task.add_done_callback(lambda _: said.put_nowait(None))
        try:
            while (event := await said.get()) is not None:
                yield _event(*event)
            try:
                yield _event("result", task.result().model_dump())
            except EngineStoppedError as error:
                yield _event("error", {"detail": str(error)})
            except RequestValidationError as error:
                yield _event("error", {"detail": problems(error)})
        finally:
            task.cancel()

    return StreamingResponse(events(), media_type="text/event-stream", headers={"cache-control": "no-store"})


def _event(name: str, data: Any) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


def problems(error: RequestValidationError) -> list[dict[str, Any]]:
    """What is wrong and where, without the input itself, which may be long and may hold NaN."""
    return [{"loc": e["loc"], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
