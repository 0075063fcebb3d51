"""How a conversation and its candidates are laid out as chat messages: templates, filled in one pass.

Every text that is put in goes through the fence of the templates first, here and nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import ascii_uppercase

from evals.pairs import Message
from evals.prompts.fencing import HOLE, Fence

PLACEHOLDERS = ("question", "response_a", "response_b", "conversation_a", "conversation_b")
"""What the template of a pair may name; a and b are the candidates as shown."""

_BRACED = re.compile(r"\{\{([a-z][a-z0-9_]*)\}\}|\{([a-z][a-z0-9_]*)\}")


def placeholders(template: str) -> set[str]:
    """The names that stand in single braces. All other braces are text: `{"a": 1}`, `{A}`, `{{name}}`."""
    return {match[2] for match in _BRACED.finditer(template) if match[2]}


def fill(template: str, values: Mapping[str, str]) -> str:
    """Put values in place of `{name}`; `{{name}}` becomes `{name}`. What is put in is not looked at again."""
    return _BRACED.sub(lambda match: values[match[2]] if match[2] else f"{{{match[1]}}}", template)


@dataclass(frozen=True)
class Speakers:
    """What stands before each turn of a conversation; `first` and `second` name the candidates as shown."""

    user: str = "User"
    assistant: str = "Assistant"
    system: str = "System"
    first: str = "Assistant A"
    second: str = "Assistant B"

    def transcript(self, messages: Sequence[Message], assistant: str) -> str:
        """One line a turn, with the assistant's under the given name. Unknown roles speak as the user."""
        names = {"assistant": assistant, "system": self.system}
        return "\n".join(f"{names.get(m['role'], self.user)}: {m['content']}" for m in messages)


@dataclass(frozen=True)
class Layout:
    """Templates for the messages that ask a judge. `multi_turn` replaces `user` where a conversation has several.

    In a template `{question}` is the one message of the conversation, or all of them as a transcript;
    `{response_a}` and `{response_b}` are the candidates as shown; `{conversation_a}` and `{conversation_b}` are the
    transcript with one candidate as its last turn. `{response}` is the only candidate, and `{responses}` are several,
    each in a `block` of its own with its `{letter}`. Without `system` there is no system message.
    """

    user: str
    system: str | None = None
    multi_turn: str | None = None
    speakers: Speakers = Speakers()
    block: str = "{response}"

    def pair(self, messages: Sequence[Message], first: str, second: str) -> list[Message]:
        """The messages that show two candidates."""
        speakers, fence = self.speakers, self._fence(messages)
        turns = _fenced(messages, fence)
        values = {"response_a": fence(first), "response_b": fence(second)}
        for name, speaker in (("a", speakers.first), ("b", speakers.second)):
            last = Message(role="assistant", content=values[f"response_{name}"])
            values[f"conversation_{name}"] = speakers.transcript([*turns, last], speaker)
        return self._filled(turns, values)

    def one(self, messages: Sequence[Message], response: str) -> list[Message]:
        """The messages that show one candidate."""
        fence = self._fence(messages)
        return self._filled(_fenced(messages, fence), {"response": fence(response)})

    def several(self, messages: Sequence[Message], responses: Sequence[str]) -> list[Message]:
        """The messages that show up to 26 candidates, from A."""
        fence = self._fence(messages)
        blocks = [
            fill(self.block, {"letter": letter, "response": fence(response)})
            for letter, response in zip(ascii_uppercase, responses, strict=False)
        ]
        return self._filled(_fenced(messages, fence), {"responses": "\n\n".join(blocks)})

    def _filled(self, turns: Sequence[Message], values: Mapping[str, str]) -> list[Message]:
        single = len(turns) == 1
        question = turns[0]["content"] if single else self.speakers.transcript(turns, self.speakers.assistant)
        values = {"question": question, **values}
        user = self.user if single or self.multi_turn is None else self.multi_turn
        system = [] if self.system is None else [Message(role="system", content=fill(self.system, values))]
        return [*system, Message(role="user", content=fill(user, values))]

    def _fence(self, messages: Sequence[Message]) -> Fence:
        """The fence for what shows these messages; names of speakers count where there is a transcript."""
        without_speakers, with_speakers = self._fences
        return with_speakers if len(messages) != 1 or self._always_transcript else without_speakers

    @cached_property
    def _always_transcript(self) -> bool:
        return not placeholders(self.user + (self.system or "")).isdisjoint({"conversation_a", "conversation_b"})

    @cached_property
    def _fences(self) -> tuple[Fence, Fence]:
        """What stands around text in any of the templates, without and with the names of speakers."""
        templates = [text for text in (self.user, self.multi_turn, self.system) if text and placeholders(text)]
        around = [fill(text, dict.fromkeys(placeholders(text), HOLE)) for text in templates]
        around += [fill(self.block, {"letter": letter, "response": HOLE}) for letter in ascii_uppercase]
        spoken = [f"{name}: {HOLE}" for name in vars(self.speakers).values()]
        return Fence.around(*around), Fence.around(*around, *spoken)


def _fenced(messages: Sequence[Message], fence: Fence) -> list[Message]:
    return [Message(role=message["role"], content=fence(message["content"])) for message in messages]
