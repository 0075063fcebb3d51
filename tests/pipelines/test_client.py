"""The client against the served judge, loaded as trainers load it, and against a server that fails.

The judge says one fixed text whatever it is shown: the first response is better. Judged in both orders two responses
then get no verdict and a neutral reward, and an empty one loses without being judged.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import client as module
from pipelines.client import GavelClient, GavelError, compute_score, gavel_reward, group_reward

PATH = Path(module.__file__)
QUESTION = [{"role": "user", "content": "Which?"}]


@pytest.fixture
def url(endpoint: str) -> str:
    return endpoint


@pytest.fixture
def environment(url: str, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment that a trainer gives its reward function."""
    monkeypatch.setenv("GAVEL_URL", url)
    monkeypatch.delenv("GAVEL_GROUP_SIZE", raising=False)
    module._of_process.cache_clear()
    return monkeypatch


def test_the_client_needs_nothing_of_gavel_nor_an_engine() -> None:
    code = (
        "import sys, runpy; names = runpy.run_path(sys.argv[1]); assert names['GavelClient'];"
        "found = {'ray', 'torch', 'vllm', 'actors', 'evals', 'pipelines'} & {*sys.modules}; assert not found, found"
    )
    subprocess.run([sys.executable, "-P", "-c", code, str(PATH)], check=True, cwd="/")


def test_the_gavel_routes(url: str) -> None:
    with GavelClient(url) as client:
        assert client.version()["model"] == "first-is-better"
        assert client.judge("Which?", "this", "that", order="ab")["verdict"] == "a"
        assert client.rank(QUESTION, ["this", "that", "it"], order="ab")["comparisons"][0]["verdict"] == "a"
        assert client.score("Which?", "this", anchor="that", order="ab")["score"] == 1
        assert [one["reward"] for one in client.rewards(QUESTION, ["this", ""])] == [1, 0]
        assert client.compare(QUESTION, ["this", ""])["rewards"] == [5, 1]
        with pytest.raises(GavelError, match=r"POST .*/judge: 422, body.response_b: Is empty") as refused:
            client.judge("Which?", "this", " ")
        assert refused.value.status == 422


