"""Verdicts, votes, rankings and scores, from a judge whose opinion is known: the larger number is better.

It stands in for the engine alone, so that many judgements cost nothing; prompts are rendered, encoded and parsed as
they are served. `test_judge.py` has the real engine.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from actors.card import JudgeCard
from actors.config import LimitsConfig
from actors.serving.engine import Completion, Decoding
from actors.serving.judging import Judging, agreed
from actors.serving.metrics import Metrics
from actors.serving.wire import JudgeRequest, RankRequest, ScoreRequest
from actors.tokens import PromptEncoder
from evals.prompts import COMPACT
from evals.verdicts import Verdict

QUESTION = "Which is more?"


class Opinion:
    """An engine that prefers the larger number; `says` may make it say something else of the two as shown."""

    def __init__(self, model: Path, says: Callable[[float, float, Decoding], str] | None = None):
        self.card = JudgeCard(format="compact", version=3, max_model_len=1024, max_new_tokens=32)
        self.version = 3
        self.encoder = PromptEncoder(model)
        self.asked: list[tuple[str, Decoding]] = []
        self._says = says or (lambda first, second, decoding: "[[A]]" if first > second else "[[B]]")

    async def encode(self, messages: Any) -> Any:
        return self.encoder.encode_prompt(messages)

    async def complete(self, ids: np.ndarray, decoding: Decoding, on_text: Any = None) -> Completion:
        prompt = self.encoder.tokenizer.decode(ids.tolist())
        self.asked.append((prompt, decoding))
        await asyncio.sleep(0)
        if shown := re.search(r"\nA:\n(-?[\d.]+)\n\nB:\n(-?[\d.]+)\n", prompt):
            text = f"<answer>{self._says(float(shown[1]), float(shown[2]), decoding)}</answer>"
        elif listed := re.findall(r"Start of Response ([A-Z])\]\n(-?[\d.]+)", prompt):
            text = "<answer>" + " ".join(f"[[{letter}: {number}]]" for letter, number in listed) + "</answer>"
        else:
            (number,) = re.findall(r"Start of the Response\]\n(-?[\d.]+)", prompt)
            text = f"<answer>[[{number}]]</answer>"
        if on_text:
            on_text(text[:5])
            on_text(text[5:])
        return Completion(text, len(ids), 9, False, self.version)


@pytest.fixture
def make(make_model: Callable[..., Path]) -> Callable[..., tuple[Judging, Opinion]]:
    def made(says: Any = None, **limits: Any) -> tuple[Judging, Opinion]:
        engine = Opinion(make_model(), says)
        return Judging(engine, "opinion", LimitsConfig(**limits), Metrics()), engine  # type: ignore[arg-type]

    return made


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def pair(a: str = "2", b: str = "1", **asking: Any) -> JudgeRequest:
    return JudgeRequest(prompt=QUESTION, response_a=a, response_b=b, **asking)


def ranking(*responses: str, **asking: Any) -> RankRequest:
    return RankRequest(prompt=QUESTION, responses=list(responses), **asking)


def test_a_verdict_has_the_reasoning_and_the_cost_of_both_orders(make: Any) -> None:
    answer = run(make()[0].judge(pair()))
    assert (answer.verdict, answer.confidence, answer.consistent) == ("a", 1.0, True)
    assert [(one.order, one.verdict, one.version) for one in answer.judgements] == [("ab", "a", 3), ("ba", "a", 3)]
    assert (answer.reasoning, answer.order) == ("<answer>[[A]]</answer>", "ab")
    assert answer.sections == {"answer": "[[A]]"}
    assert (answer.usage.judgements, answer.usage.completion_tokens) == (2, 18)
    assert answer.usage.prompt_tokens == sum(one.prompt_tokens for one in answer.judgements)


@pytest.mark.parametrize(
    ("verdicts", "verdict"),
    [(["a", "a"], "a"), (["tie", "tie"], "tie"), (["a", "b"], None), (["a", None], None), ([None, None], None)],
)
def test_a_verdict_needs_both_orders(verdicts: list[Verdict], verdict: Verdict) -> None:
    assert agreed(verdicts) == verdict


def test_a_verdict_that_depends_on_the_order_is_none(make: Any) -> None:
    answer = run(make(lambda *_: "[[A]]")[0].judge(pair()))
    assert (answer.verdict, answer.confidence, answer.consistent) == (None, 0.0, False)
    one = run(make(lambda *_: "[[A]]")[0].judge(pair(order="ba")))
    assert (one.verdict, one.confidence, one.consistent) == ("b", 1.0, None)


def test_no_verdict_is_told_from_a_change_of_mind(make: Any) -> None:
    answer = run(make(lambda *_: "perhaps")[0].judge(pair()))
    assert (answer.verdict, answer.confidence, answer.consistent) == (None, 0.0, None)


def test_votes_are_counted_and_their_seeds_differ(make: Any) -> None:
    """Four of ten say B: those whose seed is even, made so by the order of the calls."""
    numbers = iter(range(10))
    judging, engine = make(lambda *_: "[[B]]" if next(numbers) in (0, 3, 5, 8) else "[[A]]")
    answer = run(judging.judge(pair(votes=10, order="ab")))
    assert (answer.verdict, answer.confidence) == ("a", 0.6)
    decodings = [decoding for _, decoding in engine.asked]
    assert {decoding.temperature for decoding in decodings} == {1.0}
    assert len({decoding.seed for decoding in decodings}) == 10
    again = make()[1]
    run(Judging(again, "opinion", LimitsConfig(), Metrics()).judge(pair(votes=10, order="ab")))
    assert sorted(d.seed for _, d in again.asked) == sorted(d.seed for d in decodings), (
        "the same request, the same seeds"
    )


def test_an_even_split_is_a_tie(make: Any) -> None:
    answer = run(make(lambda *_: "[[A]]")[0].judge(pair(votes=4)))
    assert (answer.verdict, answer.confidence, answer.consistent) == ("tie", 0.5, False)


def test_a_clear_vote_stops_early(make: Any) -> None:
    judging, engine = make()
    answer = run(judging.judge(pair(votes=16, early_stop=True)))
    assert answer.verdict == "a"
    assert answer.usage.judgements == len(engine.asked) < 16
    assert {one.order for one in answer.judgements} == {"ab", "ba"}


@pytest.mark.parametrize(
    ("method", "aggregation", "scores"),
    [
        ("round_robin", None, [1 / 3, 1.0, 0.0, 2 / 3]),
        ("circular", None, [0.0, 1.0, 0.0, 1.0]),
        ("knockout", None, None),
        ("round_robin", "elo", None),
        ("round_robin", "bradley_terry", None),
        ("listwise", None, [1 / 9, 8 / 9, 0.0, 4 / 9]),
    ],
)
def test_the_larger_number_ranks_higher(make: Any, method: str, aggregation: Any, scores: Any) -> None:
    judging, engine = make()
    answer = run(judging.rank(ranking("2", "9", "1", "5", method=method, aggregation=aggregation)))
    assert answer.best == 1
    assert answer.ranking[0] == ([1, 3] if method == "circular" else [1])
    assert answer.scores[1] == max(answer.scores)
    assert all(0 <= score <= 1 for score in answer.scores)
    if method in ("round_robin", "listwise"):
        assert answer.ranking == [[1], [3], [0], [2]]
    if scores:
        assert answer.scores == pytest.approx(scores)
    assert answer.usage.judgements == len(engine.asked)
    assert answer.no_verdict == 0
    assert all(comparison.judgements for comparison in answer.comparisons)


def test_scores_are_scaled_to_the_range(make: Any) -> None:
    judging, _ = make()
    assert run(judging.rank(ranking("2", "9", "1", scale=(-1, 1)))).scores == pytest.approx([0, 1, -1])
    assert run(judging.rank(ranking("2", "2.5", aggregation="elo", scale=(0, 10)))).scores == pytest.approx(
        [10 / (1 + 10 ** (rating / 400)) for rating in (2, -2)]
    )
    strengths = run(judging.rank(ranking("2", "9", aggregation="bradley_terry")))
    assert strengths.scores == pytest.approx([1 / (1 + math.exp(-rating)) for rating in strengths.ratings])


def test_identical_responses_tie_and_the_same_two_are_judged_once(make: Any) -> None:
    judging, engine = make()
    answer = run(judging.rank(ranking("2", "1", "2", "1", "2", duplicates="tie")))
    assert len(engine.asked) == answer.usage.judgements == 2, "one comparison in both orders"
    assert answer.ranking == [[0, 2, 4], [1, 3]]
    for comparison in answer.comparisons:
        texts = "21212"[comparison.a], "21212"[comparison.b]
        assert comparison.identical == (texts[0] == texts[1])
        assert comparison.verdict == ("tie" if comparison.identical else "a" if texts == ("2", "1") else "b")
        assert [one.order for one in comparison.judgements] == ([] if comparison.identical else ["ab", "ba"])
        for one in comparison.judgements:
            assert one.verdict == comparison.verdict == COMPACT.parse(one.text, one.order).verdict
    with pytest.raises(ValidationError, match="responses 0 and 2 are identical"):
        ranking("2", "1", "2")


def test_in_one_order_the_same_two_the_other_way_round_are_another_question(make: Any) -> None:
    judging, engine = make(lambda *_: "[[A]]")
    answer = run(judging.rank(ranking("2", "1", method="circular", order="ab")))
    assert len(engine.asked) == 2
    assert answer.scores == [0.5, 0.5]


def test_more_responses_than_allowed_are_refused_but_a_group_may_have_more(make: Any) -> None:
    judging, _ = make(responses=3)
    four = ranking("1", "2", "3", "4")
    with pytest.raises(RequestValidationError) as refused:
        run(judging.rank(four))
    (problem,) = refused.value.errors()
    assert problem["loc"] == ("body", "responses")
    assert "send 3 or fewer" in problem["msg"]
    assert run(judging.rank(four, most=64)).best == 3


def test_what_is_too_long_is_named(make: Any) -> None:
    judging, engine = make()
    for request, field in (
        (pair(a="7 " * 1500), "response_a"),
        (JudgeRequest(prompt="7 " * 1500, response_a="1", response_b="2"), "prompt"),
        (
            JudgeRequest(conversation=[{"role": "user", "content": "7 " * 1500}], response_a="1", response_b="2"),
            "conversation",
        ),
    ):
        with pytest.raises(RequestValidationError) as refused:
            run(judging.judge(request))
        assert refused.value.errors()[0]["loc"] == ("body", field)
    assert not engine.asked


@pytest.mark.parametrize(("against", "score"), [({"anchor": "1"}, 1), ({"reference": "5"}, 0), ({"anchor": "2"}, 0.5)])
def test_a_score_against_another_response(make: Any, against: dict[str, str], score: float) -> None:
    answer = run(make()[0].score(ScoreRequest(prompt=QUESTION, response="2", **against)))
    assert (answer.score, answer.basis, answer.neutral) == (score, *against, False)


def test_a_score_by_itself_is_a_rating(make: Any) -> None:
    answer = run(make()[0].score(ScoreRequest(prompt=QUESTION, response="4", scale=(0, 9))))
    assert (answer.score, answer.basis, answer.neutral, answer.format) == (3, "rating", False, "pointwise")
    nothing = run(make()[0].score(ScoreRequest(prompt=QUESTION, response="40")))
    assert (nothing.score, nothing.neutral) == (0.5, True)


def test_without_a_verdict_a_score_is_the_middle_and_says_so(make: Any) -> None:
    answer = run(make(lambda *_: "?")[0].score(ScoreRequest(prompt=QUESTION, response="2", anchor="1", scale=(-1, 1))))
    assert (answer.score, answer.neutral) == (0, True)


def test_what_is_said_meanwhile(make: Any) -> None:
    said: list[tuple[str, dict[str, Any]]] = []
    answer = run(make()[0].rank(ranking("2", "9", "1"), lambda name, data: said.append((name, data))))
    names = [name for name, _ in said]
    assert {name: names.count(name) for name in names} == {"delta": 12, "judgement": 6, "comparison": 3}
    texts: dict[tuple[int, str], str] = {}
    for name, data in said:
        if name == "delta":
            where = (data["comparison"], data["order"])
            texts[where] = texts.get(where, "") + data["text"]
    for number, comparison in enumerate(answer.comparisons):
        assert {one.order: one.text for one in comparison.judgements} == {
            order: text for (place, order), text in texts.items() if place == number
        }


def test_where_one_fails_the_others_end(make: Any) -> None:
    judging, engine = make()
    ended = []

    async def fail(ids: Any, decoding: Any, on_text: Any = None) -> Completion:
        if not ended:
            ended.append("failed")
            raise RuntimeError("no engine")
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cancelled")
        raise AssertionError

    engine.complete = fail
    with pytest.raises(RuntimeError, match="no engine"):
        run(judging.judge(pair()))
    assert ended == ["failed", "cancelled"]
