"""Traces to learn from: a prompt, and the text that a judge should write after it.

They are read from the `traces.jsonl` of `pipelines/teach.py`, from RM-R1's columns (`context_messages`, `winner`), or
made from labels where no oracle explains the pairs.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

from evals.data.judge_prompts import read_judge_prompt
from evals.data.recipe import RecipeError, Source
from evals.data.sources import SUFFIXES, Record, RowReader
from evals.errors import ReadableError
from evals.pairs import MAX_PROBLEMS, Message, Pair, RowError
from evals.prompts import PromptFormat
from evals.verdicts import Order

_HUB = re.compile(r"[\w.-]+/[\w.-]+(@[\w.-]+)?")
_COLUMNS = (("messages", "text"), ("context_messages", "winner"))
_MARK = "5e9d1c44f0a84b0c"
"""Stands where a response does, to see what a prompt says around the two."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One prompt as a judge is shown it, and what it should write then: `text`, without an end-of-sequence token."""

    messages: Sequence[Message]
    text: str


@dataclass(frozen=True)
class TraceFile:
    """The traces of a file or hub data set.

    `sha256` is of what was read. `without_verdict` counts the rows that were left out for having none in the format,
    which only happens to rows that do not say their format; `held_out` those that `without_questions` left out.
    """

    name: str
    sha256: str
    traces: list[Trace]
    without_verdict: int
    held_out: int = 0


class TraceError(ReadableError, ValueError):
    """Traces that cannot be learnt from. The message names file, line, item and field, or the setting to change."""


def load_traces(named: str, format_: PromptFormat) -> TraceFile:
    """Read traces in `format_` from a file or folder (JSON lines, Parquet), or a hub data set, `owner/name@revision`.

    A row with `messages` and `text` is one of `teach.py`: it says its `format`, and its text comes to a verdict. One
    with RM-R1's `context_messages` and `winner` is taken to be in `format_`, as is any that does not say; it is left
    out and counted where its text comes to no verdict. The pair that RM-R1's prompt shows is rendered anew.

    Raises TraceError naming every broken row, missing field, other format and text without a verdict.
    """
    reader = RowReader(_source(named))
    traces: list[Trace] = []
    problems: list[str] = []
    without = []
    try:
        for record in reader:
            try:
                trace = _trace(record, format_)
            except RowError as problem:
                problems.append(f"{record.file}, line {record.line}: {problem}")
            else:
                if isinstance(trace, Trace):
                    traces.append(trace)
                else:
                    without.append((record, trace))
    except RecipeError as error:
        raise TraceError(f"distill.traces={named}: {error}") from error
    if problems:
        more = [f"... and {len(problems) - MAX_PROBLEMS} more"] if len(problems) > MAX_PROBLEMS else []
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise TraceError("\n  ".join([f"{named}: {count}; mend or remove these:", *problems[:MAX_PROBLEMS], *more]))
    if without and not traces:
        (first, text), of = without[0], len(without)
        raise TraceError(
            f"{named}: none of its {of} texts comes to a verdict in the format {format_.name!r}; change data.format "
            f"to theirs. The first, {first.file}, line {first.line}, ends in {text[-60:]!r}"
        )
    if not traces:
        raise TraceError(f"{named}: there is no trace in it")
    sha256 = hashlib.sha256("".join(digest.sha256 for digest in reader.digests).encode()).hexdigest()
    return TraceFile(named, sha256, traces, len(without))


def _source(named: str) -> Source:
    if Path(named).exists():
        return Source(name="distill.traces", path=named)
    if _HUB.fullmatch(named) and not named.endswith(SUFFIXES):
        hub, _, revision = named.partition("@")
        return Source(name="distill.traces", hub=hub, revision=revision)
    raise TraceError(
        f"distill.traces={named}: there is no such file or folder, nor is it the name of a hub data set (owner/name)"
    )


def _trace(record: Record, format_: PromptFormat) -> Trace | str:
    """The trace of a row, or its text where that has no verdict and need not have one. Raises RowError."""
    row = record.values
    if isinstance(row, str):
        raise RowError(row)
    item = f"item {row.get('pair_id', row.get('id', '?'))!r}"
    columns = next((columns for columns in _COLUMNS if columns[0] in row), None)
    if columns is None:
        raise RowError(
            f"{item}: field 'messages' is missing; a trace has 'messages' and 'text' (teach.py), or 'context_messages' "
            "and 'winner' (RM-R1)"
        )
    messages = _messages(row[columns[0]], f"{item}: field {columns[0]!r}")
    text = _text(row.get(columns[1]), f"{item}: field {columns[1]!r}")
    written_in = row.get("format")
    if written_in is not None and written_in != format_.name:
        raise RowError(
            f"{item}: field 'format': the trace is written in {written_in!r} and data.format is {format_.name!r}; "
            f"set data.format to {written_in!r}, or name traces in {format_.name!r}"
        )
    if format_.verdict(text, "ab").verdict is None:
        if written_in is None:
            return text
        what = "is empty" if not text.strip() else f"comes to no verdict in the format {written_in!r}"
        raise RowError(f"{item}: field {columns[1]!r} {what}")
    if columns[0] == "context_messages" and (judged := read_judge_prompt(messages[-1]["content"])):
        # In the words that the judge will be asked in, and without the misspelling that gives labels away.
        pair = Pair("", tuple(judged.messages), judged.response_a, judged.response_b, None)
        messages = list(format_.render(pair, "ab"))
    return Trace(messages, text)


