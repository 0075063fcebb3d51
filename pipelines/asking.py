"""What the commands that ask a served judge have in common: their flags, and asking for many rankings at once."""

from __future__ import annotations

import argparse
import asyncio
import os
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from actors.rewarder import Endpoint, Ranked, Ranker, RefusedError
from evals.pairs import Message
from pipelines.flags import GAVEL_KEY, from_one

T = TypeVar("T")


def add_judge_flags(parser: argparse.ArgumentParser) -> None:
    """Flags that say which judge is asked and how."""
    judge = parser.add_argument_group("who judges")
    judge.add_argument("--endpoint", required=True, metavar="URL", help=f"a served judge; its key is in {GAVEL_KEY}")
    judge.add_argument(
        "--method",
        choices=("round_robin", "circular"),
        default="round_robin",
        help="compare all responses with each other, or neighbours in a circle (default: %(default)s)",
    )
    judge.add_argument("--order", choices=("both", "ab"), default="both", help="default: %(default)s")
    judge.add_argument("--concurrency", type=from_one, default=32, help="rankings at a time (default: %(default)s)")
    judge.add_argument("--timeout", type=from_one, default=120, metavar="SECONDS", help="longest that one may take")


def find_judge(arguments: argparse.Namespace) -> Endpoint:
    """The judge that the flags name. Raises RewardError."""
    return Endpoint.find(
        arguments.endpoint,
        os.environ.get(GAVEL_KEY, ""),
        arguments.method,
        arguments.order,
        arguments.concurrency,
        float(arguments.timeout),
    )


def rank_all(
    endpoint: Endpoint,
    items: Iterable[T],
    shown: Callable[[T], tuple[Sequence[Message], Sequence[str], str]],
    done: Callable[[T, Ranked | RefusedError], None],
) -> None:
    """Rank the responses of every item; `done` takes each result as it comes.

    `shown` gives an item's conversation, its responses, and its name in errors. What the judge refuses is a result
    too; raises RewardError where it cannot be asked any further.
    """

    async def work() -> None:
        ranker, waiting = Ranker(endpoint), iter(items)

        async def worker() -> None:
            for item in waiting:
                try:
                    found: Ranked | RefusedError = await ranker.rank(*shown(item))
                except RefusedError as error:
                    found = error
                done(item, found)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(endpoint.concurrency):
                    group.create_task(worker())
        finally:
            await ranker.close()

    try:
        asyncio.run(work())
    except BaseExceptionGroup as group:
        raise group.exceptions[0] from None
