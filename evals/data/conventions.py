"""Rows in the field's conventions -> canonical pairs.

trl             chosen / rejected, with `prompt` or with the prompt as their common beginning; text or messages
pairs           two named responses and a label, as `evals.pairs.load_pairs` reads them
rm_r1           context_messages (RM-R1's rendered judge prompt) and winner (model_a or model_b)
verl            data_source, prompt (such a judge prompt) and reward_model.ground_truth (model_a or model_b)
scored          prompt, responses, scores (a number each, higher is better)
ranked          prompt, responses, best first
humanevalpack   instruction, declaration, canonical_solution, buggy_solution
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations, pairwise
from typing import Any

from evals.data.judge_prompts import read_judge_prompt
from evals.data.recipe import Pairing, Source
from evals.pairs import Message, Pair, RowError, gold_by_lot, read_pair

_PROMPTS = ("messages", "context_messages", "prompt", "question", "instruction", "input")
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant): ?")
_SIDES = {"model_a": "a", "model_b": "b"}


def pairs_of(row: dict[str, Any], source: Source, name: str) -> list[Pair]:
    """The pairs of a row; `name` names one without an `id`. A row of equal scores makes none.

    Every pair bears the source's name, and as subset the row's own `subset`, else its own `source`. Raises RowError.
    """
    row = {"id": name, **{key: value for key, value in row.items() if value is not None}}
    format_ = _convention(row) if source.format == "auto" else source.format
    subset = str(row.get("subset") or row.get("source") or "")
    for field, value in (("id", str(row["id"])), ("task_id", str(row.get("task_id"))), ("subset", subset)):
        if value != value.encode("utf-8", "ignore").decode():
            raise RowError(f"item {row['id']!r}: field {field!r} holds half a character")
    made = _READERS[format_](row, source)
    return [
        Pair(
            id=f"{source.name}/{pair.id}",
            messages=pair.messages,
            response_a=pair.response_a,
            response_b=pair.response_b,
            gold=pair.gold,
            source=source.name,
            subset=subset,
        )
        for pair in made
    ]


def _convention(row: Mapping[str, Any]) -> str:
    """The convention that a row's columns speak of; what is none of the others is left to `load_pairs`' rules."""
    if "canonical_solution" in row and "buggy_solution" in row:
        return "humanevalpack"
    if "chosen" in row or "rejected" in row:
        return "trl"
    if "data_source" in row and "reward_model" in row:
        return "verl"
    if "responses" in row:
        if "scores" in row:
            return "scored"
        raise RowError(
            f"item {row['id']!r}: field 'scores' is missing beside 'responses'; where the responses stand in order, "
            "best first, set 'format: ranked' for this source"
        )
    if "context_messages" in row and "winner" in row and not any(key.startswith("response_") for key in row):
        return "rm_r1"
    return "pairs"


def _pairs(row: dict[str, Any], source: Source) -> list[Pair]:
    return [read_pair(row, source.name, 0)]


def _trl(row: dict[str, Any], source: Source) -> list[Pair]:
    """Chosen and rejected become response_a and response_b by the id's hash, as in `load_pairs`."""
    for name in ("chosen", "rejected"):
        if name not in row:
            raise RowError(f"item {row['id']!r}: field {name!r} is missing")
    prompt: object
    chosen, rejected = row["chosen"], row["rejected"]
    if isinstance(chosen, list) and isinstance(rejected, list):
        prompt, chosen, rejected = _conversational(row)
    elif isinstance(chosen, str) and isinstance(rejected, str):
        prompt = next((row[name] for name in _PROMPTS if name in row), None)
        if prompt is None:
            prompt, chosen, rejected = _implicit(row["id"], chosen, rejected)
    else:
        raise RowError(f"item {row['id']!r}: fields 'chosen' and 'rejected' must both be text or both be messages")
    gold = gold_by_lot(str(row["id"]))
    return [_made(row["id"], prompt, *((chosen, rejected) if gold == "a" else (rejected, chosen)), gold)]


def _conversational(row: Mapping[str, Any]) -> tuple[list[Message], str, str]:
    """Prompt and responses of two message lists: what they begin with in common is prompt."""
    id_ = row["id"]
    chosen, rejected = _messages(id_, "chosen", row["chosen"]), _messages(id_, "rejected", row["rejected"])
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if messages[-1]["role"] != "assistant":
            raise RowError(f"item {id_!r}: field {name!r} must end with a message of the assistant")
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if len(chosen) - shared != 1 or len(rejected) - shared != 1:
        raise RowError(
            f"item {id_!r}: fields 'chosen' and 'rejected' part before their last message; a pair shares its "
            "conversation and differs in one response"
        )
    prompt = chosen[:shared]
    named = next((name for name in _PROMPTS if name in row), None)
    if named is not None:
        given = row[named]
        explicit = _messages(id_, named, [{"role": "user", "content": given}] if isinstance(given, str) else given)
        if not prompt:
            prompt = explicit
        elif prompt[-len(explicit) :] != explicit:
            raise RowError(f"item {id_!r}: 'chosen' and 'rejected' begin with messages that are not the {named!r}")
    if not prompt:
        raise RowError(f"item {id_!r}: field 'prompt' is missing, and 'chosen' and 'rejected' begin with no message")
    return prompt, chosen[-1]["content"], rejected[-1]["content"]


def _messages(id_: object, name: str, value: object) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RowError(f"item {id_!r}: field {name!r} must be text or a list of messages")
    for message in value:
        if not isinstance(message, dict) or not all(isinstance(message.get(key), str) for key in ("role", "content")):
            raise RowError(f"item {id_!r}: field {name!r}: a message needs 'role' and 'content' as text")
    return [Message(role=message["role"], content=message["content"]) for message in value]


