"""GRPO for a reasoning reward model, as one Ray service graph.

    python pipelines/grpo.py                                     the embedded default: distil, train, evaluate
    python pipelines/grpo.py --config pipelines/presets/gsm8k.yaml --data.train FILE
    ray job submit --working-dir . -- python pipelines/grpo.py   the same on a cluster

A step: every engine samples groups of judgements, the verifier rewards each against gold, groups whose rewards
are all equal are dropped and sampled anew, the reference scores the rest (all that is `actors/collector.py`), the
policy takes an optimizer step, and the new weights reach every engine: before anything else is sampled, or with
`grpo.max_staleness` while the next batches are.
"""

from __future__ import annotations

import sys
from contextlib import nullcontext
from functools import partial
from typing import Any

import ray
from ray.actor import ActorHandle
from rich.progress import TaskID

from actors.card import JudgeCard
from actors.collector import Asked
from actors.placement import plan
from pipelines.config import RunConfig, as_yaml, load
from pipelines.distill import distilled_model, given_traces
from pipelines.errors import readable_errors
from pipelines.graph import Graph, service_graph
from pipelines.heldout import describe, evaluate, fitting
from pipelines.metrics import HEADER, step_line, step_metrics
from pipelines.run import Clock, Run, checked_model, resolve
from pipelines.stream import Data


def train(config: RunConfig, run: Run, data: Data, model: str) -> None:
    """Train `model`; leave the judge, its scores before and after, and the report in the run's folder."""
    before = "start" if config.model else "distill"
    with service_graph(config, run, model) as graph:
        data, too_long = fitting(data, graph.encoder, config)
        described = describe(data, too_long, config, run)
        graph.policy.sync(graph.probe, config.weights.probe_tolerance)
        summary = {before: evaluate(graph.pool, graph.verifier, data.heldout, config, run, before)}
        collector = collecting(graph, config, data, run, config.data.both_orders)
        with run.progress("grpo", config.steps) as progress:
            run.say(HEADER)
            for step in range(1, config.steps + 1):
                recorded = graph.profiled(run.folder / "profiles", step) if step == config.profile else nullcontext()
                with recorded:
                    metrics = grpo_step(graph, collector, config, run, step)
                run.log(step, metrics)
                run.say(step_line(step, metrics))
                progress.advance(TaskID(0))
                if config.tokens is not None and run.tokens >= config.tokens:
                    break
        summary["grpo"] = evaluate(graph.pool, graph.verifier, data.heldout, config, run, "grpo")
        graph.policy.save(run.folder / "judge")
    from evals.reports.card import write_card

    judge_card(config, graph.policy.version).write(run.folder / "judge")
    run.finish(summary, described)
    write_card(run.folder / "judge", run.folder)


def collecting(graph: Graph, config: RunConfig, data: Data, run: Run, both_orders: bool) -> ActorHandle:
    """The actor that makes the run's batches. It begins at once, so the engines must have their weights."""
    policy = graph.policy.policy
    asked = Asked(config.grpo, config.rollout, policy, both_orders, config.seed, config.steps, run.judgements)
    return graph.collector(asked, partial(data.tasks, both_orders))


def grpo_step(graph: Graph, collector: ActorHandle, config: RunConfig, run: Run, step: int) -> dict[str, Any]:
    """One step of the algorithm; returns its metrics."""
    clock = Clock()
    with clock("rollout"):
        batch = ray.get(collector.batch.remote(step), timeout=config.rollout.timeout_s)
    update: dict[str, Any] = {}
    probe, version = None, graph.policy.version
    if batch.groups:
        with clock("update"):
            update = graph.policy.update_grpo(collector, step, config.grpo.loss, config.rollout.temperature)
        with clock("sync"):  # with max_staleness 0, nothing is sampled before every engine has shown the new weights
            probe = graph.policy.sync(graph.probe, config.weights.probe_tolerance)
    ray.get(batch.written, timeout=config.rollout.timeout_s)
    run.clock.add(clock)
    return step_metrics(batch, update, probe, version, clock.seconds)


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
