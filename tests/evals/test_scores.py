"""Scores against a case counted by hand, and against LLMBar's published statistics of real judges."""

from __future__ import annotations

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.scores import Scores, score
from evals.verdicts import Gold, Judgement, Order, Verdict


def judged(pair: str, gold: Gold | None, order: Order, verdict: Verdict, subset: str = "") -> Judgement:
    return Judgement("made", pair, subset, gold, order, 0, "compact", "", verdict, 1, 1, "judge", 0)


def both(pair: str, gold: Gold, ab: Verdict, ba: Verdict, subset: str = "") -> list[Judgement]:
    return [judged(pair, gold, "ab", ab, subset), judged(pair, gold, "ba", ba, subset)]


def test_every_field_of_a_case_counted_by_hand() -> None:
    judgements = [
        *both("p0", "a", "a", "a", "maths"),  # right, right; the first shown, the second shown
        *both("p1", "b", "a", "b", "maths"),  # wrong, right; the first both times
        *both("p2", "a", None, "b", "chat"),  # no verdict, wrong; the first
        *both("p3", "b", "b", "b", "chat"),  # right, right; the second, the first
    ]

    assert score(judgements) == Scores(
        pairs=4,
        accuracy=5 / 8,
        both_orders=2 / 4,
        position_bias=pytest.approx(5 / 7 - 1 / 2),
        no_verdict=1 / 8,
        by_subset={"chat": 2 / 4, "maths": 3 / 4},
    )


@pytest.mark.parametrize(
    ("ab", "ba", "bias"), [("a", "b", 0.5), ("b", "a", -0.5), ("a", "a", 0.0), (None, None, 0.0), (None, "b", 0.5)]
)
def test_position_bias_is_of_verdicts_that_name_the_first_shown(ab: Verdict, ba: Verdict, bias: float) -> None:
    assert score(both("p0", "a", ab, ba)).position_bias == bias


def test_no_verdict_is_wrong_even_where_gold_is_a_tie() -> None:
    scores = score(both("p0", "tie", None, "tie"))

    assert (scores.accuracy, scores.both_orders, scores.no_verdict) == (0.5, 0.0, 0.5)


def test_judgements_may_come_in_any_order_and_from_an_iterator() -> None:
    ab, ba = zip(both("p0", "a", "a", "b"), both("p1", "b", "b", "b"), strict=True)

    assert score(iter([*ba, *ab])) == score([*ab, *ba])


@pytest.mark.parametrize(
    ("judgements", "problem"),
    [
        ([*both("p0", "a", "a", "a"), judged("p0", "a", "ba", "b")], r"pair 'p0' was judged twice in order ba"),
        ([*both("p0", "a", "a", "a"), judged("p1", "a", "ab", "a")], r"pair 'p1' was not judged in order ba"),
        ([judged("p1", "a", "ba", "a")], r"pair 'p1' was not judged in order ab"),
        ([judged("p2", None, "ab", "a"), judged("p2", None, "ba", "a")], r"pair 'p2' has no gold"),
        ([], r"no judgement"),
    ],
)
def test_incomplete_judgements_are_an_error(judgements: list[Judgement], problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        score(judgements)


def real_judges(folder: Path) -> Iterator[tuple[dict[str, str], list[Judgement]]]:
    """The published statistics of every GPT-4 judge and subset of LLMBar, with that judge's verdicts."""
    judges: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    with gzip.open(folder / "llmbar_judge_outputs_gpt4.jsonl.gz", "rt", encoding="utf-8") as file:
        for row in map(json.loads, file):
            orders: tuple[tuple[Order, str], ...] = (("ab", "swap = False"), ("ba", "swap = True"))
            for order, name in orders:
                winner = row["rounds"][-1][name]["winner"]  # of the outputs as the data set names them
                verdict: Verdict = {"1": "a", "2": "b"}.get(winner)  # type: ignore[assignment]
                gold: Gold = "a" if row["label"] == 1 else "b"
                judges[row["subset"], row["evaluator"]].append(
                    judged(str(row["idx"]), gold, order, verdict, row["subset"])
                )
    for line in (folder / "llmbar_published_statistics.jsonl").read_text(encoding="utf-8").splitlines():
        published = json.loads(line)
        if judgements := judges.pop((published["subset"], published["evaluator"]), None):
            yield published, judgements
    assert not judges


def test_llmbars_published_statistics_come_out(shared_data: Path) -> None:
    compared = 0
    for published, judgements in real_judges(shared_data / "llmbar"):
        counts = {
            name: [int(n) for n in re.match(r"(\d+) / (\d+)", published[f"correct_{name}"]).groups()]  # type: ignore[union-attr]
            for name in ("False", "True", "both")
        }
        scores = score(judgements)

        assert scores.pairs == counts["both"][1]
        assert scores.both_orders == pytest.approx(counts["both"][0] / counts["both"][1])
        right, shown = (counts["False"][i] + counts["True"][i] for i in range(2))
        assert scores.accuracy == pytest.approx(right / shown)
        assert scores.by_subset == {published["subset"]: scores.accuracy}
        compared += 1

    assert compared == 81
