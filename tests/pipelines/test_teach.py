"""Teaching as a user starts it: a scripted faulty teacher, kills half way, Anthropic's protocol, and a real vLLM."""

from __future__ import annotations

import http.server
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def command(*flags: object) -> list[str]:
    return [sys.executable, "pipelines/teach.py", *map(str, flags)]


def teach(*flags: object, timeout: float = 120, **environment: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"OPENAI_API_KEY": "none"} | environment
    return subprocess.run(
        command(*flags), cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False, env=env
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_pairs(path: Path, count: int) -> Path:
    """Pairs whose question has their number, and whose better response says "better"; gold alternates."""
    lines = []
    for index in range(count):
        good, bad = f"the better answer, number {index}", f"the lesser answer, number {index}"
        a, b, gold = (good, bad, "a") if index % 2 else (bad, good, "b")
        lines.append(
            {"id": f"p{index}", "prompt": f"Question {index}?", "response_a": a, "response_b": b, "gold": gold}
        )
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def pairs(tmp_path: Path) -> Callable[[int], Path]:
    return lambda count: write_pairs(tmp_path / "pairs.jsonl", count)


@dataclass
class Asked:
    """One request: the number in the question, whether the label was shown, which letter is right, and how often."""

    number: int
    hinted: bool
    right: str
    times: int
    body: dict[str, Any]

    @property
    def wrong(self) -> str:
        return "B" if self.right == "A" else "A"

    def trace(self, letter: str = "", quote: str = "the better answer", said: str = "", rubric: str = "") -> str:
        """A trace that is clean, unless it is told otherwise."""
        rubric = rubric or "Fit (70%)\nForm (30%)<justify>as was asked</justify>"
        return (
            f"<type>Chat</type><rubric>{rubric}</rubric><eval>{said}<quote_{self.right}>{quote}, number {self.number}"
            f"</quote_{self.right}> is what fits.</eval><answer>[[{letter or self.right}]]</answer>"
        )


@dataclass
class Reply:
    """What the teacher answers, and after how many seconds."""

    text: str = ""
    status: int = 200
    finish: str = "stop"
    after: float = 0.0
    message: str = "the fake refuses"
    raw: str = ""


@dataclass
class FaultyTeacher:
    """A teacher that fails as it is told, in OpenAI's protocol and in Anthropic's. `hold` keeps it from answering."""

    script: Callable[[Asked], Reply]
    url: str = ""
    asked: Counter[tuple[int, bool]] = field(default_factory=Counter)
    answered: Counter[tuple[int, bool]] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)
    most: int | None = None
    busy: int = 0
    busiest: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def ask(self, body: dict[str, Any]) -> Reply | None:
        """The reply, or None where `most` answers were given: then the caller waits until it is killed."""
        shown = body["messages"][-1]["content"]
        number = int(re.search(r"Question (\d+)", shown)[1])  # type: ignore[index]
        hinted = "A note for you alone" in shown
        first = shown.index(f"the better answer, number {number}") < shown.index(f"the lesser answer, number {number}")
        with self.lock:
            self.bodies.append(body)
            self.asked[number, hinted] += 1
            asked = Asked(number, hinted, "A" if first else "B", self.asked[number, hinted], body)
            reply = self.script(asked)
            if reply.status == 200:
                if self.most is not None and self.answered.total() >= self.most:
                    return None
                self.answered[number, hinted] += 1
        time.sleep(reply.after)
        return reply


def answer_of(reply: Reply, anthropic: bool) -> dict[str, Any]:
    if reply.status != 200:
        return {"type": "error", "error": {"type": "fake", "message": reply.message}}
    if anthropic:
        usage = {"input_tokens": 100, "output_tokens": 10}
        stop = {"stop": "end_turn", "length": "max_tokens"}[reply.finish]
        content = [{"type": "text", "text": reply.text}]
        return {"id": "1", "type": "message", "role": "assistant", "model": "m", "content": content} | {
            "stop_reason": stop,
            "stop_sequence": None,
            "usage": usage,
        }
    choice = {"index": 0, "finish_reason": reply.finish, "message": {"role": "assistant", "content": reply.text}}
    usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
    return {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}


