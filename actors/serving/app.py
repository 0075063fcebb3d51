"""The web application of one replica: every route, and what stands in front of them."""

from __future__ import annotations

import json

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from actors.serving import contracts, native, nemo_gym, openai, page
from actors.serving.engine import EngineStoppedError
from actors.serving.groups import UnjudgedError
from actors.serving.protection import Guard
from actors.serving.service import service
from actors.serving.wire import Problem

_ABOUT = """
Compares responses, and says why. Judges are trained to compare two responses in one order; the endpoint judges both
orders, votes, ranks, and speaks the reward contracts of RLHF trainers.

With API keys, send one as `Authorization: Bearer KEY`.
"""

_REFUSALS = {
    401: "The API key is missing, not known here, or expired",
    413: "The request is larger than the server allows",
    429: "Too many requests with this API key are in progress; Retry-After says when to try again",
    503: "The server is full, or its engine has stopped and is being replaced; Retry-After says when to try again",
}


def build() -> FastAPI:
    """The application of this process's service."""
    served = service()
    app = FastAPI(
        title="Gavel judge",
        version="1",
        description=_ABOUT,
        responses={status: {"model": Problem, "description": text} for status, text in _REFUSALS.items()},
    )
    for routes in (native, contracts, nemo_gym, openai, page):
        app.include_router(routes.router)
    app.add_exception_handler(RequestValidationError, _refuse)  # type: ignore[arg-type]
    for error in (EngineStoppedError, UnjudgedError):
        app.add_exception_handler(error, _unavailable)
    app.add_middleware(
        Guard, keys=served.keys, limits=served.limits, metrics=served.metrics, wait_s=lambda: served.engine.wait_s
    )
    return app


async def _refuse(_: Request, error: RequestValidationError) -> Response:
    """Say what is wrong and where. FastAPI's own handler would send the whole input back, and fails on NaN in it."""
    return Response(json.dumps({"detail": native.problems(error)}), 422, media_type="application/json")


async def _unavailable(_: Request, error: Exception) -> Response:
    body = json.dumps({"detail": str(error)})
    return Response(body, 503, {"retry-after": "10"}, media_type="application/json")
