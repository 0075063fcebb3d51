"""A lesson: answers bought of teachers in two passes, and the traces, rejections and figures that follow from them.

What was bought is appended to first.jsonl and second.jsonl as it arrives; all else is worked out from those, so it can
be worked out again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from evals.errors import ReadableError
from evals.pairs import Message, Pair
from evals.prompts import PromptFormat
from evals.verdicts import Judgement, Order
from evals.verification import verify
from evals.writing import write_whole
from pipelines.ledger import Ledger
from pipelines.teachers import Teacher, TeacherError, UnansweredError

GIVE_UP = 3
"""So many questions in a row without an answer, retries and all, end a run: the server is gone."""

HINT = """\


A note for you alone. Of the two responses, the one shown {place} is the better one. Whoever wrote the judgement below \
did not know that, and it cannot be used: {problems}. Start over and write a judgement of your own in the form asked \
for above, which comes out for the response shown {place} because of what the two responses really say. It has to read \
as the work of someone who has seen nothing but the question and the two responses, so leave both this note and the \
unusable judgement out of it."""

FLAWED = """\


[The unusable judgement]
{text}
[The end of the unusable judgement]"""

aside = Console(stderr=True, highlight=False, soft_wrap=True)
"""For progress: standard output holds the summary alone."""


class TeachError(ReadableError, ValueError):
    """Something that was asked for and cannot be done; the message says what to change."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A pair in the order in which a teacher is shown it."""

    pair: Pair
    order: Order


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
    bought: dict[tuple[str, str, str], dict[int, Bought]] = field(default_factory=dict)
    now: int = 0

    def open(self, teacher_: Teacher | None, settings: Mapping[str, Any], stack: ExitStack) -> None:
        """Take up what is on disk, and hold it against other processes where there is someone to ask."""
        self.teacher = teacher_
        if teacher_:
            self.ledger = stack.enter_context(Ledger.open(self.path, {**teacher_.settings, **settings}))
        for key, bought in _read(self.path):
            self.bought.setdefault(key, {})[bought.sample] = bought

    def of(self, shown: Shown) -> dict[int, Bought]:
        """What was bought of this pair in this order, by sample."""
        return self.bought.setdefault((shown.pair.subset, shown.pair.id, shown.order), {})

    async def buy(self, shown: Shown, sample: int, messages: Sequence[Message], format_: PromptFormat) -> Bought:
        """Ask, and write the answer down before anything else happens."""
        if self.teacher is None or self.ledger is None:
            raise TeachError(f"pass {self.number} has no teacher to ask")
        answer = await self.teacher.ask(messages, sample)
        pair, order, model = shown.pair, shown.order, self.teacher.model
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
        self.ledger.append(shown, [judgement], **more)
        counts = (answer.prompt_tokens, answer.completion_tokens)
        bought = Bought(sample, text, answer.finish, model, *counts, answer.reason)
        self.of(shown)[sample] = bought
        self.now += 1
        return bought

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


Found = tuple[Shown, int, Bought, list[dict[str, str]]]
"""An answer that was looked at: of what, in which pass, and every reason against it."""


