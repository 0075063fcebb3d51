"""NeMo Gym's contracts: /compare of `genrm_compare`, which compares a group, and /verify of a resources server."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, pstdev
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from actors.config import Settings
from actors.serving import transcripts
from actors.serving.groups import MOST_MEMBERS
from actors.serving.judging import together
from actors.serving.native import Here
from actors.serving.samples import ChatTurn, Received, Reward, Scoring, refused, rewards, sent, unfit
from actors.serving.service import Service
from actors.serving.transcripts import Transcript
from actors.serving.wire import JudgeRequest, Turn
from evals.ranking import Match, settled
from evals.verdicts import Verdict, swap

router = APIRouter(tags=["NeMo Gym"])

_DEFAULT = 3.0
"""The score of a response that was compared with nothing."""


class Item(BaseModel):
    """An output item of OpenAI's Responses API. Only the text of messages is looked at, and no reasoning."""

    type: str = "message"
    content: Any = None

    model_config = ConfigDict(extra="allow")

    def text(self) -> str:
        """Its output text; none where it is no message."""
        if self.type != "message":
            return ""
        if isinstance(self.content, str):
            return self.content
        parts = [part for part in self.content if isinstance(part, dict)] if isinstance(self.content, list) else []
        texts = [part.get("text") for part in parts if part.get("type") == "output_text"]
        return "".join(text for text in texts if isinstance(text, str))


class ResponseObject(BaseModel):
    """A response of OpenAI's Responses API."""

    output: list[Item]

    model_config = ConfigDict(extra="allow")

    def text(self) -> str:
        """What the policy answered: the text of its messages. It may be empty."""
        return "".join(item.text() for item in self.output)


_OUTPUT: list[JsonValue] = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "5"}]}]


class CompareRequest(Received):
    """A conversation and the responses to it."""

    conversation_history: list[ChatTurn] = Field(min_length=1)
    response_objs: list[ResponseObject]
    principle: str | None = Field(None, description="What to judge by; the judge reads it as a system message")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "conversation_history": [{"role": "user", "content": "Compute 3+4-2."}],
                    "response_objs": [
                        {"output": [{"type": "message", "content": [{"type": "output_text", "text": answer}]}]}
                        for answer in ("5", "6")
                    ],
                }
            ]
        }
    )


class CompareQuery(Settings):
    """Query parameters of /compare."""

    comparison: Literal["circular", "all_pairs"] = Field(
        "circular", description="Each response with the next one and the last with the first, or all with all"
    )


class Compared(BaseModel):
    """Two responses, compared in both orders."""

    response_i: int
    response_j: int
    judge_idx: Literal[0] = 0
    score_1: float = Field(description="Of response_i, 1 to 5: 3 + 2m, where m is the share of judgements for it")
    score_2: float = Field(description="Of response_j, 1 to 5: 3 - 2m. m is negative where the verdict is for it")
    ranking: float = Field(description="1 (response_i is much better) to 6 (response_j is): 3.5 - 2.5m")
    verdict: Verdict = Field(description="a is response_i; null is no verdict, for which m is 0 as it is for a tie")


class CompareResponse(BaseModel):
    """The rewards of the group; one default reward alone where there is nothing to compare."""

    rewards: list[float] = Field(description="Mean score over the comparisons of each response, 1 to 5")
    comparison_results: list[Compared] | None = None
    metrics: dict[str, float] | None = Field(
        None,
        description="mean_individual_score, std_individual_score (population), tiebreak_usage_rate (comparisons with "
        "equal scores), no_verdict_rate (comparisons without a verdict)",
    )
    model: str
    model_version: int = Field(description="Weight version that judged")


@router.post("/compare", summary="NeMo Gym: compare a group")
async def compare(request: CompareRequest, query: Annotated[CompareQuery, Query()], here: Here) -> CompareResponse:
    """As `genrm_compare` does, but every pair in both orders, and on the verdict of a judge that gives no scores.

    An empty response loses against any other, and identical ones tie, without a judgement. Its tie-break never moves a
    reward: scores are equal where there is no preference, and the ranking is then 3.5.
    """
    texts = [transcripts.response(one.text()).text for one in request.response_objs]
    if len(texts) < 2:
        return CompareResponse(rewards=[_DEFAULT], model=here.name, model_version=here.engine.version)
    turns = _with_principle([turn.turn() for turn in request.conversation_history], request.principle)
    n, everyone = len(texts), query.comparison == "all_pairs"
    if n > (most := here.limits.responses if everyone else MOST_MEMBERS):
        problem = f"{n} responses are over this server's limit; send {most} or fewer"
        raise refused(("body", "response_objs"), f"{problem}, or use comparison=circular" if everyone else problem)
    circle = [Match(i, (i + 1) % n) for i in range(n)]
    pairs = [Match(i, j) for i in range(n) for j in range(i + 1, n)] if everyone else circle
    found, version = await _judged(here, turns, texts, pairs)
    results = [
        Compared(
            response_i=match.a,
            response_j=match.b,
            score_1=3 + 2 * margin,
            score_2=3 - 2 * margin,
            ranking=3.5 - 2.5 * margin,
            verdict=verdict,
        )
        for match, (verdict, margin) in zip(pairs, found, strict=True)
    ]
    scores: list[list[float]] = [[] for _ in texts]
    for result in results:
        scores[result.response_i].append(result.score_1)
        scores[result.response_j].append(result.score_2)
    individual = [score for mine in scores for score in mine]
    metrics = {
        "mean_individual_score": fmean(individual),
        "std_individual_score": pstdev(individual),
        "tiebreak_usage_rate": fmean(result.score_1 == result.score_2 for result in results),
        "no_verdict_rate": fmean(result.verdict is None for result in results),
    }
    return CompareResponse(
        rewards=[fmean(mine) for mine in scores],
        comparison_results=results,
        metrics=metrics,
        model=here.name,
        model_version=version,
    )