def _messages(value: Any, where: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RowError(f"{where} must be a list of messages")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise RowError(f"{where}: a message needs 'role' and 'content' as text")
    if value[-1]["role"] == "assistant":
        raise RowError(f"{where}: the last message is an assistant's; it must be what the judge is asked")
    return [Message(role=one["role"], content=_text(one["content"], where)) for one in value]


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise RowError(f"{where} must be text, not {'missing' if value is None else type(value).__name__}")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise RowError(f"{where} holds half a character at position {error.start}") from error
    return value


def also_asked(pairs: Sequence[Pair], traces: Sequence[Trace], format_: PromptFormat) -> list[Pair]:
    """The pairs whose question is that of a trace, white space aside.

    A question is recognised by what `format_` writes around the two responses, and within RM-R1's marker lines, whose
    prompts may have other instructions than ours.
    """
    prompts = sorted(map(_prompt, traces))
    questions = {_judged(trace) for trace in traces}
    return [pair for pair in pairs if _question(pair.messages) in questions or _found(prompts, _frame(pair, format_))]


def without_questions(found: TraceFile, pairs: Sequence[Pair], format_: PromptFormat) -> TraceFile:
    """The traces that ask none of the pairs' questions, as `also_asked` recognises them; the digest follows them."""
    frames = [_frame(pair, format_) for pair in pairs]
    questions = {_question(pair.messages) for pair in pairs}
    kept = []
    for trace in found.traces:
        prompt = _prompt(trace)
        if _judged(trace) not in questions and not any(_fills(prompt, frame) for frame in frames):
            kept.append(trace)
    if len(kept) == len(found.traces):
        return found
    digest = hashlib.sha256(found.sha256.encode())
    for trace in kept:
        digest.update(json.dumps([trace.messages, trace.text]).encode())
    return replace(found, sha256=digest.hexdigest(), traces=kept, held_out=len(found.traces) - len(kept))


def _prompt(trace: Trace) -> str:
    return _spaced("\n".join(message["content"] for message in trace.messages))


def _judged(trace: Trace) -> str | None:
    """The question within RM-R1's marker lines, where they are there."""
    found = read_judge_prompt(trace.messages[-1]["content"])
    return _question(found.messages) if found else None


def _frame(pair: Pair, format_: PromptFormat) -> list[str]:
    """What a prompt of the pair says before, between and after its responses."""
    blank = format_.render(replace(pair, response_a=_MARK, response_b=_MARK), "ab")
    return [_spaced(part) for part in "\n".join(message["content"] for message in blank).split(_MARK)]


def _found(prompts: Sequence[str], frame: Sequence[str]) -> bool:
    """Whether one of the prompts, which are sorted, has this frame."""
    begin = frame[0]
    sharing = takewhile(lambda prompt: prompt.startswith(begin), islice(prompts, bisect_left(prompts, begin), None))
    return any(_fills(prompt, frame) for prompt in sharing)


def _fills(prompt: str, frame: Sequence[str]) -> bool:
    begin, *between, end = frame
    return prompt.startswith(begin) and prompt.endswith(end) and all(part in prompt for part in between)


def _question(messages: Sequence[Message]) -> str:
    return _spaced("\n".join(message["content"] for message in messages))


def _spaced(text: str) -> str:
    return " ".join(text.split())


def in_epoch(traces: Sequence[Trace], seed: int, epoch: int) -> Iterator[Trace]:
    """The traces in the order of one time through them, which follows from seed and epoch alone."""
    order = list(range(len(traces)))
    random.Random(f"{seed}/traces/{epoch}").shuffle(order)
    return (traces[index] for index in order)


def label_trace(pair: Pair, order: Order, rng: random.Random, slip_rate: float) -> str:
    """The shortest well-formed judgement that ends in the gold verdict, in the tags of `evals.prompts`.

    It teaches a model the form of a judgement on prompts like these, and no reasoning. With probability `slip_rate`
    it ends in the other verdict; a gold tie is drawn by lot.
    """
    right = "A" if pair.gold == order[0] else "B"
    if pair.gold == "tie":
        right = rng.choice("AB")
    if rng.random() < slip_rate:
        right = "B" if right == "A" else "A"
    marks = "; ".join(f"{letter}: {'right' if letter == right else 'wrong'}" for letter in "AB")
    rubric = "right (100%)<justify>asked</justify>"
    return f"<type>Chat</type><rubric>{rubric}</rubric><eval>{marks}</eval><answer>[[{right}]]</answer>"
