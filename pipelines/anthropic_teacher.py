"""A teacher of Anthropic's, asked live or through its batch API. Needs the package anthropic."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import anthropic
from anthropic import AsyncAnthropic
from anthropic.types import Message as AnthropicMessage
from anthropic.types.messages import MessageBatch

from evals.pairs import Message
from pipelines.answers import detail
from pipelines.teachers import (
    ANTHROPIC,
    NO_BATCHES,
    Answer,
    Asking,
    Failure,
    Question,
    Seen,
    TeacherError,
    UnansweredError,
    UnsettledError,
    calling,
    failed,
    readable,
    refused,
)

CLOCKS_S = 3600.0
"""How far a vendor's clock may be behind ours, in seconds, for a batch to be found again."""


@dataclass(frozen=True)
class AnthropicTeacher:
    """One of Anthropic's models, through its Messages API; the system message goes where that API has it."""

    model: str
    client: AsyncAnthropic
    asking: Asking

    @classmethod
    def of(cls, model: str, key: str | None, asking: Asking) -> AnthropicTeacher:
        """The model of that name. Raises TeacherError without a key."""
        if not key:
            raise TeacherError(
                "Anthropic's key is not set; put it into ANTHROPIC_API_KEY, or name the variable that has it"
            )
        client = AsyncAnthropic(api_key=key, max_retries=asking.retries, timeout=asking.timeout_s)
        return cls(model, client, asking)

    @property
    def url(self) -> str:
        """Where it is asked."""
        return str(self.client.base_url)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its answers depend on."""
        return {"url": ANTHROPIC, "model": self.model, **self.asking.sampling}

    async def ask(self, messages: Sequence[Message], sample: int) -> Answer:
        """One answer; there is no seed."""
        try:
            said = await self.client.messages.create(**self._body(messages))
        except anthropic.APIStatusError as error:
            return refused(self.url, error.status_code, detail(error), error)
        except (anthropic.APIConnectionError, ValueError) as error:
            raise UnansweredError(f"{self.url}: {error}") from error
        with readable(self.url):
            return self._read(said)

    def _body(self, messages: Sequence[Message]) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "max_tokens": self.asking.max_tokens,
            "messages": [message for message in messages if message["role"] != "system"],
        }
        if system := "\n\n".join(message["content"] for message in messages if message["role"] == "system"):
            body["system"] = system
        if self.asking.temperature is not None:
            body["temperature"] = self.asking.temperature
        return body

    @property
    def most(self) -> tuple[int, int]:
        """Anthropic's limits on one batch."""
        return 100_000, 256_000_000

    def line(self, question: Question) -> dict[str, Any]:
        """An entry of a batch's requests."""
        return {"custom_id": question.name, "params": self._body(question.messages)}

    async def submit(self, key: str, questions: Sequence[Question]) -> str:
        """Submit a batch."""
        requests: Any = [self.line(question) for question in questions]
        with calling(self.url, anthropic, NO_BATCHES):
            return (await self.client.with_options(max_retries=0).messages.batches.create(requests=requests)).id

    async def find(self, key: str, made: float, size: int, known: set[str]) -> str | None:
        """The batch whose results bear the key: there is no metadata, so one that has not ended cannot be told."""
        unsettled = None
        with calling(self.url, anthropic):
            async for batch in self.client.messages.batches.list(limit=100):
                if batch.created_at.timestamp() < made - CLOCKS_S:  # the newest come first
                    break
                if batch.id in known or _size(batch) != size:
                    continue
                if batch.processing_status != "ended":
                    unsettled = batch.id
                elif batch.results_url:
                    async for row in await self.client.messages.batches.results(batch.id):
                        if row.custom_id.startswith(key):
                            return batch.id
                        break
        if unsettled:
            raise UnsettledError(unsettled)
        return None

    async def look(self, batch: str) -> Seen:
        """How a batch stands."""
        with calling(self.url, anthropic):
            found = await self.client.messages.batches.retrieve(batch)
        return Seen(_size(found) - found.request_counts.processing, found.processing_status == "ended")

    async def results(self, batch: str) -> AsyncIterator[tuple[str, Answer | Failure]]:
        """What came of a batch."""
        with calling(self.url, anthropic):
            async for row in await self.client.messages.batches.results(batch):
                result = row.result
                if result.type == "succeeded":
                    try:
                        with readable(self.url):
                            yield row.custom_id, self._read(result.message)
                    except UnansweredError as broken:
                        yield row.custom_id, Failure("errored", str(broken))
                elif result.type == "errored":
                    status = 400 if result.error.error.type == "invalid_request_error" else 500
                    yield row.custom_id, failed(status, result.error.error.message)
                else:
                    yield row.custom_id, Failure(result.type, result.type)

    def _read(self, said: AnthropicMessage) -> Answer:
        text = "".join(block.text for block in said.content if block.type == "text")
        counts = (said.usage.input_tokens, said.usage.output_tokens)
        if said.stop_reason == "refusal":
            return Answer(text, "refused", *counts, reason="refusal")
        cut_off = said.stop_reason in ("max_tokens", "model_context_window_exceeded", "pause_turn")
        return Answer(text, "cut_off" if cut_off else "complete", *counts)

    async def close(self) -> None:
        """End its connections."""
        await self.client.close()


def _size(batch: MessageBatch) -> int:
    counts = batch.request_counts
    return counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired
