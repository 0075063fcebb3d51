"""Turns text into token ids away from the driver, which never holds any."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import ray

from actors.records import Example, Ids
from actors.tokens import PromptEncoder
from evals.pairs import Message, Pair
from evals.prompts import prompt_format
from evals.traces import Trace
from evals.verdicts import Order

_PROBE = Message(role="user", content="Which response is better? 3+4=7, 12-5=7. <answer>[[A]]</answer> or [[B]]?")
_THINK = "<think>"


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
    """Encodes prompts and traces for one model and prompt format."""

    def __init__(self, model: str, format_: str):
        self._encoder = PromptEncoder(model)
        self._traces = TraceEncoder(self._encoder)
        self._format = prompt_format(format_)

    def probe(self) -> list[int]:
        """Ids of a fixed text, for trainer and engines to score after each weight sync."""
        return self._encoder.encode_prompt([_PROBE]).tolist()

    def prompt_lengths(self, shown: Sequence[tuple[Pair, Order]]) -> list[int]:
        """The length of each pair's prompt in its order, in tokens."""
        return [len(self._encoder.encode_prompt(self._format.render(pair, order))) for pair, order in shown]

    def trace_lengths(self, traces: Sequence[Trace]) -> list[int]:
        """The length of each trace with its prompt, in tokens."""
        return [len(self._traces.example(trace).ids) for trace in traces]

    def examples(self, traces: Sequence[Trace]) -> tuple[list[Example], list[tuple[int, int]]]:
        """Traces as examples to train on, and (whole, completion) length of each. Call with `num_returns=2`."""
        found = [self._traces.example(trace) for trace in traces]
        return found, [(len(example.ids), example.completion_length) for example in found]


Encoder = ray.remote(_Encoder)
