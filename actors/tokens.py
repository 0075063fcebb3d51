"""From chat messages to token ids, so that no text in a message can act as a control token.

A chat template is rendered with a placeholder for each message's content, once for each sequence of roles. Only what
the template itself wrote is searched for control tokens; contents are encoded by a copy of the tokenizer that knows
none, and their ids are looked at again. For text without control tokens the ids are those of the ordinary path;
`<|im_end|>` inside a candidate is ten or so plain tokens. Where a template marks roles in mere text, as Llama 2's does
with `[INST]`, contents are fenced against that as they are against the marks of prompts.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tokenizers import Tokenizer

from actors.models import model_folder, without_scikit_learn
from actors.records import Ids
from evals.errors import ReadableError
from evals.pairs import Message
from evals.prompts.fencing import Fence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_SPACE = "\u2003"
"""White space that no chat template writes: where it is gone from around a placeholder, the template trims content."""

_MARKS = re.compile(r"\[[^\[\]\s]+\]|<+[^<>\s]+>+")
"""Marks in a chat template's text."""

_REMEMBERED = 64
"""Texts whose ids are kept (instructions are the same in every prompt), and sequences of roles with their skeletons."""


class ControlTokenError(ReadableError, ValueError):
    """The text of a message came to ids that are the chat template's alone. The message names them."""


@dataclass(frozen=True)
class _Content:
    """The place of a message's content, and on which sides the template trims it."""

    message: int
    left: bool
    right: bool

    def of(self, messages: Sequence[Message], fence: Fence) -> str:
        text = fence(messages[self.message]["content"])
        text = text.lstrip() if self.left else text
        return text.rstrip() if self.right else text


@dataclass(frozen=True)
class _Text:
    """What stands between two control tokens, which may swallow the white space next to them."""

    parts: tuple[str | _Content, ...]
    left: bool = False
    right: bool = False

    def of(self, messages: Sequence[Message], fence: Fence) -> str:
        text = "".join(part if isinstance(part, str) else part.of(messages, fence) for part in self.parts)
        text = text.lstrip() if self.left else text
        return text.rstrip() if self.right else text


@dataclass(frozen=True)
class _Skeleton:
    """What a template writes around contents: control tokens, and text with its gaps, whose marks have a fence."""

    parts: tuple[Ids | _Text, ...]
    fence: Fence


