"""Attention over groups: a prompt is computed once, however many judgements of it a micro-batch holds.

Everything of a model but its attention works on tokens one by one, so there the row needs no padding and a prompt
stands in it once. Attention is each prompt's over itself, then group by group each judgement's over the prompt and
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
class Stretch:
    """Sequences that stand in the row one behind the other: `lengths[i]` tokens of each, from `begin`."""

    begin: int
    lengths: Sequence[int]
    device: torch.device

    def __post_init__(self) -> None:
        self.end = self.begin + sum(self.lengths)
        self.longest = max(self.lengths)
        self._even = min(self.lengths) == self.longest
        if not self._even:
            lengths = torch.tensor(self.lengths, device=self.device)
            places = torch.arange(self.longest, device=self.device).expand(len(self.lengths), -1)
            self._real = (places < lengths[:, None]).flatten()
            self._taken = self._real.cumsum(0).sub_(1).clamp_(min=0)  # padding repeats a token that is there

    def rows(self, heads: torch.Tensor) -> torch.Tensor:
        """These sequences' part of [1, heads, tokens, size] as [sequences, heads, longest, size]."""
        own = heads[0, :, self.begin : self.end]
        if not self._even:
            own = own.index_select(1, self._taken)
        return own.unflatten(1, (len(self.lengths), -1)).transpose(0, 1)

    def row(self, rows: torch.Tensor) -> torch.Tensor:
        """[sequences, longest, heads, size] back as [1, tokens, heads, size]."""
        flat = rows.flatten(0, 1)
        return (flat if self._even else flat[self._real])[None]


@dataclass
class Group:
    """Completions that go on from one prompt, which stands alone at `prompt`."""

    prompt: slice
    completions: Stretch
    _masks: dict[int | None, torch.Tensor] = field(default_factory=dict)

    def seen(self, heads: torch.Tensor) -> torch.Tensor:
        """The prompt and each completion of [1, heads, tokens, size], [completions, heads, prompt + longest, size]."""
        own = self.completions.rows(heads)
        return torch.cat([heads[:, :, self.prompt].expand(len(own), -1, -1, -1), own], 2)

    def mask(self, window: int | None) -> torch.Tensor:
        """Which of the prompt's and its own tokens each of a completion's sees, [longest, prompt + longest]."""
        if window not in self._masks:
            prompt = self.prompt.stop - self.prompt.start
            places = torch.arange(prompt + self.completions.longest, device=self.completions.device)
            self._masks[window] = _causal(places[prompt:], places, window)
        return self._masks[window]


@dataclass
class Groups:
    """What stands in a micro-batch's row: sequences that see themselves alone, and behind them the groups'."""

    alone: list[Stretch]
    groups: list[Group]
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

    def alone(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        places = torch.arange(q.shape[2], device=q.device)
        narrow = sliding_window is not None and len(places) > sliding_window
        return attend(q, k, v, _causal(places, places, sliding_window) if narrow else None)

    if groups is None:
        return alone(query, key, value), None
    groups.seen = True
    found = [part.row(alone(part.rows(query), part.rows(key), part.rows(value))) for part in groups.alone]
    for group in groups.groups:
        own = group.completions
        found.append(own.row(attend(own.rows(query), group.seen(key), group.seen(value), group.mask(sliding_window))))
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
