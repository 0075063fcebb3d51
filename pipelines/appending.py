"""Files of lines that a run appends to, and that the next run continues."""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def held(path: Path, busy: type[Exception]) -> Iterator[tuple[BinaryIO, int]]:
    """A new or an earlier file, at its beginning and held against other processes; what is written goes to its end.

    A last line that was cut off by a kill is removed; its length in bytes is given too. Raises `busy` where another
    process holds the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise busy(f"{path}: another process is writing this file; name another --output") from error
        size = file.seek(0, os.SEEK_END)
        whole = _end_of_lines(file) if size else 0
        file.truncate(whole)
        file.seek(0)
        yield file, size - whole


def _end_of_lines(file: BinaryIO) -> int:
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return content.rfind(b"\n") + 1
