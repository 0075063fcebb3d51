"""What a step costs the driver, by the size of its batch: the graph without models, everything else of it real.

    python tests/benchmarks/driver.py [--engines 1 10 100 1000] [--groups 32 4096] [--steps 3]

run by itself prints a table: the driver's CPU seconds and bytes a step, its memory, and how many groups a second pass
through the collector. A process that uses Ray and only waits takes some 10 ms of CPU a second: for the figure, steps of
either size take the same time, so that what differs is what the batch costs.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import Bench, Goal, Side, TakeTurn

GOALS = (Goal("driver_flatness", "the driver's CPU and bytes a step, 4,096 groups against 32", "worst", "<=", 1.10),)

FEW, MANY = 32, 4096
STEPS = 3
PROCESSES = 100
"""More engines than that share processes: each has its own share of a batch and answers for itself."""

PACE_S = 8.0
"""Seconds that a step takes at least: longer than those of the large batch need on two cores."""


def measure(bench: Bench) -> None:
    """A small batch, a large one, and again; the figure is the worse of both ratios."""
    if bench.wanted("driver_flatness"):
        with bench.attempt("driver_flatness"), Side(bench, "driver", steps) as side:
            for turn in range(1 + bench.repeats):
                few, many = (side.turn((2, groups, STEPS, PACE_S)) for groups in (FEW, MANY))
                if turn:
                    ratios = {name: many[name] / few[name] for name in ("cpu", "bytes")}
                    bench.add("driver_flatness", max(ratios.values()), 1.0, ratios=ratios, few=few, many=many)


def steps(take_turn: TakeTurn) -> None:
    """A turn is (engines, groups a step, steps, seconds a step at least): what these cost the driver, each."""
    import ray

    from pipelines.run import connect

    os.environ["RAY_DISABLE_IMPORT_WARNING"] = "1"
    connect()
    moved = _count_bytes()
    engines: list[Any] = []
    request = take_turn()
    while request:
        request = take_turn(_cost(*request, moved, engines))
    ray.shutdown()


def _cost(engines: int, groups: int, steps: int, pace: float, moved: list[int], running: list[Any]) -> dict[str, float]:
    import psutil
    import ray
    from stubs import StubEngine, StubRank, StubVerifier

    from actors.policy import PolicyGroup
    from actors.rollout import RolloutPool
    from pipelines.config import load
    from pipelines.graph import Graph
    from pipelines.grpo import collecting, grpo_step
    from pipelines.run import Run
    from pipelines.stream import Data

    while len(running) < min(engines, PROCESSES):
        running.append(StubEngine.options(num_cpus=0).remote())
    verifier, rank = StubVerifier.options(num_cpus=0).remote(), StubRank.options(num_cpus=0).remote(pace)
    with tempfile.TemporaryDirectory() as folder:
        flags = {"run-dir": folder, "steps": steps + 1, "grpo.groups": groups, "grpo.loss.kl-coef": 0}
        flags |= {"rollout.samples": 4, "rollout.max-new-tokens": 64}
        config, _ = load([word for name, value in flags.items() for word in (f"--{name}", str(value))], "")
        policy = PolicyGroup(config.policy, "none", [rank])
        pool = RolloutPool([running[i % len(running)] for i in range(engines)], config.rollout.timeout_s)
        graph = Graph(verifier, pool, policy, verifier, [], [1, 2], {"num_cpus": 0})
        run = Run(Path(folder), config, writer=None)
        collector = collecting(graph, config, Data.load(config.data, 0, heldout=1), run, both_orders=True)
        found = []
        for step in range(1, steps + 2):
            begin, cpu, size = time.perf_counter(), time.process_time(), sum(moved)
            grpo_step(graph, collector, config, run, step)
            seconds = time.perf_counter() - begin
            found.append({"cpu": time.process_time() - cpu, "bytes": sum(moved) - size, "seconds": seconds})
        for actor in (collector, verifier, rank):
            ray.kill(actor)
    costs = {name: statistics.median(one[name] for one in found[1:]) for name in found[0]}
    return costs | {
        "groups_per_second": groups / costs["seconds"],
        "driver_mib": psutil.Process().memory_info().rss / 2**20,
    }


def _count_bytes() -> list[int]:
    """[sent, received] of this process by way of Ray, kept up to date: arguments, results, and what is put."""
    from ray._private.serialization import SerializationContext

    moved = [0, 0]
    serialize, deserialize = SerializationContext.serialize, SerializationContext.deserialize_objects

    def counted_serialize(self: Any, value: Any) -> Any:
        made = serialize(self, value)
        moved[0] += made.total_bytes
        return made

    def counted_deserialize(self: Any, objects: Any, *rest: Any) -> Any:
        moved[1] += sum(len(one.data) if one.data is not None else 0 for one in objects)
        return deserialize(self, objects, *rest)

    SerializationContext.serialize = counted_serialize
    SerializationContext.deserialize_objects = counted_deserialize
    return moved


def main() -> None:
    """The table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engines", type=int, nargs="+", default=[1, 10, 100, 1000])
    parser.add_argument("--groups", type=int, nargs="+", default=[32, 4096])
    parser.add_argument("--steps", type=int, default=3, help="of each, behind one that does not count")
    options = parser.parse_args()
    asked = iter([(engines, groups, options.steps, 0.0) for engines in options.engines for groups in options.groups])
    current: list[tuple[int, int, int, float]] = []

    def take_turn(answer: dict[str, float] | None = None) -> tuple[int, int, int, float] | None:
        if answer:
            engines, groups, *_ = current.pop()
            shown = "  ".join(f"{name} {value:.4g}" for name, value in answer.items())
            print(f"{engines:>5} engines  {groups:>7} groups  {shown}", flush=True)
        current.extend(request for request in [next(asked, None)] if request)
        return current[-1] if current else None

    steps(take_turn)


if __name__ == "__main__":
    main()
