"""Groups as a real Serve application has them, with a real engine. Its judge always says that the first is better.

So no two responses ever get a verdict in both orders; what is decided without the judge still is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from typing import Any

import httpx
import pytest
import ray
from fastapi.exceptions import RequestValidationError
from ray import serve

from actors.serving.groups import GroupSample, GroupsClient, Placed, UnjudgedError


@pytest.fixture(scope="module")
def url(endpoint: str) -> str:
    return endpoint


@pytest.fixture(scope="module")
def groups(url: str) -> GroupsClient:
    return GroupsClient(serve.get_deployment_handle("Groups", "judge"))


def sample(response: str, **more: Any) -> GroupSample:
    return GroupSample(**({"prompt": "Which?", "response": response} | more))


def joined(groups: GroupsClient, *samples: GroupSample) -> list[Any]:
    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*map(groups.join, samples), return_exceptions=True)

    return asyncio.run(within_time(all_of_them()))


async def within_time(work: Coroutine[Any, Any, Any]) -> Any:
    return await asyncio.wait_for(work, 240)


def test_a_group_is_judged_by_the_judge_of_its_application(groups: GroupsClient) -> None:
    declared = {"prompt": "Who?", "group_size": 4, "window_s": 60}
    begin = time.monotonic()
    found = joined(groups, *(sample(one, **declared) for one in ("this", "that", "this", "")))
    assert time.monotonic() - begin < 60, "the declared size was there at once"
    assert [one.score for one in found] == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0])
    assert [(one.comparisons, one.no_verdict, one.neutral) for one in found] == [(1, 1, False)] * 3 + [(0, 0, False)]
    assert {(one.how, one.members, one.model, one.version) for one in found} == {("group", 4, "first-is-better", 7)}


def test_a_lone_one_and_the_ones_after_it(groups: GroupsClient) -> None:
    asked = {"prompt": "Which, asked by nobody else?"}
    (alone,) = joined(groups, sample("this", **asked))
    (late,) = joined(groups, sample("that", **asked))
    (anchored,) = joined(groups, sample("that", anchor="this", **asked))
    assert [(one.how, one.score, one.comparisons, one.neutral, one.version) for one in (alone, late, anchored)] == [
        ("alone", 0.5, 0, True, 7),
        ("late", 0.5, 1, True, 7),
        ("anchor", 0.5, 1, True, 7),
    ]


def test_one_that_is_too_long_is_refused_alone(groups: GroupsClient) -> None:
    short, long, other = joined(groups, *(sample(one, prompt="What?") for one in ("this", "7 " * 3000, "that")))
    assert isinstance(long, RequestValidationError)
    (problem,) = long.errors()
    assert problem["loc"] == ("body", "response")
    assert "tokens; the limit is" in problem["msg"]
    assert [(one.how, one.members) for one in (short, other)] == [("group", 2)] * 2


def test_a_caller_that_goes_away_leaves_its_group(groups: GroupsClient) -> None:
    async def leaving() -> Placed:
        stays, goes = (
            asyncio.create_task(groups.join(sample(one, prompt="Where?", window_s=5))) for one in ("this", "that")
        )
        await asyncio.sleep(2)
        goes.cancel()
        return await stays

    assert asyncio.run(within_time(leaving())).how == "alone"


def test_a_client_that_hangs_up_leaves_its_group(url: str) -> None:
    def reward(response: str, window_s: float, timeout: float) -> dict[str, Any]:
        query = {"window_s": window_s, "group_size": 3}
        body = {"prompt": "Why?", "response": response, "label": None}
        return httpx.post(f"{url}/reward", params=query, json=body, timeout=timeout).json()

    with pytest.raises(httpx.ReadTimeout):
        reward("this", window_s=60, timeout=2)
    time.sleep(1)
    answer = reward("that", window_s=0.5, timeout=120)
    assert (answer["how"], answer["members"], answer["group_size"], answer["window_s"]) == ("alone", 1, 3, 0.5)


def test_when_the_groups_are_lost_who_waits_learns_it_and_others_go_on(groups: GroupsClient) -> None:
    """Last in this file: it takes the replica away."""

    async def lost() -> Any:
        waits = asyncio.create_task(groups.join(sample("this", prompt="When?", window_s=60)))
        await asyncio.sleep(1)
        (name,) = [one for one in ray.util.list_named_actors(True) if "judge#Groups#" in one["name"]]
        ray.kill(ray.get_actor(**name))
        with pytest.raises(UnjudgedError, match="is being replaced"):
            await waits
        return await groups.join(sample("this", prompt="When?"))

    assert asyncio.run(within_time(lost())).how == "alone"
