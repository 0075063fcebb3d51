"""OpenAI's chat completions and models: the judge itself, for whoever prompts it on their own.

A message is encoded so that nothing in it is a control token, as everywhere here. What the judge writes is returned
as it is; nobody reads a verdict from it.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.routing import APIRoute
from jinja2 import TemplateError
from pydantic import BaseModel, ConfigDict, Field, model_validator
from starlette.exceptions import HTTPException

from actors.config import Settings
from actors.rollout import batch_seed
from actors.serving.engine import Completion, Decoding, EngineStoppedError
from actors.serving.judging import together
from actors.serving.native import Here
from actors.serving.samples import ChatTurn, Received
from actors.serving.service import Service
from evals.pairs import Message


class OpenAIProblem(BaseModel):
    """Why there is no answer."""

    message: str
    type: str = "invalid_request_error"
    param: str | None = Field(None, description="The field that it is about")
    code: str | None = None


class OpenAIError(BaseModel):
    """An error in OpenAI's shape."""

    error: OpenAIProblem


class OpenAIRoute(APIRoute):
    """A route that answers errors in OpenAI's shape: what cannot be answered is a 400."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler, with errors in that shape."""
        handle = super().get_route_handler()

        async def handled(request: Request) -> Response:
            try:
                return await handle(request)
            except RequestValidationError as error:
                return _refusal(400, refused_fields(error))
            except HTTPException as error:
                detail: Any = error.detail  # our own is a problem already, a framework's is its message
                problem = OpenAIProblem(**detail) if isinstance(detail, dict) else OpenAIProblem(message=detail)
                return _refusal(error.status_code, problem)

        return handled


def _refusal(status: int, problem: OpenAIProblem) -> Response:
    return JSONResponse(OpenAIError(error=problem).model_dump(), status)


def refused_fields(error: RequestValidationError) -> OpenAIProblem:
    """Everything that is wrong with a request, in one message; `param` is the first field."""
    told = []
    for one in error.errors():
        path = ".".join(str(part) for part in one["loc"] if part != "body")
        told.append((path, f"{path}: {one['msg']}" if path else one["msg"]))
    return OpenAIProblem(message="; ".join(message for _, message in told), param=told[0][0] or None)


router = APIRouter(
    tags=["OpenAI"], route_class=OpenAIRoute, responses={400: {"model": OpenAIError, "description": "What is wrong"}}
)

_WITHOUT_EFFECT = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
_AT_REST: dict[str, tuple[Any, ...]] = {
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "stop": (None, [], ""),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "response_format": (None, {"type": "text"}),
    "modalities": (None, ["text"]),
    "store": (None, False),
}
"""What the judge cannot do, and the values with which nothing is asked of it."""


class ChatMessage(ChatTurn):
    """One message."""

    role: Literal["system", "developer", "user", "assistant"]


class StreamOptions(Settings):
    """What a stream brings beside text."""

    include_usage: bool = Field(False, description="One more chunk at the end, with usage and without choices")


class ChatRequest(Received, Settings):
    """A prompt for the judge. Tools, logprobs, stop, penalties and formats are refused unless they ask for nothing."""

    messages: list[ChatMessage] = Field(min_length=1)
    model: str | None = Field(None, description="Name of the judge; empty: the one that is served")
    n: int = Field(1, ge=1, le=64, description="Completions of the same prompt")
    temperature: float = Field(1.0, ge=0, le=2, description="0 is greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    seed: int | None = Field(None, description="The same request and weights repeat their completions; empty: random")
    max_completion_tokens: int | None = Field(
        None, ge=1, description="Empty: the server's limit, or what room there is"
    )
    max_tokens: int | None = Field(None, ge=1, description="The same, by its older name")
    stream: bool = False
    stream_options: StreamOptions | None = None

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": "Compute 3+4-2."}], "max_tokens": 8}]}
    )

    @model_validator(mode="before")
    @classmethod
    def _asks_for_nothing_else(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if name not in _WITHOUT_EFFECT}
        given = {name: value for name, value in given.items() if value not in _AT_REST.get(name, ())}
        return {name: value for name, value in given.items() if value is not None}


class ChatUsage(BaseModel):
    """Tokens of the prompt, once, and of all completions with their end-of-sequence tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Said(BaseModel):
    """What the judge wrote."""

    role: Literal["assistant"] = "assistant"
    content: str


class Choice(BaseModel):
    """One completion."""

    index: int
    message: Said
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatResponse(BaseModel):
    """The completions."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: ChatUsage
    system_fingerprint: str = Field(description="The weight version as v7")
    model_version: int = Field(description="Weight version that wrote it; the newest, where a swap came in between")


class Model(BaseModel):
    """The judge that is being served."""

    id: str
    object: Literal["model"] = "model"
    created: int = Field(description="When this replica started")
    owned_by: str = "gavel"
    max_model_len: int = Field(description="Tokens of prompt and completion together")
    model_version: int


class Models(BaseModel):
    """All that is being served: one judge."""

    object: Literal["list"] = "list"
    data: list[Model]


_STARTED = int(time.time())


def _model(here: Service) -> Model:
    card = here.card
    return Model(id=here.name, created=_STARTED, max_model_len=card.max_model_len, model_version=card.version)


def check_model(here: Service, name: str | None) -> None:
    """404 where another model than the served one is named."""
    if name is not None and name != here.name:
        message = f"There is no model {name!r} here; name {here.name!r}, or none"
        raise _unfit(message, "model", "model_not_found", 404)


@router.get("/v1/models", summary="List the served judge")
async def models(here: Here) -> Models:
    """The judge, as the only model."""
    return Models(data=[_model(here)])


