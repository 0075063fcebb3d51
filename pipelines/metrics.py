"""The numbers of a step: what metrics.jsonl, TensorBoard and the terminal show."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from actors.records import GroupScore, zero_variance

_UPDATE = (
    "loss",
    "kl",
    "entropy",
    "clip_ratio",
    "corrected",
    "mismatch",
    "mismatch_max",
    "grad_norm",
    "lr",
    "trained_tokens",
)


def step_metrics(
    found: Sequence[Sequence[GroupScore]],
    kept: int,
    refills: int,
    update: Mapping[str, float],
    probe: float | None,
    version: int,
    seconds: Mapping[str, float],
) -> dict[str, Any]:
    """Everything that is recorded of one step; `found` has all its groups, those that share a baseline together.

    Shares and means are over all judgements that the step sampled, dropped groups included. Log-probability
    differences, KL and entropy are in nats; `kl` and what follows from the update are absent (null) in a step that
    had nothing to train on. `accuracy`, `no_verdict` and `first_share` are null where groups were not scored against
    gold. `tokens_per_second` counts sampled tokens over the seconds of the rollout phase.
    """
    sampled = [score for together in found for score in together]
    rewards = [reward for score in sampled for reward in score.rewards]
    lengths = [length for score in sampled for length in score.lengths]
    tokens = sum(lengths)
    return {
        "version": version,
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
        **{name: update.get(name) for name in _UPDATE},
        "probe": probe,
        "tokens": tokens,
        "tokens_per_second": tokens / seconds["rollout"],
        "seconds": dict(seconds),
    }


HEADER = (
    "  step   reward     acc       kl  entropy  length  same-reward  mismatch   rollout  refer  update   sync     tok/s"
)


def step_line(step: int, metrics: Mapping[str, Any]) -> str:
    """One step as one line under HEADER; seconds by phase, "-" for what the step did not have."""
    seconds = metrics["seconds"]
    return (
        f"{step:>6}  {metrics['reward']:+7.3f} {_number(metrics['accuracy'], '7.3f')} {_number(metrics['kl'], '8.4f')} "
        f"{_number(metrics['entropy'], '8.3f')} {metrics['length']:7.1f} {metrics['zero_variance']:12.0%} "
        f"{_number(metrics['mismatch'], '9.1e')}   {seconds['rollout']:6.2f}s {seconds.get('reference', 0):5.2f}s "
        f"{seconds.get('update', 0):6.2f}s {seconds.get('sync', 0):5.2f}s {metrics['tokens_per_second']:9,.0f}"
    )


def _number(value: float | None, spec: str) -> str:
    return "-".rjust(int(spec.split(".")[0])) if value is None else format(value, spec)


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
