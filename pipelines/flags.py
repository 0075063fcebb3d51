"""Types of command-line flags that several commands share."""

from __future__ import annotations

import argparse


def from_one(text: str) -> int:
    """A whole number from 1."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