@router.get("/v1/models/{name:path}", summary="Describe the served judge", responses={404: {"model": OpenAIError}})
async def model(name: str, here: Here) -> Model:
    """404 where it has another name."""
    check_model(here, name)
    return _model(here)


_EVENTS: dict[str, Any] = {
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
    "description": "The completions; with `stream` as chunks, data-only server-sent events up to [DONE]",
}


@router.post(
    "/v1/chat/completions",
    summary="Prompt the judge",
    response_model=ChatResponse,
    responses={200: _EVENTS, 404: {"model": OpenAIError}},
)
async def chat(request: ChatRequest, here: Here) -> Any:
    """Let the judge complete a conversation, in its chat template."""
    check_model(here, request.model)
    run = await _Run.of(request, here)
    if request.stream:
        return StreamingResponse(run.chunks(), media_type="text/event-stream", headers={"cache-control": "no-store"})
    completions = await together(run.complete(index) for index in range(request.n))
    choices = [
        Choice(index=index, message=Said(content=one.text), finish_reason=_finish(one))
        for index, one in enumerate(completions)
    ]
    version = max(one.version for one in completions)
    return ChatResponse(**run.head(version), choices=choices, usage=_usage(completions))


class _Run:
    """One request being answered."""

    def __init__(self, request: ChatRequest, here: Service, ids: Any, max_tokens: int):
        self._request = request
        self._here = here
        self._ids = ids
        self._max_tokens = max_tokens
        self._seed = secrets.randbits(63) if request.seed is None else request.seed
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": here.name}

    @classmethod
    async def of(cls, request: ChatRequest, here: Service) -> _Run:
        """Encode the prompt. Raises HTTPException where the judge cannot take it."""
        limit, room = here.card.max_new_tokens, here.card.max_model_len
        named = "max_tokens" if request.max_completion_tokens is None else "max_completion_tokens"
        asked = getattr(request, named)
        if asked is not None and asked > limit:
            raise _unfit(f"{asked} is over this server's limit; ask for {limit} or less", named)
        turns = [message.turn() for message in request.messages]
        messages = [Message(role=turn.role, content=turn.content) for turn in turns]
        try:
            ids = await here.engine.encode(messages)
        except TemplateError as error:
            raise _unfit(f"The judge's chat template does not take these messages: {error}", "messages") from error
        if len(ids) + (asked or 1) > room:
            problem = (
                f"The prompt has {len(ids)} tokens; the limit is {room - (asked or 1)} beside what is to be written"
            )
            raise _unfit(problem, "messages", "context_length_exceeded")
        return cls(request, here, ids, asked or min(limit, room - len(ids)))

    def head(self, version: int) -> dict[str, Any]:
        """What answer and chunks begin with."""
        return self._head | {"system_fingerprint": f"v{version}", "model_version": version}

    async def complete(self, index: int, on_text: Callable[[str], None] | None = None) -> Completion:
        """Sample one of the completions."""
        request = self._request
        seed = batch_seed(self._seed, "chat", index)
        decoding = Decoding(request.temperature, request.top_p, self._max_tokens, seed)
        completion = await self._here.engine.complete(self._ids, decoding, on_text)
        self._here.metrics.tokens(completion.prompt_tokens, completion.completion_tokens)
        return completion

    async def chunks(self) -> AsyncIterator[str]:
        """Server-sent events of the completions as they are written. Closed early, it ends the work."""
        n = self._request.n
        said: asyncio.Queue[tuple[int, str | None]] = asyncio.Queue()
        written = [""] * n

        async def write(index: int) -> Completion:
            try:
                return await self.complete(index, lambda text: said.put_nowait((index, text)))
            finally:
                said.put_nowait((index, None))

        tasks = [asyncio.ensure_future(write(index)) for index in range(n)]
        try:
            for index in range(n):
                yield self._chunk(index, {"role": "assistant", "content": ""})
            running = n
            while running:
                index, text = await said.get()
                if text is not None:
                    written[index] += text
                    yield self._chunk(index, {"content": text})
                    continue
                running -= 1
                completion = await tasks[index]
                if rest := completion.text.removeprefix(written[index]):
                    yield self._chunk(index, {"content": rest})
                yield self._chunk(index, {}, _finish(completion))
            if self._request.stream_options and self._request.stream_options.include_usage:
                usage = _usage([task.result() for task in tasks]).model_dump()
                yield self._event({"choices": [], "usage": usage})
            yield "data: [DONE]\n\n"
        except EngineStoppedError as error:
            problem = OpenAIProblem(message=str(error), type="server_error", code="503")
            yield f"data: {OpenAIError(error=problem).model_dump_json()}\n\n"
        finally:
            for task in tasks:
                task.cancel()

    def _chunk(self, index: int, delta: dict[str, str], finish: str | None = None) -> str:
        return self._event({"choices": [{"index": index, "delta": delta, "finish_reason": finish, "logprobs": None}]})

    def _event(self, chunk: dict[str, Any]) -> str:
        head = self.head(self._here.engine.version)
        return f"data: {json.dumps(head | {'object': 'chat.completion.chunk'} | chunk, ensure_ascii=False)}\n\n"


def _unfit(message: str, param: str, code: str | None = None, status: int = 400) -> HTTPException:
    problem: Any = {"message": message, "param": param, "code": code}
    return HTTPException(status, problem)


def _finish(completion: Completion) -> Literal["stop", "length"]:
    return "length" if completion.truncated else "stop"


def _usage(completions: list[Completion]) -> ChatUsage:
    prompt, written = completions[0].prompt_tokens, sum(one.completion_tokens for one in completions)
    return ChatUsage(prompt_tokens=prompt, completion_tokens=written, total_tokens=prompt + written)
