"""A folder that appears as a whole or not at all."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evals.errors import ReadableError


class OutputError(ReadableError, OSError):
    """The output folder cannot be written; the message says what is in the way."""


@contextmanager
def replaced_folder(folder: Path, names: tuple[str, ...]) -> Iterator[Path]:
    """A folder to write `names` to, which takes the place of `folder` when the block ends without an error.

    Until then an earlier output stays as it is, whatever happens; what a killed build left behind is cleared by the
    next one. Raises OutputError where `folder` holds other files, or where another build is writing it.
    """
    folder = folder.absolute()
    partial, previous = (folder.with_name(f".{folder.name}.{what}") for what in ("partial", "previous"))
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{folder} cannot be written ({error.strerror}); name another folder") from error
    lock = os.open(partial, os.O_RDONLY)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise OutputError(f"{folder}: another build is writing this folder; wait for it, or end it") from error
        _clear(partial)
        if previous.exists() and not folder.exists():  # killed between the two renames below
            previous.rename(folder)
        _check(folder, names)
        try:
            yield partial
            for name in names:
                _flush(partial / name)
        except BaseException:
            shutil.rmtree(partial)
            raise
        shutil.rmtree(previous, ignore_errors=True)
        if folder.exists():
            folder.rename(previous)
        partial.rename(folder)
        shutil.rmtree(previous, ignore_errors=True)
    finally:
        os.close(lock)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        entry.unlink()


def _check(folder: Path, names: tuple[str, ...]) -> None:
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; name a folder")
    foreign = sorted(entry.name for entry in folder.iterdir() if entry.name not in names) if folder.exists() else []
    if foreign:
        raise OutputError(
            f"{folder} holds {foreign[0]!r}, which no build wrote; name a folder of its own, or move that away"
        )


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
