"""Downstream RLHF: a policy learns to answer from nothing but a served judge's comparisons.

    python pipelines/rlhf.py --judge FOLDER                                the embedded task, the judge served beside it
    python pipelines/rlhf.py --endpoint URL --model POLICY --data.train PROMPTS.jsonl
    python pipelines/rlhf.py best-of-n --endpoint URL --model POLICY --output BEST.jsonl
    python pipelines/rlhf.py label --endpoint URL --input RESPONSES.jsonl --output PAIRS.jsonl

It is the graph and the step of grpo.py with another question and another reward: the policy is asked a question alone,
and the responses of a group are compared with each other by POST /rank. On the embedded task the policy begins by
imitating answers that are right in form and often wrong; how often its answers are truly right is measured on held-out
questions, apart from training, which has no labels. Prompts of your own are JSON lines with `prompt`.

`best-of-n --help` and `label --help` show the other two, which need no training.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from rich.progress import TaskID

from actors.encoding import QuestionAlone
from actors.rewarder import Endpoint, Rewarder
from actors.rollout import Sampling, Task
from evals.answers import accuracy, questions, slipping_answers, without_labels
from evals.errors import ReadableError
from evals.pairs import Pair
from evals.reports.learning import draw_learning
from evals.splits import share
from evals.traces import Trace, TraceFile
from pipelines import hosting
from pipelines.bestofn import best_of_n_command
from pipelines.config import RunConfig, load
from pipelines.distill import distilled_model
from pipelines.errors import readable_errors
from pipelines.flags import GAVEL_KEY
from pipelines.graph import Graph, service_graph
from pipelines.grpo import collecting, dry_run, grpo_step
from pipelines.heldout import fitting
from pipelines.preferences import label_command
from pipelines.prompts import read_prompts
from pipelines.run import Run, checked_model, versions
from pipelines.serve import judge_folder
from pipelines.stream import Data, DataError

_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"best-of-n": best_of_n_command, "label": label_command}
_TRAIN_PAIRS = 4000
"""Pairs of the embedded task among which its train questions are found: all but a few of those there are."""
_LESSONS = 16000
"""Answers that the first policy learns from; gone through again where `distill.steps` are more."""
_TRIES = 4
"""Samples a held-out question, beside the greedy one."""


class RlhfError(ReadableError, ValueError):
    """A run that cannot be started as asked; the message says which setting to change."""


def train(config: RunConfig, run: Run, data: Data, gold: Sequence[Pair], model: str, endpoint: Endpoint) -> None:
    """Train `model` on the judge's rewards; leave the policy and what was measured in the run's folder.

    `gold` are the held-out questions with what is known of them; nothing but `measure` sees them.
    """
    with service_graph(config, run, model, QuestionAlone(), partial(rewarder, model, endpoint)) as graph:
        data, too_long = fitting(data, graph.encoder, config)
        train_on = data.train or []
        described = {"source": data.source, "train": len(train_on), "heldout": len(data.heldout), "too_long": too_long}
        run.say(f"questions      {data.source}: {len(train_on)} to train on, {len(data.heldout)} held out")
        if too_long:
            run.say(f"too long       {too_long} questions left out, which do not fit into rollout.max_model_len")
        graph.policy.sync(graph.probe, config.weights.probe_tolerance)
        measured = {0: measure(graph, data.heldout, gold, config, run, 0)}
        collector = collecting(graph, config, data, run, both_orders=False)
        with run.progress("rlhf", config.steps) as progress:
            run.say(HEADER)
            run.say(line(0, {}, measured[0]))
            for step in range(1, config.steps + 1):
                metrics = grpo_step(graph, collector, config, run, step)
                enough = config.tokens is not None and run.tokens + metrics["tokens"] >= config.tokens
                if step % config.rlhf.evaluate_every == 0 or step == config.steps or enough:
                    measured[step] = measure(graph, data.heldout, gold, config, run, step)
                    metrics["held_out"] = measured[step]
                run.log(step, metrics)
                run.say(line(step, metrics, measured.get(step, {})))
                progress.advance(TaskID(0))
                if enough:
                    break
        graph.policy.save(run.folder / "policy")
    seconds = {**run.clock.seconds, "total": time.perf_counter() - run.started}
    summary = {"start": measured[0], "rlhf": measured[run.steps], "judge": endpoint.judge._asdict(), "data": described}
    finished = {"steps": run.steps, "seed": config.seed, "seconds": seconds, "versions": versions()}
    run.write_json("summary.json", summary | finished)
    run.say(f"policy         {run.folder / 'policy'}")
    run.say(f"plot           {draw_learning(run.folder / 'learning.png', measured)}")


def rewarder(model: str, endpoint: Endpoint, options: dict[str, Any]) -> ActorHandle:
    """What rewards groups: the judge behind `endpoint`. `model` is for its tokenizer."""
    return Rewarder.options(**options).remote(model, endpoint)


def measure(
    graph: Graph, heldout: Sequence[Pair], gold: Sequence[Pair], config: RunConfig, run: Run, step: int
) -> dict[str, Any]:
    """Answer the held-out questions, greedily and sampled; how good are the answers?

    `preferred` is what the judge says of the greedy answers against those before training, from -1 to 1. The true
    accuracies, with their intervals, are counted here from the answers on disk; there are none without `gold`.
    """
    tasks = [Task(index, question, "ab") for index, question in enumerate(heldout)]
    sampled = replace(Sampling.of(config.rollout), samples=_TRIES)
    known = {pair.id: pair for pair in gold}
    answers: dict[str, list[list[str]]] = {}
    found: dict[str, Any] = {}
    with run.clock("evaluate"):
        for mode, how in {"greedy": replace(sampled, samples=1, temperature=0.0), "sampled": sampled}.items():
            seed = (config.seed, "evaluate", mode)
            groups = {task.index: group for task, group in graph.pool.rollout(tasks, how, seed)}
            path = run.folder / "eval" / f"step-{step:06d}-{mode}.jsonl"
            ray.get(graph.verifier.write_responses.remote(path, *(groups[index] for index in sorted(groups))))
            answers[mode] = responses(path)
            if known:
                right = accuracy([known[question.id] for question in heldout], answers[mode])
                found[f"accuracy_{mode}"], found[f"interval_{mode}"] = right.value, [right.low, right.high]
                found[f"by_subset_{mode}"] = right.by_subset
        begun = responses(run.folder / "eval" / "step-000000-greedy.jsonl")
        asked = [
            (question.messages, now, then)
            for question, (now,), (then,) in zip(heldout, answers["greedy"], begun, strict=True)
        ]
        shares = ray.get(graph.verifier.preferred.remote(asked))
    return {"preferred": sum(shares) / len(shares), **found, "questions": len(heldout)}


def responses(path: Path) -> list[list[str]]:
    """The responses to each question in a file of `eval/`."""
    return [json.loads(row)["responses"] for row in path.read_text(encoding="utf-8").splitlines()]


HEADER = (
    "  step  different  neutral  same-reward  length       kl  entropy   rollout  update  | held out: "
    "preferred  sampled  greedy"
)


def line(step: int, metrics: Mapping[str, Any], held_out: Mapping[str, Any]) -> str:
    """One step as one line under HEADER; "-" for what was not measured."""
    parts, seconds = metrics.get("reward_parts", {}), metrics.get("seconds", {})
    cells = (
        (parts.get("different"), 9, ".3f"),
        (parts.get("neutral"), 7, ".3f"),
        (metrics.get("zero_variance"), 11, ".0%"),
        (metrics.get("length"), 6, ".1f"),
        (metrics.get("kl"), 7, ".4f"),
        (metrics.get("entropy"), 7, ".3f"),
        (seconds.get("rollout"), 8, ".1f"),
        (seconds.get("update"), 6, ".1f"),
        (held_out.get("preferred"), 22, "+.3f"),
        (held_out.get("accuracy_sampled"), 7, ".3f"),
        (held_out.get("accuracy_greedy"), 6, ".3f"),
    )
    shown = ("-".rjust(width) if value is None else f"{value:{spec}}".rjust(width) for value, width, spec in cells)
    return f"{step:>6}  {'  '.join(shown)}"


def asked(config: RunConfig) -> tuple[Data, list[Pair]]:
    """The questions to train on and to measure with, without labels; and the held-out ones with theirs, if known.

    The embedded task's, or those of `data.train` (and `data.heldout`, else split off). Raises PairFileError and
    DataError as `Data.load` does.
    """
    train, count = config.data.train, config.evaluation.pairs
    if train is None:
        gold = questions(config.seed, "heldout", count)
        learned = questions(config.seed, "train", _TRAIN_PAIRS)
        return Data("synthetic", [*map(without_labels, learned)], [*map(without_labels, gold)], config.seed), gold
    found = {_text(row.pair()): row.pair() for row in read_prompts(train)}
    if config.data.heldout is None:
        held = {text: pair for text, pair in found.items() if share(text) < config.data.heldout_share}
    else:
        held = {_text(row.pair()): row.pair() for row in read_prompts(config.data.heldout)}
    rest = [pair for text, pair in found.items() if text not in held]
    if not rest or not held:
        raise DataError(f"data.train={train}: no question is left to {'measure with' if rest else 'train on'}")
    return Data(train.name, rest, list(islice(held.values(), count)), config.seed), []


def _text(pair: Pair) -> str:
    return json.dumps(pair.messages)


def first_policy(config: RunConfig, run: Run, data: Data) -> str:
    """The policy to start from: the one named, or one that has learnt the embedded task's form and often slips."""
    if config.model:
        return checked_model(config.model)
    answered = islice(slipping_answers(config.seed, config.distill.slip_rate), _LESSONS)
    lessons = [Trace(pair.messages, answer) for pair, answer in answered]
    sha256 = hashlib.sha256(json.dumps([(lesson.messages, lesson.text) for lesson in lessons]).encode()).hexdigest()
    return str(distilled_model(config, run, data, TraceFile("slipping answers", sha256, lessons, without_verdict=0)))


