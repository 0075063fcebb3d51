"""What came back from a server that speaks OpenAI's protocol: a model's text, or what was wrong."""

from __future__ import annotations

import re
from typing import Any

_LENGTH = re.compile(
    r"context (length|window|limit|size)|maximum model length|input token(s| count)\b.*\bexceed"
    r"|\b(prompt|input|messages)\b.*\btoo long",
    re.IGNORECASE,
)


def said(message: Any, thinks: bool = True) -> str:
    """All that the model said. A server may hold thinking apart; it is put back in front, unless `thinks` is false."""
    extra = message.model_extra or {}
    thought = (extra.get("reasoning") or extra.get("reasoning_content")) if thinks else None
    return (f"<think>{thought}</think>" if thought else "") + (message.content or "")


def detail(error: Any) -> str:
    """The server's own message about an error status."""
    return told(error.body) or str(error.message)


def told(body: Any) -> str:
    """What the body of an error says, wherever in it that stands; empty where it says nothing."""
    outer = body if isinstance(body, dict) else {}
    inner = outer["error"] if isinstance(outer.get("error"), dict) else outer
    found = inner.get("message") or inner.get("detail") or ""
    if isinstance(found, list):
        found = "; ".join(str(one.get("msg", one)) if isinstance(one, dict) else str(one) for one in found)
    return str(found)


def is_about_length(message: str) -> bool:
    """Whether a refusal says that the prompt is too long, which is the fault of that prompt alone."""
    return bool(_LENGTH.search(message))
