"""From sources to the pairs that a judge is trained on, by a recipe.

    python pipelines/data.py build RECIPE.yaml --output FOLDER [--set sources.0.path=FILE ...] [--dry-run]
    python pipelines/data.py audit FILE ... [--json] [--report PAGE]
    python pipelines/data.py questions FILE --output FILE [--kind KIND]

The folder of `build` gets train.jsonl and heldout.jsonl, as `data.train` and `data.heldout` of the other pipelines
read them, dropped.jsonl with everything that was found wanting and why, and manifest.json with sources, hashes and
counts. It is written as a whole or not at all, and the same recipe gives the same bytes.
pipelines/presets/data/example.yaml shows what a recipe may say.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml
from rich.console import Console
from rich.table import Table

from evals.data.build import Manifest, Plan
from evals.data.conventions import pairs_of
from evals.data.recipe import Recipe, load_recipe
from evals.data.sources import RowReader
from evals.pairs import RowError
from pipelines.audit import audit_command
from pipelines.errors import readable_errors
from pipelines.questions import questions_command
from pipelines.recipes import build_shown

_COMMANDS: Mapping[str, Callable[[Sequence[str]], int]] = {"audit": audit_command, "questions": questions_command}
"""Commands that read their own arguments."""

PEEK = 5
"""Rows of each source that a dry run makes pairs of."""


def main(argv: Sequence[str] | None = None) -> None:
    """Command line."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] and argv[0] in _COMMANDS:
        sys.exit(_COMMANDS[argv[0]](argv[1:]))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    add_build(commands.add_parser("build", help="make a data set by a recipe"))
    commands.add_parser("audit", help="find what is wrong with pair files, above all what gives their labels away")
    commands.add_parser("questions", help="make pairs of right and wrong responses to questions with known answers")
    arguments = parser.parse_args(argv)
    with readable_errors():
        try:
            arguments.run(arguments)
        except KeyboardInterrupt:
            sys.exit("stopped; nothing was written")


def add_build(parser: argparse.ArgumentParser) -> None:
    """The flags of `build`."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--dry-run", action="store_true", help="read recipe and first rows, print them, write nothing")
    parser.set_defaults(run=run_build)


def run_build(arguments: argparse.Namespace) -> None:
    """Make the data set, or say what would be made."""
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.dry_run:
        print(plan(recipe))
        return
    manifest = build_shown(recipe, arguments.output)
    Console(highlight=False).print(counts(manifest))
    for name, found in manifest["outputs"].items():
        print(f"{arguments.output / name}: " + ", ".join(f"{k} {v}" for k, v in found.items() if k != "sha256"))


def plan(recipe: Recipe) -> str:
    """The recipe with all its defaults, what its benchmarks hold, and what the first rows of each source become."""
    found = Plan.of(recipe)
    lines = [yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)]
    lines += [f"benchmark {one['benchmark']}: {one['pairs']} pairs" for one in found.benchmark_items]
    lines += [f"source {reader.source.name}: {_peek(reader)}" for reader in found.readers]
    return "\n".join(lines)


def _peek(reader: RowReader) -> str:
    rows, pairs = 0, 0
    for record in reader:
        rows += 1
        try:
            if isinstance(record.values, str):
                raise RowError(record.values)
            pairs += len(pairs_of(record.values, reader.source, str(record.line)))
        except RowError as error:
            return f"{record.file}, line {record.line}: {error}"
        if rows == PEEK:
            break
    return f"its first {rows} rows make {pairs} pairs"


def counts(manifest: Manifest) -> Table:
    """What became of the rows of each source; stages that nothing fell to are left out."""
    table = Table(box=None, pad_edge=False)
    table.add_column("")
    sources = manifest["sources"]
    for source in sources:
        table.add_column(source["name"], justify="right")
    for stage in sources[0]["counts"]:
        if any(source["counts"][stage] for source in sources):
            table.add_row(stage, *(str(source["counts"][stage]) for source in sources))
    return table


if __name__ == "__main__":
    main()
