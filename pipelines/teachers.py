"""Who writes traces: a model behind an OpenAI-compatible endpoint, or one of Anthropic's.

Requests that fail for the moment (429, 5xx, a dropped connection, no answer in time) are repeated by the clients with
growing pauses, or after as long as the server asks for, at most `retries` times. A server may have worked on, and
charge for, an answer that did not come in time: give slow ones a longer `timeout_s`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from openai import APIConnectionError, APIStatusError, AsyncOpenAI

from evals.errors import ReadableError
from evals.pairs import Message
from pipelines.answers import detail, is_about_length, said

if TYPE_CHECKING:
    from anthropic import AsyncAnthropic
    from anthropic.types import Message as AnthropicMessage
    from openai.types.chat import ChatCompletion

ANTHROPIC = "anthropic"
"""What stands in place of a URL for Anthropic's API; its client reads ANTHROPIC_BASE_URL."""

Finish = Literal["complete", "cut_off", "refused"]
"""How an answer ended: by itself, at the limit on tokens, or not given at all for what was asked."""


class TeacherError(ReadableError, RuntimeError):
    """A teacher that cannot be asked any further; the message says why. What it said before is kept."""


class UnansweredError(Exception):
    """One question that stayed without an answer after every retry; others may still get theirs."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a teacher said. `reason` is why it refused; token counts are None where the server does not say."""

    text: str
    finish: Finish
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Asking:
    """How teachers are asked. A temperature of None leaves it to the server, as some models want it.

    `seeded` gives each sample a seed of its own. `thinks` puts a reasoning model's thinking before what it says, in
    think tags; else it is dropped.
    """

    max_tokens: int
    temperature: float | None
    seeded: bool
    thinks: bool
    timeout_s: float
    retries: int


class Teacher(Protocol):
    """Someone who can be asked for a trace."""

    @property
    def model(self) -> str:
        """What traces call it."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its answers depend on."""

    async def ask(self, messages: Sequence[Message], sample: int) -> Answer:
        """One answer. Raises UnansweredError where the retries are used up, TeacherError where no retry helps."""

    async def close(self) -> None:
        """End its connections."""


def teacher(url: str, model: str, key: str | None, asking: Asking) -> Teacher:
    """The teacher at a URL, or Anthropic's where that is ANTHROPIC.

    Raises TeacherError where the anthropic package is needed and not installed, or its key is not given.
    """
    if url != ANTHROPIC:
        client = AsyncOpenAI(
            base_url=url.rstrip("/"), api_key=key or "none", max_retries=asking.retries, timeout=asking.timeout_s
        )
        return OpenAITeacher(model, url.rstrip("/"), client, asking)
    try:
        from anthropic import AsyncAnthropic
    except ImportError as error:
        raise TeacherError("the package 'anthropic' is not installed; pip install anthropic") from error
    if not key:
        raise TeacherError(
            "Anthropic's key is not set; put it into ANTHROPIC_API_KEY, or name the variable that has it"
        )
    return AnthropicTeacher(
        model, AsyncAnthropic(api_key=key, max_retries=asking.retries, timeout=asking.timeout_s), asking
    )


@dataclass(frozen=True)
class OpenAITeacher:
    """A model behind /chat/completions."""

    model: str
    url: str
    client: AsyncOpenAI
    asking: Asking

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its answers depend on."""
        return {"url": self.url, "model": self.model, **_sampling(self.asking)}

    async def ask(self, messages: Sequence[Message], sample: int) -> Answer:
        """One answer."""
        options: dict[str, Any] = {"max_completion_tokens": self.asking.max_tokens}
        if self.asking.temperature is not None:
            options["temperature"] = self.asking.temperature
        if self.asking.seeded:
            options["seed"] = sample
        try:
            completion = await self.client.chat.completions.create(
                model=self.model,
                messages=list(messages),  # type: ignore[arg-type]
                **options,
            )
        except APIStatusError as error:
            return _refused(self.url, error.status_code, detail(error), error)
        except (APIConnectionError, ValueError) as error:  # a timeout is a connection error, broken JSON a ValueError
            raise UnansweredError(f"{self.url}: {error}") from error
        with _readable(self.url):
            return self._read(completion)

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


@dataclass(frozen=True)
class AnthropicTeacher:
    """One of Anthropic's models, through its Messages API; the system message goes where that API has it."""

    model: str
    client: AsyncAnthropic
    asking: Asking

    @property
    def settings(self) -> Mapping[str, Any]:
        """What its answers depend on."""
        return {"url": ANTHROPIC, "model": self.model, **_sampling(self.asking)}

    async def ask(self, messages: Sequence[Message], sample: int) -> Answer:
        """One answer; there is no seed."""
        import anthropic

        options: dict[str, Any] = {}
        if system := "\n\n".join(message["content"] for message in messages if message["role"] == "system"):
            options["system"] = system
        if self.asking.temperature is not None:
            options["temperature"] = self.asking.temperature
        try:
            said = await self.client.messages.create(
                model=self.model,
                max_tokens=self.asking.max_tokens,
                messages=[message for message in messages if message["role"] != "system"],  # type: ignore[misc]
                **options,
            )
        except anthropic.APIStatusError as error:
            return _refused(str(self.client.base_url), error.status_code, detail(error), error)
        except (anthropic.APIConnectionError, ValueError) as error:
            raise UnansweredError(f"{self.client.base_url}: {error}") from error
        with _readable(str(self.client.base_url)):
            return self._read(said)

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


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """The clients check no answer: with status 200 they hand on whatever came, a proxy's page among it."""
    try:
        yield
    except (AttributeError, IndexError, TypeError) as error:
        raise UnansweredError(f"{where}: an answer of another kind than was asked for ({error})") from error


def _sampling(asking: Asking) -> dict[str, Any]:
    return {"max_tokens": asking.max_tokens, "temperature": asking.temperature, "thinks": asking.thinks}


def _refused(where: str, status: int, message: str, error: Exception) -> Answer:
    """What a status means: a prompt that is too long is this question's fault, 429 and 5xx pass, others end the run."""
    if status == 413 or (status in (400, 422) and is_about_length(message)):
        return Answer("", "refused", reason=f"{status} {message}")
    if status in (408, 409, 429) or status >= 500:
        raise UnansweredError(f"{where}: {status} {message}") from error
    raise TeacherError(f"{where} refused: {status} {message}; mend what it names, then run the same command") from error