@contextmanager
def the_judge(config: RunConfig) -> Iterator[Endpoint]:
    """The judge that rewards: one that is being served, or `rlhf.judge` served in this cluster meanwhile."""
    how = config.rlhf
    find = partial(
        Endpoint.find,
        key=os.environ.get(GAVEL_KEY, ""),
        method=how.method,
        order=how.order,
        concurrency=how.concurrency,
    )
    if how.endpoint:
        yield find(how.endpoint, timeout_s=how.timeout_s)
        return
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    here = {"host": "127.0.0.1", "port": 0, "api_keys": None, "ssl_certfile": None, "ssl_keyfile": None}
    served = config.model_copy(update={"model": how.judge, "serve": config.serve.model_copy(update=here)})
    with hosting.endpoint(served, *judge_folder(served)) as url:
        yield find(url, timeout_s=how.timeout_s)


def _arguments(argv: Sequence[str]) -> tuple[RunConfig, bool]:
    own = argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)
    own.add_argument("--judge", metavar="FOLDER", help="short for --rlhf.judge")
    own.add_argument("--endpoint", metavar="URL", help="short for --rlhf.endpoint")
    options, rest = own.parse_known_args(argv)
    dotted = [f"--rlhf.{name}={value}" for name, value in vars(options).items() if value is not None]
    config, arguments = load([*rest, *dotted], f"{__doc__}\n{own.format_help()}", "rlhf.yaml")
    return config, arguments.dry_run


def _check(config: RunConfig) -> None:
    if not (config.rlhf.judge or config.rlhf.endpoint):
        raise RlhfError("name who rewards: --judge FOLDER, or --endpoint URL of a judge that is being served")
    if config.data.train and not config.model:
        raise RlhfError("--model names the policy that learns from data.train; one is made for the embedded task alone")
    if config.data.both_orders or config.grpo.baseline == "pair":
        raise RlhfError("a question has no order: set data.both_orders=false and grpo.baseline=prompt")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] and argv[0] in _COMMANDS:
        return _COMMANDS[argv[0]](argv[1:])
    config, dry = _arguments(argv)
    if dry:
        print(dry_run(config))
        return 0
    with readable_errors():
        _check(config)
        data, gold = asked(config)
        with Run.open(config) as run, the_judge(config) as endpoint:
            run.say(f"judge          {endpoint.judge.model}, version {endpoint.judge.version}, at {endpoint.url}")
            train(config, run, data, gold, first_policy(config, run, data), endpoint)
    return 0


if __name__ == "__main__":
    sys.exit(main())
