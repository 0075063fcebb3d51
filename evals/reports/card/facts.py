"""How a judge was trained and on what, from the files of its run, in words that name no place on the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub.utils import HFValidationError, validate_repo_id

from evals.reports.card.results import number
from evals.writing import file_sha256

_FILES = (".json", ".jsonl", ".parquet", ".csv", ".yaml", ".yml", ".gz")
_FOLDERS = re.compile(r"(?<![^\s'\"=(,\[])(?:file://)?(?:~?/|[A-Za-z]:[/\\])(?:[^\s/\\'\"]+[/\\])+")
"""The folders of an absolute path inside a text."""

Json = dict[str, Any]
Fact = tuple[str, str]
"""A setting or a count in words, and its value."""


def look_up(values: Any, key: str) -> Any:
    """`look_up(config, "grpo.loss.kl_coef")`: a value inside mappings; None where it is not there."""
    for name in key.split("."):
        values = values.get(name) if isinstance(values, Mapping) else None
    return values


def without_places(value: Any) -> Any:
    """JSON or YAML values in which absolute paths, and those that lead upwards, are reduced to their last name."""
    if isinstance(value, Mapping):
        return {without_places(key): without_places(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_places(inner) for inner in value]
    if not isinstance(value, str):
        return value
    path = value.removeprefix("file://")
    if path.startswith(("/", "~", "../")) or PureWindowsPath(path).drive:
        return base_name(path)
    return _FOLDERS.sub("", value)


def base_name(path: str) -> str:
    """The last name of a path of either kind."""
    return PurePosixPath(path.replace("\\", "/")).name or path


def hub_name(name: object) -> str | None:
    """The hub's name in `owner/name` or `owner/name@revision`; None for a file or a folder of this machine."""
    bare = name.partition("@")[0] if isinstance(name, str) else ""
    if bare.count("/") != 1 or bare.endswith(_FILES) or Path(bare).exists():
        return None
    try:
        validate_repo_id(bare)
    except HFValidationError:
        return None
    return bare


def started_from(config: Mapping[str, Any]) -> str:
    """The model as the run's configuration names it; empty for the embedded one."""
    return str(config.get("model") or config.get("base") or "")


def is_synthetic(config: Mapping[str, Any], summary: Mapping[str, Any]) -> bool:
    """Whether the judge was trained on the embedded task."""
    trained_on = look_up(config, "data.train") if config else look_up(summary, "data.source") != "synthetic"
    return not trained_on


def source_name(config: Mapping[str, Any], summary: Mapping[str, Any]) -> str | None:
    """What the run's pairs are called."""
    name = look_up(summary, "data.source") or look_up(config, "data.train")
    return base_name(str(name)) if name else "synthetic" if config else None


def recipe(config: Mapping[str, Any], summary: Mapping[str, Any]) -> list[Fact]:
    """What decides the result of a training run; empty without its configuration."""
    if not config:
        return []

    def get(key: str) -> Any:
        return look_up(config, key)

    start = started_from(config)
    distilled = not get("model") and bool(get("distill"))
    epochs, lora = get("distill.epochs"), get("policy.lora")
    length = f"{epochs} times through the traces" if epochs else f"{get('distill.steps')} steps"
    own = (
        "the embedded oracle's" if is_synthetic(config, summary) else "made from the labels; they teach the form alone"
    )
    traces = str(get("distill.traces") or "")
    facts = {
        "start": (start if hub_name(start) else base_name(start)) or "a small Qwen2 made on the spot",
        "distillation": distilled
        and f"{length}, batches of {get('distill.batch')}, learning rate {get('distill.optimizer.lr')}",
        "traces": distilled and (hub_name(traces) or base_name(traces) or own),
        "GRPO steps": get("steps"),
        "groups a step": get("grpo.groups"),
        "judgements a group": get("rollout.samples"),
        "optimizer steps a batch": get("grpo.minibatches"),
        "learning rate": get("grpo.optimizer.lr"),
        "advantage": {"std": "(r - mean) / std", "mean": "r - mean"}.get(str(get("grpo.loss.advantage"))),
        "clipping": _joined(get("grpo.loss.clip_low"), get("grpo.loss.clip_high")),
        "KL to the start": get("grpo.loss.kl_coef") and f"{get('grpo.loss.kl_coef')} ({get('grpo.loss.kl_estimator')})",
        "loss": (get("grpo.loss.aggregation") or "").replace("_", " ") or None,
        "reward": _reward(get("verifier.reward")),
        "orders": None
        if get("data.both_orders") is None
        else "both in one batch"
        if get("data.both_orders")
        else "one",
        "LoRA": lora and f"rank {lora.get('rank')}, alpha {lora.get('alpha')}, {lora.get('targets')}",
        "temperature of training": get("rollout.temperature"),
        "longest judgement": _tokens(get("rollout.max_new_tokens")),
        "longest prompt and judgement": _tokens(get("rollout.max_model_len")),
        "precision": get("policy.dtype"),
        "seed": str(get("seed")),
        "hours": _hours(look_up(summary, "seconds.total")),
        "versions": ", ".join(f"{name} {version}" for name, version in (summary.get("versions") or {}).items()),
    }
    return [(name, str(without_places(value))) for name, value in facts.items() if value]


