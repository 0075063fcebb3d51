"""A served judge that follows its training: newer checkpoints are swapped in as they appear."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from actors.card import CardError, JudgeCard
from actors.serving.swap import SwapError, checked_checkpoint

Mark = tuple[tuple[str, int, int], ...]
"""Name, size and time of every file in a folder: where it is the same, so is the checkpoint."""


class Follower:
    """Looks for judges with a higher version in a folder and below it, and puts the newest in place of what is served.

    A folder that changed since the last look may still be being written, and waits for the next. A judge that cannot
    be served is refused before any replica hears of it, so that one that starts later does not either.
    """

    def __init__(
        self,
        folder: Path,
        served: Path,
        card: JudgeCard,
        swap: Callable[[Path, int], str | None],
        say: Callable[[str], None],
    ):
        """`served` is the judge that was started, `card` its card. `swap` returns why it failed, where it did."""
        self._folder = folder
        self._served = served
        self._card = card
        self._swap = swap
        self._say = say
        self._version = card.version
        self._seen: dict[Path, Mark] = {}
        self._refused: dict[Path, Mark] = {}

    def look(self) -> None:
        """Look once. What is refused is said once, and looked at again when it has changed."""
        found = dict(self._judges())
        newer = []
        for folder, mark in found.items():
            if self._seen.get(folder) == mark != self._refused.get(folder):
                try:
                    card = JudgeCard.load(folder)
                except CardError as error:
                    self._refuse(folder, mark, str(error))
                    continue
                if card is not None and card.version > self._version:
                    newer.append((card.version, folder))
        self._seen = found
        for version, folder in sorted(newer, reverse=True):
            problem = self._problem(folder, version)
            if problem is None:
                self._version = version
                self._say(f"serving version {version} from {folder}")
                return
            self._refuse(folder, found[folder], problem)

    def _problem(self, folder: Path, version: int) -> str | None:
        try:
            checked_checkpoint(folder, self._served, self._card)
        except SwapError as error:
            return str(error)
        return self._swap(folder, version)

    def _refuse(self, folder: Path, mark: Mark, problem: str) -> None:
        self._refused[folder] = mark
        self._say(f"version {self._version} stays: {problem}")

    def _judges(self) -> Iterator[tuple[Path, Mark]]:
        """Every folder with a card, but hidden ones, which are drafts."""
        for path in self._folder.rglob("gavel.json"):
            folder = path.parent
            if not any(part.startswith(".") for part in folder.relative_to(self._folder).parts):
                try:
                    files = ((entry, entry.stat()) for entry in sorted(folder.iterdir()) if entry.is_file())
                    yield folder, tuple((entry.name, stat.st_size, stat.st_mtime_ns) for entry, stat in files)
                except FileNotFoundError:
                    continue  # removed or renamed meanwhile; the next look sees what is there then
