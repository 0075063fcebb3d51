"""The command line of `evaluate.py`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from evals.benchmarks import BENCHMARKS, ScoringError, benchmark
from evals.evaluation import Voting
from evals.judgements import Duplicate, Missing
from evals.prompts import FORMATS
from evals.verdicts import ORDERS
from pipelines.flags import from_one


class _Benchmark(argparse.Action):
    """`--benchmark NAME` begins a benchmark, `--data SOURCE` names the files of the last one."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: Any = None
    ) -> None:
        benchmarks, value, flag = namespace.benchmarks, values, option_string
        if flag == "--benchmark":
            namespace.benchmarks = [*benchmarks, (value, None)]
        elif not benchmarks or benchmarks[-1][1] is not None:
            parser.error("--data names the files of the --benchmark before it")
        else:
            namespace.benchmarks = [*benchmarks[:-1], (benchmarks[-1][0], value)]


def _option(text: str) -> tuple[str | None, str, str]:
    """`name=value` or `benchmark.name=value`."""
    name, equals, value = text.partition("=")
    owner, dot, rest = name.rpartition(".")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r}: an option is written name=value, or benchmark.name=value")
    try:
        return (benchmark(owner).name if dot else None), rest, value
    except ScoringError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _temperature(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 2:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 0 to 2")
    return value


def read_arguments(argv: Sequence[str], description: str) -> tuple[argparse.Namespace, list[str]]:
    """The command's own flags, and the rest: dotted flags of the run configuration.

    Bad input ends the program with status 2 and says what a flag takes.
    """
    parser = argparse.ArgumentParser(
        description=description,
        epilog=_options_help() + "\n\nDotted flags set the engines as in training: --rollout.engines 1, "
        "--rollout.max_model_len 4096, --placement.device gpu, ...; pipelines/grpo.py --help lists them all.",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(benchmarks=[])
    source = parser.add_argument_group("where judgements come from")
    source.add_argument("--model", help="Hugging Face folder or hub name; of an endpoint, the served model's name")
    source.add_argument("--endpoint", metavar="URL", help="an OpenAI-compatible server (.../v1), or a Gavel judge")
    source.add_argument("--judgements", nargs="+", type=Path, metavar="FILE", help="JSON lines; nothing is judged")
    source.add_argument("--compare", nargs="+", type=Path, metavar="FILE", help="another judge's judgements")
    what = parser.add_argument_group("what is judged")
    names = ", ".join(BENCHMARKS)
    what.add_argument("--benchmark", action=_Benchmark, metavar="NAME", help=f"repeatable; one of {names}")
    what.add_argument(
        "--data", action=_Benchmark, metavar="SOURCE", help="its authors' files: folder, file or hub name"
    )
    what.add_argument("--subset", nargs="+", default=[], metavar="NAME", help="these subsets of --data alone")
    what.add_argument("--limit", type=from_one, metavar="N", help="the first N pairs alone")
    what.add_argument("--orders", choices=("both", "drawn", *ORDERS), default="both", help="default: both")
    how = parser.add_argument_group("how it is judged")
    how.add_argument("--format", help=f"prompt format, or a template file; one of {', '.join(FORMATS)}")
    how.add_argument("--samples", type=from_one, default=1, metavar="K", help="judgements a pair and order")
    how.add_argument("--temperature", type=_temperature, help="default: 0 (greedy) for one sample, 1 for more")
    how.add_argument("--concurrency", type=from_one, default=32, help="requests at a time to an endpoint")
    score = parser.add_argument_group("how it is scored")
    score.add_argument("--option", action="append", dest="options", type=_option, default=[], metavar="NAME=VALUE")
    score.add_argument("--vote", choices=get_args(Voting), default="order", help="what several samples become")
    score.add_argument("--missing", choices=get_args(Missing), default="error", help="what no judgement means")
    score.add_argument("--duplicates", choices=get_args(Duplicate), default="error")
    shown = parser.add_argument_group("what is written")
    shown.add_argument("--output", type=Path, metavar="FOLDER", help="judgements, tables and report.html")
    shown.add_argument("--json", action="store_true", help="the last line of standard output is one JSON object")
    arguments, rest = parser.parse_known_args(argv)
    if arguments.judgements and (arguments.model or arguments.endpoint):
        parser.error("--judgements scores what is there; leave --model and --endpoint out")
    if arguments.judgements and rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if arguments.temperature is None:
        arguments.temperature = 0.0 if arguments.samples == 1 else 1.0
    if arguments.output is None and not arguments.judgements:
        judge = Path(arguments.model or "judge")
        arguments.output = Path("runs/evaluation") / (judge.name if judge.name != "judge" else judge.parent.name)
    return arguments, rest


def _options_help() -> str:
    lines = ["options that the rules leave open (the first value is the default):"]
    for name, found in BENCHMARKS.items():
        for option, choice in found.options.items():
            lines.append(f"  {name}.{option}={'|'.join(choice.values)}")
    return "\n".join(lines)
