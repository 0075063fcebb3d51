"""RM-R1's ablation on the embedded task: what distillation, reinforcement learning and the recipe each bring.

    python tests/benchmarks/bench_recipes.py [--seeds 0 1 2] [--output runs/bench/recipes]

Five judges a seed: distilled only; RL only, from a model made from nothing and from one that has learnt the form of a
judgement and no judging; distilled, then RL by RM-R1's recipe; distilled, then RL by Gavel's. The recipes are those of
the presets scaled down: group sizes, mini-batches, rewards, clipping, KL and orders are the presets'; numbers of
prompts, steps and learning rates are for a model of 0.7 M parameters on two cores. Both recipes sample the same number
of tokens, which is counted and printed, and both learning rates are the best of those that were tried on seed 0.

Every judge is scored on the same 500 held-out pairs a seed, in both orders. Intervals are 95 % bootstraps over pairs
of all seeds; the difference of the two recipes is paired by pair and seed. A run whose results are there is not made
again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from evals.synthetic import SyntheticTask
from evals.traces import label_trace
from evals.verdicts import ORDERS

ROOT = Path(__file__).parents[2]

RM_R1 = (
    *("--data.both-orders", "false", "--rollout.samples", "7", "--grpo.groups", "64", "--grpo.minibatches", "8"),
    *("--grpo.refill-rounds", "0", "--verifier.reward", "rm_r1", "--steps", "14"),
)
GAVEL = (
    *("--data.both-orders", "true", "--rollout.samples", "8", "--grpo.groups", "64", "--grpo.minibatches", "8"),
    *("--grpo.refill-rounds", "0", "--verifier.reward", "consistent", "--steps", "12"),
)

ARMS = {
    "distilled": ("distilled", None),
    "RL only, from nothing": ("nothing", RM_R1),
    "RL only, knows the form": ("form", RM_R1),
    "distilled + RL, RM-R1": ("distilled", RM_R1),
    "distilled + RL, Gavel": ("distilled", GAVEL),
}
"""Name of a judge -> the model that it starts from, and the flags of its training."""


def run(script: str, folder: Path, *flags: object) -> None:
    """Run a pipeline into a folder, unless its results are there."""
    done = folder / ("summary.json" if script == "grpo.py" else "distill/recipe.json")
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, f"pipelines/{script}", "--run-dir", folder, *flags]
    with (folder / "log").open("w") as log:
        subprocess.run(list(map(str, command)), cwd=ROOT, stdout=log, stderr=log, check=True)


def start_of(kind: str, seed: int, output: Path) -> Path:
    """The folder of the model that an arm starts from."""
    folder = output / f"{kind}-{seed}"
    if kind == "nothing":
        from actors.config import EmbeddedModelConfig
        from actors.embedded import make_embedded_model

        if not (folder / "config.json").exists():
            make_embedded_model(folder, EmbeddedModelConfig(), seed)
        return folder
    flags: tuple[object, ...] = ("--seed", seed)
    if kind == "form":
        folder.mkdir(parents=True, exist_ok=True)
        traces = folder / "traces.jsonl"
        write_form(traces, seed)
        flags += ("--distill.traces", traces, "--distill.steps", 100)
    run("distill.py", folder, *flags)
    return folder / "distill"


def write_form(path: Path, seed: int) -> None:
    """Traces in which the verdict is drawn by lot: they teach tags and nothing about the pair."""
    from evals.prompts import COMPACT

    rng = random.Random(seed)
    rows = []
    for pair in SyntheticTask(seed).pairs("train", 3000):
        order = rng.choice(ORDERS)
        text = label_trace(pair, order, rng, slip_rate=0.5)
        messages = COMPACT.render(pair, order)
        row = {"pair_id": pair.id, "subset": pair.subset, "order": order, "gold": pair.gold, "format": COMPACT.name}
        rows.append(row | {"messages": messages, "text": text})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


Right = dict[str, npt.NDArray[np.float64]]
"""By figure, one value a pair: share of its two orders that are right, or whether both are."""


def figures(folder: Path, stage: str) -> Right:
    """What the stored judgements of a run's held-out pairs come to."""
    found: Right = {}
    for mode in ("greedy", "sampled"):
        by_pair: dict[str, list[bool]] = {}
        for line in (folder / "eval" / f"{stage}-{mode}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            by_pair.setdefault(row["pair_id"], []).append(row["verdict"] == row["gold"])
        orders = np.array([by_pair[id_] for id_ in sorted(by_pair)], float)
        found[f"{mode}"] = orders.mean(1)
        found[f"{mode}, both orders"] = orders.min(1)
    return found


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (2000, len(values)))].mean(1)
    return float(values.mean()), *map(float, np.percentile(means, [2.5, 97.5]))


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/bench/recipes"))
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    right: dict[str, list[Right]] = {}
    tokens: dict[str, list[int]] = {}
    for seed in arguments.seeds:
        for name, (start, flags) in ARMS.items():
            print(f"seed {seed}: {name} ...", file=sys.stderr, flush=True)
            model = start_of(start, seed, output)
            folder = output / f"{name.replace(' ', '-').replace(',', '').replace('+', 'and')}-{seed}"
            # The distilled judge is scored where it starts to be trained on.
            at = folder if flags else output / f"distilled-and-RL-RM-R1-{seed}"
            run("grpo.py", at, "--model", model, "--seed", seed, *(flags or RM_R1))
            right.setdefault(name, []).append(figures(at, "grpo" if flags else "start"))
            metrics = [json.loads(line) for line in (at / "metrics.jsonl").read_text().splitlines()]
            tokens.setdefault(name, []).append(sum(row["tokens"] for row in metrics) if flags else 0)
    report(right, tokens, arguments.seeds, output)


def report(right: dict[str, list[Right]], tokens: dict[str, list[int]], seeds: Sequence[int], output: Path) -> None:
    """Print the table as Markdown and write it as JSON."""
    names = list(next(iter(right.values()))[0])
    print(f"| judge | sampled tokens | {' | '.join(names)} |\n|---|---|{'---|' * len(names)}")
    rows = {}
    for judge, found in right.items():
        pooled = {name: interval(np.concatenate([one[name] for one in found])) for name in names}
        by_seed = {name: [float(one[name].mean()) for one in found] for name in names}
        cells = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in pooled.values()]
        print(f"| {judge} | {np.mean(tokens[judge]):,.0f} | {' | '.join(cells)} |")
        rows[judge] = {"tokens": tokens[judge], "pooled": pooled, "by_seed": by_seed}
    ours, theirs = right["distilled + RL, Gavel"], right["distilled + RL, RM-R1"]
    differences = {
        name: interval(np.concatenate([one[name] - two[name] for one, two in zip(ours, theirs, strict=True)]))
        for name in names
    }
    cells = [f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]" for mean, low, high in differences.values()]
    print(f"| Gavel less RM-R1, paired | | {' | '.join(cells)} |")
    content = {"seeds": list(seeds), "judges": rows, "gavel_less_rm_r1": differences, "rm_r1": RM_R1, "gavel": GAVEL}
    (output / "recipes.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
