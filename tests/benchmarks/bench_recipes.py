"""RM-R1's ablation on the embedded task: what distillation, reinforcement learning and the recipe each bring.

    python tests/benchmarks/bench_recipes.py [--seeds 0 1 2] [--output runs/bench/recipes]

The judges of a seed: distilled only; RL only, from a model made from nothing and from one that has learnt the form of a
judgement and no judging; distilled, then RL by RM-R1's recipe; distilled, then RL by Gavel's. The recipes are those of
the presets scaled down: group sizes, mini-batches, clipping, KL and orders are the presets'; numbers of prompts and
steps are for a model of 0.7 M parameters on two cores. Both recipes judge 448 times a step, so that they sample the
same number of tokens, and both were run at the two learning rates: the one that was best for RM-R1's on seed 0, and
the default.

Every judge is scored on the same 500 held-out pairs a seed, in both orders. Intervals are 95 % bootstraps over the
questions of all seeds' pairs, so they hold for these seeds; the difference of the recipes is paired by pair. A run
whose results are there is not made again.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from evals.synthetic import SyntheticTask
from evals.traces import label_trace
from evals.verdicts import ORDERS

ROOT = Path(__file__).parents[2]

RM_R1 = (
    *("--data.both-orders", "false", "--rollout.samples", "7", "--grpo.groups", "64", "--grpo.minibatches", "8"),
    *("--grpo.refill-rounds", "0", "--verifier.reward", "rm_r1", "--steps", "14", "--grpo.optimizer.lr"),
)
GAVEL = (
    *("--data.both-orders", "true", "--rollout.samples", "4", "--grpo.groups", "112", "--grpo.minibatches", "8"),
    *("--grpo.baseline", "pair", "--grpo.refill-rounds", "0", "--verifier.reward", "consistent", "--steps", "14"),
    *("--grpo.loss.clip-high", "0.28", "--grpo.loss.kl-unbiased", "true", "--grpo.loss.correction.level", "token"),
    "--grpo.optimizer.lr",
)

ARMS = {
    "distilled": ("distilled", None),
    "RL only, from nothing": ("nothing", (*RM_R1, "1e-4")),
    "RL only, knows the form": ("form", (*RM_R1, "1e-4")),
    "distilled, RM-R1, lr 1e-4": ("distilled", (*RM_R1, "1e-4")),
    "distilled, Gavel, lr 1e-4": ("distilled", (*GAVEL, "1e-4")),
    "distilled, RM-R1, lr 2e-4": ("distilled", (*RM_R1, "2e-4")),
    "distilled, Gavel, lr 2e-4": ("distilled", (*GAVEL, "2e-4")),
}
"""Name of a judge -> the model that it starts from, and the flags of its training."""

ONCE = {"RL only, from nothing"}
"""Judges of the first seed alone: hardly a judgement of theirs has a verdict, so there is nothing to learn from."""

COMPARED = ("lr 1e-4", "lr 2e-4")


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


Right = dict[tuple[int, str, str], list[bool]]
"""(seed, question, pair) -> whether each of the two orders is right."""


def lines(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, whatever characters a model babbled into them."""
    with path.open("rb") as file:
        return [json.loads(line) for line in file]


def judged(folder: Path, stage: str, mode: str, seed: int) -> Right:
    """What the stored judgements of a run's held-out pairs come to."""
    asked = {pair["id"]: pair["messages"][-1]["content"] for pair in lines(folder / "eval" / "pairs.jsonl")}
    found: Right = {}
    for row in lines(folder / "eval" / f"{stage}-{mode}.jsonl"):
        key = (seed, asked[row["pair_id"]], row["pair_id"])
        found.setdefault(key, []).append(row["verdict"] == row["gold"])
    return found


FIGURES = {
    "accuracy, greedy": ("greedy", np.mean),
    "both orders, greedy": ("greedy", min),
    "accuracy, sampled": ("sampled", np.mean),
    "both orders, sampled": ("sampled", min),
}


def interval(values: dict[tuple[int, str, str], float]) -> tuple[float, float, float]:
    """Mean and its 95 % bootstrap interval; all pairs of a question are drawn together."""
    rng = np.random.default_rng(0)
    clusters: dict[str, list[float]] = {}
    for (_, question, _), value in values.items():
        clusters.setdefault(question, []).append(value)
    sums = np.array([[sum(one), len(one)] for one in clusters.values()])
    drawn = sums[rng.integers(0, len(sums), (2000, len(sums)))].sum(1)
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(np.mean(list(values.values()))), float(low), float(high)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("runs/bench/recipes"))
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    found: dict[str, dict[str, Right]] = {name: {"greedy": {}, "sampled": {}} for name in ARMS}
    tokens: dict[str, list[int]] = {name: [] for name in ARMS}
    for seed in arguments.seeds:
        for name, (start, flags) in ARMS.items():
            if name in ONCE and seed != arguments.seeds[0]:
                continue
            print(f"seed {seed}: {name} ...", file=sys.stderr, flush=True)
            model = start_of(start, seed, output)
            # The distilled judge is scored where it starts to be trained on.
            of = "distilled, RM-R1, lr 1e-4" if flags is None else name
            folder = output / f"{of.replace(',', '').replace(' ', '-').lower()}-{seed}"
            run("grpo.py", folder, "--model", model, "--seed", seed, *(ARMS[of][1] or ()))
            for mode, right in found[name].items():
                right |= judged(folder, "grpo" if flags else "start", mode, seed)
            tokens[name].append(sum(row["tokens"] for row in lines(folder / "metrics.jsonl")) if flags else 0)
    report(found, tokens, output)


def report(found: dict[str, dict[str, Right]], tokens: dict[str, list[int]], output: Path) -> None:
    """Print the table as Markdown and write it as JSON."""
    values = {
        name: {
            figure: {key: float(both(orders)) for key, orders in right[mode].items()}
            for figure, (mode, both) in FIGURES.items()
        }
        for name, right in found.items()
    }
    for at in COMPARED:
        ours, theirs = values[f"distilled, Gavel, {at}"], values[f"distilled, RM-R1, {at}"]
        values[f"Gavel less RM-R1, {at}"] = {
            figure: {key: ours[figure][key] - theirs[figure][key] for key in ours[figure]} for figure in FIGURES
        }
    print(f"| judge | sampled tokens | {' | '.join(FIGURES)} |\n|---|---|{'---|' * len(FIGURES)}")
    rows = {}
    for name, by_figure in values.items():
        pooled = {figure: interval(by_pair) for figure, by_pair in by_figure.items()}
        seeds = sorted({seed for seed, _, _ in next(iter(by_figure.values()))})
        by_seed = {
            figure: [float(np.mean([v for key, v in by_pair.items() if key[0] == seed])) for seed in seeds]
            for figure, by_pair in by_figure.items()
        }
        sampled = tokens.get(name, [])
        cells = [f"{mean:.3f} [{low:.3f}, {high:.3f}]" for mean, low, high in pooled.values()]
        print(f"| {name} | {np.mean(sampled):,.0f} |" if sampled else f"| {name} | |", " | ".join(cells), "|")
        rows[name] = {"seeds": seeds, "tokens": sampled, "pooled": pooled, "by_seed": by_seed}
    content = {"judges": rows, "arms": ARMS}
    (output / "recipes.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
