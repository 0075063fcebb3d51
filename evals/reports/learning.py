"""What a policy learnt from a judge, as one picture: its true accuracy, and the judge's opinion of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

_COLOURS = {"sampled": "#2a6fb0", "greedy": "#c8702a"}


def draw_learning(path: Path, measured: Mapping[int, Mapping[str, Any]]) -> Path:
    """Write a PNG with what was measured on held-out questions at each step, intervals as bands.

    A step has `preferred` and, where right answers are known, `accuracy_sampled` and `accuracy_greedy` with
    `interval_...`. Returns `path`.
    """
    steps = sorted(measured)
    known = "accuracy_greedy" in measured[steps[0]]
    figure = Figure(figsize=(9.2 if known else 4.6, 3.2), layout="constrained")
    panels = figure.subplots(1, 2 if known else 1, squeeze=False)[0]
    if known:
        _draw_accuracy(panels[0], measured)
    panels[-1].plot(steps, [measured[step]["preferred"] for step in steps], color=_COLOURS["greedy"], marker="o")
    panels[-1].set(title="Preferred by the judge", ylabel="to its own first answers, -1 to 1")
    panels[-1].axhline(0, color="0.5", linewidth=1, linestyle="--")
    for axes in panels:
        axes.set_xlabel("step")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        axes.grid(axis="y", alpha=0.4)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    return path


def _draw_accuracy(axes: Axes, measured: Mapping[int, Mapping[str, Any]]) -> None:
    steps = sorted(measured)
    for mode, colour in _COLOURS.items():
        low, high = zip(*(measured[step][f"interval_{mode}"] for step in steps), strict=True)
        axes.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(steps, [measured[step][f"accuracy_{mode}"] for step in steps], color=colour, marker="o", label=mode)
    axes.set(title="True accuracy, which it never sees", ylabel="share of held-out questions", ylim=(0, 1.02))
    axes.legend(frameon=False, loc="lower right")
