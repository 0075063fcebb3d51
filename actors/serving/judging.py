"""From what the judge writes to verdicts, rankings and scores.

A pair is rendered by the prompt format that the judge was trained with, in each order that is asked for, encoded so
that nothing in a candidate is a control token, sampled, and parsed by training's parser. The judge's own text alone
decides.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeVar

from fastapi.exceptions import RequestValidationError

from actors.config import LimitsConfig
from actors.records import Ids
from actors.rollout import batch_seed
from actors.serving.engine import Completion, Decoding, JudgeEngine
from actors.serving.metrics import Metrics
from actors.serving.wire import (
    Asking,
    Comparison,
    JudgeRequest,
    JudgeResponse,
    ListJudgement,
    OneJudgement,
    OrderJudgement,
    PairResult,
    Question,
    RankRequest,
    RankResponse,
    ScoreRequest,
    ScoreResponse,
    Usage,
)
from evals.pairs import Message, Pair
from evals.prompts import FORMATS, LISTWISE, POINTWISE, Listwise, Pointwise, PromptFormat, from_best, prompt_format
from evals.ranking import Match, listings, listwise, start
from evals.verdicts import Order, Verdict, swap
from evals.voting import EarlyVote, alternating, majority

Say = Callable[[str, dict[str, Any]], None]
"""Takes an event's name and its data, while the judge is at work."""

T = TypeVar("T")


@dataclass(frozen=True)
class _Compared:
    """A pair's result, and the judgements that it comes from."""

    result: PairResult
    judgements: list[OrderJudgement]


