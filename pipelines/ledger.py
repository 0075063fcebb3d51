"""Judgements on disk as they are bought, so that a run that was killed buys none of them twice.

Lines are appended as groups finish and are what `evals.judgements` reads. Beside `NAME.jsonl` stands
`NAME.settings.json`, what the judgements depend on: a folder continues only what it began. What was ordered in
batches and may not be here yet is in `batches/NAME-NUMBER.json`.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, TypeVar

from evals.errors import ReadableError
from evals.judgements import JudgementFileError
from evals.pairs import Pair
from evals.prompts import FORMATS, prompt_format
from evals.verdicts import Judgement, Order
from evals.writing import write_whole
from pipelines.appending import held


class Asked(Protocol):
    """What a judgement was asked for."""

    @property
    def pair(self) -> Pair:
        """The pair."""

    @property
    def order(self) -> Order:
        """The order it is shown in."""


T = TypeVar("T", bound=Asked)


class LedgerError(ReadableError, ValueError):
    """A judgement file that cannot be continued; the message says why and what to do."""


def item_hash(pair: Pair) -> str:
    """What was judged, in 16 hexadecimal digits: the same for the same conversation and responses."""
    shown = json.dumps([pair.messages, pair.response_a, pair.response_b])
    return hashlib.sha256(shown.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def asked_in(format_: str) -> dict[str, str]:
    """What tells one way to ask from another: the format's name, and what a template file holds."""
    template = {} if format_ in FORMATS else {"template": hashlib.sha256(Path(format_).read_bytes()).hexdigest()}
    return {"format": prompt_format(format_).name, **template}


class Ledger:
    """One judge's judgements of one benchmark. Open it with `Ledger.open`."""

    def __init__(self, path: Path, file: BinaryIO, cut: int):
        self.path = path
        self.cut = cut
        self._file = file
        self._items: dict[tuple[str, str], str] = {}
        self._bought: dict[tuple[str, str, str], set[int]] = defaultdict(set)

    @classmethod
    @contextmanager
    def open(cls, path: Path, settings: Mapping[str, Any]) -> Iterator[Ledger]:
        """Open a new or an earlier file and hold it against other processes.

        A last line that was cut off by a kill is removed (`cut` is its length in bytes). Raises LedgerError where the
        file was begun with other settings or another process writes it, JudgementFileError where a line is broken.
        """
        with held(path, LedgerError) as (file, cut):
            ledger = cls(path, file, cut)
            ledger._read()
            _check_settings(path.with_suffix(".settings.json"), settings, fresh=not ledger._bought)
            yield ledger

    def _read(self) -> None:
        for number, line in enumerate(self._file, start=1):
            try:
                row = json.loads(line)
                key = (row["subset"], row["pair_id"])
                self._items[key] = row["item"]
                self._bought[(*key, row["order"])].add(row["sample"])
            except (ValueError, KeyError, TypeError) as error:
                problem = f"{self.path}, line {number}: not a judgement that was bought here ({error!r})"
                raise JudgementFileError([f"{problem}; mend or remove it"]) from error
        self._file.seek(0, os.SEEK_END)

    def missing(self, tasks: Iterable[T], samples: int) -> dict[int, list[T]]:
        """The tasks that lack judgements, by how many they have of `samples`.

        Raises LedgerError where a pair is not what it was when it was judged.
        """
        wanted: dict[int, list[T]] = defaultdict(list)
        for task in tasks:
            self.check(task)
            key = (task.pair.subset, task.pair.id)
            have = self._bought[(*key, task.order)]
            if len(have) < samples:
                if have != set(range(len(have))):
                    gap = min(set(range(samples)) - have)
                    raise LedgerError(f"{self.path}: pair {task.pair.id!r} lacks sample {gap} but has later ones")
                wanted[len(have)].append(task)
        return dict(sorted(wanted.items()))

    def check(self, task: Asked) -> None:
        """Raises LedgerError where a pair is not what it was when it was judged."""
        before = self._items.get((task.pair.subset, task.pair.id))
        if before and before != item_hash(task.pair):
            raise LedgerError(
                f"{self.path}: pair {task.pair.id!r} has changed since it was judged; name another --output"
            )

    def bought(self) -> int:
        """How many judgements there are."""
        return sum(map(len, self._bought.values()))

    def append(self, task: Asked, judgements: Sequence[Judgement], **more: object) -> None:
        """Write the judgements of one task in one piece, with extra fields `more`."""
        item = item_hash(task.pair)
        lines = "".join(judgement.to_json(item=item, **more) + "\n" for judgement in judgements)
        self._file.write(lines.encode("utf-8", "replace"))
        self._file.flush()
        key = (task.pair.subset, task.pair.id)
        self._items[key] = item
        self._bought[(*key, task.order)].update(judgement.sample for judgement in judgements)


