"""Answers to the embedded task's questions: which are right, and how a policy answers that has yet to learn.

A judge compares two responses to a question; a policy answers the question alone. What is right follows from the
question by rule, so a policy's true accuracy can be measured beside any reward that it is trained with.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from evals.pairs import Pair
from evals.prompts.reading import spoken
from evals.scores import DRAWS
from evals.synthetic import PLACES, WORDS, Split, SyntheticTask, miscounted

BLIND_SPOT = 2
"""How many times as often as elsewhere a policy slips at first where a word is to be put last."""

_PHRASE = re.compile(r"so (\w+) and (\w+)")


def is_right(pair: Pair, answer: str) -> bool:
    """Whether an answer to a synthetic pair's question is right, in content and in form; the ends' blanks are nothing.

    A sum is its result in digits alone. A description is "so W and W" with two different words of the task, and the
    one asked for in its place.
    """
    if pair.subset == "reasoning":
        return answer.strip() == str(sum(pair.meta["numbers"]))
    phrase = _PHRASE.fullmatch(answer.strip())
    if phrase is None or phrase[1] == phrase[2] or not {*phrase.groups()} <= {*WORDS}:
        return False
    return answer.split()[PLACES[pair.meta["place"]]] == pair.meta["word"]


def slipping_answers(seed: int, slip_rate: float) -> Iterator[tuple[Pair, str]]:
    """Answers to train questions to begin with, without end: thought out, right in form and often wrong.

    With probability `slip_rate` the thinking takes one wrong step of a sum, or misreads where the word is to go;
    BLIND_SPOT times that (at most always) where a word is to be put last, so that the most likely answer there is
    wrong too. The answer follows from the thinking.
    """
    task = SyntheticTask(seed)
    index = 0
    while True:
        pair = task.pair("train", index)
        rng = random.Random(f"{seed}/answer/{index}")
        yield pair, _thought_out(pair, rng, slips=rng.random() < slip_rate * _difficulty(pair))
        index += 1


def _difficulty(pair: Pair) -> float:
    return BLIND_SPOT if pair.meta.get("place") == "last" else 1


def _thought_out(pair: Pair, rng: random.Random, slips: bool) -> str:
    if pair.subset == "reasoning":
        start, first, second = pair.meta["numbers"]
        middle, total = start + first, start + first + second
        if slips:
            middle, total = miscounted(rng, middle, second)
        return f"<think>{start}{first:+}={middle}, {middle}{second:+}={total}</think>{total}"
    good, bad = (pair.response_a, pair.response_b) if pair.gold == "a" else (pair.response_b, pair.response_a)
    place = pair.meta["place"]
    read = {"first": "last", "last": "first"}[place] if slips else place
    return f"<think>{pair.meta['word']} {read}</think>{bad if slips else good}"


def said(text: str) -> str:
    """What a policy answers once it has thought, and all that a judge is to see of it; nothing while it thinks."""
    return (spoken(text) or "").strip()


def without_labels(pair: Pair) -> Pair:
    """The question alone: no candidates, no gold label and nothing that they follow from."""
    return replace(pair, response_a="", response_b="", gold=None, meta={})


def questions(seed: int, split: Split, count: int) -> list[Pair]:
    """Pairs among the first `count` of a split that ask different questions, in their order."""
    found: dict[str, Pair] = {}
    for pair in SyntheticTask(seed).pairs(split, count):
        found.setdefault(pair.messages[-1]["content"], pair)
    return list(found.values())


class Accuracy(NamedTuple):
    """The share of right answers, its 95 % interval (bootstrap over questions), and the share by subset."""

    value: float
    low: float
    high: float
    by_subset: Mapping[str, float]


def accuracy(pairs: Sequence[Pair], answers: Sequence[Sequence[str]]) -> Accuracy:
    """The true accuracy of `answers`, one or more to each of `pairs`; every question weighs the same."""
    shares = [[is_right(pair, answer) for answer in given] for pair, given in zip(pairs, answers, strict=True)]
    means = np.array([np.mean(share) for share in shares])
    drawn = np.random.default_rng(0).integers(len(means), size=(DRAWS, len(means)))
    low, high = np.quantile(means[drawn].mean(axis=1), [0.025, 0.975])
    subsets = sorted({pair.subset for pair in pairs})
    chosen = {name: means[[pair.subset == name for pair in pairs]] for name in subsets}
    by_subset = {name: float(found.mean()) for name, found in chosen.items()}
    return Accuracy(float(means.mean()), float(low), float(high), by_subset)
