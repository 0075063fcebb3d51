"""One self-contained HTML page about evaluations: each benchmark under its rule, plots, and every judgement.

One page may hold several benchmarks and several judges. It needs nothing from outside, so it opens from a disk. What
a model or a data set wrote is untrusted: the template escapes it, and the script of the page only ever sets text.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup
from scipy.stats import binomtest

from evals.evaluation import Evaluation
from evals.reports.browser import PairTexts, pack, section_of
from evals.reports.page import own, render
from evals.reports.plots import Estimate, Point, forest, lines, reliability
from evals.reports.tables import NOTHING, Comparisons, compared_rows, items, labels, measures, percent, span
from evals.scores import score
from evals.verdicts import Judgement
from evals.writing import write_whole

MOST_ROWS = 30
"""A plot by section has at most so many rows; the table has all."""
_FIFTHS, _FEWEST, _SPREAD = 5, 50, 1.25
"""Accuracy by length is drawn over so many groups of at least so many judgements, the last so much the longer."""


@dataclass(frozen=True)
class Figure:
    """A plot with what stands above it."""

    title: str
    note: str
    svg: Markup


@dataclass(frozen=True)
class Grid:
    """A heat map: accuracy of a 3 x 3 of response styles; `cells[i][j]` has chosen i against rejected j."""

    title: str
    cells: Sequence[Sequence[float | None]]


@dataclass(frozen=True)
class Row:
    """A line of a table: a cell a judge, each a value and what stands small below it."""

    name: str
    note: str
    cells: Sequence[tuple[str, str]]
    bars: Sequence[float] = ()


@dataclass(frozen=True)
class Board:
    """Everything that the page says of one benchmark."""

    anchor: str
    title: str
    judges: Sequence[str]
    rules: Mapping[str, Sequence[str]]
    """Each rule in words -> the judges it was applied to."""
    sections: Sequence[Row]
    beside: Sequence[Row]
    own: Sequence[tuple[str, Sequence[Row]]]
    """The benchmark's own figures: a heading, "" for plain numbers, and its rows."""
    grids: Sequence[tuple[str, Sequence[Grid]]]
    """Judge -> heat maps by domain."""
    figures: Sequence[Figure]


def write_evaluation_report(
    path: Path,
    evaluations: Sequence[Evaluation],
    pairs: PairTexts | None = None,
    comparisons: Comparisons | None = None,
) -> Path:
    """Write one page about all evaluations to `path`; returns the path.

    `pairs` gives the texts that judgements are shown with. Raises ValueError where there is no evaluation.
    """
    if not evaluations:
        raise ValueError("there is no evaluation to report; evaluate a judge on a benchmark first")
    names = labels(evaluations)
    packed = pack(evaluations, names, pairs or {})
    script = own("evaluation.js")
    page = render(
        "evaluation.html.j2",
        headline=headline(evaluations),
        evaluations=list(zip(evaluations, names, strict=True)),
        judges=list(dict.fromkeys(one.model for one in evaluations if one.model)),
        formats=list(dict.fromkeys(one.format for one in evaluations if one.format)),
        boards=_boards(evaluations, names),
        compared=compared_rows(evaluations, comparisons or {}),
        percent=percent,
        span=span,
        measures={measure.name: measure for measure in measures(evaluations)},
        styles=_STYLES,
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        index=packed.index,
        chunks=packed.chunks,
    )
    return write_whole(path, page)


def headline(evaluations: Sequence[Evaluation]) -> str:
    """What was found, in one sentence."""
    titles = list(dict.fromkeys(one.title for one in evaluations))
    if len(evaluations) == 1:
        (one,) = evaluations
        found = f"{percent(one.scoreboard.score)} on {one.title} (95 % interval {span(one.intervals['score'])})."
        return f"{one.model or 'The judge'} scores {found}"
    if len(titles) == 1:
        ranked = sorted(zip(evaluations, labels(evaluations), strict=True), key=lambda x: -x[0].scoreboard.score)
        each = [f"{label} {percent(one.scoreboard.score)}" for one, label in ranked[:4]]
        more = f" and {len(ranked) - 4} more" if len(ranked) > 4 else ""
        return f"{titles[0]}: {', '.join(each)}{more}."
    judges = len({one.model for one in evaluations})
    if judges == 1:
        return f"{evaluations[0].model or 'One judge'} on {len(titles)} benchmarks."
    return f"{judges} judges on {len(titles)} benchmarks."


def _boards(evaluations: Sequence[Evaluation], names: Sequence[str]) -> list[Board]:
    found: dict[str, list[tuple[Evaluation, str]]] = {}
    for one, name in zip(evaluations, names, strict=True):
        found.setdefault(one.benchmark, []).append((one, name))
    return [
        _board(f"benchmark-{number}", {name: one for one, name in judged})
        for number, judged in enumerate(found.values())
    ]


