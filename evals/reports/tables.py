"""Evaluations as tables: in the terminal, as Markdown, as CSV. Shares are percentages for people, fractions in CSV."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evals.budget import calibration_error
from evals.evaluation import Evaluation
from evals.reports.page import plain
from evals.scores import Comparison, Interval
from evals.verdicts import Order
from evals.writing import write_whole

Comparisons = Mapping[tuple[str, str, str], Comparison]
"""(benchmark, first model, second model) -> how the first compares with the second."""


class Measure(NamedTuple):
    """A figure that stands beside every benchmark's rule, and how to write it; `below` is its interval or its base."""

    name: str
    note: str
    show: Callable[[Evaluation], str]
    below: Callable[[Evaluation], str] = lambda one: ""


NOTHING = "\N{EN DASH}"
"""Stands where there is no value."""


def percent(share: float | None) -> str:
    """A share as a percentage, as all reports write it."""
    return NOTHING if share is None else f"{100 * share:.1f} %"


def points(difference: float) -> str:
    """A difference between shares, in percentage points with its sign."""
    return _minus(f"{100 * difference:+.1f}")


def span(interval: Interval) -> str:
    """An interval of a share."""
    return f"{100 * interval.low:.1f} to {100 * interval.high:.1f} %"


def points_span(interval: Interval) -> str:
    """An interval of a difference between shares."""
    return f"{points(interval.low)} to {points(interval.high)}"


def p_value(p: float) -> str:
    """The probability of a test."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _minus(number: str) -> str:
    return {"-0.0": "0.0", "+0.0": "0.0"}.get(number, number).replace("-", "\N{MINUS SIGN}")


_MEASURES = (
    Measure("Accuracy, A shown first", "share of pairs; no verdict is wrong", lambda one: percent(_order(one, "ab"))),
    Measure("Accuracy, B shown first", "share of pairs; no verdict is wrong", lambda one: percent(_order(one, "ba"))),
    Measure("Right in both orders", "share of pairs", lambda one: percent(one.scores.both_orders)),
    Measure(
        "Consistency",
        "share of pairs with the same verdict in both orders",
        lambda one: percent(one.scores.consistency),
    ),
    Measure(
        "Position bias",
        "points over 50 % of verdicts for the first shown",
        lambda one: points(one.scores.position_bias),
        lambda one: points_span(one.scores.position_bias_interval),
    ),
    Measure("No verdict", "share of judgements", lambda one: percent(one.scores.no_verdict)),
    Measure("Ties", "share of judgements", lambda one: percent(one.scores.ties)),
    Measure(
        "Tokens",
        "mean per judgement",
        lambda one: _count(one.scores.tokens),
        lambda one: f"in {one.samples} samples" if one.samples > 1 and one.scores.tokens is not None else "",
    ),
    Measure(
        "Judgements",
        "scored",
        lambda one: f"{one.scores.judgements:,}",
        lambda one: f"{one.scores.pairs:,} pairs",
    ),
    Measure("Samples", "of each pair and order", lambda one: f"{one.samples}" if one.samples > 1 else NOTHING),
    Measure(
        "Vote of all samples",
        "share of pairs; both orders vote together",
        lambda one: percent(one.savings.full_accuracy if one.savings else None),
    ),
    Measure(
        "Vote stopped early",
        "the same, but stopped once it is safe; samples saved",
        lambda one: percent(one.savings.accuracy if one.savings else None),
        lambda one: f"{percent(one.savings.samples_saved)} saved" if one.savings else "",
    ),
    Measure(
        "Calibration error",
        "expected, of the vote's confidence",
        lambda one: percent(calibration_error(one.calibration)) if one.calibration else NOTHING,
    ),
)


def measures(evaluations: Sequence[Evaluation]) -> list[Measure]:
    """What there is to say beside the rules: measures that at least one of the evaluations has."""
    return [one for one in _MEASURES if any(one.show(evaluation) != NOTHING for evaluation in evaluations)]


def _order(one: Evaluation, order: Order) -> float | None:
    return one.scores.accuracy_by_order.get(order)


def _count(number: float | None) -> str:
    return NOTHING if number is None else f"{number:,.0f}"


def labels(evaluations: Sequence[Evaluation]) -> list[str]:
    """A name of each evaluation's judge that no other judge of the same benchmark has."""
    models = [one.model or "judge" for one in evaluations]
    named = Counter((one.benchmark, model) for one, model in zip(evaluations, models, strict=True))
    found: list[str] = []
    seen: Counter[tuple[str, str]] = Counter()
    for one, model in zip(evaluations, models, strict=True):
        label = f"{model} ({one.format})" if named[one.benchmark, model] > 1 and one.format else model
        seen[one.benchmark, label] += 1
        number = seen[one.benchmark, label]
        found.append(label if number == 1 else f"{label} #{number}")
    return found


