"""The held-out pairs of a training run, judged before and after it: in both orders, greedily and sampled.

Judgements go to `eval/` in the run directory, one JSON line each; the scores can be recomputed from them alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import ray
from ray.actor import ActorHandle

from actors.rollout import RolloutPool, Sampling, Task
from evals.benchmarks import PAIRS
from evals.judgements import read_judgements
from evals.pairs import Pair, save_pairs
from evals.scores import score
from evals.verdicts import ORDERS
from pipelines.config import RunConfig
from pipelines.run import Run
from pipelines.stream import Data


def evaluate(
    pool: RolloutPool, verifier: ActorHandle, pairs: Sequence[Pair], config: RunConfig, run: Run, label: str
) -> dict[str, object]:
    """Judge every pair once in each order, greedily and sampled; returns the scores that the summary shows."""
    tasks = [Task(2 * i + k, pair, order) for i, pair in enumerate(pairs) for k, order in enumerate(ORDERS)]
    sampling = replace(Sampling.of(config.rollout), samples=1)
    found = {}
    save_pairs(run.folder / "eval" / "pairs.jsonl", pairs)
    for mode, how in {"greedy": replace(sampling, temperature=0.0), "sampled": sampling}.items():
        with run.clock("evaluate"):
            judged = {
                task.index: verifier.score.options(num_returns=2).remote(group)[1]
                for task, group in pool.rollout(tasks, how, (config.seed, "evaluate", mode))
            }
            path = run.folder / "eval" / f"{label}-{mode}.jsonl"
            ray.get(verifier.write.remote(path, {}, *(judged[index] for index in sorted(judged))))
        found[mode] = score(read_judgements([path], PAIRS.name)[PAIRS.name], both_orders=True)
    greedy, sampled = found["greedy"], found["sampled"]
    run.say(
        f"{label:<14} sampled {sampled.accuracy:.3f}  greedy {greedy.accuracy:.3f}  "
        f"both orders {greedy.both_orders:.3f}  position bias {greedy.position_bias:+.3f}  "
        f"no verdict {sampled.no_verdict:.3f}  ({greedy.pairs} pairs)"
    )
    return {
        "accuracy_greedy": greedy.accuracy,
        "accuracy_sampled": sampled.accuracy,
        "accuracy_both_orders": greedy.both_orders,
        "accuracy_both_orders_sampled": sampled.both_orders,
        "position_bias": greedy.position_bias,
        "no_verdict": sampled.no_verdict,
        "pairs": greedy.pairs,
        "by_subset": sampled.by_subset,
    }


def fitting(data: Data, encoder: ActorHandle, config: RunConfig) -> tuple[Data, int]:
    """The data without pairs whose prompt, in either order, does not fit the engine; and how many those are."""
    pairs = [*(data.train or []), *data.heldout]
    lengths = ray.get(encoder.prompt_lengths.remote([(pair, order) for pair in pairs for order in ORDERS]))
    room = config.rollout.max_model_len - config.rollout.max_new_tokens
    longest = [max(both) for both in zip(lengths[::2], lengths[1::2], strict=True)]
    fits = {pair.id for pair, length in zip(pairs, longest, strict=True) if length <= room}
    return data.keep(fits), len(pairs) - len(fits)


def describe(data: Data, too_long: int, config: RunConfig, run: Run) -> dict[str, object]:
    """Say what is judged and what was left out; returns the same for the summary."""
    train = None if data.train is None else len(data.train)
    supply = "without end" if train is None else f"{train} pairs"
    run.say(f"data           {data.source}: train {supply}, held out {len(data.heldout)} pairs")
    if too_long:
        room = config.rollout.max_model_len - config.rollout.max_new_tokens
        run.say(f"too long       {too_long} pairs left out, whose prompts are over {room} tokens")
    return {"source": data.source, "train_pairs": train, "heldout_pairs": len(data.heldout), "too_long": too_long}
