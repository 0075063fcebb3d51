"""Rows of a source, one at a time, whatever the file: JSON lines, Parquet, CSV, a folder of them, or a hub name."""

from __future__ import annotations

import csv
import gzip
import hashlib
import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from evals.data.recipe import RecipeError, Source
from evals.writing import file_sha256

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet", ".csv")
LIST_COLUMNS = ("responses", "scores")
"""CSV columns whose cells hold a JSON list of any kind. Elsewhere only a list of messages is taken as one."""


class Record(NamedTuple):
    """One row. `values` is the reason, as text, where it could not be read."""

    file: str
    line: int
    values: dict[str, Any] | str


@dataclass
class FileDigest:
    """What a manifest says about a file that was read: sha256 and size, of the rows as JSON where it is a hub's."""

    name: str
    sha256: str
    bytes: int


@dataclass
class RowReader:
    """Reads a source's rows in the order of its files. `done` goes from 0 to 1 as it does."""

    source: Source
    files: list[Path] = field(default_factory=list)
    digests: list[FileDigest] = field(default_factory=list)
    done: float = 0.0

    def __post_init__(self) -> None:
        """Find the files. Raises RecipeError where there is none."""
        source, path = self.source, Path(self.source.path)
        if source.hub:
            return
        if path.is_dir():
            self.files = sorted(file for file in path.rglob("*") if file.name.endswith(SUFFIXES))
        elif path.is_file():
            self.files = [path]
        else:
            raise RecipeError(f"source {source.name!r}, key 'path': there is no file or folder {path}")
        if not self.files or not all(file.name.endswith(SUFFIXES) for file in self.files):
            raise RecipeError(f"source {source.name!r}, key 'path': {path} is none of {', '.join(SUFFIXES)}")

    def __iter__(self) -> Iterator[Record]:
        if self.source.hub:
            yield from self._hub()
            return
        total = sum(file.stat().st_size for file in self.files) or 1
        before = 0
        for file in self.files:
            size = file.stat().st_size
            self.digests.append(self._digest(file))
            for record, part in _records(file):
                self.done = (before + part * size) / total
                yield record
            if file_sha256(file) != self.digests[-1].sha256:
                raise RecipeError(f"source {self.source.name!r}: {file} was changed while it was read; build again")
            before += size
        self.done = 1.0

    def digests_now(self) -> list[FileDigest]:
        """What a manifest would say about the files as they are now; nothing about a hub's, which are not read."""
        return [self._digest(file) for file in self.files]

    def _digest(self, file: Path) -> FileDigest:
        try:
            return FileDigest(self._shown(file), file_sha256(file), file.stat().st_size)
        except OSError as error:
            raise RecipeError(f"source {self.source.name!r}: {file} cannot be read ({error.strerror})") from error

    def _shown(self, file: Path) -> str:
        """The file as the manifest names it: where it lies in the source's folder, or its own name."""
        root = Path(self.source.path)
        return file.relative_to(root).as_posix() if root.is_dir() else file.name

    def _hub(self) -> Iterator[Record]:
        from datasets import load_dataset

        source, digest, size = self.source, hashlib.sha256(), 0
        try:
            rows = load_dataset(
                source.hub,
                source.subset or None,
                split=source.split,
                revision=source.revision or None,
                streaming=True,
            )
            for number, values in enumerate(rows, start=1):
                raw = json.dumps(values, ensure_ascii=False, sort_keys=True, default=str).encode("utf-8", "replace")
                digest.update(raw)
                size += len(raw)
                yield Record(f"{source.hub}/{source.split}", number, dict(values))
        except Exception as error:  # no network, no such name, a gated set: one thing to do about all of them
            raise RecipeError(
                f"source {source.name!r}, key 'hub': {source.hub!r}, split {source.split!r}, could not be read from "
                f"the Hugging Face hub ({error}); download it and name its files with 'path'"
            ) from error
        self.digests.append(FileDigest(f"{source.hub}/{source.split}", digest.hexdigest(), size))
        self.done = 1.0


def _records(path: Path) -> Iterator[tuple[Record, float]]:
    """Records of a file, each with the part of the file that was read by then."""
    if path.name.endswith(".parquet"):
        return _parquet(path)
    return _csv(path) if path.name.endswith(".csv") else _json_lines(path)


def _json_lines(path: Path) -> Iterator[tuple[Record, float]]:
    size = path.stat().st_size or 1
    with path.open("rb") as raw:
        lines = gzip.GzipFile(fileobj=raw) if path.name.endswith(".gz") else raw
        number = 0
        try:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield Record(str(path), number, _object(line)), raw.tell() / size
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise RecipeError(f"{path}, line {number + 1}: cannot be decompressed ({error})") from error


def _object(line: bytes) -> dict[str, Any] | str:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return f"not UTF-8 at byte {error.start}"
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg} at column {error.colno})"
    except RecursionError:
        return "not JSON (nested too deeply)"
    return values if isinstance(values, dict) else f"an object with named fields is needed, not {values!r:.60}"


def _parquet(path: Path) -> Iterator[tuple[Record, float]]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            total, number = file.metadata.num_rows or 1, 0
            for batch in file.iter_batches(batch_size=1024, use_threads=False):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(str(path), number, values), number / total
    except (pyarrow.ArrowException, OSError) as error:
        raise RecipeError(f"{path}: cannot be read as Parquet ({error})") from error


def _csv(path: Path) -> Iterator[tuple[Record, float]]:
    csv.field_size_limit(16 * 2**20)
    size = path.stat().st_size or 1
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            for row in reader:
                record = Record(str(path), reader.line_num, _cells(row))
                yield record, min(1.0, os.lseek(file.fileno(), 0, os.SEEK_CUR) / size)
        except (csv.Error, UnicodeDecodeError) as error:
            raise RecipeError(f"{path}, after line {reader.line_num}: cannot be read as CSV ({error})") from error


def _cells(row: dict[str | Any, Any]) -> dict[str, Any] | str:
    if None in row:
        return "more cells than the header has columns; quote the cells that hold commas"
    if None in row.values():
        return "fewer cells than the header has columns"
    return {name: _cell(name, text) for name, text in row.items()}


def _cell(name: str, text: str) -> Any:
    """The cell's text, or the messages or list that it holds as JSON."""
    if not text.startswith("["):
        return text
    try:
        value = json.loads(text)
    except ValueError:
        return text
    messages = bool(value) and all(isinstance(one, dict) and one.keys() >= {"role", "content"} for one in value)
    return value if messages or name in LIST_COLUMNS else text
