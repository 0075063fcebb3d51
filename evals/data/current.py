"""Whether a data set that was built still is what its recipe makes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evals.benchmarks import BENCHMARKS
from evals.data.build import NAMES, Manifest, benchmark_item, libraries
from evals.data.filters import make_filters
from evals.data.recipe import Recipe
from evals.data.sources import RowReader
from evals.writing import file_sha256


def is_current(recipe: Recipe, folder: Path) -> bool:
    """Whether `folder` holds what `build` would write: the same recipe, the same files, nothing damaged since.

    What came from a hub is not read again: a pinned revision cannot change, and where none is pinned the pairs that
    were made once stand. Raises as `build` does where a file that the recipe names is not there.
    """
    manifest = _manifest(folder)
    return (
        manifest is not None
        and manifest["recipe"] == recipe.model_dump(mode="json")
        and manifest["libraries"] == libraries(recipe)
        and manifest["filters"] == {one.name: one.sha256 for one in make_filters(recipe.filters) if one.sha256}
        and all(
            source.hub or then["files"] == [asdict(digest) for digest in RowReader(source).digests_now()]
            for source, then in zip(recipe.sources, manifest["sources"], strict=True)
        )
        and all(
            then == benchmark_item(one.benchmark, BENCHMARKS[one.benchmark].load(Path(one.data)))
            for one, then in zip(recipe.contamination.benchmarks, manifest["benchmarks"], strict=True)
            if Path(one.data).exists()
        )
    )


def _manifest(folder: Path) -> Manifest | None:
    """What the build said; None where there was none, or where a file is not as it says."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text("utf-8"))
        for name in NAMES:
            if name in manifest["outputs"] and file_sha256(folder / name) != manifest["outputs"][name]["sha256"]:
                return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return manifest
