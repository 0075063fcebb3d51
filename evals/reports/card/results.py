"""What a run measured on its held-out pairs, before GRPO and after it, as a model card shows it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evals.benchmarks import PAIRS
from evals.judgements import read_judgements
from evals.reports.card.plots import Bar
from evals.reports.plots import short
from evals.reports.tables import NOTHING
from evals.scores import Interval, intervals, score

MEASURES = {
    "accuracy_sampled": "accuracy, sampled",
    "accuracy_greedy": "accuracy, greedy",
    "accuracy_both_orders": "right in both orders, greedy",
    "accuracy_both_orders_sampled": "right in both orders, sampled",
    "no_verdict": "no verdict, sampled",
    "position_bias": "verdicts for the first shown, less one half, greedy",
}
"""Keys of a stage in summary.json, in words; all are shares."""
ACCURACIES = tuple(name for name in MEASURES if name.startswith("accuracy"))
_MOST_BARS = 12

Json = dict[str, Any]


class Results:
    """The scores of summary.json, with 95 % intervals where the judgements of eval/ come to the same scores."""

    def __init__(self, run: Path, summary: Mapping[str, Any]):
        """Raises JudgementFileError where judgements cannot be read."""
        self.start = "distill" if "distill" in summary else "start"
        self.before: Json = summary.get(self.start) or {}
        self.after: Json = summary.get("grpo") or {}
        self.intervals = [_intervals(run, self.start, self.before), _intervals(run, "grpo", self.after)]

    @property
    def accuracies(self) -> dict[str, float]:
        """The accuracies after training, by their key in summary.json; empty where the run was not evaluated."""
        values = {name: number(self.after.get(name)) for name in ACCURACIES}
        return {name: value for name, value in values.items() if value is not None}

    def bars(self) -> list[Bar]:
        """Every accuracy, and that of every subset where there are several."""
        bars = []
        for name, after in self.accuracies.items():
            spans = [known.get(name) for known in self.intervals]
            bars.append(Bar(MEASURES[name], number(self.before.get(name)), after, *spans))
        bars += [Bar(f"{short(name)}, sampled", before, after) for name, before, after in self._subsets()]
        return bars[:_MOST_BARS]

    def shown(self) -> Json:
        """What the template says of results and of limitations that were measured."""
        measured = [name for name in MEASURES if number(self.after.get(name)) is not None]
        bias, none = number(self.after.get("position_bias")), number(self.after.get("no_verdict"))
        return {
            "results": [(MEASURES[name], *self._cells(name)) for name in measured] if self.accuracies else [],
            "subsets": [(name, figure(before), figure(after)) for name, before, after in self._subsets()],
            "pairs": self.after.get("pairs"),
            "distilled": self.start == "distill",
            "with_intervals": any(self.intervals),
            "bias": None if bias is None else f"{50 + 100 * bias:.1f} %",
            "no_verdict": None if none is None else f"{100 * none:.1f} %",
        }

    def _subsets(self) -> list[tuple[str, float | None, float]]:
        before, after = self.before.get("by_subset") or {}, self.after.get("by_subset") or {}
        found = [(name, number(before.get(name)), number(value)) for name, value in after.items() if name]
        known = [(name, old, new) for name, old, new in found if new is not None]
        return known if len(known) > 1 else []

    def _cells(self, name: str) -> list[str]:
        sign = "+" if name == "position_bias" else ""
        cells = []
        for stage, known in zip((self.before, self.after), self.intervals, strict=True):
            span = known.get(name)
            interval = f" [{span.low:{sign}.3f}, {span.high:{sign}.3f}]" if span else ""
            cells.append(figure(number(stage.get(name)), sign) + interval)
        return cells


def figure(value: float | None, sign: str = "") -> str:
    """A share as a fraction."""
    return NOTHING if value is None else f"{value:{sign}.3f}"


def number(value: object) -> float | None:
    """A JSON number; None for anything else."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _intervals(run: Path, stage: str, scores: Mapping[str, Any]) -> dict[str, Interval]:
    known = {}
    for mode, both in (("greedy", "accuracy_both_orders"), ("sampled", "accuracy_both_orders_sampled")):
        path = run / "eval" / f"{stage}-{mode}.jsonl"
        if not scores or not path.exists():
            continue
        judgements = read_judgements([path], PAIRS.name)[PAIRS.name]
        for name, options in ((f"accuracy_{mode}", {}), (both, {"orders": "both"})):
            scoreboard = PAIRS.score(judgements, PAIRS.choose(options))
            if scoreboard.score == number(scores.get(name)):
                known[name] = intervals(scoreboard)["score"]
        if mode == "greedy":
            beside = score(judgements)
            if beside.position_bias == number(scores.get("position_bias")):
                known["position_bias"] = beside.position_bias_interval
    return known
