"""The endpoint around a trained judge: a pair comes in over HTTP, a verdict and the reasoning behind it go out.

One Ray Serve deployment is web application and engine at once. A request is rendered by the prompt format that the
judge was trained with, encoded so that nothing in a candidate is a control token, sampled by a vLLM engine with
training's engine arguments, and parsed by training's parser. The judge's own text alone decides the verdict.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from ray import serve

from actors.config import FormatName, RolloutConfig, ServeConfig, Settings
from actors.records import Ids
from actors.rollout import engine_arguments
from actors.tokens import PromptEncoder
from evals.errors import ReadableError
from evals.pairs import Message, Pair
from evals.prompts import FORMATS, prompt_format
from evals.verdicts import ORDERS, Order, Verdict


class CardError(ReadableError, ValueError):
    """A judge's card that cannot be read; the message names file and fields."""


class JudgeCard(Settings):
    """How a judge's folder wants to be served: `gavel.json` beside the weights, written when a judge is saved."""

    format: FormatName = Field(description="name of the prompt format that it was trained with")
    version: int = Field(default=0, ge=0, description="weight version")
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_model_len: PositiveInt = Field(default=2048, description="tokens of prompt and judgement together")
    max_new_tokens: PositiveInt = Field(default=64, description="tokens of a judgement; a longer one is cut off")

    @field_validator("format", mode="before")
    @classmethod
    def _in_its_folder(cls, name: Any, info: ValidationInfo) -> Any:
        folder: Path | None = (info.context or {}).get("folder")
        here = folder is not None and isinstance(name, str) and name not in FORMATS and (folder / name).is_file()
        return str((folder / name).resolve()) if folder is not None and here else name

    @model_validator(mode="after")
    def _leaves_room(self) -> JudgeCard:
        if self.max_new_tokens >= self.max_model_len:
            raise ValueError("max_new_tokens must leave room for a prompt under max_model_len")
        return self

    @classmethod
    def load(cls, folder: Path) -> JudgeCard | None:
        """The card of a judge's folder, None where it has none. CardError names each field that is wrong.

        A template file in the folder itself is named without a path, so that it moves with the judge.
        """
        path = folder / "gavel.json"
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_bytes(), context={"folder": folder})
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors()]
            raise CardError(f"{path}: {'; '.join(problems)}") from error

    def write(self, folder: Path) -> None:
        """Put the card into a judge's folder, over one that is there."""
        (folder / "gavel.json").write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def _not_blank(text: str) -> str:
    if not text.strip():
        raise PydanticCustomError("blank", "Is empty; give the text that is to be judged")
    return text


Text = Annotated[str, AfterValidator(_not_blank)]


class Turn(Settings):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class JudgeRequest(Settings):
    """A pair to be judged: what was asked, as `prompt` or as `conversation`, and two responses to it."""

    prompt: Text | None = Field(None, description="What was asked, where it is a single user message")
    conversation: list[Turn] | None = Field(
        None, min_length=1, description="What was asked: the turns up to the responses, oldest first"
    )
    response_a: Text
    response_b: Text
    order: Literal["ab", "ba", "both"] = Field(
        "both",
        description="Which response the judge reads first. Judges favour positions: with `both` the pair is judged "
        "in both orders at the same time, and a verdict that depends on the order is none",
    )
    temperature: float = Field(0.0, ge=0, le=2, description="0 is greedy: the same request gets the same judgement")
    seed: int | None = Field(
        None, ge=0, lt=2**63, description="With a temperature: the same seed repeats the same judgement"
    )
    max_tokens: int | None = Field(None, ge=1, description="Longest judgement; the server's limit is the default")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Compute 3+4-2.", "response_a": "5", "response_b": "6"}]}
    )

    @model_validator(mode="after")
    def _one_question(self) -> JudgeRequest:
        if (self.prompt is None) == (self.conversation is None):
            raise PydanticCustomError("one_question", "Give either prompt or conversation, and not both")
        if self.conversation and not any(turn.content.strip() for turn in self.conversation):
            raise PydanticCustomError("blank", "The conversation is empty; give at least one turn some content")
        return self

    def pair(self) -> Pair:
        """The request as the pair that prompt formats render."""
        turns = self.conversation or [Turn(role="user", content=self.prompt or "")]
        messages = tuple(Message(role=turn.role, content=turn.content) for turn in turns)
        return Pair("request", messages, self.response_a, self.response_b, gold=None)

    def orders(self) -> tuple[Order, ...]:
        """The orders in which the pair is to be judged."""
        return ORDERS if self.order == "both" else (self.order,)


