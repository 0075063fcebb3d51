"""The settings of each actor. pydantic only: a configuration is read and checked without importing torch."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

from evals.prompts import prompt_format
from evals.rewards import REWARDS, RewardConfig


class Settings(BaseModel):
    """Base of every part of a configuration: unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", validate_default=True)


def _known_format(name: str) -> str:
    prompt_format(name)
    return name


FormatName = Annotated[str, AfterValidator(_known_format)]
"""Name of a prompt format that there is, or the path of a template file that every node can read."""


class EmbeddedModelConfig(Settings):
    """Shape of the small Qwen2 that is made on the spot where no model is named. heads * 32 must divide hidden."""

    vocabulary: PositiveInt = 512
    hidden: PositiveInt = Field(128, description="hidden / heads is the head size; vLLM on CPU needs 32 or more")
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    context: PositiveInt = 4096
    tied: bool = True

    @model_validator(mode="after")
    def _head_size(self) -> EmbeddedModelConfig:
        if self.hidden % (32 * self.heads):
            raise ValueError(f"hidden={self.hidden} must be a multiple of 32 * heads={32 * self.heads}")
        return self


class PlacementConfig(Settings):
    """Where actors run: `device` decides kind of bundle, `colocate` whether training and rollouts take turns."""

    device: Literal["cpu", "gpu"] = "cpu"
    colocate: bool = Field(True, description="policy, reference and engines share the same cores or GPUs")
    timeout_s: PositiveFloat = Field(120.0, description="how long to wait for the cluster to offer the bundles")


class OptimizerConfig(Settings):
    """AdamW and its schedule. `schedule` is one of transformers' `get_scheduler` names."""

    lr: PositiveFloat = 2e-4
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: PositiveFloat = 1e-8
    weight_decay: float = 0.0
    warmup_steps: int = Field(0, ge=0)
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "constant_with_warmup"
    floor: float = Field(0.0, ge=0, lt=1, description="share of lr at which cosine ends")
    max_grad_norm: PositiveFloat = 1.0


class LoraConfig(Settings):
    """Low-rank adapters on a frozen model (arXiv 2106.09685), through peft. Engines get the merged weights."""

    rank: PositiveInt = 16
    alpha: PositiveFloat = Field(32.0, description="an adapter counts alpha / rank")
    targets: list[str] | Literal["all-linear"] = Field(
        "all-linear", description="ends of the names of the adapted modules, or every linear one but the head"
    )


class PolicyConfig(Settings):
    """The trained model: DeepSpeed ZeRO-3 over `ranks` processes."""

    ranks: PositiveInt = 1
    threads: PositiveInt = Field(2, description="torch threads of a rank on CPU")
    dtype: Literal["float32", "bfloat16"] = "float32"
    micro_batch_tokens: PositiveInt = Field(
        4096, description="tokens that one forward and backward holds; on CPU as many as its cache"
    )
    share_prompts: bool = Field(
        True, description="compute a group's prompt once, and pad nothing, where the model's attention allows it"
    )
    gradient_checkpointing: bool = False
    lora: LoraConfig | None = Field(None, description="train adapters alone; empty: train every parameter")
    persistence_threshold: int = Field(100_000, ge=0, description="ZeRO-3 keeps smaller parameters whole")
    timeout_s: PositiveFloat = Field(1800.0, description="longest that a collective or an update may take")


class ReferenceConfig(Settings):
    """The frozen model that the KL term is measured against."""

    replicas: PositiveInt = Field(1, description="copies of it; each scores groups of its own")
    threads: PositiveInt = Field(2, description="torch threads of a copy on CPU")
    micro_batch_tokens: PositiveInt = 4096


