"""Pairs to judge, and the loader that turns the field's column conventions into them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from evals.errors import ReadableError
from evals.verdicts import Gold

MAX_PROBLEMS = 20
"""A broken file is reported with its first so many problems, not with one at a time."""


class Message(TypedDict):
    """One turn of a conversation, as chat templates take it."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Pair:
    """A conversation, two candidate responses to it, and which of them is better.

    The loader's orientation is canonical and never changes: `gold` always speaks of `response_a` and
    `response_b` as they stand here, however a prompt shows them. `gold` is None for an unlabelled pair.
    """

    id: str
    messages: tuple[Message, ...]
    response_a: str
    response_b: str
    gold: Gold | None
    source: str = ""
    subset: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)


class PairFileError(ReadableError, ValueError):
    """A pair file that cannot be used. `problems` has one text a problem, each with line and field."""

    def __init__(self, path: Path, problems: list[str]):
        self.problems = problems
        shown = problems[:MAX_PROBLEMS]
        more = [f"... and {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__("\n  ".join([f"{path}: {count}; mend or remove these lines:", *shown, *more]))


class RowError(ValueError):
    """What is wrong with one row, by item and field; whoever reads the file adds file and line."""


@dataclass(frozen=True)
class _Convention:
    """Column names of one way to write a labelled pair. `labels` maps a label, in lower case, to gold."""

    prompt: tuple[str, ...]
    a: str
    b: str
    label: tuple[str, ...]
    labels: Mapping[str, Gold]


_LETTERS: dict[str, Gold] = {"a": "a", "b": "b", "tie": "tie", "model_a": "a", "model_b": "b"}
_NUMBERS: dict[str, Gold] = {"1": "a", "2": "b"}
_PROMPTS = ("messages", "context_messages", "prompt", "question", "instruction", "input")

_CONVENTIONS = (
    _Convention(_PROMPTS, "response_a", "response_b", ("gold", "label", "winner"), _LETTERS),
    _Convention(_PROMPTS, "response_A", "response_B", ("label", "winner"), _LETTERS),
    _Convention(_PROMPTS, "response_1", "response_2", ("label",), _NUMBERS),
    _Convention(_PROMPTS, "output_1", "output_2", ("label",), _NUMBERS),
)
_CHOSEN = _Convention(_PROMPTS, "chosen", "rejected", (), {})


def load_pairs(path: str | Path) -> list[Pair]:
    """Read a JSON-lines file of labelled pairs.

    Understood are two named responses with a label (`response_a`/`response_b`, `response_A`/`response_B`,
    `response_1`/`response_2`, `output_1`/`output_2` with `gold`, `label` or `winner`) and TRL's
    `chosen`/`rejected`, whose orientation is drawn from the pair's id so that neither side is always gold.
    The conversation stands in `messages`, `context_messages`, `prompt`, `question`, `instruction` or
    `input`, as text or as a list of `role`/`content` messages. A row without `id` is named by file and line.

    Raises PairFileError naming every broken line, missing field, unknown label, empty response and
    repeated id, and FileNotFoundError where there is no such file.
    """
    path = Path(path)
    pairs: list[Pair] = []
    problems: list[str] = []
    first_line: dict[str, int] = {}
    for number, row in _rows(path, problems):
        try:
            pair = read_pair(row, path.stem, number)
            if pair.id in first_line:
                raise RowError(f"field 'id': {pair.id!r} stands on line {first_line[pair.id]} already")
        except RowError as problem:
            problems.append(f"{path}, line {number}: {problem}")
        else:
            first_line[pair.id] = number
            pairs.append(pair)
    if not pairs and not problems:
        problems.append(f"{path}: the file holds no pair")
    if problems:
        raise PairFileError(path, problems)
    return pairs


def gold_by_lot(id_: str) -> Literal["a", "b"]:
    """Which response the better one becomes, where a row names it: drawn from the pair's id alone."""
    return "a" if hashlib.sha256(id_.encode()).digest()[0] % 2 == 0 else "b"


def save_pairs(path: Path, pairs: Iterable[Pair]) -> None:
    """Write pairs as JSON lines that `load_pairs` reads back; `meta` is left out."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(_row(pair), ensure_ascii=False) + "\n" for pair in pairs), encoding="utf-8")


def _row(pair: Pair) -> dict[str, Any]:
    names = ("id", "messages", "response_a", "response_b", "gold", "source", "subset")
    return {name: getattr(pair, name) for name in names}


def _rows(path: Path, problems: list[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, raw in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            row = json.loads(raw.decode("utf-8"))
        except UnicodeDecodeError as error:
            problems.append(f"{path}, line {number}: not UTF-8 at byte {error.start}")
        except json.JSONDecodeError as error:
            problems.append(f"{path}, line {number}: not JSON ({error.msg} at column {error.colno})")
        else:
            if isinstance(row, dict):
                yield number, row
            else:
                problems.append(f"{path}, line {number}: an object with named fields is needed, not {row!r:.60}")


def read_pair(row: dict[str, Any], source: str, number: int) -> Pair:
    """The pair of one row, as `load_pairs` reads it; `source` and `number` name a row without an id.

    Raises RowError.
    """
    id_ = str(row.get("id", f"{source}:{number}"))
    convention = _convention(row)
    a, b = _response(row, convention.a, id_), _response(row, convention.b, id_)
    gold: Gold
    if convention is _CHOSEN:
        gold = gold_by_lot(id_)
        if gold == "b":
            a, b = b, a
    else:
        gold = _gold(row, convention, id_)
    known = {"id", "source", "subset", *convention.prompt, *convention.label, convention.a, convention.b}
    return Pair(
        id=id_,
        messages=_conversation(row, convention, id_),
        response_a=a,
        response_b=b,
        gold=gold,
        source=str(row.get("source", source)),
        subset=str(row.get("subset", "")),
        meta={key: value for key, value in row.items() if key not in known},
    )


def _convention(row: dict[str, Any]) -> _Convention:
    everything = (*_CONVENTIONS, _CHOSEN)
    for convention in everything:
        if convention.a in row and convention.b in row:
            return convention
    for convention in everything:  # one of the two is there: the other is what is missing
        for have, missing in ((convention.a, convention.b), (convention.b, convention.a)):
            if have in row:
                raise RowError(f"item {row.get('id', '?')!r}: field {missing!r} is missing beside {have!r}")
    names = "; ".join(f"{c.a}/{c.b}" for c in everything)
    raise RowError(f"item {row.get('id', '?')!r}: field 'response_a' is missing; two responses are needed ({names})")


def _response(row: dict[str, Any], name: str, id_: str) -> str:
    value = row[name]
    if isinstance(value, list) and value and isinstance(value[-1], dict):  # conversational chosen/rejected
        value = value[-1].get("content")
    if not isinstance(value, str):
        raise RowError(f"item {id_!r}: field {name!r} must be text, not {type(value).__name__}")
    if not value.strip():
        raise RowError(f"item {id_!r}: field {name!r} is an empty response")
    return _encodable(value, name, id_)


def _encodable(text: str, name: str, id_: str) -> str:
    """The text, which must not hold half of a surrogate pair, as a cut-off emoji leaves it: no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"item {id_!r}: field {name!r} holds half a character at position {error.start}") from error
    return text


def _conversation(row: dict[str, Any], convention: _Convention, id_: str) -> tuple[Message, ...]:
    name = next((name for name in convention.prompt if name in row), None)
    if name is None:
        raise RowError(f"item {id_!r}: field 'prompt' is missing; one of {', '.join(convention.prompt)} is needed")
    value = row[name]
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list) or not value:
        raise RowError(f"item {id_!r}: field {name!r} must be text or a list of messages")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise RowError(f"item {id_!r}: field {name!r}: a message needs 'role' and 'content' as text")
    if not any(message["content"].strip() for message in value):
        raise RowError(f"item {id_!r}: field {name!r} is empty")
    return tuple(Message(role=message["role"], content=_encodable(message["content"], name, id_)) for message in value)


def _gold(row: dict[str, Any], convention: _Convention, id_: str) -> Gold:
    name = next((name for name in convention.label if name in row), None)
    if name is None:
        raise RowError(f"item {id_!r}: field {convention.label[0]!r} is missing; it says which response is better")
    gold = convention.labels.get(str(row[name]).strip().lower())
    if gold is None:
        known = ", ".join(sorted(convention.labels))
        raise RowError(f"item {id_!r}: field {name!r}: unknown label {row[name]!r}; known are {known}")
    return gold
