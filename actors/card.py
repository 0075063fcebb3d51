"""The card of a judge: what a server must know to prompt it as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, ValidationError, ValidationInfo, field_validator, model_validator

from actors.config import FormatName, Settings
from evals.errors import ReadableError
from evals.prompts import FORMATS


class CardError(ReadableError, ValueError):
    """A judge's card that cannot be read; the message names file and fields."""


class JudgeCard(Settings):
    """How a judge's folder wants to be served: `gavel.json` beside the weights, written when a judge is saved."""

    format: FormatName = Field(description="name of the prompt format that it was trained with")
    version: int = Field(default=0, ge=0, description="weight version")
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_model_len: PositiveInt = Field(default=2048, description="tokens of prompt and judgement together")
    max_new_tokens: PositiveInt = Field(default=64, description="tokens of a judgement; a longer one is cut off")

    @field_validator("format", mode="before")
    @classmethod
    def _in_its_folder(cls, name: Any, info: ValidationInfo) -> Any:
        folder: Path | None = (info.context or {}).get("folder")
        here = folder is not None and isinstance(name, str) and name not in FORMATS and (folder / name).is_file()
        return str((folder / name).resolve()) if folder is not None and here else name

    @model_validator(mode="after")
    def _leaves_room(self) -> JudgeCard:
        if self.max_new_tokens >= self.max_model_len:
            raise ValueError("max_new_tokens must leave room for a prompt under max_model_len")
        return self

    @classmethod
    def load(cls, folder: Path) -> JudgeCard | None:
        """The card of a judge's folder, None where it has none. CardError names each field that is wrong.

        A template file in the folder itself is named without a path, so that it moves with the judge.
        """
        path = folder / "gavel.json"
        if not path.exists():
            return None
        try:
            return cls.model_validate_json(path.read_bytes(), context={"folder": folder})
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, e['loc'])) or 'card'}: {e['msg']}" for e in error.errors()]
            raise CardError(f"{path}: {'; '.join(problems)}") from error

    def write(self, folder: Path) -> None:
        """Put the card into a judge's folder, over one that is there."""
        (folder / "gavel.json").write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
