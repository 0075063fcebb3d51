"""Who trains on what: a batch of scored groups becomes one share a rank, for each optimizer step a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray

from actors.batching import micro_batches, packed_batches, split_over_ranks
from actors.config import PolicyConfig
from actors.losses import Totals

Pick = tuple[int, int]
"""(index of a source, index of the sample in it)"""


@dataclass(frozen=True)
class Plan:
    """One rank's share of one optimizer step: its samples, cut into micro-batches; an empty one keeps ranks in step."""

    picks: list[Pick]
    advantages: list[float]
    micro_batches: list[list[int]]
    totals: Totals


@dataclass(frozen=True)
class Share:
    """What one rank trains on: a plan for each optimizer step, and refs to the groups that the plans pick from.

    `references` are refs of the groups' log-probabilities under the reference, empty where no KL is measured. Refs in
    a record stay refs: the rank fetches what they stand for, and nobody else does.
    """

    plans: list[Plan]
    groups: list[ray.ObjectRef]
    references: list[ray.ObjectRef]


def shares(
    groups: Sequence[ray.ObjectRef],
    references: Sequence[ray.ObjectRef],
    advantages: Sequence[Sequence[float]],
    lengths: Sequence[Sequence[tuple[int, int]]],
    minibatches: int,
    policy: PolicyConfig,
) -> list[Share]:
    """Every rank's share of a batch that is trained on in `minibatches` optimizer steps.

    `references` are refs of each group's reference log-probabilities, or empty. `advantages` and `lengths` (whole,
    completion) have one entry a group and sample.
    """
    per_rank: list[list[Plan]] = [[] for _ in range(policy.ranks)]
    for members in (part for part in np.array_split(np.arange(len(groups)), minibatches) if len(part)):
        picks = [(int(g), s) for g in members for s in range(len(advantages[g]))]
        flat = [advantages[g][s] for g, s in picks]
        for mine, plan in zip(per_rank, plans(picks, flat, [lengths[g][s] for g, s in picks], policy), strict=True):
            mine.append(plan)
    return [_share(mine, groups, references) for mine in per_rank]


def _share(mine: Sequence[Plan], groups: Sequence[ray.ObjectRef], references: Sequence[ray.ObjectRef]) -> Share:
    """The rank's plans with the groups it needs, and no others."""
    needed = sorted({source for plan in mine for source, _ in plan.picks})
    local = {source: index for index, source in enumerate(needed)}
    return Share(
        [Plan([(local[g], s) for g, s in p.picks], p.advantages, p.micro_batches, p.totals) for p in mine],
        [groups[g] for g in needed],
        [references[g] for g in needed if references],
    )


def plans(
    picks: Sequence[Pick], advantages: Sequence[float], lengths: Sequence[tuple[int, int]], policy: PolicyConfig
) -> list[Plan]:
    """One optimizer step's samples dealt out to ranks by length; every rank gets the same number of micro-batches."""
    totals = Totals(sum(completion for _, completion in lengths), len(picks), policy.ranks)
    dealt = split_over_ranks([whole for whole, _ in lengths], policy.ranks)
    group, budget = (packed_batches, policy.packing) if policy.packing else (micro_batches, policy.micro_batch_tokens)
    cut = [group([lengths[i][0] for i in share], budget) for share in dealt]
    count = max(map(len, cut))
    return [
        Plan([picks[i] for i in share], [advantages[i] for i in share], mine + [[]] * (count - len(mine)), totals)
        for share, mine in zip(dealt, cut, strict=True)
    ]
