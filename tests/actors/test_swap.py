"""Which checkpoints may be swapped in. `test_serving_deaths.py` swaps them under load."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from actors.card import JudgeCard
from actors.serving.swap import SwapError, checked_checkpoint

CARD = JudgeCard(format="compact", version=3, max_model_len=1024, max_new_tokens=32)


@pytest.fixture
def served(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    folder = tmp_path / "served"
    shutil.copytree(make_model(), folder)
    CARD.write(folder)
    return folder


@pytest.fixture
def new(make_model: Callable[..., Path], tmp_path: Path) -> Path:
    """A good checkpoint: the same architecture and tokenizer, other weights, the next version."""
    folder = tmp_path / "new"
    shutil.copytree(make_model(), folder)
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in tensors.items()}, folder / "model.safetensors")
    CARD.model_copy(update={"version": 4}).write(folder)
    return folder


def test_other_weights_of_the_same_model_are_taken(served: Path, new: Path) -> None:
    assert checked_checkpoint(new, served, CARD).version == 4
    (new / "gavel.json").unlink()
    assert checked_checkpoint(new, served, CARD) == CARD, "without a card it is asked as the served one is"


def break_it(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    name = next(iter(tensors))
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif how == "empty":
        weights.write_bytes(b"")
    elif how == "no weights":
        weights.unlink()
    elif how == "nan":
        tensors[name] = tensors[name].clone()
        tensors[name].view(-1)[3] = float("nan")
        save_file(tensors, weights)
    elif how == "shape":
        save_file(tensors | {name: torch.zeros(3, 5)}, weights)
    elif how == "names":
        save_file({"other": tensors.pop(name)} | tensors, weights)
    elif how == "tokenizer":
        (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text().replace('"a"', '"~"', 1))
    elif how == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif how == "architecture":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"rope_theta": 7.0, "num_attention_heads": 1}))
    elif how == "config":
        (folder / "config.json").write_text("{")
    elif how == "format":
        CARD.model_copy(update={"format": "rm_r1", "version": 4}).write(folder)
    elif how == "card":
        (folder / "gavel.json").write_text('{"format": "haiku"}')


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("truncated", "model.safetensors|weights cannot be read"),
        ("empty", "cannot be read"),
        ("no weights", "holds no weights"),
        ("nan", "not finite"),
        ("shape", r"has shape \[3, 5\], the served model's has"),
        ("names", "2 tensors are not those of the served model"),
        ("tokenizer", "tokenizer.json differs"),
        ("no tokenizer", "tokenizer.json is missing"),
        ("architecture", "config.json differs"),
        ("config", "config.json cannot be read"),
        ("format", "differs from the served judge's in format"),
        ("card", "gavel.json: format"),
    ],
)
def test_a_bad_checkpoint_is_refused_by_name(served: Path, new: Path, how: str, says: str) -> None:
    break_it(new, how)
    with pytest.raises(SwapError, match=says) as refused:
        checked_checkpoint(new, served, CARD)
    assert str(new) in str(refused.value)


def test_a_checkpoint_that_is_not_there(served: Path, tmp_path: Path) -> None:
    with pytest.raises(SwapError, match="no such folder"):
        checked_checkpoint(tmp_path / "nowhere", served, CARD)
