"""Scores that every benchmark gets beside its own rule: orders, bias, missing verdicts, tokens; and intervals.

No verdict counts as wrong everywhere here, whatever credit a benchmark's rule gives it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from evals.benchmarks.base import Scoreboard, ScoringError, Unit, by_pair
from evals.verdicts import Judgement, Order

DRAWS = 2000
"""Bootstrap samples behind an interval."""


class Interval(NamedTuple):
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Scores:
    """One judge on pairs judged in one order or in both. Shares are of judgements, except where pairs are named.

    `both_orders` is the share of pairs that are right in both orders, `consistency` the share whose two orders name
    the same candidate (or both a tie); both are None where pairs were judged in one order. `position_bias` is the
    share of verdicts for the candidate shown first among those that name a candidate, less one half: 0 is none, +0.5
    is a judge that always prefers the first; its interval is Wilson's. `tokens` is the mean length of a judgement.
    """

    judgements: int
    pairs: int
    accuracy: float
    accuracy_by_order: Mapping[Order, float]
    both_orders: float | None
    consistency: float | None
    position_bias: float
    position_bias_interval: Interval
    no_verdict: float
    ties: float
    tokens: float | None
    by_subset: Mapping[str, float]


def score(judgements: Iterable[Judgement], both_orders: bool = False) -> Scores:
    """Score judgements with one sample a pair and order.

    Raises ScoringError where a pair has no gold label or was judged twice in an order, and where pairs were not all
    judged in the same number of orders: a missing judgement is an error, not a smaller denominator.
    """
    pairs = by_pair(judgements, both_orders)
    judged = [judgement for orders in pairs.values() for judgement in orders.values()]
    subsets: dict[str, list[bool]] = defaultdict(list)
    orders: dict[Order, list[bool]] = defaultdict(list)
    for judgement in judged:
        subsets[judgement.subset].append(judgement.right)
        orders[judgement.order].append(judgement.right)
    named = [judgement for judgement in judged if judgement.verdict in ("a", "b")]
    first = sum(judgement.verdict == judgement.order[0] for judgement in named)
    swapped = [tuple(orders.values()) for orders in pairs.values() if len(orders) == 2]
    lengths = [judgement.completion_tokens for judgement in judged if judgement.completion_tokens is not None]
    return Scores(
        judgements=len(judged),
        pairs=len(pairs),
        accuracy=_share([judgement.right for judgement in judged]),
        accuracy_by_order={order: _share(right) for order, right in sorted(orders.items())},
        both_orders=_share([one.right and two.right for one, two in swapped]) if swapped else None,
        consistency=_share([one.verdict == two.verdict is not None for one, two in swapped]) if swapped else None,
        position_bias=first / len(named) - 0.5 if named else 0.0,
        position_bias_interval=_bias_interval(first, len(named)),
        no_verdict=_share([judgement.verdict is None for judgement in judged]),
        ties=_share([judgement.verdict == "tie" for judgement in judged]),
        tokens=sum(lengths) / len(lengths) if lengths else None,
        by_subset={name: _share(right) for name, right in sorted(subsets.items())},
    )


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


def _bias_interval(first: int, named: int) -> Interval:
    if not named:
        return Interval(-0.5, 0.5)
    from scipy.stats import binomtest

    low, high = binomtest(first, named).proportion_ci(method="wilson")
    return Interval(float(low) - 0.5, float(high) - 0.5)


def intervals(scoreboard: Scoreboard, seed: int = 0) -> dict[str, Interval]:
    """95 % percentile bootstrap intervals of the headline (`score`) and of every section.

    Prompts are drawn with replacement within each stratum, with all units of a prompt together; the strata's weights
    are fixed, as the rule fixes them.
    """
    rng = np.random.default_rng(seed)
    draws = {stratum.name: _draws(*_clusters(stratum.units), rng) for stratum in scoreboard.strata}
    return {name: _percentiles(values) for name, values in _combine(scoreboard, draws).items()}


@dataclass(frozen=True)
class Comparison:
    """Two judges on the same items: `difference` is the first's score less the second's, by the benchmark's rule.

    `first_only` and `second_only` count the units that one judge gets fully right and the other does not; `p_value`
    is of McNemar's exact test on them (two-sided).
    """

    difference: float
    interval: Interval
    first_only: int
    second_only: int
    p_value: float


def compare(first: Scoreboard, second: Scoreboard, seed: int = 0) -> Comparison:
    """Compare two judges' scoreboards of one benchmark, item by item.

    Raises ScoringError where they are not of the same benchmark, rule and items.
    """
    if (first.benchmark, first.rule) != (second.benchmark, second.rule):
        raise ScoringError(
            f"two judges are compared by one rule: {first.benchmark} ({first.rule}) is not "
            f"{second.benchmark} ({second.rule})"
        )
    rng = np.random.default_rng(seed)
    draws, wins, losses = {}, 0, 0
    if [stratum.name for stratum in first.strata] != [stratum.name for stratum in second.strata]:
        raise ScoringError("the two judges were not judged on the same subsets, so they cannot be compared")
    weights = first.weights()
    for one, two in zip(first.strata, second.strata, strict=True):
        theirs = {unit.id: unit.credit for unit in two.units}
        if len(theirs) != len(two.units) or theirs.keys() != {unit.id for unit in one.units}:
            odd = sorted(theirs.keys() ^ {unit.id for unit in one.units})[:3]
            raise ScoringError(f"{one.name}: the two judges were not given the same items (first: {', '.join(odd)})")
        draws[one.name] = _draws(*_clusters(_differences(one.units, theirs)), rng)
        if not weights[one.name]:
            continue  # beside the headline
        wins += sum(unit.credit == 1 > theirs[unit.id] for unit in one.units)
        losses += sum(unit.credit < 1 == theirs[unit.id] for unit in one.units)
    from scipy.stats import binomtest

    interval = _percentiles(_combine(first, draws)["score"])
    p_value = float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0
    return Comparison(first.score - second.score, interval, wins, losses, p_value)


def _differences(units: Sequence[Unit], theirs: Mapping[str, float]) -> list[Unit]:
    return [Unit(unit.id, unit.prompt, unit.credit - theirs[unit.id]) for unit in units]


def _clusters(units: Sequence[Unit]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Sum of credits and number of units of every prompt, each [prompts]."""
    index: dict[str, int] = {}
    at = [index.setdefault(unit.prompt, len(index)) for unit in units]
    credits, counts = np.zeros(len(index)), np.zeros(len(index))
    np.add.at(credits, at, [unit.credit for unit in units])
    np.add.at(counts, at, 1)
    return credits, counts


def _draws(
    credits: npt.NDArray[np.float64], counts: npt.NDArray[np.float64], rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Mean credit of DRAWS samples of the prompts, [DRAWS]. Prompts of equal credit and count are drawn as one."""
    kinds, times = np.unique(np.stack([credits, counts]), axis=1, return_counts=True)
    drawn = rng.multinomial(len(credits), times / len(credits), size=DRAWS)
    return (drawn @ kinds[0]) / (drawn @ kinds[1])


def _combine(
    scoreboard: Scoreboard, draws: Mapping[str, npt.NDArray[np.float64]]
) -> dict[str, npt.NDArray[np.float64]]:
    combined = {"score": np.zeros(DRAWS)}
    for name, weight in scoreboard.weights().items():
        combined["score"] = combined["score"] + weight * draws[name]
    for section in scoreboard.section_weights:
        strata = [stratum for stratum in scoreboard.strata if stratum.section == section]
        total = math.fsum(stratum.weight for stratum in strata)
        combined[section] = sum((s.weight / total * draws[s.name] for s in strata), np.zeros(DRAWS))
    return combined


def _percentiles(values: npt.NDArray[np.float64]) -> Interval:
    low, high = np.percentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))
