"""What serving costs beside the engine, what happens when more is asked than it can do, and what kills cost.

    python tests/benchmarks/bench_serve.py --model FOLDER [--parts throughput overload deaths] [--proxies python]

Throughput: 64 clients ask for pairs in both orders, greedily. The endpoint's engine process has one core, and
everything else (proxy, replica, Ray, clients) another one. In turns with it, vLLM's engine alone, in a process of its
own on the first core, gets the same prompts with the same sampling, already encoded. The ratio of the two is given for
each turn. No pair is asked twice, and the processor time of each kind of process is counted.

Overload: pairs arrive at four times the measured rate, whether or not the earlier ones have been answered. The clients
may use both cores, and go first: on the endpoint's core alone they could not ask so much.

Deaths: tests/cluster/test_deaths.py, with what its clients counted.

A table is printed, and everything stands in OUTPUT/serve.json. Needs a judge of the embedded task, and a machine that
does nothing else.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from actors.card import JudgeCard
from evals.synthetic import SyntheticTask
from evals.verdicts import ORDERS

ROOT = Path(__file__).parents[2]
DEATHS = ROOT / "tests" / "cluster" / "test_deaths.py"
CONCURRENCY = 64
KINDS = {
    "engine": "VLLM::EngineCore",
    "replica": "ServeReplica:judge:Judge",
    "groups": "ServeReplica:judge:Groups",
    "proxy": "ProxyActor",
    "haproxy": "haproxy -db",
    "controller": "ServeController",
}
"""What the title or the command line of a process of the endpoint has in it."""


# ---------------------------------------------------------------- processes of their own


def raw(model: str) -> None:
    """The engine alone, in this process. For each line `FIRST COUNT` judges these pairs; prints the seconds."""
    os.environ |= {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    from vllm import LLM, SamplingParams

    from actors.config import RolloutConfig
    from actors.rollout import engine_arguments
    from actors.tokens import PromptEncoder
    from evals.prompts import prompt_format

    card = JudgeCard.load(Path(model))
    assert card is not None
    lengths = {"max_model_len": card.max_model_len, "max_new_tokens": card.max_new_tokens}
    engine = LLM(**engine_arguments(model, card.dtype, RolloutConfig(**lengths), "cpu")).llm_engine
    encoder, format_, task = PromptEncoder(model), prompt_format(card.format), SyntheticTask(0)
    params = SamplingParams(
        temperature=0, max_tokens=card.max_new_tokens, stop_token_ids=[encoder.eos], detokenize=False
    )
    print("ready", flush=True)
    for line in sys.stdin:
        first, count = map(int, line.split())
        pairs = [task.pair("heldout", index) for index in range(first, first + count)]
        shown = [format_.render(pair, order) for pair in pairs for order in ORDERS]
        prompts = [encoder.encode_prompt(messages).tolist() for messages in shown]
        waiting, running = iter(enumerate(prompts)), 0
        begin, cpu = time.perf_counter(), time.process_time()
        while True:
            for number, ids in itertools.islice(waiting, 2 * CONCURRENCY - running):
                engine.add_request(f"{first}-{number}", {"prompt_token_ids": ids}, params)
                running += 1
            if not running:
                break
            running -= sum(output.finished for output in engine.step())
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        print(json.dumps({"seconds": seconds, "cpu": cpu}), flush=True)
    os._exit(0)  # libraries report leaks of their own where the interpreter is taken down


def client(url: str, first: int, count: int, rate: float) -> None:
    """Asks for `count` pairs: with a rate, so many a second whatever comes back; else as many at a time as there are
    clients. Prints when each was asked and answered, and how."""
    import aiohttp

    task = SyntheticTask(0)
    pairs = [task.pair("heldout", index) for index in range(first, first + count)]
    bodies = [
        {"conversation": list(pair.messages), "response_a": pair.response_a, "response_b": pair.response_b}
        for pair in pairs
    ]
    answers: list[tuple[float, float, int, bool]] = []

    async def ask(session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        asked, status, told = time.monotonic(), 0, False
        try:
            async with session.post(f"{url}/judge", json=body) as response:
                told = "Retry-After" in response.headers
                await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            print(repr(error), file=sys.stderr)
        answers.append((asked, time.monotonic(), status, told))

    async def everything() -> None:
        timeout = aiohttp.ClientTimeout(total=300)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            if rate:
                begin = time.monotonic()
                async with asyncio.TaskGroup() as group:
                    for number, body in enumerate(bodies):
                        if (early := begin + number / rate - time.monotonic()) > 0:
                            await asyncio.sleep(early)  # not where it is late: others would run for a while each time
                        group.create_task(ask(session, body))
            else:
                waiting = iter(bodies)

                async def one() -> None:
                    for body in waiting:
                        await ask(session, body)

                await asyncio.gather(*(one() for _ in range(CONCURRENCY)))

    cpu = time.process_time()
    asyncio.run(everything())
    print(json.dumps({"answers": answers, "cpu": time.process_time() - cpu}))


# ---------------------------------------------------------------- driving them


@contextmanager
def endpoint(model: Path, proxy: str, rest: int, engine: int) -> Iterator[tuple[str, psutil.Process]]:
    """URL and process of an endpoint whose engine has one core, and whose other processes have another."""
    command = [sys.executable, ROOT / "pipelines" / "serve.py", "--model", model, "--port", "0"]
    command += ["--serve.proxy", proxy, "--run-dir", "runs/bench"]
    with tempfile.TemporaryFile("w+") as log:
        served = subprocess.Popen(
            [*map(str, command)], stdout=log, stderr=log, start_new_session=True, env=os.environ | {"COLUMNS": "200"}
        )
        try:
            while True:
                log.seek(0)
                if found := re.search(r"\) at (http\S+);", said := log.read()):
                    break
                if served.poll() is not None:
                    sys.exit(said)
                time.sleep(0.2)
            process = psutil.Process(served.pid)
            _pin([process, *process.children(recursive=True)], rest)
            _pin(_of_kind(process)["engine"], engine)
            yield found[1], process
        finally:
            served.send_signal(signal.SIGINT)
            served.wait(120)


def _of_kind(endpoint: psutil.Process) -> dict[str, list[psutil.Process]]:
    found = defaultdict(list)
    for process in endpoint.children(recursive=True):
        title = " ".join([process.name(), *process.cmdline()])
        found[next((kind for kind, part in KINDS.items() if part in title), "the rest of Ray")].append(process)
    return found


def _pin(processes: list[psutil.Process], core: int) -> None:
    for process in processes:
        for thread in process.threads():
            psutil.Process(thread.id).cpu_affinity([core])


def _cpu(endpoint: psutil.Process) -> dict[str, float]:
    return {
        kind: sum(sum(process.cpu_times()[:2]) for process in processes)
        for kind, processes in _of_kind(endpoint).items()
    }


def _memory(endpoint: psutil.Process) -> dict[str, float]:
    """MiB that are a process's own, by kind."""
    return {
        kind: sum(process.memory_full_info().uss for process in processes) / 2**20
        for kind, processes in _of_kind(endpoint).items()
    }


