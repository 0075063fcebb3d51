"""A run's own data set: built by its recipe once, into the run's folder, and found there by every later command."""

from __future__ import annotations

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn

from evals.data.build import Manifest, build
from evals.data.current import is_current
from evals.data.recipe import Recipe, load_recipe

REFRESH = 0.1
"""Seconds between two looks at the progress."""

_aside = Console(stderr=True, highlight=False, soft_wrap=True)
"""For progress: standard output holds results alone."""


def is_recipe(path: Path) -> bool:
    """Whether a path names a recipe to make pairs by, and not the pairs."""
    return path.suffix in (".yaml", ".yml")


def recipe_pairs(path: Path, folder: Path) -> tuple[Path, Path | None]:
    """The training and held-out pairs of a recipe, in `folder`; None for the latter where the recipe holds none out.

    What stands there is taken as it is where recipe and sources are unchanged; else it is built anew, as a whole or
    not at all. Raises as `evals.data.build.build` does.
    """
    recipe = load_recipe(path)
    if is_current(recipe, folder):
        _aside.print(f"data           {folder} (as before)")
    else:
        build_shown(recipe, folder)
    heldout = folder / "heldout.jsonl"
    return folder / "train.jsonl", heldout if heldout.stat().st_size else None


def build_shown(recipe: Recipe, folder: Path) -> Manifest:
    """`build`, with its progress on standard error."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=_aside) as progress:
        return build(recipe, folder, _Bars(progress))


class _Bars:
    """One bar for each thing that is done, looked at now and then: there are millions of steps."""

    def __init__(self, progress: Progress):
        self.progress = progress
        self.bars: dict[str, TaskID] = {}
        self.next = 0.0

    def __call__(self, stage: str, done: float) -> None:
        """Show how much of a stage is done, from 0 to 1."""
        if stage not in self.bars:
            for bar in self.bars.values():
                self.progress.update(bar, completed=1.0)
            self.bars[stage] = self.progress.add_task(stage, total=1.0)
        elif done < 1 and time.monotonic() < self.next:
            return
        self.next = time.monotonic() + REFRESH
        self.progress.update(self.bars[stage], completed=done)