class RolloutConfig(Settings):
    """vLLM engines and how they sample."""

    engines: PositiveInt = 2
    threads: PositiveInt = Field(1, description="cores of an engine on CPU")
    tensor_parallel: PositiveInt = Field(1, description="GPUs of an engine")
    samples: int = Field(8, ge=1, description="judgements sampled for each prompt: the group size")
    temperature: PositiveFloat = 1.0
    top_p: float = Field(1.0, gt=0, le=1)
    max_new_tokens: PositiveInt = 64
    max_model_len: PositiveInt = 2048
    max_num_seqs: PositiveInt = 256
    kv_cache_gib: PositiveFloat = Field(0.25, description="memory for the KV cache of an engine on CPU")
    gpu_memory_utilization: float = Field(0.4, gt=0, le=1)
    in_flight: Literal["keep", "abort"] = Field(
        "keep", description="judgements in progress when new weights arrive: go on under them, or begin anew"
    )
    timeout_s: PositiveFloat = Field(1800.0, description="longest that a batch of rollouts may take")


def _named_reward(given: object) -> object:
    """A setting of `evals.rewards.REWARDS` by its name; anything else as it is."""
    if not isinstance(given, str) or ":" in given:
        return given
    if given not in REWARDS:
        raise ValueError(f"unknown reward {given!r}: name one of {', '.join(REWARDS)}, or a rule as module:function")
    return REWARDS[given]


class VerifierConfig(Settings):
    """The rule that rewards a judgement."""

    reward: Annotated[RewardConfig | str, BeforeValidator(_named_reward)] = Field(
        REWARDS["rm_r1"],
        description=f"{', '.join(REWARDS)}; or part by part; or module:function of (verdict, gold) -> float",
    )
    time_limit_s: PositiveFloat = Field(5.0, description="an item over it scores as no verdict")


class WeightsConfig(Settings):
    """How new weights reach the engines, and how far trainer and engine may disagree afterwards."""

    transfer: Literal["shm", "nccl", "ipc"] = Field(
        "shm", description="shm on CPU; on GPU nccl, or ipc where trainer and engines are colocated"
    )
    bucket_mib: PositiveInt = Field(64, description="parameters gathered from the ZeRO-3 shards at once")
    probe_tolerance: PositiveFloat = Field(1e-3, description="largest log-probability difference, in nats")


class CorrectionConfig(Settings):
    """Importance correction for what trainer and engine disagree in: their ratio of probabilities, OpenRLHF's rule."""

    level: Literal["token", "seq"] = Field("token", description="the ratio of a token, or its mean over a sequence")
    mode: Literal["mask", "clip"] = Field("mask", description="leave out what is outside the band, or cut it to it")
    band: tuple[PositiveFloat, PositiveFloat] = (0.5, 5.0)

    @model_validator(mode="after")
    def _makes_sense(self) -> CorrectionConfig:
        if not self.band[0] < 1 < self.band[1]:
            raise ValueError(f"band={list(self.band)} must lie around 1, the ratio of sides that agree")
        if (self.level, self.mode) == ("seq", "clip"):
            raise ValueError("mode=clip needs level=token: a whole sequence can only be left out")
        return self


class LossConfig(Settings):
    """GRPO's loss. Defaults: PPO clipping, token mean over the global batch, k3 KL to the reference."""

    advantage: Literal["std", "mean"] = Field("std", description="(r - mean) / (std + epsilon), or r - mean")
    advantage_epsilon: PositiveFloat = 1e-6
    clip_low: PositiveFloat = 0.2
    clip_high: PositiveFloat = 0.2
    dual_clip: float | None = Field(None, gt=1, description="bound on the loss of a bad sample (arXiv 1912.09729)")
    aggregation: Literal["token_mean", "sequence_mean"] = "token_mean"
    kl_coef: float = Field(1e-3, ge=0, description="0 leaves the reference model out")
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"
    kl_unbiased: bool = Field(False, description="the estimator's value with the gradient of the KL itself")
    correction: CorrectionConfig | None = Field(None, description="importance correction; empty: none")


