"""Traces: read from files as their authors write them, held against held-out questions, made from labels."""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pyarrow
import pyarrow.parquet
import pytest

from evals.errors import ReadableError
from evals.pairs import Message, Pair
from evals.prompts import COMPACT, FORMATS, RM_R1, load_template
from evals.traces import Trace, TraceError, also_asked, in_epoch, label_trace, load_traces
from evals.verdicts import ORDERS, Gold, Order

SAYS = "<rubric>fit</rubric><eval>A fits</eval><answer>[[A]]</answer>"


def pair(gold: Gold) -> Pair:
    return Pair("p", (Message(role="user", content="?"),), "x", "y", gold)


def asking(*said: str, id_: str = "p") -> Pair:
    """A conversation, of which the user says the first turn and every second."""
    roles = ("user", "assistant")
    return Pair(id_, tuple(Message(role=roles[i % 2], content=text) for i, text in enumerate(said)), "x", "y", "a")


def taught(number: int, **changes: Any) -> dict[str, Any]:
    """A row as `teach.py` writes it."""
    messages = COMPACT.render(asking(f"What is {number}?"), "ab")
    row = {"pair_id": f"p{number}", "order": "ab", "sample": 0, "pass": 1, "teacher": "t", "format": "compact"}
    return row | {"gold": "a", "messages": messages, "text": f"{number} {SAYS}"} | changes


def published(number: int, text: str = SAYS) -> dict[str, Any]:
    """A row as RM-R1 publishes its traces: other instructions, the same marker lines."""
    shown = RM_R1.render(asking(f"What is {number}?"), "ab")[-1]["content"]
    asked = [{"role": "system", "content": "Judge well."}, {"role": "user", "content": shown}]
    return {"context_messages": asked, "winner": text}


def rendered_anew(number: int) -> list[dict[str, str]]:
    """The prompt of `published`, in our own words."""
    return list(RM_R1.render(asking(f"What is {number}?"), "ab"))


def write(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_what_teach_writes_is_read_as_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path / "traces.jsonl", [taught(0), "", taught(1)])

    found = load_traces(str(path), COMPACT)

    assert [(trace.messages, trace.text) for trace in found.traces] == [
        (taught(number)["messages"], f"{number} {SAYS}") for number in range(2)
    ]
    assert found.without_verdict == 0


def test_every_kind_of_file_has_the_same_traces(tmp_path: Path) -> None:
    rows = [published(number) for number in range(5)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "traces.parquet")
    write(tmp_path / "traces.jsonl", rows)
    write(tmp_path / "traces.jsonl.gz", rows)

    found = [load_traces(str(tmp_path / f"traces.{kind}"), RM_R1) for kind in ("jsonl", "jsonl.gz", "parquet")]

    assert found[0].traces == found[1].traces == found[2].traces
    assert [trace.messages for trace in found[0].traces] == [rendered_anew(number) for number in range(5)]
    assert len({one.sha256 for one in found}) == 3, "the files differ"


def test_the_digest_follows_the_contents_and_not_the_name(tmp_path: Path) -> None:
    one = load_traces(str(write(tmp_path / "one.jsonl", [taught(0)])), COMPACT)
    same = load_traces(str(write(tmp_path / "same.jsonl", [taught(0)])), COMPACT)
    other = load_traces(str(write(tmp_path / "one.jsonl", [taught(1)])), COMPACT)

    assert one.sha256 == same.sha256 != other.sha256


def test_rows_that_do_not_say_their_format_may_lack_a_verdict_and_are_counted(tmp_path: Path) -> None:
    texts = [SAYS, "A is better", "", "<answer>[[A/B]]</answer>", SAYS]
    path = write(tmp_path / "rows.jsonl", [published(number, text) for number, text in enumerate(texts)])

    found = load_traces(str(path), RM_R1)

    assert [trace.messages for trace in found.traces] == [rendered_anew(n) for n in (0, 4)]
    assert found.without_verdict == 3


