"""Whether sampling and training overlap: a step with stale samples allowed, against the longer half of one without.

One engine with one core, the trainer with one thread, no KL. The synchronous run's own clocks give generating and
training; of the asynchronous one, the distance between the ends of its steps counts.
"""

from __future__ import annotations

import json
import statistics
from itertools import pairwise

from measuring import Bench, Goal, training
from workload import forced_model, step_flags

GOALS = (Goal("async_overlap", "an asynchronous step against max(generate, train)", "s", "<=", 1.10),)

PROMPTS = 8
STEPS = 7
SKIPPED = 2
"""Steps at the start that do not count: the first has nothing to overlap with, and everything is touched anew."""

LIMIT_S = 300.0


def measure(bench: Bench) -> None:
    """The two runs in turn, each as a command of its own."""
    with bench.attempt("async_overlap"):
        flags = step_flags(forced_model(bench), "") | {"steps": STEPS, "evaluation.pairs": 1, "grpo.groups": PROMPTS}
        flags |= {"rollout.engines": 1, "rollout.threads": 1, "policy.threads": 1, "grpo.loss.kl-coef": 0}
        del flags["run-dir"]
        for _ in range(bench.repeats):
            folder = bench.folder / "overlap"
            stale = training(bench, "overlap-async", folder, flags | {"grpo.max-staleness": 1}, STEPS, LIMIT_S)
            alone = training(bench, "overlap-sync", folder, flags, STEPS, LIMIT_S)
            apart = [json.loads(line)["seconds"] for line in alone.metrics.splitlines()[SKIPPED:]]
            generate = statistics.median(step["rollout"] for step in apart)
            train = statistics.median(step["update"] + step["sync"] for step in apart)
            steps = [end - begin for begin, end in pairwise(stale.ends)][SKIPPED - 1 :]
            details = {"generate": generate, "train": train, "asynchronous": steps}
            synchronous = [end - begin for begin, end in pairwise(alone.ends)][SKIPPED - 1 :]
            bench.add(
                "async_overlap", statistics.median(steps), max(generate, train), synchronous=synchronous, **details
            )