def handler_of(teacher: FaultyTeacher) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with teacher.lock:
                teacher.busy += 1
                teacher.busiest = max(teacher.busiest, teacher.busy)
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            reply = None if self.is_alone() else teacher.ask(body)
            with teacher.lock:
                teacher.busy -= 1
            if reply is None:
                with suppress(OSError):
                    self.connection.recv(1)  # until the one who asked is dead
                self.close_connection = True
                return
            text = (reply.raw or json.dumps(answer_of(reply, self.path.endswith("/messages")))).encode()
            self.send_response(reply.status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.send_header("retry-after-ms", "10")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(text)

        def is_alone(self) -> bool:
            """Whether the one who asked was killed before this request had its turn: then no answer is counted."""
            try:
                return not self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            except BlockingIOError:
                return False
            except OSError:
                return True

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@pytest.fixture
def faulty() -> Iterator[Callable[[Callable[[Asked], Reply]], FaultyTeacher]]:
    """Starts a teacher that fails on demand: no real one does."""
    servers = []

    def start(script: Callable[[Asked], Reply]) -> FaultyTeacher:
        teacher = FaultyTeacher(script)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(teacher))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        teacher.url = f"http://127.0.0.1:{server.server_port}/v1"
        return teacher

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


def two_teachers(teacher: FaultyTeacher, pairs: Path, output: Path, *flags: object) -> list[object]:
    named = ["--teacher", teacher.url, "--teacher-model", "first", "--second", teacher.url, "--second-model", "second"]
    return ["--pairs", pairs, "--output", output, *named, *flags]


def a_long_list_of_faults(asked: Asked) -> Reply:
    wrong = Reply(asked.trace(asked.wrong))
    clean = Reply(asked.trace())
    label = f"As indicated, the correct answer is given as {asked.right}. "
    hint_again = "Of the two responses, the one shown first, or second, is the better one. "
    once: dict[int, Reply] = {
        0: clean,
        1: wrong,
        2: Reply(asked.trace(quote="words that nobody wrote")),
        3: Reply(asked.trace(quote="the lesser answer")),
        4: Reply(asked.trace(), finish="length"),
        5: Reply("<answer>[[A/B]]</answer>"),
        6: Reply(asked.trace(rubric="Fit (70%)\nForm (70%)<justify>as was asked</justify>")),
        7: Reply(asked.trace(rubric="Fit\nForm<justify>as was asked</justify>")),
        8: Reply(asked.trace(said=label)),
        9: Reply(status=400, message="the prompt is too long: maximum context length is 10"),
        10: Reply(status=429) if asked.times == 1 else clean,
        11: Reply(status=500) if asked.times < 3 else clean,
        12: Reply(asked.trace(), after=1.0) if asked.times == 1 else clean,
        13: wrong,
        14: wrong,
        15: Reply(status=500),
    }
    if not asked.hinted:
        return once[asked.number]
    hints = {1: clean, 13: wrong, 14: Reply(asked.trace(said=hint_again)), 2: clean}
    return hints.get(asked.number, Reply(asked.trace(said=label)))


