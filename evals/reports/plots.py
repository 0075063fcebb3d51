"""Plots as inline SVG in the page's own colours and font, so that they turn light or dark with it."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from evals.reports.page import plain

INK, GRID = "#0a0b01", "#0a0b02"
SERIES = tuple(f"#0a0c0{number}" for number in range(1, 7))
_CSS = {INK: "var(--muted)", GRID: "var(--line)"} | {c: f"var(--c{n})" for n, c in enumerate(SERIES, start=1)}
"""Stand-in colours in the plots -> the page's colours."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gavel",
    "text.parse_math": False,  # names come from data sets, and a dollar sign is a dollar sign
    "font.size": 10,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("grid.color", "axes.edgecolor"), GRID),
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size", "ytick.minor.size"), 0),
}
_NAME = 26
"""Longer names are cut in plots; the tables have them whole."""


class Point(NamedTuple):
    """A value at `x`, with its 95 % interval. `weight` is what it stands on, for the size of its mark."""

    x: float
    value: float
    low: float
    high: float
    weight: float = 1.0


class Estimate(NamedTuple):
    """A value and its 95 % interval."""

    value: float
    low: float
    high: float


def svg(label: str, draw: Callable[[Axes], None], height: float = 2.7) -> Markup:
    """What `draw` draws, 4.1 inches wide, as an inline SVG element. `label` names it for those who cannot see it."""
    buffer = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")  # the page's font draws it
        figure = Figure(figsize=(4.1, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        if len(names := axes.get_legend_handles_labels()[1]) > 1:
            columns = max(1, min(4, 56 // (max(map(len, names)) + 4)))
            figure.legend(loc="outside upper left", ncols=columns, frameon=False, handlelength=1, columnspacing=1.2)
        unwanted = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", transparent=True, metadata=unwanted)
    head, body = buffer.getvalue().split("<svg", 1)[1].split(">", 1)
    box = re.findall('viewBox="[^"]*"', head)[0]
    for colour, variable in _CSS.items():
        body = body.replace(colour, variable)
    return Markup(f'<svg role="img" aria-label="{escape(label)}" {box}>{body}')


def forest(
    label: str,
    unit: str,
    rows: Sequence[str],
    series: Mapping[str, Sequence[Estimate | None]],
    mark: float | None = None,
    centred: bool = False,
) -> Markup:
    """One row a name, one mark with its interval a series; `mark` is a dashed line. Values are fractions.

    `centred` keeps 0 in the middle and writes values with their sign.
    """

    def draw(axes: Axes) -> None:
        step = 0.8 / max(len(series), 2)
        for number, (name, estimates) in enumerate(series.items()):
            shift = (number - (len(series) - 1) / 2) * step
            for row, estimate in enumerate(estimates):
                if estimate is not None:
                    at, colour = row + shift, SERIES[number % len(SERIES)]
                    axes.plot([estimate.low, estimate.high], [at, at], color=colour, linewidth=1.9)
                    axes.plot(estimate.value, at, "o", color=colour, markersize=5.5)
            axes.plot([], [], "o", color=SERIES[number % len(SERIES)], label=short(name))
        axes.set_yticks(range(len(rows)), [short(row) for row in rows])
        axes.set(ylim=(len(rows) - 0.4, -0.6), xlabel=unit)
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        if mark is not None:
            axes.axvline(mark, color=INK, linewidth=1.3, linestyle="--")
        if centred:
            reach = min(0.52, max(0.05, 1.05 * max(map(abs, axes.dataLim.intervalx))))
            axes.set_xlim(-reach, reach)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
        sign = "+" if centred else ""
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:{sign if value else ''}g}"))

    return svg(label, draw, height=0.75 + 0.1 * (len(series) > 1) + len(rows) * (0.14 + 0.13 * max(len(series), 1)))


def lines(label: str, x: str, y: str, series: Mapping[str, Sequence[Point]]) -> Markup:
    """A line with its interval as a band, a series; values are fractions, `x` may be anything."""

    def draw(axes: Axes) -> None:
        for number, (name, points) in enumerate(series.items()):
            colour, xs = SERIES[number % len(SERIES)], [point.x for point in points]
            low, high = [point.low for point in points], [point.high for point in points]
            axes.fill_between(xs, low, high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(xs, [p.value for p in points], "o-", color=colour, linewidth=1.9, markersize=4, label=short(name))
        axes.set(xlabel=x, ylabel=y)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
        _percent(axes)

    return svg(label, draw)


def reliability(label: str, series: Mapping[str, Sequence[Point]]) -> Markup:
    """Share right against confidence; on the dashed line a judge is as right as it is sure."""

    def draw(axes: Axes) -> None:
        axes.plot([0, 1], [0, 1], color=INK, linewidth=1.3, linestyle="--")
        for number, (name, points) in enumerate(series.items()):
            colour, most = SERIES[number % len(SERIES)], max(point.weight for point in points)
            xs, ys = [point.x for point in points], [point.value for point in points]
            axes.plot(xs, ys, color=colour, linewidth=1.9, label=short(name))
            for point in points:
                axes.plot([point.x, point.x], [point.low, point.high], color=colour, linewidth=1, alpha=0.5)
            axes.scatter(xs, ys, [12 + 70 * point.weight / most for point in points], color=colour)
        left = min(point.x for points in series.values() for point in points)
        axes.set(xlabel="confidence of the vote, %", ylabel="share right, %", xlim=(min(left, 0.5) - 0.03, 1.03))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        axes.set_ylim(0, 1.03)
        _percent(axes)

    return svg(label, draw)


def window(count: int) -> int:
    """Width of the smoothing over so many steps: an odd number near a tenth of them; 1 is none."""
    return count // 20 * 2 + 1


def smooth(values: Sequence[float]) -> list[float]:
    """Mean of the values in the window around each value."""
    reach = window(len(values)) // 2
    around = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    return [sum(some) / len(some) for some in around]


def short(name: str) -> str:
    """A name that fits beside a plot."""
    name = plain(name)
    return name if len(name) <= _NAME else name[: _NAME - 1] + "…"


def _percent(axes: Axes) -> None:
    axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