def data_facts(config: Mapping[str, Any], summary: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[Fact]:
    """What the judge was trained and measured on: counts, and sources and hash where a recipe made the pairs."""
    counted = look_up(summary, "data")
    facts: list[tuple[str, Any]] = [("pairs", source_name(config, summary))]
    if isinstance(counted, Mapping):
        endless = "without end, made by rule" if is_synthetic(config, summary) else None
        facts.append(("for training", counted.get("train_pairs") or endless))
        facts.append(("held out", counted.get("heldout_pairs")))
        facts.append(("left out, as the prompt did not fit", counted.get("too_long")))
    for source in look_up(manifest, "recipe.sources") or []:
        place = source.get("hub") or base_name(str(source.get("path", "")))
        revision = source.get("revision")
        facts.append(("source", f"{place} at {revision}" if revision else place))
    for name, output in (manifest.get("outputs") or {}).items():
        if "gold" in output:
            facts.append((f"sha256 of {base_name(name)}", output.get("sha256")))
    against = [one.get("benchmark") for one in manifest.get("benchmarks") or []]
    facts.append(("held against benchmarks", ", ".join(map(str, against))))
    return [(name, str(value)) for name, value in facts if value not in (None, "")]


def manifest_of(run: Path, config: Mapping[str, Any]) -> Path | None:
    """The manifest of the run's data: in its own `data/`, or beside the file that it trained on and truly about it."""
    own = run / "data" / "manifest.json"
    if own.exists():
        return own
    train = Path(str(look_up(config, "data.train") or ""))
    beside = train.with_name("manifest.json") if train.name else None
    return beside if beside and beside.exists() and train.is_file() and _names(beside, train) else None


def _names(manifest: Path, file: Path) -> bool:
    return file_sha256(file) in manifest.read_text(encoding="utf-8")


def languages(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The languages to which a recipe's filter restricts the prompts."""
    for one in look_up(manifest, "recipe.filters") or []:
        if one.get("kind") == "language":
            yield from one.get("keep") or []


def data_sets(config: Mapping[str, Any], manifest: Mapping[str, Any]) -> list[str]:
    """The hub's names of all data sets that the judge was made with."""
    names = [source.get("hub") for source in look_up(manifest, "recipe.sources") or []]
    if not config.get("model"):
        names.append(look_up(config, "distill.traces"))
    return list(dict.fromkeys(name for name in map(hub_name, names) if name))


def _joined(low: object, high: object) -> str | None:
    return None if low is None else str(low) if low == high else f"{low} below, {high} above"


def _tokens(count: object) -> str | None:
    return None if count is None else f"{count} tokens"


def _hours(seconds: object) -> str | None:
    value = number(seconds)
    return None if value is None else f"{value / 3600:.2g}"


def _reward(reward: object) -> str | None:
    """The reward in words: a name, or its parts and their weights."""
    if not isinstance(reward, Mapping):
        return None if reward is None else str(reward)
    weights = {name: part.get("weight") for name, part in reward.items() if isinstance(part, Mapping)}
    return ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight) or None
