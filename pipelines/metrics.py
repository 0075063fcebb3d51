"""The numbers of a step: what metrics.jsonl, TensorBoard and the terminal show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from actors.collector import Batch
from actors.records import Interval, merged

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
    batch: Batch, update: Mapping[str, Any], probe: float | None, version: int, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Everything that is recorded of one step; `version` is that of the policy before the update.

    What `actors.metrics.batch_metrics` has of the batch, and of the update: log-probability differences, KL and
    entropy in nats, absent (null) in a step that had nothing to train on. `staleness` has the share of tokens by how
    many versions older than the policy their weights were. `tokens_per_second` counts sampled tokens over the seconds
    that the batch took to make. `work` has the seconds in which engines, reference and ranks worked for this step, and
    those in which any of them did (`working`).
    """
    sampled = dict(batch.metrics)
    tokens = sampled["tokens"]
    ages = {str(version - old): count / tokens for old, count in sorted(sampled.pop("versions").items(), reverse=True)}
    phases = {"generate": batch.generate, "reference": batch.reference, "update": merged(update.get("work", []))}
    together = merged([interval for intervals in phases.values() for interval in intervals])
    return {
        "version": version + 1 if update else version,
        **sampled,
        **{name: update.get(name) for name in _UPDATE},
        "probe": probe,
        "staleness": ages,
        "tokens_per_second": tokens / batch.seconds,
        "seconds": dict(seconds),
        "work": {name: _seconds(work) for name, work in phases.items()} | {"working": _seconds(together)},
    }


HEADER = (
    "  step   reward     acc       kl  entropy  length  same-reward  mismatch   rollout  refer  update   sync     tok/s"
)


def step_line(step: int, metrics: Mapping[str, Any]) -> str:
    """One step as one line under HEADER; "-" for what the step did not have.

    Seconds: waiting for the batch, of that the reference at work, then updating, then sending the weights.
    """
    seconds = metrics["seconds"]
    return (
        f"{step:>6}  {metrics['reward']:+7.3f} {_number(metrics['accuracy'], '7.3f')} {_number(metrics['kl'], '8.4f')} "
        f"{_number(metrics['entropy'], '8.3f')} {metrics['length']:7.1f} {metrics['zero_variance']:12.0%} "
        f"{_number(metrics['mismatch'], '9.1e')}   {seconds['rollout']:6.2f}s {metrics['work']['reference']:5.2f}s "
        f"{seconds.get('update', 0):6.2f}s {seconds.get('sync', 0):5.2f}s {metrics['tokens_per_second']:9,.0f}"
    )


def _number(value: float | None, spec: str) -> str:
    return "-".rjust(int(spec.split(".")[0])) if value is None else format(value, spec)


def _seconds(work: Sequence[Interval]) -> float:
    return sum(end - begin for begin, end in work)
