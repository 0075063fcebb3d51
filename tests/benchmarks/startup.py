"""Seconds from the command to the end of its first step, where the distilled model is there already."""

from __future__ import annotations

from measuring import Bench, Goal, training

GOALS = (Goal("warm_start", "the quickstart from the command to the end of its first step", "s", "<=", 1.0),)

REFERENCE_S = 45.0
DISTILLING_LIMIT_S = 900.0
LIMIT_S = 300.0


def measure(bench: Bench) -> None:
    """Once to distil, which does not count, and then as often as wanted."""
    with bench.attempt("warm_start"):
        folder = bench.folder / "start"
        training(bench, "start-distil", folder, {"steps": 1}, 1, DISTILLING_LIMIT_S)
        for _ in range(bench.repeats):
            (seconds,) = training(bench, "start", folder, {"steps": 1}, 1, LIMIT_S).ends
            bench.add("warm_start", seconds, REFERENCE_S)
