"""True accuracy on the embedded task, and the answers that a policy begins with."""

from __future__ import annotations

import itertools
from collections import defaultdict

import pytest

from evals.answers import accuracy, is_right, questions, said, slipping_answers, without_labels
from evals.pairs import Message, Pair
from evals.synthetic import SyntheticTask

SUM = Pair(
    "sum", (Message(role="user", content="Compute 3+4-2."),), "", "", None, "", "reasoning", {"numbers": [3, 4, -2]}
)
LAST = Pair(
    *("last", (Message(role="user", content="Describe the sea. Put cold last."),), "", "", None, "", "chat"),
    {"word": "cold", "place": "last"},
)


@pytest.mark.parametrize(
    ("pair", "answer", "right"),
    [
        (SUM, "5", True),
        (SUM, " 5\n", True),
        (SUM, "6", False),
        (SUM, "5.", False),
        (SUM, "The answer is 5", False),
        (SUM, "", False),
        (LAST, "so calm and cold", True),
        (LAST, "so cold and calm", False),
        (LAST, "so cold and cold", False),
        (LAST, "so Calm and cold", False),
        (LAST, "so zebra and cold", False),
        (LAST, "calm and cold", False),
        (LAST, "so calm and cold indeed", False),
        (LAST, "so  calm and cold", False),
    ],
)
def test_what_is_right(pair: Pair, answer: str, right: bool) -> None:
    assert is_right(pair, answer) is right


def test_the_gold_response_is_right_and_the_other_is_not() -> None:
    for pair in SyntheticTask(5).pairs("heldout", 300):
        assert [is_right(pair, pair.response_a), is_right(pair, pair.response_b)] == [
            pair.gold == "a",
            pair.gold == "b",
        ]


def test_slips_are_as_frequent_as_said_and_twice_that_in_the_blind_spot() -> None:
    right: dict[str, list[bool]] = defaultdict(list)
    for pair, text in itertools.islice(slipping_answers(1, 0.3), 6000):
        answer = said(text)
        if pair.subset == "reasoning":
            assert answer in "0123456789", "right in form"
            assert text.endswith(f"={answer}</think>{answer}"), "the answer follows from the thinking"
        else:
            assert answer in (pair.response_a, pair.response_b), "right in form"
        right[pair.meta.get("place", "sum")].append(is_right(pair, answer))
    shares = {kind: sum(found) / len(found) for kind, found in right.items()}
    assert shares == {
        kind: pytest.approx(share, abs=0.04) for kind, share in {"sum": 0.7, "first": 0.7, "last": 0.4}.items()
    }
    assert all(is_right(pair, said(text)) for pair, text in itertools.islice(slipping_answers(1, 0.0), 100))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<think>3+4=7, 7-2=5</think>5", "5"),
        (" 5\n", "5"),
        ("<think>a</think>b<think>c</think> d", "d"),
        ("<think>3+4=7, 7-2", ""),
        ("5</think>", ""),
        ("", ""),
    ],
)
def test_a_judge_sees_what_comes_after_the_thinking(text: str, answer: str) -> None:
    assert said(text) == answer


def test_thinking_is_shown_as_it_is_done() -> None:
    texts = {pair.messages[0]["content"]: text for pair, text in itertools.islice(slipping_answers(1, 0.0), 3000)}
    assert texts["Compute 2+5-3."] == "<think>2+5=7, 7-3=4</think>4"
    question, text = next((q, t) for q, t in texts.items() if "last" in q)
    word = question.split()[-2]
    assert text.startswith(f"<think>{word} last</think>so ")
    assert text.endswith(f" and {word}")


def test_questions_are_asked_once_and_on_one_side() -> None:
    train, heldout = ({q.messages[0]["content"] for q in questions(0, s, 1500)} for s in ("train", "heldout"))
    assert len(questions(0, "heldout", 1500)) == len(heldout) < 1500
    assert len(heldout) > 150
    assert not train & heldout


def test_a_question_alone_has_nothing_that_gold_follows_from() -> None:
    for pair in SyntheticTask(2).pairs("train", 50):
        bare = without_labels(pair)
        assert bare.messages == pair.messages
        assert (bare.response_a, bare.response_b, bare.gold, bare.meta) == ("", "", None, {})


def test_every_question_weighs_the_same() -> None:
    """By hand: 1 of 1 and 1 of 4 are right."""
    found = accuracy([SUM, LAST], [["5"], ["so old and cold", "so cold and old", "", "cold"]])

    assert found.value == (1 + 0.25) / 2
    assert found.by_subset == {"reasoning": 1.0, "chat": 0.25}
    assert (found.low, found.high) == (0.25, 1.0), "of two questions, either may be drawn twice"


def test_the_interval_is_the_binomials_where_questions_have_one_answer() -> None:
    found = accuracy([SUM] * 400, [["5"]] * 300 + [["6"]] * 100)

    half = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert found.low == pytest.approx(0.75 - half, abs=0.01)
    assert found.high == pytest.approx(0.75 + half, abs=0.01)
