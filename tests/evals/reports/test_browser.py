"""The page of evaluations in a real browser, from a file, driven as a reader would: Chromium over its DevTools."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from evals.benchmarks.pairs import PAIRS
from evals.evaluation import Evaluation, evaluate
from evals.pairs import Message, Pair
from evals.reports.evaluation import write_evaluation_report
from evals.verdicts import Judgement, Verdict, from_shown
from tests.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium and no Chrome is installed here")

HOSTILE = '</script><img src=x onerror="window.ran = 1"><script>window.ran = 1</script>'
WORDS = re.findall(
    r"\w+",
    "the response answers every part of what was asked and shows its steps while other gives a wrong total before "
    "unit conversion second paragraph claims source missing evidence clear structure tone polite accurate number",
)


def text_of(rng: random.Random, shown: str, length: int) -> str:
    """A judgement in the form of rm_r1, of about `length` characters."""

    def prose(share: float) -> str:
        words = []
        while sum(map(len, words)) + len(words) < share * length:
            words.append(rng.choice(WORDS) if rng.random() < 0.9 else f"{rng.randrange(10**6)}")
        return " ".join(words)

    return (
        f"<type>Chat</type>\n<rubric>\nAccuracy (60%): {prose(0.1)}\nClarity (40%): {prose(0.1)}\n"
        f"<justify>{prose(0.2)}</justify>\n</rubric>\n<eval>\n{prose(0.2)} <quote_A>{prose(0.1)}</quote_A> "
        f"{prose(0.1)} <quote_B>{prose(0.05)}</quote_B> {prose(0.15)}\n</eval>\n<answer>{shown}</answer>"
    )


def made(count: int, length: int, model: str = "judge-7b", seed: int = 0) -> tuple[list[Judgement], list[Pair]]:
    """Judgements of `count` pairs in both orders; pair 3 is wrong in both, 4 inconsistent, 5 without a verdict."""
    rng = random.Random(seed)
    judgements, pairs = [], []
    sections = ("Chat", "Chat Hard", "Safety", "Reasoning")
    for number in range(count):
        gold = rng.choice(("a", "b"))
        subset = sections[number % 4]
        asked = Message(role="user", content=f"Question {number}: " + " ".join(rng.choices(WORDS, k=length // 60)))
        a, b = (f"Candidate {number}{x}. " + " ".join(rng.choices(WORDS, k=length // 20)) for x in "ab")
        pairs.append(Pair(f"pair-{number}", (asked,), a, b, gold, subset=subset))  # type: ignore[arg-type]
        for order in ("ab", "ba"):
            shown = rng.choices(("a", "b", None), (0.5, 0.44, 0.06))[0]
            verdict: Verdict = from_shown(shown, order)  # type: ignore[arg-type]
            if rng.random() < 0.6:
                verdict = gold  # type: ignore[assignment]
            wrong: Verdict = "b" if gold == "a" else "a"
            special = {3: wrong, 4: gold if order == "ab" else wrong, 5: None, 6: gold}
            verdict = special.get(number, verdict)  # type: ignore[assignment]
            letter = {"a": "[[A]]", "b": "[[B]]", None: "neither"}[from_shown(verdict, order)]  # type: ignore[arg-type, index]
            text = text_of(rng, letter, int(length * rng.uniform(0.5, 1.5)))
            judgements.append(
                Judgement(
                    *("pairs", f"pair-{number}", subset, gold, order, 0, "rm_r1", text, verdict),  # type: ignore[arg-type]
                    *(900, len(text) // 5, model, 3),
                )
            )
    return judgements, pairs


def by_name(pairs: list[Pair]) -> dict[tuple[str, str], Pair]:
    return {(pair.subset, pair.id): pair for pair in pairs}


def evaluated(judgements: list[Judgement]) -> Evaluation:
    return evaluate(PAIRS, judgements, {})


ROWS = "[...document.querySelectorAll('#rows a')].map((link) => link.textContent)"
COUNT = "document.getElementById('count').textContent"
ITEM = "document.getElementById('item').innerText"


def opened(browser: Browser, page: Path, address: str = "") -> None:
    """Load a page from disk anew, and wait until its list or its pair is there."""
    browser.call("Page.navigate", url="about:blank")
    browser.until("location.href === 'about:blank'")
    browser.call("Page.navigate", url=f"file://{page}{address}")
    browser.until("document.querySelector('#count:not(:empty), #item p, #problem:not([hidden])')")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    judgements, pairs = made(60, 300)
    path = tmp_path_factory.mktemp("report") / "evaluation.html"
    return write_evaluation_report(path, [evaluated(judgements)], {"pairs": by_name(pairs)})


def test_a_filter_reduces_the_list_and_has_an_address(browser: Browser, page: Path) -> None:
    opened(browser, page)
    assert browser.js(COUNT) == "60 of 60 pairs"
    assert len(browser.js(ROWS)) == 25
    browser.js("document.querySelector('[name=wrong]').click()")
    judged = by_flag(page)
    assert browser.js(COUNT) == f"{len(judged['wrong'])} of 60 pairs"
    assert browser.js("location.hash") == "#judgements?wrong=1"
    browser.js("document.querySelector('[name=none]').click()")
    both = [pair for pair in judged["wrong"] if pair in judged["none"]]
    assert [row.split(":")[0] for row in browser.js(ROWS)] == [pair.replace("pair-", "Question ") for pair in both][:25]
    opened(browser, page, "#judgements?inconsistent=1")
    assert browser.js(COUNT) == f"{len(judged['inconsistent'])} of 60 pairs"
    opened(browser, page, "#judgements?section=Safety&inconsistent=1")
    safety = [pair for pair in judged["inconsistent"] if int(pair.split("-")[1]) % 4 == 2]
    assert browser.js(COUNT) == f"{len(safety)} of 60 pairs"
    assert browser.js("document.querySelector('[name=inconsistent]').checked")
    assert browser.js("document.querySelector('[name=section]').value") == "Safety"


def by_flag(page: Path) -> dict[str, list[str]]:
    """The pairs behind the page that each filter is for, found without the page."""
    judgements, _ = made(60, 300)
    found: dict[str, list[str]] = {"wrong": [], "inconsistent": [], "none": []}
    for ab, ba in zip(judgements[::2], judgements[1::2], strict=True):
        if not (ab.right and ba.right):
            found["wrong"].append(ab.pair_id)
        if ab.verdict != ba.verdict or ab.verdict is None:
            found["inconsistent"].append(ab.pair_id)
        if None in (ab.verdict, ba.verdict):
            found["none"].append(ab.pair_id)
    assert {"pair-3", "pair-4", "pair-5"} <= set(found["wrong"])
    return found


def test_a_click_shows_the_pair_and_both_orders(browser: Browser, page: Path) -> None:
    judgements, pairs = made(60, 300)
    opened(browser, page)
    browser.js("[...document.querySelectorAll('#rows a')].find((a) => a.textContent.startsWith('Question 4:')).click()")
    browser.until("document.querySelector('#item article')")
    text = browser.js(ITEM)
    assert pairs[4].messages[0]["content"] in text
    assert pairs[4].response_a in text
    gold = pairs[4].gold or ""
    assert (
        browser.js("document.querySelector('.candidate:has(.gold) h4').textContent")
        == f"Candidate {gold.upper()} · gold"
    )
    assert browser.js("[...document.querySelectorAll('.judge > p')].map((p) => p.textContent)")[::2] == [
        f"A shown first Verdict: {gold.upper()} ✓ right",
        f"B shown first Verdict: {'BA'['ab'.index(gold)]} ✗ wrong",
    ]
    assert browser.js("[...document.querySelectorAll('.judge h4')].map((h) => h.textContent)") == [
        *("type", "rubric", "eval", "answer") * 2
    ]
    written = browser.js("[...document.querySelectorAll('.judge pre')].map((pre) => pre.textContent)")
    assert written == [judgements[8].text, judgements[9].text]
    assert not browser.complaints


def test_the_keyboard_goes_through_the_list_and_back(browser: Browser, page: Path) -> None:
    opened(browser, page, "#judgements?none=1")
    first, second = by_flag(page)["none"][:2]
    browser.js("document.querySelector('#rows a').focus()")
    browser.call("Input.dispatchKeyEvent", type="keyDown", key="Enter", code="Enter", text="\r")
    title = "document.querySelector('#item h3')?.textContent"
    browser.until(f"{title} === 'Pair {first}'")
    browser.press("ArrowRight")
    browser.until(f"{title} === 'Pair {second}'")
    browser.press("ArrowLeft")
    browser.until(f"{title} === 'Pair {first}'")
    browser.press("Escape")
    browser.until("document.getElementById('item').hidden")
    assert browser.js("location.hash") == "#judgements?none=1"
    assert browser.js("document.activeElement.textContent").startswith("Question")


def test_pages_of_the_list(browser: Browser, page: Path) -> None:
    opened(browser, page)
    assert browser.js("document.getElementById('page').textContent") == "Page 1 of 3"
    later = "document.querySelector('[data-step=\"1\"]')"
    browser.js(f"{later}.click()")
    browser.until("document.getElementById('page').textContent === 'Page 2 of 3'")
    browser.js(f"{later}.click()")
    browser.until("document.getElementById('page').textContent === 'Page 3 of 3'")
    assert len(browser.js(ROWS)) == 10
    assert browser.js(f"{later}.disabled")


def test_text_is_searched_in_questions_candidates_and_judgements(browser: Browser, page: Path) -> None:
    judgements, _ = made(60, 300)
    word = next(word for word in judgements[80].text.split() if word.isdigit() and len(word) > 4)
    for query, hits in (("QUESTION 17:", 1), ("Candidate 33b.", 1), (word, 1), ("[[A]]", 50), ("no such words", 0)):
        opened(browser, page)
        field = "document.querySelector('[name=q]')"
        browser.js(f"{field}.value = {json.dumps(query)}; {field}.dispatchEvent(new Event('input'))")
        expected = "No pair is like that" if not hits else f"{hits} of 60 pairs"
        if query == "[[A]]":
            hits = len({judgement.pair_id for judgement in judgements if query in judgement.text})
            expected = f"{hits} of 60 pairs"
        browser.until(f"{COUNT}.startsWith('{expected}') && !{COUNT}.includes('so far')")


def test_what_a_model_or_a_data_set_wrote_never_runs(browser: Browser, tmp_path: Path) -> None:
    odd = f"{HOSTILE} \ud83d \x00 {{{{ 7 * 7 }}}} <!-- <script>"
    judgements = [
        Judgement("pairs", odd, odd, "a", order, 0, "rm_r1", f"<rubric>{odd}<answer>[[A]]", verdict, 1, 1, odd, 0)
        for order, verdict in (("ab", "a"), ("ba", "b"))  # type: tuple[Order, Verdict]
    ]
    pair = Pair(odd, (Message(role=odd, content=odd),) * 2, odd, odd, "a", subset=odd)
    page = write_evaluation_report(tmp_path / "odd.html", [evaluated(judgements)], {"pairs": by_name([pair])})
    browser.complaints.clear()
    opened(browser, page)
    browser.js("document.querySelector('#rows a').click()")
    browser.until("document.querySelector('#item article')")
    shown = browser.js("document.querySelector('.candidate .text').textContent")
    assert shown.startswith(HOSTILE)
    assert "7 * 7" in shown
    assert browser.js("window.ran === undefined && document.querySelector('img') === null")
    assert browser.js("document.querySelectorAll('script:not([type])').length") == 1
    assert not browser.complaints  # nor did the page's policy have to stop anything


def test_a_file_of_verdicts_alone(browser: Browser, tmp_path: Path) -> None:
    judgements = [Judgement("pairs", f"p{n}", "", "a", "ab", verdict="a" if n else "b") for n in range(3)]
    page = write_evaluation_report(tmp_path / "bare.html", [evaluated(judgements)])
    opened(browser, page, "#judgements?wrong=1")
    assert browser.js(ROWS) == ["p0"]
    browser.js("document.querySelector('#rows a').click()")
    browser.until("document.querySelector('#item article')")
    text = browser.js(ITEM)
    assert "Gold: A. The question and the candidates are not on this page" in text
    assert "holds the verdict alone" in text
    assert "B shown first" not in text  # judged in one order


def test_an_address_that_is_out_of_date(browser: Browser, page: Path) -> None:
    browser.complaints.clear()
    opened(browser, page, "#judgements?open=0,Chat,gone")
    assert "This page has no such pair" in browser.js(ITEM)
    opened(browser, page, "#judgements?e=7&section=gone&page=99&q=")
    assert browser.js(COUNT).startswith("No pair is like that")
    assert not browser.complaints


def test_several_judges_and_benchmarks_share_a_page(browser: Browser, tmp_path: Path) -> None:
    judgements, pairs = made(40, 300)
    others = made(40, 300, model="judge-32b", seed=1)[0]
    page = write_evaluation_report(
        tmp_path / "two.html", [evaluated(judgements), evaluated(others)], {"pairs": by_name(pairs)}
    )
    opened(browser, page)
    assert browser.js(COUNT) == "80 of 80 pairs"
    choose = "document.querySelector('[name=e]')"
    assert browser.js(f"[...{choose}.options].map((o) => o.textContent)") == [
        *("All", "Labelled pairs · judge-7b", "Labelled pairs · judge-32b")
    ]
    browser.js(f"{choose}.value = '1'; {choose}.dispatchEvent(new Event('change', {{bubbles: true}}))")
    assert browser.js(COUNT) == "40 of 80 pairs"
    browser.js("document.querySelector('#rows a').click()")
    browser.until("document.querySelector('#item article')")
    assert "judge-32b" in browser.js(ITEM)
    assert others[0].text == browser.js("document.querySelector('.judge pre').textContent")


def test_many_judgements_are_there_at_once(browser: Browser, tmp_path: Path) -> None:
    """2,000 judgements in several chunks: the list before the texts, and any text within a moment."""
    judgements, pairs = made(1000, 800)
    page = write_evaluation_report(tmp_path / "many.html", [evaluated(judgements)], {"pairs": by_name(pairs)})
    source = page.read_text(encoding="utf-8")
    assert len(re.findall('id="judged-', source)) > 3
    assert len(source) < sum(len(judgement.text) for judgement in judgements)
    opened(browser, page, "#judgements?page=40&section=&open=0%2CReasoning%2Cpair-999")
    assert judgements[-1].text in browser.js(
        "[...document.querySelectorAll('.judge pre')].map((pre) => pre.textContent)"
    )
    opened(browser, page, "#judgements?q=Candidate+998a")
    browser.until(f"{COUNT} === '1 of 1,000 pairs'")


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_no_wider_than_the_window(browser: Browser, page: Path, width: int) -> None:
    browser.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    for address in ("", "#judgements?open=0%2CChat%2Cpair-4"):
        opened(browser, page, address)
        assert browser.js("document.documentElement.scrollWidth") <= width
    browser.call("Emulation.clearDeviceMetricsOverride")


def test_controls_have_names(browser: Browser, page: Path) -> None:
    opened(browser, page)
    browser.call("Accessibility.enable")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    controls = [node for node in nodes if node.get("role", {}).get("value") in ("combobox", "searchbox", "checkbox")]
    assert len(controls) == 5  # a page with one evaluation has none to choose
    assert all(node["name"]["value"].strip() for node in controls)
