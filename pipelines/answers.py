"""What came back from a server that speaks OpenAI's protocol: a model's text, or what was wrong."""

from __future__ import annotations

from typing import Any


def said(message: Any, thinks: bool = True) -> str:
    """All that the model said. A server may hold thinking apart; it is put back in front, unless `thinks` is false."""
    extra = message.model_extra or {}
    thought = (extra.get("reasoning") or extra.get("reasoning_content")) if thinks else None
    return (f"<think>{thought}</think>" if thought else "") + (message.content or "")


def detail(error: Any) -> str:
    """The server's own message about an error status, wherever in the body it stands."""
    body = error.body if isinstance(error.body, dict) else {}
    inner = body["error"] if isinstance(body.get("error"), dict) else body
    found = inner.get("message") or inner.get("detail") or error.message
    if isinstance(found, list):
        found = "; ".join(str(one.get("msg", one)) if isinstance(one, dict) else str(one) for one in found)
    return str(found)


def is_about_length(message: str) -> bool:
    """Whether a refusal says that the prompt is too long, which is the fault of that prompt alone."""
    return any(words in message.lower() for words in ("context length", "too long", "maximum context"))
