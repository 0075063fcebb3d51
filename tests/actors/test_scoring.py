"""Log-probabilities without the logits: the same numbers and gradients as from all of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from actors import scoring
from actors.batching import Grouped, MicroBatch, Padded
from actors.errors import PolicyError
from actors.losses import completion_log_probs
from actors.records import Example
from actors.scoring import Scorer, TokenLogProbs


@pytest.fixture(autouse=True)
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several slices also where there are few positions."""
    monkeypatch.setattr(scoring, "_SLICE", 0)
    monkeypatch.setattr(scoring, "_ROWS", {"cpu": 7})


def made(positions: int, bias: bool, dtype: torch.dtype) -> tuple[list[torch.Tensor | None], torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden, weight, added = (
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for shape in ((positions, 16), (50, 16), (50,))
    )
    targets = torch.randint(50, (positions,), generator=generator)
    return [hidden, weight, added if bias else None], targets


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("positions", [1, 7, 20])
def test_values_and_gradients_are_those_of_all_the_logits(positions: int, bias: bool, temperature: float) -> None:
    (hidden, weight, added), targets = made(positions, bias, torch.float32)
    inputs = [tensor for tensor in (hidden, weight, added) if tensor is not None]
    upstream = torch.linspace(-1, 2, positions)

    logits = torch.nn.functional.linear(hidden, weight, added)
    expected, expected_entropy = completion_log_probs(logits[None], targets[None], temperature)
    gradients = torch.autograd.grad((expected[0] * upstream).sum(), inputs)
    log_probs, entropy = TokenLogProbs.apply(hidden, weight, added, targets, temperature)

    torch.testing.assert_close(log_probs, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, expected_entropy[0], atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad((log_probs * upstream).sum(), inputs)
    torch.testing.assert_close(found, gradients, atol=1e-5, rtol=1e-5)


def test_the_gradient_of_the_weight_is_summed_in_float32() -> None:
    """In bfloat16 a sum over many slices would lose what is small beside it."""
    (hidden, weight, _), targets = made(400, False, torch.bfloat16)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, weight)]
    log_probs, _ = completion_log_probs((exact[0] @ exact[1].T)[None], targets[None])
    (expected,) = torch.autograd.grad(log_probs.sum(), exact[1:])

    (found,) = torch.autograd.grad(TokenLogProbs.apply(hidden, weight, None, targets, 1.0)[0].sum(), weight)
    assert (found.double() - expected).norm() / expected.norm() < 0.02


def examples() -> list[Example]:
    rng = np.random.default_rng(0)
    return [
        Example(rng.integers(5, 300, prompt + length).astype(np.int32), prompt_length=prompt)
        for prompt, length in ((4, 9), (7, 3), (2, 14))
    ]


@pytest.mark.parametrize(
    "batch",
    [lambda made: Padded(made, 0, torch.device("cpu")), lambda made: Grouped(made, torch.device("cpu"))],
    ids=["padded", "grouped"],
)
@pytest.mark.parametrize("tied", [True, False])
def test_a_scored_model_gives_what_its_logits_say(
    make_model: Callable[..., Path], tied: bool, batch: Callable[[list[Example]], MicroBatch]
) -> None:
    plain, scored = (AutoModelForCausalLM.from_pretrained(make_model(tied=tied), dtype=torch.float32) for _ in range(2))
    made = batch(examples())
    logits = plain(**made.inputs, use_cache=False).logits
    expected = made.by_example(completion_log_probs(logits, made.targets, 0.8)[0])
    found, _ = Scorer(scored)(scored, made, 0.8)
    for theirs, mine in zip(made.rows(expected), made.rows(found), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-5)

    (expected * made.mask).sum().backward()
    (found * made.mask).sum().backward()
    for theirs, mine in zip(plain.parameters(), scored.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-4, rtol=1e-4)
    ids = made.inputs["input_ids"]
    torch.testing.assert_close(scored(input_ids=ids).logits, plain(input_ids=ids).logits), "unasked, a head is a head"


def test_a_model_that_changes_its_logits_is_scored_by_all_of_them(make_model: Callable[..., Path]) -> None:
    """With a cap on the logits the head alone does not know the probabilities."""
    model = AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.float32)
    model.config.final_logit_softcapping = 1.0
    forward = model.forward

    def capped(**inputs: Any) -> Any:
        found = forward(**inputs)
        found.logits = torch.tanh(found.logits)
        return found

    made = Padded(examples(), 0, torch.device("cpu"))
    expected, _ = completion_log_probs(capped(**made.inputs).logits, made.targets)
    found, _ = Scorer(model)(capped, made, 1.0)
    torch.testing.assert_close(found, expected)


def test_a_model_that_does_not_tell_its_attention_is_refused(make_model: Callable[..., Path]) -> None:
    """Without the groups, every token of the row would look at all before it."""
    model = AutoModelForCausalLM.from_pretrained(make_model(), dtype=torch.float32)
    score, batch = Scorer(model), Grouped(examples(), torch.device("cpu"))

    def deaf(groups: object, **inputs: Any) -> Any:
        return model(**inputs)

    assert score.shares_prompts
    with pytest.raises(PolicyError, match="which prompts are shared"):
        score(deaf, batch, 1.0)
