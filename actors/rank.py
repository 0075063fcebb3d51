"""One DeepSpeed ZeRO-3 rank: the side of the policy that holds tokens and tensors."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from actors import checkpoint
from actors.batching import Grouped, MicroBatch, Padded
from actors.config import LossConfig, OptimizerConfig, PolicyConfig, WeightsConfig
from actors.errors import PolicyError
from actors.losses import LossTerms, Totals, grpo_loss, sft_loss
from actors.models import model_folder, tensor_files, without_scikit_learn
from actors.profiling import Profiled
from actors.records import Example, Interval, LogProbs, RolloutGroup
from actors.shares import Plan, Share

if TYPE_CHECKING:
    import torch
    from ray.actor import ActorHandle

    from actors.rollout import RolloutPool

_TOKENIZER_FILES = ("*token*.json", "tokenizer.model", "vocab.*", "merges.txt", "chat_template.*")


@dataclass
class Statistics:
    """Sums over the completion tokens of one or more optimizer steps on one rank, and facts about the steps."""

    tokens: float = 0.0
    loss: float = 0.0
    clipped: float = 0.0
    corrected: float = 0.0
    kl: float = 0.0
    entropy: float = 0.0
    mismatch: float = 0.0
    mismatch_max: float = 0.0
    grad_norm: float = 0.0
    lr: float = 0.0
    steps: int = 0
    work: list[Interval] = field(default_factory=list)

    def add(self, other: Statistics) -> None:
        """Add another rank's sums; what all ranks share (steps, norm, lr) stays."""
        for name in ("tokens", "loss", "clipped", "corrected", "kl", "entropy", "mismatch"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.mismatch_max = max(self.mismatch_max, other.mismatch_max)
        self.work += other.work

    def means(self) -> dict[str, Any]:
        """Per-token means; loss and gradient norm are means over optimizer steps; `work` is when the ranks worked."""
        tokens, steps = max(self.tokens, 1.0), max(self.steps, 1)
        return {
            "loss": self.loss / steps,
            "kl": self.kl / tokens,
            "entropy": self.entropy / tokens,
            "clip_ratio": self.clipped / tokens,
            "corrected": self.corrected / tokens,
            "mismatch": self.mismatch / tokens,
            "mismatch_max": self.mismatch_max,
            "grad_norm": self.grad_norm / steps,
            "lr": self.lr,
            "trained_tokens": self.tokens,
            "work": self.work,
        }


@dataclass(frozen=True)
class Disagreement:
    """Where trainer and engine differ most in log-probabilities of a fixed text, in nats; `token` counts from 0."""

    difference: float = 0.0
    engine: int = 0
    token: int = 0
    mine: float = 0.0
    theirs: float = 0.0

    @classmethod
    def between(cls, mine: LogProbs, theirs: LogProbs, engine: int) -> Disagreement:
        """The token with the largest difference; one that is no number counts as infinite."""
        difference = np.nan_to_num(np.abs(mine - theirs), nan=np.inf)
        at = int(difference.argmax())
        return cls(float(difference[at]), engine, at + 1, float(mine[at]), float(theirs[at]))


def zero3_config(policy: PolicyConfig, optimizer: OptimizerConfig, device: str) -> dict[str, Any]:
    """DeepSpeed's configuration. Micro-batches are counted by us, so DeepSpeed must not divide by their number."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "bf16": {"enabled": policy.dtype == "bfloat16"},
        "gradient_clipping": optimizer.max_grad_norm,
        "zero_allow_untested_optimizer": True,
        "steps_per_print": 10**9,
        "zero_optimization": {
            "stage": 3,
            "stage3_param_persistence_threshold": policy.persistence_threshold,
            # On gloo, DeepSpeed 0.19.6 waits for the last of several all-gathers only and reads garbage.
            "stage3_allgather_sequential": device == "cpu",
        },
    }


class _PolicyRank(Profiled):
    """One ZeRO-3 rank. Every public method but `address` is a collective: call it on all ranks."""

    def __init__(self, rank: int, policy: PolicyConfig, device: str):
        self._rank, self._policy, self._device_name = rank, policy, device

    def address(self) -> tuple[str, int]:
        """Host and a free port for the ranks to meet at; a fresh port for every group."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def join(self, host: str, port: int) -> None:
        """Meet the other ranks."""
        without_scikit_learn()
        import deepspeed
        import torch

        ranks, rank = self._policy.ranks, self._rank
        os.environ.update(
            MASTER_ADDR=host, MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE=str(ranks), LOCAL_RANK="0"
        )
        cpu = self._device_name == "cpu"
        if cpu:
            torch.set_num_threads(self._policy.threads)
            # DeepSpeed would compile a shared-memory collective at first use (a minute, and a compiler); gloo serves.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(dist_backend="gloo" if cpu else "nccl", verbose=False)

    def load(self, model: str | Path, optimizer: OptimizerConfig, total_steps: int) -> int:
        """Load the model sharded, and compare every tensor with the file. Returns how many there are.

        With `policy.lora`, adapters are added that change nothing yet; they alone are trained.
        """
        import deepspeed
        import torch
        from transformers import AutoModelForCausalLM, get_scheduler
        from transformers.integrations import HfDeepSpeedConfig

        from actors import lora
        from actors.scoring import Scorer

        config = zero3_config(self._policy, optimizer, self._device_name)
        self._hf_config = HfDeepSpeedConfig(config)  # must be alive while from_pretrained partitions the parameters
        dtype = getattr(torch, self._policy.dtype)
        folder = model_folder(model)
        module = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, attn_implementation="sdpa")
        if self._policy.gradient_checkpointing:
            module.gradient_checkpointing_enable()
        self._adapted = lora.add_adapters(module, self._policy.lora, model) if self._policy.lora else None
        self._score = Scorer(module, self._policy.share_prompts)
        adamw = torch.optim.AdamW(
            [parameter for parameter in module.parameters() if parameter.requires_grad],
            lr=optimizer.lr,
            betas=optimizer.betas,
            eps=optimizer.epsilon,
            weight_decay=optimizer.weight_decay,
        )
        floor = {"min_lr_rate": optimizer.floor} if optimizer.schedule == "cosine" else None
        name = "cosine_with_min_lr" if floor else optimizer.schedule
        schedule = get_scheduler(name, adamw, optimizer.warmup_steps, total_steps, scheduler_specific_kwargs=floor)
        self._engine, *_ = deepspeed.initialize(model=module, optimizer=adamw, lr_scheduler=schedule, config=config)
        self._pad = module.config.pad_token_id or 0
        self._parameters = lora.plain_parameters(module)
        return self.compare_with(folder)

    def shares_prompts(self) -> bool:
        """Whether a micro-batch has a group's prompt once: asked for, and possible with this model's attention."""
        return self._score.shares_prompts

    def compare_with(self, model: str | Path) -> int:
        """Gather every parameter and hold it against a model's files, adapters apart. Returns how many there are.

        Raises PolicyError naming the tensors that differ, or that the files lack.
        """
        import deepspeed
        import torch
        from safetensors import safe_open

        folder = model_folder(model)
        where = tensor_files(folder)
        if lacking := [plain.name for plain in self._parameters if plain.name not in where]:
            raise PolicyError(f"{folder} lacks {len(lacking)} tensors that its config.json asks for: {lacking[:5]}")
        self._settle()
        wrong = []
        for plain in self._parameters:
            with deepspeed.zero.GatheredParameters([plain.parameter]), safe_open(where[plain.name], "pt") as tensors:
                stored = tensors.get_tensor(plain.name).to(plain.parameter.dtype)
                if not torch.equal(plain.parameter.detach().cpu(), stored):
                    wrong.append(plain.name)
        if wrong:
            raise PolicyError(f"rank {self._rank}: {len(wrong)} tensors differ from {folder}: {wrong[:5]}")
        return len(self._parameters)

    def connect_engines(self, pool: RolloutPool, engine_ranks: int, config: WeightsConfig) -> None:
        """Set up the weight transfer to the engines, with vLLM's trainer-side interface."""
        from actors import weights

        self._pool = pool
        self._client = weights.EngineClient(pool.engines, self._policy.timeout_s, engine_ranks)
        source = weights.Zero3Source(self._parameters, config.bucket_mib * 2**20)
        self._sender = weights.trainer(config, self._rank, len(pool.engines) * engine_ranks, self._client, source)

    def send_weights(self, version: int, probe: Sequence[int]) -> Disagreement:
        """Make the current parameters `version` on every engine; returns where rank 0 and an engine disagree most.

        The trainer scores the probe while the engines load. An empty one is not scored.
        """
        self._client.version = version
        self._settle()
        self._sender.send_weights()
        mine = self.score(probe) if probe else None
        self._client.wait()
        if mine is None or self._rank != 0:
            return Disagreement()
        scores = enumerate(self._pool.score(probe))
        found = [Disagreement.between(mine, theirs, engine) for engine, theirs in scores]
        return max(found, key=lambda one: one.difference)

    def _settle(self) -> None:
        """Take back what DeepSpeed gathered ahead: after a forward that no backward follows it is still on its way.

        A gather of our own would find such a parameter in flight and fail. (The engine's method of the same name also
        has Python look for garbage, which takes several times as long as sending a small model.)
        """
        self._engine.optimizer.empty_partition_cache()

    def score(self, ids: Sequence[int]) -> LogProbs:
        """Log-probabilities of ids[1:] given what precedes each, [length - 1], in nats."""
        import torch

        with torch.no_grad():
            batch = self._micro_batch([Example(np.array(ids, np.int32), prompt_length=1)], [0])
            return batch.rows(self._forward(batch, 1.0)[0])[0]

    def update_sft(self, plan: Plan, given: Sequence[Example]) -> Statistics:
        """One optimizer step of supervised fine-tuning on the examples that the plan picks."""
        examples = [given[source] for source, _ in plan.picks]

        def loss(batch: MicroBatch, log_probs: torch.Tensor, rows: list[int]) -> LossTerms:
            return sft_loss(log_probs, batch.mask, plan.totals)

        return self._step(plan, examples, 1.0, loss)

    def update_grpo(self, collector: ActorHandle, step: int, config: LossConfig, temperature: float) -> Statistics:
        """One optimizer step for each of the plans of this rank's share of a step's batch.

        With one plan the policy's own log-probabilities of the first pass are the old ones; with several they are
        computed for all before the first step. So the ratio is to the policy as this update found it; what is between
        that one and the policy that sampled is for importance correction.
        """
        begun = time.time()
        share: Share = ray.get(collector.share.remote(step, self._rank), timeout=self._policy.timeout_s)
        plans = share.plans
        sampled: list[RolloutGroup] = ray.get(share.groups)
        references: list[list[LogProbs] | None] = ray.get(share.references) or [None] * len(sampled)
        batches = [
            [
                _example(sampled[source], sample, references[source], advantage)
                for (source, sample), advantage in zip(plan.picks, plan.advantages, strict=True)
            ]
            for plan in plans
        ]
        old = [self._log_probs(p, b, temperature) for p, b in zip(plans, batches, strict=True)] if plans[1:] else None
        total = Statistics()
        for number, (plan, examples) in enumerate(zip(plans, batches, strict=True)):

            def loss(
                batch: MicroBatch, log_probs: torch.Tensor, rows: list[int], plan: Plan = plan, number: int = number
            ) -> LossTerms:
                before = batch.matrix([old[number][row] for row in rows]) if old else log_probs.detach()
                reference = batch.optional("reference_log_probs")
                rollout = batch.optional("rollout_log_probs")
                if rollout is not None:  # held against the policy that sampled, whatever this one has become since
                    difference = ((before - rollout) * batch.mask).abs()
                    total.mismatch += float(difference.sum())
                    total.mismatch_max = max(total.mismatch_max, float(difference.max()))
                return grpo_loss(
                    log_probs, before, reference, batch.advantages, batch.mask, plan.totals, config, rollout
                )

            taken = self._step(plan, examples, temperature, loss)
            total.add(taken)
            total.steps, total.lr, total.grad_norm = number + 1, taken.lr, total.grad_norm + taken.grad_norm
        total.work.append((begun, time.time()))
        return total

    def _log_probs(self, plan: Plan, examples: list[Example], temperature: float) -> list[LogProbs]:
        import torch

        found: dict[int, LogProbs] = {}
        with torch.no_grad():
            for rows in plan.micro_batches:
                batch = self._micro_batch(examples, rows)
                found |= zip(rows, batch.rows(self._forward(batch, temperature)[0]), strict=False)
        return [found[row] for row in range(len(examples))]

    def _step(
        self,
        plan: Plan,
        examples: list[Example],
        temperature: float,
        loss: Callable[[MicroBatch, torch.Tensor, list[int]], LossTerms],
    ) -> Statistics:
        """Forward and backward of every micro-batch of the plan, then the optimizer step."""
        statistics = Statistics(steps=1)
        for number, rows in enumerate(plan.micro_batches):
            batch = self._micro_batch(examples, rows)
            self._engine.set_gradient_accumulation_boundary(number == len(plan.micro_batches) - 1)
            log_probs, entropy = self._forward(batch, temperature)
            if not rows:  # this rank has run out of samples; it still takes part in the others' gathers
                self._engine.backward(log_probs.sum() * 0.0)
                continue
            terms = loss(batch, log_probs, rows)
            self._engine.backward(terms.loss)
            self._count(statistics, terms, batch, entropy, plan.totals)
        self._engine.step()
        statistics.grad_norm = float(self._engine.get_global_grad_norm() or 0.0)
        statistics.lr = float(self._engine.get_lr()[0])
        return statistics

    def _count(
        self,
        statistics: Statistics,
        terms: LossTerms,
        batch: MicroBatch,
        entropy: torch.Tensor,
        totals: Totals,
    ) -> None:
        statistics.tokens += float(batch.mask.sum())
        statistics.loss += float(terms.loss.detach()) / totals.ranks
        statistics.clipped += terms.clipped
        statistics.corrected += terms.corrected
        statistics.kl += terms.kl
        statistics.entropy += float((entropy * batch.mask).sum())

    def _micro_batch(self, examples: list[Example], rows: list[int]) -> MicroBatch:
        chosen = [examples[row] for row in rows] or [Example(np.zeros(2, np.int32), prompt_length=1)]
        if self._score.shares_prompts:
            return Grouped(chosen, self._engine.device)
        return Padded(chosen, self._pad, self._engine.device)

    def _forward(self, batch: MicroBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of the completions, [examples, width] each."""
        return self._score(self._engine, batch, temperature)

    def save(self, folder: Path, tokenizer_from: str | Path) -> None:
        """Write the model in Hugging Face format with its tokenizer; the folder appears when it is complete.

        Adapters are merged into the model, and stand by themselves in `adapter`, in peft's format.
        """
        import deepspeed
        from huggingface_hub import save_torch_state_dict

        from actors import lora

        self._settle()
        state, adapters = {}, {}
        for plain in self._parameters:
            with deepspeed.zero.GatheredParameters(plain.parts):
                if self._rank == 0:
                    state[plain.name] = plain.merged().cpu().clone()
        for name, parameter in self._engine.module.named_parameters():
            if self._adapted and parameter.requires_grad:
                with deepspeed.zero.GatheredParameters([parameter]):
                    if self._rank == 0:
                        adapters[name] = parameter.detach().cpu().clone()
        if self._rank != 0:
            return
        beside = folder.with_name(f".{folder.name}.{os.getpid()}")
        shutil.rmtree(beside, ignore_errors=True)
        beside.mkdir(parents=True)
        save_torch_state_dict(state, beside, metadata={"format": "pt"})
        module = self._engine.module
        module.config.save_pretrained(beside)
        if module.can_generate():
            module.generation_config.save_pretrained(beside)
        for file in (file for pattern in _TOKENIZER_FILES for file in model_folder(tokenizer_from).glob(pattern)):
            shutil.copy(file, beside)
        if self._adapted:
            lora.save_adapter(self._adapted, adapters, beside / "adapter")
        shutil.rmtree(folder, ignore_errors=True)
        beside.rename(folder)

    def save_checkpoint(self, draft: Path) -> None:
        """Write this rank's share of parameters, optimizer, schedule and random numbers into a checkpoint's draft."""
        state = {"random": checkpoint.random_state()}
        self._engine.save_checkpoint(str(draft), tag=checkpoint.SHARDS, client_state=state, save_latest=False)

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from what `save_checkpoint` wrote. DeepSpeed wants a model that was loaded and not trained since."""
        path, state = self._engine.load_checkpoint(str(folder), tag=checkpoint.SHARDS)
        if path is None:
            raise PolicyError(f"rank {self._rank}: DeepSpeed finds nothing to load in {folder}")
        checkpoint.set_random_state(state["random"])


PolicyRank = ray.remote(_PolicyRank)


def _example(group: RolloutGroup, sample: int, references: list[LogProbs] | None, advantage: float) -> Example:
    rollout = group.rollouts[sample]
    return Example(
        ids=np.concatenate([group.prompt.ids, rollout.ids]),
        prompt_length=len(group.prompt.ids),
        advantage=advantage,
        rollout_log_probs=rollout.log_probs,
        reference_log_probs=references[sample] if references else None,
    )
