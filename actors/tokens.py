"""From chat messages to token ids, so that no text in a message can act as a control token.

A chat template is rendered with a placeholder for each message's content. Only what the template itself wrote is
searched for special tokens; contents are encoded by a copy of the tokenizer that knows no added token at all. For
text without control tokens the ids are those of the ordinary path; `<|im_end|>` inside a candidate is ten or so
plain tokens.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from actors.models import model_folder
from actors.records import Ids
from evals.pairs import Message


class PromptEncoder:
    """Encodes prompts and completions for one model folder, and decodes what its engine samples."""

    def __init__(self, model: str | Path):
        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(model_folder(model, weights=False))
        if not self.tokenizer.chat_template:
            raise ValueError(f"{model}: the tokenizer has no chat template, so there is no way to prompt the model")
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"{model}: the tokenizer names no end-of-sequence token (eos_token)")
        self._control = {str(token): id_ for id_, token in self.tokenizer.added_tokens_decoder.items()}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile("|".join(map(re.escape, longest_first)))
        self._plain = _without_added_tokens(self.tokenizer)

    @property
    def eos(self) -> int:
        """Id of the end-of-sequence token, with which a judge ends its text."""
        return self.tokenizer.eos_token_id

    def encode_prompt(self, messages: Sequence[Message]) -> Ids:
        """Ids of the messages in the model's chat template, up to where the assistant begins, [length]."""
        nonce = secrets.token_hex(16)
        holes = [Message(role=m["role"], content=f"{nonce}{i}:") for i, m in enumerate(messages)]
        skeleton = self.tokenizer.apply_chat_template(holes, tokenize=False, add_generation_prompt=True)

        def fill(text: str) -> str:
            return re.sub(f"{nonce}(\\d+):", lambda hole: messages[int(hole[1])]["content"], text)

        ids: list[int] = []
        at = 0
        for control in self._control_pattern.finditer(skeleton):
            ids += self._plain.encode(fill(skeleton[at : control.start()]), add_special_tokens=False).ids
            ids.append(self._control[control.group()])
            at = control.end()
        ids += self._plain.encode(fill(skeleton[at:]), add_special_tokens=False).ids
        return np.array(ids, np.int32)

    def encode_completion(self, text: str) -> Ids:
        """Ids of a judge's own text with the end-of-sequence token, [length]; the judge's tags are its tokens.

        Control tokens that the text quotes are plain text: sampled as tokens they would have ended it there.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return np.array([*ids, self.eos], np.int32)

    def decode(self, ids: Ids) -> str:
        """The text of sampled ids; special tokens (end of sequence, padding) are left out."""
        return self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)


def _without_added_tokens(tokenizer: PreTrainedTokenizerFast) -> Tokenizer:
    """The same tokenizer without added tokens and without the templates that insert them."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state["added_tokens"] = []
    state["post_processor"] = None
    return Tokenizer.from_str(json.dumps(state))
