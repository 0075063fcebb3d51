"""Verifiable questions to pairs, after RRM (arXiv 2505.14674): responses are right or wrong by rule, no judge asked.

A response's final answer is found by the marks that people and models use (`#### 18`, `\\boxed{18}`, "the answer is
18", GSM8K solvers' "A: 18"), in that order; for numbers, by the last number in the text. What cannot be read is
neither right nor wrong and makes no pair.
"""

from __future__ import annotations

import ast
import math
import random
import re
import threading
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Literal, get_args

from evals.errors import ReadableError
from evals.pairs import Message, Pair, gold_by_lot
from evals.sandbox import DEFAULT_LIMITS, Limits, run_tests

Kind = Literal["number", "fraction", "latex", "choice", "code"]
"""What an answer is: how it is found in a text, and when two are the same.

number: equal to one part in a million. fraction: equal exactly. latex: equal to `math-verify`. choice: the same letter
A to E. code: Python that passes the tests, which are the reference.
"""

KINDS: tuple[Kind, ...] = get_args(Kind)

PAIRS_PER_QUESTION = 4
"""Most pairs of one question, unless another number is asked for: no question outweighs the others."""

_CLOSE = Fraction(1, 10**6)
_LONGEST = 400
"""Characters of an answer; what is longer is no final answer, and could keep a computer algebra system busy."""
_SECONDS = 5
_NUMBER = r"(?:(?<![\w)])[-+\u2212])?(?:(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+)"
_VALUE = re.compile(
    rf"(?P<minus>[-\u2212]\s*)?\\[dt]?frac\s*\{{\s*(?P<over>{_NUMBER})\s*\}}\s*\{{\s*(?P<under>{_NUMBER})\s*\}}"
    rf"|(?P<top>{_NUMBER})\s*/\s*(?P<bottom>{_NUMBER})"
    rf"|(?P<number>{_NUMBER})(?:[eE](?P<power>[-+]?\d{{1,3}})(?!\w))?"
)
_MARKS = (
    re.compile(r"####[ \t]*(?=(.+))"),
    re.compile(r"answer\s*(?:is|=|:)\s*:?\s*(?=(.+))", re.IGNORECASE),
    re.compile(r"^A:[ \t]*(?=(.+))", re.MULTILINE),
)
_LETTER = re.compile(
    r"^\W*(?:\\text\w*\{\s*)?(?:option |choice )?\W*(?:\((?P<round>[A-E])\)|(?P<bare>[A-E])"
    r"(?=\s*(?:$|[.,:;)}*\]]|because\b|since\b)))"
)
_SECOND_LETTER = re.compile(r"\b(?:or|and)\s+\W*[A-E]\b")
_ALONE = re.compile(r"^\W*(?P<letter>[A-E])\W*$")
_FENCE = re.compile(r"^```[ \t]*(?P<language>\w*)[ \t]*\n(?P<code>.*?)^```", re.DOTALL | re.MULTILINE)


class QuestionError(ReadableError, ValueError):
    """A question that no rule can check as it stands."""


def check(response: str, reference: str, kind: Kind, limits: Limits = DEFAULT_LIMITS) -> bool | None:
    """Whether a response is right; None where its final answer cannot be told.

    `reference` is the right answer, which may end a worked solution (`... #### 18`); for code it is the tests. `limits`
    are of the code that is run. Raises QuestionError where the reference has no answer of this kind, and SandboxError.
    """
    if kind == "code":
        if not reference.strip():
            raise QuestionError("kind 'code': the reference is empty; it must be the tests, as Python")
        program = code_of(response)
        return None if program is None else run_tests(program, reference, limits).passed
    right = _reference(reference, kind)
    answer = final_answer(response, kind)
    if answer is None:
        return None
    if kind == "choice":
        return answer == right
    if kind == "latex":
        return _same_latex(right, answer)
    said, wanted = value_of(answer), value_of(right)
    if said is None or wanted is None:
        return None
    return said == wanted if kind == "fraction" else abs(said - wanted) <= _CLOSE * max(abs(wanted), _CLOSE)


def _reference(reference: str, kind: Kind) -> str:
    """The right answer alone. A reference may be the bare answer, without any mark."""
    text = reference.strip()
    if kind == "choice":
        bare = _ALONE.match(text)
        right = bare["letter"] if bare else final_answer(text, kind)
    elif kind == "latex":
        right = final_answer(text, kind) or (text if len(text) <= _LONGEST else None)
    else:
        right = final_answer(text, kind)
    if not right or (kind == "latex" and not _parsed(right)):
        raise QuestionError(f"kind {kind!r}: the reference {reference[-80:]!r} has no such answer; mend it or the kind")
    return right


def final_answer(response: str, kind: Kind) -> str | None:
    """The final answer as a response gives it, after its thinking; None where there is none, or two at once.

    Not for code, whose answer is `code_of`.
    """
    text = response.rpartition("</think>")[2]
    if "<think>" in text:  # cut off while it thought
        return None
    candidates = [said for mark in _MARKS[:1] for said in mark.findall(text)[-1:]]
    candidates += boxed(text)[-1:]
    candidates += [said for mark in _MARKS[1:] for said in mark.findall(text)[-1:]]
    if kind == "choice":
        return _letter(candidates, text)
    if kind == "latex":
        return _formula(candidates, text)
    for said in candidates:
        if found := _first_value(said):
            return found
    values = [match[0] for match in _VALUE.finditer(text)]
    return values[-1].strip() if values else None


def _first_value(said: str) -> str | None:
    """The value that a marked answer states: the first one, or what a calculation in it comes to."""
    sentence = re.split(r"\.\s", said, maxsplit=1)[0]
    match = _VALUE.search(sentence.rpartition("=")[2]) or _VALUE.search(sentence)
    return match[0].strip() if match else None


