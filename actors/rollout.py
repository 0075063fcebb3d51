"""Rollouts: a vLLM engine inside an actor, and the pool that spreads prompts over several of them.

The engine lives in the actor's own process and is driven step by step. On one core vLLM's two helper processes
(AsyncLLM) cost almost half of the tokens per second, and a batch whose requests are all added before the first
step is composed the same way every time: with the generator seeded once a batch, the same call gives the same
tokens on every repeat and on every engine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.config import PolicyConfig, RolloutConfig, WeightsConfig
from actors.encoding import Prompting, prompting
from actors.models import model_folder
from actors.placement import Placement
from actors.records import LogProbs, Prompt, Rollout, RolloutGroup
from actors.tokens import PromptEncoder
from evals.pairs import Pair
from evals.verdicts import Order


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt to be sampled: a pair in one order. `index` is its place in the batch, `pair` the pair itself."""

    index: int
    pair: Pair
    order: Order


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to sample a batch: n judgements a prompt; temperature 0 is greedy."""

    samples: int
    temperature: float
    top_p: float
    max_new_tokens: int

    @classmethod
    def of(cls, config: RolloutConfig) -> Sampling:
        """Sampling as in training."""
        return cls(config.samples, config.temperature, config.top_p, config.max_new_tokens)


def engine_arguments(model: str, dtype: str, rollout: RolloutConfig, device: str) -> dict[str, Any]:
    """vLLM's engine arguments, the same for training, evaluation and serving."""
    arguments: dict[str, Any] = {
        "model": model,
        "dtype": dtype,
        "max_model_len": rollout.max_model_len,
        "max_num_seqs": rollout.max_num_seqs,
        "tensor_parallel_size": rollout.tensor_parallel,
        "enable_prefix_caching": True,
        # The log-probabilities of the distribution that was sampled from, after temperature and top-p.
        "logprobs_mode": "processed_logprobs",
        "skip_tokenizer_init": True,  # prompts arrive as ids and leave as ids
        "disable_log_stats": True,
        "seed": 0,
    }
    if device == "cpu":
        # Blocks of 32: the default of 128 would let short prompts of one group share nothing.
        arguments |= {
            "enforce_eager": True,
            "block_size": 32,
            "kv_cache_memory_bytes": int(rollout.kv_cache_gib * 2**30),
        }
    else:
        arguments["gpu_memory_utilization"] = rollout.gpu_memory_utilization
    if rollout.tensor_parallel == 1:
        arguments["distributed_executor_backend"] = "uni"
    return arguments


