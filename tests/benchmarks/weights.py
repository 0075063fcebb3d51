"""Seconds until the engine samples under new weights, and whether they depend on how many tensors these are."""

from __future__ import annotations

import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from measuring import Bench, Goal, MeasurementError, Side, TakeTurn
from workload import forced_model, step_flags, thin_model, wide_model

GOALS = (
    Goal("sync_seconds", "new weights to first token, against 5 x memcpy + 50 ms", "s", "<=", 1.0),
    Goal("sync_flatness", "a sync of 1,001 tensors against 20 of the same bytes", "s", "<=", 1.3),
)

WARM_UP = 2
SYNCS = 3
"""Optimizer steps and syncs a turn; their median counts."""

COPIES = 9


def measure(bench: Bench) -> None:
    """Each figure by itself."""
    if bench.wanted("sync_seconds"):
        with bench.attempt("sync_seconds"), Side(bench, "sync", synced, forced_model(bench)) as side:
            for turn in range(WARM_UP + bench.repeats):
                found = side.turn("first token")
                if turn >= WARM_UP:
                    bench.add("sync_seconds", found["seconds"], 5 * found["memcpy"] + 0.05, **side.said, **found)
    if bench.wanted("sync_flatness"):
        with bench.attempt("sync_flatness"), ExitStack() as open_:
            many = open_.enter_context(Side(bench, "sync-thin", synced, thin_model(bench)))
            few = open_.enter_context(Side(bench, "sync-wide", synced, wide_model(bench)))
            for turn in range(WARM_UP + bench.repeats):
                thin, wide = many.turn("transfer"), few.turn("transfer")
                if turn >= WARM_UP:
                    details = {"thin": many.said | thin, "wide": few.said | wide}
                    bench.add("sync_flatness", thin["seconds"], wide["seconds"], **details)


def synced(take_turn: TakeTurn, model: str) -> None:
    """Optimizer steps, each followed by a sync to one idle engine; seconds of each part.

    A turn of "first token" is the whole of PolicyGroup.sync and one sampled token. One of "transfer" is the ranks'
    sending without a probe, as scoring that takes as long as the model is deep.
    """
    import ray
    from safetensors.numpy import load_file

    from actors.rollout import Sampling
    from evals.prompts import prompt_format
    from pipelines.config import load
    from pipelines.graph import service_graph
    from pipelines.run import Run
    from pipelines.stream import Data, Lessons

    tensors = load_file(Path(model) / "model.safetensors")
    size = sum(tensor.nbytes for tensor in tensors.values())
    one_token = Sampling(samples=1, temperature=1.0, top_p=1.0, max_new_tokens=1)
    with tempfile.TemporaryDirectory() as folder:
        flags = step_flags(model, folder) | {"rollout.engines": 1, "grpo.loss.kl-coef": 0}
        config, _ = load([word for name, value in flags.items() for word in (f"--{name}", str(value))], "")
        data = Data.load(config.data, config.seed, heldout=1)
        _, traces = next(Lessons(None, data, prompt_format(config.data.format), 0.0).batches(8))
        task = next(data.tasks(both_orders=False))
        with Run.open(config) as run, service_graph(config, run, model) as graph:
            policy, pool = graph.policy, graph.pool
            examples, lengths = graph.encoder.examples.options(num_returns=2).remote(traces)
            lengths = ray.get(lengths)

            def first_token() -> dict[str, float]:
                begin = time.perf_counter()
                policy.sync(graph.probe, config.weights.probe_tolerance)
                sent = time.perf_counter()
                ((_, ref),) = pool.rollout([task], one_token, seed=0)
                group = ray.get(ref)
                end = time.perf_counter()
                if group.version != policy.version:
                    raise MeasurementError(f"sampled by version {group.version}, sent was version {policy.version}")
                return {"seconds": end - begin, "sync": sent - begin, "token": end - sent, "memcpy": _copied(size)}

            def transfer() -> dict[str, float]:
                begin = time.perf_counter()
                ray.get([rank.send_weights.remote(policy.version, []) for rank in policy.ranks])
                return {"seconds": time.perf_counter() - begin}

            measured = {"first token": first_token, "transfer": transfer}
            request = take_turn({"tensors": len(tensors), "bytes": size})
            while request:
                found = []
                for _ in range(SYNCS):
                    policy.update_sft(examples, lengths)
                    found.append(measured[request]())
                request = take_turn({name: statistics.median(one[name] for one in found) for name in found[0]})


def _copied(size: int) -> float:
    """The median seconds of copying so many bytes into memory that is there already, a fresh piece each time."""
    import numpy as np

    source = np.ones(size, np.uint8)
    seconds = []
    for _ in range(COPIES):
        target = np.zeros(size, np.uint8)
        target.fill(2)  # now it is there
        begin = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds)
