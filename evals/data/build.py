"""Carry out a recipe: two passes over the pairs, with texts on disk and a few numbers of each in memory.

    first pass    rows -> pairs -> filters -> benchmarks -> spool          (one row at a time)
    in between    contradictions and duplicates, quotas, split, sides     (numbers alone)
    second pass   spool -> train.jsonl, heldout.jsonl, dropped.jsonl

Nothing depends on a clock, a random state, or the order of a set: the same recipe on the same files gives the same
bytes. dropped.jsonl has what was found wanting; pairs that a cap or weight left out are counted in the manifest alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from evals.benchmarks import BENCHMARKS
from evals.data.contamination import Benchmarks
from evals.data.conventions import pairs_of
from evals.data.duplicates import NearDuplicates, exact_duplicates
from evals.data.filters import NamedFilter, make_filters
from evals.data.output import replaced_folder
from evals.data.recipe import Recipe
from evals.data.sources import Record, RowReader
from evals.data.splits import drawn, held_out, quotas, swapped
from evals.data.spool import Dropped, Place, Spool
from evals.data.words import PairWords
from evals.errors import ReadableError
from evals.pairs import MAX_PROBLEMS, Pair, RowError

NAMES = ("train.jsonl", "heldout.jsonl", "dropped.jsonl", "manifest.json")
"""What a build writes."""

_STAGES = ("", "contradiction", "exact duplicate", "near duplicate")

Report = Callable[[str, float], None]
"""Told what is being done, and how much of it is done, from 0 to 1."""
Manifest = dict[str, Any]


class SourceError(ReadableError, ValueError):
    """Rows of a source that cannot be used; the message has file, line, item and field of each."""


class BuildError(ReadableError, ValueError):
    """A recipe that leaves nothing to train on."""


@dataclass
class Plan:
    """What a recipe needs, found and read before the first row: files, filters, benchmarks."""

    recipe: Recipe
    readers: list[RowReader]
    filters: list[NamedFilter]
    benchmarks: Benchmarks
    benchmark_items: list[dict[str, Any]]

    @staticmethod
    def of(recipe: Recipe) -> Plan:
        """Raises RecipeError, PairFileError and FileNotFoundError where something named by the recipe is not there."""
        readers = [RowReader(source) for source in recipe.sources]
        filters = make_filters(recipe.filters)
        items: list[tuple[str, Pair]] = []
        found = []
        for one in recipe.contamination.benchmarks:
            pairs = BENCHMARKS[one.benchmark].load(Path(one.data) if Path(one.data).exists() else one.data)
            items += [(one.benchmark, pair) for pair in pairs]
            found.append(benchmark_item(one.benchmark, pairs))
        settings = recipe.contamination
        return Plan(recipe, readers, filters, Benchmarks(items, settings.run, settings.overlap), found)


def build(recipe: Recipe, output: Path, report: Report = lambda stage, done: None) -> Manifest:
    """Write train, heldout, dropped and manifest to the folder `output`, as a whole or not at all.

    Raises RecipeError, SourceError, BuildError and OutputError.
    """
    plan = Plan.of(recipe)
    with replaced_folder(output, NAMES) as folder, ExitStack() as stack:
        spool = Spool(folder / "spool", recipe.seed)
        stack.callback(spool.close)
        near = NearDuplicates(recipe.duplicates.near) if recipe.duplicates.near is not None else None
        counts = [Counter[str]() for _ in plan.readers]
        for number, reader in enumerate(plan.readers):
            _read(plan, number, reader, spool, near, counts[number], report)
        decisions = _decide(recipe, spool, _repeats(recipe, spool, near, report))
        manifest = _write(plan, folder, spool, decisions, counts, report)
        if not manifest["outputs"]["train.jsonl"]["pairs"]:
            raise BuildError("nothing is left to train on: " + _summary(counts))
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return manifest


def _read(
    plan: Plan,
    number: int,
    reader: RowReader,
    spool: Spool,
    near: NearDuplicates | None,
    counts: Counter[str],
    report: Report,
) -> None:
    """The first pass over one source."""
    source = reader.source
    problems: list[str] = []
    seen: set[int] = set()
    for record in reader:
        counts["rows"] += 1
        report(f"reading {source.name}", reader.done)
        place = Place(number, record.file, record.line)
        try:
            pairs = _pairs(record, reader, seen)
        except RowError as error:
            counts["broken"] += 1
            spool.drop(Dropped(f"{source.name}/{record.line}", place, "broken", f"broken: {error}"))
            if source.on_error == "error":
                problems.append(f"{record.file}, line {record.line}: {error}")
                if len(problems) > MAX_PROBLEMS:
                    break
            continue
        counts["rows without a pair"] += not pairs
        counts["pairs"] += len(pairs)
        for pair in pairs:
            words = PairWords.of(pair)
            if (out := _rejected(plan, pair, place, words)) is not None:
                counts[out.stage] += 1
                spool.drop(out)
                continue
            spool.add(pair, place, words)
            if near is not None:
                near.add(words.shingles())
    if problems:
        shown = [*problems[:MAX_PROBLEMS], *(["... and perhaps more"] if len(problems) > MAX_PROBLEMS else [])]
        head = f"source {source.name!r} has rows that make no pair; mend them, or set 'on_error: drop' for this source:"
        raise SourceError("\n  ".join([head, *shown]))


def _pairs(record: Record, reader: RowReader, seen: set[int]) -> list[Pair]:
    if isinstance(record.values, str):
        raise RowError(record.values)
    name = str(record.line) if len(reader.files) <= 1 else f"{Path(record.file).name}:{record.line}"
    pairs = pairs_of(record.values, reader.source, name)
    for pair in pairs:
        if pair.gold is None:
            raise RowError(f"item {pair.id!r}: the pair has no gold label")
        key = int.from_bytes(hashlib.blake2b(pair.id.encode(), digest_size=7).digest(), "little")
        if key in seen:
            raise RowError(f"field 'id': {pair.id.partition('/')[2]!r} stands in an earlier row already")
        seen.add(key)
    return pairs


def _rejected(plan: Plan, pair: Pair, place: Place, words: PairWords) -> Dropped | None:
    """Why a pair is out by itself, whatever the others are; None where it is not."""
    if pair.response_a == pair.response_b:
        return Dropped(pair.id, place, "identical responses", "identical responses")
    for one in plan.filters:
        if (reason := one.reason(pair)) is not None:
            return Dropped(pair.id, place, one.name, f"filter: {one.name}", reason)
    if (evidence := plan.benchmarks.find(words)) is not None:
        return Dropped(pair.id, place, "contaminated", f"contaminated: {evidence.benchmark}", evidence.to_json())
    return None


class _Repeats(NamedTuple):
    """Of every pair: its stage in `_STAGES`, the pair that it repeats, and how similar the two are."""

    stage: npt.NDArray[np.uint8]
    of: npt.NDArray[np.int64]
    similarity: npt.NDArray[np.float64]


def _repeats(recipe: Recipe, spool: Spool, near: NearDuplicates | None, report: Report) -> _Repeats:
    stage, similarity = np.zeros(len(spool), dtype=np.uint8), np.ones(len(spool))
    of = np.arange(len(spool))
    if recipe.duplicates.exact:
        keys = spool.numbers("keys", np.uint64).reshape(-1, 2)
        repeated, contradicted, of = exact_duplicates(keys, spool.numbers("winner", np.uint8))
        stage[contradicted], stage[repeated] = _STAGES.index("contradiction"), _STAGES.index("exact duplicate")
    if near is not None:
        for number, earlier, jaccard in near.find(stage == 0, lambda i: PairWords.of(spool.pair(i)[0]).shingles()):
            stage[number], of[number], similarity[number] = _STAGES.index("near duplicate"), earlier, jaccard
            report("comparing near duplicates", number / len(spool))
    return _Repeats(stage, of, similarity)


@dataclass(frozen=True)
class _Decisions:
    """What becomes of every pair: a mask for each thing that is decided."""

    repeats: _Repeats
    used: npt.NDArray[np.bool_]
    heldout: npt.NDArray[np.bool_]
    swapped: npt.NDArray[np.bool_]


def _decide(recipe: Recipe, spool: Spool, repeats: _Repeats) -> _Decisions:
    alive = repeats.stage == 0
    source, draws = spool.numbers("source", np.uint16), spool.numbers("draws", np.uint64)
    available = np.bincount(source[alive], minlength=len(recipe.sources)).tolist()
    used = drawn(draws, source, alive, quotas(recipe.sources, available))
    held = held_out(
        spool.numbers("prompts", np.uint64),
        spool.numbers("stratum", np.uint32),
        used,
        recipe.heldout.share,
        recipe.seed,
    )
    sides = np.zeros(len(spool), dtype=bool)
    if recipe.order == "balanced":
        group = source.astype(np.int64) * 2 + held
        sides = swapped(draws, group, spool.numbers("gold", np.uint8), used)
    return _Decisions(repeats, used, held, sides)


def _write(
    plan: Plan,
    folder: Path,
    spool: Spool,
    decisions: _Decisions,
    counts: Sequence[Counter[str]],
    report: Report,
) -> Manifest:
    """The second pass."""
    names = [source.name for source in plan.recipe.sources]
    outputs = {name: _Output(folder / name) for name in NAMES[:3]}
    repeats = decisions.repeats
    number = -1
    for entry in spool:
        if isinstance(entry, Dropped):
            outputs["dropped.jsonl"].line(entry.to_json(names[entry.place.source]))
            continue
        number += 1
        pair, place = entry
        report("writing", number / len(spool))
        if stage := _STAGES[repeats.stage[number]]:
            evidence: dict[str, Any] = {"pair": spool.pair(int(repeats.of[number]))[0].id}
            if stage == "near duplicate":
                evidence["jaccard"] = round(float(repeats.similarity[number]), 4)
            out = Dropped(pair.id, place, stage, stage, evidence)
            outputs["dropped.jsonl"].line(out.to_json(names[place.source]))
            counts[place.source][stage] += 1
        elif not decisions.used[number]:
            counts[place.source]["not drawn"] += 1
        else:
            side = "heldout" if decisions.heldout[number] else "train"
            for shown in _shown(pair, plan.recipe.order, bool(decisions.swapped[number])):
                outputs[f"{side}.jsonl"].pair(shown)
                counts[place.source][side] += 1
    report("writing", 1.0)
    return _manifest(plan, counts, {name: output.close() for name, output in outputs.items()})


def _shown(pair: Pair, order: str, swap: bool) -> Iterator[Pair]:
    """The pair as it is written: on the side that was drawn, or on both."""
    if order == "both":
        yield replace(pair, id=f"{pair.id}/ab")
        yield replace(_turned(pair), id=f"{pair.id}/ba")
    else:
        yield _turned(pair) if swap else pair


def _turned(pair: Pair) -> Pair:
    gold = {"a": "b", "b": "a"}.get(str(pair.gold), pair.gold)
    return replace(pair, response_a=pair.response_b, response_b=pair.response_a, gold=gold)  # type: ignore[arg-type]


def _manifest(plan: Plan, counts: Sequence[Counter[str]], outputs: Manifest) -> Manifest:
    recipe = plan.recipe
    stages = ["rows", "broken", "rows without a pair", "pairs", "identical responses"]
    stages += [*(one.name for one in plan.filters), "contaminated", "contradiction", "exact duplicate"]
    stages += ["near duplicate", "not drawn", "heldout", "train"]
    return {
        "recipe": recipe.model_dump(mode="json"),
        "libraries": libraries(recipe),
        "sources": [
            {
                "name": reader.source.name,
                "files": [asdict(digest) for digest in reader.digests],
                "counts": {stage: counts[number][stage] for stage in stages},
            }
            for number, reader in enumerate(plan.readers)
        ],
        "filters": {one.name: one.sha256 for one in plan.filters if one.sha256},
        "benchmarks": plan.benchmark_items,
        "outputs": outputs,
    }


def libraries(recipe: Recipe) -> dict[str, str]:
    """Versions of what decides between pairs and is not ours."""
    languages = any(one.kind == "language" for one in recipe.filters)
    return {name: version(name) for name in ["rensa", *(["py3langid"] if languages else [])]}


def benchmark_item(name: str, pairs: Sequence[Pair]) -> dict[str, Any]:
    """What a manifest says about a benchmark that was held against the pairs."""
    texts = json.dumps([(p.id, p.subset, p.messages, p.response_a, p.response_b) for p in pairs])
    return {"benchmark": name, "pairs": len(pairs), "sha256": _sha256(texts.encode())}


class _Output:
    """A file that is being written, with what the manifest says about it."""

    def __init__(self, path: Path):
        self._file = path.open("wb")
        self._hash = hashlib.sha256()
        self._lines = 0
        self._gold: Counter[str] = Counter()
        self._longest = 0

    def line(self, text: str) -> None:
        raw = text.encode() + b"\n"
        self._file.write(raw)
        self._hash.update(raw)
        self._lines += 1

    def pair(self, pair: Pair) -> None:
        names = ("id", "messages", "response_a", "response_b", "gold", "source", "subset")
        self.line(json.dumps({name: getattr(pair, name) for name in names}, ensure_ascii=False))
        self._gold[str(pair.gold)] += 1
        if pair.gold != "tie":
            a, b = len(pair.response_a), len(pair.response_b)
            self._longest += (a > b) if pair.gold == "a" else (b > a)

    def close(self) -> Manifest:
        self._file.close()
        found: Manifest = {"sha256": self._hash.hexdigest()}
        if not self._gold:
            return found | {("pairs" if self._lines == 0 else "lines"): self._lines}
        decided = self._gold["a"] + self._gold["b"]
        longest = round(self._longest / decided, 4) if decided else None
        gold = {name: self._gold[name] for name in ("a", "b", "tie")}
        return found | {"pairs": self._lines, "gold": gold, "gold_is_longest": longest}


def _summary(counts: Sequence[Counter[str]]) -> str:
    total = sum(counts, Counter[str]())
    return ", ".join(f"{count} {stage}" for stage, count in total.items() if count) or "the sources have no rows"


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
