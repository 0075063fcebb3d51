"""Traces to distil: a teacher judges labelled pairs, and what it writes is verified before a student sees it.

    python pipelines/teach.py --pairs FILE --output FOLDER --teacher http://host:8000/v1 --teacher-model NAME
    python pipelines/teach.py ... --second anthropic --second-model NAME [--second-price-in 3 --second-price-out 15]
    python pipelines/teach.py --self --pairs FILE --output FOLDER --teacher URL --teacher-model POLICY --samples 8

Two passes, after RM-R1 (arXiv 2505.02387, section 3.2): the teacher judges without the label; where its trace is not
clean, a second teacher is shown the label and the flawed trace and asked for a new one, which is verified too, and may
not show that it was told. With `--self` the policy is its own teacher: samples are drawn until enough are clean.

The folder holds every answer as it was bought, in first.jsonl and second.jsonl, which `pipelines/evaluate.py
--judgements` scores as it does any judge; and what follows from them: traces.jsonl (with the plain prompt, whatever the
teacher was shown), rejected.jsonl (with reasons) and summary.json. The same command again continues where it was
stopped: what is on disk is not asked for again, and at most --concurrency requests that were under way are.

With `--batch` both teachers are asked through their vendors' batch APIs, which answer within a day. The folder notes
each batch before it is submitted, so that the same command waits on for what was submitted and buys nothing twice;
requests that errored or expired are asked again by the next run. Vendors sell batches cheaper: give the prices of
batches as --price-in and so on, for they are taken as they are. To batch one teacher alone, run pass 1 without
--second first, with --batch or not, then the other way with --second.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from evals.pairs import Pair, load_pairs
from evals.prompts import Listwise, Pointwise, PromptFormat, prompt_format
from evals.verdicts import ORDERS, Order, drawn_order
from evals.verification import FORMS
from pipelines.errors import readable_errors
from pipelines.flags import from_one
from pipelines.ledger import asked_in
from pipelines.lessons import FLAWED, HINT, Lesson
from pipelines.openai_teacher import OpenAITeacher
from pipelines.passes import Pass, Price, Shown, TeachError, aside
from pipelines.teachers import ANTHROPIC, Asking, Teacher, TeacherError


def teach(arguments: argparse.Namespace) -> dict[str, Any]:
    """Do what the command line says; returns the summary."""
    format_ = prompt_format(arguments.format)
    if isinstance(format_, Pointwise | Listwise):
        raise TeachError(f"--format {arguments.format}: it does not show a pair; choose one of {', '.join(FORMS)}")
    pairs = load_pairs(arguments.pairs)[: arguments.limit]
    if unlabelled := next((pair for pair in pairs if pair.gold is None), None):
        raise TeachError(f"{arguments.pairs}: pair {unlabelled.id!r}: field 'gold' is missing; label it or remove it")
    decided = [pair for pair in pairs if pair.gold != "tie"]
    prompts = [[Shown(pair, order) for order in _orders(arguments, pair)] for pair in decided]
    units = prompts if arguments.own else [[shown] for unit in prompts for shown in unit]
    folder = arguments.output
    first = Pass(1, folder / "first.jsonl", _price(arguments.price_in, arguments.price_out))
    second = Pass(2, folder / "second.jsonl", _price(arguments.second_price_in, arguments.second_price_out))
    lesson = Lesson(format_, units, arguments.samples, arguments.keep, first, second)
    asking = Asking(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        seeded=arguments.own,
        thinks="thinking" in _sections(format_),
        timeout_s=arguments.timeout,
        retries=arguments.retries,
    )
    settings = asked_in(arguments.format) | {"seeded": arguments.own}
    with ExitStack() as stack:
        teacher = _teacher(arguments.teacher, arguments.teacher_model, arguments.teacher_key, asking)
        first.open(teacher, settings, stack)
        other = None
        if arguments.second:
            other = _teacher(arguments.second, arguments.second_model, arguments.second_key, asking)
        words = hashlib.sha256((HINT + FLAWED).encode()).hexdigest()
        second.open(other, settings | {"hint": words}, stack)
        for one in (first, second):
            if one.ledger:  # refuses pairs that are not what they were
                for shown in itertools.chain.from_iterable(units):
                    one.ledger.check(shown)
                if one.bought:
                    aside.print(f"pass {one.number}  {one.ledger.bought()} answers are on disk")
                if not arguments.batch and (out := [note for note in one.notes if not note.done]):
                    raise TeachError(f"{out[0].path}: this batch is still out; run the same command with --batch")
        try:
            asyncio.run(
                lesson.give_in_batches(arguments.poll) if arguments.batch else lesson.give(arguments.concurrency)
            )
        finally:
            summary = lesson.write(folder, len(pairs) - len(decided))
    return summary


def _sections(format_: PromptFormat) -> set[str]:
    form = FORMS.get(format_.name)
    return {name for names in form.sections.values() for name in names} if form else set()


def _orders(arguments: argparse.Namespace, pair: Pair) -> tuple[Order, ...]:
    return ORDERS if arguments.orders == "both" else (drawn_order(arguments.seed, f"{pair.subset}/{pair.id}"),)


def _teacher(url: str, model: str, variable: str | None, asking: Asking) -> Teacher:
    """The teacher at a URL, or Anthropic's where that is ANTHROPIC; `variable` has its key."""
    if url != ANTHROPIC:
        return OpenAITeacher.at(url, model, os.environ.get(variable or "OPENAI_API_KEY"), asking)
    try:
        from pipelines.anthropic_teacher import AnthropicTeacher
    except ImportError as error:
        raise TeacherError("the package 'anthropic' is not installed; pip install anthropic") from error
    return AnthropicTeacher.of(model, os.environ.get(variable or "ANTHROPIC_API_KEY"), asking)


