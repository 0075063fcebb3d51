"""How examples are split and padded: properties over any lengths, and one padded batch written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.batching import MicroBatch, Packed, Padded, micro_batches, packed_batches, split_over_ranks
from actors.losses import completion_log_probs
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

    assert padded.inputs["input_ids"].tolist() == [
        [11, 12, 13, 21, 22, 9],
        [14, 15, 23, 24, 25, 26],
        [16, 17, 27, 9, 9, 9],
    ]
    assert padded.inputs["logits_to_keep"].tolist() == [
        1,
        2,
        3,
        4,
    ]  # the logits at 1 predict the token at 2, the first of a completion
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


def test_a_packed_batch_written_out_by_hand() -> None:
    packed = Packed(
        [
            example([11, 12, 13, 21, 22], 3, 1.5, [-0.1, -0.2]),
            example([14, 15, 23, 24, 25, 26], 2, -0.5, [-0.3, -0.4, -0.5, -0.6]),
            example([16, 17, 27], 2, 0.0, [-0.7]),
        ],
        device=CPU,
    )

    assert packed.inputs["input_ids"].tolist() == [[11, 12, 13, 21, 22, 14, 15, 23, 24, 25, 26, 16, 17, 27]]
    assert packed.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 5, 0, 1, 2]]
    assert packed.inputs["logits_to_keep"].tolist() == [2, 3, 6, 7, 8, 9, 12]
    assert packed.targets.tolist() == [[21, 22, 23, 24, 25, 26, 27]]
    assert packed.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    matrix = packed.optional("rollout_log_probs")
    assert matrix is not None
    expected = torch.tensor([[-0.1, -0.2, 0, 0], [-0.3, -0.4, -0.5, -0.6], [-0.7, 0, 0, 0]])
    torch.testing.assert_close(matrix, expected)
    torch.testing.assert_close(packed.by_example(matrix[packed.mask.bool()][None]), expected)


@given(lengths, st.integers(1, 600))
@settings(deadline=None)
def test_packed_batches_keep_to_the_budget_and_lose_nothing(found: list[int], budget: int) -> None:
    batches = packed_batches(found, budget)
    sizes = [sum(found[i] for i in batch) for batch in batches]

    assert sorted(i for batch in batches for i in batch) == list(range(len(found)))
    assert all(size <= budget or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
    half_full = [size for size in sizes if 2 * size <= budget]
    assert len(half_full) <= 1, "two of them would have fitted into one"


@pytest.mark.parametrize("kind", [lambda examples: Padded(examples, 0, CPU), lambda examples: Packed(examples, CPU)])
@given(st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), min_size=1, max_size=5), st.integers(0, 2**31))
@settings(deadline=None)
def test_every_completion_is_found_again(
    kind: Callable[[list[Example]], MicroBatch], shapes: list[tuple[int, int]], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    examples = [Example(rng.integers(1, 99, p + c).astype(np.int32), p) for p, c in shapes]
    values = [rng.standard_normal(c).astype(np.float32) for _, c in shapes]
    batch = kind(examples)
    matrix = batch.matrix(values)

    assert batch.mask.sum() == sum(c for _, c in shapes)
    assert matrix.shape == batch.mask.shape == batch.by_example(batch.targets.float()).shape
    assert (matrix[batch.mask == 0] == 0).all()
    for row, value in zip(batch.rows(matrix), values, strict=True):
        np.testing.assert_array_equal(row, value)
    ids, keep = batch.inputs["input_ids"], batch.inputs["logits_to_keep"]
    before, after = batch.by_example(ids[:, keep].float()), batch.by_example(batch.targets.float())
    for row, one in enumerate(examples):
        real = batch.mask[row].bool()
        assert after[row][real].tolist() == one.ids[one.prompt_length :].tolist()
        assert before[row][real].tolist() == one.ids[one.prompt_length - 1 : -1].tolist()


def test_packed_and_padded_examples_do_not_see_each_other(make_model: Callable[..., Path]) -> None:
    """Log-probabilities and gradients of a real model, against each example alone."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(make_model(), attn_implementation="sdpa")
    rng = np.random.default_rng(0)
    examples = [
        Example(rng.integers(0, 300, p + c).astype(np.int32), p) for p, c in [(30, 9), (4, 17), (50, 1), (8, 8)]
    ]

    def log_probs(batch: MicroBatch) -> torch.Tensor:
        logits = model(**batch.inputs, use_cache=False).logits
        return batch.by_example(completion_log_probs(logits, batch.targets)[0]) * batch.mask

    def gradient(values: torch.Tensor) -> torch.Tensor:
        return torch.autograd.grad(values.sum(), model.model.layers[0].self_attn.q_proj.weight)[0]

    alone = [Padded([one], 0, CPU) for one in examples]
    expected = [log_probs(batch) for batch in alone]
    total = gradient(torch.cat([values.flatten() for values in expected]))
    for batch in (Padded(examples, 0, CPU), Packed(examples, CPU)):
        found = log_probs(batch)
        for row, one, by_itself in zip(batch.rows(found), expected, alone, strict=True):
            np.testing.assert_allclose(row, by_itself.rows(one)[0], atol=2e-5)
        torch.testing.assert_close(gradient(found), total, rtol=1e-3, atol=1e-4)


def test_a_matrix_needs_a_row_for_each_example() -> None:
    padded = Padded([example([1, 2, 3], 2)], pad=0, device=CPU)

    with pytest.raises(ValueError, match="zip"):
        padded.matrix([])
