"""Prompts, and responses to them, from JSON lines: what a policy is to answer, and what a judge is to compare.

A row has a `prompt`, text or a list of `role`/`content` messages as TRL has them, where it is needed `responses`, a
list of texts, and may have an `id`; a row without one is named by file and line. Other fields are left alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

from actors.serving.wire import Turn
from evals.pairs import Message, Pair, PairFileError


def _as_messages(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _speaks(prompt: list[Turn]) -> list[Turn]:
    if not any(turn.content.strip() for turn in prompt):
        raise PydanticCustomError("blank", "Is empty; give at least one turn some content")
    return prompt


class _Row(BaseModel):
    id: str | int | None = None
    prompt: Annotated[list[Turn], BeforeValidator(_as_messages), AfterValidator(_speaks)]


class _Answered(_Row):
    responses: list[str] = Field(min_length=2)


@dataclass(frozen=True)
class Prompted:
    """One row: a prompt, and the responses to it where the file has them. `plain` is whether the prompt is text."""

    id: str
    line: int
    messages: tuple[Message, ...]
    plain: bool
    responses: tuple[str, ...] = ()

    def pair(self) -> Pair:
        """The question alone, as a pair without candidates."""
        return Pair(self.id, self.messages, "", "", None, "prompts")


def read_prompts(path: Path, responses: bool = False) -> list[Prompted]:
    """The rows of a file, with `responses` those of at least two each.

    Raises PairFileError naming every broken line, field and repeated id, and FileNotFoundError.
    """
    found: dict[str, Prompted] = {}
    problems: list[str] = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            values = json.loads(line)
            row = (_Answered if responses else _Row).model_validate(values)
        except ValidationError as error:
            problems += [f"{place}: field '{'.'.join(map(str, e['loc']))}': {e['msg']}" for e in error.errors()]
            continue
        except ValueError as error:
            problems.append(f"{place}: not JSON ({error})")
            continue
        id_ = f"{path.stem}-{number}" if row.id is None else str(row.id)
        if id_ in found:
            problems.append(f"{place}: field 'id': {id_!r} stands on line {found[id_].line} already")
        messages = tuple(Message(role=turn.role, content=turn.content) for turn in row.prompt)
        answered = tuple(row.responses) if isinstance(row, _Answered) else ()
        found.setdefault(id_, Prompted(id_, number, messages, isinstance(values["prompt"], str), answered))
    if not found and not problems:
        problems.append(f"{path}: the file holds no prompt")
    if problems:
        raise PairFileError(path, problems)
    return list(found.values())
