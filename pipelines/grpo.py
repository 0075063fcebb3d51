"""GRPO for a reasoning reward model, as one Ray service graph.

    python pipelines/grpo.py                                     the embedded default: distil, train, evaluate
    python pipelines/grpo.py --config pipelines/presets/gsm8k.yaml --data.train FILE
    ray job submit --working-dir . -- python pipelines/grpo.py   the same on a cluster

A step: every engine samples groups of judgements, the verifier rewards each against gold, groups whose rewards
are all equal are dropped and sampled anew, the reference scores the rest, the policy takes an optimizer step, and
the new weights reach every engine before anything else is sampled.
"""

from __future__ import annotations

import itertools
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from rich.progress import TaskID

from actors.card import JudgeCard
from actors.config import LossConfig, RolloutConfig
from actors.losses import group_advantages
from actors.placement import plan
from actors.records import GroupScore, zero_variance
from actors.rollout import Sampling, Task
from evals.reports.card import write_card
from pipelines.config import RunConfig, as_yaml, load
from pipelines.distill import distilled_model, given_traces
from pipelines.errors import readable_errors
from pipelines.graph import Graph, service_graph
from pipelines.heldout import describe, evaluate, fitting
from pipelines.metrics import HEADER, step_line, step_metrics
from pipelines.run import Clock, Run, checked_model, resolve
from pipelines.stream import Data


@dataclass(frozen=True)
class Scored:
    """A group as the driver knows it: a ref to its tokens, and its scores."""

    group: ray.ObjectRef
    score: GroupScore


@dataclass(frozen=True)
class Batch:
    """What one step sampled. Groups that share a baseline stand together: one, or those of a pair's both orders.

    `kept` are the groups to train on, `sampled` all of them, `judgements` refs to those of each pair.
    """

    kept: list[list[Scored]]
    sampled: list[list[Scored]]
    judgements: list[ray.ObjectRef]
    refills: int


def train(config: RunConfig, run: Run, data: Data, model: str) -> None:
    """Train `model`; leave the judge, its scores before and after, and the report in the run's folder."""
    before = "start" if config.model else "distill"
    with service_graph(config, run, model) as graph:
        data, too_long = fitting(data, graph.encoder, config)
        described = describe(data, too_long, config, run)
        graph.policy.sync(graph.pool, graph.probe, config.weights.probe_tolerance)
        summary = {before: evaluate(graph.pool, graph.verifier, data.heldout, config, run, before)}
        tasks = data.tasks(config.data.both_orders)
        with run.progress("grpo", config.steps) as progress:
            run.say(HEADER)
            for step in range(1, config.steps + 1):
                metrics = grpo_step(graph, tasks, config, run, step)
                run.log(step, metrics)
                run.say(step_line(step, metrics))
                progress.advance(TaskID(0))
                if config.tokens is not None and run.tokens >= config.tokens:
                    break
        summary["grpo"] = evaluate(graph.pool, graph.verifier, data.heldout, config, run, "grpo")
        graph.policy.save(run.folder / "judge")
    judge_card(config, graph.policy.version).write(run.folder / "judge")
    run.finish(summary, described)
    write_card(run.folder / "judge", run.folder)


def grpo_step(graph: Graph, tasks: Iterator[Task], config: RunConfig, run: Run, step: int) -> dict[str, Any]:
    """One step of the algorithm; returns its metrics."""
    clock = Clock()
    with clock("rollout"):
        batch = collect(graph, tasks, config, step)
    written = graph.verifier.write.remote(run.judgements(step), {"step": step}, *batch.judgements)

    update: dict[str, float] = {}
    probe = None
    if batch.kept:
        trained = [one for together in batch.kept for one in together]
        groups, scores = [one.group for one in trained], [one.score for one in trained]
        with clock("reference"):
            references = reference_log_probs(graph, groups, config.rollout)
        with clock("update"):
            update = graph.policy.update_grpo(
                groups,
                references,
                advantages=[mine for together in batch.kept for mine in advantages(together, config.grpo.loss)],
                lengths=[[(score.prompt_length + length, length) for length in score.lengths] for score in scores],
                minibatches=config.grpo.minibatches,
                loss=config.grpo.loss,
                temperature=config.rollout.temperature,
            )
        with clock("sync"):  # nothing is sampled before every engine has the new weights and has shown it
            probe = graph.policy.sync(graph.pool, graph.probe, config.weights.probe_tolerance)
    ray.get(written, timeout=config.rollout.timeout_s)
    run.clock.add(clock)
    sampled = [[one.score for one in together] for together in batch.sampled]
    kept = sum(map(len, batch.kept))
    return step_metrics(sampled, kept, batch.refills, update, probe, graph.policy.version, clock.seconds)