def test_many_threads_share_a_client(url: str) -> None:
    found: list[float] = []
    with GavelClient(url) as client:

        def ask(text: str) -> None:
            found.append(client.rewards("Which?", [text], group="threads", group_size=8, window_s=60)[0]["reward"])

        threads = [threading.Thread(target=ask, args=(f"this {i}" if i else "",)) for i in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    # Seven that the judge cannot tell apart, each before the empty one: (1 + 6 / 2) / 7.
    assert sorted(found) == [0, *[pytest.approx(4 / 7)] * 7]


def test_openrlhf_loads_the_file(environment: pytest.MonkeyPatch) -> None:
    """Its executor, given the path, calls `reward_func` with one sample a time, in threads."""
    from openrlhf.utils.agent import SingleTurnAgentExecutor

    environment.setenv("GAVEL_GROUP_SIZE", "2")
    executor = SingleTurnAgentExecutor(remote_rm_url=[str(PATH)])
    answers = ("this", "")

    async def rewards() -> list[Any]:
        asked = (executor._fetch_rewards_via_func([f"Which?{one}"], ["Which?"], [None]) for one in answers)
        return await asyncio.gather(*asked)

    (some,), (empty,) = asyncio.run(rewards())
    assert (some["rewards"], empty["rewards"]) == ([1], [0])
    assert (some["extra_logs"]["members"], some["extra_logs"]["model_version"]) == (2, 7)


def verl(path: Path, name: str) -> Callable[..., Any]:
    """A function out of a file, as verl loads it by `reward.custom_reward_function`."""
    spec = importlib.util.spec_from_file_location("custom_module", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return getattr(loaded, name)


def test_verl_scores_of_a_group_meet(environment: pytest.MonkeyPatch) -> None:
    compute = verl(PATH, "compute_score")

    async def scores() -> list[dict[str, float]]:
        asked = (
            compute(
                data_source="gsm8k",
                solution_str=one,
                ground_truth="5",
                extra_info={"index": 3, "prompt": QUESTION, "num_turns": 2},
                reward_router_address="unused",
                reward_model_tokenizer=None,
                group_size=2,
                window_s=60,
            )
            for one in ("this", "")
        )
        return await asyncio.gather(*asked)

    some, empty = asyncio.run(scores())
    assert some == {"score": 1, "neutral": 0, "members": 2, "no_verdict": 0, "model_version": 7}
    assert empty["score"] == 0
    with pytest.raises(GavelError, match=r'gsm8k: extra_info has no "prompt"'):
        asyncio.run(compute_score("gsm8k", "this", "5", {"index": 3}))


def test_trl_groups_are_compared(environment: pytest.MonkeyPatch) -> None:
    """With all that GRPOTrainer gives; prompts are interleaved on purpose."""
    logged: dict[str, float] = {}
    other = [{"role": "user", "content": "Which else?"}]
    prompts = [QUESTION, other, QUESTION, other]
    completions = [[{"role": "assistant", "content": text}] for text in ("this", "", "", "that")]
    rewards = asyncio.run(
        gavel_reward(
            prompts=prompts,
            completions=completions,
            completion_ids=[[1]] * 4,
            trainer_state=SimpleNamespace(global_step=1),
            log_extra=lambda column, values: None,
            log_metric=lambda name, value: logged.update({name: value}),
            solution=["5"] * 4,
        )
    )
    assert rewards == [1, 0, 0, 1]
    assert logged == {"gavel/neutral": 0}
    texts = asyncio.run(gavel_reward(prompts=["Which?"] * 2, completions=["this", "that"]))
    assert texts == [0.5, 0.5]


def test_trl_groups_meet_from_several_processes(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("GAVEL_GROUP_SIZE", "4")

    async def processes() -> list[list[float]]:
        halves = (["this", "that"], ["", "it"])
        return await asyncio.gather(*(gavel_reward(prompts=["Which?"] * 2, completions=half) for half in halves))

    assert asyncio.run(processes()) == [[pytest.approx(2 / 3)] * 2, [0, pytest.approx(2 / 3)]]


def test_trl_trains_on_it(environment: pytest.MonkeyPatch, make_model: Callable[..., Path], tmp_path: Path) -> None:
    """A step of the real GRPOTrainer on a tiny model: its mean reward is what the judge's groups come to, a half."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    folder = make_model()
    trainer = GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folder),
        processing_class=AutoTokenizer.from_pretrained(folder),
        reward_funcs=gavel_reward,
        train_dataset=Dataset.from_list([{"prompt": QUESTION}] * 4),
        args=GRPOConfig(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            num_generations=4,
            max_completion_length=4,
            max_steps=1,
            logging_steps=1,
            report_to=[],
            use_cpu=True,
            bf16=False,
            save_strategy="no",
        ),
    )
    trainer.train()
    logged = {name: value for row in trainer.state.log_history for name, value in row.items()}
    assert logged["rewards/gavel_reward/mean"] == pytest.approx(0.5)
    assert 0 <= logged["gavel/neutral"] <= 1


def test_slime_groups_are_compared(environment: pytest.MonkeyPatch) -> None:
    samples = [SimpleNamespace(prompt=QUESTION, response=text, label="5", metadata={}) for text in ("this", "")]
    assert asyncio.run(group_reward(SimpleNamespace(rm_type=None), samples)) == [1, 0]


class Failing(ThreadingHTTPServer):
    """Answers with what it was given, one after the other, and the last one for ever."""

    def __init__(self, *answers: tuple[int, dict[str, str], Any]) -> None:
        self.times: list[float] = []
        self.headers: list[dict[str, str]] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                server.times.append(time.monotonic())
                server.headers.append(dict(self.headers))
                self.rfile.read(int(self.headers["Content-Length"]))
                status, headers, body = answers[min(len(server.times), len(answers)) - 1]
                if status == 0:
                    time.sleep(1)
                    return
                text = (body if isinstance(body, str) else json.dumps(body)).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/"


@pytest.mark.parametrize(
    ("status", "headers", "least"),
    [
        (503, {"Retry-After": "2"}, 2),
        (429, {"Retry-After": formatdate(time.time() + 3600, usegmt=True)}, 0.9),
        (502, {"Retry-After": "soon"}, 0),
        (500, {}, 0),
        (0, {}, 0),
    ],
)
def test_what_fails_for_the_moment_is_repeated(
    monkeypatch: pytest.MonkeyPatch, status: int, headers: dict[str, str], least: float
) -> None:
    monkeypatch.setattr(module, "_LONGEST_PAUSE_S", 2.0 if least == 2 else 1.0)
    with Failing((status, headers, {"detail": "busy"}), (200, {}, {"score": 1})) as server:
        with GavelClient(server.url, key="secret", timeout_s=0.5) as client:
            assert client.score("Which?", "this") == {"score": 1}
        first, second = server.times
        assert second - first >= least
        assert server.headers[0]["Authorization"] == "Bearer secret"
        server.shutdown()


@pytest.mark.parametrize(
    ("answer", "says", "tries"),
    [
        ((503, {}, {"detail": "busy"}), r"/score: 503, busy; gave up after 2 tries", 2),
        ((401, {}, {"detail": "This server wants an API key"}), r"/score: 401, This server wants an API key$", 1),
        ((404, {}, "<html>"), r"/score: 404, <html>$", 1),
        ((200, {}, "<html>"), r"/score: answered '<html>', which is no JSON; is GAVEL_URL right\?", 1),
    ],
)
def test_there_is_an_answer_or_an_error(answer: tuple[int, dict[str, str], Any], says: str, tries: int) -> None:
    with Failing(answer) as server:
        with GavelClient(server.url, retries=1) as client, pytest.raises(GavelError, match=says):
            client.score("Which?", "this")
        assert len(server.times) == tries
        server.shutdown()


def test_no_server_and_wrong_settings_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with GavelClient("http://127.0.0.1:9", retries=0) as client, pytest.raises(GavelError, match="no answer") as error:
        client.score("Which?", "this")
    assert error.value.status is None
    monkeypatch.setenv("GAVEL_GROUP_SIZE", "many")
    with pytest.raises(GavelError, match="GAVEL_GROUP_SIZE=many must be a whole number"):
        asyncio.run(gavel_reward(prompts=["Which?"], completions=["this"]))


def test_a_fork_gets_a_client_of_its_own(environment: pytest.MonkeyPatch) -> None:
    first = module._client()
    assert module._client() is first
    environment.setattr(os, "getpid", lambda: -1)
    assert module._client() is not first