def _board(anchor: str, judged: Mapping[str, Evaluation]) -> Board:
    rules: dict[str, list[str]] = {}
    for name, one in judged.items():
        rules.setdefault(one.scoreboard.rule, []).append(name)
    ones = list(judged.values())
    return Board(
        anchor=anchor,
        title=ones[0].title,
        judges=list(judged),
        rules=rules,
        sections=_section_rows(judged),
        beside=[
            Row(measure.name, measure.note, [(measure.show(one), measure.below(one)) for one in ones])
            for measure in measures(ones)
        ],
        own=_own_figures(judged),
        grids=[(name, grids) for name, one in judged.items() if (grids := _grids(one))],
        figures=_figures(judged),
    )


def _section_rows(judged: Mapping[str, Evaluation]) -> list[Row]:
    """The headline, then every section: score, interval and number of items of each judge."""
    ones = list(judged.values())
    counted = [items(one) for one in ones]

    def row(name: str, scores: Sequence[float | None], key: str, counts: Sequence[int]) -> Row:
        cells = [
            (NOTHING, "") if share is None else (percent(share), span(one.intervals[key]))
            for one, share in zip(ones, scores, strict=True)
        ]
        same = len(set(counts)) == 1
        note = f"{counts[0]:,} items" if same else f"{', '.join(f'{count:,}' for count in counts)} items"
        return Row(name, note, cells, [share or 0.0 for share in scores])

    whole = row("Score", [one.scoreboard.score for one in ones], "score", [sum(c.values()) for c in counted])
    every = dict.fromkeys(name for one in ones for name in one.scoreboard.sections)
    rows = [
        row(name, [one.scoreboard.sections.get(name) for one in ones], name, [c.get(name, 0) for c in counted])
        for name in every
    ]
    return [whole, *rows]


def _own_figures(judged: Mapping[str, Evaluation]) -> list[tuple[str, list[Row]]]:
    """The benchmark's further figures: single numbers under "", then a group a mapping."""
    ones = list(judged.values())
    plain: list[Row] = []
    groups: list[tuple[str, list[Row]]] = []
    for key in dict.fromkeys(key for one in ones for key in one.scoreboard.figures):
        values = [one.scoreboard.figures.get(key) for one in ones]
        inside = [value for value in values if isinstance(value, Mapping)]
        if key == "accuracy" and values == [one.scoreboard.score for one in ones]:
            continue  # the headline again
        if not inside:
            plain.append(Row(words(key), "", [(_figure(value), "") for value in values]))  # type: ignore[arg-type]
        elif not any(_grids(one) for one in ones) or key != "matrix":
            each = [value if isinstance(value, Mapping) else {} for value in values]
            names = dict.fromkeys(name for mapping in each for name in mapping)
            rows = [Row(str(name), "", [(_figure(mapping.get(name)), "") for mapping in each]) for name in names]
            groups.append((words(key), rows))
    return ([("", plain)] if plain else []) + groups


def words(key: str) -> str:
    """A field's name as a heading."""
    return key.replace("_", " ")[:1].upper() + key.replace("_", " ")[1:]


def _figure(value: float | None) -> str:
    """A figure: a count is an int, everything else a share."""
    return f"{value:,}" if isinstance(value, int) else percent(value)


_STYLES = ("concise", "detailed", "markdown")
"""The styles of RM-Bench's responses, by index."""


def _grids(evaluation: Evaluation) -> list[Grid]:
    """Heat maps of the figure `matrix`, whose keys are `domain/chosen:rejected`: all domains, then each."""
    matrix = evaluation.scoreboard.figures.get("matrix")
    if not isinstance(matrix, Mapping):
        return []
    domains: dict[str, dict[tuple[int, int], float]] = {}
    for key, value in matrix.items():
        domain, _, cell = key.rpartition("/")
        chosen, _, rejected = cell.partition(":")
        if not (chosen.isdigit() and rejected.isdigit() and int(chosen) < 3 and int(rejected) < 3):
            return []
        domains.setdefault(domain or "overall", {})[int(chosen), int(rejected)] = value
    if "overall" not in domains and len(domains) > 1:
        cells = [(i, j) for i in range(3) for j in range(3) if all((i, j) in found for found in domains.values())]
        overall = {cell: sum(found[cell] for found in domains.values()) / len(domains) for cell in cells}
        domains = {"overall": overall} | domains
    return [
        Grid(words(name), [[found.get((i, j)) for j in range(3)] for i in range(3)]) for name, found in domains.items()
    ]