def _implicit(id_: object, chosen: str, rejected: str) -> tuple[list[Message] | str, str, str]:
    """Prompt and responses of two texts: the turns of a `Human:`/`Assistant:` transcript, or the shared beginning."""
    if _TURN.match(chosen) and _TURN.match(rejected):
        return _conversational({"id": id_, "chosen": _transcript(chosen), "rejected": _transcript(rejected)})
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    while shared and not (chosen[shared - 1].isspace()):  # never inside a word
        shared -= 1
    prompt = chosen[:shared].rstrip()
    if not prompt:
        raise RowError(f"item {id_!r}: field 'prompt' is missing, and 'chosen' and 'rejected' share no beginning")
    return prompt, chosen[shared:], rejected[shared:]


def _transcript(text: str) -> list[Message]:
    parts = _TURN.split(text)[1:]
    roles = {"Human": "user", "Assistant": "assistant"}
    return [Message(role=roles[who], content=said.strip()) for who, said in zip(parts[::2], parts[1::2], strict=True)]


def _rm_r1(row: dict[str, Any], source: Source) -> list[Pair]:
    return [_judged(row, "context_messages", row.get("context_messages"), "winner", row.get("winner"))]


def _verl(row: dict[str, Any], source: Source) -> list[Pair]:
    model = row.get("reward_model")
    truth = model.get("ground_truth") if isinstance(model, dict) else None
    return [_judged(row, "prompt", row.get("prompt"), "reward_model.ground_truth", truth)]


def _judged(row: Mapping[str, Any], name: str, prompt: object, label: str, winner: object) -> Pair:
    """The pair inside a rendered judge prompt."""
    if not isinstance(winner, str) or winner not in _SIDES:
        raise RowError(f"item {row['id']!r}: field {label!r} must be model_a or model_b, not {winner!r:.60}")
    found = read_judge_prompt(_messages(row["id"], name, prompt)[-1]["content"])
    if found is None:
        raise RowError(
            f"item {row['id']!r}: field {name!r} does not hold one block of RM-R1's markers ([Client Question], [The "
            "Start of Chatbot A's Response], ...), so the responses cannot be told apart; give them as columns"
        )
    return _made(row["id"], found.messages, found.response_a, found.response_b, _SIDES[winner])


def _scored(row: dict[str, Any], source: Source) -> list[Pair]:
    responses, scores = _responses(row), row.get("scores")
    if not isinstance(scores, list) or len(scores) != len(responses):
        raise RowError(f"item {row['id']!r}: field 'scores' must be a list of {len(responses)} numbers, one a response")
    for score in scores:
        if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
            raise RowError(f"item {row['id']!r}: field 'scores' holds {score!r:.40}, which is no number")
    return list(_compared(row, responses, scores, source.pairing or "best", source.margin))


def _ranked(row: dict[str, Any], source: Source) -> list[Pair]:
    responses = _responses(row)
    ranks = [-float(place) for place in range(len(responses))]
    return list(_compared(row, responses, ranks, source.pairing or "adjacent", 0.0))


def _responses(row: Mapping[str, Any]) -> list[str]:
    responses = row.get("responses")
    if not isinstance(responses, list) or len(responses) < 2 or not all(isinstance(one, str) for one in responses):
        raise RowError(f"item {row['id']!r}: field 'responses' must be a list of two texts or more")
    return responses


def _compared(
    row: Mapping[str, Any], responses: Sequence[str], scores: Sequence[float], pairing: Pairing, margin: float
) -> Iterator[Pair]:
    """Pairs of a list of responses, the better one response_a or response_b by the pair's id."""
    prompt = next((row[name] for name in _PROMPTS if name in row), None)
    order = sorted(range(len(responses)), key=lambda place: (-scores[place], place))
    couples = {
        "best": [(order[0], worse) for worse in order[1:]],
        "adjacent": list(pairwise(order)),
        "all": list(combinations(order, 2)),
    }[pairing]
    for better, worse in couples:
        if scores[better] > scores[worse] and scores[better] - scores[worse] >= margin:
            id_ = f"{row['id']}#{better}>{worse}"
            gold = gold_by_lot(id_)
            a, b = (better, worse) if gold == "a" else (worse, better)
            yield _made(id_, prompt, responses[a], responses[b], gold)


def _humanevalpack(row: dict[str, Any], source: Source) -> list[Pair]:
    """The canonical solution against the one with a bug planted by hand, each with its declaration."""
    id_ = row.get("task_id", row["id"])
    names = ("canonical_solution", "buggy_solution", "declaration")
    texts = [row.get(name) for name in (*names, "instruction" if "instruction" in row else "prompt")]
    for name, text in zip((*names, "instruction"), texts, strict=True):
        if not isinstance(text, str):
            raise RowError(f"item {id_!r}: field {name!r} must be text")
    right, wrong, declaration, prompt = map(str, texts)
    gold = gold_by_lot(str(id_))
    a, b = (right, wrong) if gold == "a" else (wrong, right)
    return [_made(id_, prompt, declaration + a, declaration + b, gold)]


def _made(id_: object, prompt: object, a: str, b: str, gold: str) -> Pair:
    """The pair, checked as `load_pairs` checks one."""
    row = {"id": id_, "response_a": a, "response_b": b, "gold": gold}
    return read_pair(row | ({} if prompt is None else {"prompt": prompt}), "", 0)


_READERS: Mapping[str, Callable[[dict[str, Any], Source], list[Pair]]] = {
    "pairs": _pairs,
    "trl": _trl,
    "rm_r1": _rm_r1,
    "verl": _verl,
    "scored": _scored,
    "ranked": _ranked,
    "humanevalpack": _humanevalpack,
}
