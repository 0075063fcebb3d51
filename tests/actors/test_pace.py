"""How long a judgement waits, against a clock that stands still while nobody moves it."""

from __future__ import annotations

import pytest

from actors.serving import pace
from actors.serving.pace import Pace


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pace, "monotonic", clock)
    return clock


def rounds(pace: Pace, clock: Clock, count: int, seconds: float, size: int = 4) -> None:
    """So many times a batch of judgements gets done, and as many come."""
    for _ in range(count):
        clock.now += seconds
        for _ in range(size):
            pace.end()
            pace.begin()


def busy(clock: Clock) -> Pace:
    """The pace of four places, with four waiting for them, after ten rounds of a second each."""
    pace = Pace(places=4)
    for _ in range(8):
        pace.begin()
    rounds(pace, clock, 10, 1.0)
    return pace


def test_what_waits_is_as_long_as_it_takes_those_before_it(clock: Clock) -> None:
    pace = Pace(places=4)
    for _ in range(12):
        pace.begin()
    assert pace.wait_s == 0
    rounds(pace, clock, 10, 2.0)
    assert pace.wait_s == pytest.approx(8 * 2.0 / 4, rel=0.15)
    for _ in range(20):
        pace.begin()
    assert pace.wait_s == pytest.approx(28 * 2.0 / 4, rel=0.15)


def test_the_first_batch_does_not_frighten(clock: Clock) -> None:
    """All of it ends at once: the first of them is not taken for the pace of all."""
    pace = Pace(places=4)
    for _ in range(8):
        pace.begin()
    clock.now += 1.0
    waits = []
    for _ in range(4):
        pace.end()
        pace.begin()
        waits.append(pace.wait_s)
    assert waits[:3] == [0, 0, 0]
    rounds(pace, clock, 1, 1.0)
    assert pace.wait_s <= 1.2


def test_a_new_pace_is_learnt(clock: Clock) -> None:
    pace = busy(clock)
    before = pace.wait_s
    rounds(pace, clock, 20, 3.0)
    assert pace.wait_s == pytest.approx(3 * before, rel=0.15)


def test_time_without_a_queue_does_not_count(clock: Clock) -> None:
    pace = busy(clock)
    before = pace.wait_s
    for _ in range(8):
        pace.end()
    assert pace.running == 0
    assert pace.wait_s == 0
    clock.now += 1000
    for _ in range(8):
        pace.begin()
    assert pace.wait_s <= before
    rounds(pace, clock, 5, 1.0)
    assert pace.wait_s == pytest.approx(before, rel=0.3)