def _price(given_in: float | None, given_out: float | None) -> Price:
    return None if given_in is None or given_out is None else (given_in, given_out)


def read_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command line. Bad input ends the program with status 2 and says what a flag takes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pairs", required=True, type=Path, metavar="FILE", help="labelled pairs, JSON lines")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER")
    for name, what in (("teacher", "who judges without the label"), ("second", "who is shown label and flaws")):
        group = parser.add_argument_group(f"{name}: {what}")
        required = name == "teacher"
        group.add_argument(f"--{name}", required=required, metavar="URL", help=f".../v1, or the word {ANTHROPIC!r}")
        group.add_argument(f"--{name}-model", required=required, metavar="NAME")
        variable = "default: OPENAI_API_KEY or ANTHROPIC_API_KEY"
        group.add_argument(f"--{name}-key", metavar="NAME", help=f"environment variable with its key; {variable}")
        prefix = "" if required else "second-"
        for side in ("in", "out"):
            group.add_argument(f"--{prefix}price-{side}", type=_price_of, metavar="X", help="of a million tokens")
    own = parser.add_argument_group("self-distillation")
    own.add_argument("--self", action="store_true", dest="own", help="the teacher is the policy: rejection sampling")
    own.add_argument("--samples", type=from_one, metavar="K", help="with --self: judgements a prompt; default 8")
    own.add_argument("--keep", type=from_one, metavar="M", help="with --self: clean traces a pair; default 1")
    how = parser.add_argument_group("how they are asked")
    how.add_argument("--format", default="rm_r1", help="prompt format, or a template file; default: rm_r1")
    how.add_argument("--orders", choices=("drawn", "both"), default="drawn", help="default: one a pair, drawn by lot")
    how.add_argument("--seed", type=int, default=0, help="of drawn orders")
    how.add_argument("--limit", type=from_one, metavar="N", help="the first N pairs alone")
    how.add_argument("--max-tokens", type=from_one, default=8192, metavar="N", help="longest answer; default: 8192")
    how.add_argument("--temperature", type=float, help="default: the server's own; 1 with --self")
    how.add_argument("--concurrency", type=from_one, default=16, metavar="N", help="requests at a time; default: 16")
    how.add_argument("--timeout", type=float, default=600.0, metavar="S", help="seconds for one answer; default: 600")
    how.add_argument("--retries", type=from_one, default=8, metavar="N", help="of one question; default: 8")
    how.add_argument("--batch", action="store_true", help="through the vendors' batch APIs, within a day")
    how.add_argument(
        "--poll", type=_seconds, default=60.0, metavar="S", help="longest pause between looks; default: 60"
    )
    arguments = parser.parse_args(argv)
    if bool(arguments.second) != bool(arguments.second_model):
        parser.error("--second and --second-model go together")
    if arguments.own and arguments.second:
        parser.error("--self learns from the policy's own clean traces alone; leave --second out")
    if not arguments.own and (arguments.samples or arguments.keep):
        parser.error("--samples and --keep belong to --self")
    arguments.samples = arguments.samples or (8 if arguments.own else 1)
    arguments.keep = arguments.keep or 1
    if arguments.own and arguments.temperature is None:
        arguments.temperature = 1.0
    return arguments


def _seconds(text: str) -> float:
    value = _price_of(text)
    if not value:
        raise argparse.ArgumentTypeError("give more than 0 seconds")
    return value


def _price_of(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a price, a number from 0")
    return value


def main() -> None:
    """Command line."""
    arguments = read_arguments(sys.argv[1:])
    with readable_errors():
        try:
            summary = teach(arguments)
        except KeyboardInterrupt:
            sys.exit("stopped; the same command again asks for what is missing")
        print(json.dumps(summary, indent=2))
        if summary["unanswered"]:
            but = ", but for those that summary.json says are asked no more" if arguments.batch else ""
            raise TeacherError(
                f"{len(summary['unanswered'])} prompts got no answer; the same command again asks for them{but}"
            )


if __name__ == "__main__":
    main()
