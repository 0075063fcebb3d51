"""Ratings of N candidates from games between them, and what such ratings are worth against gold scores.

Candidates are numbered from 0 to N - 1. A rating is a float64 array [N]; higher is better. A game without a verdict
(None) is no game: it moves no rating, and callers who report ratings report how many there were.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import evalica
import numpy as np
import numpy.typing as npt
from evalica import Winner

from evals.verdicts import Verdict

Ratings = npt.NDArray[np.float64]

Rating = Literal["win_rate", "elo", "bradley_terry"]
"""How games become ratings."""

_DECIMALS = 8
"""Ratings that differ by less are equal: a fit is that exact, and equal results have to give equal ratings."""


class Game(NamedTuple):
    """Two candidates and who won: verdict "a" is for candidate `a`, "b" for candidate `b`."""

    a: int
    b: int
    verdict: Verdict


_WINNERS: Mapping[Verdict, Winner] = {"a": Winner.X, "b": Winner.Y, "tie": Winner.Draw}


def rate(by: Rating, n: int, games: Sequence[Game]) -> Ratings:
    """Ratings of `n` candidates, [n]. Raises ValueError where a game names no candidate and where `by` is unknown."""
    if by not in _RATINGS:
        raise ValueError(f"unknown rating {by!r}; known are {', '.join(get_args(Rating))}")
    return _RATINGS[by](n, games)


def win_rate(n: int, games: Sequence[Game]) -> Ratings:
    """Share of its games that a candidate won, a tie being half a win; 0.5 for one without a game. [n]"""
    xs, ys, winners = _columns(n, games)
    counted = evalica.counting(xs, ys, winners, win_weight=1, tie_weight=0.5)
    wins = counted.scores.reindex(range(n), fill_value=0.0).to_numpy()
    played = np.bincount([*xs, *ys], minlength=n)
    return np.where(played > 0, wins / np.maximum(played, 1), 0.5)


def elo(n: int, games: Sequence[Game], seed: int = 0) -> Ratings:
    """Elo ratings after one pass over the games, shuffled by `seed`. [n]

    The settings are RRM's, evalica's defaults: all start at 1000, base 10, scale 400, k = 4, a tie is half a win
    (microsoft/LMOps af6bc85, elo_rival_results.py). Elo depends on the order of the games: another seed gives other
    ratings, and in a round robin breaks ties in the number of wins otherwise. `win_rate` and `bradley_terry` do not.
    """
    shuffled = list(games)
    random.Random(seed).shuffle(shuffled)
    xs, ys, winners = _columns(n, shuffled)
    result = evalica.elo(xs, ys, winners, initial=1000, base=10, scale=400, k=4, win_weight=1, tie_weight=0.5)
    return result.scores.reindex(range(n), fill_value=1000.0).to_numpy().round(_DECIMALS)


def bradley_terry(n: int, games: Sequence[Game]) -> Ratings:
    """Log strengths of the regularised Bradley-Terry model, a tie being half a win to each. [n]

    Candidate i beats j with probability sigmoid(rating i - rating j). Each has one more game, a tie with a virtual
    candidate whose rating is 0; that is a prior, so ratings are finite and unique whatever the games are, and 0 for a
    candidate without any. They do not depend on the order of games or candidates. The fit is evalica's (Newman 2023).
    """
    xs, ys, winners = _columns(n, games)
    result = evalica.bradley_terry(
        [*range(n), *xs],  # in this order the fit visits the candidates, whatever the order of the games
        [*[n] * n, *ys],
        [*[Winner.Draw] * n, *winners],
        win_weight=1,
        tie_weight=0.5,
        tolerance=1e-10,
        limit=1000,
    )
    strengths = result.scores.sort_index().to_numpy()
    return np.log(strengths[:n] / strengths[n]).round(_DECIMALS) + 0.0  # no -0.0


_RATINGS: Mapping[Rating, Callable[[int, Sequence[Game]], Ratings]] = {
    "win_rate": win_rate,
    "elo": elo,
    "bradley_terry": bradley_terry,
}


def _columns(n: int, games: Iterable[Game]) -> tuple[list[int], list[int], list[Winner]]:
    """The games with a verdict, as evalica takes them."""
    if n < 1:
        raise ValueError(f"at least one candidate is needed, not {n}")
    xs, ys, winners = [], [], []
    for game in games:
        if not (0 <= game.a < n and 0 <= game.b < n) or game.a == game.b:
            raise ValueError(f"a game is between two of the candidates 0 to {n - 1}, not {game.a} and {game.b}")
        if game.verdict is not None:
            xs.append(game.a)
            ys.append(game.b)
            winners.append(_WINNERS[game.verdict])
    return xs, ys, winners


def leaders(ratings: npt.ArrayLike) -> npt.NDArray[np.intp]:
    """The candidates with the highest rating, in ascending order."""
    values = np.asarray(ratings, dtype=np.float64)
    return np.flatnonzero(values == values.max())


def selection_credit(ratings: npt.ArrayLike, gold: npt.ArrayLike) -> float:
    """The chance, for one prompt, that a leader drawn at random is among the best by gold score.

    So m tied leaders share the credit, 1/m each, and the order of the candidates decides nothing. Where all gold
    scores are equal the credit is 1: leave out such prompts where gold says who is correct and nobody is.

    Raises ValueError where ratings and gold scores are not of the same candidates.
    """
    _same_candidates(ratings, gold)
    return float(np.isin(leaders(ratings), leaders(gold)).mean())


def best_of_n(ratings: Sequence[npt.ArrayLike], gold: Sequence[npt.ArrayLike]) -> float:
    """Best-of-N accuracy: the mean `selection_credit` over prompts. Raises ValueError where there is no prompt."""
    if not len(ratings):
        raise ValueError("best-of-N accuracy needs at least one prompt")
    return float(np.mean([selection_credit(one, two) for one, two in zip(ratings, gold, strict=True)]))


def spearman(ratings: npt.ArrayLike, gold: npt.ArrayLike) -> float | None:
    """Spearman's rank correlation of ratings and gold scores of one prompt's candidates, ties at their mean rank.

    None where all ratings or all gold scores are equal: there is no correlation with a constant.
    Raises ValueError where the two are not of the same candidates.
    """
    _same_candidates(ratings, gold)
    if np.ptp(ratings) == 0 or np.ptp(gold) == 0:
        return None
    from scipy.stats import spearmanr

    return float(spearmanr(ratings, gold).statistic)


def _same_candidates(ratings: npt.ArrayLike, gold: npt.ArrayLike) -> None:
    if np.ndim(ratings) != 1 or np.shape(ratings) != np.shape(gold) or not np.size(ratings):
        raise ValueError(
            f"ratings and gold scores have to be of the same candidates, not {np.shape(ratings)} and {np.shape(gold)}"
        )