def test_only_clean_traces_pass_and_every_rejection_has_its_reason(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    teacher, output = faulty(a_long_list_of_faults), tmp_path / "out"
    prices = ("--price-in", 3, "--price-out", 15, "--second-price-in", 2, "--second-price-out", 8)
    flags = two_teachers(teacher, pairs(16), output, *prices, "--retries", 3, "--timeout", 0.5, "--concurrency", 4)
    run = teach(*flags)

    assert run.returncode == 1
    assert "1 prompts got no answer; the same command again asks for them" in run.stderr, run.stderr
    assert "Traceback" not in run.stderr
    traces = {row["pair_id"]: row for row in rows(output / "traces.jsonl")}
    assert set(traces) == {"p0", "p1", "p2", "p10", "p11", "p12"}
    assert {name: row["pass"] for name, row in traces.items() if row["pass"] == 2} == {"p1": 2, "p2": 2}
    assert all("A note for you alone" not in row["messages"][-1]["content"] for row in traces.values())
    assert (traces["p1"]["teacher"], traces["p0"]["teacher"]) == ("second", "first")
    assert (traces["p0"]["prompt_tokens"], traces["p0"]["gold"]) == (100, "b")

    why = {
        (row["pair_id"], row["pass"]): [one["reason"] for one in row["reasons"]]
        for row in rows(output / "rejected.jsonl")
    }
    assert {name: reasons for (name, number), reasons in why.items() if number == 1} == {
        "p1": ["wrong_verdict"],
        "p2": ["invented_quote"],
        "p3": ["swapped_quote"],
        "p4": ["truncated"],
        "p5": ["no_verdict", "incomplete"],
        "p6": ["weights"],
        "p7": ["missing_weights"],
        "p8": ["hint_mentioned", "hint_mentioned"],
        "p9": ["refused"],
        "p13": ["wrong_verdict"],
        "p14": ["wrong_verdict"],
    }
    again = {name: set(reasons) for (name, number), reasons in why.items() if number == 2}
    assert again == {f"p{i}": {"hint_mentioned"} for i in (3, 4, 5, 6, 7, 8, 9, 14)} | {"p13": {"wrong_verdict"}}

    summary = json.loads(run.stdout)
    assert summary == json.loads((output / "summary.json").read_text())
    first, second = summary["passes"]["1"], summary["passes"]["2"]
    assert (summary["prompts"], summary["traces"], summary["rejected"]) == (16, 6, 20)
    assert [name.split("/")[0] for name in summary["unanswered"]] == ["p15"]
    assert (first["accepted"], first["rejected"], second["accepted"], second["rejected"]) == (4, 11, 2, 9)
    assert first["reasons"]["wrong_verdict"] == 3
    assert second["reasons"] == {"hint_mentioned": 8, "wrong_verdict": 1}
    assert (first["prompt_tokens"], first["completion_tokens"]) == (1400, 140), "a refusal costs nothing"
    assert first["cost"] == pytest.approx(1400 * 3e-6 + 140 * 15e-6)
    assert summary["cost"] == pytest.approx(first["cost"] + 1100 * 2e-6 + 110 * 8e-6)
    assert teacher.asked[10, False] == 2
    assert teacher.asked[11, False] == 3
    assert teacher.asked[15, False] == 4

    before = (output / "traces.jsonl").read_bytes()
    teacher.asked.clear()
    teacher.script = lambda asked: Reply(asked.trace())
    more = teach(*flags)
    assert more.returncode == 0, more.stderr
    assert teacher.asked == {(15, False): 1}, "what is on disk is not asked for again"
    assert (output / "traces.jsonl").read_bytes().startswith(before)


def test_killed_at_any_moment_it_buys_nothing_twice(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(asked.trace(asked.right if asked.hinted or asked.number % 3 else asked.wrong), after=0.01)

    teacher, output = faulty(script), tmp_path / "out"
    flags = two_teachers(teacher, pairs(12), output, "--concurrency", 3)
    files = [output / "first.jsonl", output / "second.jsonl"]

    def on_disk() -> int:
        return sum(file.read_bytes().count(b"\n") for file in files if file.exists())

    for most in (2, 7, 13):  # answers, of 12 + 4
        teacher.most = most
        log = (tmp_path / "log").open("wb")
        process = subprocess.Popen(command(*flags), cwd=ROOT, stdout=log, stderr=log)
        ends = time.monotonic() + 60
        while on_disk() < most:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < ends, (tmp_path / "log").read_text()
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert on_disk() == most
        with files[0].open("ab") as file:
            file.write(b'{"benchmark": "pairs", "pair')  # as a kill in the middle of a line leaves it
    teacher.most = None
    run = teach(*flags)

    assert run.returncode == 0, run.stderr
    assert teacher.answered == Counter([(i, False) for i in range(12)] + [(i, True) for i in range(0, 12, 3)])
    assert teacher.asked.total() <= 16 + 3 * 3, "at most what was under way at each kill is asked for again"
    assert json.loads(run.stdout)["traces"] == 12
    assert [row["pair_id"] for row in rows(output / "traces.jsonl")] == [f"p{i}" for i in range(12)]
    once_more = teach(*flags)
    assert json.loads(once_more.stdout)["passes"]["1"]["bought_now"] == 0
    assert teacher.answered.total() == 16

    other = teach(*flags, "--max-tokens", 100)
    assert other.returncode == 1
    assert "max_tokens: 8192 then, 100 now); name another --output" in other.stderr
    changed = (tmp_path / "pairs.jsonl").read_text().replace("Question 4?", "Question 4!")
    (tmp_path / "pairs.jsonl").write_text(changed)
    assert "pair 'p4' has changed since it was judged" in teach(*flags).stderr


def test_a_second_teacher_can_come_later_and_the_first_is_scored_as_any_judge(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    teacher = faulty(lambda asked: Reply(asked.trace("" if asked.hinted or asked.number else asked.wrong), after=0.1))
    flags = two_teachers(teacher, pairs(4), tmp_path / "out", "--concurrency", 2)
    alone = json.loads(teach(*flags[:8], *flags[-2:]).stdout)
    both = json.loads(teach(*flags).stdout)

    assert (alone["traces"], alone["passes"]["2"]["answers"], both["traces"]) == (3, 0, 4)
    assert teacher.busiest == 2
    assert alone["cost"] is None, "without a price there is no cost"
    assert teacher.asked == Counter([(0, True), *((i, False) for i in range(4))])
    score = [sys.executable, "pipelines/evaluate.py", "--judgements", str(tmp_path / "out" / "first.jsonl"), "--json"]
    run = subprocess.run(score, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert json.loads(run.stdout.splitlines()[-1])["score"] == 0.75, run.stderr


def test_the_policy_teaches_itself_until_enough_is_clean(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    """Question i is judged rightly from sample i on; of four samples, two clean ones are kept."""
    teacher = faulty(lambda asked: Reply(asked.trace("" if asked.body["seed"] >= asked.number else asked.wrong)))
    flags = ["--self", "--pairs", pairs(5), "--output", tmp_path / "out", "--teacher", teacher.url]
    flags += ["--teacher-model", "policy", "--samples", 4, "--keep", 2]
    summary = json.loads(teach(*flags).stdout)

    assert {number: count for (number, _), count in teacher.asked.items()} == {0: 2, 1: 3, 2: 4, 3: 4, 4: 4}
    kept = Counter(row["pair_id"] for row in rows(tmp_path / "out" / "traces.jsonl"))
    assert kept == {"p0": 2, "p1": 2, "p2": 2, "p3": 1}
    assert (summary["traces"], summary["rejected"], summary["passes"]["1"]["reasons"]) == (7, 10, {"wrong_verdict": 10})
    assert {body["temperature"] for body in teacher.bodies} == {1.0}
    assert json.loads(teach(*flags).stdout)["passes"]["1"]["bought_now"] == 0


def test_anthropic_is_asked_in_its_own_protocol(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    def script(asked: Asked) -> Reply:
        if asked.number == 0 and asked.times < 3:
            return Reply(status=(429, 529)[asked.times - 1])
        return Reply(asked.trace(), finish="length" if asked.number == 1 and not asked.hinted else "stop")

    teacher = faulty(script)
    named = ["--teacher", "anthropic", "--teacher-model", "m", "--second", "anthropic", "--second-model", "m2"]
    flags = ["--pairs", pairs(3), "--output", tmp_path / "out", *named, "--price-in", 3, "--price-out", 15]
    where = {"ANTHROPIC_BASE_URL": teacher.url.removesuffix("/v1")}
    run = teach(*flags, ANTHROPIC_API_KEY="secret", **where)
    summary = json.loads(run.stdout)

    assert (summary["traces"], summary["passes"]["1"]["reasons"]) == (3, {"truncated": 1}), run.stderr
    assert summary["passes"]["1"]["cost"] == pytest.approx(300 * 3e-6 + 30 * 15e-6)
    assert summary["cost"] is None, "the second teacher's price is not known"
    assert {message["role"] for body in teacher.bodies for message in body["messages"]} == {"user"}
    assert all(body["system"].startswith("You are an impartial judge") for body in teacher.bodies)
    assert "secret" not in "".join(file.read_text() for file in (tmp_path / "out").iterdir())
    without = teach(*flags, ANTHROPIC_API_KEY="", **where)
    assert "Anthropic's key is not set" in without.stderr


def test_a_teacher_that_is_gone_ends_the_run_and_what_was_bought_stays(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(asked.trace()) if asked.number < 2 else Reply(status={3: 429, 4: 503}.get(asked.number, 500))

    teacher = faulty(script)
    flags = [*two_teachers(teacher, pairs(30), tmp_path / "out")[:8], "--concurrency", 1, "--retries", 1]
    run = teach(*flags)
    assert run.returncode == 1
    assert "503 the fake refuses; so it was 3 times in a row, retries and all" in run.stderr
    assert teacher.asked.total() == 2 + 3 * 2
    assert len(rows(tmp_path / "out" / "traces.jsonl")) == 2, "what there is, is written down"

    teacher.script = lambda asked: Reply(status=401)
    refused = teach(*flags)
    assert "refused: 401 the fake refuses; mend what it names" in refused.stderr
    assert "Traceback" not in run.stderr + refused.stderr
    assert len(rows(tmp_path / "out" / "first.jsonl")) == 2


def test_what_is_no_answer_is_asked_for_again_another_time(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    raw = {0: "<html>", 2: "{}", 4: '{"choices": [{"index": 0}]}'}
    half = (
        '{"choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "\\ud83d"}}]}'
    )

    def script(asked: Asked) -> Reply:
        return Reply(asked.trace(), raw=raw.get(asked.number, half if asked.number == 5 else ""))

    teacher = faulty(script)
    flags = [*two_teachers(teacher, pairs(6), tmp_path / "out")[:8], "--concurrency", 1]
    run = teach(*flags)
    summary = json.loads(run.stdout)

    assert (run.returncode, "Traceback" in run.stderr) == (1, False)
    assert {name.split("/")[0] for name in summary["unanswered"]} == {"p0", "p2", "p4"}
    assert (summary["traces"], summary["passes"]["1"]["reasons"]) == (2, {"incomplete": 1, "no_verdict": 1})
    assert summary["passes"]["1"]["answers_without_token_counts"] == 1
    raw.clear()
    assert json.loads(teach(*flags).stdout)["traces"] == 5


@pytest.mark.parametrize(
    ("flags", "status", "problem"),
    [
        (["--second", "http://x/v1"], 2, "--second and --second-model go together"),
        (["--self", "--second", "http://x/v1", "--second-model", "m"], 2, "leave --second out"),
        (["--samples", "3"], 2, "--samples and --keep belong to --self"),
        (["--price-in", "dear"], 2, "'dear' is not a price"),
        (["--format", "pointwise"], 1, "it does not show a pair"),
        (["--format", "haiku"], 1, "unknown prompt format 'haiku'"),
    ],
)
def test_bad_flags_are_named(
    pairs: Callable[[int], Path], tmp_path: Path, flags: list[str], status: int, problem: str
) -> None:
    needed = ["--pairs", pairs(1), "--output", tmp_path / "out", "--teacher", "http://x/v1", "--teacher-model", "m"]
    run = teach(*needed, *flags)
    assert (run.returncode, problem in run.stderr) == (status, True), run.stderr
    assert not (tmp_path / "out").exists()


def test_ties_are_not_taught(
    faulty: Callable[..., FaultyTeacher], pairs: Callable[[int], Path], tmp_path: Path
) -> None:
    teacher, path = faulty(lambda asked: Reply(asked.trace())), pairs(2)
    path.write_text(path.read_text().replace('"gold": "a"', '"gold": "tie"'))
    summary = json.loads(teach(*two_teachers(teacher, path, tmp_path / "out")[:8]).stdout)
    assert (summary["skipped_ties"], summary["prompts"], teacher.asked) == (1, 1, {(0, False): 1})


@pytest.mark.thorough
def test_a_local_vllm_teaches(says: str, vllm_url: str, pairs: Callable[[int], Path], tmp_path: Path) -> None:
    """It always prefers the response shown first, label or not: half of its traces are clean."""
    common = ["--pairs", pairs(4), "--format", "compact", "--orders", "both", "--max-tokens", 64, "--temperature", 0]
    common += ["--teacher", vllm_url, "--teacher-model", "first"]
    run = teach(*common, "--output", tmp_path / "out", "--second", vllm_url, "--second-model", "first")
    own = teach(*common, "--output", tmp_path / "self", "--self", "--samples", 2)
    summary = json.loads(run.stdout)

    assert (summary["prompts"], summary["traces"], summary["unanswered"]) == (8, 4, {}), run.stderr
    assert [summary["passes"][n]["reasons"] for n in "12"] == [{"wrong_verdict": 4}, {"wrong_verdict": 4}]
    assert (
        summary["passes"]["1"]["completion_tokens"]
        == 8 * rows(tmp_path / "out" / "traces.jsonl")[0]["completion_tokens"]
    )
    traces = rows(tmp_path / "out" / "traces.jsonl")
    assert {row["text"] for row in traces} == {says}
    assert all(row["gold"] == row["order"][0] for row in traces)
    itself = json.loads(own.stdout)
    assert (itself["traces"], itself["passes"]["1"]["answers"]) == (4, 6), own.stderr
