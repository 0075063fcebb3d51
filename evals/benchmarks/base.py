"""What every benchmark is: pairs from its authors' files, and one scoring rule for judgements of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from evals.errors import ReadableError
from evals.pairs import Pair
from evals.verdicts import ORDERS, Judgement, Order


class ScoringError(ReadableError, ValueError):
    """Judgements that a benchmark's rule cannot be applied to; the message names the item and what to do."""


@dataclass(frozen=True)
class Option:
    """Something that a benchmark's rule leaves open. The first of `values` is the default.

    `values` maps each value to the words that the rule says about it.
    """

    values: Mapping[str, str]

    @property
    def default(self) -> str:
        """The value taken where none is given."""
        return next(iter(self.values))


@dataclass(frozen=True, slots=True)
class Unit:
    """What the rule gives credit to: a pair, a prompt with its 3 x 3 comparisons, a best-of-N list.

    `prompt` names the cluster for intervals: units of one prompt are not independent.
    """

    id: str
    prompt: str
    credit: float


@dataclass(frozen=True)
class Stratum:
    """Units whose mean credit enters the score with a fixed weight: a subset of a benchmark.

    `weight` is relative to the other strata of the same `section`.
    """

    name: str
    section: str
    units: Sequence[Unit]
    weight: float = 1.0

    @property
    def mean(self) -> float:
        """Mean credit."""
        return sum(unit.credit for unit in self.units) / len(self.units)


@dataclass(frozen=True)
class Scoreboard:
    """A benchmark's result under its own rule, as fractions.

    The score is the mean of the sections by `section_weights`, a section the mean of its strata by their weights.
    `figures` are the benchmark's own further figures under the names that reports print; a value is a number or a
    mapping of names to numbers. `rule` says in words which orders, ties, missing verdicts and averages were taken.
    """

    benchmark: str
    rule: str
    strata: Sequence[Stratum]
    section_weights: Mapping[str, float]
    figures: Mapping[str, float | Mapping[str, float]] = field(default_factory=dict)

    @property
    def sections(self) -> dict[str, float]:
        """Section -> score, in the order of `section_weights`."""
        return {name: weighted_mean(self._strata(name)) for name in self.section_weights}

    @property
    def score(self) -> float:
        """The headline."""
        total = sum(self.section_weights.values())
        return sum(self.section_weights[name] * value for name, value in self.sections.items()) / total

    def weights(self) -> dict[str, float]:
        """Stratum -> its share of the headline; the shares sum to 1."""
        total = sum(self.section_weights.values())
        shares = {}
        for section, weight in self.section_weights.items():
            inside = sum(stratum.weight for stratum in self._strata(section))
            for stratum in self._strata(section):
                shares[stratum.name] = weight / total * stratum.weight / inside
        return shares

    def _strata(self, section: str) -> list[Stratum]:
        return [stratum for stratum in self.strata if stratum.section == section]


def weighted_mean(strata: Sequence[Stratum]) -> float:
    """Mean of the strata's means by weight."""
    return sum(stratum.weight * stratum.mean for stratum in strata) / sum(stratum.weight for stratum in strata)


Judged = dict[tuple[str, str], dict[Order, Judgement]]
"""(subset, pair id) -> the pair's judgement in each order."""


def by_pair(judgements: Iterable[Judgement], both_orders: bool = False) -> Judged:
    """Judgements by pair, in the order of their first appearance.

    Raises ScoringError where there is none, where one has no gold label or stands twice, and where pairs differ in
    the orders they were judged in, or lack one of the two that `both_orders` asks for.
    """
    judged: Judged = {}
    for judgement in judgements:
        name = f"pair {judgement.pair_id!r}" + (f" of subset {judgement.subset!r}" if judgement.subset else "")
        if judgement.gold is None:
            raise ScoringError(f"{name} has no gold label, so it cannot be scored; name the benchmark's data")
        orders = judged.setdefault((judgement.subset, judgement.pair_id), {})
        if judgement.order in orders:
            raise ScoringError(f"{name} was judged twice in order {judgement.order}")
        orders[judgement.order] = judgement
    if not judged:
        raise ScoringError("there is no judgement to score")
    most = 2 if both_orders else max(map(len, judged.values()))
    for (subset, pair_id), orders in judged.items():
        if len(orders) < most:
            missing = next(order for order in ORDERS if order not in orders)
            where = f" of subset {subset!r}" if subset else ""
            why = "the rule needs both orders" if both_orders else "other pairs were judged in both"
            raise ScoringError(f"pair {pair_id!r}{where} was not judged in order {missing}; {why}")
    return judged