def _figures(judged: Mapping[str, Evaluation]) -> list[Figure]:
    title = next(iter(judged.values())).title
    figures = [_by_section(title, judged), _bias(title, judged)]
    if budget := {name: points for name, one in judged.items() if (points := _budget(judged.values(), one))}:
        unit = "tokens per pair" if _has_tokens(judged.values()) else "judgements per pair"
        svg = lines(f"{title}: accuracy against tokens", unit, "share right, %", budget)
        figures.append(Figure("Accuracy against tokens", "of votes of 1, 2, 4, … judgements; ties are wrong", svg))
    lengths = {name: found for name, one in judged.items() if (found := _by_length(one))}
    if lengths:
        svg = lines(f"{title}: accuracy by judgement length", "tokens of the judgement", "share right, %", lengths)
        figures.append(Figure("Accuracy by length", "judgements sorted by length, in fifths", svg))
    votes = {
        name: [Point(one.confidence, one.accuracy, *one.interval, one.pairs) for one in evaluation.calibration]
        for name, evaluation in judged.items()
        if evaluation.calibration
    }
    if votes:
        svg = reliability(f"{title}: calibration of votes", votes)
        figures.append(Figure("Calibration", "on the dashed line, as right as sure; mark: number of votes", svg))
    return figures


def _has_tokens(ones: Iterable[Evaluation]) -> bool:
    return all(point.tokens is not None for one in ones for point in one.budget)


def _budget(ones: Iterable[Evaluation], one: Evaluation) -> list[Point]:
    """Accuracy of votes against their tokens; against their number where a judge on the same plot has no tokens."""
    tokens = _has_tokens(ones)
    return [
        Point(point.tokens if tokens and point.tokens is not None else point.samples, point.accuracy, *point.interval)
        for point in one.budget
    ]


def _by_section(title: str, judged: Mapping[str, Evaluation]) -> Figure:
    every = list(dict.fromkeys(name for one in judged.values() for name in one.scoreboard.sections))
    rows = every[:MOST_ROWS]
    series = {name: [_estimate(one, row) for row in (None, *rows)] for name, one in judged.items()}
    more = f"; the first {MOST_ROWS} of {len(every)}" if len(every) > MOST_ROWS else ""
    svg = forest(f"{title}: accuracy by section", "score, %", ["Score", *rows], series)
    return Figure("Accuracy by section", f"with 95 % intervals{more}", svg)


def _estimate(one: Evaluation, section: str | None) -> Estimate | None:
    """A section's score, or the headline where `section` is None."""
    if section is None:
        return Estimate(one.scoreboard.score, *one.intervals["score"])
    share = one.scoreboard.sections.get(section)
    return None if share is None else Estimate(share, *one.intervals[section])


def _bias(title: str, judged: Mapping[str, Evaluation]) -> Figure:
    """Position bias of everything and by section."""
    series: dict[str, list[Estimate | None]] = {}
    every = list(dict.fromkeys(name for one in judged.values() for name in one.scoreboard.sections))[:MOST_ROWS]
    for name, one in judged.items():
        section = section_of(one)
        split: dict[str, list[Judgement]] = {row: [] for row in every}
        for judgement in one.judgements:
            split.setdefault(section(judgement), []).append(judgement)
        series[name] = [Estimate(one.scores.position_bias, *one.scores.position_bias_interval)]
        for row in every:
            found = score(split[row]) if split[row] else None
            estimate = Estimate(found.position_bias, *found.position_bias_interval) if found else None
            series[name].append(estimate)
    rows = ["All", *every]
    named = [n for n, _ in enumerate(rows) if any(estimates[n] for estimates in series.values())]
    shown = {name: [estimates[n] for n in named] for name, estimates in series.items()}
    svg = forest(
        f"{title}: position bias", "points for the first shown", [rows[n] for n in named], shown, mark=0, centred=True
    )
    return Figure("Position bias", "right of the line: for the candidate shown first", svg)


def _by_length(one: Evaluation) -> list[Point]:
    """Share right by fifths of the judgements by length, with Wilson's intervals; empty where few, alike or voted."""
    if one.samples > 1:
        return []
    known = sorted((j.completion_tokens, j.right) for j in one.judgements if j.completion_tokens is not None)
    if len(known) < _FEWEST:
        return []
    points = []
    for number in range(_FIFTHS):
        some = known[number * len(known) // _FIFTHS : (number + 1) * len(known) // _FIFTHS]
        right = sum(is_right for _, is_right in some)
        interval = binomtest(right, len(some)).proportion_ci(method="wilson")
        tokens = sum(length for length, _ in some) / len(some)
        points.append(Point(tokens, right / len(some), float(interval.low), float(interval.high)))
    return points if points[-1].x > _SPREAD * points[0].x else []
