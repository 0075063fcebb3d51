"""LLMBar (arXiv 2310.07641): instruction-following pairs, many of them built to mislead, judged in both orders.

The rule is that of `LLMEvaluator/evaluate.py` in the repository princeton-nlp/LLMBar. Its judges name one of two
outputs, or rate each on its own; equal ratings pick the output shown second, which makes a tie worth one half.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

from typing_extensions import override

from evals.benchmarks.base import Benchmark, Option, Scoreboard, Stratum, Unit, by_pair, left_out, letters
from evals.benchmarks.files import Row, field, rows
from evals.pairs import Message, Pair, PairFileError
from evals.verdicts import ORDERS, Gold, Judgement, Verdict, from_shown

ADVERSARIAL = ("adver-neighbor", "adver-GPTInst", "adver-GPTOut", "adver-manual")
OFFICIAL = ("natural", *ADVERSARIAL)
"""The subsets of the published average, 419 pairs."""
FURTHER = (
    *("processed-FairEval", "processed-LLMEval2", "processed-MT-Bench"),
    *("case-base9", "case-base10", "case-constraint", "case-negation", "case-normal"),
)
"""What else the authors publish: sections that do not enter the average."""

_PREFIX = re.compile(r"^(dataset)?(llmbar)?(adversarial|adver|processed|casestudy|case)?")
_GOLDS: Mapping[str, Gold] = {"1": "a", "2": "b"}


def subset_name(given: str) -> str:
    """The subset as this benchmark spells it (`Adversarial/Neighbor` -> `adver-neighbor`); others are kept."""
    return _KNOWN.get(_plain(given), given)


def _plain(name: str) -> str:
    return _PREFIX.sub("", letters(name))


_KNOWN = {_plain(name): name for name in (*OFFICIAL, *FURTHER)}


class _Picks(NamedTuple):
    """The outputs that a pair's two judgements count for, as the data names them."""

    unit: Unit
    gold: Gold | None
    plain: Verdict
    swapped: Verdict


class LLMBar(Benchmark):
    """Every subset is a section; the official ones make the score. A pair's id is its position in its subset."""

    name = "llmbar"
    title = "LLMBar"
    hub = "princeton-nlp/LLMBar"
    options: ClassVar = {
        "no_verdict": Option(
            {
                "wrong": "no verdict is wrong, and two of them agree",
                "first": "no verdict picks the output shown first (one half where it is both orders', no agreement), "
                "as the authors do where a rating cannot be read",
            }
        )
    }
    both_orders = True

    @override
    def load(self, source: Path | str) -> list[Pair]:
        pairs: dict[tuple[str, str], Pair] = {}
        seen: dict[Path, int] = {}
        for row in rows(source, self.hub, wanted=_holds_pairs):
            pair = _pair(row, seen.setdefault(row.path, 0))
            seen[row.path] += 1
            if (pair.subset, pair.id) in pairs:
                problem = f"field 'idx': {pair.id} stands in an earlier row of subset {pair.subset!r}"
                raise PairFileError(row.path, [f"{row.place}: {problem}"])
            pairs[pair.subset, pair.id] = pair
        return list(pairs.values())

    @override
    def subset_name(self, given: str) -> str:
        return subset_name(given)

    @override
    def score(self, judgements: Iterable[Judgement], options: Mapping[str, str]) -> Scoreboard:
        found: dict[str, list[_Picks]] = {}
        for orders in by_pair(judgements, both_orders=True).values():
            ab = orders["ab"]
            plain, swapped = (_pick(orders[order], options["no_verdict"]) for order in ORDERS)
            unit = Unit(ab.pair_id, self.prompt(ab), ((plain == ab.gold) + (swapped == ab.gold)) / 2)
            found.setdefault(subset_name(ab.subset) or "all", []).append(_Picks(unit, ab.gold, plain, swapped))
        known = (*OFFICIAL, *FURTHER)
        names = sorted(found, key=lambda name: known.index(name) if name in known else len(known))
        counted = [name for name in names if name in OFFICIAL] or names
        strata = {name: Stratum(name, name, [picks.unit for picks in found[name]]) for name in names}

        def share(of: Callable[[_Picks], bool]) -> dict[str, float]:
            return {name: sum(map(of, found[name])) / len(found[name]) for name in names}

        agreement = share(lambda picks: picks.plain == picks.swapped)
        figures: dict[str, float | Mapping[str, float]] = {
            "accuracy": {name: stratum.mean for name, stratum in strata.items()},
            "accuracy_plain": share(lambda picks: picks.plain == picks.gold),
            "accuracy_swapped": share(lambda picks: picks.swapped == picks.gold),
            "accuracy_both": share(lambda picks: picks.plain == picks.swapped == picks.gold),
            "agreement": agreement,
            "agreement_all": sum(agreement[name] for name in counted) / len(counted),
        }
        if strata.keys() >= set(ADVERSARIAL):
            figures["adversarial"] = sum(strata[name].mean for name in ADVERSARIAL) / len(ADVERSARIAL)
        further = ", ".join(name for name in names if name not in counted)
        return Scoreboard(
            benchmark=self.name,
            rule=f"mean accuracy of the two orders; a tie picks the output shown second (one half where it is both "
            f"orders', no agreement); {self.words(options)}; macro average over {', '.join(counted)}"
            + (f"; beside the average: {further}" if further else "")
            + left_out(OFFICIAL, found),
            strata=list(strata.values()),
            section_weights={name: float(name in counted) for name in names},
            figures=figures,
        )


def _pick(judgement: Judgement, no_verdict: str) -> Verdict:
    """The output that a judgement counts for, as the data names it."""
    if judgement.verdict == "tie":
        return from_shown("b", judgement.order)
    if judgement.verdict is None and no_verdict == "first":
        return from_shown("a", judgement.order)
    return judgement.verdict


def _holds_pairs(file: Path) -> bool:
    """Judge outputs lie in folders `evaluators` in the authors' repository, in files so named in copies of it."""
    return "evaluators" not in file.parts and not re.search("output|statistic|result", file.name)


def _pair(row: Row, position: int) -> Pair:
    values = row.values
    folder = row.path.parent.name if row.path.name == "dataset.json" else row.path.name.split(".")[0]
    label = str(field(row, "label", (int, str)))
    if label not in _GOLDS:
        raise PairFileError(row.path, [f"{row.place}: field 'label': unknown label {label!r}; known are 1, 2"])
    return Pair(
        id=str(field(row, "idx", (int, str)) if "idx" in values else position),
        messages=(Message(role="user", content=field(row, "input")),),
        response_a=field(row, "output_1"),
        response_b=field(row, "output_2"),
        gold=_GOLDS[label],
        source="llmbar",
        subset=subset_name(field(row, "subset") if "subset" in values else folder),
    )


LLMBAR = LLMBar()
