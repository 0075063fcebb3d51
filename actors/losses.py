"""GRPO's numbers: advantages of a group, and OpenRLHF's policy loss and KL estimators behind one function."""

from __future__ import annotations

import importlib.util
import sys
import types
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from actors.config import LossConfig

if TYPE_CHECKING:
    import torch


def group_advantages(rewards: Sequence[float], config: LossConfig) -> list[float]:
    """Advantages of one group's n rewards, [n].

    "std" is (r - mean) / (std + epsilon) with Bessel's correction (DeepSeekMath, arXiv 2402.03300, section 4.1.2),
    "mean" is r - mean (Dr. GRPO, arXiv 2503.20783). A group whose rewards are all equal has advantage exactly zero:
    subtraction alone would leave rounding noise that division by a vanishing std turns into gradient.
    """
    values = np.asarray(rewards, np.float64)
    if values.min() == values.max():
        return [0.0] * len(values)
    centred = values - values.mean()
    if config.advantage == "std":
        centred /= values.std(ddof=1) + config.advantage_epsilon
    return centred.tolist()


@dataclass(frozen=True)
class Totals:
    """Size of the global batch, over all ranks and micro-batches: what the loss is divided by."""

    tokens: int
    sequences: int
    ranks: int


@dataclass(frozen=True)
class LossTerms:
    """Loss of one micro-batch, scaled so that the mean over ranks of the sums is the global loss, and its parts.

    `clipped`, `corrected` and `kl` are sums over the micro-batch's completion tokens: how many clipping changes, how
    many importance correction leaves out or cuts (of sequences: their share, times the tokens), and the KL.
    """

    loss: torch.Tensor
    clipped: float = 0.0
    corrected: float = 0.0
    kl: float = 0.0


def grpo_loss(
    log_probs: torch.Tensor,
    old_log_probs: torch.Tensor,
    reference_log_probs: torch.Tensor | None,
    advantages: torch.Tensor,
    mask: torch.Tensor,
    totals: Totals,
    config: LossConfig,
    rollout_log_probs: torch.Tensor | None = None,
) -> LossTerms:
    """The clipped policy loss plus KL to the reference, of one micro-batch.

    All tensors are [sequences, completion length]; `advantages` is [sequences, 1]; `mask` is 1 on completion
    tokens. `reference_log_probs` is None exactly where `kl_coef` is 0; `rollout_log_probs`, the engine's, are needed
    where there is a `correction`. The KL term is aggregated as the policy loss is. Its gradient flows through the
    estimator (as in verl, and in TRL with `use_bias_correction_kl` off), or with `kl_unbiased` is that of the KL,
    weighted by the ratio to the old policy, as in OpenRLHF, which also clamps the estimate at 10. DeepSpeed averages
    gradients over ranks, so each term is scaled by their number: 1 rank and N ranks give the same update.
    """
    openrlhf = _openrlhf()
    token_mean = config.aggregation == "token_mean"
    correction = {}
    if config.correction:
        if rollout_log_probs is None:
            raise ValueError("grpo.loss.correction needs the engine's log-probabilities of every sampled token")
        correction = {
            "is_correction_level": config.correction.level,
            "is_correction_mode": config.correction.mode,
            "is_correction_threshold": config.correction.band,
        }
    policy_loss = openrlhf.loss.PolicyLoss(
        config.clip_low, config.clip_high, config.dual_clip, token_level_loss=token_mean, **correction
    )
    sizes = {"dp_size": totals.ranks, "batch_num_tokens": totals.tokens, "global_batch_size": totals.sequences}
    loss, clip_ratio, _, _, corrected = policy_loss(
        log_probs, old_log_probs, advantages, action_mask=mask, rollout_log_probs=rollout_log_probs, **sizes
    )
    tokens = float(mask.sum())
    terms = LossTerms(loss, float(clip_ratio) * tokens, float(corrected or 0.0) * tokens)
    if reference_log_probs is None:
        return terms
    kl = openrlhf.utils.compute_approx_kl(
        log_probs,
        reference_log_probs,
        log_probs_old=old_log_probs,
        kl_estimator=config.kl_estimator,
        unbiased_gradient=config.kl_unbiased,
    )
    penalty = openrlhf.loss.aggregate_loss(kl, mask, token_level_loss=token_mean, **sizes)
    return replace(terms, loss=loss + config.kl_coef * penalty, kl=float((kl.detach() * mask).sum()))


def sft_loss(log_probs: torch.Tensor, mask: torch.Tensor, totals: Totals) -> LossTerms:
    """Negative log-likelihood of the completions, token mean over the global batch. Shapes as in `grpo_loss`."""
    loss = _openrlhf().loss.SFTLoss()(log_probs, mask, dp_size=totals.ranks, batch_num_tokens=totals.tokens)
    return LossTerms(loss)


def completion_log_probs(
    logits: torch.Tensor, ids: torch.Tensor, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of `ids` and the entropy of the distributions that they were drawn from, in nats.

    `logits` is [sequences, length, vocabulary], `ids` is [sequences, length]; both results are [sequences, length]
    in float32 and speak of the distribution at `temperature`. No gradient flows into the entropy.
    """
    import torch

    scaled = logits.float() / temperature
    normalised = scaled - scaled.logsumexp(-1, keepdim=True)
    with torch.no_grad():
        entropy = -(normalised.exp() * normalised).sum(-1)
    return normalised.gather(-1, ids.unsqueeze(-1)).squeeze(-1), entropy


@dataclass(frozen=True)
class _OpenRLHF:
    loss: types.ModuleType
    utils: types.ModuleType


@cache
def _openrlhf() -> _OpenRLHF:
    """OpenRLHF's loss and utility modules, also where flash-attn is not installed.

    `openrlhf.models` imports flash-attn, which exists for CUDA only; the two modules needed here do not use it.
    An empty package of that name, with the real folder as its path, lets them be imported on their own.
    """
    if importlib.util.find_spec("flash_attn") is None and "openrlhf.models" not in sys.modules:
        root = importlib.util.find_spec("openrlhf")
        if root is None or not root.submodule_search_locations:
            raise ModuleNotFoundError("openrlhf is not installed; run `make setup`")
        package = types.ModuleType("openrlhf.models")
        package.__path__ = [str(Path(root.submodule_search_locations[0]) / "models")]
        sys.modules["openrlhf.models"] = package
    return _OpenRLHF(importlib.import_module("openrlhf.models.loss"), importlib.import_module("openrlhf.models.utils"))
