"""How the members of a group of responses come to their scores."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Protocol

from fastapi.exceptions import RequestValidationError

from actors.serving.wire import Comparison, Question, RankRequest, RankResponse
from evals.ranking import Method

Served = tuple[str, int]
"""Name and weight version of who judged."""


class Asked(Protocol):
    """The judge, as groups see it."""

    async def rank(self, request: RankRequest) -> RankResponse:
        """Rank responses. Raises RequestValidationError where they are too long to be judged."""

    async def serving(self) -> Served:
        """Who would judge now."""


@dataclass(frozen=True)
class Standing:
    """What is known of a response: its score, 0 to 1, how often the judge was asked, and how often that said nothing.

    `neutral` is whether the score says nothing.
    """

    score: float
    comparisons: int
    no_verdict: int
    neutral: bool


class Placing:
    """Compares responses to one question. Groups of more pairs than `most_pairs` are compared in a circle.

    Every comparison is greedy and in both orders, and responses are sent in an order that only they decide: the same
    responses give the same standings, however they arrived.
    """

    def __init__(self, judge: Asked, most_pairs: int):
        self._judge = judge
        self._most_pairs = most_pairs

    async def group(self, question: Question, counts: Counter[str]) -> tuple[dict[str, Standing], Served]:
        """How the members of a group of two or more stand; `counts` says how many members each response has.

        Raises RequestValidationError where two of them are too long to be judged.
        """
        ranked = shuffled(counts)
        if len(ranked) < 2:
            return standings(counts, ranked, []), await self._judge.serving()
        pairs = len(ranked) * (len(ranked) - 1) // 2
        answer = await self._asked(question, ranked, "circular" if pairs > self._most_pairs else "round_robin")
        return standings(counts, ranked, answer.comparisons), (answer.model, answer.version)

    async def lone(self, question: Question, response: str, opponents: Sequence[str]) -> tuple[Standing, Served]:
        """How one response stands against opponents, none of them blank. Without any it is neutral.

        An opponent that is too long to be judged beside it is left out. Raises RequestValidationError where all are.
        """
        rivals = [one for one in opponents if one != response]
        if not rivals or not response.strip():
            score = 0.0 if rivals else 0.5  # a blank one loses, an identical one ties
            return Standing(score, 0, 0, neutral=not opponents), await self._judge.serving()
        met = await asyncio.gather(*(self._met(question, response, rival) for rival in rivals))
        answers = [one for one in met if isinstance(one, RankResponse)]
        if not answers:
            raise next(one for one in met if isinstance(one, RequestValidationError))
        mine = [comparison for answer in answers for comparison in answer.comparisons]
        nothing = sum(one.verdict is None for one in mine)
        score = sum(_won(one, 0) for one in mine) / len(mine)
        newest = max(answers, key=lambda answer: answer.version)
        return Standing(score, len(mine), nothing, neutral=nothing == len(mine)), (newest.model, newest.version)

    async def _met(self, question: Question, response: str, rival: str) -> RankResponse | RequestValidationError:
        try:
            return await self._asked(question, [response, rival], "round_robin")
        except RequestValidationError as error:
            return error

    async def _asked(self, question: Question, responses: list[str], method: Method) -> RankResponse:
        return await self._judge.rank(
            RankRequest(
                prompt=question.prompt,
                conversation=question.conversation,
                responses=responses,
                method=method,
                judgements=False,
            )
        )


def shuffled(responses: Iterable[str]) -> list[str]:
    """The different ones that are not blank, in an order that depends on their texts alone and yet on nothing in them.

    In a circle, responses that begin alike are neighbours by chance only.
    """
    return sorted({one for one in responses if one.strip()}, key=lambda one: sha256(one.encode()).digest())


def standings(counts: Counter[str], ranked: Sequence[str], comparisons: Sequence[Comparison]) -> dict[str, Standing]:
    """Each response's share of wins, as if every member of the group had met every other one.

    A response wins against blank ones and ties with identical ones. Against all others it has the share that it has
    of those that the judge compared it with, each of them as often as it is a member: exact where all were compared,
    an estimate from two neighbours in a circle. `ranked` are the responses that `comparisons` speak of.
    """
    rivals = counts.total() - 1
    blanks = sum(count for response, count in counts.items() if not response.strip())
    found = {one: Standing((blanks - 1) / 2 / rivals, 0, 0, False) for one in counts if not one.strip()}
    for index, response in enumerate(ranked):
        mine = [one for one in comparisons if index in (one.a, one.b)]
        weights = [counts[ranked[one.a + one.b - index]] for one in mine]
        won = sum(weight * _won(one, index) for weight, one in zip(weights, mine, strict=True))
        twins = counts[response] - 1
        against_others = (rivals - blanks - twins) * won / sum(weights) if weights else 0.0
        nothing = sum(one.verdict is None for one in mine)
        found[response] = Standing(
            score=(blanks + twins / 2 + against_others) / rivals,
            comparisons=len(mine),
            no_verdict=nothing,
            neutral=bool(mine) and nothing == len(mine) and not blanks,
        )
    return found


def _won(comparison: Comparison, index: int) -> float:
    """What the response at `index` has of a comparison; half of one without a verdict."""
    mine = "a" if comparison.a == index else "b"
    return {mine: 1.0, "tie": 0.5, None: 0.5}.get(comparison.verdict, 0.0)
