"""GRPO's numbers against TRL's trainer, torch, and cases worked out by hand."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.config import CorrectionConfig, LossConfig
from actors.losses import LossTerms, Totals, completion_log_probs, group_advantages, grpo_loss, sft_loss

MEAN = LossConfig(advantage="mean")


def test_advantages_of_a_group_worked_out_by_hand() -> None:
    # mean 1/2, sum of squared deviations 1, so the corrected variance is 1/3 and 0.5 / sqrt(1/3) = sqrt(3)/2
    half_root = math.sqrt(3) / 2

    assert group_advantages([1, 0, 0, 1], LossConfig()) == pytest.approx(
        [half_root, -half_root, -half_root, half_root], abs=2e-6
    )
    assert group_advantages([1, 0, 0, 1], MEAN) == [0.5, -0.5, -0.5, 0.5]
    assert group_advantages([3, -1, -1, -1], MEAN) == [3.0, -1.0, -1.0, -1.0]
    assert group_advantages([3, -1, -1, -1], LossConfig()) == pytest.approx([1.5, -0.5, -0.5, -0.5], abs=2e-6)


def test_epsilon_stands_beside_the_deviation() -> None:
    # (1 - 0) / (sqrt(2) + 1), with rewards 1 and -1: mean 0, corrected deviation sqrt(2)
    assert group_advantages([1, -1], LossConfig(advantage_epsilon=1.0)) == pytest.approx(
        [math.sqrt(2) - 1, 1 - math.sqrt(2)]
    )


@pytest.mark.parametrize("advantage", ["std", "mean"])
@pytest.mark.parametrize("reward", [0.1, 0.7, 1.1, -1.0, 1e6 + 0.1])
def test_a_group_without_variance_has_no_advantage_at_all(reward: float, advantage: str) -> None:
    for size in range(2, 65):
        assert group_advantages([reward] * size, LossConfig(advantage=advantage)) == [0.0] * size


rewards = st.lists(st.floats(-10, 10, width=32), min_size=2, max_size=32).filter(lambda r: max(r) - min(r) > 1e-2)


@given(rewards, st.floats(-100, 100, width=32))
@settings(deadline=None)
def test_advantages_sum_to_zero_follow_torch_and_ignore_a_shift(values: list[float], shift: float) -> None:
    found = group_advantages(values, LossConfig())
    exact = torch.tensor(values, dtype=torch.float64)

    torch.testing.assert_close(
        torch.tensor(found, dtype=torch.float64), (exact - exact.mean()) / (exact.std(unbiased=True) + 1e-6)
    )
    assert math.fsum(found) == pytest.approx(0, abs=1e-9)
    assert group_advantages([value + shift for value in values], LossConfig()) == pytest.approx(found, abs=1e-6)
    assert group_advantages(values, MEAN) == pytest.approx((exact - exact.mean()).tolist())


class Batch:
    """A made-up micro-batch whose ratios reach both clips under advantages of both signs."""

    def __init__(self, seed: int = 1, sequences: int = 6, length: int = 7):
        generator = torch.Generator().manual_seed(seed)

        def noise(scale: float) -> torch.Tensor:
            return scale * torch.randn(sequences, length, generator=generator)

        self.log_probs = -noise(1.0).abs()
        self.old = self.log_probs + noise(0.5)
        self.reference = self.log_probs + noise(0.5)
        self.advantages = torch.tensor([[1.0], [-1.0], [0.5], [-0.25], [2.0], [-1.5]])[:sequences]
        lengths = torch.tensor([7, 1, 4, 6, 2, 5])[:sequences, None]
        self.mask = (torch.arange(length) < lengths).float()

    def rows(self, chosen: slice) -> Batch:
        part = Batch.__new__(Batch)
        for name, value in vars(self).items():
            setattr(part, name, value[chosen])
        return part

    @property
    def totals(self) -> Totals:
        return Totals(tokens=int(self.mask.sum()), sequences=len(self.mask), ranks=1)

    def loss(self, config: LossConfig, totals: Totals | None = None) -> tuple[LossTerms, torch.Tensor]:
        """The loss and its gradient with respect to the log-probabilities."""
        log_probs = self.log_probs.clone().requires_grad_()
        reference = self.reference if config.kl_coef else None
        terms = grpo_loss(log_probs, self.old, reference, self.advantages, self.mask, totals or self.totals, config)
        return terms, torch.autograd.grad(terms.loss, log_probs)[0]


def test_the_made_up_batch_reaches_both_clips_with_both_signs() -> None:
    batch = Batch()
    ratio = torch.exp(batch.log_probs - batch.old)[batch.mask.bool()]
    positive = (batch.advantages > 0).expand_as(batch.mask)[batch.mask.bool()]

    for sign in (positive, ~positive):
        assert (ratio[sign] < 0.9).any()
        assert (ratio[sign] > 1.4).any()
        assert ((ratio[sign] > 0.9) & (ratio[sign] < 1.1)).any()


@pytest.fixture(scope="module")
def trl_loss(
    make_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[float, torch.Tensor, dict[str, float]]]:
    """Loss, gradient and metrics of TRL's own trainer, given per-token log-probabilities instead of a model's."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    def loss(
        batch: Batch, loss_type: str, beta: float, clip_low: float, clip_high: float
    ) -> tuple[float, torch.Tensor, dict[str, float]]:
        trainer = GRPOTrainer(
            model=str(make_model()),
            reward_funcs=lambda completions, **_: [0.0] * len(completions),
            args=GRPOConfig(
                output_dir=str(tmp_path_factory.mktemp("trl")),
                loss_type=loss_type,
                beta=beta,
                epsilon=clip_low,
                epsilon_high=clip_high,
                use_bias_correction_kl=False,
                per_device_train_batch_size=len(batch.mask),
                num_generations=2,
                use_cpu=True,
                bf16=False,
                report_to=[],
            ),
            train_dataset=Dataset.from_dict({"prompt": ["unused"] * 2}),
        )
        trainer.model.eval()  # TRL divides by gradient accumulation steps in training alone
        log_probs = batch.log_probs.clone().requires_grad_()
        entropies = torch.zeros_like(log_probs)
        trainer._get_per_token_logps_and_entropies = lambda *_, **__: (log_probs, entropies, None)
        prompt = torch.zeros(len(batch.mask), 1, dtype=torch.long)
        value = trainer._compute_loss(
            trainer.model,
            {
                "prompt_ids": prompt,
                "prompt_mask": torch.ones_like(prompt),
                "completion_ids": torch.zeros_like(batch.mask, dtype=torch.long),
                "completion_mask": batch.mask.long(),
                "advantages": batch.advantages.squeeze(1),
                "old_per_token_logps": batch.old,
                "ref_per_token_logps": batch.reference,
                "num_items_in_batch": batch.mask.sum(),
            },
        )
        metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
        return float(value.detach()), torch.autograd.grad(value, log_probs)[0], metrics

    return loss


