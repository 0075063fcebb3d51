"""The report is read back with the standard library's HTML parser, which knows nothing of how it was written."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from evals.pairs import Message, Pair, save_pairs
from evals.reports.training import Shown, choose_examples, headline, subset_accuracy, write_report
from evals.verdicts import Gold, Judgement, Order, Verdict

HOSTILE = "<script>alert(1)</script></answer>"
TEXT = (
    "<type>Chat</type><rubric>is kind (100%)<justify>asked for</justify></rubric>"
    "<eval><quote_A>hello & <b>bye</b></quote_A> is rude</eval><answer>[[B]]</answer>"
)


class Page(HTMLParser):
    """The elements, attributes and text of a page."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data.strip())

    def plots(self) -> list[str]:
        return [value for name, value in self.attributes if name == "aria-label"]


def judgement(
    pair: str = "p0",
    subset: str = "chat",
    gold: Gold | None = "a",
    order: Order = "ab",
    verdict: Verdict = "a",
    text: str = TEXT,
) -> Judgement:
    return Judgement("made", pair, subset, gold, order, 0, "compact", text, verdict, 10, 5, "judge", 1)


def metrics(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "reward": 0.5 - 1 / (step + 1),
        "accuracy": 0.75 - 0.5 / (step + 1),
        "kl": float("nan") if step == 2 else 0.001 * step,
        "entropy": 0.5,
        "length": 30 + step,
        "truncated": None,
        "no_verdict": 0.01,
        "first_share": 0.5,
        "zero_variance": 0.25,
        "mismatch": 0.0 if step == 3 else 1e-6 * step,
        "mismatch_max": 1e-4,
        "seconds": {"rollout": 2.0, "reference": 0.5, "update": 1.0, "sync": 0.1, "total": 3.7},
    }