ONE_ORDER = Option(
    {
        "mean": "one order by rule: where both were judged, the mean over them is taken",
        "both": "both orders must be right (stricter than the rule, which takes one order)",
        "ab": "order ab alone is scored",
        "ba": "order ba alone is scored",
    }
)
"""Which orders count, for a benchmark whose rule takes one order a pair."""


def pair_credit(orders: Mapping[Order, Judgement], how: str, credit: Callable[[Judgement], float]) -> float:
    """Credit of one pair under the option ONE_ORDER. Raises ScoringError where the order asked for is not there."""
    if how in ("ab", "ba"):
        if how not in orders:
            judgement = next(iter(orders.values()))
            raise ScoringError(f"pair {judgement.pair_id!r} was not judged in order {how}, which orders={how} asks for")
        return credit(orders[how])  # type: ignore[index]
    credits = [credit(judgement) for judgement in orders.values()]
    return min(credits) if how == "both" else sum(credits) / len(credits)


def left_out(known: Iterable[str], found: Collection[str]) -> str:
    """What a rule says, at its end, of the parts of a benchmark that no judgement speaks of; empty where none is."""
    absent = [name for name in known if name not in found]
    return f"; not judged and left out of the means: {', '.join(absent)}" if absent else ""


@lru_cache(maxsize=4096)
def letters(name: str) -> str:
    """A name without what its spellings differ in: case, spaces, hyphens and other signs."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


class Benchmark(ABC):
    """One benchmark. Its module's docstring names the source of the rule."""

    name: ClassVar[str]
    """The name in commands and in judgement lines."""
    title: ClassVar[str]
    """The name that its authors write."""
    hub: ClassVar[str] = ""
    """The data set's name on the Hugging Face hub, where it has one."""
    options: ClassVar[Mapping[str, Option]] = {}
    """What the rule leaves open, by name."""
    both_orders: ClassVar[bool] = False
    """Whether the rule needs every pair judged in both orders; else one order is enough."""

    @abstractmethod
    def load(self, source: Path | str) -> list[Pair]:
        """Canonical pairs from the authors' files: a folder, one file, or a hub name.

        `Pair.subset` is the subset that the rule speaks of. Raises PairFileError or FileNotFoundError.
        """

    @abstractmethod
    def score(self, judgements: Iterable[Judgement], options: Mapping[str, str]) -> Scoreboard:
        """Score judgements by the rule. `options` has a value for every one of `self.options`.

        The judgements are one sample per pair and order, checked as `evals.judgements` checks them. Raises
        ScoringError where the rule needs a judgement that is not there.
        """

    def prompt(self, judgement: Judgement) -> str:
        """The prompt that a judgement's pair belongs to, for clustering: unique within the benchmark."""
        return f"{judgement.subset}/{judgement.pair_id}"

    def needs_both_orders(self, options: Mapping[str, str]) -> bool:
        """Whether the rule, with all options chosen, needs every pair judged in both orders."""
        return self.both_orders

    def subset_name(self, given: str) -> str:
        """A subset as this benchmark's own pairs spell it, where another spelling is unmistakable."""
        return given

    def ids_repeat(self, judgement: Judgement) -> bool:
        """Whether the authors' files give several pairs of this judgement's subset the same id."""
        return False

    def tell_apart(self, judgements: Sequence[Judgement]) -> list[Judgement]:
        """Judgements of pairs that share an id, each pair under a name of its own; others as they are.

        Raises ScoringError where there are more judgements of an id than pairs that bear it.
        """
        return list(judgements)

    def choose(self, given: Mapping[str, str]) -> dict[str, str]:
        """All options with the given values filled in. Raises ScoringError for an unknown option or value."""
        for name, value in given.items():
            if name not in self.options:
                known = ", ".join(self.options) or "none"
                raise ScoringError(f"{self.name} has no option {name!r}; it has: {known}")
            if value not in self.options[name].values:
                known = ", ".join(self.options[name].values)
                raise ScoringError(f"{self.name}: option {name}={value!r} is unknown; its values are {known}")
        return {name: given.get(name, option.default) for name, option in self.options.items()}

    def words(self, options: Mapping[str, str]) -> str:
        """What the chosen options say, joined for a rule."""
        return "; ".join(self.options[name].values[value] for name, value in options.items())
