"""Scores of a judge on labelled pairs, from its judgements alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from evals.verdicts import ORDERS, Judgement


@dataclass(frozen=True, slots=True)
class Scores:
    """One judge on pairs judged once in each order. Shares are of judgements, except `both_orders`: of pairs.

    `position_bias` is the share of verdicts that name the candidate shown first, less one half: 0 is none, +0.5
    is a judge that always prefers the first. No verdict counts as wrong everywhere.
    """

    pairs: int
    accuracy: float
    both_orders: float
    position_bias: float
    no_verdict: float
    by_subset: dict[str, float]


def score(judgements: Iterable[Judgement]) -> Scores:
    """Score judgements with one sample a pair and order.

    Raises ValueError where a pair was not judged exactly once in each order or has no gold: a missing judgement
    is an error, not a smaller denominator.
    """
    by_pair: dict[str, dict[str, Judgement]] = defaultdict(dict)
    for judgement in judgements:
        if judgement.gold is None:
            raise ValueError(f"pair {judgement.pair_id!r} has no gold label, so it cannot be scored")
        if judgement.order in by_pair[judgement.pair_id]:
            raise ValueError(f"pair {judgement.pair_id!r} was judged twice in order {judgement.order}")
        by_pair[judgement.pair_id][judgement.order] = judgement
    if not by_pair:
        raise ValueError("there is no judgement to score")
    for pair_id, orders in by_pair.items():
        if missing := [order for order in ORDERS if order not in orders]:
            raise ValueError(f"pair {pair_id!r} was not judged in order {missing[0]}")

    judged = [judgement for orders in by_pair.values() for judgement in orders.values()]
    subsets: dict[str, list[bool]] = defaultdict(list)
    for judgement in judged:
        subsets[judgement.subset].append(_right(judgement))
    ruled = [judgement for judgement in judged if judgement.verdict is not None]
    first = sum(judgement.verdict == judgement.order[0] for judgement in ruled)
    return Scores(
        pairs=len(by_pair),
        accuracy=_share([_right(judgement) for judgement in judged]),
        both_orders=_share([all(map(_right, orders.values())) for orders in by_pair.values()]),
        position_bias=first / len(ruled) - 0.5 if ruled else 0.0,
        no_verdict=_share([judgement.verdict is None for judgement in judged]),
        by_subset={name: _share(right) for name, right in sorted(subsets.items())},
    )


def _right(judgement: Judgement) -> bool:
    return judgement.verdict is not None and judgement.verdict == judgement.gold


def _share(values: list[bool]) -> float:
    return sum(values) / len(values)
