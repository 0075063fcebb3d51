"""Ranking N responses to one prompt with a judge of pairs, or of lists.

A tournament says which matches to judge and takes their verdicts. The matches of a round do not depend on each other,
so that a caller can send them all at once:

    tournament = start("knockout", n=8)
    while matches := tournament.matches:
        tournament.record([judge(match) for match in matches])
    tournament.ratings()

A match is judged like a pair whose `response_a` is candidate `a` and whose `response_b` is candidate `b`: in one
order or in both, with one sample or with a vote (`evals.voting`). One verdict a match is recorded; `evals.ratings`
also takes every sample as a game of its own.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from evals.ratings import Game, Rating, Ratings, rate
from evals.verdicts import Verdict

Method = Literal["round_robin", "circular", "knockout", "listwise"]
"""How N candidates are compared."""

_VERDICTS: tuple[Verdict, ...] = ("a", "b", "tie", None)


class Match(NamedTuple):
    """Two candidates to compare. Order "ab" shows `a` first."""

    a: int
    b: int


def settled(a: str, b: str) -> Verdict:
    """The verdict on two responses that no judge need be asked about; None where one must be.

    Identical ones tie, two blank ones too, and a blank one is worse than any other.
    """
    written = bool(a.strip()), bool(b.strip())
    if a == b or not any(written):
        return "tie"
    return None if all(written) else "a" if written[0] else "b"


def calls(method: Method, n: int, orders: int = 1, votes: int = 1) -> int:
    """Judge calls that ranking `n` candidates takes, exactly (an early-stopping vote takes fewer).

    The number of comparisons, times the orders that each is judged in, times the votes (samples) in each order.
    Comparisons: round robin n (n - 1) / 2; circular n, but 1 for two candidates in both orders; knockout n - 1;
    listwise 1, where every order and vote is a permutation of its own.

    Raises ValueError where `n` is less than 2, `votes` less than 1, `orders` not 1 or 2, or the method unknown.
    """
    if votes < 1:
        raise ValueError(f"a comparison needs at least one vote, not {votes}")
    _check(n, orders)
    comparisons: Mapping[Method, int] = {
        "round_robin": n * (n - 1) // 2,
        "circular": 1 if n == orders == 2 else n,
        "knockout": n - 1,
        "listwise": 1,
    }
    if method not in comparisons:
        raise _unknown(method)
    return comparisons[method] * orders * votes


def _unknown(method: str) -> ValueError:
    return ValueError(f"unknown ranking method {method!r}; known are {', '.join(get_args(Method))}")


def _check(n: int, orders: int) -> None:
    if n < 2:
        raise ValueError(f"a ranking needs at least two candidates, not {n}")
    if orders not in (1, 2):
        raise ValueError(f"a comparison is judged in 1 order or in 2, not {orders}")


class Tournament(ABC):
    """Rounds of matches between `n` candidates."""

    def __init__(self, n: int, first_round: Sequence[Match]) -> None:
        self.n = n
        self.games: list[Game] = []
        self._matches = tuple(first_round)

    @property
    def matches(self) -> tuple[Match, ...]:
        """The matches of this round, to be judged in any order; empty when the tournament is over."""
        return self._matches

    @property
    def no_verdict(self) -> int:
        """Matches so far that ended without a verdict."""
        return sum(game.verdict is None for game in self.games)

    def record(self, verdicts: Sequence[Verdict]) -> None:
        """Take this round's verdicts, one a match and in their order, and go on to the next round.

        Raises ValueError where there is not one verdict a match, and where one is not a verdict.
        """
        if len(verdicts) != len(self._matches):
            raise ValueError(f"this round has {len(self._matches)} matches, but {len(verdicts)} verdicts were given")
        for verdict in verdicts:
            if verdict not in _VERDICTS:
                raise ValueError(f"a verdict is 'a', 'b', 'tie' or None, not {verdict!r}")
        games = [Game(*match, verdict) for match, verdict in zip(self._matches, verdicts, strict=True)]
        self.games += games
        self._matches = self._next(games)

    @abstractmethod
    def _next(self, games: Sequence[Game]) -> tuple[Match, ...]:
        """The matches of the round after the one that `games` were played in."""

    @abstractmethod
    def ratings(self, by: Rating | None = None) -> Ratings:
        """Ratings of the candidates, [n]. Raises ValueError while matches are to be judged."""

    def _over(self) -> None:
        if self._matches:
            raise ValueError(f"the tournament is not over: {len(self._matches)} matches of this round are to be judged")


class OneRound(Tournament):
    """A tournament whose matches are all known from the start: round robin or circular."""

    def _next(self, games: Sequence[Game]) -> tuple[Match, ...]:
        return ()

    def ratings(self, by: Rating | None = None) -> Ratings:
        """Ratings by win rate, or as said."""
        self._over()
        return rate(by or "win_rate", self.n, self.games)


def round_robin(n: int) -> OneRound:
    """Every candidate against every other.

    Candidate i of i < j is `a` where j - i is odd: judged in one order, everybody is first in half of their matches,
    or one less or more.
    """
    _check(n, 1)
    pairs = [(i, j) for i in range(n) for j in range(i + 1, n)]
    return OneRound(n, [Match(i, j) if (j - i) % 2 else Match(j, i) for i, j in pairs])


def circular(n: int, orders: int = 1) -> OneRound:
    """Candidate i against i + 1, the last against the first: in one order, each is first once and second once.

    As NeMo Gym's genrm_compare does it. With two candidates that is the same pair in both orders, so where matches
    are judged in both orders there is only one.
    """
    _check(n, orders)
    return OneRound(n, [Match(i, (i + 1) % n) for i in range(1 if n == orders == 2 else n)])


class Knockout(Tournament):
    """Losers leave; the last one left is selected.

    The draw is random by `seed`. Where n is no power of two, the first drawn pass the first round without a match, so
    that every later round is full: nobody has more than one bye, and everybody's way to the top has the same number
    of matches or one less. Who is `a` in a match is random by the seed as well.

    Who wins a match that ends in a tie or without a verdict was drawn by lot before anyone was judged: the one drawn
    earlier. `undecided` counts those matches.
    """

    def __init__(self, n: int, seed: int = 0) -> None:
        _check(n, 1)
        self._rng = random.Random(seed)
        self._draw = list(range(n))
        self._rng.shuffle(self._draw)
        self._seat = {candidate: seat for seat, candidate in enumerate(self._draw)}
        self._survived = np.zeros(n)
        self.byes = tuple(self._draw[: 2 ** (n - 1).bit_length() - n])
        self._survived[list(self.byes)] = 1
        super().__init__(n, self._pair_off(self._draw[len(self.byes) :]))

    @property
    def undecided(self) -> int:
        """Matches so far that ended in a tie or without a verdict, so that the draw decided."""
        return sum(game.verdict in ("tie", None) for game in self.games)

    @property
    def winner(self) -> int:
        """The last candidate left. Raises ValueError while matches are to be judged."""
        self._over()
        return int(self._survived.argmax())

    def ratings(self, by: Rating | None = None) -> Ratings:
        """Rounds that each candidate survived, a bye included. Raises ValueError for any other rating."""
        if by is not None:
            raise ValueError(f"a knockout rates by the rounds survived, not by {by!r}")
        self._over()
        return self._survived.copy()

    def _next(self, games: Sequence[Game]) -> tuple[Match, ...]:
        won = {self._winner(game) for game in games}
        left = [*(self.byes if len(self.games) == len(games) else ()), *won]
        self._survived[list(won)] += 1
        return self._pair_off(sorted(left, key=self._seat.__getitem__))

    def _winner(self, game: Game) -> int:
        if game.verdict in ("a", "b"):
            return game.a if game.verdict == "a" else game.b
        return min(game.a, game.b, key=self._seat.__getitem__)

    def _pair_off(self, candidates: Sequence[int]) -> tuple[Match, ...]:
        pairs = zip(candidates[::2], candidates[1::2], strict=False)  # the winner has nobody left to meet
        return tuple(Match(i, j) if self._rng.random() < 0.5 else Match(j, i) for i, j in pairs)


def start(method: Method, n: int, *, orders: int = 1, seed: int = 0) -> Tournament:
    """A tournament of `n` candidates whose matches are judged in so many `orders`.

    `seed` is the knockout's draw. Raises ValueError where `n` is less than 2, and for a method that is no tournament.
    """
    _check(n, orders)
    if method == "round_robin":
        return round_robin(n)
    if method == "circular":
        return circular(n, orders)
    if method == "knockout":
        return Knockout(n, seed)
    if method == "listwise":
        raise ValueError("a listwise ranking has no matches; see `listings` and `listwise`")
    raise _unknown(method)


def listings(n: int, votes: int = 1, seed: int = 0) -> list[tuple[int, ...]]:
    """In which order each of `votes` listwise calls shows the `n` candidates.

    The candidates are shuffled (DeepSeek-GRM, arXiv 2504.02495, shuffles before each sample) and then rotated from
    call to call, with a new shuffle every n calls, so that each stands in every place equally often.
    """
    _check(n, 1)
    if votes < 1:
        raise ValueError(f"a comparison needs at least one vote, not {votes}")
    rng = random.Random(seed)
    shown: list[tuple[int, ...]] = []
    shuffled = list(range(n))
    for call in range(votes):
        if call % n == 0:
            rng.shuffle(shuffled)
        shown.append(tuple(shuffled[call % n :] + shuffled[: call % n]))
    return shown


def listwise(listed: Sequence[Sequence[int]], scores: Sequence[Sequence[float] | None]) -> npt.NDArray[np.float64]:
    """Mean score of each candidate over listwise calls, [n].

    `listed` are the orders from `listings`; `scores` hold what each call gave the candidates in the order it showed
    them, or None where it gave no scores. Such a call does not count; without any other all candidates have 0.

    Raises ValueError where calls and scores differ in number, or a call scored more or fewer candidates than it saw.
    """
    if len(listed) != len(scores) or not listed:
        raise ValueError(f"{len(listed)} listwise calls need as many lists of scores, not {len(scores)}")
    rows = []
    for shown, given in zip(listed, scores, strict=True):
        if given is None:
            continue
        if len(given) != len(shown):
            raise ValueError(f"a listwise call on {len(shown)} candidates gave {len(given)} scores")
        row = np.empty(len(shown))
        row[list(shown)] = given
        rows.append(row)
    return np.mean(rows, axis=0) if rows else np.zeros(len(listed[0]))
