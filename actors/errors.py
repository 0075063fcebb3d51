"""Errors that several actors raise."""

from __future__ import annotations

from evals.errors import ReadableError


class PolicyError(ReadableError, RuntimeError):
    """The policy cannot go on; the message says which check failed."""
