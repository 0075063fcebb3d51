"""From ZeRO-3 shards to vLLM, through vLLM's own weight-transfer interface.

The timeline of one sync, after the optimizer step of version v:

    every rank     gathers the parameters, bucket by bucket; engines go on sampling
    rank 0         the tensors travel: as one buffer in the object store, once a node ("shm"), over NCCL ("nccl"), or
                   as CUDA handles where trainer and engine share a GPU ("ipc")
    every engine   between two decoding steps: load, prefix cache reset, version = v
    trainer, engines   score the same probe text; a difference over the tolerance stops the run

Nothing is sampled while an engine loads. With "shm" that is all it waits for; the other transfers stop it before the
first tensor travels.

vLLM has no transfer that runs on a CPU, so "shm" is registered here, on both sides of the interface. Importing
this module in a process registers it there; engines do so because `WORKER_EXTENSION` names a class in it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import ray
import torch
from ray.actor import ActorHandle
from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from actors.config import WeightsConfig
from actors.lora import PlainParameter
from actors.reload import repack_lm_head

WORKER_EXTENSION = "actors.weights.WorkerExtension"


class Zero3Source(WeightSource):
    """The full parameters of a ZeRO-3 module, gathered bucket by bucket. Iterating is a collective of all ranks.

    A bucket is one collective, however many parameters it has. Adapters are merged on the way, so that an engine knows
    nothing of them. Under ZeRO-3 a parameter's own shape is (0,); the real one is `ds_shape`. On CPU a tensor with an
    adapter is valid until the next one is asked for. A tied lm_head is not among the parameters and so travels with
    the embedding.
    """

    def __init__(self, parameters: Sequence[PlainParameter], bucket_bytes: int):
        self._parameters = parameters
        self._bucket_bytes = bucket_bytes

    def metadata(self) -> list[ParamMeta]:
        """Name, dtype and full shape of every parameter; gathers nothing."""
        return [ParamMeta(p.name, p.parameter.dtype, tuple(p.parameter.ds_shape)) for p in self._parameters]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        for bucket in self._buckets():
            yield from _adapted(bucket) if any(plain.adapter for plain in bucket) else _gathered(bucket)

    def _buckets(self) -> Iterator[list[PlainParameter]]:
        bucket: list[PlainParameter] = []
        size = 0
        for plain in self._parameters:
            bucket.append(plain)
            size += sum(part.ds_numel * part.element_size() for part in plain.parts)
            if size >= self._bucket_bytes:
                yield bucket
                bucket, size = [], 0
        if bucket:
            yield bucket


def _gathered(bucket: Sequence[PlainParameter]) -> Iterator[tuple[str, torch.Tensor]]:
    """Every rank's parts of all parameters in one collective; a parameter is its parts, one rank's behind the other."""
    shards = [plain.parameter.ds_tensor for plain in bucket]
    ranks = torch.distributed.get_world_size()
    if ranks == 1:
        whole = [shard.detach()[None] for shard in shards]
    else:
        mine = torch.cat([shard.detach().flatten() for shard in shards])
        everyones = mine.new_empty(ranks * len(mine))
        torch.distributed.all_gather_into_tensor(everyones, mine)
        whole = list(everyones.view(ranks, -1).split([shard.numel() for shard in shards], dim=1))
    for plain, parts in zip(bucket, whole, strict=True):
        parameter = plain.parameter
        yield plain.name, parts.flatten()[: parameter.ds_numel].view(parameter.ds_shape)


def _adapted(bucket: Sequence[PlainParameter]) -> Iterator[tuple[str, torch.Tensor]]:
    """Parameters that adapters are merged into, whole from DeepSpeed."""
    import deepspeed  # which an engine, where this module is imported too, has no use for

    with deepspeed.zero.GatheredParameters([part for plain in bucket for part in plain.parts]):
        for plain in bucket:
            full = plain.merged()
            yield plain.name, full.clone() if full.is_cuda and not plain.adapter else full


class EngineClient:
    """vLLM's weight-sync client over our RolloutEngine actors: every call goes to all engines and waits for all."""

    def __init__(self, engines: Sequence[ActorHandle], timeout_s: float, engine_ranks: int = 1):
        self.engines = list(engines)
        self.timeout_s = timeout_s
        self.engine_ranks = engine_ranks
        self.version = 0
        self._loading: list[ray.ObjectRef] = []

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Each engine's workers stand behind those of the engines before it in the NCCL group."""
        refs = []
        for index, engine in enumerate(self.engines):
            info = dict(init_info)
            if "rank_offset" in info:
                info["rank_offset"] += index * self.engine_ranks
            refs.append(engine.init_weight_transfer_engine.remote(info))
        self._wait(refs)

    def start_weight_update(self) -> None:
        """Prepare every engine for new weights."""
        self._wait([engine.start_weight_update.remote() for engine in self.engines])

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Hand every engine the update."""
        self._wait([engine.update_weights.remote(update_info) for engine in self.engines])

    def load(self, update_info: dict[str, Any], buffer: ray.ObjectRef) -> None:
        """Let every engine load a whole model, which Ray brings to its node; `wait` waits for it."""
        self._loading = [engine.load_weights.remote(update_info, buffer, self.version) for engine in self.engines]

    def wait(self) -> None:
        """Wait until every engine has loaded what it was sent."""
        self._wait(self._loading)
        self._loading = []

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Make the new weights and `version` those that every engine samples with."""
        self._wait([engine.finish_weight_update.remote(self.version) for engine in self.engines])

    def _wait(self, refs: list[ray.ObjectRef]) -> None:
        ray.get(refs, timeout=self.timeout_s)


