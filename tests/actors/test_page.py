"""The page at `/` in a real browser against a real endpoint, used as a person would: Chromium over its DevTools."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import httpx
import pytest
from ray import serve

from actors.card import JudgeCard
from actors.config import LimitsConfig, RolloutConfig, ServeConfig
from actors.judge import judge_app
from evals.ranking import Method, calls
from tests.browser import CHROMIUM, Browser

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium and no Chrome is installed here"),
]


HOSTILE = '</script><img src=x onerror="window.ran = 1"><script>window.ran = 1</script>'
KEY = "a-key-of-the-tests-0123456789"
TITLE = "document.querySelector('#answer h2')?.textContent"
STATUS = "document.getElementById('status').textContent"
PROBLEM = "document.getElementById('problem').textContent"
IDLE = "!document.querySelector('#judge[aria-disabled=true]')"
COLUMNS = "[...document.querySelectorAll('.judge > p:first-child')].map((p) => p.innerText.replace(/\\s+/g, ' '))"


@pytest.fixture(scope="module")
def url(endpoint: str, first_is_better: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint below a path that wants KEY, and takes two requests with it at once."""
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(KEY)
    settings = ServeConfig(api_keys=keys, limits=LimitsConfig(requests_per_key=2))
    card = JudgeCard.load(first_is_better)
    assert card is not None
    application = judge_app(first_is_better, card, RolloutConfig(), settings, "cpu")
    serve.run(application, name="page", route_prefix="/page")
    yield f"{endpoint}/page"
    serve.delete("page")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Browser:
    """The page, opened anew with a good key."""
    opened(browser, url, KEY)
    browser.until("document.getElementById('served').textContent")
    browser.complaints.clear()
    return browser


def opened(browser: Browser, url: str, key: str = "") -> None:
    browser.call("Page.navigate", url=f"{url}/health")
    browser.until(f"location.href === '{url}/health' && document.readyState === 'complete'")
    browser.js(f"sessionStorage.setItem('gavel-api-key', '{key}')" if key else "sessionStorage.clear()")
    browser.call("Page.navigate", url=f"{url}/")
    browser.until("document.querySelectorAll('#responses textarea').length === 2")


def fill(page: Browser, *responses: str, prompt: str = "Which is it?", **options: object) -> None:
    """Write into the form; an option is the value of the control of that name."""
    for _ in range(len(responses) - page.js("document.querySelectorAll('#responses textarea').length")):
        page.js("document.getElementById('add').click()")
    values = {"prompt": prompt, **{f"response-{n}": text for n, text in enumerate(responses)}, **options}
    for name, value in values.items():
        page.js(f"document.getElementById('{name}').value = {json.dumps(value)}")
    page.js("document.getElementById('form').dispatchEvent(new Event('input'))")


def click(page: Browser, name: str) -> None:
    page.js(f"document.getElementById('{name}').click()")


def judge(page: Browser) -> None:
    """Press Judge, and wait for the end."""
    click(page, "judge")
    page.until(IDLE, 60)


