"""The service graph: every actor of a training run, wired together."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle

from actors.collector import Asked, Collector
from actors.encoding import Encoder, Prompting
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from actors.reference import ReferenceModel
from actors.rollout import RolloutPool, Task
from actors.verifier import Verifier
from evals.benchmarks import PAIRS
from evals.writing import write_whole
from pipelines.config import RunConfig
from pipelines.run import Run

StartVerifier = Callable[[dict[str, Any]], ActorHandle]
"""Starts what rewards groups, with the Ray options given: an actor with `score` and `write` as a Verifier has them."""


@dataclass(frozen=True)
class Graph:
    """Handles of the actors of one GRPO run. There are no `references` where the KL coefficient is 0."""

    encoder: ActorHandle
    pool: RolloutPool
    policy: PolicyGroup
    verifier: ActorHandle
    references: list[ActorHandle]
    probe: list[int]
    small: dict[str, Any]
    """Ray options of an actor that computes little."""

    @contextmanager
    def profiled(self, folder: Path, step: int) -> Iterator[None]:
        """Have one actor of each kind record what it does within, in `folder`: a trace each, and a summary of all."""
        actors = {"engine": self.pool.engines[0], "policy": self.policy.ranks[0]}
        actors |= {"reference": self.references[0]} if self.references else {}
        ray.get([actor.start_profile.remote() for actor in actors.values()])
        yield
        name = f"step-{step:06d}"
        refs = {kind: actor.stop_profile.remote(folder / f"{name}-{kind}.json.gz") for kind, actor in actors.items()}
        found = {kind: ray.get(ref) for kind, ref in refs.items()}
        write_whole(folder / f"{name}.json", json.dumps({"step": step, "actors": found}, indent=1) + "\n")

    def collector(self, asked: Asked, tasks: Callable[[], Iterator[Task]]) -> ActorHandle:
        """Start the actor that makes batches; it begins with the first one at once."""
        return Collector.options(**self.small, max_concurrency=4).remote(
            asked, tasks, self.pool, self.verifier, self.references
        )


@contextmanager
def service_graph(
    config: RunConfig,
    run: Run,
    model: str,
    asked: str | Prompting | None = None,
    start_verifier: StartVerifier | None = None,
) -> Iterator[Graph]:
    """Start every actor on `model` and end them all afterwards, whatever happens in between.

    The model is asked in `data.format` and rewarded against gold, or `asked` and rewarded otherwise.
    """
    needs_reference = config.grpo.loss.kl_coef > 0
    request = plan(config.placement, config.policy, config.rollout, config.reference if needs_reference else None)
    placement = Placement.reserve(config.placement, request)
    asked = asked or config.data.format
    start_verifier = start_verifier or partial(_verifier, config, run, model)
    try:
        with run.clock("start"):
            pool = RolloutPool.start(placement, model, asked, config.policy, config.rollout, config.weights)
            encoder = Encoder.options(**placement.verifier()).remote(model, asked)
            verifier = start_verifier(placement.verifier())
            references = [
                ReferenceModel.options(**placement.reference(index, config.reference.threads)).remote(
                    model, config.policy, config.reference, config.placement.device
                )
                for index in range(config.reference.replicas if needs_reference else 0)
            ]
            policy = PolicyGroup.start(
                placement, model, config.policy, config.grpo.optimizer, config.steps * config.grpo.minibatches
            )
            pool.wait()
            policy.connect_engines(pool, config.rollout.tensor_parallel, config.weights)
            probe = ray.get(encoder.probe.remote(), timeout=config.rollout.timeout_s)
        run.say(f"started        Ray {run.clock.seconds['ray']:.1f} s, actors {run.clock.seconds['start']:.1f} s")
        yield Graph(encoder, pool, policy, verifier, references, probe, placement.verifier())
    finally:
        placement.release()


def _verifier(config: RunConfig, run: Run, model: str, options: dict[str, Any]) -> ActorHandle:
    """The rule-based one."""
    return Verifier.options(**options).remote(model, config.data.format, PAIRS.name, run.folder.name, config.verifier)


@contextmanager
def policy_alone(config: RunConfig, model: str) -> Iterator[tuple[Callable[[int], PolicyGroup], ActorHandle]]:
    """What starts the policy with distillation's optimizer for so many steps, and an encoder for its traces.

    There are no engines. The steps follow from the traces that fit, which the encoder measures first.
    """
    request = plan(config.placement, config.policy, config.rollout, None)
    placement = Placement.reserve(config.placement, request)
    try:
        encoder = Encoder.options(**placement.verifier()).remote(model, config.data.format)
        yield partial(PolicyGroup.start, placement, model, config.policy, config.distill.optimizer), encoder
    finally:
        placement.release()
