"""Which side of a split something falls on, by what it is alone: the same in every run and on every machine."""

from __future__ import annotations

import hashlib


def share(key: str) -> float:
    """A number in [0, 1) for a key, evenly spread over different keys. Those under a share are that share of all."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4], "big") / 2**32
