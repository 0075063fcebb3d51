"""A judge behind HTTP: an OpenAI-compatible server, or one that Gavel serves."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import httpx
from openai import APIConnectionError, APIStatusError, APITimeoutError, AsyncOpenAI

from actors.rollout import Sampling, Task
from evals.prompts import PromptFormat, prompt_format
from evals.verdicts import Judgement
from pipelines.answers import detail, is_about_length, said
from pipelines.flags import GAVEL_KEY
from pipelines.judges import Answer, JudgeError, unasked
from pipelines.ledger import asked_in

RETRIES = 8
TIMEOUT_S = 600.0


@dataclass(frozen=True)
class EndpointJudge:
    """The endpoint, and how it is asked. `gavel` is whether it speaks Gavel's own /judge.

    Requests that fail for the moment (429, 5xx, a dropped connection) are repeated with growing pauses, or after as
    long as the server asks for, at most RETRIES times.
    """

    name: str
    settings: dict[str, Any]
    url: str
    format: PromptFormat
    sampling: Sampling
    concurrency: int
    key: str
    gavel: bool

    @classmethod
    def find(cls, url: str, model: str | None, format_: str | None, sampling: Sampling, concurrency: int) -> Self:
        """Ask the endpoint what it is. The key of an OpenAI-compatible one is taken from OPENAI_API_KEY, that of one
        that Gavel serves from GAVEL_API_KEY; neither is shown to the other.

        Raises JudgeError where nothing answers there, where the key is missing or refused, or where model or format
        cannot be what the endpoint serves.
        """
        url = url.rstrip("/")
        card = _card(url)
        gavel = {"format", "model", "max_new_tokens"} <= card.keys()
        if gavel:
            if format_ and format_ != card["format"]:
                raise JudgeError(f"--format {format_}: the judge at {url} is asked in {card['format']!r}; leave it out")
            model, format_ = card["model"], card["format"]
        elif model is None:
            raise JudgeError(f"--endpoint {url}: an OpenAI-compatible endpoint needs the served model's name, --model")
        format_ = format_ or "rm_r1"
        settings = {
            "endpoint": url,
            "model": model,
            **asked_in(format_),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "max_new_tokens": sampling.max_new_tokens,
        }
        if gavel:
            settings |= {"version": card["version"], "max_new_tokens": card["max_new_tokens"]}
        key = os.environ.get(GAVEL_KEY if gavel else "OPENAI_API_KEY", "none")
        return cls(str(model), settings, url, prompt_format(format_), sampling, concurrency, key, gavel)

    def judge(self, tasks: Sequence[Task], samples: range, seed: object) -> Iterator[Answer]:
        """Judge every task, `concurrency` requests at a time. Raises JudgeError where the server gives up."""
        answers: queue.Queue[Answer | BaseException | None] = queue.Queue()

        def work() -> None:
            try:
                asyncio.run(self._judge_all(tasks, samples, answers))
                answers.put(None)
            except BaseExceptionGroup as group:  # handed to the caller, who raises it
                answers.put(group.exceptions[0])
            except BaseException as error:
                answers.put(error)

        threading.Thread(target=work, daemon=True).start()
        while (answer := answers.get()) is not None:
            if isinstance(answer, BaseException):
                raise answer
            yield answer

    def close(self) -> None:
        """Nothing was started."""

    async def _judge_all(self, tasks: Sequence[Task], samples: range, answers: queue.Queue) -> None:
        client = AsyncOpenAI(base_url=self.url, api_key=self.key, max_retries=RETRIES, timeout=TIMEOUT_S)
        waiting = iter(tasks)

        async def worker() -> None:
            for task in waiting:
                answers.put(await self._task(client, task, samples))

        async with client, asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(tasks))):
                group.create_task(worker())

    async def _task(self, client: AsyncOpenAI, task: Task, samples: range) -> Answer:
        ask = self._ask_gavel if self.gavel else self._ask_openai
        try:
            judgements = [await ask(client, task, sample) for sample in samples]
        except APITimeoutError as error:
            raise JudgeError(f"{self.url} did not answer within {TIMEOUT_S:.0f} s, {RETRIES} times") from error
        except APIConnectionError as error:
            raise JudgeError(f"{self.url} cannot be reached ({error})") from error
        except APIStatusError as error:
            refused = 422 if self.gavel else 413
            if error.status_code == refused or (error.status_code == 400 and is_about_length(detail(error))):
                return Answer(task, unasked(task, self.format.name, self.name, samples), detail(error))
            raise JudgeError(
                f"{self.url} refused pair {task.pair.id!r}: {error.status_code} {detail(error)}"
            ) from error
        return Answer(task, judgements)

    async def _ask_openai(self, client: AsyncOpenAI, task: Task, sample: int) -> Judgement:
        messages: Any = self.format.render(task.pair, task.order)
        completion = await client.chat.completions.create(
            model=self.name,
            messages=messages,
            temperature=self.sampling.temperature,
            top_p=self.sampling.top_p,
            max_tokens=self.sampling.max_new_tokens,
            seed=self._seed(sample),
        )
        usage = completion.usage
        lengths = (usage.prompt_tokens, usage.completion_tokens) if usage else (None, None)
        return self._judgement(task, sample, said(completion.choices[0].message), *lengths)

    async def _ask_gavel(self, client: AsyncOpenAI, task: Task, sample: int) -> Judgement:
        answer: Any = await client.post(
            "/judge",
            body={
                "conversation": list(task.pair.messages),
                "response_a": task.pair.response_a,
                "response_b": task.pair.response_b,
                "order": task.order,
                "temperature": self.sampling.temperature,
                "seed": self._seed(sample) or 0,
            },
            cast_to=object,
        )
        (one,) = answer["judgements"]
        judgement = self._judgement(task, sample, one["text"], one["prompt_tokens"], one["completion_tokens"])
        return replace(judgement, version=answer["version"])

    def _seed(self, sample: int) -> int | None:
        """Each sample has a seed of its own; greedy sampling needs none."""
        return sample if self.sampling.temperature else None

    def _judgement(self, task: Task, sample: int, text: str, prompt: int | None, completion: int | None) -> Judgement:
        pair, parsed = task.pair, self.format.parse(text, task.order)
        return Judgement(
            benchmark="",
            pair_id=pair.id,
            subset=pair.subset,
            gold=pair.gold,
            order=task.order,
            sample=sample,
            format=self.format.name,
            text=text,
            verdict=parsed.verdict,
            prompt_tokens=prompt,
            completion_tokens=completion,
            model=self.name,
            ratings=parsed.ratings,
        )


def _card(url: str) -> dict[str, Any]:
    """What a judge that Gavel serves says of itself; empty where it is none. Raises JudgeError."""
    card, answer = _asked(url, {})
    if answer.status_code == httpx.codes.UNAUTHORIZED and "detail" in card:  # as Gavel says it, and OpenAI's do not
        if not (key := os.environ.get(GAVEL_KEY)):
            raise JudgeError(f"--endpoint {url}: the judge there wants an API key; set {GAVEL_KEY}")
        card, answer = _asked(url, {"Authorization": f"Bearer {key}"})
        if answer.status_code == httpx.codes.UNAUTHORIZED:
            raise JudgeError(f"--endpoint {url}: the key in {GAVEL_KEY} is refused: {card.get('detail')}")
    return card if answer.is_success else {}


def _asked(url: str, headers: dict[str, str]) -> tuple[dict[str, Any], httpx.Response]:
    try:
        answer = httpx.get(f"{url}/version", headers=headers, timeout=30)
    except httpx.HTTPError as error:
        raise JudgeError(f"--endpoint {url}: nothing answers there ({error})") from error
    try:
        said = answer.json()
    except ValueError:
        said = {}
    return said if isinstance(said, dict) else {}, answer