class Judging:
    """What can be asked of one engine.

    Its methods raise RequestValidationError (a 422 that names the field) where a request is over the limits, and
    EngineStoppedError where the engine has died.
    """

    def __init__(self, engine: JudgeEngine, name: str, limits: LimitsConfig, metrics: Metrics):
        self._engine = engine
        self._name = name
        self._limits = limits
        self._metrics = metrics
        self._format = prompt_format(engine.card.format)

    async def judge(self, request: JudgeRequest, say: Say | None = None) -> JudgeResponse:
        """Compare two responses."""
        compared = await self._compare(request.messages(), request.response_a, request.response_b, request, say)
        judgements = compared.judgements
        first = next((one for one in judgements if one.verdict == compared.result.verdict), judgements[0])
        return JudgeResponse(
            **compared.result.model_dump(),
            **self._served(request, judgements),
            reasoning=first.text,
            sections=first.sections,
            order=first.order,
            judgements=judgements,
        )

    async def rank(self, request: RankRequest, say: Say | None = None, most: int | None = None) -> RankResponse:
        """Rank the responses; `most` are allowed, the server's limit unless told otherwise."""
        n, most = len(request.responses), most or self._limits.responses
        if n > most:
            raise refusal(f"{n} responses are over this server's limit; send {most} or fewer", "responses")
        if request.method == "listwise":
            return await self._listwise(request, say)
        orders = request.orders()
        tournament = start(request.method, n, orders=len(orders), seed=request.seed)
        pairings = _Pairings(request.responses, both_orders=len(orders) == 2)
        comparisons: list[Comparison] = []
        cost: list[OneJudgement] = []
        while matches := tournament.matches:
            new = pairings.new(matches)
            numbers = [len(comparisons) + matches.index(match) for match in new]
            compare = partial(self._compare, request.messages(), request=request, say=say)
            found = await together(
                compare(request.responses[match.a], request.responses[match.b], place=_place(number, match))
                for match, number in zip(new, numbers, strict=True)
            )
            pairings.learn(new, found)
            cost += [judgement for one in found for judgement in one.judgements]
            round_ = [pairings.comparison(match, request.judgements) for match in matches]
            tournament.record([comparison.verdict for comparison in round_])
            comparisons += round_
            if say:
                for comparison in round_:
                    say("comparison", comparison.model_dump())
        ratings = tournament.ratings(request.aggregation).tolist()
        aggregation = "rounds" if request.method == "knockout" else request.aggregation or "win_rate"
        return RankResponse(
            **_ranked(request, ratings, [_share(aggregation, rating, n) for rating in ratings]),
            **self._served(request, cost),
            aggregation=aggregation,
            comparisons=comparisons,
            listings=[],
            no_verdict=tournament.no_verdict,
        )

    async def _listwise(self, request: RankRequest, say: Say | None) -> RankResponse:
        format_ = self._formatted(request)
        shown = listings(len(request.responses), request.votes * len(request.orders()), request.seed)
        lists = format_ if isinstance(format_, Listwise) else LISTWISE
        judgements = await together(
            self._list(lists, request, order, sample, say) for sample, order in enumerate(shown)
        )
        scores = [parsed.ratings for _, parsed in judgements]
        by_call = [
            None if ratings is None else [ratings[index] for index in order]
            for ratings, order in zip(scores, shown, strict=True)
        ]
        ratings = listwise(shown, by_call).tolist()
        rated = any(given is not None for given in scores)
        written = [judgement for judgement, _ in judgements]
        return RankResponse(
            **_ranked(request, ratings, [_share("mean_rating", rating, 0) if rated else 0.5 for rating in ratings]),
            **self._served(request, written, lists.name),
            aggregation="mean_rating",
            comparisons=[],
            listings=written if request.judgements else [],
            no_verdict=sum(given is None for given in scores),
        )

    async def _list(
        self, lists: Listwise, request: RankRequest, shown: Sequence[int], sample: int, say: Say | None
    ) -> tuple[ListJudgement, Any]:
        prompt = lists.render_list(request.messages(), request.responses, shown)
        where = _place(0) | {"order": None, "sample": sample}
        completion = await self._written(prompt, request, batch_seed(request.seed, "list", sample), where, say)
        parsed = lists.parse_list(completion.text, shown)
        judgement = ListJudgement(shown=list(shown), **_fields(completion, parsed, sample))
        if say:
            say("judgement", _place(0) | judgement.model_dump())
        return judgement, parsed

    async def score(self, request: ScoreRequest) -> ScoreResponse:
        """Score one response: against the reference or the anchor, else by itself."""
        other = request.reference if request.reference is not None else request.anchor
        if other is None:
            return await self._rate(request)
        judgements: list[OrderJudgement] = []
        if other != request.response:
            judgements = (await self._compare(request.messages(), request.response, other, request, None)).judgements
        points = [{"a": 1.0, "b": 0.0}.get(judgement.verdict or "", 0.5) for judgement in judgements]
        share = sum(points) / len(points) if points else 0.5
        return ScoreResponse(
            score=request.scaled(share),
            basis="reference" if request.reference is not None else "anchor",
            neutral=bool(judgements) and all(judgement.verdict is None for judgement in judgements),
            judgements=judgements,
            **self._served(request, judgements),
        )

    async def _rate(self, request: ScoreRequest) -> ScoreResponse:
        format_ = self._formatted(request)
        pointwise = format_ if isinstance(format_, Pointwise) else POINTWISE
        prompt = pointwise.render_one(request.messages(), request.response)

        async def one(sample: int) -> OneJudgement:
            completion = await self._written(prompt, request, batch_seed(request.seed, "rate", sample), {}, None)
            return OneJudgement(**_fields(completion, pointwise.parse(completion.text, "ab"), sample))

        judgements = await together(one(sample) for sample in range(request.votes))
        ratings = [judgement.ratings[0] for judgement in judgements if judgement.ratings]
        share = _share("mean_rating", sum(ratings) / len(ratings), 0) if ratings else 0.5
        return ScoreResponse(
            score=request.scaled(share),
            basis="rating",
            neutral=not ratings,
            judgements=judgements,
            **self._served(request, judgements, pointwise.name),
        )

    async def _compare(
        self,
        messages: Sequence[Message],
        response_a: str,
        response_b: str,
        request: Asking,
        say: Say | None,
        place: dict[str, Any] | None = None,
    ) -> _Compared:
        """Judge a pair as often as the request says. `place` is where it stands in what is said meanwhile."""
        place = place or _place(0)
        pair = Pair("request", tuple(messages), response_a, response_b, gold=None)
        format_, orders = self._formatted(request), request.orders()
        prompts = {order: await self._encoded(format_.render(pair, order), request) for order in orders}

        async def one(order: Order, sample: int) -> OrderJudgement:
            where = place | {"order": order, "sample": sample}
            seed = batch_seed(request.seed, order, sample)
            completion = await self._sampled(prompts[order], request, seed, where, say)
            parsed = format_.parse(completion.text, order)
            self._metrics.verdict(order, parsed.verdict)
            judgement = OrderJudgement(order=order, verdict=parsed.verdict, **_fields(completion, parsed, sample))
            if say:
                say("judgement", place | judgement.model_dump())
            return judgement

        samples = request.votes * len(orders)
        drawn = alternating(samples, orders[0]) if len(orders) == 2 else orders * samples
        queue = [(order, place // len(orders)) for place, order in enumerate(drawn)]
        if request.early_stop:
            vote = EarlyVote(samples)
            judgements: list[OrderJudgement] = []
            while needed := vote.needed:
                more = await together(one(*queue[vote.drawn + i]) for i in range(needed))
                for judgement in more:
                    vote.add(judgement.verdict)
                judgements += more
        else:
            judgements = await together(one(order, sample) for order, sample in queue)
        judgements.sort(key=lambda judgement: judgement.order)
        return _Compared(_result([(one.order, one.verdict) for one in judgements], orders), judgements)

    def _formatted(self, request: Asking) -> PromptFormat:
        return self._format if request.format is None else FORMATS[request.format]

    async def _written(
        self, prompt: Sequence[Message], request: Asking, seed: int, where: dict[str, Any], say: Say | None
    ) -> Completion:
        return await self._sampled(await self._encoded(prompt, request), request, seed, where, say)

    async def _sampled(
        self, ids: Ids, request: Asking, seed: int, where: dict[str, Any], say: Say | None
    ) -> Completion:
        temperature = request.temperature
        if temperature is None:
            temperature = 0.0 if request.votes == 1 else 1.0
        decoding = Decoding(temperature, request.top_p, self._max_tokens(request), seed)
        on_text = None if say is None else lambda piece: say("delta", where | {"text": piece})
        completion = await self._engine.complete(ids, decoding, on_text)
        self._metrics.tokens(completion.prompt_tokens, completion.completion_tokens)
        return completion

    def _max_tokens(self, request: Asking) -> int:
        limit = self._engine.card.max_new_tokens
        if request.max_tokens is not None and request.max_tokens > limit:
            raise refusal(f"{request.max_tokens} is over this server's limit; ask for {limit} or less", "max_tokens")
        return request.max_tokens or limit

    async def _encoded(self, prompt: Sequence[Message], request: Asking) -> Ids:
        """The prompt's ids, if they leave room for the judgement."""
        max_tokens = self._max_tokens(request)
        ids = await self._engine.encode(prompt)
        if len(ids) > (room := self._engine.card.max_model_len - max_tokens):
            problem = f"The prompt has {len(ids)} tokens; the limit is {room} beside a judgement of {max_tokens}"
            raise refusal(f"{problem}. Shorten what is longest, this one, or lower max_tokens", _longest(request))
        return ids

    def _served(
        self, request: Asking, judgements: Sequence[OneJudgement], format_: str | None = None
    ) -> dict[str, Any]:
        """Who judged, and what it cost."""
        return {
            "model": self._name,
            "version": max((judgement.version for judgement in judgements), default=self._engine.version),
            "format": format_ or request.format or self._engine.card.format,
            "usage": Usage(
                judgements=len(judgements),
                prompt_tokens=sum(judgement.prompt_tokens for judgement in judgements),
                completion_tokens=sum(judgement.completion_tokens for judgement in judgements),
            ),
        }


class _Pairings:
    """What is known of pairs of texts: identical ones tie, and the same two are judged once."""

    def __init__(self, responses: Sequence[str], both_orders: bool):
        self._responses = responses
        self._both = both_orders
        self._known: dict[tuple[str, str], _Compared] = {}

    def new(self, matches: Sequence[Match]) -> list[Match]:
        """One match for each two texts that are yet to be judged."""
        wanted: dict[tuple[str, str], Match] = {}
        for match in matches:
            a, b = self._texts(match)
            swapped = self._both and ((b, a) in self._known or (b, a) in wanted)
            if a != b and not swapped and (a, b) not in self._known:
                wanted.setdefault((a, b), match)
        return list(wanted.values())

    def learn(self, matches: Sequence[Match], found: Sequence[_Compared]) -> None:
        """Keep what came of the new ones."""
        self._known |= {self._texts(match): one for match, one in zip(matches, found, strict=True)}

    def comparison(self, match: Match, judgements: bool) -> Comparison:
        """The result of a match, with the judgements if they are wanted."""
        a, b = self._texts(match)
        if a == b:
            tie = PairResult(verdict="tie", confidence=1.0, consistent=True)
            return Comparison(a=match.a, b=match.b, identical=True, judgements=[], **tie.model_dump())
        found = self._known.get((a, b)) or _mirrored(self._known[b, a])
        return Comparison(
            a=match.a, b=match.b, judgements=found.judgements if judgements else [], **found.result.model_dump()
        )

    def _texts(self, match: Match) -> tuple[str, str]:
        return self._responses[match.a], self._responses[match.b]


def _mirrored(compared: _Compared) -> _Compared:
    """The same comparison, speaking of the two responses the other way round."""
    judgements = [
        judgement.model_copy(
            update={
                "order": "ba" if judgement.order == "ab" else "ab",
                "verdict": swap(judgement.verdict),
                "ratings": judgement.ratings and judgement.ratings[::-1],
            }
        )
        for judgement in compared.judgements
    ]
    result = compared.result.model_copy(update={"verdict": swap(compared.result.verdict)})
    return _Compared(result, sorted(judgements, key=lambda judgement: judgement.order))


def _result(verdicts: Sequence[tuple[Order, Verdict]], orders: Sequence[Order]) -> PairResult:
    """The verdict on a pair: with one judgement of each order what they agree in, else what most of them say."""
    vote = majority([verdict for _, verdict in verdicts])
    by_order = [majority([verdict for order, verdict in verdicts if order == one]).verdict for one in orders]
    single = len(verdicts) == len(orders)
    verdict = agreed(by_order) if single else vote.verdict
    return PairResult(
        verdict=verdict,
        confidence=vote.confidence if verdict is not None else 0.0,
        consistent=None if len(orders) == 1 or None in by_order else len(set(by_order)) == 1,
    )


def agreed(verdicts: Sequence[Verdict]) -> Verdict:
    """The verdict that all share; None where they differ."""
    return verdicts[0] if len(set(verdicts)) == 1 else None


def _fields(completion: Completion, parsed: Any, sample: int) -> dict[str, Any]:
    return {
        "sample": sample,
        "text": completion.text,
        "sections": dict(parsed.sections),
        "ratings": None if parsed.ratings is None else list(parsed.ratings),
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "truncated": completion.truncated,
        "version": completion.version,
    }


def _ranked(request: RankRequest, ratings: list[float], shares: Sequence[float]) -> dict[str, Any]:
    ranking = [list(level) for level in from_best(ratings)]
    return {
        "scores": [request.scaled(share) for share in shares],
        "ratings": ratings,
        "ranking": ranking,
        "best": ranking[0][0],
        "method": request.method,
    }


def _share(
    aggregation: Literal["win_rate", "elo", "bradley_terry", "rounds", "mean_rating"], rating: float, n: int
) -> float:
    """A rating as a number from 0 to 1: the same for the same rating, whatever the others have."""
    if aggregation == "elo":
        return 1 / (1 + 10 ** ((1000 - rating) / 400))
    if aggregation == "bradley_terry":
        return 1 / (1 + math.exp(-rating))
    if aggregation == "rounds":
        return rating / math.ceil(math.log2(n))
    return (rating - 1) / 9 if aggregation == "mean_rating" else rating


def _place(number: int, match: Match | None = None) -> dict[str, Any]:
    """Which comparison it is; in a ranking also between whom."""
    return {"comparison": number} | ({} if match is None else match._asdict())


def _longest(request: Asking) -> str:
    """The field of a request that has the longest text."""
    lengths: dict[str, int] = {}
    for name, value in request:
        if isinstance(value, str) and name != "format":
            lengths[name] = len(value)
        elif name == "responses":
            lengths[name] = max(map(len, value))
    if isinstance(request, Question) and request.conversation:
        lengths["conversation"] = sum(len(turn.content) for turn in request.conversation)
    return max(lengths, key=lambda name: lengths[name])


async def together(work: Iterable[Awaitable[T]]) -> list[T]:
    """All results, in order. Where one fails, or the caller goes away, the others are cancelled."""
    running = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*running)
    finally:
        for one in running:
            one.cancel()


def refusal(message: str, field: str) -> RequestValidationError:
    """A 422 for what only the running judge knows, in the form of those that the request models raise."""
    return RequestValidationError([{"type": "limit", "loc": ("body", field), "msg": message}])
