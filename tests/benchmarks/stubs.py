"""Actors that answer at once: everything of the graph but the models, to see what moving things around costs."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.rank import Disagreement, Statistics
from actors.records import GroupScore, Prompt, Rollout, RolloutGroup
from actors.rollout import Sampling, Task
from actors.shares import Share


@ray.remote
class StubEngine:
    """Gives every task a group of `samples` judgements of `max_new_tokens` tokens."""

    def rollout(self, tasks: Sequence[Task], sampling: Sampling, seed: int) -> Iterator[int | RolloutGroup]:
        """As the engine's: places and groups."""
        begun = time.time()
        ids = np.zeros(sampling.max_new_tokens, np.int32)
        one = Rollout(ids, ids.astype(np.float32), truncated=True, versions=ids + 1)
        for place, task in enumerate(tasks):
            prompt = Prompt(task.pair, task.order, np.zeros(64, np.int32))
            yield place
            yield RolloutGroup(task.index, prompt, (one,) * sampling.samples, 1, (begun, time.time()))


@ray.remote
class StubVerifier:
    """Rewards the first judgement of every group, and no other."""

    def score(self, *groups: RolloutGroup) -> tuple[list[GroupScore], list[Any]]:
        """As the verifier's; no judgements are kept."""
        return [_score(group) for group in groups], []

    def write(self, *_: object) -> int:
        """Write nothing."""
        return 0


def _score(group: RolloutGroup) -> GroupScore:
    count = len(group.rollouts)
    lengths = [len(rollout.ids) for rollout in group.rollouts]
    no, rewards = [False] * count, [1.0] + [0.0] * (count - 1)
    versions = {group.version: sum(lengths)}
    return GroupScore(group.index, rewards, [{}] * count, no, no, no, lengths, no, 64, versions, group.work)


@ray.remote
class StubRank:
    """Takes its share, fetches nothing, and says that it trained; a step takes `pace` seconds, or longer if it must."""

    def __init__(self, pace: float = 0.0):
        self._pace, self._ended = pace, time.time()

    def update_grpo(self, collector: ActorHandle, step: int, *_: object) -> Statistics:
        """As a rank's."""
        share: Share = ray.get(collector.share.remote(step, 0))
        time.sleep(max(0.0, self._ended + self._pace - time.time()))
        self._ended = time.time()
        return Statistics(tokens=1.0, steps=len(share.plans), work=[(self._ended, self._ended)])

    def send_weights(self, *_: object) -> Disagreement:
        """As a rank's, with nothing to send."""
        return Disagreement()