def _with_principle(turns: Sequence[Turn], principle: str | None) -> list[Turn]:
    return [Turn(role="system", content=principle), *turns] if principle and principle.strip() else [*turns]


async def _judged(
    here: Service, turns: list[Turn], texts: Sequence[str], pairs: Sequence[Match]
) -> tuple[list[tuple[Verdict, float]], int]:
    """Verdict and margin (-1 to 1, positive for the first) of every pair, and the weight version that judged.

    The same two texts are judged once, and blank or identical ones never.
    """
    unlike = [(texts[a], texts[b]) for a, b in pairs if settled(texts[a], texts[b]) is None]
    asked_for = sorted({(min(pair), max(pair)) for pair in unlike})
    try:
        requests = [JudgeRequest(conversation=turns, response_a=a, response_b=b) for a, b in asked_for]
        answers = await together(here.judging.judge(request) for request in requests)
    except ValidationError as error:
        raise unfit(("body", "conversation_history"), error) from None
    except RequestValidationError as error:
        raise unfit(("body", "response_objs"), error) from None
    known = dict(zip(asked_for, answers, strict=True))

    def found(first: str, second: str) -> tuple[Verdict, float]:
        confidence, verdict = 1.0, settled(first, second)
        if verdict is None:
            answer = known[min(first, second), max(first, second)]
            confidence, verdict = answer.confidence, answer.verdict if first < second else swap(answer.verdict)
        return verdict, {"a": confidence, "b": -confidence}.get(verdict or "", 0.0)

    version = max((answer.version for answer in answers), default=here.engine.version)
    return [found(texts[a], texts[b]) for a, b in pairs], version


class CreateParams(BaseModel):
    """What the policy was asked, as a request of OpenAI's Responses API."""

    input: str | list[dict[str, Any]] = Field(
        description="Items that are no messages (reasoning, tool calls) are left out"
    )
    instructions: str | None = Field(None, description="A system message")

    model_config = ConfigDict(extra="allow")


class VerifyRequest(Received):
    """A rollout. More fields, as tasks have them, are not looked at."""

    responses_create_params: CreateParams
    response: ResponseObject
    num_rollouts_per_prompt: int | None = Field(
        None, ge=1, le=MOST_MEMBERS, description="Rollouts of the prompt, which are waited for: the cohort"
    )
    principle: str | None = Field(None, description="What to judge by; the judge reads it as a system message")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"responses_create_params": {"input": "Compute 3+4-2."}, "response": {"output": _OUTPUT}}]
        }
    )


class VerifyResponse(Reward):
    """The rollout and its reward."""

    responses_create_params: dict[str, Any]
    response: dict[str, Any]


@router.post("/verify", summary="NeMo Gym: the reward of a rollout")
async def verify(request: VerifyRequest, options: Annotated[Scoring, Query()], here: Here) -> VerifyResponse:
    """As a resources server. The rollouts of a prompt are compared with each other once all are there.

    Unlike `genrm_compare` it never waits without end: after the window (`window_s`) those that came are compared.
    """
    asked = request.responses_create_params
    turns = _input(asked)
    principles = [text for text in (request.principle, asked.instructions) if text and text.strip()]
    turns = [*(Turn(role="system", content=text) for text in principles), *turns]
    size = request.num_rollouts_per_prompt or 1
    sample = sent(
        ("body", "responses_create_params", "input"),
        Transcript(turns, None),
        request.response.text(),
        group_size=size if size > 1 else options.group_size,
        window_s=options.window_s,
    )
    (found,) = await rewards(here, [sample], options)
    return VerifyResponse(
        **found.model_dump(),
        responses_create_params=asked.model_dump(exclude_unset=True),
        response=request.response.model_dump(exclude_unset=True),
    )


def _input(asked: CreateParams) -> list[Turn]:
    if isinstance(asked.input, str):
        return [Turn(role="user", content=asked.input)]
    turns = []
    for index, item in enumerate(asked.input):
        if item.get("type", "message") == "message":
            try:
                turns.append(ChatTurn.model_validate(item).turn())
            except ValidationError as error:
                raise unfit(("body", "responses_create_params", "input", index), error) from None
    return turns
