"""Rewards from a served judge: a policy's responses to a question, compared with each other.

The judge is asked over HTTP, by POST /rank as `actors.serving.wire` describes it. It is all that a Rewarder knows:
neither labels nor right answers come here.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import httpx
import ray

from actors.records import GroupScore, RolloutGroup
from actors.tokens import PromptEncoder
from evals.answers import said
from evals.errors import ReadableError
from evals.pairs import Message
from evals.ranking import settled
from evals.ratings import Game, win_rate
from evals.verdicts import Verdict, swap
from evals.writing import write_whole

RETRIES = 8
LONGEST_PAUSE_S = 30.0

Verdicts = dict[tuple[str, str], Verdict]
"""What the judge says of two different responses: `a` is for the first."""


class RewardError(ReadableError, RuntimeError):
    """The judge cannot be asked; the message says at what it failed and what to do."""


class RefusedError(RewardError):
    """The judge does not take this request (422): the fault is the question's or the responses' alone."""


class Judge(NamedTuple):
    """What a server says it serves; `version` is that of the weights."""

    model: str
    version: int
    format: str


@dataclass(frozen=True)
class Endpoint:
    """A served judge, and how it is asked.

    `headers` show who asks; `most` is how many responses one request may hold; `concurrency` how many requests are
    open at once; `timeout_s` the longest that one may take. `judge` is what the server says it serves.
    """

    url: str
    headers: dict[str, str]
    judge: Judge
    most: int
    method: Literal["round_robin", "circular"]
    order: Literal["both", "ab"]
    concurrency: int
    timeout_s: float

    @classmethod
    def find(
        cls,
        url: str,
        key: str,
        method: Literal["round_robin", "circular"],
        order: Literal["both", "ab"],
        concurrency: int,
        timeout_s: float,
    ) -> Endpoint:
        """Ask what is being served at `url`; `key` is the API key, empty where none is needed. Raises RewardError."""
        url = url.rstrip("/")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            answer = httpx.get(f"{url}/version", headers=headers, timeout=timeout_s)
            answer.raise_for_status()
            card = answer.json()
            judge = Judge(card["model"], card["version"], card["format"])
            return cls(url, headers, judge, card["limits"]["responses"], method, order, concurrency, timeout_s)
        except httpx.HTTPStatusError as error:
            raise RewardError(f"{url}/version: {answer.status_code} {answer.text:.500}") from error
        except httpx.HTTPError as error:
            raise RewardError(f"{url}: nothing answers there ({error!r}); see whether the judge is served") from error
        except (ValueError, KeyError, TypeError) as error:
            raise RewardError(f"{url}/version: not a judge that Gavel serves ({error!r})") from error


@dataclass(frozen=True)
class Ranked:
    """Responses to one question, and what the judge said of them.

    `rewards` are win rates in [-1, 1], one a response; `verdicts` those on different responses; `neutral` says which
    rewards are 0 because no comparison of that response came to a verdict. `judge` are the weight versions that judged.
    """

    rewards: list[float]
    neutral: list[bool]
    verdicts: Verdicts
    no_verdict: int
    judge: tuple[int, ...]


class Ranker:
    """Asks a served judge, with as many requests at a time as the endpoint allows, from one event loop."""

    def __init__(self, endpoint: Endpoint):
        self._endpoint = endpoint
        limits = httpx.Limits(max_connections=endpoint.concurrency)
        self._client = httpx.AsyncClient(
            base_url=endpoint.url, headers=endpoint.headers, timeout=endpoint.timeout_s, limits=limits
        )
        self._open = asyncio.Semaphore(endpoint.concurrency)

    async def rank(self, messages: Sequence[Message], responses: Sequence[str], what: str) -> Ranked:
        """Compare responses to the same question; `what` names it in errors.

        Identical responses are sent once and tie. A blank one is not sent: it ties with other blank ones and loses
        to any other. More different responses than one request may hold are dealt into parts, and compared within
        those. Raises RefusedError, and RewardError where the judge cannot be reached or gives up.
        """
        different = [text for text in dict.fromkeys(responses) if text.strip()]
        count = math.ceil(len(different) / self._endpoint.most)
        parts = [different[first::count] for first in range(count)]
        answers = await asyncio.gather(*(self._ask(messages, part, what) for part in parts if len(part) > 1))
        verdicts: Verdicts = {}
        for part, answer in zip((part for part in parts if len(part) > 1), answers, strict=True):
            verdicts |= {(part[one["a"]], part[one["b"]]): one["verdict"] for one in answer["comparisons"]}
        games = played(responses, verdicts)
        rated = win_rate(len(responses), games)
        decided = {i for game in games if game.verdict for i in (game.a, game.b)}
        return Ranked(
            rewards=[float(2 * rate - 1) for rate in rated],
            neutral=[i not in decided for i in range(len(responses))],
            verdicts=verdicts,
            no_verdict=sum(verdict is None for verdict in verdicts.values()),
            judge=tuple(sorted({answer["version"] for answer in answers})),
        )

    async def _ask(self, messages: Sequence[Message], responses: Sequence[str], what: str) -> dict[str, Any]:
        request = {
            "conversation": list(messages),
            "responses": list(responses),
            "method": self._endpoint.method,
            "order": self._endpoint.order,
            "judgements": False,
        }
        async with self._open:
            answer = await self._post(request, what)
        if answer.is_success:
            return answer.json()
        error = RefusedError if answer.status_code == httpx.codes.UNPROCESSABLE_ENTITY else RewardError
        raise error(f"{self._endpoint.url}/rank refused {what}: {answer.status_code} {answer.text:.500}")

    async def _post(self, request: dict[str, Any], what: str) -> httpx.Response:
        """What the server answers in the end; what fails for the moment (429, 5xx, no connection) is repeated."""
        for attempt in range(RETRIES + 1):
            pause = min(0.5 * 2**attempt, LONGEST_PAUSE_S)
            try:
                answer = await self._client.post("/rank", json=request)
            except httpx.TransportError as error:
                if attempt == RETRIES:
                    problem = f"{self._endpoint.url} cannot be asked about {what}: {error!r}, {RETRIES + 1} times"
                    raise RewardError(f"{problem}; see whether the judge is still being served") from error
            else:
                if answer.status_code != httpx.codes.TOO_MANY_REQUESTS and answer.status_code < 500:
                    break
                asked_for = answer.headers.get("Retry-After", "")
                pause = min(float(asked_for), LONGEST_PAUSE_S) if asked_for.isdigit() else pause
            if attempt < RETRIES:
                await asyncio.sleep(pause)
        return answer

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def played(responses: Sequence[str], verdicts: Mapping[tuple[str, str], Verdict]) -> list[Game]:
    """The games between responses that follow from the verdicts on different ones. Those not compared have none.

    Each copy of a response plays what the response played.
    """
    games = []
    for i, j in itertools.combinations(range(len(responses)), 2):
        one, other = responses[i], responses[j]
        if verdict := settled(one, other):
            games.append(Game(i, j, verdict))
        elif (one, other) in verdicts:
            games.append(Game(i, j, verdicts[one, other]))
        elif (other, one) in verdicts:
            games.append(Game(i, j, swap(verdicts[other, one])))
    return games


class _Rewarder:
    """Stands where a Verifier does in judge training: groups become rewards, which the judge alone decides.

    It has no state, so it can be restarted at any time. An async actor: groups are judged while others are sampled.
    """

    def __init__(self, model: str, endpoint: Endpoint):
        self._encoder = PromptEncoder(model)
        self._ranker = Ranker(endpoint)

    async def score(self, *groups: RolloutGroup) -> tuple[list[GroupScore], list[dict[str, Any]]]:
        """Scores of groups, and of each a record of what was judged. Call it with `num_returns=2`.

        `parts` of a score has for each response: `different`, 1 where no earlier one of the group is the same, and
        `neutral`, 1 where no verdict stands behind its reward. Whether a response is right is not known here.
        """
        found = await asyncio.gather(*(self._score(group) for group in groups))
        return [score for score, _ in found], [record for _, record in found]

    async def _score(self, group: RolloutGroup) -> tuple[GroupScore, dict[str, Any]]:
        pair, responses = group.prompt.pair, self._texts(group)
        ranked = await self._ranker.rank(pair.messages, responses, f"responses to question {pair.id!r}")
        numbers = {text: responses.index(text) for text in responses}
        record = {
            "id": pair.id,
            "messages": list(pair.messages),
            "responses": responses,
            "rewards": ranked.rewards,
            "verdicts": [[numbers[a], numbers[b], verdict] for (a, b), verdict in ranked.verdicts.items()],
            "version": group.version,
            "judge_versions": ranked.judge,
        }
        parts: list[Mapping[str, float]] = [
            {"different": float(numbers[text] == i), "neutral": float(neutral)}
            for i, (text, neutral) in enumerate(zip(responses, ranked.neutral, strict=True))
        ]
        score = GroupScore(
            index=group.index,
            rewards=ranked.rewards,
            parts=parts,
            right=[],
            none=[],
            first=[],
            lengths=[len(rollout.ids) for rollout in group.rollouts],
            truncated=[rollout.truncated for rollout in group.rollouts],
            prompt_length=len(group.prompt.ids),
            versions=group.versions,
            work=group.work,
        )
        return score, record

    def _texts(self, group: RolloutGroup) -> list[str]:
        return [said(self._encoder.decode(rollout.ids)) for rollout in group.rollouts]

    async def write(self, path: Path, extra: dict[str, object], *judged: list[dict[str, Any]]) -> int:
        """Write records of groups as JSON lines, each with `extra`; returns how many.

        The file appears when it is complete, so writing again after a restart does no harm.
        """
        rows = [record | extra for records in judged for record in records]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))
        return len(rows)

    async def write_responses(self, path: Path, *groups: RolloutGroup) -> None:
        """Write what was sampled, unjudged: one JSON line a group, with `id`, `responses` and `version`."""
        rows = [{"id": g.prompt.pair.id, "responses": self._texts(g), "version": g.version} for g in groups]
        write_whole(path, "".join(json.dumps(row) + "\n" for row in rows))

    async def preferred(self, asked: Sequence[tuple[Sequence[Message], str, str]]) -> list[float]:
        """The judge's reward of the first of two responses to each question, against the second: in [-1, 1]."""
        ranked = (self._ranker.rank(messages, [one, other], "two responses") for messages, one, other in asked)
        return [found.rewards[0] for found in await asyncio.gather(*ranked)]


Rewarder = ray.remote(_Rewarder)
