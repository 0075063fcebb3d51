"""The embedded default: a judging task with certain gold labels, and an imperfect oracle that explains them.

Two kinds of pair, half and half. *Reasoning*: a word problem about adding three numbers; one response has the
right sum. *Chat*: a short request with one instruction (use a word, avoid a word, end with a word, use so many
words); one response follows it. Both are made by rule from a seed, so gold is certain and the supply unlimited.

Train and held-out pairs never share a question: a question's key (the numbers, or topic and instruction) is
hashed into one of the two splits, so no wording of a held-out question is ever trained on.

The oracle writes chain-of-rubrics traces in the tags of `evals.prompts`. With probability `slip_rate` its
reasoning takes one wrong step, and the verdict follows that reasoning, right or wrong.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from evals.pairs import Message, Pair
from evals.verdicts import Gold, Order, from_shown

Split = Literal["train", "heldout"]

HELDOUT_SHARE = 0.2
"""Share of all question keys that belong to the held-out split."""

_DIGITS = range(10)
_ERRORS = (-2, -1, 1, 2)
_TOPICS = (
    *("sea", "city", "night", "river", "road", "garden", "sky", "forest", "winter", "desert"),
    *("kitchen", "train", "harbour", "valley", "market", "island", "bridge", "meadow", "tower", "storm"),
)
_WORDS = ("cold", "deep", "quiet", "blue", "green", "dark", "wild", "calm", "old", "light")


_PLACES = {"first": 1, "last": 3}
"""Where the asked-for word stands in a chat response of four words, such as "so calm and blue"."""


@dataclass(frozen=True)
class SyntheticTask:
    """The embedded task for one seed. `pair(split, index)` is the same pair on every machine and in every run."""

    seed: int

    def pair(self, split: Split, index: int) -> Pair:
        """Pair number `index` (from 0, without end) of a split."""
        rng = random.Random(f"{self.seed}/{split}/{index}")
        make = self._reasoning if rng.random() < 0.6 else self._chat
        while True:
            key, pair = make(rng, f"synthetic-{split}-{self.seed}-{index}")
            if (_share(key) < HELDOUT_SHARE) == (split == "heldout"):
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
        numbers = (start, middle - start, right - middle)
        wrong = rng.choice([right + error for error in _ERRORS if right + error in _DIGITS])
        terms = f"{start}{numbers[1]:+}{numbers[2]:+}"
        pair = _labelled(rng, id_, "reasoning", f"Compute {terms}.", str(right), str(wrong), {"numbers": numbers})
        return f"sum/{terms}", pair

    def _chat(self, rng: random.Random, id_: str) -> tuple[str, Pair]:
        topic, place, word = rng.choice(_TOPICS), rng.choice(tuple(_PLACES)), rng.choice(_WORDS)
        other = rng.choice([candidate for candidate in _WORDS if candidate != word])
        starting, ending = f"so {word} and {other}", f"so {other} and {word}"
        good, bad = (starting, ending) if place == "first" else (ending, starting)
        question = f"Describe the {topic}. Put {word} {place}."
        meta = {"word": word, "place": place, "kind": place}
        return f"chat/{topic}/{word}/{place}", _labelled(rng, id_, "chat", question, good, bad, meta)


def _labelled(rng: random.Random, id_: str, subset: str, question: str, good: str, bad: str, meta: dict) -> Pair:
    gold: Gold = rng.choice(("a", "b"))
    a, b = (good, bad) if gold == "a" else (bad, good)
    return Pair(id_, (Message(role="user", content=question),), a, b, gold, "synthetic", subset, meta)


def _share(key: str) -> float:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32


def oracle_trace(pair: Pair, order: Order, rng: random.Random, slip_rate: float) -> str:
    """The oracle's judgement of a synthetic pair as shown in `order`, in the tags of `evals.prompts`.

    With probability `slip_rate` one step of the reasoning is wrong; where the reasoning then favours neither
    candidate, the verdict is drawn by lot.
    """
    blind = pair.meta.get("place") == "last"
    slip = rng.random() < slip_rate * (3 if blind else 1)
    shown = (pair.response_a, pair.response_b) if order == "ab" else (pair.response_b, pair.response_a)
    if pair.subset == "reasoning":
        head, quotes, marks = _solve(pair, shown, rng, slip)
    else:
        head, quotes, marks = _apply_rubric(pair, shown, rng, slip)
    letter = rng.choice("AB") if marks[0] == marks[1] else "A" if marks[0] else "B"
    found = [f"{name}: {quote} {'right' if mark else 'wrong'}" for name, quote, mark in zip("AB", quotes, marks)]
    return f"{head}<eval>{'; '.join(found)}</eval><answer>[[{letter}]]</answer>"


_Judged = tuple[str, list[str], list[bool]]
"""The start of a trace, what its evaluation quotes of each candidate, and whether it finds that right."""


def _solve(pair: Pair, shown: tuple[str, str], rng: random.Random, slip: bool) -> _Judged:
    start, first, second = pair.meta["numbers"]
    while True:
        errors = [0, 0]
        if slip:
            errors[rng.randrange(2)] = rng.choice(_ERRORS)
        middle = start + first + errors[0]
        total = middle + second + errors[1]
        if middle in _DIGITS and total in _DIGITS:
            break
    solution = f"{start}{first:+}={middle}, {middle}{second:+}={total}"
    marks = [response == str(total) for response in shown]
    return f"<type>Reasoning</type><solution>{solution}</solution>", list(shown), marks


def _apply_rubric(pair: Pair, shown: tuple[str, str], rng: random.Random, slip: bool) -> _Judged:
    word, place = pair.meta["word"], pair.meta["place"]
    if slip and place == "last":
        place = "first"
    quotes = [response.split()[_PLACES[place]] for response in shown]
    marks = [quote == word for quote in quotes]
    if slip and pair.meta["place"] == "first":
        misread = rng.randrange(2)
        marks[misread] = not marks[misread]
    rubric = f"puts {word} {place} (100%)<justify>asked</justify>"
    return f"<type>Chat</type><rubric>{rubric}</rubric>", quotes, marks


def oracle_verdict_is_right(pair: Pair, order: Order, trace: str) -> bool:
    """Whether a trace ends in the pair's gold verdict (the oracle's own check; it trusts its own format)."""
    return from_shown("a" if trace.endswith("[[A]]</answer>") else "b", order) == pair.gold
