"""Best of N: a policy answers each prompt N times, and a served judge picks.

Prompts are those of --prompts, or the embedded task's held-out questions; of these it is told how often the picked
answer is truly right, beside an answer taken by lot. The output has one JSON line a prompt: `prompt`, `response` (the
best; of equal ones the first), all `responses`, and the judge's `rewards`, from -1 to 1.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from rich.console import Console

from actors.encoding import Encoder, QuestionAlone
from actors.placement import Placement, rollout_plan
from actors.rewarder import Endpoint, Ranked, RefusedError
from actors.rollout import RolloutPool, Sampling, Task
from evals.answers import accuracy, questions, said, without_labels
from evals.pairs import Pair
from evals.writing import write_whole
from pipelines.asking import add_judge_flags, find_judge, rank_all
from pipelines.config import RunConfig, load
from pipelines.errors import readable_errors
from pipelines.flags import from_one
from pipelines.prompts import read_prompts
from pipelines.run import checked_model, connect


def sample(model: str, asked: Sequence[Pair], config: RunConfig) -> list[list[str]]:
    """`rollout.samples` responses of the policy to each question, in their order and without its thinking."""
    connect()
    placement = Placement.reserve(config.placement, rollout_plan(config.placement, config.rollout))
    try:
        prompting = QuestionAlone()
        encoder = Encoder.options(num_cpus=0).remote(model, prompting)
        pool = RolloutPool.start(placement, model, prompting, config.policy, config.rollout, config.weights)
        tasks = [Task(index, pair, "ab") for index, pair in enumerate(asked)]
        how = Sampling.of(config.rollout)
        groups = {task.index: group for task, group in pool.rollout(tasks, how, (config.seed, "best of n"))}
        texts = ray.get(encoder.texts.remote(*(groups[index] for index in sorted(groups))))
        return [[said(text) for text in group] for group in texts]
    finally:
        placement.release()
        ray.shutdown()


def best_of_n(asked: Sequence[Pair], answered: Sequence[Sequence[str]], endpoint: Endpoint) -> list[dict[str, Any]]:
    """The judge's rewards of each question's answers, and the best one, as rows of the output.

    Raises RewardError where the judge refuses an answer or cannot be asked.
    """
    rows: dict[int, dict[str, Any]] = {}

    def done(index: int, found: Ranked | RefusedError) -> None:
        if isinstance(found, RefusedError):
            raise found
        best = found.rewards.index(max(found.rewards))
        rows[index] = {
            "id": asked[index].id,
            "prompt": list(asked[index].messages),
            "response": answered[index][best],
            "responses": list(answered[index]),
            "rewards": found.rewards,
        }

    def shown(index: int) -> tuple[Any, Sequence[str], str]:
        return asked[index].messages, answered[index], f"answers to {asked[index].id!r}"

    rank_all(endpoint, range(len(asked)), shown, done)
    return [rows[index] for index in range(len(asked))]


def best_of_n_command(argv: Sequence[str]) -> int:
    """`rlhf.py best-of-n`; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="rlhf.py best-of-n",
        description=__doc__,
        epilog="Dotted flags set the policy's engines as in training: --rollout.temperature, --rollout.max-new-tokens, "
        "--seed, ...; rlhf.py --help lists them all.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--model", required=True, help="the policy: Hugging Face folder or hub name")
    parser.add_argument("--n", type=from_one, default=8, help="answers a prompt (default: %(default)s)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="rows with `prompt`")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="the best answers, as JSON lines")
    add_judge_flags(parser)
    arguments, rest = parser.parse_known_args(argv)
    config, _ = load([*rest, f"--rollout.samples={arguments.n}"], __doc__, "rlhf.yaml")
    console = Console(highlight=False, soft_wrap=True)
    with readable_errors():
        model, endpoint = checked_model(arguments.model), find_judge(arguments)
        gold = [] if arguments.prompts else questions(config.seed, "heldout", config.evaluation.pairs)
        given = [row.pair() for row in read_prompts(arguments.prompts)] if arguments.prompts else gold
        asked = [without_labels(pair) for pair in given]
        answered = sample(model, asked, config)
        rows = best_of_n(asked, answered, endpoint)
        write_whole(arguments.output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    if gold:
        for name, answers in (("by lot", answered), (f"best of {arguments.n}", [[row["response"]] for row in rows])):
            right = accuracy(gold, answers)
            console.print(
                f"{name:<14} true accuracy {right.value:.3f} [{right.low:.3f}, {right.high:.3f}]", markup=False
            )
    console.print(f"{arguments.output}: {len(rows)} prompts, {arguments.n} answers each")
    return 0