def items(evaluation: Evaluation) -> dict[str, int]:
    """Section -> number of units that the rule gives credit to."""
    counts: Counter[str] = Counter()
    for stratum in evaluation.scoreboard.strata:
        counts[stratum.section] += len(stratum.units)
    return {section: counts[section] for section in evaluation.scoreboard.sections}


_OVERVIEW = ("Benchmark", "Judge", "Score", "95 % interval", "Consistency", "Position bias", "No verdict")
_SECTIONS = ("Benchmark", "Judge", "Section", "Score", "95 % interval", "Items")
_COMPARED = ("Benchmark", "First", "Second", "Difference", "95 % interval", "First only", "Second only", "p")


def _overview_rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    return [
        (
            one.title,
            label,
            percent(one.scoreboard.score),
            span(one.intervals["score"]),
            percent(one.scores.consistency),
            points(one.scores.position_bias),
            percent(one.scores.no_verdict),
        )
        for one, label in zip(evaluations, labels(evaluations), strict=True)
    ]


def _section_rows(evaluations: Sequence[Evaluation]) -> list[tuple[str, ...]]:
    return [
        (one.title, label, name, percent(score), span(one.intervals[name]), f"{items(one)[name]:,}")
        for one, label in zip(evaluations, labels(evaluations), strict=True)
        for name, score in one.scoreboard.sections.items()
    ]


def compared_rows(evaluations: Sequence[Evaluation], comparisons: Comparisons) -> list[tuple[str, ...]]:
    """Each comparison in words: benchmark, judges, difference, interval, items that one alone has right, p."""
    titles = {one.benchmark: one.title for one in evaluations}
    return [
        (
            titles.get(benchmark, benchmark),
            first,
            second,
            points(found.difference),
            points_span(found.interval),
            f"{found.first_only:,}",
            f"{found.second_only:,}",
            p_value(found.p_value),
        )
        for (benchmark, first, second), found in comparisons.items()
    ]


def _rules(evaluations: Sequence[Evaluation]) -> list[str]:
    """Each rule in words, once."""
    return list(dict.fromkeys(f"{one.title}: {one.scoreboard.rule}" for one in evaluations))


def terminal(evaluations: Sequence[Evaluation], comparisons: Comparisons | None = None) -> RenderableType:
    """What to print with rich: a row a benchmark and judge, their sections, comparisons, and each rule in words."""
    tables = [
        _table("Evaluation", _OVERVIEW, _overview_rows(evaluations), left=2),
        _table("Sections", _SECTIONS, _section_rows(evaluations), left=3),
    ]
    if comparisons:
        tables.append(_table("Judges compared", _COMPARED, compared_rows(evaluations, comparisons), left=3))
    rules = Text("\n").join(Text(plain(f"Rule of {rule}"), style="dim") for rule in _rules(evaluations))
    return Group(*(part for table in tables for part in (table, "")), rules)


def _table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(head):
        if number < left:
            table.add_column(name, overflow="fold", vertical="top")
        else:  # as narrow as its numbers
            table.add_column(name if "%" in name else name.replace(" ", "\n"), justify="right", no_wrap=True)
    previous: Sequence[str] = ()
    for row in rows:  # a name that stands above is not said again
        repeated = 0
        while repeated < min(left - 1, len(previous)) and previous[repeated] == row[repeated]:
            repeated += 1
        table.add_row(*("" if number < repeated else Text(plain(cell)) for number, cell in enumerate(row)))
        previous = row
    return table


