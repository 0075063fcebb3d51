"""Pair files are written by hand here, or are the real ones; gold and counts are worked out without the loader."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.pairs import MAX_PROBLEMS, Message, Pair, PairFileError, load_pairs, save_pairs

QUESTION = "What is 2 + 2?"
ASKED = (Message(role="user", content=QUESTION),)
GOOD, BAD = "It is 4.", "It is 5."


def write(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def said(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


@pytest.mark.parametrize(
    ("row", "gold"),
    [
        ({"messages": list(ASKED), "response_a": GOOD, "response_b": BAD, "gold": "a"}, "a"),
        ({"context_messages": list(ASKED), "response_a": GOOD, "response_b": BAD, "winner": "model_b"}, "b"),
        ({"prompt": QUESTION, "response_a": GOOD, "response_b": BAD, "label": "tie"}, "tie"),
        ({"question": QUESTION, "response_A": GOOD, "response_B": BAD, "label": "A"}, "a"),
        ({"question": QUESTION, "response_A": GOOD, "response_B": BAD, "winner": " B "}, "b"),
        ({"instruction": QUESTION, "response_1": GOOD, "response_2": BAD, "label": "1"}, "a"),
        ({"input": QUESTION, "output_1": GOOD, "output_2": BAD, "label": 1}, "a"),
        ({"input": QUESTION, "output_1": GOOD, "output_2": BAD, "label": 2}, "b"),
    ],
)
def test_every_labelled_convention_becomes_the_same_pair(tmp_path: Path, row: dict[str, Any], gold: str) -> None:
    path = write(tmp_path / "made.jsonl", {"id": "p0", "subset": "sums", "difficulty": 3} | row)

    assert load_pairs(path) == [Pair("p0", ASKED, GOOD, BAD, gold, "made", "sums", {"difficulty": 3})]


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": QUESTION, "chosen": GOOD, "rejected": BAD},
        {"prompt": list(ASKED), "chosen": said(GOOD), "rejected": said(BAD)},
        {"prompt": list(ASKED), "chosen": [*ASKED, *said(GOOD)], "rejected": [*ASKED, *said(BAD)]},
    ],
    ids=["plain", "conversational", "whole_conversations"],
)
def test_chosen_is_the_gold_response(tmp_path: Path, row: dict[str, Any]) -> None:
    pairs = load_pairs(write(tmp_path / "trl.jsonl", *({"id": f"p{i}"} | row for i in range(16))))

    assert {pair.gold for pair in pairs} == {"a", "b"}
    for pair in pairs:
        assert pair.messages == ASKED
        assert (pair.response_a, pair.response_b) == ((GOOD, BAD) if pair.gold == "a" else (BAD, GOOD))


def test_either_side_is_chosen_about_half_of_the_time(tmp_path: Path) -> None:
    rows = [{"id": f"row-{i}", "prompt": QUESTION, "chosen": GOOD, "rejected": BAD} for i in range(4000)]
    golds = Counter(pair.gold for pair in load_pairs(write(tmp_path / "trl.jsonl", *rows)))

    assert abs(golds["a"] - 2000) < 4.5 * (4000 * 0.25) ** 0.5  # 4.5 standard deviations of a fair coin


def test_orientation_depends_on_the_id_alone(tmp_path: Path) -> None:
    rows = [{"id": f"row-{i}", "prompt": QUESTION, "chosen": GOOD, "rejected": BAD} for i in range(64)]
    here = {pair.id: pair.gold for pair in load_pairs(write(tmp_path / "trl.jsonl", *rows))}
    moved = write(tmp_path / "moved.jsonl", *reversed([row | {"prompt": "Another question?"} for row in rows]))
    source = (
        f"import json; from evals.pairs import load_pairs; print(json.dumps({{p.id: p.gold for p in "
        f"load_pairs({str(moved)!r})}}))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert json.loads(elsewhere.stdout) == here


def test_a_row_without_id_is_named_by_file_and_line(tmp_path: Path) -> None:
    row = {"prompt": QUESTION, "response_a": GOOD, "response_b": BAD, "gold": "a"}
    path = tmp_path / "made.jsonl"
    path.write_text(f"{json.dumps(row)}\n\n{json.dumps(row)}", encoding="utf-8")

    assert [pair.id for pair in load_pairs(path)] == ["made:1", "made:3"]


SOUND = {"id": "sound", "prompt": QUESTION, "response_a": GOOD, "response_b": BAD, "gold": "a"}

BROKEN: list[tuple[str, dict[str, Any] | bytes, list[str]]] = [
    ("broken JSON", b'{"id": "x", "prompt": ', ["not JSON"]),
    ("not an object", b'["a", "b"]', ["object"]),
    ("not UTF-8", b'{"id": "x", "prompt": "\xff"}', ["not UTF-8", "byte 23"]),
    ("missing response", {"id": "lone", "prompt": QUESTION, "response_a": GOOD, "gold": "a"}, ["lone", "'response_b'"]),
    ("missing rejected", {"id": "lone", "prompt": QUESTION, "chosen": GOOD}, ["lone", "'rejected'"]),
    ("no response at all", {"id": "none", "prompt": QUESTION, "gold": "a"}, ["none", "'response_a'"]),
    ("missing prompt", {key: SOUND[key] for key in ("response_a", "response_b", "gold")}, ["'prompt'"]),
    ("empty prompt", SOUND | {"id": "hush", "prompt": " "}, ["hush", "'prompt'", "empty"]),
    ("message without role", SOUND | {"prompt": [{"content": "hi"}]}, ["'prompt'", "'role'"]),
    ("missing label", {key: SOUND[key] for key in ("prompt", "response_a", "response_b")}, ["'gold'"]),
    ("unknown label", SOUND | {"id": "odd", "gold": "C"}, ["odd", "'gold'", "'C'"]),
    ("label 0 of 1 and 2", {"prompt": QUESTION, "output_1": GOOD, "output_2": BAD, "label": 0}, ["'label'", "0"]),
    ("empty response", SOUND | {"id": "mute", "response_b": " \n"}, ["mute", "'response_b'", "empty"]),
    ("response is no text", SOUND | {"id": "seven", "response_a": 7}, ["seven", "'response_a'", "int"]),
    ("chosen is an empty list", {"prompt": QUESTION, "chosen": [], "rejected": said(BAD)}, ["'chosen'"]),
    ("repeated id", SOUND, ["'id'", "'sound'", "line 1"]),
]


def test_one_error_names_line_and_field_of_everything_that_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    raw = [bad if isinstance(bad, bytes) else json.dumps(bad).encode() for _, bad, _ in BROKEN]
    path.write_bytes(b"\n".join([json.dumps(SOUND).encode(), *raw]))

    with pytest.raises(PairFileError) as caught:
        load_pairs(path)

    assert len(caught.value.problems) == len(BROKEN)
    for number, (problem, (name, _, named)) in enumerate(zip(caught.value.problems, BROKEN, strict=True), start=2):
        assert problem.startswith(f"{path}, line {number}: "), name
        assert [text for text in named if text not in problem] == [], name
        assert problem in str(caught.value), name


def test_a_wholly_broken_file_is_reported_with_its_first_problems(tmp_path: Path) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text("nonsense\n" * (MAX_PROBLEMS + 5), encoding="utf-8")

    with pytest.raises(PairFileError, match="25 problems") as caught:
        load_pairs(path)

    assert len(caught.value.problems) == MAX_PROBLEMS + 5
    assert f"line {MAX_PROBLEMS}:" in str(caught.value)
    assert f"line {MAX_PROBLEMS + 1}:" not in str(caught.value)
    assert "and 5 more" in str(caught.value)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_a_file_without_pairs_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "empty.jsonl"
    path.write_text(content, encoding="utf-8")

    with pytest.raises(PairFileError, match="no pair"):
        load_pairs(path)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nowhere\.jsonl"):
        load_pairs(tmp_path / "nowhere.jsonl")


texts = st.text(min_size=1).filter(lambda text: text.strip())
pairs = st.builds(
    Pair,
    id=st.text(min_size=1),
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts), min_size=1, max_size=3
    ).map(tuple),
    response_a=texts,
    response_b=texts,
    gold=st.sampled_from(["a", "b", "tie"]),
    source=st.text(),
    subset=st.text(),
    meta=st.dictionaries(st.sampled_from(["difficulty", "gold_answer"]), st.integers() | st.text()),
)


@given(st.lists(pairs, min_size=1, max_size=4, unique_by=lambda pair: pair.id))
@settings(deadline=None)
def test_saved_pairs_load_as_they_were(tmp_path_factory: pytest.TempPathFactory, made: list[Pair]) -> None:
    path = tmp_path_factory.getbasetemp() / "round-trip" / "pairs.jsonl"
    save_pairs(path, made)

    assert load_pairs(path) == [replace(pair, meta={}) for pair in made]


def rows_of(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def number(text: str) -> float:
    return float(text.replace(",", ""))


def test_gsm8k_pairs_load(shared_data: Path) -> None:
    path = shared_data / "gsm8k" / "gsm8k_right_wrong_pairs.jsonl"
    rows = rows_of(path)
    loaded = load_pairs(path)

    assert len(loaded) == len(rows) == 2429
    assert Counter(pair.gold for pair in loaded) == Counter(row["label"].lower() for row in rows)
    for pair, row in zip(loaded, rows, strict=True):
        assert (pair.id, pair.response_a, pair.response_b) == (row["id"], row["response_A"], row["response_B"])
        assert pair.messages == ({"role": "user", "content": row["question"]},)
        assert pair.meta["gold_answer"] == row["gold_answer"]
        right = pair.response_a if pair.gold == "a" else pair.response_b
        assert number(right.rsplit("A:", 1)[1]) == number(row["gold_answer"])


def test_llmbar_instances_load_but_for_the_one_whose_output_is_empty(shared_data: Path, tmp_path: Path) -> None:
    published = shared_data / "llmbar" / "llmbar_instances.jsonl"
    rows = rows_of(published)
    empty = [
        line for line, row in enumerate(rows, start=1) if not row["output_1"].strip() or not row["output_2"].strip()
    ]
    with pytest.raises(PairFileError) as caught:
        load_pairs(published)
    kept = [row for line, row in enumerate(rows, start=1) if line not in empty]
    loaded = load_pairs(write(tmp_path / "llmbar.jsonl", *kept))

    assert (len(rows), len(empty)) == (1200, 1)
    assert len(caught.value.problems) == 1
    assert f"line {empty[0]}:" in caught.value.problems[0]
    assert len(loaded) == len(kept)
    for pair, row in zip(loaded, kept, strict=True):
        assert (pair.response_a, pair.response_b) == (row["output_1"], row["output_2"])
        assert pair.gold == {1: "a", 2: "b"}[row["label"]]
        assert (pair.messages[0]["content"], pair.subset) == (row["input"], row["subset"])
