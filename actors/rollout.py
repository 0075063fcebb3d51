"""Rollouts: a vLLM engine inside an actor, and the pool that spreads prompts over several of them.

The engine lives in the actor's own process and is driven step by step. On one core vLLM's two helper processes
(AsyncLLM) cost almost half of the tokens per second, and a batch whose requests are all added before the first
step is composed the same way every time: with the generator seeded once a batch, the same call gives the same
tokens on every repeat and on every engine.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
from ray.actor import ActorHandle

from actors.config import PolicyConfig, RolloutConfig, WeightsConfig
from actors.encoding import Prompting, prompting
from actors.models import model_folder, without, without_scikit_learn
from actors.placement import Placement
from actors.profiling import Profiled
from actors.records import Ids, LogProbs, Prompt, Rollout, RolloutGroup
from actors.tokens import PromptEncoder
from evals.pairs import Pair
from evals.verdicts import Order

if TYPE_CHECKING:
    from vllm import SamplingParams


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
            # Without a compiler vLLM takes the plain forms of norms and activations, unless told otherwise.
            "compilation_config": {"custom_ops": ["all"]},
        }
    else:
        arguments["gpu_memory_utilization"] = rollout.gpu_memory_utilization
    if rollout.tensor_parallel == 1:
        arguments["distributed_executor_backend"] = "uni"
    return arguments


class _RolloutEngine(Profiled):
    """One vLLM engine. Calls may come at the same time: batches are sampled one after the other, weights in between.

    New weights wait for a decoding step to end, and the next one has them. What is being sampled then goes on under
    the new weights, its keys and values computed anew ("keep"), or begins anew ("abort"). Every token has its version.
    """

    def __init__(
        self, model: str, asked: str | Prompting, dtype: str, rollout: RolloutConfig, transfer: str, device: str
    ):
        without_scikit_learn()
        self._prompting = prompting(asked)
        self._encoder = PromptEncoder(model)
        self._max_model_len = rollout.max_model_len
        self._abort = rollout.in_flight == "abort"
        with without("scipy.signal", "pandas"):  # for sound, and for another vendor's GPUs
            from vllm import LLM
            from vllm.config import WeightTransferConfig

            from actors import weights

            self._llm = LLM(
                **engine_arguments(str(model_folder(model)), dtype, rollout, device),
                worker_extension_cls=weights.WORKER_EXTENSION,
                weight_transfer_config=WeightTransferConfig(backend=transfer),
            )
        self._version = 0
        self._numbers = itertools.count()
        self._turn, self._engine_lock = threading.Lock(), threading.Lock()
        self._open = threading.Event()  # not set: whoever decodes makes way for new weights
        self._open.set()
        self._sampling: dict[str, _InFlight] = {}
        self._finished: dict[str, Any] = {}

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
        with self._turn:
            begun = time.time()
            torch.manual_seed(seed)
            places = {self._add(prompt.ids.tolist(), params): place for place, prompt in enumerate(prompts)}
            for id_, output, versions in self._run(places):
                place, group = places[id_], [_rollout(completion, versions) for completion in output.outputs]
                yield place
                yield RolloutGroup(
                    tasks[place].index, prompts[place], tuple(group), versions.last, (begun, time.time())
                )

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
        ((_, output, _),) = self._run([self._add(ids, params)])
        return np.array([next(iter(at.values())).logprob for at in output.prompt_logprobs[1:]], np.float32)

    def _add(self, ids: Sequence[int], params: SamplingParams) -> str:
        """Hand a prompt to vLLM; returns the name of the request."""
        id_ = str(next(self._numbers))
        with self._engine_lock:
            self._begin(id_, ids, params)
        return id_

    def _begin(self, id_: str, ids: Sequence[int], params: SamplingParams) -> None:
        from vllm.inputs import tokens_input

        self._llm.llm_engine.add_request(id_, tokens_input(list(ids)), params)
        self._sampling[id_] = _InFlight(ids, params, self._version)

    def _run(self, requests: Iterable[str]) -> Iterator[tuple[str, Any, _InFlight]]:
        """Step the engine until the requests are finished; yields each with its versions as it finishes.

        Somebody else's requests run along; what finishes of them waits for whoever asked.
        """
        open_ = set(requests)
        while open_:
            if not (done := [id_ for id_ in self._finished if id_ in open_]):
                self._open.wait()
                with self._engine_lock:
                    for output in self._llm.llm_engine.step():
                        if output.finished:
                            self._finished[output.request_id] = output
                continue
            for id_ in done:
                open_.remove(id_)
                yield id_, self._finished.pop(id_), self._sampling.pop(id_)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """vLLM's transfer interface, first phase: set up the transport."""
        self._llm.init_weight_transfer_engine({"init_info": init_info})

    def start_weight_update(self) -> None:
        """Second phase: stop decoding, make the model loadable."""
        self._open.clear()
        self._engine_lock.acquire()
        self._llm.start_weight_update()

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Third phase: load the tensors."""
        self._llm.update_weights({"update_info": update_info})

    def finish_weight_update(self, version: int) -> None:
        """Last phase: from here on, everything is sampled with `version`, and no cached key or value is older."""
        self._llm.finish_weight_update(str(version))
        self._switch(version)
        self._engine_lock.release()
        self._open.set()

    def load_weights(self, update_info: dict[str, Any], buffer: np.ndarray, version: int) -> None:
        """The last three phases at once, from a buffer in node-shared memory: one decoding step waits, or none."""
        self.start_weight_update()
        self.update_weights(update_info | {"buffer": buffer})
        self.finish_weight_update(version)

    def _switch(self, version: int) -> None:
        """Nothing that was computed under older weights is used from here on but the tokens that were sampled."""
        engine = self._llm.llm_engine
        self._version = version
        if not engine.has_unfinished_requests():
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("vLLM did not reset its prefix cache; tokens of two weight versions would mix")
            return
        running = [id_ for id_ in self._sampling if id_ not in self._finished]
        if self._abort:
            engine.abort_request(running)
            self._llm.reset_prefix_cache(reset_running_requests=True)
            for id_ in running:
                self._begin(id_, self._sampling[id_].ids, self._sampling[id_].params)
            return
        for state in engine.output_processor.request_states.values():
            sampled = state.detokenizer.num_output_tokens()
            self._sampling[state.external_req_id].switched(state.request_index, sampled, version)
        self._llm.reset_prefix_cache(reset_running_requests=True)


RolloutEngine = ray.remote(_RolloutEngine)


@dataclass
class _InFlight:
    """A request that is being sampled, and the weight versions it has seen."""

    ids: Sequence[int]
    params: SamplingParams
    first: int
    switches: list[tuple[int, int, int]] = field(default_factory=list)
    """(sample, tokens that it had, version from there on)"""

    @property
    def last(self) -> int:
        """The version that the last sample ended under."""
        return max((version for _, _, version in self.switches), default=self.first)

    def switched(self, sample: int, tokens: int, version: int) -> None:
        """From here on the sample goes on under `version`."""
        self.switches.append((sample, tokens, version))

    def of(self, sample: int, length: int) -> Ids:
        """The version of each of a sample's tokens, [length]."""
        versions = np.full(length, self.first, np.int32)
        for mine, tokens, version in self.switches:
            if mine == sample:
                versions[tokens:] = version
        return versions


def _rollout(completion: Any, versions: _InFlight) -> Rollout:
    ids = np.array(completion.token_ids, np.int32)
    log_probs = np.array([at[id_].logprob for at, id_ in zip(completion.logprobs, ids.tolist(), strict=True)])
    truncated = completion.finish_reason == "length"
    return Rollout(ids, log_probs.astype(np.float32), truncated, versions.of(completion.index, len(ids)))


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