@pytest.mark.parametrize("beta", [0.0, 0.04])
@pytest.mark.parametrize("clip", [(0.2, 0.2), (0.1, 0.4)], ids=str)
@pytest.mark.parametrize(
    ("loss_type", "aggregation"), [("bnpo", "token_mean"), ("dapo", "token_mean"), ("grpo", "sequence_mean")]
)
def test_value_and_gradient_are_those_of_trl(
    trl_loss: Callable[..., tuple[float, torch.Tensor, dict[str, float]]],
    loss_type: str,
    aggregation: str,
    clip: tuple[float, float],
    beta: float,
) -> None:
    batch = Batch()
    config = LossConfig(aggregation=aggregation, kl_coef=beta, clip_low=clip[0], clip_high=clip[1])
    terms, gradient = batch.loss(config)
    expected, expected_gradient, metrics = trl_loss(batch, loss_type, beta, *clip)

    assert float(terms.loss.detach()) == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-5, atol=1e-7)
    assert gradient[batch.mask == 0].abs().max() == 0
    tokens = float(batch.mask.sum())
    assert terms.clipped / tokens == pytest.approx(metrics["clip_ratio/region_mean"], rel=1e-5)
    assert 0 < terms.clipped < tokens
    if beta:
        assert terms.kl / tokens == pytest.approx(metrics["kl"], rel=1e-5)
    else:
        assert terms.kl == 0


