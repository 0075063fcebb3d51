"""How examples become micro-batches: balanced over ranks by length, filled to a token budget."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from actors.records import Example


def split_over_ranks(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Indices of the examples of each rank, balanced by tokens. Every rank has at least one where there are enough."""
    if ranks == 1 or len(lengths) <= ranks:
        return [list(range(rank, len(lengths), ranks)) for rank in range(ranks)]
    from openrlhf.utils.seqlen_balancing import get_seqlen_balanced_partitions

    return get_seqlen_balanced_partitions(list(lengths), ranks, equal_size=False)


def micro_batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
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


class Padded:
    """A micro-batch of examples, right-padded; the completion part of every row is cut out with `keep`.

    Right padding needs no attention mask under causal attention: no real token ever looks at a pad.

    `ids` [rows, longest]; `keep` [kept] are the positions whose logits predict a completion token of any row, and
    `targets`, `mask`, and the optional log-probability matrices are [rows, kept]. `advantages` is [rows, 1].
    """

    def __init__(self, examples: Sequence[Example], pad: int, device: torch.device):
        longest = max(len(example.ids) for example in examples)
        first = min(example.prompt_length for example in examples) - 1
        ids = np.full((len(examples), longest), pad, np.int64)
        for row, example in enumerate(examples):
            ids[row, : len(example.ids)] = example.ids
        self.ids = torch.from_numpy(ids).to(device)
        self.keep = torch.arange(first, longest - 1, device=device)
        self.targets = self.ids[:, first + 1 :]
        self._first, self._examples, self._device = first, examples, device
        self.mask = self.matrix([np.ones(e.completion_length, np.float32) for e in examples])
        self.advantages = torch.tensor([[e.advantage] for e in examples], dtype=torch.float32, device=device)

    def optional(self, name: str) -> torch.Tensor | None:
        """The per-token matrix of `rollout_log_probs` or `reference_log_probs`; None where examples have none."""
        values = [getattr(example, name) for example in self._examples]
        return None if any(value is None for value in values) else self.matrix(values)

    def rows(self, matrix: torch.Tensor) -> list[npt.NDArray[np.float32]]:
        """Cut a [rows, kept] matrix back into each example's completion, [completion length]."""
        values = matrix.detach().float().cpu().numpy()
        spans = [self._span(example) for example in self._examples]
        return [values[row, start:end].copy() for row, (start, end) in enumerate(spans)]

    def _span(self, example: Example) -> tuple[int, int]:
        start = example.prompt_length - 1 - self._first
        return start, start + example.completion_length

    def matrix(self, values: Sequence[npt.NDArray[np.float32]]) -> torch.Tensor:
        """Per-completion arrays as one [rows, kept] matrix with zeros elsewhere; the inverse of `rows`."""
        matrix = np.zeros((len(self._examples), len(self.keep)), np.float32)
        for row, (example, value) in enumerate(zip(self._examples, values, strict=True)):
            start, end = self._span(example)
            matrix[row, start:end] = value
        return torch.from_numpy(matrix).to(self._device)
