"""Teaching in batches, with the vendors' own clients against a server that speaks both batch APIs and fails as told."""

from __future__ import annotations

import http.server
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipelines.batches import split
from pipelines.openai_teacher import OpenAITeacher
from pipelines.teach import main

ROOT = Path(__file__).parents[2]
KINDS = ("openai", "anthropic")


@dataclass
class Vendor:
    """Batches of either vendor. `script` says what comes of a question, by its number and whether it is hinted."""

    script: Callable[[int, bool], str] = lambda number, hinted: "clean"
    url: str = ""
    files: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    asked: Counter[tuple[int, bool]] = field(default_factory=Counter)
    open: threading.Event = field(default_factory=threading.Event)
    hang: bool = False
    fail: int = 0
    down: int = 0
    half: int = 0
    gone: bool = False
    reject: str = ""
    refuse: str = ""
    status: str = "completed"

    def submit(self, lines: list[dict[str, Any]], metadata: dict[str, str] | None) -> dict[str, Any]:
        name = f"batch_{len(self.batches)}"
        self.batches[name] = {"lines": lines, "metadata": metadata, "made": time.time()}
        self.asked.update(self.question(line)[:2] for line in lines)
        return self.shown(name)

    def question(self, line: dict[str, Any]) -> tuple[int, bool, str, str]:
        shown = (line.get("params") or line["body"])["messages"][-1]["content"]
        number = int(re.search(r"Question (\d+)", shown)[1])  # type: ignore[index]
        first = shown.index(f"the better answer, number {number}") < shown.index(f"the lesser answer, number {number}")
        return number, "A note for you alone" in shown, *("AB" if first else "BA")

    def shown(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        size, ended = len(batch["lines"]), self.open.is_set()
        if batch["metadata"] is None:
            made = datetime.fromtimestamp(batch["made"], UTC).isoformat()
            counts = dict.fromkeys(("processing", "succeeded", "errored", "canceled", "expired"), 0)
            counts["succeeded" if ended else "processing"] = size
            results = f"{self.url}/v1/messages/batches/{name}/results" if ended else None
            state = {"processing_status": "ended" if ended else "in_progress", "results_url": results}
            dates = {"created_at": made, "expires_at": made}
            return {"id": name, "type": "message_batch", "request_counts": counts} | state | dates
        status = ("failed" if self.refuse else self.status) if ended else "in_progress"
        counts = {"total": size, "completed": size if ended else 0, "failed": 0}
        files = {"output_file_id": f"out_{name}", "error_file_id": f"err_{name}"} if ended and not self.refuse else {}
        errors = {"data": [{"message": self.refuse}]} if self.refuse else None
        return {
            "id": name,
            "object": "batch",
            "endpoint": "/v1/chat/completions",
            "input_file_id": "f",
            "completion_window": "24h",
            "created_at": int(batch["made"]),
            "status": status,
            "request_counts": counts,
            "metadata": batch["metadata"],
            "errors": errors,
        } | files

    def results(self, name: str, kind: str) -> list[dict[str, Any]]:
        """In reverse; OpenAI's errors are in a file of their own."""
        rows = []
        for line in reversed(self.batches[name]["lines"]):
            number, hinted, right, wrong = self.question(line)
            what = self.script(number, hinted)
            if what == "missing":
                continue
            text = (
                f"<type>Chat</type><rubric>Fit (70%)\nForm (30%)<justify>as was asked</justify></rubric><eval>"
                f"<quote_{right}>the better answer, number {number}</quote_{right}> is what fits.</eval>"
                f"<answer>[[{wrong if what == 'wrong' else right}]]</answer>"
            )
            row = {"custom_id": line["custom_id"]}
            if kind == "anthropic":
                result: dict[str, Any] = {"type": what}
                message = {"expired": "", "errored": "overloaded", "long": "prompt is too long: 9 tokens"}.get(what)
                if message is None:
                    stop = {"cut": "max_tokens", "refusal": "refusal"}.get(what, "end_turn")
                    said = {"id": "1", "type": "message", "role": "assistant", "model": "m", "stop_reason": stop}
                    content = [{"type": "text", "text": text}]
                    usage = {"input_tokens": 100, "output_tokens": 10}
                    result = {"type": "succeeded", "message": said | {"content": content, "usage": usage}}
                elif message:
                    error = {"type": "invalid_request_error" if what == "long" else "api_error", "message": message}
                    result = {"type": "errored", "error": {"type": "error", "error": error}}
                rows.append(row | {"result": result})
                continue
            lost = what in ("expired", "errored", "long")
            if lost != (kind == "err"):
                continue
            if what == "expired":
                rows.append(row | {"response": None, "error": {"code": "batch_expired", "message": "out of time"}})
            elif lost:
                message = "overloaded" if what == "errored" else "maximum context length is 10"
                body = {"error": {"message": message}}
                rows.append(row | {"response": {"status_code": 400, "body": body}, "error": None})
            else:
                finish = {"cut": "length", "refusal": "content_filter"}.get(what, "stop")
                choice = {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": text}}
                usage = {"prompt_tokens": 100, "completion_tokens": 10, "total_tokens": 110}
                body = {"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
                rows.append(row | {"response": {"status_code": 200, "body": body | {"usage": usage}}, "error": None})
        return rows


def handler_of(vendor: Vendor) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            if self.path == "/v1/files":
                name = f"file_{len(vendor.files)}"
                found = [line for line in body.decode().splitlines() if line.startswith('{"custom_id"')]
                vendor.files[name] = [json.loads(line) for line in found]
                return self.say({"id": name, "object": "file"})
            if vendor.reject:
                return self.say({"type": "error", "error": {"type": "e", "message": vendor.reject}}, 400)
            row = json.loads(body)
            lines = row["requests"] if "requests" in row else vendor.files[row["input_file_id"]]
            shown = vendor.submit(lines, row.get("metadata"))
            if vendor.hang:  # it went through, and nobody was told
                with suppress(OSError):
                    self.connection.recv(1)
                self.close_connection = True
                return None
            if vendor.fail:
                vendor.fail -= 1
                return self.say({"error": {"message": "gone"}}, 500)
            return self.say(shown)

        def do_GET(self) -> None:
            path = self.path.split("?")[0].rstrip("/")
            name = path.split("/")[-1]
            if path.endswith("/batches"):
                ours = [n for n, b in vendor.batches.items() if (b["metadata"] is None) == ("messages" in path)]
                rows = [vendor.shown(n) for n in reversed(ours)]
                return self.say({"object": "list", "data": rows, "has_more": False})
            if path.endswith(("/results", "/content")):
                kind, _, batch = path.split("/")[-2].partition("_")
                kind, batch = ("anthropic", path.split("/")[-2]) if kind == "batch" else (kind, batch)
                vendor.half -= 1
                text = "".join(json.dumps(r) + "\n" for r in vendor.results(batch, kind))
                return self.send(text, keep=len(text) // 2 if vendor.half >= 0 else None)
            if vendor.gone:
                return self.say({"error": {"message": "no such batch"}}, 404)
            vendor.down -= 1
            return self.say(vendor.shown(name), 503 if vendor.down >= 0 else 200)

        def say(self, row: dict[str, Any], status: int = 200) -> None:
            self.send(json.dumps(row), status)

        def send(self, text: str, status: int = 200, keep: int | None = None) -> None:
            """The text, or its first characters before the connection breaks."""
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text.encode())))
            self.send_header("retry-after-ms", "10")
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(text[:keep].encode())
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing."""

    return Handler


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    """A vendor whose batches end at once; clear `open` to keep them waiting."""
    one = Vendor()
    one.open.set()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler_of(one))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    one.url = f"http://127.0.0.1:{server.server_port}"
    yield one
    server.shutdown()
    server.server_close()


@dataclass
class Done:
    """How a run ended."""

    returncode: int
    stdout: str
    stderr: str


@dataclass
class Run:
    """The command under test, for one vendor: in this process, or in one of its own that can be killed."""

    command: list[str]
    env: dict[str, str]
    output: Path

    def __call__(self, *flags: str) -> Done:
        out, err = io.StringIO(), io.StringIO()
        status: Any = 0
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.setattr(sys, "argv", [*self.command[1:], *flags])
            for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"):
                patch.setenv(name, self.env[name])
            try:
                main()
            except SystemExit as exit_:
                status = exit_.code
        if isinstance(status, str):  # as Python does at its end
            err.write(f"{status}\n")
            status = 1
        return Done(status, out.getvalue(), err.getvalue())

    def kill_when(self, happened: Callable[[], bool], by: signal.Signals = signal.SIGKILL) -> str:
        with (self.output.parent / "log").open("wb") as log:
            process = subprocess.Popen(self.command, cwd=ROOT, env=self.env, stdout=log, stderr=log)
        ends = time.monotonic() + 60
        while not happened():
            assert process.poll() is None, (self.output.parent / "log").read_text()
            assert time.monotonic() < ends, (self.output.parent / "log").read_text()
            time.sleep(0.01)
        process.send_signal(by)
        process.wait(60)
        return (self.output.parent / "log").read_text()


@pytest.fixture
def batched(vendor: Vendor, tmp_path: Path) -> Callable[..., Run]:
    """Pairs, whose better response says "better", and the command that teaches them in batches."""

    def make(kind: str, count: int, *flags: str) -> Run:
        lines = []
        for i in range(count):
            good, bad = f"the better answer, number {i}", f"the lesser answer, number {i}"
            a, b, gold = (good, bad, "a") if i % 2 else (bad, good, "b")
            lines.append({"id": f"p{i}", "prompt": f"Question {i}?", "response_a": a, "response_b": b, "gold": gold})
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        where = f"{vendor.url}/v1" if kind == "openai" else "anthropic"
        command = [sys.executable, "pipelines/teach.py", "--pairs", str(path), "--output", str(tmp_path / "out")]
        command += ["--teacher", where, "--teacher-model", "m", "--batch", "--poll", "0.05", "--retries", "1"]
        if "--self" not in flags:
            command += ["--second", where, "--second-model", "m2"]
        env = os.environ | {"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k", "ANTHROPIC_BASE_URL": vendor.url}
        return Run([*command, *flags], env, tmp_path / "out")

    return make


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_taken_as_live_answers_are_and_what_failed_is_asked_again(
    kind: str, vendor: Vendor, batched: Callable[..., Run]
) -> None:
    faults = {1: "wrong", 2: "cut", 3: "refusal", 4: "long", 5: "expired", 6: "errored", 7: "missing"}
    vendor.script = lambda number, hinted: "clean" if hinted else faults.get(number, "clean")
    vendor.status = "expired"
    prices = ["--price-in", "3", "--price-out", "15", "--second-price-in", "2", "--second-price-out", "8"]
    run = batched(kind, 9, *prices)
    done = run()
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    summary = json.loads(done.stdout)
    first, second = summary["passes"]["1"], summary["passes"]["2"]
    assert {name.split("/")[0] for name in summary["unanswered"]} == {"p5", "p6", "p7"}
    assert first["batches"] == {"submitted": 1, "errored": 1, "expired": 1, "missing": 1}
    assert first["reasons"] == {"refused": 2, "truncated": 1, "wrong_verdict": 1}
    assert (summary["traces"], second["accepted"], second["batches"]) == (6, 4, {"submitted": 1})
    assert first["cost"] == pytest.approx(500 * 3e-6 + 50 * 15e-6), "what was never written costs nothing"
    assert second["cost"] == pytest.approx(400 * 2e-6 + 40 * 8e-6)
    assert len(vendor.batches) == 2
    names = [line["custom_id"] for batch in vendor.batches.values() for line in batch["lines"]]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name) for name in names)
    assert {row["pair_id"]: row["pass"] for row in rows(run.output / "traces.jsonl")}["p1"] == 2


def test_an_error_that_stays_is_given_up_and_what_expired_is_not(vendor: Vendor, batched: Callable[..., Run]) -> None:
    faults = {0: "expired", 1: "errored"}
    vendor.script = lambda number, hinted: faults.get(number, "clean")
    run = batched("openai", 3)
    for times, errored in enumerate((1, 2, 3, 3), start=1):
        again = run()
        asked = tuple(vendor.asked[number, False] for number in range(3))
        assert (again.returncode, asked) == (1, (times, errored, 1)), again.stderr
    assert "failed in 3 batches and is asked no more" in again.stdout
    faults.clear()
    assert json.loads(run().stdout)["traces"] == 2


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_any_moment_no_batch_is_submitted_twice(
    kind: str, vendor: Vendor, batched: Callable[..., Run]
) -> None:
    vendor.script = lambda number, hinted: "clean" if hinted or number % 3 else "wrong"
    run = batched(kind, 6)
    vendor.open.clear()
    vendor.hang = True
    run.kill_when(lambda: len(vendor.batches) == 1)  # it went through, but the id never reached the disk
    note = run.output / "batches" / "first-0001.json"
    assert json.loads(note.read_text())["id"] is None
    vendor.hang = False
    if kind == "anthropic":  # without metadata it shows at its end whose it is
        vendor.open.set()
    else:
        said = run.kill_when(lambda: json.loads(note.read_text())["id"] is not None, signal.SIGINT)
        assert "stopped; the same command again" in said
        assert "Traceback" not in said
        live = Run([flag for flag in run.command if flag != "--batch"], run.env, run.output)
        assert "this batch is still out" in live().stderr
        assert "max_tokens: 8192 then, 9 now" in run("--max-tokens", "9").stderr
        vendor.open.set()
    done = run()
    assert done.returncode == 0, done.stderr
    assert vendor.asked == Counter([(i, False) for i in range(6)] + [(0, True), (3, True)])
    assert json.loads(done.stdout)["traces"] == 6
    assert json.loads(run().stdout)["passes"]["1"]["bought_now"] == 0
    assert len(vendor.batches) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_submission_that_seems_to_fail_is_looked_for_before_it_is_repeated(
    kind: str, vendor: Vendor, batched: Callable[..., Run]
) -> None:
    vendor.fail = 1
    done = batched(kind, 2)()
    assert done.returncode == 0, done.stderr
    assert len(vendor.batches) == 1, "the client's own retries would have bought it twice"


@pytest.mark.parametrize("kind", KINDS)
def test_a_look_or_a_download_that_breaks_is_repeated(kind: str, vendor: Vendor, batched: Callable[..., Run]) -> None:
    """The client repeats each call once, but no download that it streams, as it does Anthropic's."""
    vendor.down, vendor.half = 2, 2 if kind == "openai" else 1
    run = batched(kind, 4)
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("looking again") == 2, done.stderr
    assert (json.loads(done.stdout)["traces"], len(rows(run.output / "first.jsonl"))) == (4, 4)
    assert len(vendor.batches) == 1


def test_a_batch_that_never_went_through_is_submitted_by_the_next_run(
    vendor: Vendor, batched: Callable[..., Run]
) -> None:
    run = batched("openai", 2)
    vendor.hang = True
    run.kill_when(lambda: len(vendor.batches) == 1)
    vendor.hang = False
    vendor.batches.clear()
    vendor.open.clear()
    notes = run.output / "batches"
    run.kill_when(lambda: any(json.loads(note.read_text())["id"] for note in notes.glob("*.json")))
    vendor.open.set()
    assert json.loads(run().stdout)["traces"] == 2
    assert len(vendor.batches) == 1


def test_a_batch_that_is_refused_ends_with_the_vendors_words(vendor: Vendor, batched: Callable[..., Run]) -> None:
    run = batched("openai", 2)
    vendor.refuse = "enqueued token limit reached"
    assert "batch batch_0 was refused: enqueued token limit reached" in run().stderr
    vendor.refuse = ""
    vendor.gone = True
    said = run().stderr
    assert re.search(r"404 no such batch; mend .* is gone for good, remove \S*first-0002.json to buy it anew", said), (
        said
    )
    vendor.gone = False
    assert json.loads(run().stdout)["traces"] == 2
    assert len(vendor.batches) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_rejected_submission_leaves_nothing_behind(kind: str, vendor: Vendor, batched: Callable[..., Run]) -> None:
    run = batched(kind, 2)
    vendor.reject = "model: no such model"
    assert "refused a batch call: 400 model: no such model" in run().stderr
    assert not list((run.output / "batches").iterdir())


def test_a_round_that_is_too_large_goes_in_several_batches(
    vendor: Vendor, batched: Callable[..., Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OpenAITeacher, "most", property(lambda _: (2, 1_000_000)))
    summary = json.loads(batched("openai", 5)().stdout)
    assert [len(batch["lines"]) for batch in vendor.batches.values()] == [2, 2, 1]
    assert (summary["traces"], summary["passes"]["1"]["batches"]) == (5, {"submitted": 3})


def test_rounds_stop_where_enough_is_clean(vendor: Vendor, batched: Callable[..., Run]) -> None:
    """Question 0 is clean at once; 1 never: of four samples two are wanted, so 1 is asked for four, two at a time."""
    vendor.script = lambda number, hinted: "wrong" if number else "clean"
    run = batched("openai", 2, "--self", "--samples", "4", "--keep", "2")
    done = run()
    assert vendor.asked == {(0, False): 2, (1, False): 4}, done.stderr
    assert len(vendor.batches) == 2
    seeds = [line["body"]["seed"] for batch in vendor.batches.values() for line in batch["lines"]]
    assert Counter(seeds) == {0: 2, 1: 2, 2: 1, 3: 1}


def test_a_batch_is_split_at_the_vendors_limits() -> None:
    assert list(split([5, 5, 5, 5, 5], most=2, most_bytes=100)) == [(0, 2), (2, 4), (4, 5)]
    assert list(split([5, 5, 5, 20, 1], most=9, most_bytes=11)) == [(0, 2), (2, 3), (3, 4), (4, 5)]
    assert list(split([5], most=1, most_bytes=1)) == [(0, 1)]
