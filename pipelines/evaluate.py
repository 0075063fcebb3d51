"""What a judge is worth: judge a benchmark's pairs, or take judgements that exist, and score them by its rule.

    python pipelines/evaluate.py --model runs/quickstart/judge                      the run's own held-out pairs
    python pipelines/evaluate.py --model FOLDER --benchmark rm_bench --data FOLDER --benchmark llmbar --data FILE
    python pipelines/evaluate.py --endpoint http://host:8000 --benchmark judgebench --data FOLDER
    python pipelines/evaluate.py --judgements FILE ... [--benchmark NAME] [--json]  no model at all

Judgements go to NAME.jsonl in the output folder as they are made; the same command again continues where it was
stopped and buys none twice. What a benchmark's rule leaves open is an --option; every score is printed with its rule.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from evals.benchmarks import BENCHMARKS, Benchmark, ScoringError, benchmark
from evals.benchmarks.replays import is_replay, read_replay
from evals.evaluation import Evaluation, evaluate
from evals.judgements import Key, complete, read_judgements
from evals.pairs import Pair
from evals.prompts import FORMATS, PromptFormat, prompt_format
from evals.reports.tables import Comparisons, terminal, write_csv, write_markdown
from evals.scores import compare
from evals.verdicts import ORDERS, Judgement, Order, drawn_order
from pipelines.arguments import read_arguments
from pipelines.errors import readable_errors

if TYPE_CHECKING:
    from pipelines.config import RunConfig
    from pipelines.judges import Judge
    from pipelines.ledger import Ledger

ENDPOINT_TOKENS = 4096
"""Longest judgement that is asked of an endpoint, unless --rollout.max_new_tokens says otherwise."""

_aside = Console(stderr=True, highlight=False, soft_wrap=True)
"""For progress: standard output holds results alone."""


@dataclass(frozen=True)
class Wanted:
    """A benchmark to evaluate on, and its pairs where they are at hand."""

    benchmark: Benchmark
    pairs: Mapping[Key, Pair] | None


def main() -> None:
    """Command line."""
    arguments, rest = read_arguments(sys.argv[1:], __doc__ or "")
    with readable_errors():
        wanted = [_load(name, source, arguments) for name, source in arguments.benchmarks]
        if arguments.judgements:
            evaluations = score_files(arguments, arguments.judgements, wanted)
        else:
            try:
                wanted, evaluations = judge_and_score(arguments, rest, wanted)
            except KeyboardInterrupt:
                sys.exit("stopped; the same command again judges what is missing")
        others = score_files(arguments, arguments.compare, wanted) if arguments.compare else []
        _report(arguments, evaluations, others, wanted)


def judge_and_score(
    arguments: argparse.Namespace, rest: Sequence[str], wanted: list[Wanted]
) -> tuple[list[Wanted], list[Evaluation]]:
    """Judge what is not judged yet, then score what is on disk; returns what was judged too."""
    # Imported where there is something to judge: judgements that exist are scored without torch and Ray.
    from pipelines.config import load
    from pipelines.ledger import Ledger
    from pipelines.run import resolve
    from pipelines.stream import Data

    config, options = load(rest, __doc__ or "")
    if not wanted:
        data = Data.load(config.data, config.seed, config.evaluation.pairs, resolve(config.run_dir))
        held_out = data.heldout[: arguments.limit]
        wanted = [Wanted(BENCHMARKS["pairs"], {(pair.subset, pair.id): pair for pair in held_out})]
    wanted = [one if one.pairs else _from_hub(one.benchmark, arguments) for one in wanted]
    for one in wanted:
        needs_both = one.benchmark.needs_both_orders(one.benchmark.choose(_options(arguments, one.benchmark)))
        if needs_both and arguments.orders != "both":
            raise ScoringError(f"--orders {arguments.orders}: the rule of {one.benchmark.title} needs both orders")
    if options.dry_run:
        print(_dry_run(arguments, config, wanted))
        sys.exit()
    with closing(_judge(arguments, config)) as judge:
        for one in wanted:
            path = arguments.output / f"{one.benchmark.name}.jsonl"
            with Ledger.open(path, {**judge.settings, "orders": arguments.orders}) as ledger:
                _buy(arguments, config.seed, judge, one, ledger)
    return wanted, [_score(arguments, one, _bought(arguments, one)) for one in wanted]


def _bought(arguments: argparse.Namespace, wanted: Wanted) -> list[Judgement]:
    """What is on disk of what is wanted now: an earlier run may have judged more pairs, or more often."""
    name = wanted.benchmark.name
    judgements = read_judgements([arguments.output / f"{name}.jsonl"], name, keep_text=True)[name]
    pairs = wanted.pairs or {}
    return [one for one in judgements if (one.subset, one.pair_id) in pairs and one.sample < arguments.samples]


def _buy(arguments: argparse.Namespace, seed: int, judge: Judge, wanted: Wanted, ledger: Ledger) -> None:
    """Have every task judged that is not on disk."""
    from actors.rollout import Task

    name = wanted.benchmark.name
    shown = [(pair, order) for pair in (wanted.pairs or {}).values() for order in _orders(arguments, seed, pair)]
    tasks = [Task(index, pair, order) for index, (pair, order) in enumerate(shown)]
    missing = ledger.missing(tasks, arguments.samples)
    if ledger.bought():
        cut = f", one of {ledger.cut} bytes was cut off and is judged again" if ledger.cut else ""
        _aside.print(f"{name:<14} {ledger.bought()} judgements are on disk{cut}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    unasked = 0
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=_aside) as progress:
        bar = progress.add_task(name, total=sum(map(len, missing.values())))
        for have, some in missing.items():
            for answer in judge.judge(some, range(have, arguments.samples), (seed, name)):
                judged = [replace(judgement, benchmark=name) for judgement in answer.judgements]
                ledger.append(answer.task, judged, **({"reason": answer.reason} if answer.reason else {}))
                unasked += bool(answer.reason)
                progress.advance(bar)
    if unasked:
        _aside.print(f"{name:<14} {unasked} prompts were not judged and count as no verdict; field 'reason' says why")


def _judge(arguments: argparse.Namespace, config: RunConfig) -> Judge:
    from actors.rollout import Sampling
    from pipelines.endpoint import EndpointJudge
    from pipelines.judges import EngineJudge, fitted, judge_folder, trained_format

    if arguments.endpoint:
        if "max_new_tokens" not in config.rollout.model_fields_set:
            config.rollout.max_new_tokens = ENDPOINT_TOKENS
        sampling = replace(Sampling.of(config.rollout), temperature=arguments.temperature)
        return EndpointJudge.find(
            arguments.endpoint, arguments.model, arguments.format, sampling, arguments.concurrency
        )
    folder = judge_folder(arguments.model or str(config.run_dir / "judge"))
    format_ = arguments.format or trained_format(folder) or config.data.format
    return EngineJudge(folder, format_, fitted(config, folder), arguments.temperature)


def score_files(arguments: argparse.Namespace, paths: Sequence[Path], wanted: Sequence[Wanted]) -> list[Evaluation]:
    """Score judgement files: by the benchmarks that were named, else by those that the lines name.

    Files of judge outputs that benchmarks' authors publish are taken too, each judge in them by itself.
    """
    named = {one.benchmark.name: one for one in wanted}
    replays = [path for path in paths if is_replay(path)]
    judged: dict[tuple[str, str], list[Judgement]] = defaultdict(list)
    for judgement in itertools.chain.from_iterable(map(read_replay, replays)):
        judged[judgement.benchmark, judgement.model].append(judgement)
    if own := [path for path in paths if path not in replays]:
        found = read_judgements(
            own,
            wanted[0].benchmark.name if len(wanted) == 1 else None,
            pairs={one.benchmark.name: one.pairs for one in wanted if one.pairs},
            formats=_formats(arguments.format),
            keep_text=arguments.output is not None,
            duplicates=arguments.duplicates,
        )
        judged |= {(name, ""): judgements for name, judgements in found.items()}
    if unknown := {name for name, _ in judged if named and name not in named}:
        raise ScoringError(f"the judgements are of {', '.join(sorted(unknown))}, which no --benchmark names")
    return [
        _score(arguments, named.get(name, Wanted(benchmark(name), None)), judgements)
        for (name, _), judgements in judged.items()
    ]


def _score(arguments: argparse.Namespace, wanted: Wanted, judgements: Sequence[Judgement]) -> Evaluation:
    rule = wanted.benchmark
    options = rule.choose(_options(arguments, rule))
    judged = complete(judgements, wanted.pairs, rule.needs_both_orders(options), arguments.missing)
    return evaluate(rule, judged, options, arguments.vote)


def _options(arguments: argparse.Namespace, rule: Benchmark) -> dict[str, str]:
    """The options that are meant for a benchmark: named for it, or not named for any."""
    return {
        name: value
        for owner, name, value in arguments.options
        if owner == rule.name or (owner is None and (name in rule.options or len(arguments.benchmarks) <= 1))
    }


def _compare(evaluations: Sequence[Evaluation], others: Sequence[Evaluation]) -> Comparisons:
    """How each judge differs from the other one on the same benchmark."""
    return {
        (one.benchmark, one.model, other.model): compare(one.scoreboard, other.scoreboard)
        for one in evaluations
        for other in others
        if one.benchmark == other.benchmark
    }


def _load(name: str, source: str | None, arguments: argparse.Namespace) -> Wanted:
    found = benchmark(name)
    if source is None:
        return Wanted(found, None)
    return _chosen(found, found.load(Path(source) if Path(source).exists() else source), source, arguments)


def _from_hub(found: Benchmark, arguments: argparse.Namespace) -> Wanted:
    if not found.hub:
        raise ScoringError(f"--benchmark {found.name}: name the folder or file that holds its pairs with --data")
    return _chosen(found, found.load(found.hub), found.hub, arguments)


def _chosen(found: Benchmark, pairs: Sequence[Pair], source: str, arguments: argparse.Namespace) -> Wanted:
    """The benchmark with the subsets, and as many pairs, as were asked for."""
    chosen = {found.subset_name(subset) for subset in arguments.subset}
    if unknown := sorted(chosen - {pair.subset for pair in pairs}):
        known = ", ".join(dict.fromkeys(pair.subset for pair in pairs))
        raise ScoringError(f"--subset {unknown[0]}: {source} has no such subset; it has: {known}")
    kept = [pair for pair in pairs if not chosen or pair.subset in chosen]
    return Wanted(found, {(pair.subset, pair.id): pair for pair in kept[: arguments.limit]})


def _orders(arguments: argparse.Namespace, seed: int, pair: Pair) -> tuple[Order, ...]:
    if arguments.orders == "both":
        return ORDERS
    return (drawn_order(seed, f"{pair.subset}/{pair.id}") if arguments.orders == "drawn" else arguments.orders,)


def _formats(given: str | None) -> dict[str, PromptFormat]:
    """The known formats, and the one of a template file where one was named."""
    own = [prompt_format(given)] if given else []
    return {**FORMATS, **{format_.name: format_ for format_ in own}}


def _dry_run(arguments: argparse.Namespace, config: RunConfig, wanted: Sequence[Wanted]) -> str:
    from actors.placement import rollout_plan

    judge = arguments.endpoint or arguments.model or config.run_dir / "judge"
    lines = [f"judge          {judge}"]
    for one in wanted:
        pairs = (one.pairs or {}).values()
        tasks = sum(len(_orders(arguments, config.seed, pair)) for pair in pairs)
        count = f"{len(pairs)} pairs, {tasks} prompts x {arguments.samples} judgements"
        lines.append(f"{one.benchmark.name:<14} {count}")
    if not arguments.endpoint:
        lines += [f"placement      {line}" for line in rollout_plan(config.placement, config.rollout).describe()]
    return "\n".join(lines)


def _report(
    arguments: argparse.Namespace,
    evaluations: Sequence[Evaluation],
    others: Sequence[Evaluation],
    wanted: Sequence[Wanted],
) -> None:
    """Show the results in the terminal, write them where a folder was named, and print them as JSON on request."""
    comparisons = _compare(evaluations, others)
    console = Console(highlight=False)
    console.print(terminal([*evaluations, *others], comparisons))
    if arguments.output is not None:
        from evals.reports.evaluation import write_evaluation_report  # with it comes matplotlib

        folder, everything = arguments.output, [*evaluations, *others]
        write_csv(folder / "scores.csv", everything)
        write_markdown(folder / "scores.md", everything, comparisons)
        pairs = {one.benchmark.name: one.pairs for one in wanted if one.pairs}
        console.print("report", write_evaluation_report(folder / "report.html", everything, pairs, comparisons))
    if arguments.json:
        found = [one.to_json() | _compared(one, comparisons) for one in evaluations]
        print(json.dumps(found[0] if len(found) == 1 else {"results": found}))


def _compared(one: Evaluation, comparisons: Comparisons) -> dict[str, Any]:
    found = [
        {"other": other} | asdict(comparison)
        for (name, model, other), comparison in comparisons.items()
        if (name, model) == (one.benchmark, one.model)
    ]
    return {"comparisons": found} if found else {}


if __name__ == "__main__":
    main()
