"""Batches made ahead of the trainer: never further than they may be, and the same whatever finishes first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from actors.collector import Asked, _Collector, merged
from actors.config import GrpoConfig, PolicyConfig, RolloutConfig
from actors.records import GroupScore, Prompt, Rollout, RolloutGroup
from actors.rollout import RolloutPool, Sampling, Task
from evals.synthetic import SyntheticTask


def stub_engine() -> Any:
    """An engine that answers at once; even tasks take longer than odd ones, so that groups finish out of order."""

    class StubEngine:
        def rollout(self, tasks: Sequence[Task], sampling: Sampling, seed: int) -> Iterator[int | RolloutGroup]:
            ids = np.zeros(3, np.int32)
            one = Rollout(ids, ids.astype(np.float32), False, ids)
            for place in sorted(range(len(tasks)), key=lambda place: -tasks[place].index % 2):
                task = tasks[place]
                yield place
                yield RolloutGroup(task.index, Prompt(task.pair, task.order, ids), (one,) * 2, 0)

    return ray.remote(StubEngine).options(num_cpus=0).remote()


def stub_verifier(dull: Callable[[int], bool]) -> Any:
    """Rewards one judgement of a group and not the other; where `dull` says so of its index, both."""

    class StubVerifier:
        def score(self, *groups: RolloutGroup) -> tuple[list[GroupScore], list[Any]]:
            no = [False] * 2
            return [
                GroupScore(g.index, [1.0, float(dull(g.index))], [{}] * 2, no, no, no, [3, 3], no, 3, {0: 6})
                for g in groups
            ], []

        def write(self, path: Path, extra: dict[str, Any], *pairs: list[Any]) -> int:
            return len(pairs)

    return ray.remote(StubVerifier).options(num_cpus=0).remote()


@pytest.fixture
def make(ray_session: None, tmp_path: Path) -> Callable[..., _Collector]:
    """Makes a collector in this process, on stubs."""

    def make(steps: int = 6, dull: Callable[[int], bool] = lambda index: False, **grpo: Any) -> _Collector:
        settings = GrpoConfig(groups=4, **grpo)
        asked = Asked(settings, RolloutConfig(timeout_s=60), PolicyConfig(), True, 0, steps, tmp_path)
        pairs = SyntheticTask(0)

        def tasks() -> Iterator[Task]:
            for index in range(1000):
                yield Task(index, pairs.pair("train", index // 2), ("ab", "ba")[index % 2])

        pool = RolloutPool([stub_engine(), stub_engine()], 60)
        return _Collector(asked, tasks, pool, stub_verifier(dull), [])

    return make


def holds(collector: _Collector, steps: set[int]) -> bool:
    """Whether the batches of these steps are made, and then no other."""
    until = time.monotonic() + 30
    while set(collector._batches) < steps and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.5)
    return set(collector._batches) == steps


@pytest.mark.parametrize("staleness", [0, 1, 2])
def test_no_batch_is_begun_before_it_may_be(make: Callable[..., _Collector], staleness: int) -> None:
    collector = make(max_staleness=staleness)
    assert holds(collector, set(range(1, 2 + staleness)))
    collector.batch(1)
    assert holds(collector, set(range(2, 2 + staleness))), "the first step has not been taken yet"
    collector.batch(2)
    assert holds(collector, set(range(3, 3 + staleness)))


def test_nothing_is_made_beyond_the_last_step(make: Callable[..., _Collector]) -> None:
    collector = make(steps=2, max_staleness=5)
    assert holds(collector, {1, 2})


def trained_on(collector: _Collector) -> list[int]:
    """The indices of the groups that the one rank trains on in the first step, in its order."""
    return [group.index for group in ray.get(collector.share(1, 0).groups)]


def test_groups_stand_in_the_order_of_their_prompts(make: Callable[..., _Collector]) -> None:
    collector = make()
    collector.batch(1)
    assert trained_on(collector) == [0, 1, 2, 3]


def test_groups_that_teach_nothing_are_sampled_anew(make: Callable[..., _Collector]) -> None:
    collector = make(dull=lambda index: index in (1, 4))
    batch = collector.batch(1)
    assert trained_on(collector) == [0, 2, 3, 5], "one is missing: a pair more is sampled"
    assert (batch.metrics["groups"], batch.metrics["dropped"], batch.metrics["refills"]) == (4, 2, 1)


def test_a_batch_without_anything_to_learn_is_not_trained_on(make: Callable[..., _Collector]) -> None:
    batch = make(dull=lambda index: True).batch(1)
    assert batch.groups == 0
    assert batch.metrics["zero_variance"] == 1


def test_what_went_wrong_is_told_to_whoever_waits(make: Callable[..., _Collector]) -> None:
    def breaks(index: int) -> bool:
        raise RuntimeError("the rule is broken")

    with pytest.raises(RuntimeError, match="the rule is broken"):
        make(dull=breaks).batch(1)


def test_time_is_counted_once_however_many_work() -> None:
    assert merged([(5, 6), (0, 2), (1, 3), (3, 4)]) == [(0, 4), (5, 6)]
    assert merged([]) == []
