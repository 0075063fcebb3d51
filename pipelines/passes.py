"""One of the two passes in which answers are bought of teachers: who is asked, and what is on disk.

What was bought is appended to first.jsonl or second.jsonl as it arrives.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from evals.errors import ReadableError
from evals.pairs import Message, Pair
from evals.prompts import PromptFormat
from evals.verdicts import Judgement, Order
from pipelines.ledger import Ledger, Note, read_notes
from pipelines.teachers import Answer, Teacher

GIVE_UP = 3
"""So many questions in a row without an answer, retries and all, end a run: the server is gone. A question that the
server could not answer in so many batches is asked in no further one; so many looks at a batch in a row may fail."""

aside = Console(stderr=True, highlight=False, soft_wrap=True)
"""For progress: standard output holds the summary alone."""


def progress() -> Progress:
    """Bars with a count and the time."""
    return Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=aside
    )


class TeachError(ReadableError, ValueError):
    """Something that was asked for and cannot be done; the message says what to change."""


Name = tuple[str, str, str]
"""Of what is shown: subset, pair and order."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair in the order in which a teacher is shown it."""

    pair: Pair
    order: Order

    @property
    def name(self) -> Name:
        """What it is called on disk."""
        return self.pair.subset, self.pair.id, self.order


@dataclass(frozen=True, slots=True)
class Bought:
    """One answer that is on disk."""

    sample: int
    text: str
    finish: str
    model: str
    prompt_tokens: int | None
    completion_tokens: int | None
    reason: str | None


Place = tuple[str, str, str, int]
"""What was asked for: subset, pair, order and sample."""

Price = tuple[float, float] | None
"""Of a million tokens in and out; None is not known."""


@dataclass
class Pass:
    """One of the two passes: who is asked, and what was bought, by subset, pair and order."""

    number: int
    path: Path
    price: Price
    teacher: Teacher | None = None
    ledger: Ledger | None = None
    bought: dict[Name, dict[int, Bought]] = field(default_factory=dict)
    now: int = 0
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    lost: dict[Place, str] = field(default_factory=dict)

    def open(self, teacher: Teacher | None, settings: Mapping[str, Any], stack: ExitStack) -> None:
        """Take up what is on disk, and hold it against other processes where there is someone to ask."""
        self.teacher = teacher
        if teacher:
            self.settings = {**teacher.settings, **settings}
            self.ledger = stack.enter_context(Ledger.open(self.path, self.settings))
            self.notes = read_notes(self.path, self.settings)
        for key, bought in _read(self.path):
            self.bought.setdefault(key, {})[bought.sample] = bought

    def held(self) -> tuple[Teacher, Ledger]:
        """Who is asked and where answers go. Raises TeachError where nobody is asked."""
        if self.teacher is None or self.ledger is None:
            raise TeachError(f"pass {self.number} has no teacher to ask")
        return self.teacher, self.ledger

    def of(self, shown: Shown) -> dict[int, Bought]:
        """What was bought of this pair in this order, by sample."""
        return self.bought.setdefault(shown.name, {})

    async def buy(self, shown: Shown, sample: int, messages: Sequence[Message], format_: PromptFormat) -> Bought:
        """Ask, and write the answer down before anything else happens."""
        teacher, _ = self.held()
        return self.keep(shown, sample, await teacher.ask(messages, sample), format_)

    def keep(self, shown: Shown, sample: int, answer: Answer, format_: PromptFormat) -> Bought:
        """Write an answer down."""
        teacher, ledger = self.held()
        pair, order, model = shown.pair, shown.order, teacher.model
        text = answer.text.encode("utf-8", "replace").decode()  # as it will be read back
        judgement = Judgement(
            benchmark="pairs",
            pair_id=pair.id,
            subset=pair.subset,
            gold=pair.gold,
            order=order,
            sample=sample,
            format=format_.name,
            text=text,
            verdict=format_.verdict(text, order).verdict,
            prompt_tokens=answer.prompt_tokens,
            completion_tokens=answer.completion_tokens,
            model=model,
        )
        more = {"finish": answer.finish, **({"reason": answer.reason} if answer.reason else {})}
        ledger.append(shown, [judgement], **more)
        counts = (answer.prompt_tokens, answer.completion_tokens)
        bought = Bought(sample, text, answer.finish, model, *counts, answer.reason)
        self.of(shown)[sample] = bought
        self.now += 1
        return bought

    async def close(self) -> None:
        """End the teacher's connections."""
        if self.teacher:
            await self.teacher.close()

    def batches(self) -> dict[str, int]:
        """How many batches there were, and how many of their requests stayed without an answer, by how."""
        how = Counter(how for note in self.notes for how, _ in note.failed.values())
        return {"submitted": len(self.notes), **dict(sorted(how.items()))} if self.notes else {}

    def tokens(self) -> dict[str, Any]:
        """Tokens and cost of everything that is on disk; the cost is None without a price or a count."""
        answers = [bought for samples in self.bought.values() for bought in samples.values()]
        paid = [one for one in answers if one.finish != "refused" or one.prompt_tokens is not None]
        unknown = sum(one.prompt_tokens is None or one.completion_tokens is None for one in paid)
        prompt, completion = (
            sum(getattr(one, name) or 0 for one in paid) for name in ("prompt_tokens", "completion_tokens")
        )
        cost = None
        if not paid:
            cost = 0.0
        elif self.price and not unknown:
            cost = (prompt * self.price[0] + completion * self.price[1]) / 1e6
        return {
            "answers": len(answers),
            "bought_now": self.now,
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "answers_without_token_counts": unknown,
            "cost": cost,
        }


def _read(path: Path) -> Iterator[tuple[Name, Bought]]:
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            counts = (row["prompt_tokens"], row["completion_tokens"])
            bought = Bought(row["sample"], row["text"], row["finish"], row["model"], *counts, row.get("reason"))
            yield (row["subset"], row["pair_id"], row["order"]), bought
        except (ValueError, KeyError, TypeError) as error:
            raise TeachError(
                f"{path}, line {number}: not an answer that was bought here ({error!r}); mend or remove it"
            ) from error
