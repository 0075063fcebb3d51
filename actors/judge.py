"""The endpoint around a trained judge, as a Ray Serve application.

Each replica is web application and engine at once: a request is rendered by the prompt format that the judge was
trained with, sampled by a vLLM engine with training's engine arguments, and parsed by training's parser, in one
process and its engine's. A second deployment, of one small replica, is where single samples meet their group.
"""

from __future__ import annotations

import gc
import hashlib
import logging
from pathlib import Path
from typing import Any, Literal

from ray import serve
from ray.serve.handle import DeploymentHandle

from actors.card import JudgeCard
from actors.config import LimitsConfig, RolloutConfig, ServeConfig
from actors.serving.app import build
from actors.serving.engine import JudgeEngine
from actors.serving.groups import Groups, GroupSample, GroupsClient, Placed
from actors.serving.judging import Judging
from actors.serving.metrics import Metrics
from actors.serving.placing import Served
from actors.serving.protection import ApiKeys
from actors.serving.service import Service, serve_here
from actors.serving.swap import SwapError
from actors.serving.wire import RankRequest, RankResponse

logger = logging.getLogger("ray.serve")


class _Joining:
    """The groups' deployment, seen from a replica."""

    def __init__(self, handle: DeploymentHandle, metrics: Metrics):
        self._groups = GroupsClient(handle)
        self._metrics = metrics

    async def join(self, sample: GroupSample) -> Placed:
        """Wait for the others of the sample's group, and for what the judge says."""
        placed = await self._groups.join(sample)
        self._metrics.sample(placed.how)
        return placed


class _Judge:
    """One replica."""

    def __init__(
        self,
        model: str,
        card: JudgeCard,
        rollout: RolloutConfig,
        limits: LimitsConfig,
        most_pairs: int,
        device: str,
        keys: ApiKeys,
        groups: DeploymentHandle,
    ):
        name, metrics = Path(model).name, Metrics()
        self._engine = JudgeEngine(model, card, rollout, device)
        judging = Judging(self._engine, name, limits, metrics)
        joining = _Joining(groups, metrics)
        self._service = Service(name, self._engine, judging, joining, most_pairs, limits, keys, metrics)
        serve_here(self._service)
        gc.collect()
        gc.freeze()  # what is here now stays: looking through it again and again would hold up answers

    async def check_health(self) -> None:
        """Raises where the engine's process has died; Serve then replaces the replica."""
        await self._engine.check_health()

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Serve another checkpoint in place: `{"checkpoint": FOLDER}`, with `"version": N` unless its card says it.

        One that cannot be served is refused: the old weights stay, and /version says why.
        """
        if unknown := sorted(user_config.keys() - {"checkpoint", "version"}):
            self._engine.refused = f"user_config: unknown {', '.join(unknown)}; known are checkpoint and version"
        elif checkpoint := user_config.get("checkpoint"):
            try:
                await self._engine.swap(Path(checkpoint), user_config.get("version"))
            except SwapError as error:
                logger.error("the checkpoint is not served: %s", error)

    async def rank(self, request: RankRequest) -> RankResponse:
        """Rank a group that arrived one by one."""
        return await self._service.rank(request)

    async def serving(self) -> Served:
        """Name of the model and its weight version."""
        return await self._service.serving()


Judge = serve.ingress(build)(_Judge)


def judge_app(
    model: Path,
    card: JudgeCard,
    rollout: RolloutConfig,
    settings: ServeConfig,
    device: Literal["cpu", "gpu"],
    checkpoint: dict[str, Any] | None = None,
) -> serve.Application:
    """The Serve application for the judge in `model`, a folder that every node can read.

    The card's dtype and lengths stand above those of `rollout`. vLLM does its own batching and queueing, and the
    limits say how much may wait, so Serve's own limits lie above them. `checkpoint` is what `reconfigure` takes:
    an application that differs in it alone is changed in place. Raises KeysError.
    """
    lengths = {"max_model_len": card.max_model_len, "max_new_tokens": card.max_new_tokens}
    requests = settings.limits.requests
    keys = ApiKeys.load(settings.api_keys)
    lasting = rollout.model_copy(update=lengths)
    arguments = (str(model.resolve()), card, lasting, settings.limits, settings.groups.most_pairs, device, keys)
    scaling: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        bounds = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
        scaling = {"autoscaling_config": bounds | {"target_ongoing_requests": settings.target_requests}}
    deployment = serve.deployment(
        Judge,
        name="Judge",
        version=hashlib.sha256(repr(arguments).encode()).hexdigest(),
        user_config=checkpoint or {},
        max_ongoing_requests=2 * requests,
        max_queued_requests=max(requests // 8, 1),
        ray_actor_options=_replica(rollout, device),
        health_check_period_s=1,  # the third failure in a row replaces a replica
        max_constructor_retry_count=2,  # what keeps an engine from starting seldom goes away by itself
        **scaling,
    )
    return deployment.bind(*arguments, Groups.bind(settings.groups))


def replica_resources(rollout: RolloutConfig, device: str) -> dict[str, float]:
    """What one replica claims of the cluster."""
    return {"GPU": rollout.tensor_parallel, "CPU": 1} if device == "gpu" else {"CPU": rollout.threads}


def _replica(rollout: RolloutConfig, device: str) -> dict[str, Any]:
    environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "TOKENIZERS_PARALLELISM": "false"}
    if device == "cpu":
        environment |= {"OMP_NUM_THREADS": str(rollout.threads), "TORCH_COMPILE_DISABLE": "1"}  # as in training
        if rollout.tensor_parallel == 1:
            # AsyncLLM always has one helper process. Left at 1, vLLM on CPU would give that one a helper of its own.
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    claim = replica_resources(rollout, device)
    options: dict[str, Any] = {"num_cpus": claim["CPU"], "runtime_env": {"env_vars": environment}}
    return options | ({"num_gpus": claim["GPU"]} if "GPU" in claim else {})
