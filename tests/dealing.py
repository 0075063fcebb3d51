"""GRPO steps on groups of random tokens, without engines: what to train on, and an actor that deals it to the ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.config import LossConfig
from actors.policy import PolicyGroup
from actors.records import Prompt, Rollout, RolloutGroup
from actors.shares import Share, shares
from evals.pairs import Message, Pair

PAIR = Pair("p", (Message(role="user", content="?"),), "x", "y", "a")


def random_groups(seed: int = 0, count: int = 5, samples: int = 4) -> list[RolloutGroup]:
    """Groups of random tokens of uneven lengths. The golden losses are those of these very draws."""
    rng = np.random.default_rng(seed)

    def rollout() -> Rollout:
        ids = rng.integers(5, 300, rng.integers(3, 30)).astype(np.int32)
        log_probs = rng.normal(-3, 1, len(ids)).astype(np.float32)
        return Rollout(ids, log_probs, truncated=False, versions=np.ones_like(ids))

    def prompt() -> Prompt:
        return Prompt(PAIR, "ab", rng.integers(5, 300, rng.integers(8, 20)).astype(np.int32))

    return [
        RolloutGroup(index, prompt(), tuple(rollout() for _ in range(samples)), version=1) for index in range(count)
    ]


def update(
    policy: PolicyGroup, batch: Sequence[RolloutGroup], references: Sequence[Any], minibatches: int = 1
) -> dict[str, float]:
    """A step with random advantages, the same ones every time."""
    rng = np.random.default_rng(1)
    dealt = shares(
        [ray.put(group) for group in batch],
        [ray.put(reference) for reference in references],
        advantages=[rng.normal(size=len(group.rollouts)).tolist() for group in batch],
        lengths=[[(len(g.prompt.ids) + len(r.ids), len(r.ids)) for r in g.rollouts] for g in batch],
        minibatches=minibatches,
        policy=policy.policy,
    )
    return policy.update_grpo(dealer(dealt), 1, LossConfig(kl_coef=0.1), temperature=1.0)


def dealer(shares: Sequence[Share]) -> ActorHandle:
    """Start an actor that has a share for each rank. Its class travels by value: actors cannot import test modules."""

    class Dealer:
        def __init__(self, shares: Sequence[Share]):
            self._shares = shares

        def share(self, step: int, rank: int) -> Share:
            return self._shares[rank]

    return ray.remote(Dealer).options(num_cpus=0).remote(shares)
