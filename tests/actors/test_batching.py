"""How examples are split and padded: properties over any lengths, and one padded batch written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.batching import Padded, micro_batches, split_over_ranks
from actors.records import Example

lengths = st.lists(st.integers(1, 300), max_size=40)


@given(lengths, st.integers(1, 5))
@settings(deadline=None)
def test_ranks_share_the_examples_evenly_by_tokens(found: list[int], ranks: int) -> None:
    split = split_over_ranks(found, ranks)
    loads = [sum(found[i] for i in rank) for rank in split]

    assert len(split) == ranks
    assert sorted(i for rank in split for i in rank) == list(range(len(found)))
    assert max(loads) - min(loads) <= max(found, default=0)
    if len(found) >= ranks:
        assert all(split)


def test_ranks_balance_tokens_and_not_examples() -> None:
    split = split_over_ranks([100, 25, 25, 25, 25], 2)

    assert sorted(sorted(rank) for rank in split) == [[0], [1, 2, 3, 4]]


@given(lengths, st.integers(1, 600))
@settings(deadline=None)
def test_micro_batches_keep_to_the_budget_and_lose_nothing(found: list[int], budget: int) -> None:
    batches = micro_batches(found, budget)

    assert sorted(i for batch in batches for i in batch) == list(range(len(found)))
    for batch in batches:
        assert max(found[i] for i in batch) * len(batch) <= budget or len(batch) == 1
    in_order = [found[i] for batch in batches for i in batch]
    assert in_order == sorted(found, reverse=True)


@given(lengths, st.integers(1, 600))
@settings(deadline=None)
def test_no_micro_batch_could_have_taken_the_next_example(found: list[int], budget: int) -> None:
    batches = micro_batches(found, budget)

    for batch in batches[:-1]:
        assert found[batch[0]] * (len(batch) + 1) > budget


def test_micro_batches_of_a_hand_made_case() -> None:
    assert micro_batches([2, 9, 3, 3, 12, 2], budget=9) == [[4], [1], [2, 3, 0], [5]]


def example(ids: list[int], prompt_length: int, advantage: float = 0.0, values: list[float] | None = None) -> Example:
    array = None if values is None else np.array(values, np.float32)
    return Example(np.array(ids, np.int32), prompt_length, advantage, array, array)


CPU = torch.device("cpu")


def test_a_padded_batch_written_out_by_hand() -> None:
    padded = Padded(
        [
            example([11, 12, 13, 21, 22], 3, 1.5, [-0.1, -0.2]),
            example([14, 15, 23, 24, 25, 26], 2, -0.5, [-0.3, -0.4, -0.5, -0.6]),
            example([16, 17, 27], 2, 0.0, [-0.7]),
        ],
        pad=9,
        device=CPU,
    )

    assert padded.ids.tolist() == [[11, 12, 13, 21, 22, 9], [14, 15, 23, 24, 25, 26], [16, 17, 27, 9, 9, 9]]
    assert padded.keep.tolist() == [1, 2, 3, 4]  # the logits at 1 predict the token at 2, the first of a completion
    assert padded.targets.tolist() == [[13, 21, 22, 9], [23, 24, 25, 26], [27, 9, 9, 9]]
    assert padded.mask.tolist() == [[0, 1, 1, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    assert padded.advantages.tolist() == [[1.5], [-0.5], [0.0]]
    for name in ("rollout_log_probs", "reference_log_probs"):
        matrix = padded.optional(name)
        assert matrix is not None
        expected = torch.tensor([[0, -0.1, -0.2, 0], [-0.3, -0.4, -0.5, -0.6], [-0.7, 0, 0, 0]])
        torch.testing.assert_close(matrix, expected)


def test_values_that_one_example_lacks_are_none() -> None:
    padded = Padded([example([1, 2, 3], 2, values=[-0.5]), example([1, 2, 3], 2)], pad=0, device=CPU)

    assert padded.optional("rollout_log_probs") is None
    assert padded.optional("reference_log_probs") is None


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=5), st.integers(0, 2**31))
@settings(deadline=None)
def test_every_completion_is_found_again(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    examples = [Example(rng.integers(1, 99, p + c).astype(np.int32), p) for p, c in shapes]
    values = [rng.standard_normal(c).astype(np.float32) for _, c in shapes]
    padded = Padded(examples, pad=0, device=CPU)
    matrix = padded.matrix(values)

    assert padded.mask.sum() == sum(c for _, c in shapes)
    assert matrix.shape == padded.mask.shape == padded.targets.shape == (len(shapes), len(padded.keep))
    assert (matrix[padded.mask == 0] == 0).all()
    for row, value in zip(padded.rows(matrix), values, strict=True):
        np.testing.assert_array_equal(row, value)
    for row, one in zip(range(len(shapes)), examples, strict=True):
        assert padded.targets[row][padded.mask[row].bool()].tolist() == one.ids[one.prompt_length :].tolist()
        at = padded.keep[padded.mask[row].bool()]  # the position before each token of the completion
        assert padded.ids[row, at + 1].tolist() == one.ids[one.prompt_length :].tolist()


def test_a_matrix_needs_a_row_for_each_example() -> None:
    padded = Padded([example([1, 2, 3], 2)], pad=0, device=CPU)

    with pytest.raises(ValueError, match="zip"):
        padded.matrix([])
