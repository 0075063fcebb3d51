"""Judgement files round-trip, and what cannot be read is named."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evals.verdicts import ORDERS, Judgement, Order, Verdict, from_shown, read_judgements, swap

JUDGEMENT = Judgement("made", "p0", "chat", "a", "ba", 3, "compact", 'say "é"\n\x00', None, 10, 5, "judge", 7)


@pytest.mark.parametrize(("verdict", "swapped"), [("a", "b"), ("b", "a"), ("tie", "tie"), (None, None)])
def test_swap_exchanges_the_candidates(verdict: Verdict, swapped: Verdict) -> None:
    assert swap(verdict) == swapped


@pytest.mark.parametrize(
    ("shown", "order", "canonical"),
    [("a", "ab", "a"), ("b", "ab", "b"), ("a", "ba", "b"), ("b", "ba", "a"), ("tie", "ba", "tie"), (None, "ba", None)],
)
def test_shown_first_in_order_ba_is_response_b(shown: Verdict, order: Order, canonical: Verdict) -> None:
    assert from_shown(shown, order) == canonical


judgements = st.builds(
    Judgement,
    benchmark=st.text(),
    pair_id=st.text(),
    subset=st.text(),
    gold=st.sampled_from(["a", "b", "tie", None]),
    order=st.sampled_from(ORDERS),
    sample=st.integers(0),
    format=st.text(),
    text=st.text(),
    verdict=st.sampled_from(["a", "b", "tie", None]),
    prompt_tokens=st.integers(0),
    completion_tokens=st.integers(0),
    model=st.text(),
    version=st.integers(0),
)


@given(st.lists(judgements, max_size=4))
@settings(deadline=None)
def test_written_judgements_are_read_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, made: list[Judgement]
) -> None:
    path = tmp_path_factory.getbasetemp() / "judgements.jsonl"
    path.write_text("".join(judgement.to_json() + "\n" for judgement in made), encoding="utf-8")

    assert list(read_judgements(path)) == made


def test_extra_fields_stand_behind_the_judgements_own_and_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "judgements.jsonl"
    line = JUDGEMENT.to_json(reward=-1.0, step=4)
    path.write_text(line + "\n", encoding="utf-8")

    assert "\n" not in line
    assert list(json.loads(line)) == [*asdict(JUDGEMENT), "reward", "step"]
    assert json.loads(line)["reward"] == -1.0
    assert list(read_judgements(path)) == [JUDGEMENT]


def without(field: str) -> str:
    return json.dumps({key: value for key, value in asdict(JUDGEMENT).items() if key != field})


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (without("verdict"), "field 'verdict' is missing"),
        (without("pair_id"), "field 'pair_id' is missing"),
        ('{"benchmark": ', "not a judgement"),
        ("[1, 2]", "not a judgement"),
        ("7", "not a judgement"),
        ("", "not a judgement"),
    ],
)
def test_a_line_that_is_no_judgement_is_named(tmp_path: Path, line: str, named: str) -> None:
    path = tmp_path / "judgements.jsonl"
    path.write_text(f"{JUDGEMENT.to_json()}\n{line}\n", encoding="utf-8")
    read: list[Any] = []

    with pytest.raises(ValueError, match="line 2") as caught:
        read.extend(read_judgements(path))

    assert str(path) in str(caught.value)
    assert named in str(caught.value)
