"""Who trains on what: a batch of scored groups becomes one share a rank, for each optimizer step a plan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import ray

from actors.batching import micro_batches, pieces, split_over_ranks, tokens_of
from actors.config import PolicyConfig
from actors.losses import Totals

Pick = tuple[int, int]
"""(index of a source, index of the sample in it)"""

_PIECES_A_RANK = 4
"""With several ranks, groups are cut until there are so many pieces a rank: what is dealt whole is dealt unevenly."""


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
    """One optimizer step's samples dealt out to ranks by length; every rank gets the same number of micro-batches.

    Samples of one source have the same prompt, which is why they stay together where prompts are shared.
    """
    totals = Totals(sum(completion for _, completion in lengths), len(picks), policy.ranks)
    shared, budget = policy.share_prompts, policy.micro_batch_tokens
    prompts = [source for source, _ in picks] if shared else range(len(picks))
    least = _PIECES_A_RANK * policy.ranks if policy.ranks > 1 else 1
    together = pieces(prompts, lengths, budget, least)
    found = []
    for dealt in split_over_ranks([tokens_of(piece, lengths) for piece in together], policy.ranks):
        rows = [row for piece in dealt for row in together[piece]]
        place = {row: local for local, row in enumerate(rows)}
        cut = micro_batches([together[piece] for piece in dealt], lengths, budget, shared)
        mine = [[place[row] for row in batch] for batch in cut]
        found.append(Plan([picks[row] for row in rows], [advantages[row] for row in rows], mine, totals))
    count = max(len(plan.micro_batches) for plan in found)
    for plan in found:
        plan.micro_batches.extend([] for _ in range(count - len(plan.micro_batches)))
    return found
