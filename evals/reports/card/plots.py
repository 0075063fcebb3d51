"""The pictures of a model card: how training went, and what it brought. PNG, as the hub shows no SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from evals.reports.plots import smooth
from evals.scores import Interval

BEFORE, AFTER, INK, GRID = "#9aa2aa", "#0072b2", "#40464d", "#e1e3e5"
_STYLE = {
    "text.parse_math": False,  # names come from data sets, and a dollar sign is a dollar sign
    "font.size": 10,
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "grid.color": GRID,
    **dict.fromkeys(("axes.spines.top", "axes.spines.right"), False),
    **dict.fromkeys(("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("xtick.major.size", "ytick.major.size"), 0),
}
_PANELS = {"reward": ("Reward", "mean of a step"), "accuracy": ("Accuracy on training pairs", "% of judgements")}
_DPI = 150


class Bar(NamedTuple):
    """A share before and after training; None where it was not measured."""

    name: str
    before: float | None
    after: float
    before_interval: Interval | None = None
    after_interval: Interval | None = None


def draw_training(path: Path, metrics: Sequence[Mapping[str, Any]]) -> bool:
    """Reward and accuracy over the steps of metrics.jsonl; False, and no file, where no step has either."""
    curves = {}
    for key in _PANELS:
        points = [(row["step"], float(row[key])) for row in metrics if isinstance(row.get(key), int | float)]
        if points:
            curves[key] = points
    if not curves:
        return False
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(4.6 * len(curves), 3.1), layout="constrained")
        for axes, (key, points) in zip(figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True):
            title, unit = _PANELS[key]
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, color=AFTER, linewidth=0.8, alpha=0.4)
            marker = "o" if len(values) < 20 else ""
            axes.plot(steps, smooth(values), color=AFTER, linewidth=2.2, marker=marker, markersize=4)
            axes.set(title=title, xlabel="step", ylabel=unit)
            axes.grid(axis="y")
            axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
            axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))
            if key == "accuracy":
                axes.axhline(0.5, color=INK, linewidth=1, linestyle="--")
                place = axes.get_yaxis_transform()
                axes.text(1.01, 0.5, "by lot", transform=place, va="center", size=9)
                axes.set_ylim(min(0.4, *values) - 0.02, 1.02)
                axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        _save(figure, path)
    return True


def draw_results(path: Path, bars: Sequence[Bar], unit: str) -> bool:
    """One row a measure, before and after, with intervals where they are known; False where there is none."""
    if not bars:
        return False
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(7.6, 0.95 + 0.55 * len(bars)), layout="constrained")
        axes = figure.subplots()
        for row, bar in enumerate(bars):
            sides = [("after", AFTER, bar.after, bar.after_interval)]
            if bar.before is not None:
                sides.insert(0, ("before", BEFORE, bar.before, bar.before_interval))
            for shift, (name, colour, value, interval) in zip(
                (-0.19, 0.19) if sides[1:] else (0.0,), sides, strict=True
            ):
                axes.barh(row + shift, value, 0.34, color=colour, label=name)
                if interval is not None:
                    axes.plot(interval, [row + shift] * 2, color=INK, linewidth=1.3)
                end = max(value, interval.high if interval else 0.0)
                axes.text(end + 0.012, row + shift, f"{100 * value:.1f}", va="center", size=9)
        axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
        axes.set(ylim=(len(bars) - 0.45, -0.55), xlim=(0, 1.09), xlabel=unit)
        axes.grid(axis="x")
        axes.spines["left"].set_visible(False)
        axes.xaxis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g}"))
        handles = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(handles.values(), handles, loc="outside upper right", ncols=2, frameon=False, handlelength=1)
        _save(figure, path)
    return True


def _save(figure: Figure, path: Path) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI, facecolor="white")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(buffer.getvalue())