def trainer(
    config: WeightsConfig, rank: int, engine_ranks: int, client: EngineClient, source: WeightSource
) -> TrainerWeightTransferEngine:
    """The trainer's side of the configured transfer, ready to send. Called on every rank."""
    info: TrainerInitInfo
    if config.transfer == "shm":
        info = ShmTrainerInitInfo(rank=rank)
    elif config.transfer == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        info = IPCTrainerInitInfo(rank=rank, packed=True)
    else:
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_open_port

        host = ray.util.get_node_ip_address()
        info = NCCLTrainerInitInfo(host, get_open_port(), world_size=1 + engine_ranks, rank=rank)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=source)


@dataclass
class ShmTrainerInitInfo(TrainerInitInfo):
    """Trainer's side of "shm" needs nothing but its rank."""

    backend: ClassVar[str] = "shm"


class ShmTrainer(TrainerWeightTransferEngine[ShmTrainerInitInfo]):
    """Packs all parameters into one buffer and puts it into the object store, once for all engines."""

    init_info_cls = ShmTrainerInitInfo

    @classmethod
    def trainer_init(
        cls, init_info: ShmTrainerInitInfo, *, client: EngineClient, source: WeightSource | None = None
    ) -> ShmTrainer:
        """Called on every rank; rank 0 alone speaks to the engines."""
        trainer = cls(client=client, source=source, is_sender=init_info.is_sender)
        if trainer.is_sender:
            client.init_weight_transfer_engine({})
        return trainer

    def send_weights(self) -> None:
        """Gather and publish; engines load while this returns. A collective: call it on every rank."""
        if not self.is_sender:
            for _ in self.source:
                pass
            return
        metadata = self.source.metadata()
        sizes = [m.dtype.itemsize * math.prod(m.shape) for m in metadata]
        flat = torch.empty(sum(sizes), dtype=torch.uint8)
        at = 0
        for (_, tensor), size in zip(self.source, sizes, strict=True):
            flat[at : at + size] = tensor.contiguous().flatten().view(torch.uint8)
            at += size
        info = {
            "names": [m.name for m in metadata],
            "shapes": [list(m.shape) for m in metadata],
            "dtypes": [str(m.dtype).removeprefix("torch.") for m in metadata],
        }
        self.client.load(info, ray.put(flat.numpy()))


@dataclass
class ShmInitInfo(WeightTransferInitInfo):
    """Nothing to agree on."""


@dataclass
class ShmUpdateInfo(WeightTransferUpdateInfo):
    """The tensors one behind the other, as bytes, and what they are."""

    buffer: np.ndarray
    names: list[str]
    shapes: list[list[int]]
    dtypes: list[str]


class ShmEngine(WeightTransferEngine[ShmInitInfo, ShmUpdateInfo]):
    """Engine's side of "shm", in vLLM's worker."""

    init_info_cls = ShmInitInfo
    update_info_cls = ShmUpdateInfo

    def init_transfer_engine(self, init_info: ShmInitInfo) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Open vLLM's layerwise reload: packed layers become loadable again."""
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def receive_weights(self, update_info: ShmUpdateInfo) -> None:
        """Load every tensor from the buffer, which is read where it lies."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the object store's memory is read-only, and nothing here writes to it
            flat = torch.from_numpy(update_info.buffer)
        tensors, at = [], 0
        for name, shape, dtype_name in zip(update_info.names, update_info.shapes, update_info.dtypes, strict=True):
            dtype = getattr(torch, dtype_name)
            size = dtype.itemsize * math.prod(shape)
            tensors.append((name, flat[at : at + size].view(dtype).view(shape)))
            at += size
        self.model.load_weights(tensors)

    def finish_weight_update(self) -> None:
        """Close the reload, and pack a tied lm_head anew, which vLLM on CPU leaves as it was."""
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)
        repack_lm_head(self.model, self.device)

    def shutdown(self) -> None:
        """Nothing to close."""


class WorkerExtension:
    """Named in vLLM's `worker_extension_cls`: importing this module is what registers "shm" in the worker."""


if "shm" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("shm", ShmEngine)
    WeightTransferTrainerFactory.register_engine("shm", ShmTrainer)
