"""What several commands take from the command line and the environment."""

from __future__ import annotations

import argparse

GAVEL_KEY = "GAVEL_API_KEY"
"""The environment variable with the API key for a judge that Gavel serves."""


def from_one(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
