"""Tokens a second through the pool of engines in Ray actors, against vLLM's own `LLM` on the same cores.

The pool has two engines of one core each. The reference is vLLM alone with the same arguments, prompts and seeds: two
processes of one thread at once, each with the prompts that the pool would give it, or one process of two threads with
all of them, whichever is the faster. Prompts are other ones in each turn, so that none is found in a cache.
"""

from __future__ import annotations

import statistics
import time
from contextlib import ExitStack
from typing import Any

from measuring import Bench, Goal, Side, TakeTurn
from workload import SAMPLES, TOKENS, check_lengths, forced_model

GOALS = (Goal("pool_vs_raw", "the pool of two engines against vLLM alone", "tokens/s", ">=", 0.95),)

PROMPTS = 32
ENGINES = 2
WARM_UP = 3
"""Turns that do not count; by then an engine has touched all of its KV cache."""

ROLLOUT = {"engines": ENGINES, "samples": SAMPLES, "max_new_tokens": TOKENS, "kv_cache_gib": 0.5}


def measure(bench: Bench) -> None:
    """The pool, two processes, one process, and again."""
    with bench.attempt("pool_vs_raw"), ExitStack() as open_:
        model = forced_model(bench)
        pooled = open_.enter_context(Side(bench, "pool", pool, model))
        halves = [
            open_.enter_context(Side(bench, f"raw-half-{part}", raw, model, part, ENGINES, env=_env(1)))
            for part in range(ENGINES)
        ]
        whole = open_.enter_context(Side(bench, "raw-whole", raw, model, 0, 1, env=_env(ENGINES)))
        turns = []
        for turn in range(WARM_UP + bench.repeats):
            speeds = {
                "pool": _speed([pooled], turn),
                "two processes": _speed(halves, turn),
                "one process": _speed([whole], turn),
            }
            turns += [speeds] if turn >= WARM_UP else []
        fastest = max(("two processes", "one process"), key=lambda name: statistics.median(one[name] for one in turns))
        for speeds in turns:
            bench.add("pool_vs_raw", speeds["pool"], speeds[fastest], against=fastest, tokens_per_second=speeds)


def _speed(sides: list[Side], turn: int) -> float:
    """Tokens a second of sides that work at once, by the slowest of them."""
    for side in sides:
        side.begin(turn)
    answers: list[dict[str, Any]] = [side.end() for side in sides]
    lengths = [length for answer in answers for length in answer["lengths"]]
    check_lengths(sides[0].name, lengths)
    return sum(lengths) / max(answer["seconds"] for answer in answers)


def _env(threads: int) -> dict[str, str]:
    """What the pool's engines have in their environment."""
    return {
        **{"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind"},
        **{"OMP_NUM_THREADS": str(threads), "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING"},
        "TORCH_COMPILE_DISABLE": "1",
    }


def _tasks(turn: int) -> list[Any]:
    from itertools import islice

    from pipelines.config import DataConfig
    from pipelines.stream import Data

    tasks = Data.load(DataConfig(), 0, heldout=1).tasks(both_orders=True)
    return list(islice(tasks, turn * PROMPTS, (turn + 1) * PROMPTS))


def pool(take_turn: TakeTurn, model: str) -> None:
    """Sample a turn's prompts through the pool, until every group is there."""
    import ray

    from actors.config import PlacementConfig, PolicyConfig, RolloutConfig, WeightsConfig
    from actors.placement import Placement, rollout_plan
    from actors.rollout import RolloutPool, Sampling
    from pipelines.run import connect

    rollout = RolloutConfig(**ROLLOUT)
    connect()
    placement = Placement.reserve(PlacementConfig(), rollout_plan(PlacementConfig(), rollout))
    engines = RolloutPool.start(placement, model, "compact", PolicyConfig(), rollout, WeightsConfig())
    engines.wait()
    turn = take_turn()
    while turn is not None:
        tasks = _tasks(turn)
        begin = time.perf_counter()
        refs = [ref for _, ref in engines.rollout(tasks, Sampling.of(rollout), turn)]
        seconds = time.perf_counter() - begin
        lengths = [len(one.ids) for group in ray.get(refs) for one in group.rollouts]
        turn = take_turn({"seconds": seconds, "lengths": lengths})
    placement.release()
    ray.shutdown()


def raw(take_turn: TakeTurn, model: str, part: int, parts: int) -> None:
    """Sample one part of a turn's prompts by `LLM.generate`, in this process."""
    import torch
    from vllm import LLM, SamplingParams

    from actors.config import RolloutConfig
    from actors.rollout import batch_seed, engine_arguments
    from actors.tokens import PromptEncoder
    from evals.prompts import COMPACT

    rollout = RolloutConfig(**ROLLOUT)
    llm = LLM(**engine_arguments(model, "float32", rollout, "cpu"))
    encoder = PromptEncoder(model)
    params = SamplingParams(
        n=SAMPLES,
        temperature=rollout.temperature,
        top_p=rollout.top_p,
        max_tokens=TOKENS,
        stop_token_ids=[encoder.eos],
        logprobs=0,
        detokenize=False,
    )
    turn = take_turn()
    while turn is not None:
        shown = [COMPACT.render(task.pair, task.order) for task in _tasks(turn)[part::parts]]
        prompts = [{"prompt_token_ids": encoder.encode_prompt(messages).tolist()} for messages in shown]
        begin = time.perf_counter()
        torch.manual_seed(batch_seed(turn, part))
        outputs = llm.generate(prompts, params, use_tqdm=False)
        seconds = time.perf_counter() - begin
        lengths = [len(one.token_ids) for output in outputs for one in output.outputs]
        turn = take_turn({"seconds": seconds, "lengths": lengths})
