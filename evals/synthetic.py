"""The embedded default: a judging task with certain gold labels, and an imperfect oracle that explains them.

Two kinds of pair. *Reasoning* (three in five, as it is the harder one): a sum of two steps, each ending in a single
digit; one response is right. *Chat*: a request to describe something with one word put first or last; the responses
have the same words in either order. Both are made by rule from a seed, so gold is certain and the supply unlimited.
Everything is as short as it can be: a model made from nothing has to learn it on two cores within minutes.

Train and held-out pairs never share a question: a question's key (the numbers, or topic, word and place) is hashed
into one of the two splits. Held-out questions are new combinations of steps and words that occur in training.

The oracle writes chain-of-rubrics traces in the tags of `evals.prompts` and errs in two ways. With probability
`slip_rate` it takes one wrong step, at random: a distilled judge repeats that when it samples, while its most likely
judgement averages it out. And it has a blind spot: it slips `BLIND_SPOT` times as often on requests to put a word
last, and always by reading "first", so that a distilled judge has the wrong rubric as its most likely one. Only
rewards can teach it better.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from evals.pairs import Message, Pair
from evals.splits import share
from evals.verdicts import Gold, Order

Split = Literal["train", "heldout"]

HELDOUT_SHARE = 0.2
"""Share of all question keys that belong to the held-out split."""

BLIND_SPOT = 3
"""How many times as often as elsewhere the oracle slips where a word is to be put last."""

_REASONING_SHARE = 0.6
_DIGITS = range(10)
_ERRORS = (-2, -1, 1, 2)
_TOPICS = (
    *("sea", "city", "night", "river", "road", "garden", "sky", "forest", "winter", "desert"),
    *("kitchen", "train", "harbour", "valley", "market", "island", "bridge", "meadow", "tower", "storm"),
)
WORDS = ("cold", "deep", "quiet", "blue", "green", "dark", "wild", "calm", "old", "light")
PLACES = {"first": 1, "last": 3}  # as indices into the four words of "so calm and blue"


@dataclass(frozen=True)
class SyntheticTask:
    """The embedded task for one seed. `pair(split, index)` is the same pair on every machine and in every run."""

    seed: int

    def pair(self, split: Split, index: int) -> Pair:
        """Pair number `index` (from 0, without end) of a split."""
        rng = random.Random(f"{self.seed}/{split}/{index}")
        make = self._reasoning if rng.random() < _REASONING_SHARE else self._chat
        while True:
            key, pair = make(rng, f"synthetic-{split}-{self.seed}-{index}")
            if (share(key) < HELDOUT_SHARE) == (split == "heldout"):
                return pair

    def pairs(self, split: Split, count: int) -> list[Pair]:
        """The first `count` pairs of a split."""
        return [self.pair(split, index) for index in range(count)]

    def traces(self, slip_rate: float) -> Iterator[tuple[Pair, Order, str]]:
        """The oracle's traces of train pairs, one random order each, without end."""
        index = 0
        while True:
            rng = random.Random(f"{self.seed}/oracle/{index}")
            pair = self.pair("train", index)
            order: Order = rng.choice(("ab", "ba"))
            yield pair, order, oracle_trace(pair, order, rng, slip_rate)
            index += 1

    def _reasoning(self, rng: random.Random, id_: str) -> tuple[str, Pair]:
        start, middle, right = rng.sample(_DIGITS, 3)
        first, second = middle - start, right - middle
        wrong = rng.choice([right + error for error in _ERRORS if right + error in _DIGITS])
        terms = f"{start}{first:+}{second:+}"
        meta = {"numbers": [start, first, second]}
        return f"sum/{terms}", _labelled(rng, id_, "reasoning", f"Compute {terms}.", str(right), str(wrong), meta)

    def _chat(self, rng: random.Random, id_: str) -> tuple[str, Pair]:
        topic, place, word = rng.choice(_TOPICS), rng.choice(tuple(PLACES)), rng.choice(WORDS)
        other = rng.choice([candidate for candidate in WORDS if candidate != word])
        good, bad = f"so {word} and {other}", f"so {other} and {word}"
        if place == "last":
            good, bad = bad, good
        question = f"Describe the {topic}. Put {word} {place}."
        meta = {"word": word, "place": place}
        return f"chat/{topic}/{word}/{place}", _labelled(rng, id_, "chat", question, good, bad, meta)


def _labelled(rng: random.Random, id_: str, subset: str, question: str, good: str, bad: str, meta: dict) -> Pair:
    gold: Gold = rng.choice(("a", "b"))
    a, b = (good, bad) if gold == "a" else (bad, good)
    return Pair(id_, (Message(role="user", content=question),), a, b, gold, "synthetic", subset, meta)


def oracle_trace(pair: Pair, order: Order, rng: random.Random, slip_rate: float) -> str:
    """The oracle's judgement of a synthetic pair as shown in `order`, in the tags of `evals.prompts`.

    With probability `slip_rate` (`BLIND_SPOT` times that in the blind spot) one step of the reasoning is wrong. The
    verdict follows the reasoning; where that favours neither candidate, it is drawn by lot.
    """
    shown = (pair.response_a, pair.response_b) if order == "ab" else (pair.response_b, pair.response_a)
    judge = _judge_by_solution if pair.subset == "reasoning" else _judge_by_rubric
    basis, quotes, marks = judge(pair, shown, rng, slip_rate)
    judged = zip("AB", quotes, marks, strict=True)
    found = [f"{name}: {quote} {'right' if mark else 'wrong'}" for name, quote, mark in judged]
    letter = rng.choice("AB") if marks[0] == marks[1] else "A" if marks[0] else "B"
    return f"{basis}<eval>{'; '.join(found)}</eval><answer>[[{letter}]]</answer>"


_Judged = tuple[str, list[str], list[bool]]
"""What the oracle judges by, what it quotes of each candidate as shown, and whether it finds that right."""


def _judge_by_solution(pair: Pair, shown: tuple[str, str], rng: random.Random, slip_rate: float) -> _Judged:
    start, first, second = pair.meta["numbers"]
    middle, total = start + first, start + first + second
    if rng.random() < slip_rate:
        middle, total = miscounted(rng, middle, second)
    solution = f"{start}{first:+}={middle}, {middle}{second:+}={total}"
    marks = [response == str(total) for response in shown]
    return f"<type>Reasoning</type><solution>{solution}</solution>", list(shown), marks


def miscounted(rng: random.Random, middle: int, second: int) -> tuple[int, int]:
    """Both results of a sum with an error in one of its two steps; they stay single digits."""
    slips = [(middle + error, middle + error + second) for error in _ERRORS]
    slips += [(middle, middle + second + error) for error in _ERRORS]
    return rng.choice([slip for slip in slips if slip[0] in _DIGITS and slip[1] in _DIGITS])


def _judge_by_rubric(pair: Pair, shown: tuple[str, str], rng: random.Random, slip_rate: float) -> _Judged:
    word, place = pair.meta["word"], pair.meta["place"]
    misread = None
    if place == "last" and rng.random() < BLIND_SPOT * slip_rate:
        place = "first"
    elif place == "first" and rng.random() < slip_rate:
        misread = rng.randrange(2)
    quotes = [response.split()[PLACES[place]] for response in shown]
    marks = [(quote == word) != (candidate == misread) for candidate, quote in enumerate(quotes)]
    rubric = f"puts {word} {place} (100%)<justify>asked</justify>"
    return f"<type>Chat</type><rubric>{rubric}</rubric>", quotes, marks
