"""Verdicts and judgements, the records that everything above this floor speaks in."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Literal, get_args

Gold = Literal["a", "b", "tie"]
"""The label of a pair, in canonical orientation."""

Verdict = Literal["a", "b", "tie"] | None
"""A judge's ruling on the canonical candidates; None is "no verdict"."""

Order = Literal["ab", "ba"]
"""Which candidate the prompt shows first: "ab" shows response_a first, "ba" response_b."""

ORDERS: tuple[Order, ...] = get_args(Order)


def swap(verdict: Verdict) -> Verdict:
    """The same ruling with the two candidates' names exchanged."""
    return {"a": "b", "b": "a"}.get(verdict, verdict)  # type: ignore[arg-type, return-value]


def from_shown(shown: Verdict, order: Order) -> Verdict:
    """Turn a verdict on the candidates as shown (a = shown first) into one on the canonical candidates."""
    return shown if order == "ab" else swap(shown)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One judgement of one pair in one order: one line of a judgement file.

    `sample` counts the samples of the same pair and order from 0. `version` is the weight version that
    wrote `text`. Token counts include the end-of-sequence token.
    """

    benchmark: str
    pair_id: str
    subset: str
    gold: Gold | None
    order: Order
    sample: int
    format: str
    text: str
    verdict: Verdict
    prompt_tokens: int
    completion_tokens: int
    model: str
    version: int

    def to_json(self, **more: object) -> str:
        """The judgement as one JSON line without its newline, with extra fields `more` at the end."""
        return json.dumps(asdict(self) | more, ensure_ascii=False)


def read_judgements(path: Path) -> Iterator[Judgement]:
    """Judgements of a JSON-lines file; fields that a Judgement does not have are passed over.

    Raises ValueError naming file, line and field where a line cannot be read.
    """
    names = {field.name for field in fields(Judgement)}
    allowed = {"order": ORDERS, "verdict": ("a", "b", "tie", None), "gold": ("a", "b", "tie", None)}
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line.decode())
                judgement = Judgement(**{name: row[name] for name in names})
            except (UnicodeDecodeError, json.JSONDecodeError, TypeError) as error:
                raise ValueError(f"{path}, line {number}: not a judgement ({error})") from error
            except KeyError as error:
                raise ValueError(f"{path}, line {number}: field {error} is missing") from error
            for name, values in allowed.items():
                if (value := getattr(judgement, name)) not in values:
                    raise ValueError(f"{path}, line {number}: field {name!r} is {value!r}, not one of {values}")
            yield judgement