def asked(url: str, path: str, **body: Any) -> dict[str, Any]:
    answer = httpx.post(f"{url}/{path}", json=body, headers={"Authorization": f"Bearer {KEY}"}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_two_responses_are_judged_in_both_orders(page: Browser, says: str) -> None:
    fill(page, "this", "that")
    judge(page)
    assert page.js(TITLE) == "It depends on the order"
    assert "Whichever was shown first was found better" in page.js("document.querySelector('#answer > p').textContent")
    assert page.js(COLUMNS) == [
        "Response 1 shown first Response 1 is better",
        "Response 2 shown first Response 2 is better",
    ]
    notes = page.js("[...document.querySelectorAll('.judge > p.note')].map((p) => p.textContent)")
    assert notes == [f"Here the judge calls response {x} “A” and response {y} “B”." for x, y in ((1, 2), (2, 1))]
    assert page.js("[...document.querySelectorAll('.judge h4')].map((h) => h.textContent)") == [
        *("type", "rubric", "eval", "answer") * 2
    ]
    assert page.js("document.querySelector('.judge h4:nth-of-type(2) + .text').textContent") == "cold"
    assert page.js("[...document.querySelectorAll('.judge pre')].map((pre) => pre.textContent)") == [says, says]
    facts = page.js("document.querySelector('#answer dl').innerText")
    assert "first-is-better, version 7" in facts
    assert "compact" in facts
    assert not page.complaints


@pytest.mark.parametrize(("order", "better"), [("ab", 1), ("ba", 2)])
def test_a_verdict_says_which_and_how_sure(page: Browser, order: str, better: int) -> None:
    fill(page, "this", "that", order=order)
    judge(page)
    assert page.js(TITLE) == f"Response {better} is better"
    assert "Confidence 100 %: the share of 1 judgement" in page.js("document.querySelector('#answer > p').textContent")
    assert page.js(STATUS) == f"Response {better} is better"  # what a screen reader is told
    assert page.js("document.querySelectorAll('.judge.right').length") == 1


def test_the_text_is_there_while_the_judge_writes_and_escape_ends_it(page: Browser, url: str) -> None:
    fill(page, "this", "that", temperature=2, seed=0)
    begin = time.monotonic()
    judge(page)
    takes = time.monotonic() - begin
    click(page, "judge")
    written = "Math.min(...[...document.querySelectorAll('.judge .writing')].map((text) => text.textContent.length))"
    page.until(f"document.querySelectorAll('.judge .writing').length === 2 && {written} > 20")
    before = page.js(written)
    page.until(f"{written} > {before}")
    assert page.js(TITLE) is None
    assert "0 of 2 judgements" in page.js("document.getElementById('progress').textContent")
    page.press("Escape")
    page.until(IDLE)
    assert page.js(STATUS) == "Stopped"
    assert page.js("document.querySelectorAll('.writing').length") == 0
    assert page.js("document.querySelector('.judge .text').textContent.length") >= before
    ends = time.monotonic() + takes / 2
    while httpx.get(f"{url}/health").json()["running"]:
        assert time.monotonic() < ends, "the judge goes on writing"
        time.sleep(0.05)


@pytest.mark.parametrize("method", ["round_robin", "circular", "knockout"])
def test_three_responses_are_ranked(page: Browser, url: str, method: str) -> None:
    texts = ["one", "two", "three"]
    options = {"method": method, "order": "ab", "seed": 3, "scale": 10}
    fill(page, *texts, **options)
    judge(page)
    answer = asked(url, "rank", prompt="Which is it?", responses=texts, **options | {"scale": [0, 10]})
    rows = page.js(
        "[...document.querySelectorAll('.ranking tbody tr')].map((row) => [row.cells[0].textContent,"
        "row.querySelector('th').firstChild.textContent, row.querySelector('small').textContent,"
        "row.cells[2].textContent, row.querySelector('i').style.width])"
    )
    order = [index for equal in answer["ranking"] for index in equal]
    assert [row[1:3] for row in rows] == [[f"Response {index + 1}", texts[index]] for index in order]
    scores = [answer["scores"][index] for index in order]
    assert [float(row[3]) for row in rows] == pytest.approx(scores, abs=5e-4)
    assert [float(row[4].strip("%")) for row in rows] == pytest.approx([10 * score for score in scores], abs=0.01)
    assert [int(row[0]) for row in rows] == [1 + sum(other > score for other in scores) for score in scores]
    assert page.js("[...document.querySelectorAll('.comparison h3')].map((title) => title.textContent)") == [
        f"Response {one['a'] + 1} and response {one['b'] + 1}" for one in answer["comparisons"]
    ]
    assert page.js("[...document.querySelectorAll('.comparison > summary span')].map((span) => span.textContent)") == [
        f"Response {one[one['verdict']] + 1} is better" for one in answer["comparisons"]
    ]
    if len(answer["ranking"][0]) == 1:
        assert page.js(TITLE) == f"Response {answer['best'] + 1} is best"
    else:
        assert "share first place" in page.js(TITLE)
    assert not page.complaints


def test_a_listwise_ranking_and_votes_and_identical_responses(page: Browser) -> None:
    fill(page, "one", "two", "three", method="listwise", order="ab", max_tokens=100)
    judge(page)
    assert page.js(TITLE) == "No verdict"  # this judge knows no lists
    assert "Here the judge calls response" in page.js("document.querySelector('.sample > .note').textContent")
    fill(page, "one", "two", "one", method="round_robin", order="ab", votes=2, max_tokens=5)
    judge(page)
    votes = "[...document.querySelectorAll('.comparison:first-child .sample > summary')].map((one) => one.textContent)"
    assert page.js(votes) == ["Vote 1: No verdict", "Vote 2: No verdict"]
    said = page.js("[...document.querySelectorAll('.comparison')].map((one) => one.textContent)")
    assert ["the judge was not asked" in one for one in said].count(True) == 1
    assert not page.complaints


def test_the_keyboard_is_enough(page: Browser) -> None:
    focused = "document.activeElement.id"
    seen = []
    while page.js(focused) != "prompt":
        page.press("Tab")
        seen.append(page.js(focused))
        assert len(seen) < 5
    for text in ("Which is it?", "this", "that"):
        page.type(text)
        page.press("Tab")
    page.press("N", code="KeyN", alt=True, shift=True)
    assert page.js(focused) == "response-2"
    page.type("neither")
    page.press("Backspace", alt=True, shift=True)
    assert page.js(focused) == "response-1"
    page.press("Enter", ctrl=True)
    page.until(f"{TITLE} && {IDLE}", 60)
    assert page.js(focused) == "response-1"  # where the person was
    page.js("document.getElementById('judge').focus()")
    page.press("Enter")
    page.until(f"{IDLE} && {TITLE} === 'It depends on the order'", 60)
    assert page.js(focused) == "judge"


def test_tab_reaches_every_control_visibly(page: Browser) -> None:
    fill(page, "this", "that", "neither")
    page.js("document.getElementById('options').open = true")
    judge(page)
    wanted = page.js(
        "[...document.querySelectorAll('button, input, select, textarea, summary, a, pre, .text')]"
        ".filter((one) => one.checkVisibility() && !one.disabled).length"
    )
    page.js("window.reached = new Set()")
    for _ in range(2 * wanted):
        page.press("Tab")
        outline = page.js(
            "(() => { const one = document.activeElement; if (one === document.body) return 'none needed';"
            "reached.add(one); return getComputedStyle(one).outlineStyle; })()"
        )
        assert outline != "none", page.js("document.activeElement.outerHTML")
        if page.js("reached.size") == wanted:
            return
    pytest.fail(f"Tab reached {page.js('reached.size')} of {wanted} controls")


@pytest.mark.parametrize("width", [360, 1200])
def test_the_page_is_no_wider_than_the_window(page: Browser, width: int) -> None:
    page.call("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=width < 600)
    try:
        fill(page, "x" * 500, "https://example.org/" + "y" * 300, "z", prompt="w" * 400)
        for details in ("options", None):
            if details:
                page.js(f"document.getElementById('{details}').open = true")
            judge(page)
            page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
            assert page.js("document.documentElement.scrollWidth") <= width
    finally:
        page.call("Emulation.clearDeviceMetricsOverride")


def test_what_somebody_wrote_is_text(page: Browser) -> None:
    fill(page, HOSTILE, "that", "neither", prompt=HOSTILE, order="ab")
    judge(page)
    assert page.js("[...document.querySelectorAll('.ranking small')].map((one) => one.textContent)").count(HOSTILE) == 1
    assert page.js("window.ran === undefined && document.querySelector('img') === null")
    assert page.js("document.scripts.length") == 1
    assert not page.complaints


def test_what_a_judge_wrote_is_text(page: Browser) -> None:
    """The judge at hand says one thing only, so its words are put into the server's events here."""
    judgement = {
        **{"order": "ab", "sample": 0, "verdict": "a", "text": HOSTILE, "ratings": None, "prompt_tokens": 1},
        **{"sections": {"rubric": HOSTILE + "<justify>" + HOSTILE, "justify": HOSTILE, HOSTILE: HOSTILE}},
        **{"completion_tokens": 1, "truncated": False, "version": 1},
    }
    result = {
        **{"verdict": "a", "confidence": 1, "consistent": None, "judgements": [judgement], "model": HOSTILE},
        **{"version": 1, "format": HOSTILE, "usage": {"judgements": 1, "prompt_tokens": 1, "completion_tokens": 1}},
    }
    page.js(
        f"""import("./static/answer.js").then(({{ Answer }}) => {{
        const answer = new Answer(document.getElementById("answer"), {{ path: "judge", body: {{}} }}, 1);
        answer.take("delta", {{ comparison: 0, order: "ab", sample: 0, text: {json.dumps(HOSTILE)} }});
        window.meanwhile = document.querySelector(".writing").textContent;
        answer.take("judgement", {{ comparison: 0, ...{json.dumps(judgement)} }});
        answer.take("result", {json.dumps(result)}); }})"""
    )
    assert page.js("window.meanwhile") == HOSTILE
    assert page.js("[...document.querySelectorAll('.judge pre, .judge em')].map((one) => one.textContent)") == [
        HOSTILE,
        HOSTILE,
    ]
    assert page.js("window.ran === undefined && document.querySelector('img') === null")
    assert not page.complaints


def test_a_policy_keeps_the_page_to_its_own_files(page: Browser, url: str) -> None:
    answer = httpx.get(f"{url}/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    sources = re.findall(r'(?:src|href)="([^"]+)"', answer.text)
    assert {source for source in sources if "static/" not in source} == {"data:,", "docs"}
    for source in sources:
        assert httpx.get(f"{url}/{source}").status_code == 200 or source == "data:,"
    assert httpx.get(f"{url}/static/__init__.py").status_code == 404
    refused = "(() => { try { document.body.innerHTML = '<b>x</b>'; } catch (error) { return String(error); } })()"
    assert "TrustedHTML" in page.js(refused)


def test_a_missing_and_a_wrong_key_are_explained(browser: Browser, url: str) -> None:
    opened(browser, url)
    fill(browser, "this", "that")
    judge(browser)
    said = "document.getElementById('key-problem').innerText"
    assert browser.js(said) == "This server wants an API key. Give yours here."
    assert browser.js("document.activeElement.id") == "key"
    browser.type("a-wrong-key-0123456789")
    browser.press("Enter", ctrl=True)
    browser.until(f"{said}.includes('does not take this API key') && {IDLE}")
    browser.js("document.getElementById('key').select()")
    browser.type(KEY)
    browser.press("Enter", ctrl=True)
    browser.until(f"{TITLE} && {IDLE}", 60)
    assert not browser.js(said)
    assert browser.js("[localStorage.length, document.cookie, location.href]") == [0, "", f"{url}/"]
    assert KEY not in browser.js("document.body.innerText")


def test_what_cannot_be_judged_is_said_beside_its_field(page: Browser) -> None:
    said = "[...document.querySelectorAll('.problem:not([hidden])')].map((one) => one.textContent).filter(Boolean)"
    wrong = "[...document.querySelectorAll('[aria-invalid]')].map((one) => one.id)"
    fill(page, "this", " ", prompt="")
    judge(page)
    assert page.js(wrong) == ["prompt", "response-1"]
    assert all("Is empty" in text for text in page.js(said))
    fill(page, "this", "that", " ")
    judge(page)
    assert page.js(wrong) == ["response-2"]
    fill(page, "this", "that", "neither", max_tokens=5000)
    judge(page)
    assert page.js(wrong) == ["max_tokens"]
    assert "ask for 1900 or less" in page.js(said)[0]
    assert page.js("document.getElementById('options').open")
    fill(page, "this", "that", "neither", max_tokens="", votes=2, temperature=0)
    judge(page)
    assert page.js(PROBLEM) == "Greedy judgements are all the same; give votes a temperature."
    fill(page, "this", "that", "neither", votes=1.5, temperature="")
    judge(page)
    assert page.js(wrong) == ["votes"]


def test_a_full_server_says_when_to_come_again(page: Browser, url: str) -> None:
    fill(page, "this", "that")
    body = {"prompt": "?", "response_a": "x", "response_b": "y", "temperature": 2, "seed": 1, "stream": True}
    asking = {"json": body, "headers": {"Authorization": f"Bearer {KEY}"}, "timeout": 60}
    with httpx.stream("POST", f"{url}/judge", **asking) as one, httpx.stream("POST", f"{url}/judge", **asking) as two:
        begun = [one.iter_raw(), two.iter_raw()]
        assert all(map(next, begun))
        judge(page)
    assert re.search(r"2 requests with this API key .*\. Wait \d+ s before you judge again\.", page.js(PROBLEM))


def test_a_server_that_is_gone(page: Browser) -> None:
    page.call("Network.enable")
    page.call("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
    try:
        judge(page)
        assert "cannot be reached" in page.js(PROBLEM)
    finally:
        page.call(
            "Network.emulateNetworkConditions", offline=False, latency=0, downloadThroughput=-1, uploadThroughput=-1
        )


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("", "The connection ended before the verdict. Judge again."),
        ('event: error\ndata: {"detail": "the engine has stopped"}\n\n', "The engine has stopped."),
    ],
)
def test_an_answer_that_breaks_off(page: Browser, event: str, said: str) -> None:
    begun = 'event: delta\ndata: {"comparison": 0, "order": "ab", "sample": 0, "text": "half a"}\n\n'
    page.js(f"window.fetch = async () => new Response({json.dumps(begun + event)})")
    judge(page)
    assert page.js(PROBLEM) == said
    assert page.js("document.querySelector('.judge .text').textContent") == "half a"
    assert page.js("document.querySelectorAll('.writing').length") == 0


ODD = """It's "odd": $HOME `id` $(id) \\n \\\\ %s {x} !! \t\r\n'; id #\u2028 \x07 \U0001f600 é [[B]]"""


@pytest.mark.parametrize("responses", [("this", ODD), (ODD, "that", "neither")])
def test_the_same_request_as_curl_and_as_python(page: Browser, url: str, responses: tuple[str, ...]) -> None:
    # a text area has no carriage return: it takes \r\n for \n
    fill(page, *responses, prompt=ODD, seed=4, max_tokens=900)
    click(page, "early_stop")
    texts = [text.replace("\r\n", "\n") for text in responses]
    named = {"responses": texts} if len(texts) > 2 else dict(zip(("response_a", "response_b"), texts, strict=True))
    body = {"prompt": ODD.replace("\r\n", "\n"), **named, "seed": 4, "max_tokens": 900, "early_stop": True}
    expected = asked(url, "rank" if len(texts) > 2 else "judge", **body)
    shown = {name: page.js(f"document.getElementById('{name}').textContent") for name in ("curl", "python")}
    assert all(KEY not in text and "GAVEL_API_KEY" in text for text in shown.values())
    environment = os.environ | {"GAVEL_API_KEY": KEY}
    run = {"curl": ["bash", "-c", shown["curl"]], "python": [sys.executable, "-c", shown["python"]]}
    for name, read in (("curl", json.loads), ("python", ast.literal_eval)):
        done = subprocess.run(run[name], env=environment, capture_output=True, timeout=60, check=True)
        assert read(done.stdout.decode()) == expected
    judge(page)
    assert page.js("document.querySelector('#answer dl').innerText").split()[1] == str(expected["usage"]["judgements"])


@pytest.mark.parametrize("allowed", [True, False])
def test_the_program_is_copied(page: Browser, allowed: bool) -> None:
    """Also where the page has no clipboard of its own, as over plain HTTP."""
    page.call("Emulation.setFocusEmulationEnabled", enabled=True)
    page.call("Browser.grantPermissions", permissions=["clipboardReadWrite", "clipboardSanitizedWrite"])
    if not allowed:
        page.js("void (navigator.clipboard.writeText = () => Promise.reject(new Error('not here')))")
    click(page, "example")
    for name in ("curl", "python"):
        button = f"document.querySelector('[data-copy={name}]')"
        page.js(f"{button}.focus()")
        page.press("Enter")
        page.until(f"{button}.textContent === 'Copied'")
        assert page.js("navigator.clipboard.readText()") == page.js(f"document.getElementById('{name}').textContent")


def test_the_number_of_judgements_to_come(page: Browser) -> None:
    cases = [(method, n) for method in get_args(Method) for n in (3, 4, 5, 8)]
    expected = [calls(method, n, orders, 3) for method, n in cases for orders in (1, 2)]
    found = page.js(
        f"""import("./static/request.js").then(({{ judgements }}) => {json.dumps(cases)}.flatMap(([method, n]) =>
        ["ab", "both"].map((order) => judgements({{ path: "rank",
        body: {{ method, order, votes: 3, responses: Array(n).fill("x") }} }}))))"""
    )
    assert found == expected


def test_an_example_and_as_many_responses_as_a_person_can_read(page: Browser) -> None:
    click(page, "example")
    assert page.js("[...document.querySelectorAll('textarea')].map((one) => one.value)") == ["Compute 3+4-2.", "5", "6"]
    for _ in range(10):
        click(page, "add")
    assert page.js("document.querySelectorAll('#responses textarea').length") == 8
    assert page.js("document.getElementById('add').disabled")
    page.js("document.querySelectorAll('#responses button')[0].click()")
    assert page.js("[...document.querySelectorAll('#responses label')].map((one) => one.textContent)") == [
        f"Response {n}" for n in range(1, 8)
    ]
    assert page.js("document.getElementById('response-0').value") == "6"


def test_controls_have_names(page: Browser) -> None:
    fill(page, "this", "that", "neither")
    page.js("document.getElementById('options').open = true")
    page.call("Accessibility.enable")
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    roles = {"textbox", "combobox", "spinbutton", "checkbox", "button"}
    controls = [node["name"]["value"].strip() for node in nodes if node.get("role", {}).get("value") in roles]
    assert len(controls) >= 20
    assert all(controls)
    assert {"Prompt", "Response 1", "Response 3", "Remove response 2", "API key", "Highest score"} <= {*controls}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_background(page: Browser, scheme: str) -> None:
    """WCAG AA: 4.5 to 1 for every text that is shown, also of problems and of what is switched off."""
    page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
    try:
        fill(page, "this", "that", "neither")
        judge(page)
        page.js("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        page.js("document.getElementById('problem').textContent = 'A problem.'")
        assert page.js(CONTRAST) == []
    finally:
        page.call("Emulation.setEmulatedMedia", features=[])


CONTRAST = """(() => {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgb = (color) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = color;
    canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = (color) => {
    const linear = (c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    const [r, g, b] = rgb(color).map((c) => linear(c / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (one) => {
    const color = getComputedStyle(one).backgroundColor;
    return rgb(color)[3] || !one.parentElement ? color : behind(one.parentElement);
  };
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
    if (!(own || one.value) || !one.checkVisibility()) continue;
    const [x, y] = [light(getComputedStyle(one).color), light(behind(one))];
    const ratio = (Math.max(x, y) + 0.05) / (Math.min(x, y) + 0.05);
    if (ratio < 4.5) found.push(`${one.outerHTML.slice(0, 80)}: ${ratio.toFixed(2)}`);
  }
  return found;
})()"""
"""The elements with less contrast than that. Backgrounds here are opaque or none."""
