"""Traces made from labels."""

from __future__ import annotations

import random
from typing import get_args

import pytest

from evals.pairs import Message, Pair
from evals.prompts import COMPACT
from evals.traces import label_trace
from evals.verdicts import ORDERS, Gold, Order


def pair(gold: Gold) -> Pair:
    return Pair("p", (Message(role="user", content="?"),), "x", "y", gold)


@pytest.mark.parametrize("gold", ["a", "b"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_trace_is_complete_and_right(gold: Gold, order: Order) -> None:
    parsed = COMPACT.parse(label_trace(pair(gold), order, random.Random(0), slip_rate=0.0), order)
    assert parsed.verdict == gold
    assert parsed.sections.keys() == {"type", "rubric", "justify", "eval", "answer"}


def test_slips_end_in_the_other_verdict() -> None:
    rng = random.Random(0)
    wrong = sum(COMPACT.parse(label_trace(pair("a"), "ba", rng, 0.3), "ba").verdict == "b" for _ in range(2000))
    assert 540 < wrong < 660  # 600 expected; three standard deviations are 61


def test_ties_are_drawn_by_lot() -> None:
    rng = random.Random(0)
    verdicts = {COMPACT.parse(label_trace(pair(get_args(Gold)[2]), "ab", rng, 0.0), "ab").verdict for _ in range(50)}
    assert verdicts == {"a", "b"}
