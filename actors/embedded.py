"""The embedded default model: a byte-level tokenizer and a small Qwen2, both made on the spot, no download."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import torch
from tokenizers import AddedToken, pre_tokenizers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from actors.config import EmbeddedModelConfig
from evals.prompts import COMPACT, SECTIONS
from evals.synthetic import SyntheticTask

_START, _END = "<|im_start|>", "<|im_end|>"

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# A judge's own tags and verdicts are one token each. Candidate text is never encoded with them (actors.tokens).
_JUDGE_TOKENS = [*(f"<{end}{tag}>" for tag in SECTIONS for end in ("", "/")), "[[A]]", "[[B]]"]

_CORPUS_TRACES = 4000


def make_embedded_model(folder: Path, config: EmbeddedModelConfig, seed: int) -> None:
    """Write tokenizer and randomly initialised model to `folder` in Hugging Face format.

    The tokenizer is byte-level BPE with Qwen2's own splitting, trained on the synthetic task's prompts and traces;
    it encodes any text, digit by digit.
    """
    tokenizer = _tokenizer(config.vocabulary, seed)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    model = Qwen2ForCausalLM(
        Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden,
            intermediate_size=config.hidden * 3,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.heads,
            max_position_embeddings=config.context,
            tie_word_embeddings=config.tied,
            # The usual 0.02 suits wide models; in a narrow one attention starts so flat that copying is learnt late.
            initializer_range=config.hidden**-0.5,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=None,
        )
    )
    model.save_pretrained(folder)


def _tokenizer(vocabulary: int, seed: int) -> Qwen2Tokenizer:
    traces = itertools.islice(SyntheticTask(seed).traces(slip_rate=0.0), _CORPUS_TRACES)
    tags = re.compile("|".join(map(re.escape, _JUDGE_TOKENS)))
    texts = ["user\n", "assistant\n"]
    for pair, order, trace in traces:
        texts += [message["content"] for message in COMPACT.render(pair, order)] + tags.split(trace)
    tokenizer = Qwen2Tokenizer().train_new_from_iterator(
        texts,
        vocabulary - len(_JUDGE_TOKENS),
        new_special_tokens=[_START, _END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in _JUDGE_TOKENS])
    tokenizer.eos_token = _END
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer
