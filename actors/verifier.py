"""The rule-based verifier: judgements' texts and gold become rewards."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import cast

import ray

from actors.config import VerifierConfig
from actors.models import without
from actors.records import GroupScore, RolloutGroup
from actors.tokens import PromptEncoder
from evals.pairs import Pair
from evals.prompts import PromptFormat, prompt_format
from evals.rewards import Reward, RewardConfig, reward_one
from evals.verdicts import Gold, Judgement, Verdict
from evals.writing import write_whole

Rule = Callable[[Verdict, Gold], float]
Rewarder = Callable[[Judgement, Pair, Sequence[bool]], Reward]
Rewarded = tuple[Judgement, Reward]


class TimeLimitError(BaseException):
    """An item took longer than the verifier's time limit. No `except Exception` in a rule can swallow it."""


def load_rule(path: str) -> Rule:
    """The function named as `module:function`. Raises ValueError saying which half cannot be found."""
    module_name, _, name = path.partition(":")
    try:
        return getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"verifier.reward={path!r} must be importable as module:function ({error})") from error


class _Verifier:
    """Parses every judgement of a pair and rewards it. It has no state, so it can be restarted at any time."""

    def __init__(self, model: str, format_: str, benchmark: str, model_name: str, config: VerifierConfig):
        # torch is for transformers' models, which a rule of the user's may ask for and a tokenizer does not.
        with nullcontext() if isinstance(config.reward, str) else without("torch"):
            self._encoder = PromptEncoder(model)
        self._format = prompt_format(format_)
        self._benchmark, self._model_name = benchmark, model_name
        self._reward = _rewarder(config.reward, self._format)
        self._limit = config.time_limit_s

    def score(self, *groups: RolloutGroup) -> tuple[list[GroupScore], list[Rewarded]]:
        """Scores of one pair's groups, one an order, and all their judgements with rewards, group after group.

        A reward for consistency needs the groups of both orders in one call. Call it with `num_returns=2`.
        """
        read = [[self._read(group, sample) for sample in range(len(group.rollouts))] for group in groups]
        scores, judged = [], []
        for group, judgements in zip(groups, read, strict=True):
            other = [one.right for both in read for one in both if one.order != group.prompt.order]
            rewarded = [self._rewarded(judgement, group.prompt.pair, other) for judgement in judgements]
            scores.append(_group_score(group, rewarded))
            judged += rewarded
        return scores, judged

    def _read(self, group: RolloutGroup, sample: int) -> Judgement:
        """What was sampled, as text and verdict; none where reading takes too long."""
        rollout, prompt = group.rollouts[sample], group.prompt
        text, verdict, ratings = "", None, None
        try:
            with _time_limit(self._limit):
                text = self._encoder.decode(rollout.ids)
                parsed = self._format.parse(text, prompt.order)
                verdict, ratings = parsed.verdict, parsed.ratings
        except TimeLimitError:
            verdict, ratings = None, None
        return Judgement(
            benchmark=self._benchmark,
            pair_id=prompt.pair.id,
            subset=prompt.pair.subset,
            gold=prompt.pair.gold,
            order=prompt.order,
            sample=sample,
            format=self._format.name,
            text=text,
            verdict=verdict,
            prompt_tokens=len(prompt.ids),
            completion_tokens=len(rollout.ids),
            model=self._model_name,
            version=group.version,
            ratings=ratings,
        )

    def _rewarded(self, judgement: Judgement, pair: Pair, other: Sequence[bool]) -> Rewarded:
        """The judgement with its reward; one whose reward takes too long counts as having no verdict."""
        if pair.gold is None:
            return judgement, Reward(0.0, {})
        try:
            with _time_limit(self._limit):
                return judgement, self._reward(judgement, pair, other)
        except TimeLimitError:
            judgement = replace(judgement, verdict=None, ratings=None)
        try:
            with _time_limit(self._limit):
                return judgement, self._reward(replace(judgement, text=""), pair, other)
        except TimeLimitError:  # the rule itself is what does not come back
            return judgement, Reward(-1.0, {})

    def write(self, path: Path, extra: dict[str, object], *pairs: list[Rewarded]) -> int:
        """Write the judgements of pairs as JSON lines, each with its reward, the parts of that, and `extra`.

        Returns how many.

        The file appears when it is complete, so writing again after a restart does no harm.
        """
        lines = [
            judgement.to_json(**extra, reward=reward.total, reward_parts=dict(reward.parts))
            for pair in pairs
            for judgement, reward in pair
        ]
        write_whole(path, "".join(line + "\n" for line in lines))
        return len(lines)


Verifier = ray.remote(_Verifier)


def _rewarder(reward: RewardConfig | str, format_: PromptFormat) -> Rewarder:
    """The configured parts, or a rule of one's own, as one function."""
    if isinstance(reward, RewardConfig):
        return lambda judgement, pair, other: reward_one(judgement, pair, format_, reward, other)
    rule = load_rule(reward)
    return lambda judgement, pair, other: Reward(float(rule(judgement.verdict, cast(Gold, pair.gold))), {})


def _group_score(group: RolloutGroup, rewarded: Sequence[Rewarded]) -> GroupScore:
    verdicts = [judgement.verdict for judgement, _ in rewarded]
    shown_first = "a" if group.prompt.order == "ab" else "b"
    return GroupScore(
        index=group.index,
        rewards=[reward.total for _, reward in rewarded],
        parts=[reward.parts for _, reward in rewarded],
        right=[judgement.right for judgement, _ in rewarded],
        none=[verdict is None for verdict in verdicts],
        first=[verdict == shown_first for verdict in verdicts],
        lengths=[len(rollout.ids) for rollout in group.rollouts],
        truncated=[rollout.truncated for rollout in group.rollouts],
        prompt_length=len(group.prompt.ids),
        versions=group.versions,
        work=group.work,
    )


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeLimitError in the main thread, where Ray runs an actor's methods, every `seconds` until it ends."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise TimeLimitError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