def one_token(
    log_ratio: float, advantage: float, config: LossConfig, to_reference: float = 0.0, to_engine: float = 0.0
) -> tuple[LossTerms, float]:
    """Loss of a batch of one token, and its gradient; `log_ratio` is to the old policy, whose own is `to_engine`."""
    log_prob = torch.tensor([[-1.0]], requires_grad=True)
    one = torch.ones(1, 1)
    old = log_prob.detach() - log_ratio
    reference = log_prob.detach() - to_reference if config.kl_coef else None
    terms = grpo_loss(log_prob, old, reference, advantage * one, one, Totals(1, 1, 1), config, old - to_engine)
    return terms, float(torch.autograd.grad(terms.loss, log_prob)[0])


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "gradient", "clipped"),
    [
        (1.0, 2.0, -2.0, -2.0, 0),  # on policy: the gradient is that of advantage * log p
        (1.5, 2.0, -2.0 * 1.4, 0.0, 1),  # good and already raised beyond the upper clip
        (1.5, -2.0, 2.0 * 1.5, 2.0 * 1.5, 0),  # bad and raised: pushed back without a limit
        (0.5, -2.0, 2.0 * 0.9, 0.0, 1),  # bad and already lowered beyond the lower clip
        (0.5, 2.0, -2.0 * 0.5, -2.0 * 0.5, 0),  # good and lowered: pushed back
        (1.3, 2.0, -2.0 * 1.3, -2.0 * 1.3, 0),  # between the symmetric clip and the raised one
        (0.85, -2.0, 2.0 * 0.9, 0.0, 1),
    ],
)
def test_clipping_of_one_token_worked_out_by_hand(
    ratio: float, advantage: float, loss: float, gradient: float, clipped: int
) -> None:
    config = LossConfig(clip_low=0.1, clip_high=0.4, kl_coef=0)
    terms, found = one_token(math.log(ratio), advantage, config)

    assert float(terms.loss.detach()) == pytest.approx(loss, rel=1e-5)
    assert found == pytest.approx(gradient, rel=1e-5)
    assert terms.clipped == clipped


@pytest.mark.parametrize(
    ("estimator", "value", "gradient"),
    [  # with d = log policy - log reference = log 2
        ("k1", math.log(2), 1.0),  # d
        ("k2", math.log(2) ** 2 / 2, math.log(2)),  # d squared / 2
        ("k3", 0.5 - 1 + math.log(2), 1 - 0.5),  # exp(-d) - 1 + d
    ],
)
def test_kl_estimators_of_one_token_worked_out_by_hand(estimator: str, value: float, gradient: float) -> None:
    config = LossConfig(kl_coef=0.5, kl_estimator=estimator)
    terms, found = one_token(0.0, 0.0, config, to_reference=math.log(2))

    assert terms.kl == pytest.approx(value, rel=1e-5)
    assert float(terms.loss.detach()) == pytest.approx(0.5 * value, rel=1e-5)
    assert found == pytest.approx(0.5 * gradient, rel=1e-5)