class OrderJudgement(BaseModel):
    """The judgement of the pair in one order."""

    order: Order = Field(description="`ab` showed response_a first, as the judge's A; `ba` showed response_b as A")
    verdict: Verdict = Field(description="On response_a and response_b as sent; null where the text holds none")
    text: str = Field(description="All that the judge wrote. Its A and B are the responses as shown")
    sections: dict[str, str] = Field(description="The text by tag, also with A and B as shown: type, rubric, eval, ...")
    prompt_tokens: int
    completion_tokens: int = Field(description="With the end-of-sequence token")
    truncated: bool = Field(description="Whether max_tokens cut the judgement off")


class JudgeResponse(BaseModel):
    """The verdict, and the judgements that it comes from."""

    verdict: Verdict = Field(
        description="`a`, `b` or `tie`, on the responses as sent. null is no verdict: the judge gave none, "
        "or its verdicts in the two orders differ"
    )
    judgements: list[OrderJudgement] = Field(description="One for each order, `ab` before `ba`")
    model: str
    version: int = Field(description="Weight version that judged")
    format: str = Field(description="Prompt format that the judge was asked in")


class Version(JudgeCard):
    """What is being served."""

    model: str


class Health(BaseModel):
    """That the engine is alive, and what it is busy with."""

    running: int = Field(description="Judgements in progress")


class Unavailable(BaseModel):
    """Why there is no answer for the moment."""

    detail: str