@dataclass
class Note:
    """One batch, noted before it is submitted so that no kill can lose or repeat it.

    `key` is drawn for this batch alone and begins each of its requests' names; `made` is in seconds since 1970;
    `requests` says by name which subset, pair, order, sample and item hash was asked for. `id` is the vendor's, None
    until that is known to us. `failed` has by name how and why a request stayed without an answer. `done` says that
    all results are in the ledger.
    """

    path: Path
    settings: dict[str, Any]
    requests: dict[str, tuple[str, str, str, int, str]]
    key: str
    made: float
    id: str | None = None
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    done: bool = False

    @classmethod
    def new(cls, ledger: Path, settings: Mapping[str, Any], tasks: Sequence[tuple[Asked, int]]) -> Note:
        """A note of requests for samples of tasks, on disk before it is returned."""
        folder = ledger.parent / "batches"
        numbers = [int(path.stem.rpartition("-")[2]) for path in folder.glob(f"{ledger.stem}-*.json")]
        key = secrets.token_hex(8)
        requests: dict[str, tuple[str, str, str, int, str]] = {
            f"{key}-{index}": (task.pair.subset, task.pair.id, task.order, sample, item_hash(task.pair))
            for index, (task, sample) in enumerate(tasks)
        }
        path = folder / f"{ledger.stem}-{max(numbers, default=0) + 1:04d}.json"
        note = cls(path, dict(settings), requests, key, time.time())
        note.write()
        return note

    def write(self) -> None:
        """Put it on disk."""
        rows = {name: value for name, value in asdict(self).items() if name != "path"}
        write_whole(self.path, json.dumps(rows) + "\n")

    def remove(self) -> None:
        """Forget a batch of which it is known that it was never submitted."""
        self.path.unlink()


def read_notes(ledger: Path, settings: Mapping[str, Any]) -> list[Note]:
    """The notes of a ledger's batches, oldest first.

    Raises LedgerError where one is broken, or is still out and was asked for with other settings.
    """
    notes = []
    for path in sorted((ledger.parent / "batches").glob(f"{ledger.stem}-*.json")):
        try:
            row = json.loads(path.read_text(encoding="utf-8"))
            row["requests"] = {name: tuple(place) for name, place in row["requests"].items()}
            note = Note(path=path, **row)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise LedgerError(f"{path}: not the note of a batch ({error!r}); name another --output") from error
        if not note.done:
            _same_settings(path, note.settings, settings)
        notes.append(note)
    return notes


def _check_settings(path: Path, settings: Mapping[str, Any], fresh: bool) -> None:
    if path.exists() and not fresh:
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise LedgerError(f"{path}: not JSON ({error}); name another --output") from error
        _same_settings(path.parent, before, settings)
        return
    write_whole(path, json.dumps(settings, indent=2) + "\n")


def _same_settings(where: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if changed := [name for name in {*before, *now} if before.get(name) != now.get(name)]:
        what = "; ".join(f"{n}: {before.get(n)!r} then, {now.get(n)!r} now" for n in sorted(changed))
        raise LedgerError(f"{where} holds judgements made with other settings ({what}); name another --output")
