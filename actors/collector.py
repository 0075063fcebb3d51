"""Batches to train on, made ahead of the trainer as far as they may be.

The collector does what a step does before the update: it has groups sampled, scored, and the reference's
log-probabilities of them computed, drops groups that teach nothing, samples others in their place, and deals the
batch out to the ranks. So what the driver moves in a step is a few numbers, however large the batch, however long its
judgements, however many the engines.

One collector is one process: with ten engines, played by the same two cores, it passes 900 groups a second, and with
a thousand in a hundred processes 110 (`tests/benchmarks/driver.py`). Where that is less than engines give, the answer
is several of them: each has a part of the engines and every n-th pair, makes its part of every batch, and deals it
out to all ranks; the driver asks each for its `Batch` and a rank each for its `Share`, which cost the same whatever
they stand for. That is not built.

A batch for the update of version v is begun once every engine has version v - max_staleness or a newer one. With
max_staleness 0 that is after the sync to v, and nothing is sampled that is not on-policy. With more, rollouts go on
while the policy trains, and new weights reach the engines in the middle of judgements.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.config import GrpoConfig, LossConfig, PolicyConfig, RolloutConfig
from actors.losses import group_advantages
from actors.metrics import batch_metrics
from actors.records import GroupScore, Interval, merged, zero_variance
from actors.rollout import RolloutPool, Sampling, Task
from actors.shares import Share, shares


@dataclass(frozen=True)
class Batch:
    """What the driver learns of a step's batch; none of it grows with the batch.

    `groups` is how many are trained on; `seconds` is how long it took to make; `generate` and `reference` are when
    engines and reference worked for it. `written` is there once the judgements are on disk.
    """

    groups: int
    metrics: dict[str, Any]
    seconds: float
    generate: list[Interval]
    reference: list[Interval]
    written: ray.ObjectRef


@dataclass(frozen=True)
class Asked:
    """What a collector makes batches of and how. `both_orders`: tasks of a pair's two orders stand together."""

    grpo: GrpoConfig
    rollout: RolloutConfig
    policy: PolicyConfig
    both_orders: bool
    seed: int
    steps: int
    judgements: Path
    """Folder for the judgements of each step."""


@dataclass
class Scored:
    """A group without its tokens: a ref to them, its scores, a ref to its log-probabilities under the reference."""

    group: ray.ObjectRef
    score: GroupScore
    reference: ray.ObjectRef | None = None


@dataclass
class _Wave:
    """What was sampled for a step so far. Groups that share a baseline stand together."""

    kept: list[list[Scored]] = field(default_factory=list)
    sampled: list[list[Scored]] = field(default_factory=list)
    judgements: list[ray.ObjectRef] = field(default_factory=list)
    reference_work: list[ray.ObjectRef] = field(default_factory=list)

    @property
    def groups(self) -> int:
        """How many groups teach something."""
        return sum(map(len, self.kept))


