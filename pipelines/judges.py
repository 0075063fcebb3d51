"""What judges an evaluation's pairs: the rollout engines of a model. An endpoint is the other, in `endpoint.py`.

Both take tasks (a pair in one order) and give back each task's judgements as they finish. A task that cannot be
judged at all, because its prompt is too long, comes back as judgements without a verdict and the reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import ray
from ray.actor import ActorHandle

from actors.card import JudgeCard
from actors.encoding import Encoder
from actors.models import model_folder
from actors.placement import Placement, rollout_plan
from actors.rollout import RolloutPool, Sampling, Task
from actors.verifier import Verifier
from evals.errors import ReadableError
from evals.verdicts import Judgement
from pipelines.config import RunConfig
from pipelines.ledger import asked_in
from pipelines.run import checked_model, connect

IN_FLIGHT = 64
"""Groups that may wait for the verifier before the next one is fetched."""


class JudgeError(ReadableError, RuntimeError):
    """A judge that cannot be asked any further; the message says why. What it said before is kept."""


@dataclass(frozen=True)
class Answer:
    """The judgements of one task, numbered from 0. `reason` says why they hold no verdict, where nothing was asked."""

    task: Task
    judgements: list[Judgement]
    reason: str | None = None


class Judge(Protocol):
    """Something that judges."""

    @property
    def name(self) -> str:
        """What its judgements call it."""

    @property
    def settings(self) -> dict[str, Any]:
        """What its judgements depend on, `format` among it."""

    def judge(self, tasks: Sequence[Task], samples: range, seed: object) -> Iterator[Answer]:
        """Judge every task once for each number of `samples`; answers come as they finish."""

    def close(self) -> None:
        """End what was started for it."""


@dataclass
class _Graph:
    """The actors that judge."""

    placement: Placement
    pool: RolloutPool
    encoder: ActorHandle
    verifier: ActorHandle


class EngineJudge:
    """A model behind the rollout engines of the training graph, which start with the first task.

    `model` is a Hugging Face folder; temperature 0 is greedy.
    """

    def __init__(self, model: Path, format_: str, config: RunConfig, temperature: float):
        self.name = model.name
        self._config, self._format = config, format_
        self._sampling = replace(Sampling.of(config.rollout), temperature=temperature)
        self._graph: _Graph | None = None
        self.settings: dict[str, Any] = {
            "model": str(model),
            "weights": _weights(model),
            **asked_in(format_),
            "dtype": config.policy.dtype,
            "temperature": temperature,
            "top_p": self._sampling.top_p,
            "max_new_tokens": self._sampling.max_new_tokens,
            "max_model_len": config.rollout.max_model_len,
        }

    def _start(self) -> _Graph:
        connect()
        config, folder, format_ = self._config, self.settings["model"], self._format
        placement = Placement.reserve(config.placement, rollout_plan(config.placement, config.rollout))
        encoder = Encoder.options(num_cpus=0).remote(folder, format_)
        verifier = Verifier.options(num_cpus=0).remote(folder, format_, "", self.name, config.verifier)
        pool = RolloutPool.start(placement, folder, format_, config.policy, config.rollout, config.weights)
        self._graph = _Graph(placement, pool, encoder, verifier)
        pool.wait()
        return self._graph

    def close(self) -> None:
        """End the engines, where there are any."""
        if self._graph:
            self._graph.placement.release()
        ray.shutdown()

    def judge(self, tasks: Sequence[Task], samples: range, seed: object) -> Iterator[Answer]:
        """Judge every task; a group comes back as soon as an engine has finished it."""
        graph = self._graph or self._start()
        room = self._config.rollout.max_model_len - self._sampling.max_new_tokens
        lengths = ray.get(graph.encoder.prompt_lengths.remote([(task.pair, task.order) for task in tasks]))
        fitting = []
        for task, length in zip(tasks, lengths, strict=True):
            if length <= room:
                fitting.append(task)
            else:
                reason = f"the prompt has {length} tokens; {room} fit beside a judgement"
                yield Answer(task, unasked(task, self.settings["format"], self.name, samples, length), reason)
        pending: dict[ray.ObjectRef, Task] = {}
        sampling = replace(self._sampling, samples=len(samples))
        for task, group in graph.pool.rollout(fitting, sampling, (seed, samples.start)):
            _, judged = graph.verifier.score.options(num_returns=2).remote(group)
            pending[judged] = task
            yield from self._finished(pending, samples, wait=len(pending) > IN_FLIGHT)
        while pending:
            yield from self._finished(pending, samples, wait=True)

    def _finished(self, pending: dict[ray.ObjectRef, Task], samples: range, wait: bool) -> Iterator[Answer]:
        limit = self._config.rollout.timeout_s if wait else 0
        ready, _ = ray.wait(list(pending), num_returns=1 if wait else len(pending), timeout=limit)
        if wait and not ready:
            raise JudgeError(f"the verifier did not answer within rollout.timeout_s={limit:.0f}")
        for judged in ready:
            numbered = [replace(one, sample=n) for n, (one, _) in zip(samples, ray.get(judged), strict=True)]
            yield Answer(pending.pop(judged), numbered)


def judge_folder(model: str) -> Path:
    """The folder of a model: a path, or a name on the Hugging Face hub, which is fetched. Raises ModelError."""
    return model_folder(checked_model(model))


def fitted(config: RunConfig, model: Path) -> RunConfig:
    """The configuration with the lengths and dtype that the model asks for, where none were given.

    A judge that Gavel saved says them in `gavel.json`. Of any other model the context is used up to 32,768 tokens,
    and at most half of it, 8,192 tokens, for a judgement.
    """
    card = JudgeCard.load(model)
    if card:
        lengths = {"max_model_len": card.max_model_len, "max_new_tokens": card.max_new_tokens}
        config = config.model_copy(update={"policy": config.policy.model_copy(update={"dtype": card.dtype})})
    else:
        context = json.loads((model / "config.json").read_text(encoding="utf-8")).get("max_position_embeddings", 8192)
        lengths = {"max_model_len": min(context, 32768), "max_new_tokens": min(context // 2, 8192)}
    given = config.rollout.model_fields_set
    missing = {name: value for name, value in lengths.items() if name not in given}
    return config.model_copy(update={"rollout": config.rollout.model_copy(update=missing)})


def trained_format(model: Path) -> str | None:
    """The prompt format that a judge was trained in, where its folder says it."""
    card = JudgeCard.load(model)
    return card.format if card else None


def _weights(model: Path) -> str:
    """What tells this model's weights from others of the same folder: names and sizes, and the judge's version."""
    files = {file.name: file.stat().st_size for file in sorted(model.glob("*.safetensors"))}
    card = JudgeCard.load(model)
    return json.dumps({"files": files, "version": card.version if card else None})


def unasked(task: Task, format_: str, model: str, samples: range, length: int | None = None) -> list[Judgement]:
    """Judgements without text and verdict, of a task that was not put to the judge."""
    pair = task.pair
    blank = Judgement("", pair.id, pair.subset, pair.gold, task.order, 0, format_, "", None, length, 0, model)
    return [replace(blank, sample=sample) for sample in samples]