def advantages(together: Sequence[Scored], loss: LossConfig) -> list[list[float]]:
    """The advantages of groups that share a baseline, for each group those of its judgements."""
    shared = iter(group_advantages([reward for one in together for reward in one.score.rewards], loss))
    return [[next(shared) for _ in one.score.rewards] for one in together]


def collect(graph: Graph, tasks: Iterator[Task], config: RunConfig, step: int) -> Batch:
    """Sample groups until enough of them teach something, or the refill rounds are used up.

    Both orders of a pair are sampled in the same wave, so a refill may bring one group more than was missing. A
    group's rewards are final before any of its tokens reach the loss, and the batch's order does not depend on which
    group finished first.
    """
    kept: list[list[Scored]] = []
    sampled: list[list[Scored]] = []
    judgements: list[ray.ObjectRef] = []
    for round_ in range(1 + config.grpo.refill_rounds):
        missing = config.grpo.groups - sum(map(len, kept))
        wave = list(itertools.islice(tasks, missing + (missing % 2 if config.data.both_orders else 0)))
        pairs, written = rollout_and_score(graph, wave, config, (config.seed, "step", step, round_))
        found = pairs if config.grpo.baseline == "pair" else [[one] for pair in pairs for one in pair]
        judgements += written
        sampled += found
        kept += [together for together in found if not zero_variance([one.score for one in together])]
        if sum(map(len, kept)) >= config.grpo.groups:
            break
    return Batch(kept, sampled, judgements, refills=round_)


def rollout_and_score(
    graph: Graph, wave: Sequence[Task], config: RunConfig, seed: object
) -> tuple[list[list[Scored]], list[ray.ObjectRef]]:
    """Sample every task of a wave; score each pair once the groups of all its orders are there.

    Returns each pair's groups and refs to its judgements, both in the order of the wave.
    """
    orders = 2 if config.data.both_orders else 1
    arrived: dict[int, dict[int, ray.ObjectRef]] = defaultdict(dict)
    scoring: dict[int, tuple[ray.ObjectRef, ray.ObjectRef]] = {}
    for task, group in graph.pool.rollout(wave, Sampling.of(config.rollout), seed):
        number = task.index // orders
        arrived[number][task.index] = group
        if len(arrived[number]) == orders:
            both = [arrived[number][index] for index in sorted(arrived[number])]
            scoring[number] = graph.verifier.score.options(num_returns=2).remote(*both)
    numbers = sorted(scoring)
    scores = ray.get([scoring[number][0] for number in numbers], timeout=config.rollout.timeout_s)
    pairs = [
        [Scored(arrived[n][score.index], score) for score in pair] for n, pair in zip(numbers, scores, strict=True)
    ]
    return pairs, [scoring[number][1] for number in numbers]


def reference_log_probs(graph: Graph, groups: list[ray.ObjectRef], rollout: RolloutConfig) -> list[ray.ObjectRef]:
    """Refs of each group's log-probabilities under the reference; none where no KL is measured."""
    if graph.reference is None:
        return []
    scored = graph.reference.log_probs.options(num_returns=len(groups)).remote(rollout.temperature, *groups)
    references = [scored] if len(groups) == 1 else scored
    ray.wait(references, num_returns=len(references), timeout=rollout.timeout_s)
    return references


def judge_card(config: RunConfig, version: int) -> JudgeCard:
    """What a server must know to prompt the judge as it was trained."""
    return JudgeCard(
        format=config.data.format,
        version=version,
        dtype=config.policy.dtype,
        max_model_len=config.rollout.max_model_len,
        max_new_tokens=config.rollout.max_new_tokens,
    )


def dry_run(config: RunConfig) -> str:
    """The resolved run, and what it asks of the cluster."""
    reference = config.reference if config.grpo.loss.kl_coef > 0 else None
    request = plan(config.placement, config.policy, config.rollout, reference)
    prompts, samples = config.grpo.groups, config.rollout.samples
    start = config.model or f"distilled from {config.base or 'the embedded model'} first"
    return "\n".join(
        [
            as_yaml(config),
            f"starts from     {start}",
            f"a step          {prompts} prompts x {samples} judgements, {config.grpo.minibatches} optimizer steps",
            *(f"placement       {line}" for line in request.describe()),
        ]
    )


def main() -> None:
    """Command line."""
    config, arguments = load(sys.argv[1:], __doc__)
    if arguments.dry_run:
        print(dry_run(config))
        return
    with readable_errors():
        data = Data.load(config.data, config.seed, config.evaluation.pairs, resolve(config.run_dir))
        given = checked_model(config.model) if config.model else None
        traces = None if given else given_traces(config, data)
        with Run.open(config) as run:
            train(config, run, data, given or str(distilled_model(config, run, data, traces)))


if __name__ == "__main__":
    main()
