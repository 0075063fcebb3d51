"""How long a judgement waits for its turn."""

from __future__ import annotations

from time import monotonic

_ROUNDS = 4
"""How often every place was filled anew until what was seen then counts about a third."""


class Pace:
    """How fast an engine with so many `places` gets judgements done while all are taken and others wait."""

    def __init__(self, places: int):
        self.running = 0
        """Judgements that are being written or wait for a place."""
        self._places = places
        self._done = 0.0
        self._spent_s = 0.0
        self._last = 0.0

    @property
    def wait_s(self) -> float:
        """Seconds that a judgement which comes now will wait for a place; 0 where too little was seen to know."""
        if self._done < self._places:
            return 0.0
        return max(0, self.running - self._places) * self._spent_s / self._done

    def begin(self) -> None:
        """A judgement comes."""
        self.running += 1
        if self.running == self._places + 1:
            self._last = monotonic()

    def end(self) -> None:
        """A judgement is done, or given up."""
        if self.running > self._places:
            now, kept = monotonic(), 1 - 1 / (_ROUNDS * self._places)
            self._done = kept * self._done + 1
            self._spent_s = kept * self._spent_s + now - self._last
            self._last = now
        self.running -= 1
