"""Preference pairs from a served judge, in TRL's columns: `prompt`, `chosen`, `rejected`.

Of each prompt's responses the best and the worst by the judge become a pair; with --all, every two that it decided
between. What it leaves undecided is left out and counted. Where a prompt is a list of messages, so are `chosen` and
`rejected`. Whatever the judge says is kept beside the output, in NAME.answers.jsonl, as it comes: the same command
after a kill asks nothing twice. The output itself is there whole or not at all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rich.console import Console

from actors.rewarder import Endpoint, Ranked, RefusedError
from evals.errors import ReadableError
from evals.verdicts import Verdict
from evals.writing import write_whole
from pipelines.appending import held
from pipelines.asking import add_judge_flags, find_judge, rank_all
from pipelines.errors import readable_errors
from pipelines.prompts import Prompted, read_prompts


class AnswersError(ReadableError, RuntimeError):
    """A file of answers that cannot be continued; the message says why and what to do."""


@dataclass(frozen=True)
class Answered:
    """What the judge said of one prompt's responses: a reward for each, and a verdict on some two by their places."""

    rewards: list[float]
    verdicts: list[tuple[int, int, Verdict]]
    refused: str = ""


class Answers:
    """The judge's answers on disk, known by what was asked. Open it with `Answers.open`."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self._known: dict[str, Answered] = {}

    @classmethod
    @contextmanager
    def open(cls, path: Path) -> Iterator[Answers]:
        """Open a new or an earlier file and hold it against other processes; a line cut off by a kill is removed."""
        with held(path, AnswersError) as (file, _):
            answers = cls(file)
            answers._read(path)
            yield answers

    def _read(self, path: Path) -> None:
        for number, line in enumerate(self._file, start=1):
            try:
                row = json.loads(line)
                asked = row.pop("asked")
                self._known[asked] = Answered(**row)
            except (ValueError, KeyError, TypeError) as error:
                raise AnswersError(f"{path}, line {number}: not an answer ({error!r}); remove the line") from error

    def get(self, asked: str) -> Answered | None:
        """The answer to what was asked, if there is one."""
        return self._known.get(asked)

    def add(self, asked: str, answer: Answered) -> None:
        """Keep an answer."""
        row = {"asked": asked, "rewards": answer.rewards, "verdicts": answer.verdicts, "refused": answer.refused}
        self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        self._known[asked] = answer


def label(rows: Sequence[Prompted], output: Path, endpoint: Endpoint, every: bool) -> dict[str, Any]:
    """Ask the judge what is not known yet, and write the pairs; returns what became of the rows.

    An answer is one of a judge (name, weight version, format) asked in one way; a new version is asked anew.
    """
    how = [*endpoint.judge, endpoint.method, endpoint.order]
    keys = {row.id: _digest([how, row.messages, row.responses]) for row in rows}
    with Answers.open(output.with_suffix(".answers.jsonl")) as answers:
        asked = [row for row in rows if answers.get(keys[row.id]) is None]

        def done(row: Prompted, found: Ranked | RefusedError) -> None:
            if isinstance(found, RefusedError):
                answers.add(keys[row.id], Answered([], [], str(found)))
                return
            verdicts = [(row.responses.index(a), row.responses.index(b), v) for (a, b), v in found.verdicts.items()]
            answers.add(keys[row.id], Answered(found.rewards, verdicts))

        rank_all(endpoint, asked, lambda row: (row.messages, row.responses, f"line {row.line} ({row.id})"), done)
        lines, undecided, refused = [], 0, {}
        for row in rows:
            answer = answers.get(keys[row.id])
            assert answer is not None, "every row was asked or known"
            if answer.refused:
                refused[row.line] = answer.refused
                continue
            found = _decided(row, answer) if every else _extremes(answer)
            undecided += not found
            lines += [_trl(row, chosen, rejected) for chosen, rejected in found]
    write_whole(output, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
    counts = {"prompts": len(rows), "asked": len(asked), "pairs": len(lines), "undecided": undecided}
    return counts | {"refused": refused}


def _digest(asked: Any) -> str:
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:32]


def _extremes(answer: Answered) -> list[tuple[int, int]]:
    """The best and the worst response, unless all are equal; of equal ones the first."""
    rewards = answer.rewards
    best, worst = max(rewards), min(rewards)
    return [] if best == worst else [(rewards.index(best), rewards.index(worst))]


def _decided(row: Prompted, answer: Answered) -> list[tuple[int, int]]:
    """Every two different responses that a verdict decided between; a blank one loses without any."""
    said = [(a, b) if verdict == "a" else (b, a) for a, b, verdict in answer.verdicts if verdict in ("a", "b")]
    first = sorted({row.responses.index(text) for text in row.responses})
    blank = [place for place in first if not row.responses[place].strip()][:1]
    return said + [(place, none) for none in blank for place in first if row.responses[place].strip()]


def _trl(row: Prompted, chosen: int, rejected: int) -> dict[str, Any]:
    texts = {"chosen": row.responses[chosen], "rejected": row.responses[rejected]}
    if row.plain:
        return {"prompt": row.messages[0]["content"], **texts}
    said = {name: [{"role": "assistant", "content": text}] for name, text in texts.items()}
    return {"prompt": list(row.messages), **said}


def label_command(argv: Sequence[str]) -> int:
    """`rlhf.py label`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="rlhf.py label", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--input", type=Path, required=True, metavar="FILE", help="rows with `prompt` and `responses`")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the pairs, as JSON lines")
    parser.add_argument("--all", action="store_true", help="a pair of every two that the judge decided between")
    add_judge_flags(parser)
    arguments = parser.parse_args(argv)
    with readable_errors():
        rows = read_prompts(arguments.input, responses=True)
        found = label(rows, arguments.output, find_judge(arguments), arguments.all)
    console = Console(highlight=False, soft_wrap=True)
    for line, why in found["refused"].items():
        console.print(f"left out       {arguments.input}, line {line}: {why}", markup=False)
    counted = Counter(found | {"refused": len(found["refused"])})
    console.print(
        f"{arguments.output}: {counted['pairs']} pairs of {counted['prompts']} prompts, {counted['asked']} of them "
        f"asked now; {counted['undecided']} undecided and {counted['refused']} refused were left out"
    )
    return 0
