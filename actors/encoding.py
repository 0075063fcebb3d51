"""Turns text into token ids away from the driver, which never holds any."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import ray

from actors.models import without
from actors.records import Example, Ids, RolloutGroup
from actors.tokens import PromptEncoder
from evals.pairs import Message, Pair
from evals.prompts import prompt_format
from evals.traces import Trace
from evals.verdicts import Order

_PROBE = Message(role="user", content="Which response is better? 3+4=7, 12-5=7. <answer>[[A]]</answer> or [[B]]?")
_THINK = "<think>"


class Prompting(Protocol):
    """What a model is asked: the messages that it completes. A prompt format asks a judge."""

    def render(self, pair: Pair, order: Order) -> list[Message]:
        """The chat messages for `pair` in `order`."""


class QuestionAlone:
    """Asks a policy the pair's question, as it stands; there are no candidates in it, and no order."""

    def render(self, pair: Pair, order: Order) -> list[Message]:
        """The conversation."""
        return list(pair.messages)


def prompting(asked: str | Prompting) -> Prompting:
    """The prompt format of that name or file, or another way of asking as it is."""
    return prompt_format(asked) if isinstance(asked, str) else asked


class TraceEncoder:
    """Encodes traces as the model itself would have sampled them."""

    def __init__(self, encoder: PromptEncoder):
        self._encoder = encoder
        begun = encoder.tokenizer.decode(encoder.encode_prompt([_PROBE]).tolist())
        opened = re.search(rf"{_THINK}\s*\Z", begun)
        self._opened = opened[0] if opened else ""

    def example(self, trace: Trace) -> Example:
        """The trace in the model's chat template, with the loss on its text and the end-of-sequence token alone."""
        prompt = self._encoder.encode_prompt(trace.messages)
        return Example(np.concatenate([prompt, self._completion(trace.text)]), len(prompt))

    def _completion(self, text: str) -> Ids:
        """A text may bring the end of sequence, which is not written twice, and the opening of its thinking.

        Where the chat template has opened the thinking already (R1's do), the model goes on from there, and so must
        the text.
        """
        text = text.removesuffix(self._encoder.tokenizer.eos_token)
        if self._opened and text.lstrip().startswith(_THINK):
            text = text.lstrip().removeprefix(_THINK)
            text = text.removeprefix(self._opened.removeprefix(_THINK))
        return self._encoder.encode_completion(text)


class _Encoder:
    """Encodes prompts and traces for one model and way of asking it: a prompt format's name, or any other."""

    def __init__(self, model: str, asked: str | Prompting):
        with without("torch"):  # which transformers would import for its models
            self._encoder = PromptEncoder(model)
        self._traces = TraceEncoder(self._encoder)
        self._prompting = prompting(asked)

    def probe(self) -> list[int]:
        """Ids of a fixed text, for trainer and engines to score after each weight sync."""
        return self._encoder.encode_prompt([_PROBE]).tolist()

    def prompt_lengths(self, shown: Sequence[tuple[Pair, Order]]) -> list[int]:
        """The length of each pair's prompt in its order, in tokens."""
        return [len(self._encoder.encode_prompt(self._prompting.render(pair, order))) for pair, order in shown]

    def trace_lengths(self, traces: Sequence[Trace]) -> list[int]:
        """The length of each trace with its prompt, in tokens."""
        return [len(self._traces.example(trace).ids) for trace in traces]

    def examples(self, traces: Sequence[Trace]) -> tuple[list[Example], list[tuple[int, int]]]:
        """Traces as examples to train on, and (whole, completion) length of each. Call with `num_returns=2`."""
        found = [self._traces.example(trace) for trace in traces]
        return found, [(len(example.ids), example.completion_length) for example in found]

    def texts(self, *groups: RolloutGroup) -> list[list[str]]:
        """What was sampled in each group, as text."""
        return [[self._encoder.decode(rollout.ids) for rollout in group.rollouts] for group in groups]


Encoder = ray.remote(_Encoder)
