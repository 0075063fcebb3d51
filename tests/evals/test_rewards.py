"""RM-R1's rule, as its paper states it: +1 for the gold verdict, -1 for all else."""

from __future__ import annotations

import pytest

from evals.rewards import rm_r1
from evals.verdicts import Gold, Verdict


@pytest.mark.parametrize(
    ("verdict", "gold", "reward"),
    [
        ("a", "a", 1.0),
        ("b", "a", -1.0),
        ("tie", "a", -1.0),
        (None, "a", -1.0),
        ("a", "b", -1.0),
        ("b", "b", 1.0),
        (None, "b", -1.0),
        ("a", "tie", -1.0),
        ("tie", "tie", 1.0),
        (None, "tie", -1.0),
    ],
)
def test_only_the_gold_verdict_earns_plus_one(verdict: Verdict, gold: Gold, reward: float) -> None:
    assert rm_r1(verdict, gold) == reward