def test_the_misspelling_that_gives_labels_away_is_not_learnt(tmp_path: Path) -> None:
    row = json.dumps(published(0)).replace("Chatbot B", "Chabot B")
    assert row != json.dumps(published(0))

    found = load_traces(str(write(tmp_path / "rows.jsonl", [row])), RM_R1)

    assert [trace.messages for trace in found.traces] == [rendered_anew(0)]


def test_a_prompt_that_is_not_rm_r1s_is_taken_as_it_stands(tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "Which is better, x or y?"}]
    path = write(tmp_path / "rows.jsonl", [{"context_messages": asked, "winner": SAYS}])

    assert [trace.messages for trace in load_traces(str(path), RM_R1).traces] == [asked]


def test_a_file_without_any_verdict_in_the_format_is_refused(tmp_path: Path) -> None:
    """RM-R1's sets for GRPO have the same columns, and `model_a` where the trace would stand."""
    path = write(tmp_path / "rlvr.jsonl", [published(number, "model_a") for number in range(3)])

    with pytest.raises(TraceError, match=r"none of its 3 texts .*'rm_r1'.*data\.format.*line 1, ends in 'model_a'"):
        load_traces(str(path), RM_R1)


def test_every_broken_row_is_named_by_line_item_and_field(tmp_path: Path) -> None:
    user = {"role": "user", "content": "?"}
    broken: list[tuple[dict[str, Any] | str, str]] = [
        ("{", "line 1: not JSON"),
        ("[1]", "line 2: an object with named fields is needed"),
        ({"pair_id": "q", "text": SAYS}, "line 3: item 'q': field 'messages' is missing"),
        (taught(4, messages="?"), "line 4: item 'p4': field 'messages' must be a list"),
        (taught(5, messages=[{"role": "user"}]), "line 5: item 'p5': field 'messages': a message needs"),
        (taught(6, messages=[user, user | {"role": "assistant"}]), "line 6: item 'p6': field 'messages': the last"),
        (taught(7, text=None), "line 7: item 'p7': field 'text' must be text"),
        (taught(8, text=" "), "line 8: item 'p8': field 'text' is empty"),
        (taught(9, text="A"), "line 9: item 'p9': field 'text' comes to no verdict"),
        (taught(10, text=f"{SAYS}\ud83d"), "line 10: item 'p10': field 'text' holds half a character"),
        (taught(11, format="rm_r1"), "line 11: item 'p11': field 'format': the trace is written in 'rm_r1'"),
        ({"context_messages": [user]}, "line 12: item '?': field 'winner' must be text"),
    ]
    path = write(tmp_path / "traces.jsonl", [*(row for row, _ in broken), taught(13)])

    with pytest.raises(TraceError, match=r"traces\.jsonl: 12 problems") as caught:
        load_traces(str(path), COMPACT)

    assert isinstance(caught.value, ReadableError)
    for _, message in broken:
        assert f"{path}, {message}" in str(caught.value)
    assert "set data.format to 'rm_r1'" in str(caught.value)


def test_no_more_than_twenty_problems_are_listed(tmp_path: Path) -> None:
    path = write(tmp_path / "traces.jsonl", [taught(number, text="") for number in range(25)])

    with pytest.raises(TraceError, match=r"25 problems(.|\n)*and 5 more") as caught:
        load_traces(str(path), COMPACT)
    assert len(re.findall(r"line \d+:", str(caught.value))) == 20


@pytest.mark.parametrize("named", ["nothing.jsonl", "folder/nothing.jsonl", "a/b/c", "folder/nothing.parquet"])
def test_a_name_that_is_neither_file_nor_data_set_is_refused(named: str) -> None:
    with pytest.raises(TraceError, match=f"distill.traces={named}: there is no such file"):
        load_traces(named, COMPACT)


