"""The service graph: every actor of a training run, wired together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import ray
from ray.actor import ActorHandle

from actors.encoding import Encoder
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from actors.reference import ReferenceModel
from actors.rollout import RolloutPool
from actors.verifier import Verifier
from evals.benchmarks import PAIRS
from pipelines.config import RunConfig
from pipelines.run import Run


@dataclass(frozen=True)
class Graph:
    """Handles of the actors of one GRPO run. `reference` is None where the KL coefficient is 0."""

    encoder: ActorHandle
    pool: RolloutPool
    policy: PolicyGroup
    verifier: ActorHandle
    reference: ActorHandle | None
    probe: list[int]


@contextmanager
def service_graph(config: RunConfig, run: Run, model: str) -> Iterator[Graph]:
    """Start every actor on `model` and end them all afterwards, whatever happens in between."""
    needs_reference = config.grpo.loss.kl_coef > 0
    request = plan(config.placement, config.policy, config.rollout, config.reference if needs_reference else None)
    placement = Placement.reserve(config.placement, request)
    format_ = config.data.format
    try:
        with run.clock("start"):
            pool = RolloutPool.start(placement, model, format_, config.policy, config.rollout, config.weights)
            encoder = Encoder.options(**placement.verifier()).remote(model, format_)
            verifier = Verifier.options(**placement.verifier()).remote(
                model, format_, PAIRS.name, run.folder.name, config.verifier
            )
            reference = None
            if needs_reference:
                reference = ReferenceModel.options(**placement.reference(config.reference.threads)).remote(
                    model, config.policy.dtype, config.reference, config.placement.device
                )
            policy = PolicyGroup.start(
                placement, model, config.policy, config.grpo.optimizer, config.steps * config.grpo.minibatches
            )
            pool.wait()
            policy.connect_engines(pool, config.rollout.tensor_parallel, config.weights)
            probe = ray.get(encoder.probe.remote(), timeout=config.rollout.timeout_s)
        yield Graph(encoder, pool, policy, verifier, reference, probe)
    finally:
        placement.release()


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
