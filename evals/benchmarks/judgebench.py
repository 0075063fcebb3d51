"""JudgeBench (arXiv 2410.12784): pairs of which one response is objectively right, judged in both orders.

The rule is that of `utils/metrics.py` in the repository ScalerLab/JudgeBench: a verdict for the right response counts
+1, one for the other -1, a tie or no verdict 0, and a pair is correct where its two orders sum to more than 0.
The two sets, 350 pairs of GPT-4o and 270 of Claude 3.5 Sonnet, are published apart: name the file of one of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from evals.benchmarks.base import Benchmark, Option, Scoreboard, ScoringError, Stratum, Unit, by_pair, left_out, letters
from evals.benchmarks.files import Row, field, rows
from evals.pairs import Message, Pair, PairFileError
from evals.verdicts import Gold, Judgement, Order

CATEGORIES = ("knowledge", "reasoning", "math", "coding")
"""The four columns of the authors' table."""

_CATEGORY = {
    "livebenchreasoning": "reasoning",
    "livebenchmath": "math",
    "mathematics": "math",
    "livecodebench": "coding",
    "code": "coding",
    **{category: category for category in CATEGORIES},
}
_GOLDS: Mapping[str, Gold] = {"A>B": "a", "B>A": "b"}


class JudgeBench(Benchmark):
    """`source` is the subset of a pair; the sections are the categories that the sources belong to."""

    name = "judgebench"
    title = "JudgeBench"
    hub = "ScalerLab/JudgeBench"
    options: ClassVar = {
        "orders": Option(
            {
                "signed": "both orders, +1 for the right response, -1 for the other, 0 for a tie or no verdict; a pair "
                "is correct where the sum is positive",
                "one": "one order (ab where both were judged); a tie or no verdict is wrong",
                "both": "a pair is correct where both orders are right; a tie or no verdict is wrong",
                "mean": "mean of the two orders' accuracies; a tie or no verdict is wrong",
            }
        ),
        "average": Option(
            {
                "micro": "micro average over all pairs",
                "macro": "macro average over the categories",
            }
        ),
    }

    @override
    def load(self, source: Path | str) -> list[Pair]:
        pairs: dict[str, Pair] = {}
        for row in rows(source, self.hub, wanted=lambda file: "judge_name=" not in file.name):
            pair = _pair(row)
            if pair.id in pairs:
                raise PairFileError(row.path, [f"{row.place}: field 'pair_id': {pair.id!r} stands in an earlier row"])
            pairs[pair.id] = pair
        return list(pairs.values())

    @override
    def needs_both_orders(self, options: Mapping[str, str]) -> bool:
        return options["orders"] != "one"

    @override
    def score(self, judgements: Iterable[Judgement], options: Mapping[str, str]) -> Scoreboard:
        units: dict[str, list[Unit]] = {category: [] for category in CATEGORIES}
        for orders in by_pair(judgements, self.needs_both_orders(options)).values():
            prompt = self.prompt(next(iter(orders.values())))
            units[_category(orders)].append(Unit(prompt, prompt, _credit(orders, options["orders"])))
        strata = [Stratum(name, name, found) for name, found in units.items() if found]
        macro = options["average"] == "macro"
        return Scoreboard(
            benchmark=self.name,
            rule=self.words(options) + left_out(CATEGORIES, [stratum.name for stratum in strata]),
            strata=strata,
            section_weights={stratum.name: 1 if macro else len(stratum.units) for stratum in strata},
            figures={
                "micro": sum(unit.credit for found in units.values() for unit in found) / sum(map(len, units.values())),
                "macro": sum(stratum.mean for stratum in strata) / len(strata),
            },
        )


def _pair(row: Row) -> Pair:
    label = field(row, "label")
    if label not in _GOLDS:
        raise PairFileError(row.path, [f"{row.place}: field 'label': unknown label {label!r}; known are A>B, B>A"])
    return Pair(
        id=field(row, "pair_id"),
        messages=(Message(role="user", content=field(row, "question")),),
        response_a=field(row, "response_A"),
        response_b=field(row, "response_B"),
        gold=_GOLDS[label],
        source=str(row.values.get("response_model", "")),
        subset=field(row, "source"),
        meta={"original_id": row.values.get("original_id")},
    )


def _category(orders: Mapping[Order, Judgement]) -> str:
    judgement = next(iter(orders.values()))
    plain = letters(judgement.subset)
    if plain.startswith("mmlupro"):
        return "knowledge"
    if plain not in _CATEGORY:
        raise ScoringError(
            f"pair {judgement.pair_id!r}: subset {judgement.subset!r} is none of JudgeBench's sources; they are "
            "mmlu-pro-*, livebench-reasoning, livebench-math and livecodebench"
        )
    return _CATEGORY[plain]


def _credit(orders: Mapping[Order, Judgement], how: str) -> float:
    if how == "one":
        return float(orders.get("ab", next(iter(orders.values()))).right)
    if how == "signed":
        return float(sum(_sign(judgement) for judgement in orders.values()) > 0)
    right = [judgement.right for judgement in orders.values()]
    return float(all(right)) if how == "both" else sum(right) / len(right)


def _sign(judgement: Judgement) -> int:
    if judgement.verdict is None or judgement.verdict == "tie":
        return 0
    return 1 if judgement.right else -1


JUDGEBENCH = JudgeBench()
