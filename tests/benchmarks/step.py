"""A synchronous GRPO step of ours against one of TRL's GRPOTrainer, and what share of ours is work.

Both train the same model on the same prompts, in the same order, with KL to a reference, on two threads; every sample
has the same length. TRL computes in fp32, as it does on a CPU, also where ours does so in bf16.
"""

from __future__ import annotations

import tempfile
import time
from typing import Any

from measuring import Bench, Goal, MeasurementError, Side, TakeTurn
from workload import KL, LR, PROMPTS, SAMPLES, TOKENS, check_lengths, forced_model, step_flags

GOALS = (
    Goal("step_vs_trl", "a synchronous step, fp32, against TRL", "samples/s", ">=", 2.0, least=1.6),
    Goal("step_vs_trl_bf16", "a synchronous step, bf16, against TRL in fp32", "samples/s", ">=", 2.5, least=2.2),
    Goal("work_share", "share of a synchronous step that is work", "s", ">=", 0.92),
)

WARM_UP = 2
"""Turns of each side that do not count."""

PLACEMENT = {
    **{"policy.ranks": 2, "policy.threads": 1, "reference.replicas": 2, "reference.threads": 1},
    **{"rollout.engines": 2, "rollout.threads": 1},
}
"""One process a core: two threads of one process wait for each other's Python."""

DTYPES = {"float32": ("step_vs_trl", "work_share"), "bfloat16": ("step_vs_trl_bf16",)}
"""What ours computes in -> the figures that this gives."""


def measure(bench: Bench) -> None:
    """Take turns with TRL, first in one dtype, then in the other; only one Ray cluster is there at a time."""
    against = bench.wanted("step_vs_trl", "step_vs_trl_bf16")
    with bench.attempt(*(goal.key for goal in GOALS)):
        model = forced_model(bench)
        if not against:
            _with_ours(bench, model, None)
            return
        with Side(bench, "trl", trl, model) as theirs:
            for _ in range(WARM_UP):
                _turn(theirs)
            _with_ours(bench, model, theirs)


def _with_ours(bench: Bench, model: str, theirs: Side | None) -> None:
    for dtype, keys in DTYPES.items():
        if not bench.wanted(*keys):
            continue
        with bench.attempt(*keys), Side(bench, f"ours-{dtype}", ours, model, dtype) as mine:
            for _ in range(WARM_UP):
                _turn(mine)
            for _ in range(bench.repeats):
                reference = _turn(theirs) if theirs else None
                step = _turn(mine)
                if reference:
                    speeds = (PROMPTS * SAMPLES / step["seconds"], PROMPTS * SAMPLES / reference["seconds"])
                    bench.add(keys[0], *speeds, ours=step, trl=reference)
                if "work_share" in keys:
                    bench.add("work_share", step["phases"]["working"], step["seconds"], phases=step["phases"])


def _turn(side: Side) -> dict[str, Any]:
    """One step; its `lengths` are summed up once they have been looked at."""
    step = side.turn()
    lengths = step.pop("lengths")
    check_lengths(side.name, lengths)
    if len(lengths) != PROMPTS * SAMPLES:
        raise MeasurementError(f"{side.name}: a step of {len(lengths)} samples, not {PROMPTS * SAMPLES}")
    return step | {"samples": len(lengths), "length": TOKENS}


def ours(take_turn: TakeTurn, model: str, dtype: str) -> None:
    """A step of the pipeline each turn."""
    from pipelines.config import load
    from pipelines.graph import service_graph
    from pipelines.grpo import collecting, grpo_step
    from pipelines.run import Run
    from pipelines.stream import Data

    with tempfile.TemporaryDirectory() as folder:
        flags = step_flags(model, folder) | {"grpo.groups": PROMPTS, "grpo.loss.kl-coef": KL, "policy.dtype": dtype}
        flags |= PLACEMENT | {"steps": 1000}
        if dtype == "bfloat16":
            flags["weights.probe-tolerance"] = 0.5
        config, _ = load([word for name, value in flags.items() for word in (f"--{name}", str(value))], "")
        data = Data.load(config.data, config.seed, heldout=1)
        with Run.open(config) as run, service_graph(config, run, model) as graph:
            graph.policy.sync(graph.probe, config.weights.probe_tolerance)
            collector = collecting(graph, config, data, run, config.data.both_orders)
            step, more = 0, take_turn()
            while more:
                step += 1
                begin = time.perf_counter()
                metrics = grpo_step(graph, collector, config, run, step)
                run.log(step, metrics)
                seconds = time.perf_counter() - begin
                trained = metrics["groups"] * SAMPLES
                lengths = [int(metrics["length"])] * trained
                # No sample is longer than TOKENS, so a mean of TOKENS says that none is shorter.
                phases = metrics["seconds"] | metrics["work"]
                more = take_turn({"seconds": seconds, "phases": phases, "lengths": lengths})


def trl(take_turn: TakeTurn, model: str) -> None:
    """A step of TRL's trainer each turn: from the end of the one before to its own end."""
    import torch

    torch.set_num_threads(2)
    from itertools import islice

    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer
    from workload import chance

    from evals.prompts import COMPACT
    from pipelines.config import DataConfig
    from pipelines.stream import Data

    most = 1000
    tasks = islice(Data.load(DataConfig(), 0, heldout=1).tasks(both_orders=True), PROMPTS * most)
    asked = [{"prompt": COMPACT.render(task.pair, task.order)} for task in tasks]
    lengths: list[int] = []

    def reward(completion_ids: list[list[int]], **_: object) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [chance(None, None) for _ in completion_ids]

    class Turns(TrainerCallback):
        begin = 0.0

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            take_turn()
            self.begin = time.perf_counter()

        def on_step_end(self, _arguments: Any, _state: Any, control: Any, **_: Any) -> None:
            answer = {"seconds": time.perf_counter() - self.begin, "lengths": list(lengths)}
            lengths.clear()
            control.should_training_stop = not take_turn(answer)
            self.begin = time.perf_counter()

    with tempfile.TemporaryDirectory() as folder:
        config = GRPOConfig(
            output_dir=folder,
            per_device_train_batch_size=PROMPTS * SAMPLES,
            num_generations=SAMPLES,
            max_completion_length=TOKENS,
            shuffle_dataset=False,
            learning_rate=LR,
            max_steps=most,
            logging_steps=1,
            seed=0,
            use_cpu=True,
            bf16=False,
            report_to=[],
            beta=KL,
            save_strategy="no",
            gradient_checkpointing=False,
        )
        trainer = GRPOTrainer(
            model=AutoModelForCausalLM.from_pretrained(model),
            processing_class=AutoTokenizer.from_pretrained(model),
            reward_funcs=reward,
            args=config,
            train_dataset=Dataset.from_list(asked),
            callbacks=[Turns()],
        )
        trainer.train()