def boxed(text: str) -> list[str]:
    """What stands in each `\\boxed{...}`, braces counted; one that is cut off is not there."""
    found = []
    for start in re.finditer(r"\\f?boxed\s*\{", text):
        depth = 1
        for at in range(start.end(), len(text)):
            depth += {"{": 1, "}": -1}.get(text[at], 0)
            if depth == 0:
                found.append(text[start.end() : at].strip())
                break
    return found


def value_of(answer: str) -> Fraction | None:
    """The first number of an answer: 1,234.5, -3/4, \\frac{3}{4}, 1e6. None where there is none or it is over zero."""
    match = _VALUE.search(answer[:_LONGEST])
    if match is None:
        return None
    over, under = match["over"] or match["top"] or match["number"], match["under"] or match["bottom"] or "1"
    bottom = _fraction(under)
    if bottom == 0:
        return None
    value = _fraction(over) / bottom * Fraction(10) ** int(match["power"] or 0)
    return -value if match["minus"] else value


def _fraction(text: str) -> Fraction:
    return Fraction(text.replace(",", "").replace("\N{MINUS SIGN}", "-"))


def _letter(candidates: Sequence[str], text: str) -> str | None:
    for said in candidates:
        if match := _LETTER.match(said):
            return None if _SECOND_LETTER.match(said[match.end() :].lstrip(" )*")) else match["round"] or match["bare"]
    lines = [line for line in text.splitlines() if line.strip()]
    alone = _ALONE.match(lines[-1]) if lines else None
    return alone["letter"] if alone else None


def _formula(candidates: Sequence[str], text: str) -> str | None:
    for said in candidates:
        said = said.strip().rstrip(".").strip()
        between = re.search(r"\$+([^$]+)\$+", said)
        said = between[1] if between else said
        if said and len(said) <= _LONGEST:
            return said
    formulas = re.findall(r"\$+([^$]+)\$+", text)
    return formulas[-1].strip() if formulas and len(formulas[-1]) <= _LONGEST else None


def _parsed(formula: str) -> list[Any]:
    """What math-verify makes of a formula: its limit on time needs signals, which only a main thread gets."""
    # Imported where it is needed: a computer algebra system comes with it.
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse

    if threading.current_thread() is not threading.main_thread():
        raise QuestionError("kind 'latex': formulas are compared under a time limit, which needs the main thread")
    configs = [LatexExtractionConfig(), ExprExtractionConfig()]
    found: list[Any] = parse(f"${formula}$", configs, fallback_mode="no_fallback", parsing_timeout=_SECONDS)
    return found


def _same_latex(right: str, answer: str) -> bool | None:
    from math_verify import verify

    wanted, said = _parsed(right), _parsed(answer)
    return bool(verify(wanted, said, timeout_seconds=_SECONDS)) if said else None


def code_of(response: str) -> str | None:
    """The Python of a response: its last fenced block that is Python, or all of it where that is Python; else None."""
    text = response.rpartition("</think>")[2]
    blocks = [match for match in _FENCE.finditer(text) if match["language"].lower() in ("", "py", "python", "python3")]
    if blocks:
        return blocks[-1]["code"]
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return text if text.strip() else None


def pairs_of(
    question: str,
    reference: str,
    responses: Sequence[str],
    kind: Kind,
    *,
    id: str,
    limit: int = PAIRS_PER_QUESTION,
    seed: int = 0,
    source: str = "",
    subset: str = "",
    limits: Limits = DEFAULT_LIMITS,
) -> list[Pair]:
    """Pairs of a right and a wrong response to one question: at most `limit`, drawn from seed and id.

    Which of the two stands first is drawn from the pair's id. Empty and repeated responses are left out, and so are
    those that cannot be told. Raises as `check` does, naming the question.
    """
    try:
        told = [check(response, reference, kind, limits) if response.strip() else None for response in responses]
    except QuestionError as error:
        raise QuestionError(f"question {id!r}: {error}") from error
    return paired(question, responses, told, id=id, limit=limit, seed=seed, source=source, subset=subset)


def paired(
    question: str,
    responses: Sequence[str],
    told: Sequence[bool | None],
    *,
    id: str,
    limit: int = PAIRS_PER_QUESTION,
    seed: int = 0,
    source: str = "",
    subset: str = "",
    meta: Mapping[str, Any] | None = None,
) -> list[Pair]:
    """The pairs of responses of which it is told which are right; see `pairs_of`."""
    first: dict[str, int] = {}
    for number, response in enumerate(responses):
        first.setdefault(" ".join(response.split()), number)
    right = [number for number in first.values() if told[number] is True]
    wrong = [number for number in first.values() if told[number] is False]
    rng = random.Random(f"{seed}/pairs/{id}")
    # Each response in turn, so that none is in all the pairs while another is in none.
    rng.shuffle(right)
    rng.shuffle(wrong)
    pairs = []
    for number in range(min(limit, len(right) * len(wrong))):
        turn = number // math.lcm(len(right), len(wrong))  # a new turn begins where the same two would meet again
        good, bad = number % len(right), (number + turn) % len(wrong)
        pair_id = f"{id}/{right[good]}-{wrong[bad]}"
        better, worse = responses[right[good]], responses[wrong[bad]]
        gold = gold_by_lot(pair_id)
        pairs.append(
            Pair(
                id=pair_id,
                messages=(Message(role="user", content=question),),
                response_a=better if gold == "a" else worse,
                response_b=worse if gold == "a" else better,
                gold=gold,
                source=source,
                subset=subset,
                meta=dict(meta or {}),
            )
        )
    return pairs
