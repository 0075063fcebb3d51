"""Traces made from labels, where no oracle explains the pairs."""

from __future__ import annotations

import random

from evals.pairs import Pair
from evals.verdicts import Order


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
