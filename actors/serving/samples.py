"""Samples as trainers send them, alone or several in a request, and what becomes of them."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from actors.config import Settings
from actors.serving import transcripts
from actors.serving.groups import LONGEST_WINDOW_S, MOST_MEMBERS, GroupSample, How, Placed
from actors.serving.judging import together
from actors.serving.placing import Placing
from actors.serving.service import Service
from actors.serving.transcripts import Transcript
from actors.serving.wire import Turn

MOST_SAMPLES = 512
"""Samples in one request."""

Where = tuple[str | int, ...]
"""The field of a request that a problem is about, as `loc` of a 422 names it."""


class Received(BaseModel):
    """Base of what trainers send: text that is text, and numbers that are finite, also where they are only echoed."""

    @model_validator(mode="before")
    @classmethod
    def _can_be_sent_back(cls, data: Any) -> Any:
        try:
            json.dumps(data, ensure_ascii=False, allow_nan=False).encode()
        except (ValueError, RecursionError) as error:
            problem = "Has half a surrogate pair, a number that is not finite or no end of nesting; send proper JSON"
            raise PydanticCustomError("json", problem) from error
        return data


class TextPart(BaseModel):
    """One piece of a message's text. Images and sounds cannot be judged."""

    type: Literal["text", "input_text", "output_text"]
    text: str


class ChatTurn(BaseModel):
    """One message of a conversation, as trainers send it."""

    role: str = Field(description="system or developer, assistant, or else the user")
    content: str | list[TextPart]

    def text(self) -> str:
        """All of its text."""
        return self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)

    def turn(self) -> Turn:
        """The same as a turn that the judge knows."""
        return Turn(role=transcripts.ROLES.get(self.role, "user"), content=self.text())


Prompt = Annotated[
    str | list[ChatTurn],
    Field(description="Text, in a known chat template or plain (one user message), or the messages themselves"),
]


class Grouping(Settings):
    """How single samples find the others of their group; query parameters, for trainers whose bodies are fixed."""

    group_size: int | None = Field(
        None, ge=2, le=MOST_MEMBERS, description="Samples of a prompt that are to be compared; as many are waited for"
    )
    window_s: float | None = Field(
        None, ge=0, le=LONGEST_WINDOW_S, description="How long the first sample waits for the others"
    )


class Scoring(Grouping):
    """How samples are scored; query parameters."""

    range: str = Field(
        "0,1",
        pattern=r"^-?\d{1,6}(\.\d{1,6})?,-?\d{1,6}(\.\d{1,6})?$",
        description="Rewards of a response that loses and of one that wins every comparison. `-1,1` centres them at 0",
    )

    @model_validator(mode="after")
    def _ascends(self) -> Scoring:
        low, high = map(float, self.range.split(","))
        if not low < high:
            raise PydanticCustomError("range", "The first end of range must be less than the second")
        return self

    def scaled(self, share: float) -> float:
        """A share of wins in the range asked for."""
        low, high = map(float, self.range.split(","))
        return low + (high - low) * share


class Labelled(Scoring):
    """How samples with labels are scored; query parameters."""

    reference: Literal["label"] | None = Field(
        None, description="`label`: a label is a right answer, and the response is judged against it alone"
    )

    def references(self, labels: Sequence[Any]) -> Sequence[Any]:
        """The labels, where responses are to be judged against them."""
        return labels if self.reference == "label" else [None] * len(labels)


class Reward(BaseModel):
    """The reward of one response, and what it means."""

    score: float = Field(description="Share of comparisons won, 0 to 1; a tie or a missing verdict is half a win")
    reward: float = Field(description="The same in the range asked for")
    neutral: bool = Field(description="Whether the score says nothing: nothing to compare with, or never a verdict")
    how: How | Literal["reference"] = Field(
        description="Judged against its `group`, an `anchor`, earlier members (`late`), nothing (`alone`), the label"
    )
    members: int = Field(description="Responses that were judged together, with this one")
    group_size: int | None = Field(None, description="As declared; more than `members` where the window ended first")
    window_s: float = Field(0.0, description="The window of the group; 0 for what came in one request")
    waited_s: float = Field(0.0, description="Seconds spent waiting for others")
    comparisons: int = Field(description="Comparisons, or judgements against the label, that the judge was asked for")
    no_verdict: int = Field(description="How many of them ended without a verdict")
    thought: bool = Field(description="Whether reasoning was taken out of the response before it was judged")
    model: str
    model_version: int = Field(description="Weight version that judged")


@dataclass(frozen=True)
class Sent:
    """A sample, and where in the request it stands."""

    sample: GroupSample
    thought: bool
    where: Where