def agreed(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that all share; None where they differ."""
    return verdicts[0] if len(set(verdicts)) == 1 else None


api = FastAPI(title="Gavel judge", version="1", description="Compares two responses, and says why.")
_UNAVAILABLE: dict[int | str, dict[str, Any]] = {503: {"model": Unavailable, "description": "The engine has stopped"}}


@api.exception_handler(RequestValidationError)
async def _refuse(_: Request, error: RequestValidationError) -> Response:
    """Say what is wrong and where. FastAPI's own handler would send the whole input back, and fails on NaN in it."""
    problems = [{"loc": e["loc"], "msg": e["msg"], "type": e["type"]} for e in error.errors()]
    return Response(json.dumps({"detail": problems}), 422, media_type="application/json")


def _stopped() -> HTTPException:
    return HTTPException(503, "The engine has stopped and is being replaced; try again in a minute")


def _refusal(message: str, field: str) -> RequestValidationError:
    """A 422 for what only the running judge knows, in the form of those that the request model raises."""
    return RequestValidationError([{"type": "limit", "loc": ("body", field), "msg": message}])


# serve.ingress pickles the application here and now: whatever its routes use must stand above.
@serve.ingress(api)
class Judge:
    """One replica: a vLLM engine with the trained judge, and the routes in front of it."""

    def __init__(self, model: str, card: JudgeCard, rollout: RolloutConfig, device: str):
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._card = card
        self._name = Path(model).name
        self._format = prompt_format(card.format)
        self._encoder = PromptEncoder(model)
        arguments = engine_arguments(model, card.dtype, rollout, device)
        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments))

    async def check_health(self) -> None:
        """Raises where the engine's process has died; Serve then replaces the replica."""
        await self._engine.check_health()

    @api.post("/judge", summary="Judge two responses", responses=_UNAVAILABLE)
    async def judge(self, request: JudgeRequest) -> JudgeResponse:
        """Compare two responses to the same question."""
        pair, orders = request.pair(), request.orders()
        limit = self._card.max_new_tokens
        max_tokens = limit if request.max_tokens is None else request.max_tokens
        if max_tokens > limit:
            raise _refusal(f"{max_tokens} is over this server's limit; ask for {limit} or less", "max_tokens")
        prompts = [self._encoder.encode_prompt(self._format.render(pair, order)) for order in orders]
        longest, room = max(map(len, prompts)), self._card.max_model_len - max_tokens
        if longest > room:
            problem = f"The prompt has {longest} tokens; the limit is {room} beside a judgement of {max_tokens}"
            asked = "prompt" if request.conversation is None else "conversation"
            raise _refusal(f"{problem}. Shorten it or the responses, or lower max_tokens", asked)
        sampling = {"temperature": request.temperature, "seed": request.seed, "max_tokens": max_tokens}
        tasks = (self._judge(ids, order, sampling) for ids, order in zip(prompts, orders, strict=True))
        judgements = await asyncio.gather(*tasks)
        return JudgeResponse(
            verdict=agreed([judgement.verdict for judgement in judgements]),
            judgements=judgements,
            model=self._name,
            version=self._card.version,
            format=self._card.format,
        )

    async def _judge(self, ids: Ids, order: Order, sampling: dict[str, Any]) -> OrderJudgement:
        """Sample one judgement. Where the client goes away, the cancellation ends the engine's work on it."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind
        from vllm.v1.engine.exceptions import EngineDeadError

        params = SamplingParams(
            **sampling,
            stop_token_ids=[self._encoder.eos],
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        try:
            outputs = self._engine.generate({"prompt_token_ids": ids.tolist()}, params, uuid.uuid4().hex)
            completion = [output async for output in outputs][-1].outputs[0]
        except EngineDeadError as error:
            raise _stopped() from error
        text = self._encoder.decode(np.array(completion.token_ids, np.int32))
        parsed = self._format.parse(text, order)
        return OrderJudgement(
            order=order,
            verdict=parsed.verdict,
            text=text,
            sections=dict(parsed.sections),
            prompt_tokens=len(ids),
            completion_tokens=len(completion.token_ids),
            truncated=completion.finish_reason == "length",
        )

    @api.get("/health", summary="Is the engine alive?", responses=_UNAVAILABLE)
    async def health(self) -> Health:
        """Answers 503 where it is not."""
        if self._engine.errored:
            raise _stopped()
        return Health(running=self._engine.get_num_unfinished_requests())

    @api.get("/version", summary="What is being served?")
    async def version(self) -> Version:
        """The judge's name, its weight version, its prompt format and its limits."""
        return Version(model=self._name, **self._card.model_dump())


def judge_app(
    model: Path, card: JudgeCard, rollout: RolloutConfig, settings: ServeConfig, device: Literal["cpu", "gpu"]
) -> serve.Application:
    """The Serve application for the judge in `model`, a folder that every node can read.

    The card's dtype and lengths stand above those of `rollout`. vLLM does its own batching and queueing, so a
    replica takes as many requests at once as the engine runs sequences.
    """
    lengths = {"max_model_len": card.max_model_len, "max_new_tokens": card.max_new_tokens}
    deployment = serve.deployment(
        Judge,
        num_replicas=settings.replicas,
        max_ongoing_requests=rollout.max_num_seqs,
        ray_actor_options=_replica(rollout, device),
        health_check_period_s=3,  # the third failure in a row replaces a replica
        max_constructor_retry_count=2,  # what keeps an engine from starting seldom goes away by itself
    )
    return deployment.bind(str(model.resolve()), card, rollout.model_copy(update=lengths), device)


def replica_resources(rollout: RolloutConfig, device: str) -> dict[str, float]:
    """What one replica claims of the cluster."""
    return {"GPU": rollout.tensor_parallel, "CPU": 1} if device == "gpu" else {"CPU": rollout.threads}


def _replica(rollout: RolloutConfig, device: str) -> dict[str, Any]:
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment["OMP_NUM_THREADS"] = str(rollout.threads)
        if rollout.tensor_parallel == 1:
            # AsyncLLM always has one helper process. Left at 1, vLLM on CPU would give that one a helper of its own.
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    claim = replica_resources(rollout, device)
    options: dict[str, Any] = {"num_cpus": claim["CPU"], "runtime_env": {"env_vars": environment}}
    return options | ({"num_gpus": claim["GPU"]} if "GPU" in claim else {})