def write_lines(path: Path, rows: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")


def make_run(path: Path, steps: int = 40, start: str = "distill") -> Path:
    scores = {"accuracy_greedy": 0.9, "accuracy_both_orders": 0.8, "no_verdict": 0.02, "position_bias": -0.04}
    summary = {
        start: {**scores, "accuracy_sampled": 0.742, "pairs": 500},
        "grpo": {**scores, "accuracy_sampled": 0.951, "no_verdict": 0.03, "position_bias": 0.01, "pairs": 500},
        "steps": steps,
        "seconds": {"distill": 60.0, "rollout": 90.0, "total": 200.0},
        "tokens_per_second": 2143.7,
        "seed": 17,
        "versions": {"torch": "2.13.0"},
        "data": {"source": "synthetic", "train_pairs": None, "heldout_pairs": 500, "too_long": 3},
    }
    write_lines(path / "summary.json", [json.dumps(summary)])
    write_lines(path / "metrics.jsonl", [json.dumps(metrics(step)) for step in range(1, steps + 1)])
    write_lines(path / "config.yaml", ["seed: 17", f"note: {HOSTILE}"])
    asked = (Message(role="user", content=f"Greet me. {HOSTILE}"),)
    save_pairs(path / "eval" / "pairs.jsonl", [Pair(f"p{i}", asked, "hello", HOSTILE, "a") for i in range(3)])
    for stage, verdicts in ((start, "bab"), ("grpo", "aab")):
        judged = [judgement(f"p{i}", ("chat", "math", "math")[i], "a", "ba", v) for i, v in enumerate(verdicts)]  # type: ignore[arg-type]
        write_lines(path / "eval" / f"{stage}-greedy.jsonl", [one.to_json() for one in judged])
    return path


def test_the_page_tells_what_the_run_brought(tmp_path: Path) -> None:
    path = write_report(make_run(tmp_path / "my-run"))
    assert path == tmp_path / "my-run" / "report.html"
    page = Page(path)
    assert "Sampled accuracy rose from 0.74 to 0.95 on 500 held-out pairs judged in both orders." in page.texts
    row = page.texts.index("Sampled accuracy")
    assert page.texts[row + 2 : row + 5] == ["0.742", "0.951", "+0.209"]
    for text in ("my-run", "3 min 20 s", "2,144", "without end", "synthetic", "2.13.0", "17"):
        assert text in page.texts
    assert "Right in both orders, sampled" not in page.texts  # summary.json has no such value
    other = page.texts.index("other")  # 200 s in all, 150 s of them in known phases
    assert page.texts[other + 2 : other + 4] == ["50.0 s", "25.0 %"]


def test_a_profile_is_shown_with_its_shares(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert "Profile of step" not in Page(write_report(run)).source
    operations = [{"name": "aten::<mm>", "calls": 1234, "seconds": 1.5, "device_seconds": 0.0}]
    actors = {kind: {"operations": operations, "seconds": 1.8} for kind in ("engine", "policy")}
    (run / "profiles").mkdir()
    write_lines(run / "profiles" / "step-000041.json", [json.dumps({"step": 41, "actors": actors})])
    with (run / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(metrics(41) | {"work": {"update": 2.0}}) + "\n")
    texts = Page(write_report(run)).texts
    assert "Profile of step 41" in texts
    engine, policy = (at for at, text in enumerate(texts) if text == "aten::<mm>")
    assert texts[engine + 1 : engine + 5] == ["1,234", "1.500", "All operations", "1.800"], "work is not known"
    assert texts[policy + 1 : policy + 7] == [
        "1,234",
        "1.500",
        "75.0 %",
        "All operations",
        "of 2.00 s of work",
        "1.800",
    ]


def test_a_change_is_coloured_by_whether_it_is_better(tmp_path: Path) -> None:
    source = Page(write_report(make_run(tmp_path))).source
    assert '<span class="change better">+0.209</span>' in source
    assert '<span class="change worse">+0.010</span>' in source  # more judgements without a verdict
    assert '<span class="change better">+0.050</span>' in source  # position bias: from -0.04 to 0.01 is nearer to 0


def test_untrusted_text_is_shown_and_never_run(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    assert HOSTILE in page.texts
    assert f"Greet me. {HOSTILE}" in page.texts
    assert f"seed: 17\nnote: {HOSTILE}" in page.texts
    assert not {"script", "iframe", "object", "link", "img"} & set(page.tags)
    assert "<b>bye</b>" not in page.source


def test_the_page_needs_nothing_from_outside(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    assert "://" not in page.source
    assert "@import" not in page.source
    assert not [value for name, value in page.attributes if name in ("src", "srcset", "data", "action")]
    assert all(value.startswith("#") for name, value in page.attributes if name.endswith("href"))
    assert page.source.count("url(") == page.source.count("url(#")


def test_a_judgement_is_shown_by_its_sections(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    at = page.texts.index("type")
    assert page.texts[at : at + 5] == ["type", "Chat", "rubric", "is kind (100%)", "justify"]
    at = page.texts.index("eval")
    assert page.texts[at : at + 4] == ["eval", "quote A", "hello & <b>bye</b>", "is rude"]
    assert TEXT in page.texts  # as the judge wrote it
    # order "ba": gold "a" was shown second, so gold and the right verdict read B
    assert page.texts[page.texts.index("Candidate B ·") + 1] == "gold"
    assert {"Verdict A ✗ wrong", "Verdict B ✓ right"} <= set(page.texts)


def test_every_curve_is_drawn(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    assert len(page.plots()) == 10
    assert {"Reward over steps", "KL over steps", "Mismatch over steps", "Seconds by phase over steps"} <= set(
        page.plots()
    )
    assert "nan" not in [word.lower() for word in page.source.split()]


def test_a_run_of_one_step_shows_points(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path, steps=1)))
    assert len(page.plots()) == 10
    curves = page.source.split("<svg")[1:10]  # the tenth plot is of stacked bars
    assert all(re.search(r"<use [^>]*fill: var\(--c1\)", curve) for curve in curves)


def test_a_run_without_anything_optional(tmp_path: Path) -> None:
    write_lines(tmp_path / "summary.json", ['{"grpo": {"accuracy_greedy": 0.5, "accuracy_sampled": NaN}}'])
    write_lines(tmp_path / "metrics.jsonl", ['{"step": 1, "reward": NaN, "kl": null}'])
    page = Page(write_report(tmp_path))
    assert "Greedy accuracy is 0.50." in page.texts
    assert page.plots() == []
    assert "Judgements, before and after" not in page.texts


def test_a_run_that_starts_from_a_model(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path, start="start")))
    assert "Start" in page.texts
    assert "Distilled" not in page.texts


def test_a_step_written_twice_counts_once(tmp_path: Path) -> None:
    once, twice = make_run(tmp_path / "a" / "run", steps=3), make_run(tmp_path / "b" / "run", steps=3)
    lines = (twice / "metrics.jsonl").read_text().splitlines()
    write_lines(twice / "metrics.jsonl", [lines[0], lines[2], *lines[1:]])
    write_lines(twice / "metrics.jsonl", [json.dumps({"step": 2, "reward": -1.0}), *lines])
    assert write_report(once).read_text() == write_report(twice).read_text()


@pytest.mark.parametrize("name", ["metrics.jsonl", "eval/grpo-greedy.jsonl"])
def test_a_broken_line_is_named(tmp_path: Path, name: str) -> None:
    path = make_run(tmp_path) / name
    lines = path.read_text(encoding="utf-8").splitlines()
    write_lines(path, [lines[0], lines[1][:-9], *lines[2:]])
    with pytest.raises(ValueError, match=rf"{name}, line 2: not JSON"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "line", "complaint"),
    [
        ("metrics.jsonl", '{"reward": 1}', "line 1: field 'step' must be a number, not None"),
        ("metrics.jsonl", "[1]", "line 1: an object with named fields"),
        ("eval/grpo-greedy.jsonl", '{"benchmark": "made"}', "line 1: field 'pair_id' of a judgement is missing"),
        ("summary.json", "{", "summary.json: not JSON"),
    ],
)
def test_a_wrong_row_is_named(tmp_path: Path, name: str, line: str, complaint: str) -> None:
    write_lines(make_run(tmp_path) / name, [line])
    with pytest.raises(ValueError, match=complaint.replace("[", r"\[")):
        write_report(tmp_path)


@pytest.mark.parametrize("name", ["summary.json", "metrics.jsonl"])
def test_a_folder_that_is_no_finished_run(tmp_path: Path, name: str) -> None:
    (make_run(tmp_path / "half") / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"half has no {name}.*start the same command again"):
        write_report(tmp_path / "half")


@pytest.mark.parametrize(
    ("before", "after", "sentence"),
    [
        (
            {"accuracy_sampled": 0.8},
            {"accuracy_sampled": 0.7, "pairs": 9},
            "Sampled accuracy fell from 0.80 to 0.70 on 9 ",
        ),
        ({"accuracy_sampled": 0.801}, {"accuracy_sampled": 0.799}, "Sampled accuracy stayed at 0.80."),
        ({"accuracy_greedy": 0.5}, {"accuracy_greedy": 1}, "Greedy accuracy rose from 0.50 to 1.00."),
        ({}, {}, "This run has no held-out evaluation."),
    ],
)
def test_headline(before: dict[str, float], after: dict[str, float], sentence: str) -> None:
    assert headline(before, after).startswith(sentence)


def test_accuracy_by_subset() -> None:
    before = [Shown(judgement("p0")), Shown(judgement("p1", verdict="b")), Shown(judgement("p2", verdict=None))]
    after = [
        Shown(judgement("p0")),
        Shown(judgement("p3", "math", gold=None)),
        Shown(judgement("p4", "code", "tie", verdict="tie")),
    ]
    table = subset_accuracy({"greedy": (before, after)})
    assert math.isclose(table["chat"]["greedy"][0] or 0, 1 / 3)
    assert table["chat"]["greedy"][1] == 1
    assert table["math"]["greedy"] == [None, None]
    assert table["code"]["greedy"] == [None, 1]


def test_examples_show_each_outcome_and_both_subsets() -> None:
    def both(pair: str, subset: str, before: Verdict, after: Verdict, question: str = "q") -> tuple[Shown, Shown]:
        old, new = judgement(pair, subset, "a", "ab", before), judgement(pair, subset, "a", "ab", after)
        return Shown(old, question), Shown(new, question)

    compared = [
        both("lost", "chat", "a", "b"),
        both("silent", "chat", None, "a"),
        both("mended", "chat", "b", "a"),
        both("mended", "chat", "b", "a"),
        both("textless", "math", "b", "a", question=""),
        both("mended-chat", "chat", "b", "a"),
        both("mended-math", "math", "b", "a"),
        both("kept", "chat", "a", "a"),
        both("missed", "math", "b", "b"),
    ]

    def chosen(some: list[tuple[Shown, Shown]]) -> list[str]:
        return [new.judgement.pair_id for _, new in choose_examples(some)]

    assert chosen(compared) == ["mended", "mended-math", "kept", "missed"]
    assert chosen(compared[:-1]) == ["mended", "mended-math", "kept", "lost"]
    assert chosen(compared[7:]) == ["missed", "kept"]
    assert chosen([]) == []
