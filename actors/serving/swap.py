"""Whether a checkpoint may take the place of the weights that are being served."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from actors.card import CardError, JudgeCard
from actors.models import ModelError, tensor_files
from evals.errors import ReadableError

_CHANGES_NOTHING = {"_name_or_path", "transformers_version", "torch_dtype", "dtype", "use_cache", "architectures"}


class SwapError(ReadableError, ValueError):
    """A checkpoint that is not served; the message names what is wrong with it."""


def checked_checkpoint(folder: Path, served: Path, card: JudgeCard) -> JudgeCard:
    """The card of the checkpoint in `folder`, if it can replace the model in `served`, whose card is `card`.

    It must be whole, have the same architecture, tokenizer, chat template and tensors, and only finite numbers. Reads
    every tensor once. Raises SwapError.
    """
    if not folder.is_dir():
        raise SwapError(f"{folder}: there is no such folder")
    _same_settings(folder, served)
    try:
        new = JudgeCard.load(folder) or card
        given, expected = tensor_files(folder), tensor_files(served)
    except (CardError, ModelError, OSError, ValueError) as error:
        raise SwapError(f"{folder}: {error}") from error
    except Exception as error:  # safetensors' own error is not exported under a stable name
        raise SwapError(f"{folder}: its weights cannot be read ({error})") from error
    if new.model_copy(update={"version": card.version}) != card:
        differing = [name for name in JudgeCard.model_fields if getattr(new, name) != getattr(card, name)]
        names = ", ".join(name for name in differing if name != "version")
        raise SwapError(f"{folder}: gavel.json differs from the served judge's in {names}; deploy it anew instead")
    if given.keys() != expected.keys():
        differing = sorted(given.keys() ^ expected.keys())
        raise SwapError(f"{folder}: {len(differing)} tensors are not those of the served model, first {differing[0]}")
    for name, file in given.items():
        _same_tensor(name, file, expected[name])
    return new


def _same_settings(folder: Path, served: Path) -> None:
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        if not (served / name).exists():
            continue
        try:
            same = _settings(folder / name) == _settings(served / name)
        except OSError as error:
            raise SwapError(f"{folder}: {name} is missing ({error.strerror})") from error
        except ValueError as error:
            raise SwapError(f"{folder}: {name} cannot be read ({error})") from error
        if not same:
            raise SwapError(f"{folder}: {name} differs from the served model's; deploy it anew instead")


def _settings(file: Path) -> Any:
    text = file.read_text(encoding="utf-8")
    if file.suffix != ".json":
        return text
    values = json.loads(text)
    return {name: value for name, value in values.items() if name not in _CHANGES_NOTHING}


def _same_tensor(name: str, file: Path, expected: Path) -> None:
    import torch
    from safetensors import safe_open

    try:
        with safe_open(file, "pt") as given, safe_open(expected, "pt") as served:
            shape, other = given.get_slice(name).get_shape(), served.get_slice(name).get_shape()
            finite = bool(torch.isfinite(given.get_tensor(name)).all())
    except Exception as error:
        raise SwapError(f"{file}: tensor {name} cannot be read ({error})") from error
    if shape != other:
        raise SwapError(f"{file}: tensor {name} has shape {shape}, the served model's has {other}")
    if not finite:
        raise SwapError(f"{file}: tensor {name} has numbers that are not finite")
