"""The embedded task: gold is worked out again from the question alone, and the oracle errs as often as it says."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evals.pairs import Pair, load_pairs, save_pairs
from evals.prompts import COMPACT
from evals.synthetic import BLIND_SPOT, SyntheticTask
from evals.verdicts import ORDERS, Order

COUNT = 5000


@pytest.fixture(scope="module")
def train() -> list[Pair]:
    return SyntheticTask(0).pairs("train", COUNT)


@pytest.fixture(scope="module")
def heldout() -> list[Pair]:
    return SyntheticTask(0).pairs("heldout", COUNT)


def question(pair: Pair) -> str:
    return "\n".join(message["content"] for message in pair.messages)


def better_and_worse(pair: Pair) -> tuple[str, str]:
    return (pair.response_a, pair.response_b) if pair.gold == "a" else (pair.response_b, pair.response_a)


def numbers(text: str) -> list[int]:
    return [int(number) for number in re.findall(r"[+-]?\d+", text)]


def is_share(count: int, of: int, probability: float) -> bool:
    """Whether a count is within 4.5 standard deviations of what the probability lets one expect."""
    return abs(count - of * probability) <= 4.5 * (of * probability * (1 - probability)) ** 0.5


def test_a_pair_is_a_function_of_seed_split_and_index(train: list[Pair], heldout: list[Pair]) -> None:
    indices = [4999, 7, 0, 123]
    source = (
        "import json; from evals.synthetic import SyntheticTask; task = SyntheticTask(0); print(json.dumps("
        f"[[p.id, p.messages, p.response_a, p.response_b, p.gold] for i in {indices} for p in "
        "(task.pair('heldout', i), task.pair('train', i))]))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    here = [pair for i in indices for pair in (heldout[i], train[i])]
    assert json.loads(elsewhere.stdout) == [
        [pair.id, list(pair.messages), pair.response_a, pair.response_b, pair.gold] for pair in here
    ]


def test_another_seed_gives_other_pairs(train: list[Pair]) -> None:
    other = SyntheticTask(1).pairs("train", 50)

    assert sum(question(one) == question(two) for one, two in zip(train[:50], other, strict=True)) < 10


def test_train_and_heldout_share_no_question(train: list[Pair], heldout: list[Pair]) -> None:
    assert len(train) == len(heldout) == COUNT
    assert not {question(pair) for pair in train} & {question(pair) for pair in heldout}
    assert len({pair.id for pair in [*train, *heldout]}) == 2 * COUNT


def test_the_better_sum_is_the_sum_of_the_numbers_in_the_question(train: list[Pair], heldout: list[Pair]) -> None:
    sums = [pair for pair in [*train, *heldout] if pair.subset == "reasoning"]

    assert len(sums) > COUNT // 2
    for pair in sums:
        better, worse = better_and_worse(pair)
        assert int(better) == sum(numbers(question(pair))) == sum(pair.meta["numbers"])
        assert int(worse) != int(better)


def test_the_better_chat_response_has_the_word_where_it_was_asked_for(train: list[Pair], heldout: list[Pair]) -> None:
    chats = [pair for pair in [*train, *heldout] if pair.subset == "chat"]

    assert len(chats) > COUNT // 2
    for pair in chats:
        word, place = pair.meta["word"], pair.meta["place"]
        better, worse = (response.split().index(word) for response in better_and_worse(pair))
        assert place in ("first", "last")
        assert better < worse if place == "first" else better > worse
        assert {word, place} <= set(re.findall(r"\w+", question(pair)))


def test_gold_is_either_letter_about_half_of_the_time(train: list[Pair], heldout: list[Pair]) -> None:
    for pairs in (train, heldout):
        for subset in ("reasoning", "chat"):
            golds = [pair.gold for pair in pairs if pair.subset == subset]
            assert set(golds) == {"a", "b"}
            assert is_share(golds.count("a"), len(golds), 0.5)


def test_synthetic_pairs_are_written_and_read_as_any_others(heldout: list[Pair], tmp_path: Path) -> None:
    save_pairs(tmp_path / "pairs.jsonl", heldout[:50])

    assert load_pairs(tmp_path / "pairs.jsonl") == [replace(pair, meta={}) for pair in heldout[:50]]


def traces(slip_rate: float, seed: int = 0) -> list[tuple[Pair, Order, str]]:
    return list(itertools.islice(SyntheticTask(seed).traces(slip_rate), COUNT))


def is_right(trace: tuple[Pair, Order, str]) -> bool:
    pair, order, text = trace
    return COMPACT.parse(text, order).verdict == pair.gold


def test_an_oracle_that_never_slips_is_always_right(train: list[Pair]) -> None:
    made = traces(slip_rate=0.0)

    assert [pair for pair, _, _ in made] == train
    assert all(map(is_right, made))
    assert {order for _, order, _ in made} == set(ORDERS)
    assert is_share(sum(order == "ab" for _, order, _ in made), COUNT, 0.5)


@pytest.mark.parametrize("slip_rate", [0.0, 0.3, 1.0])
def test_a_trace_has_every_section_and_one_verdict(slip_rate: float) -> None:
    for pair, order, text in traces(slip_rate):
        parsed = COMPACT.parse(text, order)
        basis = {"reasoning": {"solution"}, "chat": {"rubric", "justify"}}[pair.subset]
        assert parsed.verdict in ("a", "b")
        assert set(parsed.sections) == {"type", "eval", "answer"} | basis
        assert parsed.sections["type"].lower() == pair.subset


def test_traces_are_a_function_of_seed_and_slip_rate() -> None:
    assert traces(0.3) == traces(0.3)
    assert traces(0.3) != traces(0.3, seed=1)


@pytest.mark.parametrize("slip_rate", [0.1, 0.3, 1.0])
def test_the_oracle_slips_in_sums_as_often_as_it_says_and_rules_by_its_own_solution(slip_rate: float) -> None:
    solved = slips = by_lot = lost = 0
    for trace in traces(slip_rate):
        pair, order, text = trace
        if pair.subset != "reasoning":
            continue
        solved += 1
        total = numbers(COMPACT.parse(text, order).sections["solution"])[-1]
        better, worse = map(int, better_and_worse(pair))
        if total == better:
            assert is_right(trace)
            continue
        slips += 1
        if total == worse:
            assert not is_right(trace)
        else:  # its solution favours neither candidate
            by_lot += 1
            lost += not is_right(trace)

    assert is_share(slips, solved, slip_rate)
    assert by_lot > 50
    assert is_share(lost, by_lot, 0.5)


@pytest.mark.parametrize("slip_rate", [0.1, 0.3, 1.0])
def test_the_oracle_errs_in_its_blind_spot_more_often_than_elsewhere(slip_rate: float) -> None:
    made = [trace for trace in traces(slip_rate) if trace[0].subset == "chat"]
    first, last = (
        [is_right(trace) for trace in made if trace[0].meta["place"] == place] for place in ("first", "last")
    )

    assert is_share(first.count(False), len(first), slip_rate / 2)  # a slip favours both or neither: drawn by lot
    assert is_share(last.count(False), len(last), min(1.0, BLIND_SPOT * slip_rate))