def test_the_unbiased_kl_has_the_gradient_of_the_kl_itself() -> None:
    """The mean over a whole distribution, drawn from an old policy, against the KL written down and derived."""
    generator = torch.Generator().manual_seed(2)
    logits, old, reference = (torch.randn(1, 5, generator=generator).log_softmax(-1) for _ in range(3))
    logits.requires_grad_()
    log_probs = logits.log_softmax(-1)
    exact = torch.autograd.grad((log_probs.exp() * (log_probs - reference)).sum(), logits, retain_graph=True)[0]

    def expected_gradient(config: LossConfig) -> torch.Tensor:
        found = torch.zeros_like(logits)
        for token in range(5):
            one = torch.ones(1, 1)
            drawn = [values[:, token : token + 1] for values in (log_probs, old, reference)]
            terms = grpo_loss(*drawn, 0 * one, one, Totals(1, 1, 1), config)
            found += old.exp()[0, token] * torch.autograd.grad(terms.loss, logits, retain_graph=True)[0]
        return found

    for estimator in ("k1", "k2", "k3"):
        unbiased = LossConfig(kl_coef=1.0, kl_estimator=estimator, kl_unbiased=True)
        torch.testing.assert_close(expected_gradient(unbiased), exact, rtol=1e-4, atol=1e-6)
        biased = LossConfig(kl_coef=1.0, kl_estimator=estimator)
        assert not torch.allclose(expected_gradient(biased), exact, atol=1e-3)


@pytest.mark.parametrize(
    ("level", "mode", "ratio", "weight"),
    [
        ("token", "mask", 1.5, 1.5),  # inside the band: the engine's tokens count as often as the trainer's would
        ("token", "mask", 3.0, 0.0),
        ("token", "mask", 0.4, 0.0),
        ("token", "clip", 3.0, 2.0),
        ("token", "clip", 0.4, 0.5),
        ("seq", "mask", 1.5, 1.5),
        ("seq", "mask", 3.0, 0.0),
    ],
)
def test_importance_correction_of_one_token_worked_out_by_hand(
    level: str, mode: str, ratio: float, weight: float
) -> None:
    config = LossConfig(kl_coef=0, correction=CorrectionConfig(level=level, mode=mode, band=(0.5, 2.0)))
    terms, gradient = one_token(0.0, 3.0, config, to_engine=math.log(ratio))

    assert float(terms.loss.detach()) == pytest.approx(-3.0 * weight, rel=1e-5)
    assert gradient == pytest.approx(-3.0 * weight, rel=1e-5)
    assert terms.corrected == (ratio != 1.5)


def test_dual_clip_bounds_the_loss_of_a_bad_token_that_became_likely() -> None:
    terms, gradient = one_token(math.log(5), -2.0, LossConfig(kl_coef=0, dual_clip=3.0))

    assert float(terms.loss.detach()) == pytest.approx(3.0 * 2.0)
    assert gradient == 0
    assert one_token(math.log(5), -2.0, LossConfig(kl_coef=0))[1] == pytest.approx(5 * 2.0, rel=1e-5)


def test_aggregation_worked_out_by_hand() -> None:
    # On policy a token's loss is -advantage: one sequence of 1 token with advantage 3, one of 3 with advantage -1.
    log_probs = torch.full((2, 3), -1.0)
    mask = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    advantages = torch.tensor([[3.0], [-1.0]])

    def loss(aggregation: str) -> float:
        config = LossConfig(aggregation=aggregation, kl_coef=0)
        return float(grpo_loss(log_probs, log_probs, None, advantages, mask, Totals(4, 2, 1), config).loss)

    assert loss("token_mean") == pytest.approx((-3 + 1 + 1 + 1) / 4, abs=1e-6)
    assert loss("sequence_mean") == pytest.approx((-3 + 1) / 2, abs=1e-6)


every_loss = pytest.mark.parametrize(
    "config",
    [
        LossConfig(aggregation=aggregation, kl_coef=kl_coef)
        for aggregation in ("token_mean", "sequence_mean")
        for kl_coef in (0.0, 0.1)
    ],
    ids=lambda config: f"{config.aggregation}-{config.kl_coef}",
)


@every_loss
def test_micro_batches_add_up_to_the_batch(config: LossConfig) -> None:
    batch = Batch()
    whole, gradient = batch.loss(config)
    parts = [batch.rows(slice(start, end)).loss(config, batch.totals) for start, end in ((0, 1), (1, 4), (4, 6))]

    assert sum(float(terms.loss.detach()) for terms, _ in parts) == pytest.approx(float(whole.loss.detach()), rel=1e-5)
    torch.testing.assert_close(torch.cat([gradient for _, gradient in parts]), gradient)
    assert sum(terms.clipped for terms, _ in parts) == pytest.approx(whole.clipped)
    assert sum(terms.kl for terms, _ in parts) == pytest.approx(whole.kl)


