"""What makes a judge's folder ready for the hub: a model card, pictures, and the records of its training.

Everything is taken from the files of the run, so that it can be written again at any time and comes out the same. What
is not there is left out. No path of the machine gets in, and names that a user or a data set chose are escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from markupsafe import Markup

from evals.errors import ReadableError
from evals.pairs import Message, Pair
from evals.prompts import FORMATS, PromptFormat, prompt_format
from evals.reports.card import facts
from evals.reports.card.plots import draw_results, draw_training
from evals.reports.card.prompt import PARTS, prompt_source, verdict_source
from evals.reports.card.results import MEASURES, Results
from evals.reports.page import plain
from evals.reports.training import headline, read_metrics
from evals.writing import write_whole

TAGS = ("gavel", "reward-model", "generative-reward-model", "llm-as-a-judge", "grpo")
_KEPT = ("license", "license_name", "license_link", "language")
"""What only the owner of a judge can say: kept from a card that is there already."""
_EXAMPLE = dict(zip(PARTS, ("Compute 3+4-2.", "5", "6"), strict=True))
_STEERING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "epsilon_cutoff",
    "eta_cutoff",
)
"""Keys of generation_config.json that steer sampling; the judge was evaluated without them."""

Json = dict[str, Any]


class CardError(ReadableError, ValueError):
    """A file that the card is made from cannot be read; the message names it."""


def write_card(judge: Path, run: Path) -> None:
    """Add README.md, plots/, training/ and the defaults of generation to the judge's folder, from its run's files.

    Of the run are read config.yaml, summary.json, metrics.jsonl, eval/ and the manifest of its data, each where it is
    there. Raises CardError where one of them, or of the judge's own files, is broken, UnknownFormatError where the
    judge's prompt format is not there any more, and JudgementFileError as `read_judgements` does.
    """
    config, summary = _yaml(run / "config.yaml"), _json(run / "summary.json")
    gavel = _with_own_template(judge, _json(judge / "gavel.json"))
    where = facts.manifest_of(run, config)
    manifest = _json(where) if where else {}
    metrics = _metrics(run)
    results = Results(run, summary)
    write_generation_config(judge, gavel)
    _name_adapters_base(judge / "adapter" / "adapter_config.json")
    copies = _copy_records(judge / "training", run, config, summary, manifest)
    pictures = {
        "training": draw_training(judge / "plots" / "training.png", metrics),
        "results": draw_results(judge / "plots" / "results.png", results.bars(), "% of held-out judgements or pairs"),
    }
    start = facts.started_from(config)
    body = _template().render(
        name=run.resolve().name,
        base=facts.hub_name(start) or facts.base_name(start),
        embedded=bool(config) and not start,
        synthetic=facts.is_synthetic(config, summary),
        headline=headline(results.before, results.after) if results.accuracies else None,
        pictures=pictures,
        source=facts.source_name(config, summary),
        recipe=facts.recipe(config, summary),
        copies=copies,
        adapter=(judge / "adapter").is_dir(),
        data=facts.data_facts(config, summary, manifest),
        too_long=facts.look_up(summary, "data.too_long"),
        **results.shown(),
        **_prompting(judge, gavel, config),
    )
    metadata = _metadata(judge, run, config, summary, manifest, results).to_yaml()
    write_whole(judge / "README.md", f"---\n{metadata}\n---\n\n" + body.strip() + "\n")


def write_generation_config(judge: Path, gavel: Mapping[str, Any]) -> None:
    """Fill generation_config.json with how the judge was evaluated; what else the model needs in it stays.

    Generation is greedy, as long as the judge's longest judgement, and ends at every token that the model's files name
    and at the tokenizer's, as Gavel's engines do.
    """
    path = judge / "generation_config.json"
    given = {key: value for key, value in _json(path).items() if key not in (*_STEERING, "_from_model_config")}
    named = [given.get("eos_token_id"), _json(judge / "config.json").get("eos_token_id"), _tokenizers_end(judge)]
    ends = dict.fromkeys(one for ids in named for one in (ids if isinstance(ids, list) else [ids]) if one is not None)
    new = given | {"do_sample": False}
    if ends:
        new["eos_token_id"] = [*ends] if len(ends) > 1 else next(iter(ends))
    if "max_new_tokens" in gavel:
        new["max_new_tokens"] = gavel["max_new_tokens"]
    write_whole(path, json.dumps(new, indent=2) + "\n")


def _name_adapters_base(path: Path) -> None:
    """What an adapter was trained on by its name, where peft wrote the folder of this machine."""
    if given := _json(path):
        write_whole(path, json.dumps(facts.without_places(given), indent=2) + "\n")


def _with_own_template(judge: Path, gavel: Json) -> Json:
    """gavel.json with a prompt format that goes where the judge goes: a template file is copied into its folder."""
    name = str(gavel.get("format", ""))
    template = judge / name  # as it is, where the name is a whole path
    if name in FORMATS or not template.is_file() or template.parent == judge:
        return gavel
    write_whole(judge / template.name, template.read_text(encoding="utf-8"))
    own = gavel | {"format": template.name}
    write_whole(judge / "gavel.json", json.dumps(own, indent=2) + "\n")
    return own


def _tokenizers_end(judge: Path) -> int | None:
    """Id of the tokenizer's end-of-sequence token."""
    token = _json(judge / "tokenizer_config.json").get("eos_token")
    text = token.get("content") if isinstance(token, dict) else token
    added = _json(judge / "tokenizer.json").get("added_tokens") or []
    return next((one["id"] for one in added if one["content"] == text), None)


