"""The frozen model that GRPO's KL term is measured against."""

from __future__ import annotations

import time

import numpy as np
import ray

from actors.batching import Grouped, Padded, micro_batches, pieces
from actors.config import PolicyConfig, ReferenceConfig
from actors.models import model_folder, without_scikit_learn
from actors.profiling import Profiled
from actors.records import Example, Interval, LogProbs, RolloutGroup


class _ReferenceModel(Profiled):
    """Holds one copy of the starting policy and scores sampled judgements under it."""

    def __init__(self, model: str, policy: PolicyConfig, config: ReferenceConfig, device: str):
        import torch

        without_scikit_learn()
        from transformers import AutoModelForCausalLM

        from actors.scoring import Scorer

        if device == "cpu":
            torch.set_num_threads(config.threads)
        self._device = torch.device("cuda" if device == "gpu" else "cpu")
        self._budget = config.micro_batch_tokens
        self._model = AutoModelForCausalLM.from_pretrained(
            model_folder(model), dtype=getattr(torch, policy.dtype), attn_implementation="sdpa"
        )
        self._model.to(self._device).eval()
        self._score = Scorer(self._model, policy.share_prompts)

    def log_probs(self, temperature: float, *groups: RolloutGroup) -> list[list[LogProbs] | Interval]:
        """Log-probabilities of every group's sampled tokens at `temperature`: for each group n arrays of [length].

        Behind them comes when this worked. Call it with `num_returns=len(groups) + 1`: each group's list becomes an
        object of its own.
        """
        import torch

        begun = time.time()
        examples = [
            Example(np.concatenate([group.prompt.ids, rollout.ids]), len(group.prompt.ids))
            for group in groups
            for rollout in group.rollouts
        ]
        shared = self._score.shares_prompts
        prompts = [place for place, group in enumerate(groups) for _ in group.rollouts]
        lengths = [(len(example.ids), example.completion_length) for example in examples]
        together = pieces(prompts if shared else range(len(examples)), lengths, self._budget)
        scored: dict[int, LogProbs] = {}
        with torch.inference_mode():
            for rows in micro_batches(together, lengths, self._budget, shared):
                chosen = [examples[row] for row in rows]
                batch = Grouped(chosen, self._device) if shared else Padded(chosen, 0, self._device)
                log_probs, _ = self._score(self._model, batch, temperature)
                scored |= zip(rows, batch.rows(log_probs), strict=True)
        in_order = iter(range(len(examples)))
        return [*([scored[next(in_order)] for _ in group.rollouts] for group in groups), (begun, time.time())]


ReferenceModel = ray.remote(_ReferenceModel)
