"""What travels between actors as object refs: numpy arrays in dataclasses.

A token is carried from the engine that sampled it to the gradient without being turned into text and back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evals.pairs import Pair
from evals.verdicts import Order

Ids = npt.NDArray[np.int32]
LogProbs = npt.NDArray[np.float32]


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
    the length limit ended it.
    """

    ids: Ids
    log_probs: LogProbs
    truncated: bool


@dataclass(frozen=True, slots=True)
class RolloutGroup:
    """The n judgements of one prompt, all sampled under weight version `version`.

    `index` is the prompt's place in its batch.
    """

    index: int
    prompt: Prompt
    rollouts: tuple[Rollout, ...]
    version: int


@dataclass(frozen=True, slots=True)
class GroupScore:
    """What the driver learns of a group: scalars only. The lists have an entry for each of the n judgements.

    `index` is the prompt's place in the batch; `parts` has each reward's parts by name, without their weights; `right`,
    `none` and `first` say whether the verdict was gold, was
    missing, and named the candidate that was shown first; `lengths` are in tokens.
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
    def completion_length(self) -> int:
        """Number of tokens that the loss is on."""
        return len(self.ids) - self.prompt_length
