"""Weights on their way from ZeRO-3 ranks to real vLLM engines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import ray
import torch
from transformers import AutoModelForCausalLM

from actors.config import OptimizerConfig, PlacementConfig, PolicyConfig, RolloutConfig, WeightsConfig
from actors.errors import PolicyError
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from actors.records import Example
from actors.rollout import RolloutPool, Sampling, Task, _RolloutEngine
from evals.synthetic import SyntheticTask

TEXT = [7 + (13 * i) % 290 for i in range(70)]
TOLERANCE = 1e-3
ROLLOUT = RolloutConfig(engines=1, max_model_len=512, max_num_seqs=32, kv_cache_gib=0.25)
SAMPLING = Sampling(samples=2, temperature=1.0, top_p=1.0, max_new_tokens=12)


def unrepaired_engine() -> type:
    """An engine as vLLM leaves it on a CPU: a tied lm_head is not packed again after an update.

    The class is made here so that it travels to the actor by value; test modules cannot be imported there.
    """

    class UnrepairedEngine(_RolloutEngine):
        def __init__(self, *arguments: object):
            from actors import weights

            weights.repack_lm_head = lambda model, device: None
            super().__init__(*arguments)

    return UnrepairedEngine


@pytest.fixture(scope="module")
def start(ray_session: None) -> Iterator[Callable[..., tuple[PolicyGroup, RolloutPool]]]:
    """Starts a policy and one engine on the same model."""
    placements = []

    def start(
        model: Path, ranks: int, engine: type = _RolloutEngine, in_flight: Literal["keep", "abort"] = "keep"
    ) -> tuple[PolicyGroup, RolloutPool]:
        rollout = ROLLOUT.model_copy(update={"in_flight": in_flight})
        policy = PolicyConfig(ranks=ranks, threads=1, persistence_threshold=0)
        placement = Placement.reserve(PlacementConfig(), plan(PlacementConfig(), policy, ROLLOUT, None))
        placements.append(placement)
        handle = ray.remote(engine).options(**placement.engine(0, ROLLOUT))
        pool = RolloutPool([handle.remote(str(model), "compact", "float32", rollout, "shm", "cpu")], timeout_s=300)
        group = PolicyGroup.start(placement, model, policy, OptimizerConfig(lr=0.02), total_steps=10)
        pool.wait()
        group.connect_engines(pool, 1, WeightsConfig(bucket_mib=1))
        return group, pool

    yield start
    for placement in placements:
        placement.release()


def train_a_step(policy: PolicyGroup) -> None:
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(5, 300, 20).astype(np.int32), prompt_length=4) for _ in range(4)]
    policy.update_sft(ray.put(examples), [(20, 16)] * 4)


@pytest.mark.parametrize(
    ("tied", "ranks"),
    [(True, 2), *(pytest.param(*one, marks=pytest.mark.thorough) for one in [(False, 1), (True, 1), (False, 2)])],
)
def test_trainer_and_engine_agree_after_every_sync(
    start: Callable[..., tuple[PolicyGroup, RolloutPool]], make_model: Callable[..., Path], tied: bool, ranks: int
) -> None:
    policy, pool = start(make_model(tied=tied), ranks)
    task = SyntheticTask(0).pair("heldout", 0)
    for version in (1, 2):
        before = pool.score(TEXT)[0]
        train_a_step(policy)
        assert np.abs(policy.score(TEXT) - before).max() > 10 * TOLERANCE, "the step must change what is compared"
        assert policy.sync(TEXT, TOLERANCE) <= TOLERANCE
        # Cached prefixes are of the new weights too: the same text again, now with blocks in the cache.
        np.testing.assert_allclose(pool.score(TEXT)[0], policy.score(TEXT), atol=TOLERANCE)
        group = ray.get(next(pool.rollout([Task(0, task, "ab")], SAMPLING, seed=version))[1])
        assert group.version == version
        whole = np.concatenate([group.prompt.ids, group.rollouts[0].ids])
        np.testing.assert_allclose(
            policy.score(whole.tolist())[len(group.prompt.ids) - 1 :], group.rollouts[0].log_probs, atol=TOLERANCE
        )


@pytest.mark.parametrize("in_flight", ["keep", "abort"])
def test_new_weights_arrive_while_judgements_are_being_sampled(
    start: Callable[..., tuple[PolicyGroup, RolloutPool]],
    make_model: Callable[..., Path],
    in_flight: Literal["keep", "abort"],
) -> None:
    """Every token has the version that it was sampled under, and that version's log-probability."""
    folder = make_model(tied=True)
    policy, pool = start(folder, ranks=1, in_flight=in_flight)
    policy.sync(TEXT, TOLERANCE)
    train_a_step(policy)
    asked = [Task(i, SyntheticTask(0).pair("heldout", i), "ab") for i in range(12)]
    long = Sampling(samples=4, temperature=1.0, top_p=1.0, max_new_tokens=300)
    arriving = pool.engines[0].rollout.options(num_returns="streaming").remote(asked, long, 1)
    time.sleep(1)  # 14,400 tokens take several
    policy.sync(TEXT, TOLERANCE)
    groups = [group for group in map(ray.get, arriving) if not isinstance(group, int)]

    assert sorted(group.index for group in groups) == list(range(12)), "nothing is lost, and nothing comes twice"
    rollouts = [(group.prompt, one) for group in groups for one in group.rollouts]
    assert {len(group.rollouts) for group in groups} == {4}
    assert all((np.diff(one.versions) >= 0).all() for _, one in rollouts)
    seen = {tuple(sorted(set(one.versions.tolist()))) for _, one in rollouts}
    assert ((1, 2) in seen) == (in_flight == "keep"), seen
    assert in_flight == "keep" or (2,) in seen, "nothing was being sampled when the weights arrived"
    before = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for prompt, one in rollouts:
        whole = np.concatenate([prompt.ids, one.ids]).tolist()
        with torch.no_grad():
            logits = before(torch.tensor([whole])).logits[0, len(prompt.ids) - 1 : -1]
        old = logits.log_softmax(-1).gather(-1, torch.tensor(one.ids).long()[:, None])[:, 0].numpy()
        new = policy.score(whole)[len(prompt.ids) - 1 :]
        expected = np.where(one.versions == 1, old, new)
        np.testing.assert_allclose(one.log_probs, expected, atol=TOLERANCE)


@pytest.mark.thorough
def test_a_stale_lm_head_stops_the_run(
    start: Callable[..., tuple[PolicyGroup, RolloutPool]], make_model: Callable[..., Path]
) -> None:
    """What happens without `repack_lm_head`, and that the probe finds it, with both values."""
    policy, _ = start(make_model(tied=True), ranks=1, engine=unrepaired_engine())
    train_a_step(policy)
    with pytest.raises(PolicyError, match=r"-\d+\.\d+ in the trainer and -\d+\.\d+ in the engine"):
        policy.sync(TEXT, TOLERANCE)
