"""Losses of four GRPO steps, as they were before the update was made faster: an optimisation does not change them.

The file was written by the code before `actors/scoring.py`, `actors/shares.py` and one collective a bucket. Write a
new one only where the algorithm itself is meant to change.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.config import LossConfig, OptimizerConfig, PlacementConfig, PolicyConfig, RolloutConfig
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from actors.records import Prompt, Rollout, RolloutGroup
from actors.shares import shares
from evals.pairs import Message, Pair
from tests.dealing import dealer

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())
PAIR = Pair("p", (Message(role="user", content="?"),), "a", "b", "a", "made", None)


def groups(seed: int) -> list[RolloutGroup]:
    """The draws that the file was made from."""
    rng = np.random.default_rng(seed)

    def rollout() -> Rollout:
        ids = rng.integers(5, 300, rng.integers(3, 30)).astype(np.int32)
        log_probs = rng.normal(-3, 1, len(ids)).astype(np.float32)
        return Rollout(ids, log_probs, truncated=False, versions=np.ones_like(ids))

    def prompt() -> Prompt:
        return Prompt(PAIR, "ab", rng.integers(5, 300, rng.integers(8, 20)).astype(np.int32))

    return [RolloutGroup(index, prompt(), tuple(rollout() for _ in range(4)), version=1) for index in range(5)]


@pytest.mark.parametrize(
    ("name", "settings", "minibatches", "tolerance"),
    [
        ("padded", {}, 1, 2e-5),
        ("two_optimizer_steps", {}, 2, 2e-5),
        ("packed", {"packing": 256}, 1, 2e-5),
        pytest.param("bfloat16", {"dtype": "bfloat16"}, 1, 2e-2, marks=pytest.mark.thorough),
    ],
)
def test_the_losses_are_those_of_before(
    ray_session: None,
    make_model: Callable[..., Path],
    name: str,
    settings: dict[str, Any],
    minibatches: int,
    tolerance: float,
) -> None:
    policy = PolicyConfig(threads=1, micro_batch_tokens=200, persistence_threshold=0, **settings)
    request = plan(PlacementConfig(), policy, RolloutConfig(engines=1), None)
    placement = Placement.reserve(PlacementConfig(), request)
    try:
        group = PolicyGroup.start(placement, make_model(), policy, OptimizerConfig(lr=1e-3), total_steps=10)
        for step, expected in enumerate(GOLDEN[name]):
            batch, rng = groups(step), np.random.default_rng(1)
            dealt = shares(
                [ray.put(one) for one in batch],
                [ray.put([np.full(len(r.ids), -5.0, np.float32) for r in one.rollouts]) for one in batch],
                [rng.normal(size=len(one.rollouts)).tolist() for one in batch],
                [[(len(one.prompt.ids) + len(r.ids), len(r.ids)) for r in one.rollouts] for one in batch],
                minibatches,
                policy,
            )
            found = group.update_grpo(dealer(dealt), step, LossConfig(kl_coef=0.1), 1.0)
            for number, value in expected.items():
                assert found[number] == pytest.approx(value, rel=tolerance, abs=tolerance), (step, number)
    finally:
        placement.release()