@dataclass
class Lesson:
    """The recipe: for each unit, a prompt or a pair's prompts of which `keep` clean traces are wanted."""

    format: PromptFormat
    units: list[list[Shown]]
    samples: int
    keep: int
    first: Pass
    second: Pass
    unanswered: dict[str, str] = field(default_factory=dict)
    in_a_row: int = 0
    stop: TeacherError | None = None

    async def give(self, concurrency: int) -> None:
        """Buy what is missing, `concurrency` requests at a time; ends with TeacherError where nobody answers."""
        waiting = iter(self.units)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, console=aside) as progress:
            bar = progress.add_task("teach", total=len(self.units))

            async def worker() -> None:
                for unit in waiting:
                    if self.stop is None:
                        await self._unit(unit, progress, bar)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(concurrency, len(self.units))):
                        group.create_task(worker())
            finally:
                for one in (self.first, self.second):
                    if one.teacher:
                        await one.teacher.close()
        if self.stop:
            raise self.stop

    async def _unit(self, unit: Sequence[Shown], progress: Progress, bar: TaskID) -> None:
        shown = unit[0]
        try:
            accepted = 0
            for shown, sample in self._turns(unit):
                if accepted == self.keep or self.stop:
                    break
                accepted += await self._turn(shown, sample)
        except UnansweredError as error:  # the retries are used up: the next run asks again
            self.unanswered[f"{shown.pair.id}/{shown.order}"] = str(error)
            self.in_a_row += 1
            if self.in_a_row >= GIVE_UP:
                self.stop = TeacherError(f"{error}; so it was {GIVE_UP} times in a row, retries and all")
        except TeacherError as error:  # requests under way are still written down
            self.stop = error
        progress.advance(bar)

    async def _turn(self, shown: Shown, sample: int) -> bool:
        """Whether a clean trace comes of this prompt: at once, from disk, or in the second pass."""
        plain = self.format.render(shown.pair, shown.order)
        first = self.first.of(shown).get(sample) or await self._buy(self.first, shown, sample, plain)
        problems = self._problems(shown, first, None)
        if not problems:
            return True
        second = self.second.of(shown).get(sample)
        if second is None and self.second.teacher and not self.stop:
            asked = [*plain[:-1], Message(role="user", content=plain[-1]["content"] + hint(shown, first, problems))]
            second = await self._buy(self.second, shown, sample, asked)
        return second is not None and not self._problems(shown, second, hint(shown))

    async def _buy(self, of: Pass, shown: Shown, sample: int, messages: Sequence[Message]) -> Bought:
        bought = await of.buy(shown, sample, messages, self.format)
        self.in_a_row = 0
        return bought

    def _turns(self, unit: Sequence[Shown]) -> Iterator[tuple[Shown, int]]:
        return ((shown, sample) for sample in range(self.samples) for shown in unit)

    def _problems(self, shown: Shown, bought: Bought, told: str | None) -> list[dict[str, str]]:
        if bought.finish == "refused":
            return [{"reason": "refused", "detail": bought.reason or ""}]
        cut_off = bought.finish == "cut_off"
        found = verify(shown.pair, shown.order, bought.text, self.format, told, cut_off=cut_off)
        return [{"reason": one.reason, "detail": one.detail} for one in found]

    def outcome(self) -> Iterator[Found]:
        """Everything on disk that was wanted, looked at in the order of the pairs, up to the `keep` clean ones."""
        for unit in self.units:
            accepted = 0
            for shown, sample in self._turns(unit):
                for one, told in ((self.first, None), (self.second, hint(shown))):
                    bought = one.of(shown).get(sample)
                    if bought is None or accepted == self.keep:
                        break
                    problems = self._problems(shown, bought, told)
                    yield shown, one.number, bought, problems
                    if not problems:
                        accepted += 1
                        break

    def write(self, folder: Path, skipped: int) -> dict[str, Any]:
        """Write traces, rejections and the summary, and return that."""
        traces, rejected = [], []
        reasons: dict[int, Counter[str]] = {1: Counter(), 2: Counter()}
        for shown, number, bought, problems in self.outcome():
            row: dict[str, Any] = {
                "pair_id": shown.pair.id,
                "subset": shown.pair.subset,
                "order": shown.order,
                "sample": bought.sample,
                "pass": number,
                "teacher": bought.model,
                "format": self.format.name,
            }
            counts = {"prompt_tokens": bought.prompt_tokens, "completion_tokens": bought.completion_tokens}
            if problems:
                reasons[number].update({problem["reason"] for problem in problems})
                rejected.append(row | {"reasons": problems, "text": bought.text} | counts)
            else:
                messages = self.format.render(shown.pair, shown.order)
                traces.append(row | {"gold": shown.pair.gold, "messages": messages, "text": bought.text} | counts)
        passes = {}
        for one in (self.first, self.second):
            accepted, refused = (sum(row["pass"] == one.number for row in rows) for rows in (traces, rejected))
            counted = dict(sorted(reasons[one.number].items()))
            passes[str(one.number)] = {"accepted": accepted, "rejected": refused, "reasons": counted} | one.tokens()
        costs = [found["cost"] for found in passes.values()]
        summary = {
            "format": self.format.name,
            "prompts": sum(map(len, self.units)),
            "skipped_ties": skipped,
            "traces": len(traces),
            "rejected": len(rejected),
            "unanswered": self.unanswered,
            "passes": passes,
            "cost": None if None in costs else sum(costs),
        }
        _write(folder / "traces.jsonl", traces)
        _write(folder / "rejected.jsonl", rejected)
        write_whole(folder / "summary.json", json.dumps(summary, indent=2) + "\n")
        return summary


def hint(shown: Shown, flawed: Bought | None = None, problems: Sequence[Mapping[str, str]] = ()) -> str:
    """What the second teacher is told beyond the plain prompt; without a flawed trace, what it may not repeat."""
    place = "first" if shown.pair.gold == shown.order[0] else "second"
    if flawed is None:
        return HINT.format(place=place, problems="")
    what = "; ".join(f"{problem['reason'].replace('_', ' ')} ({problem['detail']})" for problem in problems)
    return HINT.format(place=place, problems=what) + FLAWED.format(text=flawed.text)


def _read(path: Path) -> Iterator[tuple[tuple[str, str, str], Bought]]:
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


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
