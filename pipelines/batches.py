"""A pass in batches: its questions are submitted, looked at after growing pauses, and their answers written down.

Each batch is noted on disk before it is submitted, so that a run that was killed finds it again and buys nothing twice.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rich.progress import Progress, TaskID

from evals.pairs import Message
from evals.prompts import PromptFormat
from pipelines.ledger import Note, item_hash
from pipelines.passes import GIVE_UP, Name, Pass, Shown, TeachError, aside, progress
from pipelines.teachers import Failure, Question, Teacher, TeacherError, UnansweredError, UnsettledError


@dataclass
class Clerk:
    """Orders the answers of one pass in batches and collects them. `shown` is what is taught, by name."""

    of: Pass
    shown: Mapping[Name, Shown]
    format: PromptFormat
    poll: float
    missed: int = 0

    @property
    def teacher(self) -> Teacher:
        """Who is asked."""
        return self.of.held()[0]

    async def order(self, needs: Sequence[tuple[Shown, int, Sequence[Message]]]) -> None:
        """Submit requests, in as many batches as the vendor's limits need, and wait for them."""
        sizes = (
            len(json.dumps(self.teacher.line(Question("x" * 64, messages, sample)))) + 2
            for _, sample, messages in needs
        )
        ordered = []
        for start, end in split(sizes, *self.teacher.most):
            part = needs[start:end]
            note = Note.new(self.of.path, self.of.settings, [(shown, sample) for shown, sample, _ in part])
            self.of.notes.append(note)
            questions = [Question(n, messages, s) for n, (_, s, messages) in zip(note.requests, part, strict=True)]
            await self._submit(note, questions)
            ordered.append(note)
        await self.collect(ordered)

    async def _submit(self, note: Note, questions: Sequence[Question]) -> None:
        for pause in (1, 4, 16):
            try:
                note.id = await self.teacher.submit(note.key, questions)
            except UnansweredError as error:  # it may have gone through all the same
                aside.print(f"pass {self.of.number}  {error}; looking whether the batch went through")
                await asyncio.sleep(pause)
                note.id = await self._find(note)
            except TeacherError:
                self._forget(note)
                raise
            if note.id:
                note.write()
                aside.print(f"pass {self.of.number}  batch {note.id} of {len(questions)} requests is submitted")
                return
        raise TeacherError(f"{self.teacher.model}: no batch could be submitted; the same command looks and tries again")

    async def _find(self, note: Note) -> str | None:
        known = {one.id for one in self.of.notes if one.id}
        pause = 1.0
        while True:
            try:
                return await self.teacher.find(note.key, note.made, len(note.requests), known)
            except UnsettledError as error:
                aside.print(f"pass {self.of.number}  batch {error} may be ours, which shows when it ends; waiting")
            except UnansweredError as error:
                raise TeacherError(f"{error}; {note.path} may be submitted: the same command looks again") from error
            await asyncio.sleep(min(pause, self.poll))
            pause *= 2

    def _forget(self, note: Note) -> None:
        note.remove()
        self.of.notes.remove(note)

    async def collect(self, notes: Sequence[Note]) -> None:
        """Wait for batches and write down what came of each as soon as it ended."""
        out = []
        for note in notes:
            if note.id is None:  # a run was killed about here: did it submit?
                note.id = await self._find(note)
                if note.id is None:
                    self._forget(note)
                    continue
                note.write()
            out.append(note)
        with progress() as bars:
            bar_of = {
                note.key: bars.add_task(f"pass {self.of.number}, batch {note.id}", total=len(note.requests))
                for note in out
            }
            pause = 1.0
            while out:
                for note in list(out):
                    if await self._ended(note, bars, bar_of[note.key]):
                        out.remove(note)
                if out:
                    await asyncio.sleep(min(pause, self.poll))
                    pause *= 2

    async def _ended(self, note: Note, bars: Progress, bar: TaskID) -> bool:
        batch = note.id or ""
        try:
            seen = await self.teacher.look(batch)
            bars.update(bar, completed=seen.through)
            if seen.ended and not seen.refused:
                await self._take(note, batch)
        except UnansweredError as error:
            self.missed += 1
            if self.missed < GIVE_UP:
                aside.print(f"pass {self.of.number}  {error}; looking again")
                return False
            raise TeacherError(
                f"{error}; the same command goes on waiting for batch {batch}, which stays submitted"
            ) from error
        except TeacherError as error:
            raise TeacherError(
                f"{error}; mend that and run the same command, or, where batch {batch} is gone for good, remove "
                f"{note.path} to buy it anew"
            ) from error
        self.missed = 0
        if seen.refused:
            note.done = True
            note.write()
            raise TeacherError(f"batch {batch} was refused: {seen.refused}; mend that, then run the same command")
        return seen.ended

    async def _take(self, note: Note, batch: str) -> None:
        elsewhere = False
        async for name, answer in self.teacher.results(batch):
            if name not in note.requests:
                continue
            subset, pair, order, sample, item = note.requests[name]
            shown = self.shown.get((subset, pair, order))
            if shown is None:  # this run teaches fewer pairs than the one that asked: another may take it
                elsewhere = True
            elif item_hash(shown.pair) != item:
                raise TeachError(f"{note.path}: pair {pair!r} has changed since it was asked; name another --output")
            elif isinstance(answer, Failure):
                note.failed[name] = (answer.how, answer.words)
            elif sample not in self.of.of(shown):
                self.of.keep(shown, sample, answer, self.format)
        for name, (subset, pair, order, sample, _) in note.requests.items():
            shown = self.shown.get((subset, pair, order))
            if shown and sample not in self.of.of(shown):
                how, words = note.failed.setdefault(name, ("missing", "the batch ended without a result for it"))
                self.of.lost[subset, pair, order, sample] = f"batch {batch}: {how}: {words}"
        note.done = not elsewhere
        note.write()
        counted = Counter(how for how, _ in note.failed.values())
        without = "".join(f", {count} {name}" for name, count in sorted(counted.items()))
        aside.print(f"pass {self.of.number}  batch {batch} ended{without}")

    def give_up(self) -> None:
        """Ask no more for what the server failed at in GIVE_UP batches; expired or cancelled is no fault of it."""
        failed = [
            note.requests[name][:4]
            for note in self.of.notes
            for name, (how, _) in note.failed.items()
            if how in ("errored", "missing")
        ]
        for place, times in Counter(failed).items():
            shown = self.shown.get(place[:3])
            if times >= GIVE_UP and shown and place[3] not in self.of.of(shown):
                self.of.lost[place] = f"failed in {times} batches and is asked no more; run once without --batch"


def split(sizes: Iterable[int], most: int, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Where requests of these sizes, in bytes, begin and end in batches of at most `most` of them and `most_bytes`."""
    start, end, held = 0, 0, 0
    for end, size in enumerate(sizes):
        if end - start == most or (end > start and held + size > most_bytes):
            yield start, end
            start, held = end, 0
        held += size
    yield start, end + 1