class _RolloutEngine:
    """One vLLM engine. Calls run one after the other, so nothing is sampled while weights are loaded."""

    def __init__(
        self, model: str, asked: str | Prompting, dtype: str, rollout: RolloutConfig, transfer: str, device: str
    ):
        from vllm import LLM
        from vllm.config import WeightTransferConfig

        from actors import weights

        self._prompting = prompting(asked)
        self._encoder = PromptEncoder(model)
        self._max_model_len = rollout.max_model_len
        self._llm = LLM(
            **engine_arguments(str(model_folder(model)), dtype, rollout, device),
            worker_extension_cls=weights.WORKER_EXTENSION,
            weight_transfer_config=WeightTransferConfig(backend=transfer),
        )
        self._version = 0

    def ready(self) -> int:
        """Returns the engine's process id once the model is loaded."""
        return os.getpid()

    def rollout(self, tasks: Sequence[Task], sampling: Sampling, seed: int) -> Iterator[int | RolloutGroup]:
        """Sample every task; as each group finishes, yield the place of its task among `tasks`, then the group.

        Every prompt must leave room for `max_new_tokens` under the engine's `max_model_len`; ValueError otherwise.
        """
        import torch
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        params = SamplingParams(
            n=sampling.samples,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            max_tokens=sampling.max_new_tokens,
            stop_token_ids=[self._encoder.eos],
            logprobs=0,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        prompts = [self._prompt(task, sampling.max_new_tokens) for task in tasks]
        torch.manual_seed(seed)
        engine = self._llm.llm_engine
        for place, prompt in enumerate(prompts):
            engine.add_request(str(place), {"prompt_token_ids": prompt.ids.tolist()}, params)
        while engine.has_unfinished_requests():
            for output in engine.step():
                if output.finished:
                    rollouts = tuple(_rollout(completion) for completion in output.outputs)
                    place = int(output.request_id)
                    yield place
                    yield RolloutGroup(tasks[place].index, prompts[place], rollouts, self._version)

    def _prompt(self, task: Task, max_new_tokens: int) -> Prompt:
        ids = self._encoder.encode_prompt(self._prompting.render(task.pair, task.order))
        if len(ids) + max_new_tokens > self._max_model_len:
            raise ValueError(
                f"pair {task.pair.id!r} in order {task.order}: a prompt of {len(ids)} tokens and {max_new_tokens} new "
                f"ones do not fit into rollout.max_model_len={self._max_model_len}"
            )
        return Prompt(task.pair, task.order, ids)

    def score(self, ids: Sequence[int]) -> LogProbs:
        """The engine's log-probabilities of ids[1:] given what precedes each, [length - 1], in nats."""
        from vllm import SamplingParams

        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        output = self._llm.generate({"prompt_token_ids": list(ids)}, params, use_tqdm=False)[0]
        return np.array([next(iter(at.values())).logprob for at in output.prompt_logprobs[1:]], np.float32)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """vLLM's transfer interface, first phase: set up the transport."""
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        """Second phase: make the model loadable."""
        self._llm.start_weight_update()

    def update_weights(self, update_info: dict[str, Any], buffer: np.ndarray | None) -> None:
        """Third phase: load the tensors. `buffer` holds them where the transport is "shm"."""
        from actors import weights

        if buffer is None:
            self._llm.update_weights({"update_info": update_info})
            return
        path = weights.map_to_shared_memory(buffer)
        try:
            self._llm.update_weights({"update_info": update_info | {"path": path}})
        finally:
            os.unlink(path)

    def finish_weight_update(self, version: int) -> None:
        """Last phase: from here on, everything is sampled with `version`, and no cached prefix is older."""
        self._llm.finish_weight_update(str(version))
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not reset its prefix cache; tokens of two weight versions would mix")
        self._version = version


RolloutEngine = ray.remote(_RolloutEngine)


def _rollout(completion: Any) -> Rollout:
    ids = np.array(completion.token_ids, np.int32)
    log_probs = np.array([at[id_].logprob for at, id_ in zip(completion.logprobs, ids.tolist(), strict=True)])
    return Rollout(ids, log_probs.astype(np.float32), completion.finish_reason == "length")


class RolloutPool:
    """All engines as one: prompts are dealt out in turn, groups come back as they finish."""

    def __init__(self, engines: Sequence[ActorHandle], timeout_s: float):
        self.engines = list(engines)
        self._timeout_s = timeout_s

    @classmethod
    def start(
        cls,
        placement: Placement,
        model: str,
        asked: str | Prompting,
        policy: PolicyConfig,
        rollout: RolloutConfig,
        weights: WeightsConfig,
    ) -> RolloutPool:
        """Create the engines; they load the model meanwhile. `asked`: a prompt format's name, or any other way."""
        arguments = (model, asked, policy.dtype, rollout, weights.transfer, placement.config.device)
        engines = [
            RolloutEngine.options(**placement.engine(i, rollout)).remote(*arguments) for i in range(rollout.engines)
        ]
        return cls(engines, rollout.timeout_s)

    def wait(self) -> None:
        """Wait until every engine has loaded the model."""
        ray.get([engine.ready.remote() for engine in self.engines], timeout=self._timeout_s)

    def rollout(self, tasks: Sequence[Task], sampling: Sampling, seed: object) -> Iterator[tuple[Task, ray.ObjectRef]]:
        """Sample every task; yields the task and a ref of its RolloutGroup as each group finishes.

        Which engine samples which task, and the seed of each engine's batch, follow from the arguments alone.
        Raises TimeoutError where the batch takes longer than `rollout.timeout_s`.
        """
        count = len(self.engines)
        running = {
            engine.rollout.options(num_returns="streaming").remote(share, sampling, batch_seed(seed, index)): share
            for index, engine in enumerate(self.engines)
            if (share := tasks[index::count])
        }
        while running:
            ready, _ = ray.wait(list(running), num_returns=1, timeout=self._timeout_s)
            if not ready:
                raise TimeoutError(f"no engine finished a group within rollout.timeout_s={self._timeout_s:.0f}")
            try:
                place = next(ready[0])
            except StopIteration:
                del running[ready[0]]
            else:
                yield running[ready[0]][ray.get(place)], next(ready[0])

    def score(self, ids: Sequence[int]) -> list[LogProbs]:
        """Every engine's log-probabilities of a fixed text."""
        return ray.get([engine.score.remote(ids) for engine in self.engines], timeout=self._timeout_s)

    def stop(self) -> None:
        """End the engines."""
        for engine in self.engines:
            ray.kill(engine)


def batch_seed(*parts: object) -> int:
    """A seed of 63 bits from anything that prints: the same for the same parts, on every machine."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
