"""Attention over groups: a prompt is computed once, however many judgements of it a micro-batch holds.

Everything of a model but its attention works on tokens one by one, so there the row needs no padding and a prompt
stands in it once. Attention goes group by group: the prompt over itself, then each judgement over the prompt and
itself. Positions count on from the prompt in every judgement, so the numbers are those of each sequence alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

IMPLEMENTATION = "gavel_groups"
"""The name under which transformers knows this attention."""

_LAYERS = {"full_attention", "sliding_attention"}


@dataclass
class Span:
    """Where a group stands in the row: its prompt, and behind it `lengths[i]` tokens of each completion."""

    begin: int
    prompt: int
    lengths: Sequence[int]
    device: torch.device
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.middle = self.begin + self.prompt
        self.end = self.middle + sum(self.lengths)
        self._even = len(set(self.lengths)) < 2
        if not self._even:
            lengths = torch.tensor(self.lengths, device=self.device)
            places = torch.arange(max(self.lengths), device=self.device).expand(len(self.lengths), -1)
            self._real = (places < lengths[:, None]).flatten()
            self._taken = self._real.cumsum(0).sub_(1).clamp_(min=0)  # padding repeats a token that is there

    def rows(self, heads: torch.Tensor) -> torch.Tensor:
        """The completions' part of [1, heads, tokens, size] as [completions, heads, longest, size]."""
        own = heads[0, :, self.middle : self.end]
        if not self._even:
            own = own.index_select(1, self._taken)
        return own.unflatten(1, (len(self.lengths), -1)).transpose(0, 1)

    def row(self, rows: torch.Tensor) -> torch.Tensor:
        """[completions, longest, heads, size] back as [1, tokens, heads, size]."""
        flat = rows.flatten(0, 1)
        return (flat if self._even else flat[self._real])[None]

    def mask(self, window: int | None) -> torch.Tensor:
        """Which of the prompt's and its own tokens each of a completion's sees, [longest, prompt + longest]."""
        if window not in self._masks:
            seen = torch.arange(self.prompt + max(self.lengths), device=self.device)
            self._masks[window] = _causal(seen[self.prompt :], seen, window)
        return self._masks[window]


@dataclass
class Groups:
    """The groups of a micro-batch in the order in which they stand in its row."""

    spans: list[Span]
    seen: bool = False
    """Whether the model's attention was told of them."""


def group_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    groups: Groups | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: [1, heads, tokens, size] each -> [1, tokens, heads, size].

    Without groups it is plain causal attention.
    """

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        return sdpa_attention_forward(module, q, k, v, mask, dropout=dropout, scaling=scaling, **more)[0]

    def alone(part: slice) -> torch.Tensor:
        length = part.stop - part.start
        mask = None
        if sliding_window is not None and length > sliding_window:
            places = torch.arange(length, device=query.device)
            mask = _causal(places, places, sliding_window)
        return attend(query[:, :, part], key[:, :, part], value[:, :, part], mask)

    if groups is None:
        return alone(slice(0, query.shape[2])), None
    groups.seen = True
    found = []
    for span in groups.spans:
        prompt = slice(span.begin, span.middle)
        found.append(alone(prompt))
        if span.lengths:
            keys, values = (
                torch.cat([all_[:, :, prompt].expand(len(span.lengths), -1, -1, -1), span.rows(all_)], 2)
                for all_ in (key, value)
            )
            found.append(span.row(attend(span.rows(query), keys, values, span.mask(sliding_window))))
    return torch.cat(found, 1), None


AttentionInterface.register(IMPLEMENTATION, group_attention)


def _causal(queries: torch.Tensor, keys: torch.Tensor, window: int | None) -> torch.Tensor:
    distance = queries[:, None] - keys
    return (distance >= 0) if window is None else (distance >= 0) & (distance < window)


def share_prompts(model: Any) -> bool:
    """Give a transformers model this attention, where every layer of it has attention that it can stand for."""
    config = model.config.get_text_config()
    plain = set(getattr(config, "layer_types", None) or _LAYERS) <= _LAYERS
    if not plain or not model._supports_attention_backend or getattr(config, "attn_logit_softcapping", None):
        return False
    model.set_attn_implementation(IMPLEMENTATION)
    return True
