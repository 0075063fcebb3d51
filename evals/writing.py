"""Files that are there whole or not at all, and the hash by which their contents are known."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path


def write_whole(path: Path, text: str) -> Path:
    """Write a text file so that a reader sees all of it or the file before; makes its folder.

    Half of a surrogate pair, which a model may write and UTF-8 cannot hold, becomes a question mark.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(text.encode("utf-8", errors="replace"))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return path


def file_sha256(path: Path) -> str:
    """SHA-256 of what is in a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