class GrpoConfig(Settings):
    """The GRPO loop. A group is one prompt (a pair in one order) with `rollout.samples` judgements.

    Normalised by its deviation, a group in which every right judgement has the same reward has the same advantages
    whatever that reward is: a reward for consistency, which is the same for all right judgements of an order, only
    counts with `baseline` pair, or with `loss.advantage` mean.
    """

    groups: PositiveInt = Field(64, description="groups wanted for an optimizer batch")
    minibatches: PositiveInt = Field(1, description="optimizer steps a batch")
    refill_rounds: int = Field(1, ge=0, description="times that dropped zero-variance groups are sampled anew")
    max_staleness: int = Field(
        0, ge=0, description="how many versions older than the policy the weights may be that a batch begins with"
    )
    baseline: Literal["prompt", "pair"] = Field(
        "prompt", description="whose rewards an advantage is measured against: one order's, or both orders' of a pair"
    )
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()

    @model_validator(mode="after")
    def _corrects_what_is_stale(self) -> GrpoConfig:
        """Older weights are corrected for, unless `loss.correction` says otherwise, null included."""
        if self.max_staleness and "correction" not in self.loss.model_fields_set:
            self.loss = self.loss.model_copy(update={"correction": CorrectionConfig(mode="clip")})
        return self


class LimitsConfig(Settings):
    """What one replica of the endpoint takes at most; beyond that a request is refused, with a reason."""

    body_mib: PositiveFloat = Field(2.0, description="size of a request")
    waiting_mib: PositiveFloat = Field(256.0, description="size of all requests in progress together")
    responses: int = Field(8, ge=2, description="responses in one ranking")
    requests: PositiveInt = Field(1024, description="requests in progress at once; more get 503 and when to come again")
    wait_s: PositiveFloat = Field(
        10.0, description="longest wait for an answer to begin with; above it requests get 503"
    )
    requests_per_key: PositiveInt = Field(512, description="of those, with the same API key; more get 429")


class GroupsConfig(Settings):
    """How single samples are gathered into groups."""

    window_s: float = Field(0.5, ge=0, le=60, description="how long a prompt's first sample waits for others")
    most_pairs: PositiveInt = Field(
        28, description="a group with more pairs of different responses is compared in a circle, not all with all"
    )
    opponents: PositiveInt = Field(4, description="earlier members of a prompt that a late sample is compared with")
    prompts: PositiveInt = Field(4096, description="prompts whose earlier members are remembered")
    characters: PositiveInt = Field(64_000_000, description="length of all remembered members together")
    ttl_s: PositiveFloat = Field(1800.0, description="how long a prompt's earlier members are remembered")
    open_groups: PositiveInt = Field(4096, description="groups that may wait or be judged at once")
    timeout_s: PositiveFloat = Field(
        100.0, description="longest that waiting and judging may take; trainers give up after 120 s or more"
    )
    anchors: Path | None = Field(
        None, description="JSON lines with prompt (or conversation) and anchor: whom a lone sample is compared with"
    )


class ServeConfig(Settings):
    """The HTTP endpoint."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    replicas: PositiveInt = Field(1, description="replicas, each with an engine; with max_replicas the fewest")
    max_replicas: PositiveInt | None = Field(None, description="most replicas, by requests in progress; empty: fixed")
    target_requests: PositiveInt = Field(128, description="requests in progress for which one replica is enough")
    timeout_s: PositiveFloat = Field(120.0, description="longest that a request may take")
    api_keys: Path | None = Field(None, description="file with one API key a line; empty: GAVEL_API_KEYS, else none")
    ssl_certfile: Path | None = Field(None, description="certificate (PEM) to answer https with; empty: plain http")
    ssl_keyfile: Path | None = Field(None, description="its private key, without a password")
    proxy: Literal["python", "haproxy"] = Field(
        "python", description="what stands before the replicas; haproxy is faster and needs haproxy and socat on PATH"
    )
    limits: LimitsConfig = LimitsConfig()
    groups: GroupsConfig = GroupsConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> ServeConfig:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(f"max_replicas={self.max_replicas} must not be less than replicas={self.replicas}")
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("name ssl_certfile and ssl_keyfile, or neither")
        if self.ssl_certfile and self.proxy == "haproxy":
            raise ValueError("proxy=haproxy speaks no https in Ray 2.55: leave ssl_certfile out, or take proxy=python")
        return self