def _asked(url: str, first: int, count: int, rate: float, *cores: int) -> subprocess.Popen:
    command = [sys.executable, __file__, "client", url, str(first), str(count), str(rate)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, preexec_fn=lambda: os.sched_setaffinity(0, cores)
    )


def _answers(asked: subprocess.Popen) -> dict[str, Any]:
    said, _ = asked.communicate()
    if asked.returncode:
        sys.exit("the clients failed")
    return json.loads(said)


def throughput(model: Path, proxies: list[str], repeats: int, count: int, cores: list[int]) -> dict[str, Any]:
    """Pairs a second of the engine alone and through the endpoint, in turns."""
    found: dict[str, Any] = {}
    alone = subprocess.Popen(
        [sys.executable, __file__, "raw", str(model)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: os.sched_setaffinity(0, cores[:1]),
    )
    assert alone.stdin
    assert alone.stdout
    while "ready" not in (line := alone.stdout.readline()):
        if not line:
            sys.exit("the engine alone did not start")
    first = itertools.count(0, count)
    for proxy in proxies:
        turns = []
        with endpoint(model, proxy, cores[1], cores[0]) as (url, process):
            _answers(_asked(url, 10**6, 4 * CONCURRENCY, 0, cores[1]))  # warms up
            for repeat in range(-1, repeats):
                begin = next(first)
                print(begin, count, file=alone.stdin, flush=True)
                reference = json.loads(alone.stdout.readline())
                before = _cpu(process)
                asked = _answers(_asked(url, begin, count, 0, cores[1]))
                after = _cpu(process)
                if repeat < 0:
                    continue  # the first turn warms the engine alone up
                answers = asked["answers"]
                assert all(status == 200 for _, _, status, _ in answers), Counter(status for *_, status, _ in answers)
                seconds = max(end for _, end, *_ in answers) - min(start for start, *_ in answers)
                cpu = {kind: after[kind] - before.get(kind, 0) for kind in after} | {"clients": asked["cpu"]}
                turns.append(
                    {
                        "raw": count / reference["seconds"],
                        "served": count / seconds,
                        "ratio": reference["seconds"] / seconds,
                        "latency": _latency(answers),
                        "cpu_ms": {kind: 1000 * used / count for kind, used in cpu.items()},
                        "raw_cpu_ms": 1000 * reference["cpu"] / count,
                    }
                )
                print(proxy, {name: round(turns[-1][name], 2) for name in ("raw", "served", "ratio")}, flush=True)
        found[proxy] = turns
    alone.stdin.close()
    alone.wait()
    return found


def _latency(answers: list[Any]) -> dict[str, float]:
    """Seconds at percentiles, of what was answered."""
    took = sorted(end - start for start, end, status, _ in answers if status == 200)
    return {f"p{part}": took[min(len(took) - 1, len(took) * part // 100)] for part in (50, 95, 99)}


def overload(model: Path, seconds: int, cores: list[int]) -> dict[str, Any]:
    """Four times as many pairs as are answered in a second, for a while; then none."""
    with endpoint(model, "python", cores[1], cores[0]) as (url, process):
        for one in [process, *process.children(recursive=True)]:
            for thread in one.threads():  # the clients must be able to ask as often as they should
                psutil.Process(thread.id).nice(10)
        _answers(_asked(url, 10**6, 4 * CONCURRENCY, 0, cores[1]))
        answers = _answers(_asked(url, 2 * 10**6, 8 * CONCURRENCY, 0, cores[1]))["answers"]
        capacity = len(answers) / (max(end for _, end, *_ in answers) - min(start for start, *_ in answers))
        idle = _latency(_answers(_asked(url, 2 * 10**6 + 10**5, 1, 0, cores[1]))["answers"])["p50"]
        asked = _asked(url, 3 * 10**6, int(4 * capacity * seconds), 4 * capacity, *cores[:2])
        begin, memory = time.monotonic(), []
        while time.monotonic() < begin + seconds:
            memory.append({"second": time.monotonic() - begin} | _memory(process))
            time.sleep(2)
        answers = _answers(asked)["answers"]
        ended = max(start for start, *_ in answers)
        for probe in itertools.count():
            took = _latency(_answers(_asked(url, 4 * 10**6 + probe, 1, 0, cores[1]))["answers"])["p50"]
            if took < 3 * idle:
                break
        memory.append({"second": time.monotonic() - begin} | _memory(process))
        recovered = max(end for _, end, *_ in answers) - ended
    begin, last = min(start for start, *_ in answers), max(end for _, end, *_ in answers)
    statuses = Counter(str(status or "no answer") for _, _, status, _ in answers)
    return {
        "capacity": capacity,
        "asked_a_second": len(answers) / (ended - begin),
        "statuses": statuses,
        "refused_without_retry_after": sum(status == 503 and not told for _, _, status, told in answers),
        "answered_a_second": statuses["200"] / (last - begin),
        "latency": _latency(answers),
        "latency_of_refusals": _latency([(s, e, 200, t) for s, e, status, t in answers if status == 503] or answers),
        "idle_latency": idle,
        "recovered_s": recovered,
        "memory_mib": memory,
    }


def deaths() -> list[dict[str, Any]]:
    """What the clients of tests/cluster/test_deaths.py counted."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", DEATHS, "-m", "", "--junitxml", report]
        status = subprocess.run([*map(str, command)], cwd=ROOT, check=False).returncode
        found = []
        for case in ET.parse(report).iter("testcase"):
            counted = {one.get("name", ""): float(one.get("value", "nan")) for one in case.iter("property")}
            found.append({"test": case.get("name"), "passed": case.find("failure") is None, **counted})
    if status:
        print("some of the deaths were not survived", file=sys.stderr)
    return found


def table(found: dict[str, Any]) -> Iterator[str]:
    """The lines of the table."""
    for proxy, turns in found.get("throughput", {}).items():
        said = []
        for name in ("raw", "served", "ratio"):
            values = [turn[name] for turn in turns]
            said.append(f"{name} {statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})")
        yield f"throughput, {proxy} proxy, {len(turns)} turns, pairs a second: {', '.join(said)}"
        used = {kind: statistics.mean(turn["cpu_ms"].get(kind, 0) for turn in turns) for kind in turns[0]["cpu_ms"]}
        raw_used = statistics.mean(turn["raw_cpu_ms"] for turn in turns)
        yield f"  processor ms a pair: engine alone {raw_used:.1f}; " + ", ".join(
            f"{kind} {value:.1f}" for kind, value in sorted(used.items(), key=lambda item: -item[1])
        )
        latency = {part: statistics.mean(turn["latency"][part] for turn in turns) for part in turns[0]["latency"]}
        yield "  latency: " + ", ".join(f"{part} {value:.2f} s" for part, value in latency.items())
    if over := found.get("overload"):
        yield f"overload: {over['asked_a_second']:.0f} pairs a second asked, {over['capacity']:.0f} possible"
        untold = over["refused_without_retry_after"]
        yield f"  answers by status: {dict(over['statuses'])}; 503 without Retry-After: {untold}"
        parts = ", ".join(f"{part} {value:.2f} s" for part, value in over["latency"].items())
        idle = over["idle_latency"]
        yield f"  answered {over['answered_a_second']:.0f} a second; latency {parts} (idle {idle:.2f} s)"
        yield f"  everything answered {over['recovered_s']:.1f} s after the last was asked"
        memory = over["memory_mib"]
        for kind in sorted(memory[0].keys() - {"second"}):
            series = [sample.get(kind, 0) for sample in memory]
            first, most, last = series[0], max(series), series[-1]
            yield f"  memory of {kind}: {first:.0f} MiB at first, {most:.0f} at most, {last:.0f} at last"
    for case in found.get("deaths", []):
        counted = ", ".join(f"{name} {value:g}" for name, value in case.items() if name not in ("test", "passed"))
        yield f"{'survived' if case['passed'] else 'NOT SURVIVED'}: {case['test']}: {counted}"


def main() -> None:
    """Measure what is asked for."""
    if sys.argv[1:2] == ["raw"]:
        raw(sys.argv[2])
        return
    if sys.argv[1:2] == ["client"]:
        client(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), float(sys.argv[5]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("runs/quickstart/judge"))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--proxies", nargs="+", choices=("python", "haproxy"), default=["python"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--count", type=int, default=1000, help="pairs a turn")
    parser.add_argument("--seconds", type=int, default=60, help="how long the overload lasts")
    parser.add_argument("--output", type=Path, default=Path("runs/bench"))
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("two cores are needed: one for the engine, and one for everything else")
    found: dict[str, Any] = {"cores": cores[:2], "load_before": os.getloadavg()}
    if "throughput" in options.parts:
        found["throughput"] = throughput(options.model, options.proxies, options.repeats, options.count, cores)
    if "overload" in options.parts:
        found["overload"] = overload(options.model, options.seconds, cores)
    if "deaths" in options.parts:
        found["deaths"] = deaths()
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "serve.json").write_text(json.dumps(found, indent=1))
    print(*table(found), sep="\n")


PARTS = ("throughput", "overload", "deaths")

if __name__ == "__main__":
    main()