def markdown(evaluations: Sequence[Evaluation], comparisons: Comparisons | None = None) -> str:
    """The same tables as Markdown, with every score that stands beside the rules."""
    names = [f"{one.title} · {label}" for one, label in zip(evaluations, labels(evaluations), strict=True)]
    beside = [(m.name, *(_whole(m, one) for one in evaluations)) for m in measures(evaluations)]
    parts = [
        "# Evaluation",
        _markdown_table(_OVERVIEW, _overview_rows(evaluations), left=2),
        "## Rules",
        "\n".join(f"- {_escape(rule)}" for rule in _rules(evaluations)),
        "## Sections",
        _markdown_table(_SECTIONS, _section_rows(evaluations), left=3),
        "## Beside the rule",
        _markdown_table(("", *names), beside, left=1),
    ]
    if comparisons:
        rows = compared_rows(evaluations, comparisons)
        parts += ["## Judges compared", _markdown_table(_COMPARED, rows, left=3)]
    return "\n\n".join(parts) + "\n"


def _whole(measure: Measure, one: Evaluation) -> str:
    below = measure.below(one)
    return f"{measure.show(one)} ({below})" if below else measure.show(one)


def _markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], left: int) -> str:
    line = [":--" if number < left else "--:" for number in range(len(head))]
    return "\n".join("| " + " | ".join(map(_escape, row)) + " |" for row in (head, *rows)).replace(
        "|\n", "|\n| " + " | ".join(line) + " |\n", 1
    )


def _escape(text: str) -> str:
    """Text from outside that stays text: Markdown lets HTML through, and a bar ends a cell."""
    text = plain(text).replace("\\", "\\\\").replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{letter}" if letter in "|`*_[]!" else letter for letter in text)


CSV_COLUMNS = (
    *("benchmark", "model", "format", "section", "items", "score", "score_low", "score_high"),
    *("pairs", "judgements", "accuracy_ab", "accuracy_ba", "both_orders", "consistency"),
    *("position_bias", "position_bias_low", "position_bias_high", "no_verdict", "ties", "tokens", "rule", "samples"),
)
"""The columns of the CSV file; new ones only ever join at the end."""


def csv_text(evaluations: Sequence[Evaluation]) -> str:
    """One row an evaluation, whose `section` is empty, then one a section; fractions in full precision."""
    file = io.StringIO()
    writer = csv.DictWriter(file, CSV_COLUMNS, restval="", lineterminator="\n")
    writer.writeheader()
    for one in evaluations:
        scores, common = one.scores, {"benchmark": one.benchmark, "model": one.model, "format": one.format}
        whole = {
            "items": sum(items(one).values()),
            "pairs": scores.pairs,
            "judgements": scores.judgements,
            "accuracy_ab": _order(one, "ab"),
            "accuracy_ba": _order(one, "ba"),
            "both_orders": scores.both_orders,
            "consistency": scores.consistency,
            "position_bias": scores.position_bias,
            "position_bias_low": scores.position_bias_interval.low,
            "position_bias_high": scores.position_bias_interval.high,
            "no_verdict": scores.no_verdict,
            "ties": scores.ties,
            "tokens": scores.tokens,
            "rule": one.scoreboard.rule,
            "samples": one.samples,
        }
        writer.writerow(common | _scored(one.scoreboard.score, one.intervals["score"]) | whole)
        for name, score in one.scoreboard.sections.items():
            row = {"section": name, "items": items(one)[name]} | _scored(score, one.intervals[name])
            writer.writerow(common | row)
    return file.getvalue()


def _scored(score: float, interval: Interval) -> dict[str, float]:
    return {"score": score, "score_low": interval.low, "score_high": interval.high}


def write_markdown(path: Path, evaluations: Sequence[Evaluation], comparisons: Comparisons | None = None) -> Path:
    """Write `markdown` to a file, whole."""
    return write_whole(path, markdown(evaluations, comparisons))


def write_csv(path: Path, evaluations: Sequence[Evaluation]) -> Path:
    """Write `csv_text` to a file, whole."""
    return write_whole(path, csv_text(evaluations))