def _copy_records(
    folder: Path, run: Path, config: Mapping[str, Any], summary: Mapping[str, Any], manifest: Mapping[str, Any]
) -> list[str]:
    """Copy what the run recorded, without the machine's paths; returns the names below the judge's folder."""
    texts = {
        "config.yaml": config and yaml.safe_dump(facts.without_places(config), sort_keys=False, allow_unicode=True),
        "summary.json": summary and json.dumps(facts.without_places(summary), indent=2) + "\n",
        "metrics.jsonl": (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").read_text(encoding="utf-8"),
        "manifest.json": manifest and json.dumps(facts.without_places(manifest), indent=2) + "\n",
    }
    return [f"{folder.name}/{write_whole(folder / name, text).name}" for name, text in texts.items() if text]


def _metadata(
    judge: Path,
    run: Path,
    config: Mapping[str, Any],
    summary: Mapping[str, Any],
    manifest: Mapping[str, Any],
    results: Results,
) -> ModelCardData:
    """The card's YAML, as the hub's own library writes it."""
    source = facts.source_name(config, summary) or "held-out pairs"
    measured = [
        EvalResult(
            task_type="text-generation",
            task_name="Pairwise judging",
            dataset_type=re.sub(r"[^\w.-]+", "-", source).strip("-.") or "pairs",
            dataset_name=f"held-out pairs of {plain(source)}",
            dataset_split="heldout",
            metric_type="accuracy",
            metric_name=MEASURES[name],
            metric_value=value,
        )
        for name, value in results.accuracies.items()
    ]
    languages = ["en"] if facts.is_synthetic(config, summary) else sorted({*facts.languages(manifest)})
    values: Json = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": facts.hub_name(facts.started_from(config)),
        "datasets": facts.data_sets(config, manifest) or None,
        "language": languages or None,
        "tags": [*TAGS, *(["lora"] if (judge / "adapter").is_dir() else [])],
    }
    values |= _owners_words(judge / "README.md")
    if measured:
        values |= {"model_name": plain(run.resolve().name), "eval_results": measured}
    return ModelCardData(**values)


def _owners_words(card: Path) -> Json:
    if not card.exists():
        return {}
    try:
        known = ModelCard(card.read_text(encoding="utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, yaml.YAMLError) as error:
        raise CardError(f"{card}: its metadata is not YAML ({error}); mend or remove it and write again") from error
    return {name: known[name] for name in _KEPT if known.get(name)}


def _prompting(judge: Path, gavel: Mapping[str, Any], config: Mapping[str, Any]) -> Json:
    """How to ask the judge; nothing where neither its own file nor the run's says its prompt format."""
    name = gavel.get("format") or facts.look_up(config, "data.format")
    if not name:
        return {}
    format_ = prompt_format(name if name in FORMATS else judge / name)
    source = prompt_source(format_)
    arguments = ", ".join(f"{part}={_EXAMPLE[part]!r}" for part in PARTS if f"{{{part}}}" in source)
    tokens, length = gavel.get("max_new_tokens"), gavel.get("max_model_len")
    return {
        "format": format_.name,
        "messages_source": source,
        "conversation": _conversation(format_),
        "verdict_source": verdict_source(format_),
        "call": f"messages({arguments})",
        "max_new_tokens": f", max_new_tokens={tokens}" if tokens else "",
        "max_tokens": f", max_tokens={tokens}" if tokens else "",
        "max_model_len": f", max_model_len={length}" if length else "",
    }


def _conversation(format_: PromptFormat) -> list[Message]:
    """The messages for a conversation of three turns, with names for what each holds."""
    turns = [("user", "first question"), ("assistant", "first answer"), ("user", "second question")]
    asked = tuple(Message(role=role, content=f"{{{what}}}") for role, what in turns)
    rendered = format_.render(Pair("", asked, "{response_a}", "{response_b}", None), "ab")
    return [message for message in rendered if message["role"] != "system"]


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        finalize=_escaped,
        undefined=jinja2.ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"code": _code, "cell": _cell, "fenced": _fenced, "raw": Markup}
    return environment.get_template("card.md.j2")


def _escaped(value: object) -> str:
    """A value on one line in which nothing is Markdown or HTML, save what is Markup."""
    return value if isinstance(value, Markup) else re.sub(r"([\\`*_{}\[\]<>#|~&$!@:])", r"\\\1", plain(str(value)))


def _code(value: object) -> Markup:
    """A name or a value as code on one line."""
    text = plain(str(value))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return Markup(f"{fence}{space}{text}{space}{fence}")


def _cell(value: object) -> Markup:
    """The same inside a table, where a bar would end the cell."""
    return Markup(_code(value).replace("|", r"\|"))


def _fenced(text: str, language: str) -> Markup:
    """A block of code, whatever it holds."""
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=2))
    fence = fence if len(fence) > 2 else "```"
    return Markup(f"{fence}{language}\n{text.rstrip()}\n{fence}")


def _yaml(path: Path) -> Json:
    return _mapping(path, yaml.safe_load)


def _json(path: Path) -> Json:
    return _mapping(path, _loads)


def _loads(text: str) -> Any:
    """JSON, with None for NaN and the infinities, which Python writes where there is no value."""
    return json.loads(text, parse_constant=lambda name: None)


def _mapping(path: Path, read: Any) -> Json:
    """The values of a file; empty where there is none."""
    try:
        values = read(path.read_text(encoding="utf-8")) if path.exists() else {}
    except (ValueError, yaml.YAMLError) as error:
        raise CardError(f"{path}: cannot be read ({error}); mend or remove it and write the card again") from error
    if not isinstance(values, dict):
        raise CardError(f"{path}: named fields are needed, not {values!r:.60}; mend or remove it")
    return values


def _metrics(run: Path) -> list[Json]:
    """The run's steps; none where they were not recorded."""
    try:
        return read_metrics(run) if (run / "metrics.jsonl").exists() else []
    except ValueError as error:
        raise CardError(str(error)) from error