def asked(prompt: str | Sequence[ChatTurn]) -> Transcript:
    """What a prompt asks, as text or as messages."""
    if isinstance(prompt, str):
        return transcripts.question(prompt)
    return Transcript([message.turn() for message in prompt], None)


def sent(where: Where, question: Transcript, written: str, **grouping: Any) -> Sent:
    """A sample of what a policy wrote in answer to a question. Raises RequestValidationError where there is none."""
    answer = transcripts.response(written, question.begun)
    fields = {name: value for name, value in grouping.items() if value is not None}
    try:
        sample = GroupSample(conversation=question.turns, response=answer.text, **fields)
    except ValidationError as error:
        raise unfit(where, error) from None
    return Sent(sample, answer.thought, where)


def refused(where: Where, problem: str) -> RequestValidationError:
    """A 422 about one field of the request."""
    return RequestValidationError([{"type": "value_error", "loc": where, "msg": problem}])


def unfit(where: Where, error: ValidationError | RequestValidationError) -> RequestValidationError:
    """A 422 that names the field of the request from which the unfit value was made."""
    return RequestValidationError([{"type": e["type"], "loc": where, "msg": e["msg"]} for e in error.errors()])


async def placed(here: Service, samples: Sequence[Sent]) -> list[Placed]:
    """Judge the samples of one request.

    Several of the same question are compared with each other at once, unless they declare a group, which may have
    members elsewhere; all others join their group. Raises RequestValidationError where one does not fit the judge.
    """
    found: dict[int, Placed] = {}
    alike: dict[str, list[int]] = defaultdict(list)
    for index, one in enumerate(samples):
        declared = one.sample.group is not None or one.sample.group_size is not None
        alike[f"{index}" if declared else json.dumps(one.sample.messages())].append(index)

    async def place(indices: list[int]) -> None:
        members = [samples[index] for index in indices]
        places = [await _joined(here, *members)] if len(members) == 1 else await _compared(here, members)
        found.update(zip(indices, places, strict=True))

    await together(place(indices) for indices in alike.values())
    return [found[index] for index in range(len(samples))]


async def _joined(here: Service, one: Sent) -> Placed:
    try:
        return await here.groups.join(one.sample)
    except RequestValidationError as error:
        raise unfit(one.where, error) from None


async def _compared(here: Service, members: Sequence[Sent]) -> list[Placed]:
    if len(members) > MOST_MEMBERS:
        raise refused(members[-1].where, f"{len(members)} responses to one question; send {MOST_MEMBERS} or fewer")
    counts = Counter(member.sample.response for member in members)
    try:
        standings, (model, version) = await _placing(here).group(members[0].sample, counts)
    except RequestValidationError as error:
        raise unfit(max(members, key=lambda member: len(member.sample.response)).where, error) from None
    for _ in members:
        here.metrics.sample("group")
    return [
        Placed(
            **asdict(standings[member.sample.response]),
            how="group",
            members=len(members),
            group_size=None,
            window_s=0.0,
            waited_s=0.0,
            model=model,
            version=version,
        )
        for member in members
    ]


def _placing(here: Service) -> Placing:
    return Placing(here, here.most_pairs)


async def rewards(
    here: Service, samples: Sequence[Sent], scoring: Scoring, references: Sequence[Any] | None = None
) -> list[Reward]:
    """The reward of each sample: against its reference where there is one, else among the others.

    Raises RequestValidationError where a sample or a reference does not fit the judge.
    """
    known = references or [None] * len(samples)
    others = iter(await placed(here, [one for one, right in zip(samples, known, strict=True) if right is None]))

    async def reward(one: Sent, right: Any, place: Placed | None) -> Reward:
        return await _against(here, one, right, scoring) if place is None else _reward(one, place, scoring)

    return await together(
        reward(one, right, next(others) if right is None else None) for one, right in zip(samples, known, strict=True)
    )


def _reward(one: Sent, place: Placed, scoring: Scoring) -> Reward:
    fields = place.model_dump(exclude={"version"})
    reward = scoring.scaled(place.score)
    return Reward(**fields, reward=reward, thought=one.thought, model_version=place.version)


async def _against(here: Service, one: Sent, label: Any, scoring: Scoring) -> Reward:
    """The reward of a response that is judged against its label."""
    if not isinstance(label, str) or not label.strip():
        raise refused(one.where, "With reference=label, a label is a right answer as text, or null")
    try:
        standing, (model, version) = await _placing(here).lone(one.sample, one.sample.response, [label])
    except (RequestValidationError, ValidationError) as error:
        raise unfit(one.where, error) from None
    reward = scoring.scaled(standing.score)
    return Reward(
        **asdict(standing),
        reward=reward,
        how="reference",
        members=1,
        thought=one.thought,
        model=model,
        model_version=version,
    )
