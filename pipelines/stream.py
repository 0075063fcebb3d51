"""Which pairs are trained on, in which order, and which are held out."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from actors.rollout import Task
from evals.errors import ReadableError
from evals.pairs import Pair, load_pairs
from evals.prompts import PromptFormat
from evals.splits import share
from evals.synthetic import SyntheticTask
from evals.traces import Trace, in_epoch, label_trace
from evals.verdicts import ORDERS, Order, drawn_order
from pipelines.config import DataConfig
from pipelines.recipes import is_recipe, recipe_pairs


class DataError(ReadableError, ValueError):
    """Pairs that can be read but not trained on; the message says which setting to change."""


@dataclass(frozen=True)
class Data:
    """The pairs of a run. `train` is None for the synthetic task, which never runs out."""

    source: str
    train: list[Pair] | None
    heldout: list[Pair]
    seed: int

    @classmethod
    def load(cls, config: DataConfig, seed: int, heldout: int, run: Path | None = None) -> Data:
        """Read the configured files, or make the synthetic task's held-out pairs; at most `heldout` of them.

        Where `data.train` is a recipe, its pairs are built into `data/` of the run's folder `run`, or found there.
        Pairs of one question never stand on both sides. Raises PairFileError as `load_pairs` does, what
        `recipe_pairs` does, and DataError where a side is left empty or a pair has no gold label.
        """
        if config.train is None:
            task = SyntheticTask(seed)
            return cls("synthetic", None, task.pairs("heldout", heldout), seed)
        pairs, held_out = config.train, config.heldout
        if is_recipe(config.train):
            if run is None:
                raise DataError(f"data.train={config.train} is a recipe, and there is no run folder to build it in")
            pairs, by_recipe = recipe_pairs(config.train, run / "data")
            held_out = config.heldout or by_recipe
        train = load_pairs(pairs)
        if held_out is None:
            held = [pair for pair in train if share(_question(pair)) < config.heldout_share]
            train = [pair for pair in train if share(_question(pair)) >= config.heldout_share]
        else:
            held = load_pairs(held_out)
            seen = {_question(pair) for pair in train}
            if shared := [pair.id for pair in held if _question(pair) in seen]:
                raise DataError(
                    f"data.heldout={held_out}: {len(shared)} pairs ask a question that data.train asks too, "
                    f"first {shared[0]!r}; remove them from one of the two files"
                )
        for name, side in (("train", train), ("heldout", held)):
            if not side:
                raise DataError(f"data.{name}: no pair is left; data.heldout_share is {config.heldout_share}")
        random.Random(f"{seed}/heldout").shuffle(held)
        return cls(config.train.name, train, held[:heldout], seed)

    def keep(self, fits: set[str]) -> Data:
        """The same data without the pairs whose ids are not in `fits`; the synthetic task's supply is unchanged."""
        train = None if self.train is None else [pair for pair in self.train if pair.id in fits]
        if train == []:
            raise DataError("no training pair fits into rollout.max_model_len; raise it or lower max_new_tokens")
        return Data(self.source, train, [pair for pair in self.heldout if pair.id in fits], self.seed)

    def tasks(self, both_orders: bool) -> Iterator[Task]:
        """Prompts to train on, without end: each pair in both orders one behind the other, or in one drawn order.

        A file is gone through again and again, in a new order each time.
        """
        number = itertools.count()
        for pair in self._pairs():
            drawn = drawn_order(self.seed, pair.id)
            for order in ORDERS if both_orders else (drawn,):
                yield Task(next(number), pair, order)

    def traces(self, slip_rate: float) -> Iterator[tuple[Pair, Order, str]]:
        """Traces to distil, without end: the oracle's on the synthetic task, else such as the labels alone give."""
        if self.train is None:
            yield from SyntheticTask(self.seed).traces(slip_rate)
            return
        rng = random.Random(f"{self.seed}/traces")
        for pair in self._pairs():
            order = rng.choice(ORDERS)
            yield pair, order, label_trace(pair, order, rng, slip_rate)

    def _pairs(self) -> Iterator[Pair]:
        if self.train is None:
            task = SyntheticTask(self.seed)
            yield from (task.pair("train", index) for index in itertools.count())
            return
        for epoch in itertools.count():
            order = list(self.train)
            random.Random(f"{self.seed}/epoch/{epoch}").shuffle(order)
            yield from order


@dataclass(frozen=True)
class Lessons:
    """What is distilled: the traces of a file, an epoch at a time, or what `Data.traces` makes, without end."""

    given: list[Trace] | None
    data: Data
    format: PromptFormat
    slip_rate: float

    def batches(self, size: int) -> Iterator[tuple[int, list[Trace]]]:
        """Batches without end, each with its epoch, from 1. The last batch of a file's epoch may be smaller.

        A file is gone through in a new order each time; nothing is left out and nothing comes twice.
        """
        if self.given is not None:
            for epoch in itertools.count(1):
                shuffled = in_epoch(self.given, self.data.seed, epoch)
                while batch := list(itertools.islice(shuffled, size)):
                    yield epoch, batch
        made = (Trace(self.format.render(pair, order), text) for pair, order, text in self.data.traces(self.slip_rate))
        while True:
            yield 1, list(itertools.islice(made, size))


def _question(pair: Pair) -> str:
    return "\n".join(message["content"].strip() for message in pair.messages)
