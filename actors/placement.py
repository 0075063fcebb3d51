"""Where actors run: a configuration becomes placement groups, claims and environments, on CPU or GPU.

Colocated, training and rollouts take turns on the same cores or GPUs: every bundle is one core (or one GPU), and
each actor claims a fraction of it, which is Ray's bookkeeping and limits nothing. Otherwise the policy has a group
of its own, the engines one each (so that a pool can shrink), and reference and verifier share a small one.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from actors.config import PlacementConfig, PolicyConfig, ReferenceConfig, RolloutConfig
from evals.errors import ReadableError

Bundle = dict[str, float]

_SHARE = 0.4
"""Claim of a policy rank and of an engine on a shared bundle; the rest is for reference, verifier and encoder."""
_SMALL_SHARE = 0.02


class PlacementError(ReadableError, RuntimeError):
    """The cluster does not offer what the configuration asks for."""


@dataclass(frozen=True)
class Request:
    """The bundles that a run needs, by the name of their placement group."""

    groups: dict[str, list[Bundle]]

    def describe(self) -> list[str]:
        """One line a group, for a dry run or an error."""
        return [f"{name}: {len(bundles)} x {_amounts(bundles[0])}" for name, bundles in self.groups.items()]


def plan(
    placement: PlacementConfig, policy: PolicyConfig, rollout: RolloutConfig, reference: ReferenceConfig | None
) -> Request:
    """What a training run asks of the cluster; `reference` is None where no KL is measured."""
    gpu = placement.device == "gpu"
    if placement.colocate:
        count = max(policy.ranks, rollout.engines * rollout.tensor_parallel)
        return Request({"colocated": [_bundle(gpu, 1, 1)] * count})
    groups = {"policy": [_bundle(gpu, 1, policy.threads)] * policy.ranks}
    groups |= {f"engine-{i}": [_engine_bundle(gpu, rollout)] for i in range(rollout.engines)}
    if reference:
        groups["reference"] = [_bundle(gpu, 1, reference.threads)] * reference.replicas
    return Request(groups | {"verifier": [{"CPU": 1}]})


def rollout_plan(placement: PlacementConfig, rollout: RolloutConfig) -> Request:
    """What rollouts alone ask for, as in an evaluation."""
    engine = _engine_bundle(placement.device == "gpu", rollout)
    if placement.colocate:
        return Request({"colocated": [engine] * rollout.engines})
    return Request({f"engine-{i}": [engine] for i in range(rollout.engines)})


def _engine_bundle(gpu: bool, rollout: RolloutConfig) -> Bundle:
    return _bundle(gpu, rollout.tensor_parallel, rollout.threads)


def _bundle(gpu: bool, gpus: int, threads: int) -> Bundle:
    """A bundle of so many GPUs with a core to drive them, or of so many cores."""
    return {"GPU": float(gpus), "CPU": 1.0} if gpu else {"CPU": float(threads)}


@dataclass
class Placement:
    """Placement groups of one run, and the `.options(...)` of every actor in them."""

    config: PlacementConfig
    groups: dict[str, PlacementGroup] = field(default_factory=dict)

    @classmethod
    def reserve(cls, config: PlacementConfig, request: Request) -> Placement:
        """Reserve every bundle or none. Raises PlacementError naming the bundles that the cluster lacks."""
        placed = cls(config)
        for name, bundles in request.groups.items():
            group = placement_group(bundles, strategy="PACK", name=f"gavel-{name}-{secrets.token_hex(4)}")
            placed.groups[name] = group
            if not group.wait(config.timeout_s):
                placed.release()
                offered = _amounts({k: v for k, v in ray.cluster_resources().items() if k in ("CPU", "GPU")})
                wanted = "; ".join(request.describe())
                raise PlacementError(
                    f"group {name!r} was not placed within {config.timeout_s:.0f} s. The run needs {wanted}; the "
                    f"cluster has {offered} in all. Ask for fewer engines or ranks, or start more nodes."
                )
        return placed

    def release(self) -> None:
        """Give the bundles back; actors in them end."""
        for group in self.groups.values():
            remove_placement_group(group)
        self.groups.clear()

    def rank(self, index: int, threads: int) -> dict[str, Any]:
        """Options of a PolicyRank."""
        environment = {"OMP_NUM_THREADS": str(threads)} if self.config.device == "cpu" else {}
        return self._options("policy", index, _SHARE, environment | self._deepspeed())

    def engine(self, index: int, config: RolloutConfig) -> dict[str, Any]:
        """Options of a RolloutEngine."""
        environment = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"}
        if config.tensor_parallel == 1:
            environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine lives in the actor's own process
        if self.config.device == "cpu":
            # On "auto", vLLM's worker processes of two engines would bind the same cores.
            environment |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": str(config.threads)}
            # Eager or not, vLLM has two functions of its sampler compiled, by a C++ compiler that must be there.
            environment["TORCH_COMPILE_DISABLE"] = "1"
        options = self._options(f"engine-{index}", index, _SHARE, environment)
        return options | {"max_concurrency": 4}  # new weights and the probe come while a batch is being sampled

    def reference(self, index: int, threads: int) -> dict[str, Any]:
        """Options of a ReferenceModel."""
        return self._options("reference", index, _SMALL_SHARE, {"OMP_NUM_THREADS": str(threads)})

    def verifier(self) -> dict[str, Any]:
        """Options of a Verifier, or another small actor, which never needs a GPU."""
        return self._options("verifier", 0, _SMALL_SHARE, {"OMP_NUM_THREADS": "1"}, gpu=False)

    def _deepspeed(self) -> dict[str, str]:
        return {"DS_ACCELERATOR": "cpu"} if self.config.device == "cpu" else {}

    def _options(self, group: str, index: int, share: float, env: dict[str, str], gpu: bool = True) -> dict[str, Any]:
        shared = self.groups.get("colocated")
        placed = shared or self.groups[group]
        bundle = index % placed.bundle_count
        kind = "GPU" if gpu and self.config.device == "gpu" else "CPU"
        amount = share if shared or group == "verifier" else placed.bundle_specs[bundle][kind]
        options: dict[str, Any] = {"num_gpus": amount, "num_cpus": 0} if kind == "GPU" else {"num_cpus": amount}
        strategy = PlacementGroupSchedulingStrategy(placed, placement_group_bundle_index=bundle)
        environment = {"TOKENIZERS_PARALLELISM": "false", **env}
        return options | {"scheduling_strategy": strategy, "runtime_env": {"env_vars": environment}}


def _amounts(bundle: Bundle) -> str:
    return " + ".join(f"{amount:g} {kind}" for kind, amount in bundle.items())