def test_a_data_set_that_cannot_be_had_is_named_with_its_revision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(TraceError, match=r"owner/traces@v2: .*'owner/traces'.* could not be read"):
        load_traces("owner/traces@v2", COMPACT)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="there is no trace in it"):
        load_traces(str(write(tmp_path / "traces.jsonl", [])), COMPACT)


@pytest.mark.parametrize("format_", [FORMATS["rm_r1"], FORMATS["rm_r1_reasoning"], FORMATS["rrm"], COMPACT])
@pytest.mark.parametrize("order", ORDERS)
def test_held_out_questions_are_found_in_prompts_of_the_format(format_, order: Order) -> None:  # type: ignore[no-untyped-def]
    asked = [asking(f"What is {n}?") for n in range(5)] + [asking("Hi", "Hello.", "What is 7?"), asking("A. Why?")]
    traces = [Trace(format_.render(one, order), "") for one in asked]
    held = [
        *(asking("What is 3?", id_="same"), asking(" What  is 4?\n", id_="spaced"), asking("Why?", id_="a part")),
        *(
            asking("What is 9?", id_="new"),
            asking("Hi", "Hello.", "What is 7?", id_="turns"),
            asking("Hi", id_="begin"),
        ),
        asking("What is 7?", id_="last turn"),
    ]

    assert [one.id for one in also_asked(held, traces, format_)] == ["same", "spaced", "turns"]


def test_held_out_questions_are_found_after_the_responses(tmp_path: Path) -> None:
    template = {"name": "last", "user": "{response_a} or {response_b}? {question}", "verdict": "rm_r1"}
    (tmp_path / "last.yaml").write_text(json.dumps(template))
    format_ = load_template(tmp_path / "last.yaml")
    traces = [Trace(format_.render(asking(f"What is {n}?"), "ab"), "") for n in range(3)]
    held = [asking("What is 2?", id_="same"), asking("What is 9?", id_="new")]

    assert [one.id for one in also_asked(held, traces, format_)] == ["same"]


def test_held_out_questions_are_found_under_other_instructions() -> None:
    traces = [Trace(published(number)["context_messages"], "") for number in range(3)]
    held = [asking("What is 2?", id_="same"), asking("What is 9?", id_="new")]

    assert [one.id for one in also_asked(held, traces, RM_R1)] == ["same"]


def test_an_epoch_has_every_trace_once_in_an_order_of_its_own() -> None:
    traces = [Trace([], str(number)) for number in range(50)]
    epochs = {(seed, epoch): [t.text for t in in_epoch(traces, seed, epoch)] for seed in (0, 1) for epoch in (1, 2)}

    assert all(Counter(order) == Counter(str(number) for number in range(50)) for order in epochs.values())
    assert len(set(map(tuple, epochs.values()))) == 4
    assert epochs[0, 2] == [trace.text for trace in in_epoch(traces, 0, 2)]


@pytest.mark.parametrize("gold", ["a", "b"])
@pytest.mark.parametrize("order", ORDERS)
def test_a_trace_is_complete_and_right(gold: Gold, order: Order) -> None:
    parsed = COMPACT.parse(label_trace(pair(gold), order, random.Random(0), slip_rate=0.0), order)
    assert parsed.verdict == gold
    assert parsed.sections.keys() == {"type", "rubric", "justify", "eval", "answer"}


def test_slips_end_in_the_other_verdict() -> None:
    rng = random.Random(0)
    wrong = sum(COMPACT.parse(label_trace(pair("a"), "ba", rng, 0.3), "ba").verdict == "b" for _ in range(2000))
    assert 540 < wrong < 660  # 600 expected; three standard deviations are 61


def test_ties_are_drawn_by_lot() -> None:
    rng = random.Random(0)
    verdicts = {COMPACT.parse(label_trace(pair(get_args(Gold)[2]), "ab", rng, 0.0), "ab").verdict for _ in range(50)}
    assert verdicts == {"a", "b"}
