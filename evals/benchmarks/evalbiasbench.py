"""EvalBiasBench (arXiv 2407.06551): 80 pairs whose worse response appeals to one of six biases of judges.

The rule is that of `run_bench.py` in the repository ncsoft/offsetbias. The better response is always the first of a
row, so that only both orders together measure more than a preference for one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from evals.benchmarks.base import Benchmark, Option, Scoreboard, Stratum, Unit, by_pair, left_out, letters
from evals.benchmarks.files import Row, field, rows
from evals.pairs import Message, Pair, PairFileError
from evals.verdicts import Gold, Judgement, Order

BIASES = (
    *("length bias", "concreteness", "empty reference"),
    *("content_continuation", "nested_instruction", "familiar knowledge preference bias"),
)
"""The types as the file names them."""

_GOLDS: Mapping[int, Gold] = {1: "a", 2: "b"}


def bias_name(given: str) -> str:
    """The type as the file spells it (`Nested Instruction` -> `nested_instruction`); others are kept."""
    return _KNOWN.get(_plain(given), given)


def _plain(name: str) -> str:
    return letters(name).removesuffix("bias").removesuffix("preference")


_KNOWN = {_plain(name): name for name in BIASES}

Orders = Mapping[Order, Judgement]


class EvalBiasBench(Benchmark):
    """The bias type is the subset of a pair and a section. A pair's id is `{type}:{n}`, n from 0 within the type."""

    name = "evalbiasbench"
    title = "EvalBiasBench"
    options: ClassVar = {
        "average": Option(
            {
                "micro": "micro average over all judgements",
                "macro": "macro average over the bias types",
            }
        )
    }
    both_orders = True

    @override
    def load(self, source: Path | str) -> list[Pair]:
        places: Counter[str] = Counter()
        pairs = []
        for row in rows(source, self.hub, wanted=lambda file: file.name == "biasbench.json"):
            bias = field(row, "bias" if "bias" in row.values else "_key")
            pairs.append(_pair(row, bias, places[bias]))
            places[bias] += 1
        return pairs

    @override
    def subset_name(self, given: str) -> str:
        return bias_name(given)

    @override
    def score(self, judgements: Iterable[Judgement], options: Mapping[str, str]) -> Scoreboard:
        found: dict[str, list[Orders]] = {}
        for orders in by_pair(judgements, both_orders=True).values():
            found.setdefault(bias_name(orders["ab"].subset) or "all", []).append(orders)
        names = sorted(found, key=lambda name: BIASES.index(name) if name in BIASES else len(BIASES))
        strata = [Stratum(name, name, [self._unit(orders) for orders in found[name]]) for name in names]
        macro = options["average"] == "macro"
        weights = {stratum.name: 1 if macro else len(stratum.units) for stratum in strata}

        def shares(of: Callable[[Orders], float]) -> dict[str, float]:
            by_type = {name: sum(map(of, found[name])) / len(found[name]) for name in names}
            overall = sum(weights[name] * value for name, value in by_type.items()) / sum(weights.values())
            return {**by_type, "overall": overall}

        return Scoreboard(
            benchmark=self.name,
            rule=f"single accuracy: right verdicts among those of both orders; a tie or no verdict is wrong; "
            f"{self.words(options)}; pair accuracy: both orders right; pair agreement: both name the same response "
            f"or both a tie{left_out(BIASES, names)}",
            strata=strata,
            section_weights=weights,
            figures={
                "single_accuracy": shares(_single),
                "pair_accuracy": shares(_both),
                "pair_agreement": shares(_agree),
            },
        )

    def _unit(self, orders: Orders) -> Unit:
        return Unit(orders["ab"].pair_id, self.prompt(orders["ab"]), _single(orders))


def _single(orders: Orders) -> float:
    return (orders["ab"].right + orders["ba"].right) / 2


def _both(orders: Orders) -> float:
    return float(orders["ab"].right and orders["ba"].right)


def _agree(orders: Orders) -> float:
    return float(orders["ab"].verdict == orders["ba"].verdict is not None)


def _pair(row: Row, bias: str, place: int) -> Pair:
    label = field(row, "label", int)
    if label not in _GOLDS:
        raise PairFileError(row.path, [f"{row.place}: field 'label': unknown label {label!r}; known are 1, 2"])
    return Pair(
        id=f"{bias}:{place}",
        messages=(Message(role="user", content=field(row, "instruction")),),
        response_a=field(row, "response1"),
        response_b=field(row, "response2"),
        gold=_GOLDS[label],
        source="evalbiasbench",
        subset=bias,
    )


EVALBIASBENCH = EvalBiasBench()
