"""A teacher behind an OpenAI-compatible endpoint, asked live or through OpenAI's batch API."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import openai
from openai import APIConnectionError, APIStatusError, AsyncOpenAI
from openai.types.chat import ChatCompletion

from evals.pairs import Message
from pipelines.answers import detail, said, told
from pipelines.teachers import (
    NO_BATCHES,
    Answer,
    Asking,
    Failure,
    Question,
    Seen,
    TeacherError,
    UnansweredError,
    calling,
    failed,
    readable,
    refused,
)

COMPLETIONS: Literal["/v1/chat/completions"] = "/v1/chat/completions"
"""Where a batch's requests go, in OpenAI's words."""


@dataclass(frozen=True)
class OpenAITeacher:
    """A model behind /chat/completions."""

    model: str
    url: str
    client: AsyncOpenAI
    asking: Asking

    @classmethod
    def at(cls, url: str, model: str, key: str | None, asking: Asking) -> OpenAITeacher:
        """The model at a URL that ends in /v1; a server of one's own may want no key."""
        url = url.rstrip("/")
        client = AsyncOpenAI(base_url=url, api_key=key or "none", max_retries=asking.retries, timeout=asking.timeout_s)
        return cls(model, url, client, asking)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its answers depend on."""
        return {"url": self.url, "model": self.model, **self.asking.sampling}

    async def ask(self, messages: Sequence[Message], sample: int) -> Answer:
        """One answer."""
        try:
            completion = await self.client.chat.completions.create(**self._body(messages, sample))
        except APIStatusError as error:
            return refused(self.url, error.status_code, detail(error), error)
        except (APIConnectionError, ValueError) as error:  # a timeout is a connection error, broken JSON a ValueError
            raise UnansweredError(f"{self.url}: {error}") from error
        with readable(self.url):
            return self._read(completion)

    def _body(self, messages: Sequence[Message], sample: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "messages": list(messages),
            "max_completion_tokens": self.asking.max_tokens,
        }
        if self.asking.temperature is not None:
            body["temperature"] = self.asking.temperature
        if self.asking.seeded:
            body["seed"] = sample
        return body

    @property
    def most(self) -> tuple[int, int]:
        """OpenAI's limits on one batch."""
        return 50_000, 200_000_000

    def line(self, question: Question) -> dict[str, Any]:
        """A line of the file that is uploaded."""
        body = self._body(question.messages, question.sample)
        return {"custom_id": question.name, "method": "POST", "url": COMPLETIONS, "body": body}

    async def submit(self, key: str, questions: Sequence[Question]) -> str:
        """Upload the requests, which buys nothing, and submit them with the key as metadata."""
        lines = "".join(json.dumps(self.line(question)) + "\n" for question in questions)
        with calling(self.url, openai, NO_BATCHES):
            file = await self.client.files.create(file=(f"{key}.jsonl", lines.encode()), purpose="batch")
            batch = await self.client.with_options(max_retries=0).batches.create(
                input_file_id=file.id, endpoint=COMPLETIONS, completion_window="24h", metadata={"gavel": key}
            )
        return batch.id

    async def find(self, key: str, made: float, size: int, known: set[str]) -> str | None:
        """The batch that has the key as metadata; the API promises no order, so all are looked at."""
        with calling(self.url, openai):
            async for batch in self.client.batches.list(limit=100):
                if (batch.metadata or {}).get("gavel") == key:
                    return batch.id
        return None

    async def look(self, batch: str) -> Seen:
        """How a batch stands."""
        with calling(self.url, openai):
            found = await self.client.batches.retrieve(batch)
        counts = found.request_counts
        why = None
        if found.status == "failed":
            errors = (found.errors.data if found.errors else None) or []
            why = "; ".join(f"{one.message or one.code}" for one in errors[:5]) or "no reason given"
        ended = found.status in ("completed", "expired", "cancelled", "failed")
        return Seen(counts.completed + counts.failed if counts else 0, ended, why)

    async def results(self, batch: str) -> AsyncIterator[tuple[str, Answer | Failure]]:
        """What came of a batch: one file has the answers, another the errors, and either may be lacking."""
        with calling(self.url, openai):
            found = await self.client.batches.retrieve(batch)
            files = [name for name in (found.output_file_id, found.error_file_id) if name]
            contents = [(await self.client.files.content(name)).content for name in files]
        for line in (line for content in contents for line in content.split(b"\n") if line.strip()):
            try:
                row = json.loads(line)
                yield row["custom_id"], self._result(row)
            except (ValueError, KeyError, TypeError) as error:
                raise TeacherError(f"{self.url}: batch {batch}: not the result of a request ({error!r})") from error

    def _result(self, row: Mapping[str, Any]) -> Answer | Failure:
        response, error = row.get("response"), row.get("error")
        if response and response["status_code"] == 200:
            try:
                with readable(self.url):
                    return self._read(ChatCompletion.construct(**response["body"]))
            except UnansweredError as broken:
                return Failure("errored", str(broken))
        if error:
            how = {"batch_expired": "expired", "batch_cancelled": "canceled"}.get(error.get("code"), "errored")
            return Failure(how, error.get("message") or how)
        body = row["response"]["body"]
        return failed(row["response"]["status_code"], told(body) or str(body))

    def _read(self, completion: ChatCompletion) -> Answer:
        choice, usage = completion.choices[0], completion.usage
        text = said(choice.message, self.asking.thinks)
        counts: tuple[int | None, int | None] = (None, None)
        if usage:
            counts = (usage.prompt_tokens, usage.completion_tokens)
        if choice.finish_reason == "content_filter" or choice.message.refusal:
            return Answer(text, "refused", *counts, reason=choice.message.refusal or "content_filter")
        return Answer(text, "cut_off" if choice.finish_reason == "length" else "complete", *counts)

    async def close(self) -> None:
        """End its connections."""
        await self.client.close()
