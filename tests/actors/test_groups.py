"""Samples that come one by one and are judged together. The clock of these tests jumps to the next thing that happens.

The judge is a stand-in that prefers the longer response: what is tested is who meets whom, when, and what becomes of
everybody whatever goes wrong. `tests/actors/test_groups_served.py` has a real one.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from fastapi.exceptions import RequestValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.serving.groups import AnchorError, Gathering, GroupSample, GroupsConfig, Placed, UnjudgedError
from actors.serving.wire import Comparison, RankRequest, RankResponse, Usage
from evals.ranking import start

WINDOW = 0.5


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop whose time passes at once. Where nothing is left to wait for, it fails and does not hang."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Jump(self))

    def time(self) -> float:
        return self.now


class _Jump(selectors.SelectSelector):
    def __init__(self, loop: JumpingLoop) -> None:
        super().__init__()
        self.loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("somebody waits for ever")
        self.loop.now += max(0.0, timeout)
        return super().select(0)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(work)


class LongerIsBetter:
    """Takes a second for each request. It has no verdict on a response with a question mark, and refuses long pairs."""

    def __init__(self, takes: float = 1.0, longest: int = 1000) -> None:
        self.takes, self.longest = takes, longest
        self.asked: list[RankRequest] = []
        self.finished = 0
        self.fails: Exception | None = None

    async def rank(self, request: RankRequest) -> RankResponse:
        self.asked.append(request)
        texts = request.responses
        pairs = start(request.method, len(texts), orders=2).matches
        if any(len(texts[a]) + len(texts[b]) > self.longest for a, b in pairs):
            raise RequestValidationError([{"type": "limit", "loc": ("body", "responses"), "msg": "too long"}])
        await asyncio.sleep(self.takes)
        if self.fails:
            raise self.fails
        self.finished += 1
        comparisons = [
            Comparison(a=a, b=b, verdict=verdict(texts[a], texts[b]), confidence=1, consistent=True, judgements=[])
            for a, b in pairs
        ]
        return RankResponse(
            scores=[0.0] * len(texts),
            ratings=[0.0] * len(texts),
            ranking=[[*range(len(texts))]],
            best=0,
            method=request.method,
            aggregation="win_rate",
            comparisons=comparisons,
            listings=[],
            no_verdict=0,
            model="longer",
            version=7,
            format="compact",
            usage=Usage(),
        )

    async def serving(self) -> tuple[str, int]:
        return "longer", 8


def verdict(a: str, b: str) -> Any:
    if "?" in a + b:
        return None
    return "tie" if len(a) == len(b) else "a" if len(a) > len(b) else "b"


def gathering(judge: LongerIsBetter, **config: Any) -> Gathering:
    return Gathering(GroupsConfig(**({"window_s": WINDOW} | config)), judge)


def sample(response: str, **more: Any) -> GroupSample:
    return GroupSample(**({"prompt": "Which?", "response": response} | more))


async def at(time: float, groups: Gathering, one: GroupSample) -> Placed:
    await asyncio.sleep(time)
    return await groups.join(one)


def arriving(groups: Gathering, *arrivals: tuple[float, GroupSample]) -> list[Any]:
    """What each sample gets; an exception where it gets one."""

    async def all_of_them() -> list[Any]:
        return await asyncio.gather(*(at(time, groups, one) for time, one in arrivals), return_exceptions=True)

    return run(all_of_them())


def brief(placed: Placed) -> tuple[str, int, float]:
    return placed.how, placed.members, placed.score


def test_samples_within_the_window_of_the_first_are_judged_together_once() -> None:
    judge = LongerIsBetter()
    found = arriving(gathering(judge), (0, sample("a")), (0.2, sample("bbb")), (0.4, sample("cc")))
    assert [brief(one) for one in found] == [("group", 3, 0.0), ("group", 3, 1.0), ("group", 3, 0.5)]
    assert [one.waited_s for one in found] == pytest.approx([0.5, 0.3, 0.1])
    assert {(one.window_s, one.group_size, one.comparisons, one.neutral) for one in found} == {(0.5, None, 2, False)}
    assert {(one.model, one.version) for one in found} == {("longer", 7)}
    (request,) = judge.asked
    assert (request.prompt, request.method, request.judgements) == ("Which?", "round_robin", False)


def test_a_declared_size_ends_the_wait() -> None:
    def waits(*sizes: int | None) -> list[tuple[int, int | None, float]]:
        arrivals = [(i / 8, sample("x" * (i + 1), group_size=size)) for i, size in enumerate(sizes)]
        found = arriving(gathering(LongerIsBetter()), *arrivals)
        return [(one.members, one.group_size, one.waited_s) for one in found]

    assert waits(None, 2) == [(2, 2, 0.125), (2, 2, 0.0)]
    assert waits(3, 2, None) == [(3, 3, 0.25), (3, 3, 0.125), (3, 3, 0.0)], "the largest size counts"
    assert waits(3, 2) == [(2, 3, 0.5), (2, 3, 0.375)], "the window ended first"
    assert waits(2, None, None) == [(2, 2, 0.125), (2, 2, 0.0), (1, None, 0.5)]


def test_only_samples_of_one_prompt_and_one_name_meet() -> None:
    turns = [{"role": "user", "content": "Which?"}]
    found = arriving(
        gathering(LongerIsBetter()),
        (0, sample("a")),
        (0, sample("bb", prompt=None, conversation=turns)),
        (0, sample("ccc", prompt="Where?")),
        (0, sample("dddd", group="one")),
        (0, sample("eeeee", group="two")),
        (0, sample("ffffff", group="two")),
    )
    assert [brief(one) for one in found] == [
        ("group", 2, 0.0),
        ("group", 2, 1.0),
        ("alone", 1, 0.5),
        ("alone", 1, 0.5),
        ("group", 2, 0.0),
        ("group", 2, 1.0),
    ]
    assert [one.neutral for one in found] == [False, False, True, True, False, False]
    assert found[2].version == 8  # nobody was compared with it: the version that would have judged


def test_samples_that_come_too_late() -> None:
    judge = LongerIsBetter(takes=5)
    found = arriving(
        gathering(judge, opponents=2),
        (0, sample("a")),
        (0, sample("bbb")),
        (1, sample("cc")),  # while the group is being judged
        (9, sample("dddd")),  # after it
        (9, sample("eeeee")),
        (30, sample("f")),
        (60, sample("f")),
    )
    assert [brief(one) for one in found] == [
        ("group", 2, 0.0),
        ("group", 2, 1.0),
        ("late", 1, 0.5),
        ("group", 2, 0.0),
        ("group", 2, 1.0),
        ("late", 1, 0.0),
        ("late", 1, 0.0),
    ]
    assert {*found_against(judge, -3), *found_against(judge, -2)} == {"dddd", "eeeee"}
    assert found_against(judge, -1) < {"dddd", "eeeee"}, "it was sent before and is not compared with itself"
    assert [one.comparisons for one in found] == [1, 1, 2, 1, 1, 2, 1]


def found_against(judge: LongerIsBetter, request: int) -> set[str]:
    return {*judge.asked[request].responses[1:]}


def test_a_lone_sample_meets_its_anchor_before_all_others(tmp_path: Path) -> None:
    file = tmp_path / "anchors.jsonl"
    file.write_text('{"prompt": "Which?", "anchor": "stored"}\n\n{"prompt": "Where?", "anchor": "x?"}\n')
    judge = LongerIsBetter()
    found = arriving(
        gathering(judge, anchors=file),
        (0, sample("aaaaaaa")),
        (10, sample("bb", anchor="b")),
        (20, sample("stored")),
        (30, sample(" \n")),
        (40, sample("cc", prompt="Where?")),
        (50, sample("dd", group="one")),
    )
    assert [brief(one) for one in found] == [("anchor", 1, score) for score in (1.0, 1.0, 0.5, 0.0, 0.5, 0.0)]
    assert [one.neutral for one in found] == [False, False, False, False, True, False]
    assert [(one.comparisons, one.no_verdict) for one in found] == [(1, 0), (1, 0), (0, 0), (0, 0), (1, 1), (1, 0)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", r"anchors\.jsonl, line 2: line: Invalid JSON"),
        ('{"prompt": "x"}', r"line 2: anchor: Field required"),
        ('{"prompt": "x", "anchor": " "}', r"line 2: anchor: Is empty"),
        ('{"prompt": "Which?", "anchor": "y"}', r"line 2: the prompt already has an anchor"),
    ],
)
def test_a_file_of_anchors_that_cannot_be_used_is_named(tmp_path: Path, text: str, says: str) -> None:
    file = tmp_path / "anchors.jsonl"
    with pytest.raises(AnchorError, match=r"anchors\.jsonl: the file of anchors cannot be read"):
        gathering(LongerIsBetter(), anchors=file)
    file.write_text('{"prompt": "Which?", "anchor": "x"}\n' + text)
    with pytest.raises(AnchorError, match=says):
        gathering(LongerIsBetter(), anchors=file)


def expected(mine: str, other: str) -> float:
    """What a response has of another one, by the rules."""
    if mine == other or not mine.strip() + other.strip():
        return 0.5
    if not mine.strip() or not other.strip():
        return float(bool(mine.strip()))
    return {"a": 1.0, "b": 0.0}.get(verdict(mine, other), 0.5)


RESPONSES = st.lists(st.sampled_from(["", " ", "a", "b", "cc", "ddd", "e?", "ff?"]), min_size=2, max_size=10)


@given(responses=RESPONSES, data=st.data())
@settings(max_examples=150, deadline=None)
def test_a_score_is_the_share_of_all_members_that_lost(responses: list[str], data: st.DataObject) -> None:
    found, again = (
        dict(zip(order, arriving(gathering(LongerIsBetter()), *((0, sample(one)) for one in order)), strict=True))
        for order in (responses, data.draw(st.permutations(responses)))
    )
    assert found == again, "the order of arrival matters"
    for index, mine in enumerate(responses):
        others = responses[:index] + responses[index + 1 :]
        shares = [expected(mine, other) for other in others]
        assert found[mine].score == pytest.approx(sum(shares) / len(shares))
        judged = {other for other in others if other != mine and other.strip() and mine.strip()}
        silent = {other for other in judged if "?" in mine + other}
        assert (found[mine].comparisons, found[mine].no_verdict) == (len(judged), len(silent))
        assert found[mine].neutral == (bool(judged) and judged == silent and all(one.strip() for one in responses))


def test_a_large_group_is_compared_in_a_circle_and_the_largest_closes() -> None:
    judge = LongerIsBetter()
    found = arriving(gathering(judge, window_s=30), *((0, sample("x" * (i + 1))) for i in range(65)))
    assert [one.members for one in found] == [64] * 64 + [1]
    assert found[0].waited_s == 0
    assert [one.comparisons for one in found[:64]] == [2] * 64
    assert judge.asked[0].method == "circular"
    assert (found[0].score, found[63].score) == (0.0, 1.0)
    assert sum(one.score for one in found[:64]) == pytest.approx(32)


def test_who_goes_away_leaves_and_when_all_have_gone_nothing_is_judged() -> None:
    judge = LongerIsBetter()

    async def leaving() -> None:
        groups = gathering(judge)
        gone, stays, other = (asyncio.create_task(groups.join(sample(one))) for one in ("a", "bb", "ccc"))
        await asyncio.sleep(0.1)
        gone.cancel()
        assert [brief(one) for one in await asyncio.gather(stays, other)] == [("group", 2, 0.0), ("group", 2, 1.0)]
        both = [asyncio.create_task(groups.join(sample(one, prompt="Where?"))) for one in ("a", "bb")]
        await asyncio.sleep(0.1)
        for task in both:
            task.cancel()
        await asyncio.sleep(10)
        assert len(judge.asked) == 1
        both = [asyncio.create_task(groups.join(sample(one, prompt="Where?"))) for one in ("a", "bb")]
        await asyncio.sleep(1)  # they are being judged
        both[0].cancel()
        await asyncio.sleep(0.1)
        both[1].cancel()
        await asyncio.sleep(10)
        assert (len(judge.asked), judge.finished) == (2, 1)
        assert (await groups.join(sample("zz", prompt="What?"))).how == "alone"

    run(leaving())


def test_one_who_goes_away_while_being_judged_takes_nothing_from_the_others() -> None:
    async def leaving() -> Placed:
        groups = gathering(LongerIsBetter())
        gone, stays = (asyncio.create_task(groups.join(sample(one))) for one in ("a", "bb"))
        await asyncio.sleep(1)
        gone.cancel()
        return await stays

    assert brief(run(leaving())) == ("group", 2, 1.0)


def test_when_judging_fails_every_member_learns_it_and_may_come_again() -> None:
    judge = LongerIsBetter()
    judge.fails = OSError("the engine has stopped")
    groups = gathering(judge)
    arrivals = [(0.0, sample(one, group="one")) for one in ("a", "bb", "bb")]
    assert [str(one) for one in arriving(groups, *arrivals)] == ["the engine has stopped"] * 3
    judge.fails = None
    assert [brief(one) for one in arriving(groups, *arrivals)] == [
        ("group", 3, 0.0),
        ("group", 3, 0.75),
        ("group", 3, 0.75),
    ]


def test_nobody_waits_longer_than_the_limit() -> None:
    async def timed() -> float:
        groups = gathering(LongerIsBetter(takes=1e6), timeout_s=20)
        waiting = (at(time, groups, sample("a" * (time + 1), window_s=5)) for time in (0, 4))
        for error in await asyncio.gather(*waiting, return_exceptions=True):
            assert isinstance(error, UnjudgedError)
            assert "A group of 2 was not judged within 20 s" in str(error)
        return asyncio.get_running_loop().time()

    assert run(timed()) == pytest.approx(20)


def test_more_groups_than_there_is_room_for_are_refused() -> None:
    groups = gathering(LongerIsBetter(takes=5), open_groups=2)
    found = arriving(
        groups,
        *((0, sample("a", prompt=prompt, anchor="b")) for prompt in "pq"),
        (0.1, sample("a", prompt="r")),
        (0.1, sample("aa", prompt="q")),
        (5.0, sample("a", prompt="r")),  # the first two are being judged
        (6.0, sample("a", prompt="r")),
    )
    assert [one.how for one in found[:2] + found[3:4] + found[5:]] == ["anchor", "group", "group", "alone"]
    for refused in (found[2], found[4]):
        assert isinstance(refused, UnjudgedError)
        assert "All 2 groups" in str(refused)


def test_what_is_too_long_to_be_judged_does_not_cost_the_others_their_scores() -> None:
    judge = LongerIsBetter(longest=10)
    found = arriving(
        gathering(judge),
        *((0, sample(one)) for one in ("a", "bbbbbbbbbb", "ccc", "ddddddddddd", "ccc")),
        (20, sample("eeeeeeeee")),  # too long beside the members of three, but not beside the one of one
        (40, sample("ffffffffff")),
        (60, sample("a", prompt="Where?", anchor="b" * 10)),
    )
    for refused in (found[1], found[3], found[6], found[7]):
        assert isinstance(refused, RequestValidationError)
        assert refused.errors() == [{"type": "limit", "loc": ("body", "response"), "msg": "too long"}]
    assert [brief(one) for one in found[:1] + found[2:3] + found[4:6]] == [
        ("group", 3, 0.0),
        ("group", 3, 0.75),
        ("group", 3, 0.75),
        ("late", 1, 1.0),
    ]
    assert found[5].comparisons == 1


def test_a_named_sample_sent_again_gets_its_answer_again() -> None:
    judge = LongerIsBetter(takes=4)
    groups = gathering(judge)
    a, b = (sample(one, group="one") for one in ("a", "bb"))
    first = arriving(groups, (0, a), (0, b), (2, b), (9, a), (9, sample("ccc", group="one")))
    assert [brief(one) for one in first] == [
        ("group", 2, 0.0),
        ("group", 2, 1.0),
        ("group", 2, 1.0),
        ("group", 2, 0.0),
        ("late", 1, 1.0),
    ]
    assert [one.waited_s for one in first] == [0.5, 0.5, 0, 0, 0.5]
    assert len(judge.asked) == 3
    unnamed = arriving(groups, (0, sample("a")), (0, sample("bb")), (9, sample("bb")))
    assert [one.how for one in unnamed] == ["group", "group", "late"]


def test_a_caller_that_asks_again_while_being_judged_keeps_the_judging_alive() -> None:
    judge = LongerIsBetter(takes=4)

    async def again() -> Placed:
        groups = gathering(judge)
        one = sample("a", group="one", anchor="b")
        first = asyncio.create_task(groups.join(one))
        await asyncio.sleep(1)
        second = asyncio.create_task(groups.join(one))
        await asyncio.sleep(0)
        first.cancel()
        await second
        return await groups.join(one)

    assert brief(run(again())) == ("anchor", 1, 0.5)
    assert len(judge.asked) == 1


@pytest.mark.parametrize(
    ("config", "remembered"),
    [
        ({}, ["p", "q", "r"]),
        ({"prompts": 2}, ["q", "r"]),
        ({"characters": 20}, ["q", "r"]),
        ({"characters": 9}, []),
        ({"ttl_s": 11}, ["r"]),
    ],
)
def test_what_is_remembered_is_bounded(config: dict[str, Any], remembered: list[str]) -> None:
    found = []
    for asked in "pqr":
        earlier = [(10 * i, sample("x" * 10, prompt=prompt)) for i, prompt in enumerate("pqr", 1)]
        *first, last = arriving(gathering(LongerIsBetter(), **config), *earlier, (31, sample("yy", prompt=asked)))
        assert {one.how for one in first} == {"alone"}
        found += [asked] if last.how == "late" else []
    assert found == remembered


ARRIVALS = st.lists(st.tuples(st.integers(0, 30), st.sampled_from([None, 2, 3, 5])), min_size=1, max_size=12)


@given(arrivals=ARRIVALS)
@settings(max_examples=150, deadline=None)
def test_whenever_samples_arrive_each_is_in_the_group_that_was_open(arrivals: list[tuple[int, int | None]]) -> None:
    arrivals = [
        (time + place / 1000, size) for place, (time, size) in enumerate(sorted(arrivals, key=lambda one: one[0]))
    ]
    members: list[list[int]] = []
    for index, (time, _) in enumerate(arrivals):
        sizes = [arrivals[one][1] or 0 for one in members[-1]] if members else []
        full = bool(sizes) and max(sizes) > 0 and len(sizes) >= max(sizes)
        if members and not full and time < arrivals[members[-1][0]][0] + 4.5:
            members[-1].append(index)
        else:
            members.append([index])
    found = arriving(
        gathering(LongerIsBetter(takes=3), window_s=4.5),
        *((time, sample("x" * (index + 1), group_size=size)) for index, (time, size) in enumerate(arrivals)),
    )
    for nth, group in enumerate(members):
        how = "group" if len(group) > 1 else "late" if nth else "alone"
        assert [(found[one].how, found[one].members) for one in group] == [(how, len(group))] * len(group)
        if how == "group":
            assert [found[one].score for one in group] == [place / (len(group) - 1) for place in range(len(group))]
