"""How examples become micro-batches: balanced over ranks by length, filled to a token budget.

Examples of one group have the same prompt. Where the model's attention allows, it stands in a micro-batch once
(`Grouped`), and nothing is padded; elsewhere every example is a row of its own (`Padded`).
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from typing_extensions import override

from actors.records import Example

if TYPE_CHECKING:
    import torch


_LIKE = 0.7
"""Sequences of this share of the longest's length attend together with it: at worst, half of that is padding."""


def split_over_ranks(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices of the examples of each rank, balanced by tokens. Every rank has at least one where there are enough."""
    if ranks == 1 or len(lengths) <= ranks:
        return [list(range(rank, len(lengths), ranks)) for rank in range(ranks)]
    from openrlhf.utils.seqlen_balancing import get_seqlen_balanced_partitions

    return get_seqlen_balanced_partitions(list(lengths), ranks, equal_size=False)


def pieces(prompts: Sequence[int], lengths: Sequence[tuple[int, int]], budget: int, least: int = 1) -> list[list[int]]:
    """Indices of examples that share a prompt and stay together; an example has a number for its prompt, `prompts[i]`.

    A group is cut where it would hold more than `budget` tokens, its prompt counted once a piece, and where there
    would be fewer than `least` pieces of all. `lengths` are (whole, completion).
    """
    groups: dict[int, list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault(prompt, []).append(index)
    parts = -(-least // max(len(groups), 1))
    found: list[list[int]] = []
    for group in groups.values():
        most = -(-len(group) // parts)
        tokens = 0
        for place, index in enumerate(group):
            whole, completion = lengths[index]
            if place % most == 0 or tokens + completion > budget:
                found.append([])
                tokens = whole - completion
            found[-1].append(index)
            tokens += completion
    return found


def tokens_of(piece: Sequence[int], lengths: Sequence[tuple[int, int]]) -> int:
    """How many tokens a piece has, its prompt counted once."""
    return sum(lengths[i][1] for i in piece) + max(lengths[i][0] - lengths[i][1] for i in piece)


def filled(sizes: Sequence[int], budget: int) -> list[list[int]]:
    """Group what has these sizes so that no group is larger than `budget`: first fit, largest first.

    What is larger than the budget stands alone.
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        fits = next((place for place, left in enumerate(room) if sizes[index] <= left), None)
        if fits is None:
            batches.append([index])
            room.append(budget - sizes[index])
        else:
            batches[fits].append(index)
            room[fits] -= sizes[index]
    return batches


def padded_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group examples of like length so that no group holds more than `budget` padded tokens.

    Longest first, so that the largest micro-batch shows at once whether it fits in memory. An example longer than
    the budget stands alone.
    """
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= budget:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def micro_batches(
    together: Sequence[Sequence[int]], lengths: Sequence[tuple[int, int]], budget: int, shared: bool
) -> list[list[int]]:
    """Indices of the examples of each micro-batch, made of pieces that stay together.

    The budget counts a piece's prompt once where prompts are shared, and padding where they are not.
    """
    if shared:
        batches = filled([tokens_of(piece, lengths) for piece in together], budget)
        return [[index for place in batch for index in together[place]] for batch in batches]
    rows = [index for piece in together for index in piece]
    return [[rows[place] for place in batch] for batch in padded_batches([lengths[i][0] for i in rows], budget)]


class MicroBatch(ABC):
    """Examples ready for one forward pass, and their per-token values as matrices with a row for each example.

    `inputs` are the model's arguments with the positions that are kept of what it computes (`logits_to_keep`),
    `targets` the ids that follow them, and `wanted` which of those are completion tokens. `mask` and every matrix are
    [examples, width], `advantages` is [examples, 1].
    """

    inputs: dict[str, Any]
    targets: torch.Tensor
    wanted: torch.Tensor

    def __init__(self, examples: Sequence[Example], starts: Sequence[int], width: int, device: torch.device):
        import torch

        self._examples, self._starts, self._width, self._device = examples, starts, width, device
        self.mask = self.matrix([np.ones(e.completion_length, np.float32) for e in examples])
        self.advantages = torch.tensor([[e.advantage] for e in examples], dtype=torch.float32, device=device)

    @abstractmethod
    def by_example(self, values: torch.Tensor) -> torch.Tensor:
        """Values of the kept positions, shaped like `targets`, as a matrix; the gradient flows through."""

    def optional(self, name: str) -> torch.Tensor | None:
        """The per-token matrix of `rollout_log_probs` or `reference_log_probs`; None where examples have none."""
        values = [getattr(example, name) for example in self._examples]
        return None if any(value is None for value in values) else self.matrix(values)

    def rows(self, matrix: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        """Cut a matrix back into each example's completion, [completion length]."""
        values = matrix.detach().float().cpu().numpy()
        spans = zip(self._starts, self._examples, strict=True)
        return [
            values[row, start : start + example.completion_length].copy() for row, (start, example) in enumerate(spans)
        ]

    def matrix(self, values: Sequence[npt.NDArray[np.float32]]) -> torch.Tensor:
        """Per-completion arrays as one matrix with zeros elsewhere; the inverse of `rows`."""
        import torch

        matrix = np.zeros((len(self._examples), self._width), np.float32)
        for row, (start, example, value) in enumerate(zip(self._starts, self._examples, values, strict=True)):
            matrix[row, start : start + example.completion_length] = value
        return torch.from_numpy(matrix).to(self._device)


class Padded(MicroBatch):
    """A row for each example, right-padded; the completion part of every row is cut out with `logits_to_keep`.

    Right padding needs no attention mask under causal attention: no real token ever looks at a pad.

    Ids are [examples, longest]; the positions kept are those that predict a completion token of any row, so that the
    matrices are as wide as that, and a completion starts somewhere in its row.
    """

    def __init__(self, examples: Sequence[Example], pad: int, device: torch.device):
        import torch

        longest = max(len(example.ids) for example in examples)
        first = min(example.prompt_length for example in examples) - 1
        ids = np.full((len(examples), longest), pad, np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
        tokens = torch.from_numpy(ids).to(device)
        self.inputs = {"input_ids": tokens, "logits_to_keep": torch.arange(first, longest - 1, device=device)}
        self.targets = tokens[:, first + 1 :]
        starts = [example.prompt_length - 1 - first for example in examples]
        super().__init__(examples, starts, longest - 1 - first, device)
        self.wanted = self.mask.bool()

    @override
    def by_example(self, values: torch.Tensor) -> torch.Tensor:
        return values


class Grouped(MicroBatch):
    """One row for all examples without padding, in which a prompt stands once.

    Examples with the same prompt stand next to each other. First in the row are prompts, and whole sequences where a
    prompt has one completion, the longest first; then the other completions, group by group. `inputs` tell the model's
    attention (`actors/attention.py`), and positions count on from the prompt in every completion. Its last position is
    kept once for each of them. Every completion starts its matrix row.
    """

    def __init__(self, examples: Sequence[Example], device: torch.device):
        import torch

        from actors.attention import Group, Groups, Stretch

        together = _same_prompt(examples)
        heads = [group[0].prompt if group[1:] else group[0].ids for group in together]
        order = sorted(range(len(heads)), key=lambda i: -len(heads[i]))
        ids = [heads[i] for i in order]
        positions = [np.arange(len(one)) for one in ids]
        *starts, at = itertools.accumulate((len(one) for one in ids), initial=0)
        begins = dict(zip(order, starts, strict=True))
        alone = [Stretch(starts[part[0]], [len(ids[i]) for i in part], device) for part in _like(ids)]
        keep: list[npt.NDArray[np.int_]] = []
        groups: list[Group] = []
        for number, group in enumerate(together):
            begin, prompt = begins[number], group[0].prompt_length
            last = begin + prompt - 1
            if not group[1:]:
                keep.append(np.arange(last, last + group[0].completion_length))
                continue
            lengths = [example.completion_length for example in group]
            groups.append(Group(slice(begin, begin + prompt), Stretch(at, lengths, device)))
            for example in group:
                keep += [np.array([last]), np.arange(at, at + example.completion_length - 1)]
                ids.append(example.ids[prompt:])
                positions.append(np.arange(prompt, len(example.ids)))
                at += example.completion_length
        kept = torch.from_numpy(np.concatenate(keep)).to(device)
        self.inputs = {
            "input_ids": torch.from_numpy(np.concatenate(ids).astype(np.int64)).to(device)[None],
            "position_ids": torch.from_numpy(np.concatenate(positions)).to(device)[None],
            "logits_to_keep": kept,
            "groups": Groups(alone, groups),
        }
        targets = np.concatenate([example.ids[example.prompt_length :] for example in examples])
        self.targets = torch.from_numpy(targets.astype(np.int64)).to(device)[None]
        self.wanted = torch.ones_like(self.targets, dtype=torch.bool)
        super().__init__(examples, [0] * len(examples), max(e.completion_length for e in examples), device)

    @override
    def by_example(self, values: torch.Tensor) -> torch.Tensor:
        return self.mask.new_zeros(self.mask.shape).masked_scatter(self.mask.bool(), values[0])


def _like(longest_first: Sequence[npt.NDArray[np.int32]]) -> list[list[int]]:
    """Places of sequences of like length: attention pads those to the longest of them."""
    parts: list[list[int]] = []
    for place, ids in enumerate(longest_first):
        if parts and len(ids) >= _LIKE * len(longest_first[parts[-1][0]]):
            parts[-1].append(place)
        else:
            parts.append([place])
    return parts


def _same_prompt(examples: Sequence[Example]) -> list[list[Example]]:
    """Examples next to each other that have the same prompt."""
    groups: list[list[Example]] = []
    for example in examples:
        if groups and np.array_equal(groups[-1][0].prompt, example.prompt):
            groups[-1].append(example)
        else:
            groups.append([example])
    return groups
