"""What a teacher is: someone who writes traces, how it is asked, and what its answers and failures mean.

OpenAITeacher and AnthropicTeacher, in files of their own, are the two there are.

Requests that fail for the moment (429, 5xx, a dropped connection, no answer in time) are repeated by the clients with
growing pauses, or after as long as the server asks for, at most `retries` times. A server may have worked on, and
charge for, an answer that did not come in time: give slow ones a longer `timeout_s`.

Both can be asked in batches too, for about half the price and within a day. The one call that buys, the submission, is
never repeated by the clients: whoever calls it again has to look first, with `find`, whether it went through.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import httpx2

from evals.errors import ReadableError
from evals.pairs import Message
from pipelines.answers import detail, is_about_length

ANTHROPIC = "anthropic"
"""What stands in place of a URL for Anthropic's API; its client reads ANTHROPIC_BASE_URL."""

NO_BATCHES = "; it may know no batches: leave --batch out"

Finish = Literal["complete", "cut_off", "refused"]
"""How an answer ended: by itself, at the limit on tokens, or not given at all for what was asked."""


class TeacherError(ReadableError, RuntimeError):
    """A teacher that cannot be asked any further; the message says why. What it said before is kept."""


class UnansweredError(Exception):
    """One question that stayed without an answer after every retry; others may still get theirs."""


class UnsettledError(Exception):
    """Whether a batch is ours cannot be told before it ends."""


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

    @property
    def sampling(self) -> dict[str, Any]:
        """What answers depend on."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "thinks": self.thinks}


@dataclass(frozen=True, slots=True)
class Question:
    """One request of a batch: its name there, what is asked, and which sample it is."""

    name: str
    messages: Sequence[Message]
    sample: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A request of a batch without an answer: how ("errored", "expired", "canceled", "missing") and the words."""

    how: str
    words: str


@dataclass(frozen=True, slots=True)
class Seen:
    """How a batch stands: how many requests are through; whether it ended; why all of it was refused, if it was."""

    through: int
    ended: bool
    refused: str | None = None


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

    @property
    def most(self) -> tuple[int, int]:
        """The most requests and bytes of one batch."""

    def line(self, question: Question) -> dict[str, Any]:
        """A request as it stands in a batch."""

    async def submit(self, key: str, questions: Sequence[Question]) -> str:
        """Submit a batch; returns its id. UnansweredError leaves open whether it went through, TeacherError means no.

        `key` is what `find` finds it by; each question's name begins with it.
        """

    async def find(self, key: str, made: float, size: int, known: set[str]) -> str | None:
        """The id of a batch with this key and size, submitted at `made` (seconds since 1970), or None where none was.

        Raises UnsettledError where that cannot be told yet.
        """

    async def look(self, batch: str) -> Seen:
        """How a batch stands."""

    def results(self, batch: str) -> AsyncIterator[tuple[str, Answer | Failure]]:
        """What came of a batch that ended, by the requests' names, in any order."""

    async def close(self) -> None:
        """End its connections."""


@contextmanager
def readable(where: str) -> Iterator[None]:
    """The clients check no answer: with status 200 they hand on whatever came, a proxy's page among it."""
    try:
        yield
    except (AttributeError, IndexError, TypeError) as error:
        raise UnansweredError(f"{where}: an answer of another kind than was asked for ({error})") from error


@contextmanager
def calling(where: str, vendor: Any, unknown: str = "") -> Iterator[None]:
    """What the batch calls of a vendor's package raise, in words of ours; `unknown` is added where it knows no such."""
    try:
        yield
    except vendor.APIStatusError as error:
        status, message = error.status_code, detail(error)
        if _for_now(status):
            raise UnansweredError(f"{where}: {status} {message}") from error
        more = unknown if status in (404, 405) else ""
        raise TeacherError(f"{where} refused a batch call: {status} {message}{more}") from error
    except (vendor.APIConnectionError, httpx2.TransportError) as error:  # the second where results break off
        raise UnansweredError(f"{where}: {error}") from error
    except (ValueError, AttributeError, TypeError) as error:  # the clients check no answer, as in readable
        raise UnansweredError(f"{where}: an answer of another kind than was asked for ({error})") from error


def refused(where: str, status: int, message: str, error: Exception) -> Answer:
    """What a status means: a prompt that is too long is this question's fault, 429 and 5xx pass, others end the run."""
    if _too_long(status, message):
        return Answer("", "refused", reason=f"{status} {message}")
    if _for_now(status):
        raise UnansweredError(f"{where}: {status} {message}") from error
    raise TeacherError(f"{where} refused: {status} {message}; mend what it names, then run the same command") from error


def failed(status: int, message: str) -> Answer | Failure:
    """What an error in a batch means: too long a prompt is a refusal, as it is live."""
    if _too_long(status, message):
        return Answer("", "refused", reason=f"{status} {message}")
    return Failure("errored", message)


def _for_now(status: int) -> bool:
    return status in (408, 409, 429) or status >= 500


def _too_long(status: int, message: str) -> bool:
    return status == 413 or (status in (400, 422) and is_about_length(message))
