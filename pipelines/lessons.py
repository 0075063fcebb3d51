"""A lesson: answers bought of teachers in two passes, and the traces, rejections and figures that follow from them.

What was bought is appended to first.jsonl and second.jsonl as it arrives; all else is worked out from those, so it can
be worked out again.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.progress import Progress, TaskID

from evals.pairs import Message
from evals.prompts import PromptFormat
from evals.verification import verify
from evals.writing import write_whole
from pipelines.batches import Clerk
from pipelines.passes import GIVE_UP, Bought, Pass, Shown, progress
from pipelines.teachers import TeacherError, UnansweredError

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
        with progress() as bars:
            bar = bars.add_task("teach", total=len(self.units))

            async def worker() -> None:
                for unit in waiting:
                    if self.stop is None:
                        await self._unit(unit, bars, bar)

            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(min(concurrency, len(self.units))):
                        group.create_task(worker())
            finally:
                await self.first.close()
                await self.second.close()
        if self.stop:
            raise self.stop

    async def give_in_batches(self, poll: float) -> None:
        """Buy what is missing in batches, round after round: what is still out first, then pass 1, then pass 2.

        A batch is looked at after growing pauses of at most `poll` seconds. Ends with TeacherError where it is refused.
        """
        shown = {one.name: one for unit in self.units for one in unit}
        clerks = [Clerk(one, shown, self.format, poll) for one in (self.first, self.second) if one.teacher]
        try:
            for clerk in clerks:
                await clerk.collect([note for note in clerk.of.notes if not note.done])
                clerk.give_up()
            asking = True
            while asking:
                asking = False
                for clerk in clerks:
                    if needs := list(self._needs(clerk.of)):
                        asking = True
                        await clerk.order(needs)
        finally:
            for one in (self.first, self.second):
                for (_, pair, order, _), words in one.lost.items():
                    self.unanswered[f"{pair}/{order}"] = words
                await one.close()

    def _needs(self, of: Pass) -> Iterator[tuple[Shown, int, Sequence[Message]]]:
        """What has to be asked in a pass whatever comes of the rest: no more than would be asked live, one by one."""
        for unit in self.units:
            hoped = 0
            for shown, sample in self._turns(unit):
                if hoped == self.keep:
                    break
                first, second = self.first.of(shown).get(sample), self.second.of(shown).get(sample)
                problems = self._problems(shown, first, None) if first else []
                if first and problems and second:
                    hoped += not self._problems(shown, second, hint(shown))
                    continue
                lacks = self.first if first is None else self.second if problems and self.second.teacher else None
                if lacks and (*shown.name, sample) in lacks.lost:
                    break
                if lacks is of:
                    yield shown, sample, self._asked(shown, first, problems)
                hoped += lacks is not None or not problems

    def _asked(
        self, shown: Shown, flawed: Bought | None = None, problems: Sequence[Mapping[str, str]] = ()
    ) -> Sequence[Message]:
        plain = self.format.render(shown.pair, shown.order)
        if flawed is None:
            return plain
        return [*plain[:-1], Message(role="user", content=plain[-1]["content"] + hint(shown, flawed, problems))]

    async def _unit(self, unit: Sequence[Shown], bars: Progress, bar: TaskID) -> None:
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
        bars.advance(bar)

    async def _turn(self, shown: Shown, sample: int) -> bool:
        """Whether a clean trace comes of this prompt: at once, from disk, or in the second pass."""
        first = self.first.of(shown).get(sample)
        first = first or await self._buy(self.first, shown, sample, self._asked(shown))
        problems = self._problems(shown, first, None)
        if not problems:
            return True
        second = self.second.of(shown).get(sample)
        if second is None and self.second.teacher and not self.stop:
            second = await self._buy(self.second, shown, sample, self._asked(shown, first, problems))
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
            found = {"accepted": accepted, "rejected": refused, "reasons": counted, "batches": one.batches()}
            passes[str(one.number)] = found | one.tokens()
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


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    write_whole(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
