"""Log-probabilities of given tokens, without the logits of all the others.

At a vocabulary of 152 k the logits of a micro-batch are larger than the model that made them. What training needs of
them is two numbers a token: the log-probability of the token that was sampled, and the entropy. So the model's head is
taught to give those instead: it goes through the wanted positions a slice at a time, keeps one number of each for the
backward pass, and computes a slice's logits anew there.
"""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch

from actors.attention import share_prompts
from actors.batching import MicroBatch
from actors.errors import PolicyError
from actors.losses import completion_log_probs

_SLICE = 2**21
"""Logits of a slice on a CPU, unless that is fewer than `_ROWS` positions: 8 MB in fp32, which a cache holds."""
_ROWS = {"cpu": 128, "cuda": 1024}
_AFTER_THE_HEAD = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier")
"""Settings of models that change the logits behind their head; those are scored by their whole logits."""


class Scorer:
    """Scores micro-batches with a causal model, or with the DeepSpeed engine around it."""

    def __init__(self, model: Any, share: bool = True):
        self.shares_prompts = share and share_prompts(model)
        """Whether batches are to be `Grouped`; of a model whose attention cannot do that, they are `Padded`."""
        head = model.get_output_embeddings()
        self._head: Any = None
        if type(head) is torch.nn.Linear and not any(getattr(model.config, name, None) for name in _AFTER_THE_HEAD):
            head.wanted = None
            head.forward = MethodType(_head_forward, head)
            self._head = head

    def __call__(self, model: Any, batch: MicroBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities and entropies of the completions at `temperature`, in nats, [examples, width] each.

        No gradient flows into the entropy; what stands where there is no completion token means nothing.
        """
        if self._head is None:
            logits = model(**batch.inputs, use_cache=False).logits
            found = completion_log_probs(logits, batch.targets, temperature)
        else:
            self._head.wanted = (batch.targets, batch.wanted, temperature)
            try:
                found = model(**batch.inputs, use_cache=False).logits.unbind(-1)
            finally:
                self._head.wanted = None
        if (groups := batch.inputs.get("groups")) and not groups.seen:
            raise PolicyError(f"{type(model).__name__} keeps from its attention which prompts are shared")
        log_probs, entropy = found
        return batch.by_example(log_probs), batch.by_example(entropy.detach())


def _head_forward(head: Any, hidden: torch.Tensor) -> torch.Tensor:
    """Logits as ever; or, where tokens are wanted, their log-probability and the entropy in the place of the logits."""
    if head.wanted is None:
        return torch.nn.functional.linear(hidden, head.weight, head.bias)
    targets, mask, temperature = head.wanted
    scored = TokenLogProbs.apply(hidden[mask], head.weight, head.bias, targets[mask], temperature)
    whole = hidden.new_zeros((*targets.shape, 2), dtype=torch.float32)
    return whole.masked_scatter(mask.unsqueeze(-1), torch.stack(scored, -1))


class TokenLogProbs(torch.autograd.Function):
    """(hidden [n, d], weight [v, d], bias [v] or None, targets [n], temperature) -> log-probabilities, entropies [n].

    Results are float32 and in nats. Never holds more than a slice of the [n, v] logits, in either direction.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        targets: torch.Tensor,
        temperature: float,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Slice after slice; a sum of exponentials a position is all that stays."""
        log_probs, entropy, normaliser = (hidden.new_empty(len(hidden), dtype=torch.float32) for _ in range(3))
        for part in _slices(hidden, weight):
            logits = _logits(hidden[part], weight, bias, temperature)
            chosen = logits.gather(-1, targets[part, None]).squeeze(-1)
            normalised = torch.log_softmax(logits, -1)
            log_probs[part] = normalised.gather(-1, targets[part, None]).squeeze(-1)
            normaliser[part] = chosen - log_probs[part]
            entropy[part] = -torch.linalg.vecdot(torch.exp(normalised, out=logits), normalised)
        ctx.save_for_backward(hidden, weight, bias, targets, normaliser)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy)
        return log_probs, entropy

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor, _: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """d log p(target) / d logits is one-hot(target) - p."""
        hidden, weight, bias, targets, normaliser = ctx.saved_tensors
        grad_hidden = torch.empty_like(hidden)
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if bias is not None else None
        for part in _slices(hidden, weight):
            logits = _logits(hidden[part], weight, bias, ctx.temperature)
            scale = grad[part, None] / ctx.temperature
            logits.sub_(normaliser[part, None]).exp_().mul_(-scale)
            logits.scatter_add_(-1, targets[part, None], scale)
            passed = logits.to(hidden.dtype)
            torch.mm(passed, weight, out=grad_hidden[part])
            if grad_weight is not None and grad_weight.dtype == hidden.dtype:
                grad_weight.addmm_(passed.t(), hidden[part])
            elif grad_weight is not None:
                grad_weight += passed.t() @ hidden[part]
            if grad_bias is not None:
                grad_bias += logits.sum(0)
        grads = (None if total is None else total.to(weight.dtype) for total in (grad_weight, grad_bias))
        return grad_hidden, *grads, None, None


def _logits(hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, temperature: float) -> torch.Tensor:
    """A slice's logits over the temperature, as float32 of its own."""
    logits = torch.nn.functional.linear(hidden, weight, bias).float()
    return logits if temperature == 1 else logits.div_(temperature)


def _slices(hidden: torch.Tensor, weight: torch.Tensor) -> list[slice]:
    rows = max(_ROWS[hidden.device.type], _SLICE // len(weight))
    return [slice(begin, begin + rows) for begin in range(0, len(hidden), rows)]
