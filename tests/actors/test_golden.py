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

from actors.config import OptimizerConfig, PlacementConfig, PolicyConfig, RolloutConfig
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from tests.dealing import random_groups, update

GOLDEN = json.loads((Path(__file__).parent / "golden_losses.json").read_text())


@pytest.mark.parametrize(
    ("name", "settings", "minibatches", "tolerance"),
    [
        ("padded", {"share_prompts": False}, 1, 2e-5),
        ("padded", {}, 1, 2e-5),
        ("two_optimizer_steps", {}, 2, 2e-5),
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
        policy_group = PolicyGroup.start(placement, make_model(), policy, OptimizerConfig(lr=1e-3), total_steps=10)
        for step, expected in enumerate(GOLDEN[name]):
            batch = random_groups(step)
            references = [[np.full(len(r.ids), -5.0, np.float32) for r in group.rollouts] for group in batch]
            found = update(policy_group, batch, references, minibatches)
            for number, value in expected.items():
                assert found[number] == pytest.approx(value, rel=tolerance, abs=tolerance), (step, number)
    finally:
        placement.release()
