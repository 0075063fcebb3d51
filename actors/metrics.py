"""The numbers of a batch: what is known of a step before the update."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from actors.records import GroupScore, zero_variance


def batch_metrics(found: Sequence[Sequence[GroupScore]], kept: int, refills: int) -> dict[str, Any]:
    """What is recorded of a batch; `found` has all its groups, those that share a baseline together.

    Shares and means are over all judgements that were sampled, dropped groups included. `accuracy`, `no_verdict` and
    `first_share` are null where groups were not scored against gold. `versions` counts tokens by the weight version
    that they were sampled under.
    """
    sampled = [score for together in found for score in together]
    rewards = [reward for score in sampled for reward in score.rewards]
    lengths = [length for score in sampled for length in score.lengths]
    return {
        "reward": _mean(rewards),
        "reward_parts": _part_means(sampled),
        "accuracy": _mean_if_any([right for score in sampled for right in score.right]),
        "no_verdict": _mean_if_any([none for score in sampled for none in score.none]),
        "first_share": _mean_if_any([first for score in sampled for first in score.first]),
        "length": _mean(lengths),
        "truncated": _mean([cut for score in sampled for cut in score.truncated]),
        "zero_variance": _mean([zero_variance(together) for together in found]),
        "groups": kept,
        "dropped": len(sampled) - kept,
        "refills": refills,
        "tokens": sum(lengths),
        "versions": dict(sum((Counter(score.versions) for score in sampled), Counter[int]())),
    }


def _part_means(sampled: Sequence[GroupScore]) -> dict[str, float]:
    """Each part's mean over the judgements that have it, without its weight."""
    values: dict[str, list[float]] = defaultdict(list)
    for score in sampled:
        for parts in score.parts:
            for name, value in parts.items():
                values[name].append(value)
    return {name: _mean(found) for name, found in values.items()}


def _mean_if_any(values: Sequence[float]) -> float | None:
    return _mean(values) if values else None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
