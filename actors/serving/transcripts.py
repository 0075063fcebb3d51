"""From the text that a policy read and wrote back to a question and a response.

Trainers send what they decoded: a prompt in the policy's own chat template, a response with its end-of-sequence token
and its reasoning. A judge is trained on plain conversations, so this is where the template is taken off again. Known
templates are ChatML (Qwen and many others), Llama 3 and DeepSeek; any other text is one user message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from actors.serving.wire import Turn

Role = Literal["system", "user", "assistant"]

ROLES: dict[str, Role] = {"system": "system", "developer": "system", "assistant": "assistant"}
"""The roles of a policy's messages that a judge knows; all others speak as the user."""


@dataclass(frozen=True)
class _Template:
    """`header` stands before a turn and names its role, `end` after it. `lead` is the role of what has no header."""

    header: re.Pattern[str]
    end: str
    lead: Role


_TEMPLATES = (
    _Template(re.compile(r"<\|im_start\|>(\w+)\n"), "<|im_end|>", "user"),
    _Template(re.compile(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>\n{0,2}"), "<|eot_id|>", "user"),
    _Template(re.compile("<\uff5c(User|Assistant)\uff5c>"), "<\uff5cend\u2581of\u2581sentence\uff5c>", "system"),
)

_CONTROL = (
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|end|>", "<|return|>", "<end_of_turn>"),
    *("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|finetune_right_pad_id|>"),
    *(
        "<\uff5cbegin\u2581of\u2581sentence\uff5c>",
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<\uff5c\u2581pad\u2581\uff5c>",
    ),
    *("<s>", "</s>", "<bos>", "<eos>", "<pad>"),
)
_CONTROL_FORWARDS = re.compile(f"(?:{'|'.join(map(re.escape, _CONTROL))})*+")
_CONTROL_BACKWARDS = re.compile(rf"(?:\s|{'|'.join(re.escape(token[::-1]) for token in _CONTROL)})*+")
_REASONING = re.compile(r"\s*<think>.*?(?:</think>|\Z)|(?:(?!<think>).)*</think>", re.DOTALL)


class Transcript(NamedTuple):
    """A conversation, and what has been written of the assistant's next turn; None where it has not begun."""

    turns: list[Turn]
    begun: str | None


def transcript(text: str) -> Transcript | None:
    """The conversation that a text in a known chat template holds; None where it is in no such template.

    Roles that a judge does not know (tool, ipython) speak as the user.
    """
    for template in _TEMPLATES:
        headers = list(template.header.finditer(text))
        if not headers:
            continue
        lead = bare(text[: headers[0].start()]).removesuffix(template.end)
        turns = [Turn(role=template.lead, content=lead)] if lead.strip() else []
        ends = [header.start() for header in headers[1:]] + [len(text)]
        for header, end in zip(headers, ends, strict=True):
            content = text[header.end() : end]
            role = ROLES.get(header[1].lower(), "user")
            if end == len(text) and role == "assistant" and template.end not in content:
                return Transcript(turns, content)
            ended = content.rpartition(template.end)[0] if template.end in content else content
            turns.append(Turn(role=role, content=ended.strip("\n")))
        return Transcript(turns, None)
    return None


def question(prompt: str) -> Transcript:
    """What a prompt asks, in a chat template or as plain text."""
    return transcript(prompt) or Transcript([Turn(role="user", content=bare(prompt))], None)


def answered(text: str) -> tuple[list[Turn], str] | None:
    """Question and response, from a conversation in a chat template whose last turn is the assistant's.

    None where the text is no such conversation. A policy that writes headers of turns moves the cut: where it may,
    have it sent apart from the question.
    """
    found = transcript(text)
    if found and found.begun is not None:
        return found.turns, found.begun
    if found and found.turns and found.turns[-1].role == "assistant":
        return found.turns[:-1], found.turns[-1].content
    return None


def bare(text: str) -> str:
    """The text without the control tokens that stand before and after it, and without white space at its end."""
    text = _after_control(text)
    backwards = _CONTROL_BACKWARDS.match(text[::-1])  # anchored, and so linear however long the tail is
    return text[: len(text) - backwards.end()] if backwards else text


def _after_control(text: str) -> str:
    begin = _CONTROL_FORWARDS.match(text)
    return text[begin.end() :] if begin else text


class Response(NamedTuple):
    """What a policy answered. `thought` is whether there was reasoning, which is not part of it."""

    text: str
    thought: bool


def response(text: str, begun: str | None = None) -> Response:
    """The answer in what a policy wrote after `begun`, what the prompt had written of it already.

    Without reasoning: `<think>...</think>` at its beginning, or all before a `</think>` that nothing opened. Reasoning
    that never ends leaves an empty answer. Control tokens at the end are left out; those inside are text.
    """
    written = (begun or "") + text
    reasoning = _REASONING.match(written)
    return Response(bare(written[reasoning.end() if reasoning else 0 :].lstrip("\n")), reasoning is not None)


Cut = Literal["prompt", "marker", "whole"]


def continuation(query: str, prompt: str | None) -> tuple[str, Cut]:
    """What a policy wrote, from prompt and response in one decoded text, and where the cut is.

    `prompt`: the text begins with the prompt. `marker`: it does not (a truncated prompt, or tokens that decode to other
    text), and what follows the header of the assistant's last turn is taken. Headers that the policy may have written
    itself do not count: no more are counted than the prompt has. `whole`: neither; all of the text is the response.
    """
    if prompt is not None:
        begins, start = _after_control(query), _after_control(prompt)
        if start and begins.startswith(start):
            return begins[len(start) :], "prompt"
    for template in _TEMPLATES:
        headers = _assistant(template, query)
        known = len(headers) if prompt is None else len(_assistant(template, prompt))
        if cut := min(known, len(headers)):
            return query[headers[cut - 1].end() :], "marker"
    return query, "whole"


def _assistant(template: _Template, text: str) -> Sequence[re.Match[str]]:
    return [header for header in template.header.finditer(text) if header[1].lower() == "assistant"]
