"""What travels between actors as object refs: numpy arrays in dataclasses.

A token is carried from the engine that sampled it to the gradient without being turned into text and back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evals.pairs import Pair
from evals.verdicts import Order

Ids = npt.NDArray[np.int32]
LogProbs = npt.NDArray[np.float32]

Interval = tuple[float, float]
"""When an actor began and ended a piece of work, in seconds since the epoch by its own node's clock."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """One pair in one order, ready to be judged. `ids`: the encoded prompt, [prompt length]."""

    pair: Pair
    order: Order
    ids: Ids


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled judgement.

    `ids` are the sampled tokens with the end-of-sequence token where there is one, [length]; `log_probs` the
    engine's log-probabilities of them at the sampling temperature, [length], in nats. `truncated` is true where
    the length limit ended it. `versions` are the weight versions that the tokens were sampled under, [length]: all
    the same, unless new weights arrived in between.
    """

    ids: Ids
    log_probs: LogProbs
    truncated: bool
    versions: Ids


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The n judgements of one prompt; `version` is the weight version that the last of them ended under.

    `index` is the prompt's place in its batch, `work` when its engine began the batch and when it ended the group.
    """

    index: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    version: int
    work: Interval = (0.0, 0.0)

    @property
    def versions(self) -> Mapping[int, int]:
        """Tokens by the weight version that they were sampled under."""
        return Counter(np.concatenate([rollout.versions for rollout in self.rollouts]).tolist())


@dataclass(frozen=True, slots=True)
class GroupScore:
    """What is known of a group without its tokens: scalars only. The lists have an entry for each of the n judgements.

    `index` is the prompt's place in the batch; `parts` has each reward's parts by name, without their weights; `right`,
    `none` and `first` say whether the verdict was gold, was
    missing, and named the candidate that was shown first; `lengths` are in tokens. `versions` counts tokens by the
    weight version that they were sampled under; `work` is the group's.
    """

    index: int
    rewards: list[float]
    parts: list[Mapping[str, float]]
    right: list[bool]
    none: list[bool]
    first: list[bool]
    lengths: list[int]
    truncated: list[bool]
    prompt_length: int
    versions: Mapping[int, int] = field(default_factory=dict)
    work: Interval = (0.0, 0.0)


def zero_variance(scores: Sequence[GroupScore]) -> bool:
    """Whether every reward of groups that share a baseline is the same, so that their advantages are zero."""
    rewards = [reward for score in scores for reward in score.rewards]
    return min(rewards) == max(rewards)


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence to train on: `ids` = prompt and completion, [length]; the loss is on the completion.

    The per-token arrays cover the completion alone, [length - prompt_length]: `rollout_log_probs` from the
    engine, `reference_log_probs` from the reference. Both are None in supervised fine-tuning.
    """

    ids: Ids
    prompt_length: int
    advantage: float = 0.0
    rollout_log_probs: LogProbs | None = None
    reference_log_probs: LogProbs | None = None

    @property
    def prompt(self) -> Ids:
        """The tokens that no loss is on, [prompt_length]."""
        return self.ids[: self.prompt_length]

    @property
    def completion_length(self) -> int:
        """Number of tokens that the loss is on."""
        return len(self.ids) - self.prompt_length


def merged(work: Sequence[Interval]) -> list[Interval]:
    """The times at which anything was being done: intervals that overlap become one."""
    found: list[Interval] = []
    for begin, end in sorted(work):
        if found and begin <= found[-1][1]:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((begin, end))
    return found
