"""How examples are split and padded: properties over any lengths, and one padded batch written out by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from actors.attention import IMPLEMENTATION, share_prompts
from actors.batching import (
    Grouped,
    MicroBatch,
    Padded,
    filled,
    micro_batches,
    padded_batches,
    pieces,
    split_over_ranks,
    tokens_of,
)
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
    batches = padded_batches(found, budget)

    assert sorted(i for batch in batches for i in batch) == list(range(len(found)))
    for batch in batches:
        assert max(found[i] for i in batch) * len(batch) <= budget or len(batch) == 1
    in_order = [found[i] for batch in batches for i in batch]
    assert in_order == sorted(found, reverse=True)


@given(lengths, st.integers(1, 600))
@settings(deadline=None)
def test_no_micro_batch_could_have_taken_the_next_example(found: list[int], budget: int) -> None:
    batches = padded_batches(found, budget)

    for batch in batches[:-1]:
        assert found[batch[0]] * (len(batch) + 1) > budget


def test_micro_batches_of_a_hand_made_case() -> None:
    assert padded_batches([2, 9, 3, 3, 12, 2], budget=9) == [[4], [1], [2, 3, 0], [5]]


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


def test_a_grouped_batch_written_out_by_hand() -> None:
    grouped = Grouped(
        [
            example([11, 12, 13, 21, 22], 3, 1.5, [-0.1, -0.2]),
            example([11, 12, 13, 23, 24, 25, 26], 3, -0.5, [-0.3, -0.4, -0.5, -0.6]),
            example([16, 17, 27], 2, 0.0, [-0.7]),
        ],
        device=CPU,
    )

    # The prompt of two and a whole sequence, then the completions of the two.
    assert grouped.inputs["input_ids"].tolist() == [[11, 12, 13, 16, 17, 27, 21, 22, 23, 24, 25, 26]]
    assert grouped.inputs["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 4, 3, 4, 5, 6]]
    assert grouped.inputs["logits_to_keep"].tolist() == [2, 6, 2, 8, 9, 10, 4]
    assert grouped.targets.tolist() == [[21, 22, 23, 24, 25, 26, 27]]
    assert grouped.mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1], [1, 0, 0, 0]]
    (alone,), (group,) = grouped.inputs["groups"].alone, grouped.inputs["groups"].groups
    assert (alone.begin, alone.end, alone.lengths) == (0, 6, [3, 3])
    assert (group.prompt, group.completions.begin, group.completions.lengths) == (slice(0, 3), 6, [2, 4])
    assert group.mask(None).int().tolist() == [
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1],
    ]
    matrix = grouped.optional("rollout_log_probs")
    assert matrix is not None
    expected = torch.tensor([[-0.1, -0.2, 0, 0], [-0.3, -0.4, -0.5, -0.6], [-0.7, 0, 0, 0]])
    torch.testing.assert_close(matrix, expected)
    torch.testing.assert_close(grouped.by_example(matrix[grouped.mask.bool()][None]), expected)


@given(lengths, st.integers(1, 600))
@settings(deadline=None)
def test_what_is_filled_keeps_to_the_budget_and_loses_nothing(found: list[int], budget: int) -> None:
    batches = filled(found, budget)
    sizes = [sum(found[i] for i in batch) for batch in batches]

    assert sorted(i for batch in batches for i in batch) == list(range(len(found)))
    assert all(size <= budget or len(batch) == 1 for size, batch in zip(sizes, batches, strict=True))
    half_full = [size for size in sizes if 2 * size <= budget]
    assert len(half_full) <= 1, "two of them would have fitted into one"


groups = st.lists(st.tuples(st.integers(1, 60), st.lists(st.integers(1, 40), min_size=1, max_size=9)), max_size=6)


@given(groups, st.integers(1, 200), st.integers(1, 12))
@settings(deadline=None)
def test_pieces_keep_to_the_budget_and_to_their_prompt(
    found: list[tuple[int, list[int]]], budget: int, least: int
) -> None:
    prompts = [number for number, (_, completions) in enumerate(found) for _ in completions]
    sizes = [(prompt + completion, completion) for prompt, completions in found for completion in completions]
    cut = pieces(prompts, sizes, budget, least)

    assert [i for piece in cut for i in piece] == list(range(len(prompts))), "in order, and nothing is lost"
    assert all(len({prompts[i] for i in piece}) == 1 for piece in cut)
    assert all(tokens_of(piece, sizes) <= budget or len(piece) == 1 for piece in cut)
    assert len(cut) >= min(least, len(prompts)) or any(len(completions) > 1 for _, completions in found)
    for shared in (True, False):
        batches = micro_batches(cut, sizes, budget, shared)
        assert sorted(i for batch in batches for i in batch) == list(range(len(prompts)))


def test_groups_are_cut_where_there_are_fewer_than_wanted() -> None:
    sizes = [(12, 10)] * 8

    assert pieces([0] * 4 + [1] * 4, sizes, 1000) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert pieces([0] * 4 + [1] * 4, sizes, 1000, least=4) == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert pieces([0] * 4 + [1] * 4, sizes, 32) == [[0, 1, 2], [3], [4, 5, 6], [7]]


@pytest.mark.parametrize("kind", [lambda examples: Padded(examples, 0, CPU), lambda examples: Grouped(examples, CPU)])
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


def sequences() -> list[Example]:
    """Two groups, one of them of even lengths, and two sequences that are alone."""
    rng = np.random.default_rng(0)
    shapes = [(30, [9, 4, 17]), (4, [17]), (12, [8, 8]), (50, [1])]
    made = []
    for prompt, completions in shapes:
        asked = rng.integers(0, 300, prompt)
        made += [np.concatenate([asked, rng.integers(0, 300, length)]).astype(np.int32) for length in completions]
    prompts = [prompt for prompt, completions in shapes for _ in completions]
    return [Example(ids, prompt) for ids, prompt in zip(made, prompts, strict=True)]


def mistral() -> PreTrainedModel:
    """A model whose attention looks back no further than 7 tokens."""
    config = MistralConfig(
        **{"vocab_size": 320, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2},
        **{"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 7},
    )
    torch.manual_seed(0)
    return MistralForCausalLM(config)


@pytest.mark.parametrize("windowed", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_examples_do_not_see_each_other(make_model: Callable[..., Path], windowed: bool, checkpointing: bool) -> None:
    """Log-probabilities and gradients of a real model, against each example alone."""
    model = mistral() if windowed else AutoModelForCausalLM.from_pretrained(make_model(), attn_implementation="sdpa")
    if checkpointing:
        model.gradient_checkpointing_enable()
        model.train()
    examples = sequences()

    def log_probs(batch: MicroBatch) -> torch.Tensor:
        logits = model(**batch.inputs, use_cache=False).logits
        return batch.by_example(completion_log_probs(logits, batch.targets)[0]) * batch.mask

    def gradients(values: torch.Tensor) -> list[torch.Tensor]:
        attention = model.model.layers[0].self_attn
        wanted = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
        return list(torch.autograd.grad(values.sum(), wanted))

    alone = [Padded([one], 0, CPU) for one in examples]
    expected = [log_probs(batch) for batch in alone]
    total = gradients(torch.cat([values.flatten() for values in expected]))
    for kind in ("padded", "grouped"):
        batch = Padded(examples, 0, CPU)
        if kind == "grouped":
            assert share_prompts(model)
            batch = Grouped(examples, CPU)
        found = log_probs(batch)
        for row, one, by_itself in zip(batch.rows(found), expected, alone, strict=True):
            np.testing.assert_allclose(row, by_itself.rows(one)[0], atol=2e-5)
        torch.testing.assert_close(gradients(found), total, rtol=1e-3, atol=1e-4)


def test_a_model_with_other_attention_is_padded() -> None:
    """Its layers say what they are; one that remembers otherwise than by keys and values shares no prompt."""
    model = mistral()
    model.config.layer_types = ["full_attention", "linear_attention"]

    assert not share_prompts(model)
    assert model.config._attn_implementation != IMPLEMENTATION


def test_a_matrix_needs_a_row_for_each_example() -> None:
    padded = Padded([example([1, 2, 3], 2)], pad=0, device=CPU)

    with pytest.raises(ValueError, match="zip"):
        padded.matrix([])