class PromptEncoder:
    """Encodes prompts and completions for one model folder, and decodes what its engine samples."""

    def __init__(self, model: str | Path):
        os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # where there is no torch, to install it
        without_scikit_learn()
        from transformers import AutoTokenizer

        self.tokenizer: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(model_folder(model, weights=False))
        if not self.tokenizer.chat_template:
            raise ValueError(f"{model}: the tokenizer has no chat template, so there is no way to prompt the model")
        if self.tokenizer.eos_token_id is None:
            raise ValueError(f"{model}: the tokenizer names no end-of-sequence token (eos_token)")
        state = json.loads(self.tokenizer.backend_tokenizer.to_str())
        control = _control_tokens(state["added_tokens"])
        self._control = {token["content"]: token for token in control}
        longest_first = sorted(self._control, key=len, reverse=True)
        self._control_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._reserved = np.zeros(max(self.tokenizer.get_vocab().values()) + 1, np.bool_)
        self._reserved[_reserved(state["model"], control, self.eos)] = True
        self._plain = _without_control_tokens(state, control)
        self._nonce = secrets.token_hex(16)
        self._skeleton = lru_cache(_REMEMBERED)(self._rendered)
        self._text_ids = lru_cache(_REMEMBERED)(self._encode_text)

    @property
    def eos(self) -> int:
        """Id of the end-of-sequence token, with which a judge ends its text."""
        return self.tokenizer.eos_token_id

    def encode_prompt(self, messages: Sequence[Message]) -> Ids:
        """Ids of the messages in the model's chat template, up to where the assistant begins, [length].

        The template is rendered when roles come in this sequence for the first time: what it says of the date stays
        that of then. Raises ControlTokenError where contents came to control tokens after all.
        """
        skeleton = self._skeleton(tuple(message["role"] for message in messages))
        return np.concatenate(
            [
                self._text_ids(part.of(messages, skeleton.fence)) if isinstance(part, _Text) else part
                for part in skeleton.parts
            ]
        )

    def _rendered(self, roles: Sequence[str]) -> _Skeleton:
        contents = [f"{_SPACE}{self._nonce}{number}:{_SPACE}" for number in range(len(roles))]
        rendered: str = self.tokenizer.apply_chat_template(
            [Message(role=role, content=content) for role, content in zip(roles, contents, strict=True)],
            tokenize=False,
            add_generation_prompt=True,
        )
        parts: list[Ids | _Text] = []
        marks: list[str] = []
        text = _Text(())
        pieces = re.split(f"({_SPACE}?{self._nonce}\\d+:{_SPACE}?)", rendered)
        for number, piece in enumerate(pieces):
            if number % 2:
                message = int(piece.strip().removeprefix(self._nonce)[:-1])
                content = _Content(message, not piece.startswith(_SPACE), not piece.endswith(_SPACE))
                text = replace(text, parts=(*text.parts, content))
                continue
            plain, *controlled = self._control_pattern.split(piece)
            text = replace(text, parts=(*text.parts, plain))
            marks += _MARKS.findall(plain)
            for name, following in zip(controlled[::2], controlled[1::2], strict=True):
                token = self._control[name]
                parts += [replace(text, right=token["lstrip"]), np.array([token["id"]], np.int32)]
                text = _Text((following,), left=token["rstrip"])
                marks += _MARKS.findall(following)
        return _Skeleton((*parts, text), Fence.around(*marks))

    def _encode_text(self, text: str) -> Ids:
        """Ids of text without control tokens, [length], which nobody may write to: they are kept."""
        ids = np.array(self._plain.encode(text, add_special_tokens=False).ids, np.int32)
        if (reserved := self._reserved[ids]).any():
            found = sorted({*ids[reserved].tolist()})
            names = ", ".join(f"{self.tokenizer.convert_ids_to_tokens(id_)!r} (id {id_})" for id_ in found)
            raise ControlTokenError(
                f"{self.tokenizer.name_or_path}: the text of a message would act as control tokens of the model: "
                f"{names}. It was not shown to the model; use a tokenizer that has these as added tokens alone"
            )
        ids.flags.writeable = False
        return ids

    def encode_completion(self, text: str) -> Ids:
        """Ids of a judge's own text with the end-of-sequence token, [length]; the judge's tags are its tokens.

        Control tokens that the text quotes are plain text: sampled as tokens they would have ended it there.
        """
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True).input_ids
        return np.array([*ids, self.eos], np.int32)

    def decode(self, ids: Ids) -> str:
        """The text of sampled ids; special tokens (end of sequence, padding) are left out."""
        return self.tokenizer.decode(ids.tolist(), skip_special_tokens=True)


State = dict[str, Any]
"""A tokenizer, its model or one of its added tokens as `tokenizers` writes them to JSON."""


def _control_tokens(added_tokens: Sequence[State]) -> list[State]:
    """The added tokens that only a chat template or the model itself writes: all but runs of white space."""
    return [token for token in added_tokens if token["special"] or token["content"].strip()]


def _reserved(model: State, control: Sequence[State], eos: int) -> list[int]:
    """Ids that text must not have. What stands for unknown characters is one that it may."""
    unknown = model.get("unk_token")
    if unknown is None and model.get("unk_id") is not None:
        unknown = model["vocab"][model["unk_id"]][0]
    return [token["id"] for token in control if token["content"] != unknown or token["id"] == eos]


def _without_control_tokens(state: State, control: Sequence[State]) -> Tokenizer:
    """The same tokenizer without the templates that insert control tokens, and with none that text could come to.

    Those get names that no text has: also where the vocabulary itself has them, as that of a SentencePiece model does.
    """
    names = {token["id"]: secrets.token_hex(16) for token in control}
    model = dict(state["model"])
    gone: set[str] = set()

    def name(piece: str, id_: int) -> str:
        if id_ in names:
            gone.add(piece)
        return names.get(id_, piece)

    if isinstance(model["vocab"], list):
        model["vocab"] = [[name(piece, id_), score] for id_, (piece, score) in enumerate(model["vocab"])]
    else:
        unknown = model["vocab"].get(model.get("unk_token"))
        model["unk_token"] = names.get(unknown, model.get("unk_token"))
        model["vocab"] = {name(piece, id_): id_ for piece, id_ in model["vocab"].items()}
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if gone.isdisjoint((*pair, "".join(pair)))]
    added = [token | {"content": names.get(token["id"], token["content"])} for token in state["added_tokens"]]
    if len(control) == len(added):
        added = []  # left out is faster; the others would get other ids without these
    return Tokenizer.from_str(json.dumps({**state, "model": model, "added_tokens": added, "post_processor": None}))
