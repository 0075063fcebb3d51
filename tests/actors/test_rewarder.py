"""Rewards from a judge behind HTTP. What fails is a server of our own; the real judge is asked in test_rlhf.py."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.rewarder import Endpoint, Judge, Ranked, Ranker, RefusedError, RewardError, played
from evals.pairs import Message
from evals.ranking import round_robin
from evals.ratings import win_rate
from evals.verdicts import Verdict

QUESTION = [Message(role="user", content="How long?")]
Reply = tuple[int, dict[str, str], dict[str, Any]]


def longer(one: str, other: str) -> Verdict:
    """The judge's rule here: the longer one wins, and of some it says nothing."""
    if "?" in one + other:
        return None
    return "tie" if len(one) == len(other) else "a" if len(one) > len(other) else "b"


def ranked(request: dict[str, Any]) -> Reply:
    """What a judge by that rule answers to POST /rank."""
    texts, tournament = request["responses"], round_robin(len(request["responses"]))
    found = [{"a": m.a, "b": m.b, "verdict": longer(texts[m.a], texts[m.b])} for m in tournament.matches]
    return 200, {}, {"comparisons": found, "version": 7}


@contextmanager
def serving(answer: Callable[[dict[str, Any]], Reply]) -> Iterator[tuple[Endpoint, list[dict[str, Any]]]]:
    """A server that answers as said, and the requests that it got, each with the headers of it."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(request | {"key": self.headers["Authorization"]})
            status, headers, body = answer(request)
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    endpoint = Endpoint(
        url, {"Authorization": "Bearer k"}, Judge("judge", 7, "compact"), 8, "round_robin", "both", 4, 5.0
    )
    try:
        yield endpoint, asked
    finally:
        server.shutdown()
        server.server_close()


def rank(endpoint: Endpoint, responses: list[str]) -> Ranked:
    async def work() -> Ranked:
        ranker = Ranker(endpoint)
        try:
            return await ranker.rank(QUESTION, responses, "the question")
        finally:
            await ranker.close()

    return asyncio.run(work())


def test_identical_responses_are_sent_once_and_blank_ones_not_at_all() -> None:
    with serving(ranked) as (endpoint, asked):
        found = rank(endpoint, ["aa", "b", "aa", " ", "ccc", ""])

    assert [request["responses"] for request in asked] == [["aa", "b", "ccc"]]
    assert asked[0].keys() >= {"conversation", "method", "order"}
    assert (asked[0]["judgements"], asked[0]["key"]) == (False, "Bearer k")
    # By hand, of 5 games: aa beats b and both blanks and ties with its copy; ccc beats all; blanks tie with each other.
    assert found.rewards == pytest.approx([2 * x / 5 - 1 for x in (3.5, 2, 3.5, 0.5, 5, 0.5)])
    assert found.neutral == [False] * 6
    assert found.judge == (7,)


def test_what_needs_no_judge_asks_none() -> None:
    with serving(ranked) as (endpoint, asked):
        assert rank(endpoint, ["same", "same"]).rewards == [0, 0]
        assert rank(endpoint, ["", "said", ""]).rewards == pytest.approx([-0.5, 1, -0.5])
        assert rank(endpoint, ["", ""]).rewards == [0, 0]
    assert asked == []


def test_no_verdict_at_all_is_neutral_and_says_so() -> None:
    with serving(ranked) as (endpoint, _):
        found = rank(endpoint, ["one?", "two", "three"])

    assert found.rewards == [0, -1, 1]
    assert found.neutral == [True, False, False]
    assert found.no_verdict == 2


@settings(deadline=None)
@given(st.lists(st.sampled_from(["a", "bb", "cc", "ddd", "?"]), min_size=2, max_size=8))
def test_copies_get_what_they_would_if_each_were_sent(responses: list[str]) -> None:
    """Against a whole tournament of all responses, identical ones being ties."""
    whole = round_robin(len(responses))
    texts = [(responses[match.a], responses[match.b]) for match in whole.matches]
    whole.record(["tie" if one == other else longer(one, other) for one, other in texts])
    different = list(dict.fromkeys(responses))
    verdicts = {(one, other): longer(one, other) for i, one in enumerate(different) for other in different[:i]}

    assert win_rate(len(responses), played(responses, verdicts)).tolist() == whole.ratings().tolist()


def test_more_responses_than_one_request_may_hold_are_compared_in_parts() -> None:
    with serving(ranked) as (endpoint, asked):
        found = rank(replace(endpoint, most=3), ["a", "bb", "ccc", "dddd", "eeeee", "bb"])

    assert sorted(request["responses"] for request in asked) == [["a", "ccc", "eeeee"], ["bb", "dddd"]]
    assert found.rewards == pytest.approx([-1, -0.5, 0, 1, 1, -0.5])


def test_a_busy_server_is_asked_again_when_it_says() -> None:
    replies = iter([(503, {"Retry-After": "0"}, {}), (429, {"Retry-After": "0"}, {})])
    with serving(lambda request: next(replies, None) or ranked(request)) as (endpoint, asked):
        assert rank(endpoint, ["aa", "b"]).rewards == [1, -1]
    assert len(asked) == 3


def test_a_server_that_stays_busy_is_given_up_in_the_end() -> None:
    full = r"/rank refused the question: 503.*full"
    busy = serving(lambda request: (503, {"Retry-After": "0"}, {"detail": "full"}))
    with busy as (endpoint, asked), pytest.raises(RewardError, match=full):
        rank(endpoint, ["aa", "b"])
    assert len(asked) == 9


def test_what_is_refused_is_not_asked_again() -> None:
    refusing = serving(lambda request: (422, {}, {"detail": "too long"}))
    with refusing as (endpoint, asked), pytest.raises(RefusedError, match=r"the question: 422.*too long"):
        rank(endpoint, ["aa", "b"])
    assert len(asked) == 1


def test_a_place_where_no_judge_is_served_is_named() -> None:
    with serving(ranked) as (endpoint, _), pytest.raises(RewardError, match="/version: 501"):
        Endpoint.find(endpoint.url, "", "circular", "ab", 1, 5.0)
    with pytest.raises(RewardError, match="nothing answers there"):
        Endpoint.find(endpoint.url, "", "circular", "ab", 1, 5.0)
