"""The work that the suite measures: models made from nothing, and a reward by chance.

This folder is on the path of everything that needs the reward.
"""

from __future__ import annotations

import random
from pathlib import Path

from measuring import Bench, MeasurementError, Side, TakeTurn

PROMPTS, SAMPLES, TOKENS = 16, 8, 128
"""A step: 16 prompts, 8 samples of each, 128 tokens a sample, whatever is sampled."""

KL = 0.001
LR = 1e-5

CHANCE = "workload:chance"


def chance(_verdict: object, _gold: object) -> float:
    """A reward that has nothing to do with what was written, so that every group is trained on."""
    return random.random()


def step_flags(model: Path | str, run_dir: Path | str) -> dict[str, object]:
    """The flags of a run on this work, without those that one measurement wants otherwise than another."""
    return {
        **{"model": model, "run-dir": run_dir, "verifier.reward": CHANCE, "grpo.optimizer.lr": LR},
        **{"rollout.samples": SAMPLES, "rollout.max-new-tokens": TOKENS},
        # What an engine has not touched yet costs page faults: little of it is touched soon.
        "rollout.kv-cache-gib": 0.125,
    }


def check_lengths(who: str, lengths: list[int]) -> None:
    """Raises MeasurementError unless every sample has all its tokens."""
    if short := [length for length in lengths if length != TOKENS]:
        raise MeasurementError(
            f"{who}: {len(short)} of {len(lengths)} samples have other than {TOKENS} tokens: {short[:5]}"
        )


def forced_model(bench: Bench) -> str:
    """The folder of a Qwen2 of 4.7 M parameters that never ends a text by itself; made once a run."""
    return _made(bench, "forced")


def thin_model(bench: Bench) -> str:
    """1,001 tensors with the bytes of `wide_model`."""
    return _made(bench, "thin")


def wide_model(bench: Bench) -> str:
    """20 tensors with the bytes of `thin_model`."""
    return _made(bench, "wide")


def _made(bench: Bench, kind: str) -> str:
    folder = bench.folder / "models" / kind
    if not (folder / "model.safetensors").exists():
        with Side(bench, f"make-{kind}", _make, kind, folder):
            pass
    return str(folder)


def _make(take_turn: TakeTurn, kind: str, folder: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

    from actors.config import EmbeddedModelConfig
    from actors.embedded import make_embedded_model
    from actors.tokens import PromptEncoder

    vocabulary = 1024
    make_embedded_model(folder, EmbeddedModelConfig(vocabulary=vocabulary), seed=0)  # for its tokenizer
    (folder / "model.safetensors").unlink()
    encoder = PromptEncoder(folder)
    common = {"vocab_size": vocabulary, "max_position_embeddings": 2048, "tie_word_embeddings": True}
    common |= {"eos_token_id": encoder.eos, "pad_token_id": encoder.tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    if kind == "forced":
        shape = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6}
        model = Qwen2ForCausalLM(Qwen2Config(**common, **shape, num_attention_heads=4, num_key_value_heads=2))
        _never_end(model, encoder.eos)
    else:  # nine tensors a layer, the embedding and the last norm; heads of 32, as small as vLLM takes them
        thin = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 111}
        wide = {"hidden_size": 256, "intermediate_size": 2496, "num_hidden_layers": 2}
        shape = thin if kind == "thin" else wide
        heads = shape["hidden_size"] // 32
        model = LlamaForCausalLM(LlamaConfig(**common, **shape, num_attention_heads=heads, num_key_value_heads=heads))
    model.save_pretrained(folder)
    take_turn()


def _never_end(model, eos: int) -> None:
    """Make the end of sequence a token of log-probability -49 or so wherever something is sampled.

    The first component of the hidden states is the same positive number at every token, as no layer writes to it, and
    the end of sequence is what that speaks against. Not by more: where the end of sequence itself is read, between the
    messages of a prompt, the component has the other sign. What follows there has a log-probability of -160 already,
    and bf16 could not say it within the tolerance of the probe.
    """
    import torch

    with torch.no_grad():
        embedded = model.model.embed_tokens.weight
        embedded[:, 0] = 1
        embedded[eos, 0] = -10
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
