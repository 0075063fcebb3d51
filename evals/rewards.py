"""Rule-based rewards: judgements held against gold, by a rule that is put together from parts.

Correctness leads. What can be had without judging (a form that is kept, a length, a quotation) is a duty that costs
where it is broken, or pays only where the verdict is right; so no wrong verdict ever earns as much as a right one, and
nobody lives on polish. Format terms of their own have been reported to help little (J1; RM-R1's ablation).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from evals.errors import ReadableError
from evals.pairs import Pair
from evals.prompts import PromptFormat
from evals.verdicts import Gold, Judgement, Verdict
from evals.verification import incomplete, own_words, quotes


def rm_r1(verdict: Verdict, gold: Gold) -> float:
    """RM-R1's reward: +1 for the gold verdict, -1 for any other and for none (arXiv 2505.02387, equation 8)."""
    return 1.0 if verdict == gold else -1.0


class RewardError(ReadableError, ValueError):
    """Judgements that cannot be rewarded; the message says which and why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(ge=0, description="what the part counts in the total; 0 leaves it out")


class Correctness(_Part):
    """RM-R1's rule: +1 for the gold verdict, -1 for any other and for none."""

    weight: float = Field(default=1.0, gt=0, description="the other parts are measured by it")


class Consistency(_Part):
    """A right verdict earns the share of right ones in the other order (J1's rule, as an expectation), 0..1."""

    weight: float = Field(default=0.5, ge=0)


class Format(_Part):
    """-1 where the format's sections are not complete, or not in their order; 0 where they are."""

    weight: float = Field(default=0.2, ge=0)


class Length(_Part):
    """0 for words of the judge's own from `shortest` to `free`; -1 below, and falling to -1 at `longest`.

    What is quoted or summed up of the candidates in evidence tags is not counted: it is no reasoning.
    """

    weight: float = Field(default=0.2, ge=0)
    shortest: int = Field(default=10, ge=0, description="words")
    free: int = Field(default=1500, gt=0, description="words")
    longest: int = Field(default=3000, gt=0, description="words")

    @model_validator(mode="after")
    def _rising(self) -> Self:
        if not self.shortest <= self.free < self.longest:
            raise ValueError(f"shortest={self.shortest}, free={self.free} and longest={self.longest} must rise")
        return self


class Evidence(_Part):
    """-1 where a quotation does not occur in the response that it names, else 0.

    +1 where all occur, both responses are quoted and the verdict is right.
    """

    weight: float = Field(default=0.2, ge=0)


class Margin(_Part):
    """For pairs whose `meta` says by how much gold is better, and judges that rate both responses.

    A right verdict earns 1 less the error of its margin as a share of `scale`, at least 0; any other 0.
    """

    weight: float = Field(default=0.0, ge=0)
    field: str = Field(default="margin", description="the number from 0 in a pair's meta, in units of the ratings")
    scale: float = Field(default=9.0, gt=0, description="the widest margin; 9 for ratings from 1 to 10")


class RewardConfig(BaseModel):
    """What a judgement is rewarded for. A part of weight 0 is left out."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    correctness: Correctness = Correctness()
    consistency: Consistency = Consistency()
    format: Format = Format()
    length: Length = Length()
    evidence: Evidence = Evidence()
    margin: Margin = Margin()

    @model_validator(mode="after")
    def _led_by_correctness(self) -> Self:
        """Duties may not eat up what a right verdict is ahead, and extras may not be worth more than it."""
        duties = self.format.weight + self.length.weight + self.evidence.weight
        extras = self.consistency.weight + self.evidence.weight + self.margin.weight
        lead = self.correctness.weight
        if duties >= 2 * lead:
            raise ValueError(
                f"format, length and evidence weigh {duties:g} together, and correctness.weight={lead:g}: a wrong "
                "verdict in good form could earn as much as a right one; keep their sum below twice that of correctness"
            )
        if extras > lead:
            raise ValueError(
                f"consistency, evidence and margin weigh {extras:g} together, and correctness.weight={lead:g}: what "
                "comes on top could outweigh being right; keep their sum at most that of correctness"
            )
        return self


def _without(*names: str, **parts: _Part) -> RewardConfig:
    return RewardConfig.model_validate({name: {"weight": 0.0} for name in names} | parts)


REWARDS: Mapping[str, RewardConfig] = {
    "composed": RewardConfig(),
    "rm_r1": _without("consistency", "format", "length", "evidence"),
    "consistent": _without("format", "length", "evidence", consistency=Consistency(weight=1.0)),
    "duties": _without("consistency", "evidence"),
    "graded": RewardConfig(margin=Margin(weight=0.3)),
}
"""The settings that are shipped. `rm_r1` comes to the function of that name, `consistent` to J1's two terms."""


@dataclass(frozen=True, slots=True)
class Reward:
    """A judgement's reward: the sum of its parts, each times its weight. `parts` has their values without weight.

    A part that does not apply is not there: consistency where the other order was not judged, margin where the pair
    has none or the judge gave no ratings, and any part of weight 0.
    """

    total: float
    parts: Mapping[str, float]


def reward(
    judgements: Sequence[Judgement],
    pair: Pair,
    format_: PromptFormat,
    config: RewardConfig = REWARDS["composed"],
) -> list[Reward]:
    """The rewards of one pair's judgements, in their order: those of a group, or of the groups of both orders.

    Consistency needs both groups in one call. Raises RewardError naming a judgement of another pair, a pair without a
    label, and a margin that is no number.
    """
    if pair.gold is None:
        raise RewardError(f"pair {pair.id!r}: field 'gold' is missing; without a label there is no reward")
    for judgement in judgements:
        if judgement.pair_id != pair.id:
            raise RewardError(f"pair {pair.id!r}: a judgement of pair {judgement.pair_id!r} was handed in with its own")
    right = [judgement.verdict == pair.gold for judgement in judgements]
    found = []
    for judgement in judgements:
        other = [ok for one, ok in zip(judgements, right, strict=True) if one.order != judgement.order]
        found.append(reward_one(judgement, pair, format_, config, other))
    return found


def reward_one(
    judgement: Judgement, pair: Pair, format_: PromptFormat, config: RewardConfig, other: Sequence[bool]
) -> Reward:
    """The reward of one judgement of a labelled pair; `other` says which judgements of the other order are right."""
    correct = judgement.verdict == pair.gold
    parts = {"correctness": 1.0 if correct else -1.0}
    if config.consistency.weight and other:
        parts["consistency"] = correct * sum(other) / len(other)
    if config.format.weight:
        complete = judgement.verdict is not None and not incomplete(judgement.text, format_)
        parts["format"] = 0.0 if complete else -1.0
    if config.length.weight:
        parts["length"] = _length(len(own_words(judgement.text, format_)), config.length)
    if config.evidence.weight:
        parts["evidence"] = _evidence(judgement, pair, format_, correct)
    if config.margin.weight and config.margin.field in pair.meta and judgement.ratings is not None:
        parts["margin"] = _margin(judgement.ratings, pair, correct, config.margin)
    return Reward(sum(getattr(config, name).weight * value for name, value in parts.items()), parts)


def _length(words: int, length: Length) -> float:
    if words < length.shortest:
        return -1.0
    return -min(1.0, max(0.0, (words - length.free) / (length.longest - length.free)))


def _evidence(judgement: Judgement, pair: Pair, format_: PromptFormat, right: bool) -> float:
    quoted = quotes(pair, judgement.order, judgement.text, format_)
    if any(quote.found != "own" for quote in quoted):
        return -1.0
    return float(right and {quote.of for quote in quoted} == {"A", "B"})


def _margin(ratings: Sequence[float], pair: Pair, right: bool, margin: Margin) -> float:
    gold = pair.meta[margin.field]
    if isinstance(gold, bool) or not isinstance(gold, int | float) or not 0 <= gold < float("inf"):
        raise RewardError(
            f"pair {pair.id!r}: field {margin.field!r} is {gold!r:.60}, not a number from 0; mend it, or set "
            "margin.weight=0"
        )
    if not right or len(ratings) != 2:
        return 0.0
    return 1.0 - min(1.0, abs(abs(ratings[0] - ratings[1]) - gold) / margin.scale)