@every_loss
def test_the_mean_over_ranks_is_the_batch(config: LossConfig) -> None:
    batch = Batch()
    whole, gradient = batch.loss(config)
    totals = Totals(batch.totals.tokens, batch.totals.sequences, ranks=2)
    ranks = [batch.rows(slice(start, end)).loss(config, totals) for start, end in ((0, 2), (2, 6))]

    assert sum(float(terms.loss.detach()) for terms, _ in ranks) / 2 == pytest.approx(
        float(whole.loss.detach()), rel=1e-5
    )
    torch.testing.assert_close(torch.cat([gradient for _, gradient in ranks]) / 2, gradient)
    assert sum(terms.clipped for terms, _ in ranks) == pytest.approx(whole.clipped)


def test_sft_loss_is_torchs_cross_entropy_of_the_completions() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 5, 11, dtype=torch.float64)
    ids = torch.randint(11, (3, 5))
    mask = (torch.arange(5) < torch.tensor([[5], [1], [3]])).double()
    expected = torch.nn.functional.cross_entropy(
        logits.reshape(-1, 11), ids.masked_fill(mask == 0, -100).reshape(-1), ignore_index=-100
    )
    log_probs = logits.log_softmax(-1).gather(-1, ids.unsqueeze(-1)).squeeze(-1)

    assert float(sft_loss(log_probs, mask, Totals(9, 3, 1)).loss) == pytest.approx(float(expected))
    ranks = [sft_loss(log_probs[rows], mask[rows], Totals(9, 3, 2)).loss for rows in (slice(0, 1), slice(1, 3))]
    assert float(sum(ranks)) / 2 == pytest.approx(float(expected))


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_log_probs_and_entropy_are_those_of_torchs_categorical(temperature: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (5 * torch.randn(4, 6, 50)).to(dtype)
    ids = torch.randint(50, (4, 6))
    expected = torch.distributions.Categorical(logits=logits.double() / temperature)
    log_probs, entropy = completion_log_probs(logits, ids, temperature)

    assert log_probs.dtype == entropy.dtype == torch.float32
    torch.testing.assert_close(log_probs.double(), expected.log_prob(ids), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy.double(), expected.entropy(), rtol=1e-4, atol=1e-5)


def test_the_default_temperature_is_one_and_large_logits_stay_finite() -> None:
    logits = torch.tensor([[[1e4, 0.0, -1e4]]])
    log_probs, entropy = completion_log_probs(logits, torch.tensor([[1]]))

    assert float(log_probs) == pytest.approx(-1e4)
    assert float(entropy) == 0


def test_gradient_flows_into_log_probs_and_not_into_entropy() -> None:
    torch.manual_seed(0)
    logits = torch.randn(1, 1, 4, requires_grad=True)
    log_probs, entropy = completion_log_probs(logits, torch.tensor([[2]]), temperature=0.5)
    log_probs.sum().backward()
    # of log softmax(x / t) at i: (one-hot(i) - softmax(x / t)) / t
    expected = (torch.eye(4)[2] - torch.softmax(logits.detach()[0, 0] / 0.5, -1)) / 0.5

    assert not entropy.requires_grad
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad[0, 0], expected)


def test_openrlhfs_losses_are_used_without_flash_attention() -> None:
    source = (
        "import sys; sys.modules['flash_attn'] = None\n"  # as on a machine where it is not installed
        "import torch; from actors.config import LossConfig; from actors.losses import Totals, grpo_loss\n"
        "x = torch.zeros(1, 1); one = torch.ones(1, 1)\n"
        "print(float(grpo_loss(x, x, x, one, one, Totals(1, 1, 1), LossConfig()).loss))\n"
        "print(sys.modules['openrlhf.models.loss'].__file__)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    loss, file = done.stdout.splitlines()[-2:]
    assert float(loss) == -1.0
    assert Path(file).parts[-3:] == ("openrlhf", "models", "loss.py")