class _Collector:
    """Makes the batches of a run, in a thread of its own; the driver asks for them one after the other."""

    def __init__(
        self,
        asked: Asked,
        tasks: Callable[[], Iterator[Task]],
        pool: RolloutPool,
        verifier: ActorHandle,
        references: Sequence[ActorHandle],
    ):
        self._asked, self._tasks = asked, tasks()
        self._pool, self._verifier, self._references = pool, verifier, references
        self._changed = threading.Condition()
        self._batches: dict[int, Batch] = {}
        self._shares: dict[int, list[Share]] = {}
        self._trained = 0
        self._error: BaseException | None = None
        threading.Thread(target=self._make, daemon=True).start()

    def batch(self, step: int) -> Batch:
        """The batch of a step, from 1, once it is there. Raises what making it raised.

        Whoever asks says by it that the policy has taken the step before, and that every engine has its weights.
        """
        with self._changed:
            self._shares.pop(step - 1, None)
            self._trained = step - 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: step in self._batches or self._error)
            if self._error and step not in self._batches:
                raise self._error
            return self._batches.pop(step)

    def share(self, step: int, rank: int) -> Share:
        """What a rank trains on in a step.

        Ranks ask for it themselves: Ray keeps account of every ref in a record with whoever passes it on, and so the
        driver would pay for each group.
        """
        return self._shares[step][rank]

    def _make(self) -> None:
        try:
            for step in range(1, self._asked.steps + 1):
                with self._changed:
                    self._changed.wait_for(lambda: self._trained >= step - 1 - self._asked.grpo.max_staleness)  # noqa: B023
                made = self._collect(step)
                with self._changed:
                    self._batches[step] = made
                    self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()

    def _collect(self, step: int) -> Batch:
        """Sample groups until enough of them teach something, or the refill rounds are used up.

        Both orders of a pair are sampled in the same wave, so a refill may bring one group more than was missing. A
        group's rewards are final before any of its tokens reach the loss, and the batch's order does not depend on
        which group finished first.
        """
        begun = time.time()
        grpo, both = self._asked.grpo, self._asked.both_orders
        wave = _Wave()
        for round_ in range(1 + grpo.refill_rounds):
            missing = grpo.groups - wave.groups
            tasks = list(itertools.islice(self._tasks, missing + (missing % 2 if both else 0)))
            self._sample(tasks, wave, (self._asked.seed, "step", step, round_))
            if wave.groups >= grpo.groups:
                break
        path = self._asked.judgements / f"step-{step:06d}.jsonl"
        written = self._verifier.write.remote(path, {"step": step}, *wave.judgements)
        reference = ray.get(wave.reference_work, timeout=self._asked.rollout.timeout_s)
        found = [[one.score for one in together] for together in wave.sampled]
        self._shares[step] = self._dealt(wave.kept)
        return Batch(
            wave.groups,
            batch_metrics(found, wave.groups, refills=round_),
            time.time() - begun,
            merged([score.work for together in found for score in together]),
            merged(reference),
            written,
        )

    def _dealt(self, kept: Sequence[Sequence[Scored]]) -> list[Share]:
        """What each rank trains on."""
        trained = [one for together in kept for one in together]
        if not trained:
            return []
        scores = [one.score for one in trained]
        return shares(
            [one.group for one in trained],
            [one.reference for one in trained if one.reference is not None],
            [mine for together in kept for mine in advantages(together, self._asked.grpo.loss)],
            [[(score.prompt_length + length, length) for length in score.lengths] for score in scores],
            self._asked.grpo.minibatches,
            self._asked.policy,
        )

    def _sample(self, tasks: Sequence[Task], wave: _Wave, seed: object) -> None:
        """Sample every task; each pair is scored once all its groups are there, and goes on to the reference."""
        orders = 2 if self._asked.both_orders else 1
        arrived: dict[int, dict[int, ray.ObjectRef]] = defaultdict(dict)
        scoring: dict[ray.ObjectRef, int] = {}
        judged: dict[int, ray.ObjectRef] = {}
        pairs: dict[int, tuple[list[list[Scored]], list[list[Scored]]]] = {}

        def take(timeout: float) -> None:
            """Take in what the verifier has scored; without a timeout, what it has by now."""
            done, _ = ray.wait(list(scoring), num_returns=len(scoring), timeout=timeout)
            for ref in done:
                number = scoring.pop(ref)
                groups = arrived.pop(number)
                sampled = self._baselines([Scored(groups[score.index], score) for score in ray.get(ref)])
                kept = [together for together in sampled if not zero_variance([one.score for one in together])]
                self._refer([one for together in kept for one in together], wave)
                pairs[number] = sampled, kept

        for task, group in self._pool.rollout(tasks, Sampling.of(self._asked.rollout), seed):
            number = task.index // orders
            arrived[number][task.index] = group
            if len(arrived[number]) == orders:
                both = [arrived[number][index] for index in sorted(arrived[number])]
                ref, judged[number] = self._verifier.score.options(num_returns=2).remote(*both)
                scoring[ref] = number
            if scoring:
                take(timeout=0)
        if scoring:
            take(self._asked.rollout.timeout_s)
        if scoring:
            raise TimeoutError(f"the verifier did not score within rollout.timeout_s={self._asked.rollout.timeout_s:g}")
        for number in sorted(pairs):
            sampled, kept = pairs[number]
            wave.judgements.append(judged[number])
            wave.sampled += sampled
            wave.kept += kept

    def _baselines(self, pair: list[Scored]) -> list[list[Scored]]:
        """A pair's groups, those that share a baseline together."""
        return [pair] if self._asked.grpo.baseline == "pair" else [[one] for one in pair]

    def _refer(self, kept: Sequence[Scored], wave: _Wave) -> None:
        """Have the reference score what will be trained on, while other groups are still being sampled."""
        if not kept or not self._references:
            return
        reference = self._references[len(wave.reference_work) % len(self._references)]
        method = reference.log_probs.options(num_returns=len(kept) + 1)
        *refs, work = method.remote(self._asked.rollout.temperature, *(one.group for one in kept))
        wave.reference_work.append(work)
        for one, ref in zip(kept, refs, strict=True):
            one.reference = ref


Collector = ray.remote(_Collector)


def advantages(together: Sequence[Scored], loss: LossConfig) -> list[list[float]]:
    """The advantages of groups that share a baseline, for each group those of its judgements."""
    shared = iter(group_advantages([reward for one in together for reward in one.score.rewards], loss))
    return [[next(shared) for _ in one.score.rewards] for one in together]
