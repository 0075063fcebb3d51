"""A judge's prompt and verdict as a few lines of Python, for people who have the model and not Gavel."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evals.pairs import Message, Pair
from evals.prompts import PromptFormat
from evals.prompts.template import Patterns
from evals.verdicts import Verdict

PARTS = ("question", "response_a", "response_b")
"""What a prompt is made of: the arguments of the function that `prompt_source` writes."""

_STATEMENTS: Sequence[Mapping[str, Verdict]] = (
    {"[[A>>B]]": "a", "[[A>B]]": "a", "[[A=B]]": "tie", "[[B>A]]": "b", "[[B>>A]]": "b"},
    {"[[A]]": "a", "[[B]]": "b", "[[C]]": "tie"},  # before the tagged ones: who reads these reads those too
    {"<answer>[[A]]</answer>": "a", "<answer>[[B]]</answer>": "b"},
    {r"\boxed{Assistant 1}": "a", r"\boxed{Assistant 2}": "b"},
    {"final decision is Response 1": "a", "final decision is Response 2": "b", "final decision is Tie": "tie"},
    {"Output (a)": "a", "Output (b)": "b"},
    {"Output (a) is better.": "a", "Output (b) is better.": "b"},
)
"""How judges state a verdict. A format's own reader says which of these is its way."""

_FIRST_MARK = 0xE000
"""Stands for a part while its place is looked for: a character of private use, which no template has."""

_SCORES = "<answer>7</answer><answer>3</answer>"
_MEANINGS: Mapping[Verdict, str] = {"a": "first", "b": "second", "tie": "tie"}

_STATED = '''\
import re

VERDICTS = {{
{lines}
}}


def verdict(text):
    """Which response is better as shown: {words}. None where the text holds no verdict, or several."""
    said = text.rpartition("</think>")[2]
    found = {{which for pattern, which in VERDICTS.items() if re.search(pattern, said)}}
    return found.pop() if len(found) == 1 else None
'''

_SCORED = '''\
import re


def verdict(text):
    """Which response is better as shown: "first", "second" or "tie". None where the text holds not two scores."""
    scores = re.findall(r"<answer>\\s*(\\d+(?:\\.\\d+)?)\\s*</answer>", text.rpartition("</think>")[2])
    if len(scores) != 2:
        return None
    first, second = map(float, scores)
    return "tie" if first == second else "first" if first > second else "second"
'''


def prompt_source(format_: PromptFormat) -> str:
    """Source of a function `messages` that makes the chat messages of a format, for a question in one message."""
    marks = {name: chr(_FIRST_MARK + number) for number, name in enumerate(PARTS)}
    asked = (Message(role="user", content=marks["question"]),)
    rendered = format_.render(Pair("", asked, marks["response_a"], marks["response_b"], None), "ab")
    shown = [name for name in PARTS if any(marks[name] in message["content"] for message in rendered)]
    lines = []
    for message in rendered:
        pieces = re.split(f"([{''.join(marks.values())}])", message["content"])
        text = "".join(
            f"{{{PARTS[ord(piece) - _FIRST_MARK]}}}" if number % 2 else _quoted(piece)
            for number, piece in enumerate(pieces)
        )
        lines.append(f'        {{"role": "{message["role"]}", "content": f"""{text}"""}},')
    body = "\n".join(lines)
    return f"def messages({', '.join(shown)}):\n    return [\n{body}\n    ]\n"


def verdict_source(format_: PromptFormat) -> str | None:
    """Source of a function `verdict` that reads what a judge of the format says; None where it has no such form.

    It knows the plain form of a verdict alone; the format's own reader takes others too, and sets aside what is quoted.
    """
    patterns = verdict_patterns(format_)
    if patterns:
        words = ", ".join(f'"{_MEANINGS[verdict]}"' for verdict in dict.fromkeys(patterns.values()))
        lines = "\n".join(f'    {_raw(pattern)}: "{_MEANINGS[verdict]}",' for pattern, verdict in patterns.items())
        return _STATED.format(lines=lines, words=words)
    return _SCORED if format_.reader.ruling(_SCORES).verdict == "a" else None


def verdict_patterns(format_: PromptFormat) -> dict[str, Verdict]:
    """Regular expression -> verdict on the candidates as shown; empty for formats that give scores."""
    if isinstance(format_.reader, Patterns):
        return {pattern.pattern: verdict for pattern, verdict in format_.reader.meanings}
    for statements in _STATEMENTS:
        if all(format_.reader.ruling(said).verdict == verdict for said, verdict in statements.items()):
            return {re.escape(said).replace("\\ ", " "): verdict for said, verdict in statements.items()}
    return {}


def _raw(pattern: str) -> str:
    """A pattern as Python writes it, in a raw string where that can be."""
    simple = pattern.isprintable() and '"' not in pattern and not pattern.endswith("\\")
    return f'r"{pattern}"' if simple else repr(pattern)


def _quoted(text: str) -> str:
    """Text as it stands inside the triple quotes of an f-string."""
    plain = text.replace("\\", "\\\\").replace("{", "{{").replace("}", "}}")
    plain = re.sub(r'"""|"\Z', lambda quotes: r"\"" * len(quotes[0]), plain)
    return "".join(c if c == "\n" or c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
