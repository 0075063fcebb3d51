"""Evaluation as a user starts it: from files, from a model that is killed half way, from an endpoint."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ("--rollout.engines", "1", "--rollout.kv_cache_gib", "0.25")
COMMON = {"benchmark", "score", "sections", "pairs", "no_verdict", "consistency", "position_bias", "rule"}


def evaluate(*flags: object, timeout: float = 240, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "pipelines/evaluate.py", *map(str, flags)]
    env = os.environ | environment
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, env=env)


def result(run: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert run.returncode == 0, run.stdout + run.stderr
    return json.loads(run.stdout.splitlines()[-1])


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def line(pair: str, order: str, verdict: str | None, **more: object) -> dict[str, object]:
    return {
        "benchmark": "pairs",
        "pair_id": pair,
        "subset": "s",
        "gold": "a",
        "order": order,
        "verdict": verdict,
    } | more


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., Path]:
    def write(*lines: dict[str, object] | str, name: str = "judgements.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines))
        return path

    return write


def test_judgements_are_scored_without_model_and_data(file: Callable[..., Path]) -> None:
    path = file(line("p0", "ab", "a"), line("p0", "ba", "a"), line("p1", "ab", "a"), line("p1", "ba", None))
    run = evaluate("--judgements", path, "--json")
    found = result(run)

    assert found.keys() >= COMMON | {"accuracy"}
    assert (found["score"], found["consistency"], found["no_verdict"], found["pairs"]) == (0.75, 0.5, 0.25, 2)
    assert found["rule"].split(";")[0] in run.stdout
    assert "torch" not in run.stderr
    assert list(path.parent.iterdir()) == [path], "nothing is written that was not asked for"


def test_several_benchmarks_come_as_a_list(file: Callable[..., Path]) -> None:
    rm_bench = [
        line(f"8:{i}:{j}", "ab", "a" if i >= j else "b", benchmark="rm_bench", subset="chat")
        for i in range(3)
        for j in range(3)
    ]
    found = result(evaluate("--judgements", file(line("p0", "ab", "a"), *rm_bench), "--json"))

    assert [one["benchmark"] for one in found["results"]] == ["pairs", "rm_bench"]
    assert [found["results"][1][level] for level in ("easy", "normal", "hard")] == [1.0, 1.0, 0.0]


def test_reports_and_a_comparison_are_written(file: Callable[..., Path], tmp_path: Path) -> None:
    verdicts = ["a"] * 8 + ["b"] * 2
    ours = file(*[line(f"p{i}", "ab", verdict, model="ours") for i, verdict in enumerate(verdicts)], name="ours.jsonl")
    theirs = file(*[line(f"p{i}", "ab", "ab"[i % 2], model="theirs") for i in range(10)], name="theirs.jsonl")
    found = result(evaluate("--judgements", ours, "--compare", theirs, "--output", tmp_path / "out", "--json"))

    (comparison,) = found["comparisons"]
    assert (comparison["other"], comparison["first_only"], comparison["second_only"]) == ("theirs", 4, 1)
    assert comparison["difference"] == pytest.approx(0.3)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"scores.csv", "scores.md", "report.html"}


@pytest.mark.parametrize(
    ("lines", "flags", "problem"),
    [
        (['{"benchmark": "pairs", "pai'], [], r"judgements.jsonl, line 2: not JSON"),
        ([line("p0", "ab", "c")], [], r"judgements.jsonl, line 2: field 'verdict' is 'c', not one of"),
        ([line("p0", "ab", "a")], [], r"judgements.jsonl, line 2: pair 'p0' in order ab, sample 0, stands in"),
        ([line("p1", "ba", "a")], ["--benchmark", "rmb"], r"line 2: field 'benchmark' is 'pairs', but 'rmb' is to be"),
        ([line("p1", "ab", "a"), line("p1", "ba", "a")], [], "pair 'p0' of subset 's': no judgement in order ba"),
        ([], ["--benchmark", "pears"], "unknown benchmark 'pears'; known are rewardbench"),
        ([], ["--format", "haiku"], "unknown prompt format 'haiku'; known are rm_r1, rm_r1_reasoning"),
        ([], ["--option", "orders=ac"], "pairs: option orders='ac' is unknown; its values are mean, both, ab, ba"),
    ],
)
def test_what_cannot_be_scored_ends_with_one_line_and_nothing_written(
    file: Callable[..., Path], tmp_path: Path, lines: list[Any], flags: list[str], problem: str
) -> None:
    path = file(line("p0", "ab", "a"), *lines)
    run = evaluate("--judgements", path, *flags, "--json", "--output", tmp_path / "out")

    assert run.returncode == 1
    assert problem in run.stderr
    assert "Traceback" not in run.stderr
    assert run.stdout == ""
    assert not (tmp_path / "out").exists()


def test_missing_judgements_and_duplicates_count_as_one_says(file: Callable[..., Path]) -> None:
    gap = file(line("p0", "ab", "a"), line("p1", "ab", "a"), line("p1", "ba", "a"))
    twice = file(line("p0", "ab", "a"), line("p0", "ab", "b"), name="twice.jsonl")

    assert result(evaluate("--judgements", gap, "--missing", "wrong", "--json"))["score"] == 0.75
    assert result(evaluate("--judgements", twice, "--duplicates", "last", "--json"))["score"] == 0.0


def test_published_judge_outputs_are_scored_as_they_are(shared_data: Path) -> None:
    found = result(evaluate("--judgements", shared_data / "pandalm" / "pandalm-7b-testset-v1.json", "--json"))

    figures = [round(100 * found[name], 2) for name in ("accuracy", "precision", "recall", "f1")]
    assert figures == [66.77, 57.38, 57.50, 57.43]


@pytest.fixture(scope="module")
def benchmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RM-Bench and JudgeBench in their authors' format, with a few items of our own."""
    folder = tmp_path_factory.mktemp("benchmarks")
    (folder / "rm_bench").mkdir()
    prompts = [
        {
            "id": str(index),
            "prompt": f"What is {index} + 1?",
            "chosen": [f"{index + 1}" + "!" * style for style in range(3)],
            "rejected": [f"{index + 2}" + "!" * style for style in range(3)],
        }
        for index in range(20)
    ]
    for domain in ("chat", "math"):
        (folder / "rm_bench" / f"{domain}_filtered.json").write_text(json.dumps(prompts))
    pairs = [
        {
            "pair_id": f"j{index}",
            "source": "livebench-math",
            "question": f"What is {index} + 1?" + " Think." * (2000 if index == 3 else 1),
            "response_A": "1",
            "response_B": "2",
            "label": "A>B",
        }
        for index in range(4)
    ]
    (folder / "judgebench.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    return folder


@pytest.mark.thorough
def test_a_run_killed_half_way_buys_nothing_twice(first_is_better: Path, benchmarks: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    flags = ["--model", first_is_better, *SMALL, "--output", output, "--json"]
    flags += ["--benchmark", "rm_bench", "--data", benchmarks / "rm_bench"]
    flags += ["--benchmark", "judgebench", "--data", benchmarks / "judgebench.jsonl"]
    log = (tmp_path / "log").open("wb")
    command = [sys.executable, "pipelines/evaluate.py", *map(str, flags)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
    file = output / "rm_bench.jsonl"
    ends = time.monotonic() + 120
    while not file.exists() or file.stat().st_size < 5000:
        assert process.poll() is None, (tmp_path / "log").read_text()
        assert time.monotonic() < ends, (tmp_path / "log").read_text()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = file.read_bytes()
    whole = before[: before.rindex(b"\n") + 1]
    assert 0 < len(whole.splitlines()) < 720, "the run was to be killed in the middle"

    run = evaluate(*flags)
    found = {one["benchmark"]: one for one in result(run)["results"]}
    judged = Counter((row["subset"], row["pair_id"], row["order"]) for row in rows(file))
    assert file.read_bytes().startswith(whole), "what was bought stays as it was"
    assert len(judged) == 720
    assert set(judged.values()) == {1}
    assert f"{len(whole.splitlines())} judgements are on disk" in run.stderr

    # The judge always prefers the response shown first.
    rm_bench = found["rm_bench"]
    assert (rm_bench["score"], rm_bench["sections"]) == (0.5, {"chat": 0.5, "math": 0.5})
    assert (rm_bench["position_bias"], rm_bench["consistency"], rm_bench["no_verdict"]) == (0.5, 0.0, 0.0)
    assert rm_bench["accuracy_by_order"] == {"ab": 1.0, "ba": 0.0}
    # One prompt of JudgeBench does not fit, in either order: no verdict, and not a smaller denominator.
    assert (found["judgebench"]["pairs"], found["judgebench"]["no_verdict"]) == (4, 0.25)
    reasons = [row["reason"] for row in rows(output / "judgebench.jsonl") if "reason" in row]
    assert len(reasons) == 2
    assert "fit beside a judgement" in reasons[0]

    again = evaluate(*flags)
    assert result(again)["results"] == result(run)["results"]
    assert len(rows(file)) == 720
    fewer = {one["benchmark"]: one for one in result(evaluate(*flags, "--limit", 9))["results"]}
    assert (fewer["rm_bench"]["pairs"], fewer["judgebench"]["pairs"]) == (9, 4)
    other = evaluate(*flags, "--temperature", "1")
    assert other.returncode == 1
    assert "temperature: 0.0 then, 1.0 now); name another --output" in other.stderr


@pytest.mark.thorough
def test_a_template_file_asks_in_its_own_words(vllm_url: str, benchmarks: Path, tmp_path: Path) -> None:
    template = tmp_path / "mine.yaml"
    words = "Question: {question}\\n1: {response_a}\\n2: {response_b}"
    template.write_text(f'name: mine\nuser: "{words}"\nverdict: {{"[[A]]": second, "[[B]]": first}}\n')
    flags = ["--endpoint", vllm_url, "--model", "first", "--rollout.max_new_tokens", "64", "--format", template]
    flags += ["--output", tmp_path / "out", "--json", "--subset", "chat", "--limit", 9]
    flags += ["--benchmark", "rm_bench", "--data", benchmarks / "rm_bench"]
    found = result(evaluate(*flags))

    assert (found["format"], found["pairs"], found["sections"]) == ("mine", 9, {"chat": 0.5})
    assert found["position_bias"] == -0.5, "what the judge says means the other one here"
    template.write_text(template.read_text().replace("1:", "one:"))
    assert "template: " in evaluate(*flags).stderr


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def judgebench(benchmarks: Path, url: str, output: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    data = ("--benchmark", "judgebench", "--data", benchmarks / "judgebench.jsonl")
    return evaluate("--endpoint", url, *data, "--output", output, "--json", *flags)


def test_a_gavel_endpoint_judges(endpoint: str, benchmarks: Path, tmp_path: Path) -> None:
    found = result(judgebench(benchmarks, endpoint, tmp_path / "out"))
    wrong = judgebench(benchmarks, endpoint, tmp_path / "wrong", "--format", "rrm")

    # A judge that always prefers the first is right in one order and wrong in the other: no pair's sum is positive.
    assert (found["score"], found["position_bias"], found["no_verdict"]) == (0.0, 0.5, 0.25)
    assert (found["model"], found["format"]) == ("first-is-better", "compact")
    judged = rows(tmp_path / "out" / "judgebench.jsonl")
    assert {(row["version"], bool(row["verdict"])) for row in judged} == {(7, True), (0, False)}
    assert "asked in 'compact'; leave it out" in wrong.stderr


@pytest.mark.thorough
def test_an_openai_compatible_endpoint_judges(vllm_url: str, benchmarks: Path, tmp_path: Path) -> None:
    flags = ("--model", "first", "--format", "compact", "--rollout.max_new_tokens", "64", "--samples", "2")
    run = judgebench(benchmarks, vllm_url, tmp_path / "out", *flags, "--temperature", "0")
    found = result(run)

    assert (found["score"], found["position_bias"], found["no_verdict"]) == (0.0, 0.5, 0.25), run.stderr
    assert (found["samples"], found["model"]) == (2, "first")
    judged = rows(tmp_path / "out" / "judgebench.jsonl")
    assert {row["sample"] for row in judged} == {0, 1}
    assert all(row["prompt_tokens"] > 0 for row in judged if row["verdict"])


class Failing(http.server.BaseHTTPRequestHandler):
    """Answers with the next of `script`: a status, or a judge's text. After its end, with the last one for ever."""

    script: list[int | str]
    asked = 0

    def do_GET(self) -> None:
        self.send_error(404)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        step = type(self).script[min(type(self).asked, len(type(self).script) - 1)]
        type(self).asked += 1
        status = step if isinstance(step, int) else 200
        message = {"role": "assistant", "content": step}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer: dict[str, Any] = {"id": "1", "object": "chat.completion", "created": 1, "model": "m"}
        answer |= {"choices": [choice]} if status == 200 else {"error": {"message": "the fake refuses"}}
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after-ms", "10")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def failing() -> Iterator[Callable[..., tuple[str, type[Failing]]]]:
    """Starts a server that fails as it is told: no real one does so on demand."""
    servers = []

    def start(*script: int | str) -> tuple[str, type[Failing]]:
        handler = type("Handler", (Failing,), {"script": list(script), "asked": 0})
        started = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=started.serve_forever, daemon=True).start()
        servers.append(started)
        return f"http://127.0.0.1:{started.server_port}/v1", handler

    yield start
    for one in servers:
        one.shutdown()


FLAGS = ("--model", "m", "--format", "rm_r1", "--concurrency", "1")


@pytest.mark.thorough
def test_passing_failures_are_asked_again(
    benchmarks: Path, tmp_path: Path, failing: Callable[..., tuple[str, type[Failing]]]
) -> None:
    url, handler = failing(429, 503, "<answer>[[A]]</answer>")
    found = result(judgebench(benchmarks, url, tmp_path / "out", *FLAGS))

    assert (found["no_verdict"], found["position_bias"]) == (0.0, 0.5)
    assert handler.asked == 8 + 2


@pytest.mark.thorough
def test_a_server_that_gives_up_loses_nothing_that_was_bought(
    benchmarks: Path, tmp_path: Path, failing: Callable[..., tuple[str, type[Failing]]]
) -> None:
    url, _ = failing("<answer>[[A]]</answer>", "<answer>[[A]]</answer>", 401)
    stopped = judgebench(benchmarks, url, tmp_path / "out", *FLAGS)
    assert stopped.returncode == 1
    assert "refused pair 'j1': 401 the fake refuses" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert len(rows(tmp_path / "out" / "judgebench.jsonl")) == 2
    settings = tmp_path / "out" / "judgebench.settings.json"
    settings.write_text(settings.read_text().replace(url, "URL"))  # the next fake has another port

    url, handler = failing("<answer>[[B]]</answer>")
    settings.write_text(settings.read_text().replace("URL", url))
    assert result(judgebench(benchmarks, url, tmp_path / "out", *FLAGS))["judgements"] == 8
    assert handler.asked == 6


@pytest.mark.thorough
def test_nobody_at_the_endpoint_is_said_at_once(benchmarks: Path, tmp_path: Path) -> None:
    run = judgebench(benchmarks, f"http://127.0.0.1:{free_port()}", tmp_path / "out", *FLAGS)

    assert run.returncode == 1
    assert "nothing answers there" in run.stderr
