"""The reward contracts of trainers: OpenRLHF and slime; vLLM's, which verl speaks, are in `pooling`.

Each of them asks for the reward of a response by itself, and a judge of pairs has none to give. So every response is
compared with others to the same question: those in the same request, or those that arrive at about the same time (see
`groups`). What it was compared with is in every answer. A policy may answer nothing: an empty response loses.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from actors.config import Settings
from actors.serving import pooling, transcripts
from actors.serving.groups import LONGEST_WINDOW_S, MOST_MEMBERS
from actors.serving.native import Here
from actors.serving.samples import (
    MOST_SAMPLES,
    Labelled,
    Prompt,
    Received,
    Reward,
    asked,
    refused,
    rewards,
    sent,
)
from actors.serving.transcripts import Transcript
from actors.serving.wire import Text

router = APIRouter()
router.include_router(pooling.router)


class GetReward(Received):
    """OpenRLHF's request (0.11, `--reward.remote_url`): one sample, or none, or several."""

    query: list[str] = Field(max_length=MOST_SAMPLES, description="Prompt and response, with special tokens")
    prompts: list[str] = Field([], description="The prompts alone. Without them, queries must be in a chat template")
    labels: list[Any] = Field([], description="Used with reference=label only")

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": [f"Compute 3+4-2.{answer}" for answer in (5, 6)],
                    "prompts": ["Compute 3+4-2."] * 2,
                    "labels": ["5"] * 2,
                }
            ]
        }
    )

    @model_validator(mode="after")
    def _one_each(self) -> GetReward:
        for name, given in (("prompts", self.prompts), ("labels", self.labels)):
            if given and len(given) != len(self.query):
                raise PydanticCustomError(
                    "lengths", f"{len(given)} {name} for {len(self.query)} queries; give one each"
                )
        return self


class Rewards(BaseModel):
    """OpenRLHF's answer. All lists are as long as `query`."""

    rewards: list[float] = Field(description="In the range asked for")
    scores: list[float] = Field(description="0 to 1, as dynamic filtering expects")
    extra_logs: dict[str, float] = Field(
        description="Means over the samples: members, comparisons, no_verdict and waited_s of each, and which share is "
        "neutral, alone, thought (reasoning was taken out), marker or whole (the query did not begin with the "
        "prompt: cut at the assistant's header, or not at all). model_version is the newest"
    )


@router.post("/get_reward", tags=["Trainers"], summary="OpenRLHF: rewards of queries")
async def get_reward(request: GetReward, options: Annotated[Labelled, Query()], here: Here) -> Rewards:
    """`--reward.remote_url http://HOST:PORT/get_reward?group_size=8`.

    Samples of one prompt in a request are compared with each other; a single one meets those of other requests.
    """
    cuts: list[str] = []
    samples = []
    for index, query in enumerate(request.query):
        prompt = request.prompts[index] if request.prompts else None
        question, written, cut = _cut(query, prompt, index)
        cuts.append(cut)
        samples.append(
            sent(("body", "query", index), question, written, group_size=options.group_size, window_s=options.window_s)
        )
    found = await rewards(here, samples, options, options.references(request.labels))
    return Rewards(
        rewards=[one.reward for one in found],
        scores=[one.score for one in found],
        extra_logs=_logs(found, cuts) if found else {},
    )


def _cut(query: str, prompt: str | None, index: int) -> tuple[Transcript, str, str]:
    """The question, what the policy wrote, and how the two were told apart."""
    if prompt is None:
        if answered := transcripts.answered(query):
            return Transcript(answered[0], None), answered[1], "marker"
        raise refused(("body", "query", index), "Is in no known chat template; send prompts as well")
    question = transcripts.question(prompt)
    written, cut = transcripts.continuation(query, prompt)
    return question if cut == "prompt" else question._replace(begun=None), written, cut


def _logs(found: Sequence[Reward], cuts: Sequence[str]) -> dict[str, float]:
    columns: dict[str, list[float]] = {
        "members": [one.members for one in found],
        "comparisons": [one.comparisons for one in found],
        "no_verdict": [one.no_verdict for one in found],
        "neutral": [one.neutral for one in found],
        "alone": [one.how == "alone" for one in found],
        "waited_s": [one.waited_s for one in found],
        "thought": [one.thought for one in found],
        "marker": [cut == "marker" for cut in cuts],
        "whole": [cut == "whole" for cut in cuts],
    }
    means = {name: sum(column) / len(column) for name, column in columns.items()}
    return means | {"model_version": max(one.model_version for one in found)}


class RewardSample(Received, Settings):
    """slime's request (`--rm-type remote_rm`): one sample. What follows label is ours, and optional."""

    prompt: Prompt
    response: str = Field(description="May be empty; reasoning and the end-of-sequence token are taken out")
    label: Any = Field(None, description="Used with reference=label only")
    group: str | None = Field(
        None, min_length=1, max_length=200, description="Name of its group: sent again, the sample gets the same answer"
    )
    group_size: int | None = Field(
        None, ge=2, le=MOST_MEMBERS, description="Samples of the group, which are waited for"
    )
    window_s: float | None = Field(
        None, ge=0, le=LONGEST_WINDOW_S, description="How long the group's first sample waits for others"
    )
    anchor: Text | None = Field(None, description="What to compare with where no other sample comes")

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Compute 3+4-2.", "response": "5", "label": "5", "anchor": "6"}]}
    )


class RewardQuery(Labelled):
    """Query parameters of /reward."""

    plain: bool = Field(False, description="Answer with the bare reward, as slime expects without --reward-key")


_OneOrMore = Annotated[
    Annotated[RewardSample, Tag("sample")]
    | Annotated[list[RewardSample], Tag("samples"), Field(max_length=MOST_SAMPLES)],
    Discriminator(lambda given: "samples" if isinstance(given, list) else "sample"),
]


@router.post("/reward", tags=["Trainers"], summary="slime: the reward of a sample")
async def reward(
    request: Annotated[_OneOrMore, Body()], options: Annotated[RewardQuery, Query()], here: Here
) -> Reward | list[Reward] | float | list[float]:
    """`--rm-type remote_rm --rm-url http://HOST:PORT/reward?group_size=8 --reward-key reward`, or with `plain=1`.

    A list of samples is answered with a list; those of one prompt are compared with each other.
    """
    several = isinstance(request, list)
    asked_for = request if isinstance(request, list) else [request]
    samples = [
        sent(
            ("body", index) if several else ("body",),
            asked(one.prompt),
            one.response,
            group=one.group,
            group_size=one.group_size or options.group_size,
            window_s=options.window_s if one.window_s is None else one.window_s,
            anchor=one.anchor,
        )
        for index, one in enumerate(asked_for)
    ]
    found = await rewards(here, samples, options, options.references([one.label for one in asked_for]))
    if options.plain:
        plain = [one.reward for one in found]
        return plain if several else plain[0]
    return found if several else found[0]
