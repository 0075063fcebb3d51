"""What it takes to watch a served judge from outside: its processes, and clients that keep asking."""

from __future__ import annotations

import asyncio
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import aiohttp
import psutil
import pytest

from actors.card import JudgeCard
from actors.tokens import PromptEncoder

SERVE = Path(__file__).parents[2] / "pipelines" / "serve.py"
LONGEST_S = 400.0
"""Two cores that others use too: nothing is measured here, so nothing has to be quick."""


class Command:
    """A command that keeps running in a session of its own, what it says, and the processes below it."""

    def __init__(self, command: Sequence[object], log: Path, env: dict[str, str], cwd: Path | None = None):
        self._log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdout=out,
                stderr=out,
                cwd=cwd,
                env={name: value for name, value in (os.environ | env).items() if name != "RAY_ADDRESS" or value},
                start_new_session=True,
            )
        self._all: dict[int, psutil.Process] = {}

    @property
    def said(self) -> str:
        return self._log.read_text()

    def says(self, text: str, timeout_s: float = LONGEST_S) -> str:
        """Wait until it has said `text`; all it said."""
        ends = time.monotonic() + timeout_s
        while text not in (said := self.said):
            assert time.monotonic() < ends, f"{text!r} was not said: {said}"
            assert self.process.poll() is None, f"it ended with {self.process.returncode}: {said}"
            time.sleep(0.2)
        return said

    def processes(self, title: str = "") -> list[psutil.Process]:
        """Those below it with `title` in the title that they gave themselves, or in their command line."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                self._all[process.pid] = process
                if title in " ".join([process.name(), *process.cmdline()]) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.NoSuchProcess:
                continue
        return found

    def engines(self) -> list[psutil.Process]:
        return [process for process in self.processes("VLLM::EngineCore") if "ray::" not in "".join(process.cmdline())]

    def replicas(self) -> list[psutil.Process]:
        return self.processes("ServeReplica:judge:Judge")

    def stop(self) -> None:
        """Interrupt it as Ctrl-C does; what then still runs of it is killed."""
        if self.process.poll() is None:
            self.processes()
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for process in self._all.values():
            if process.is_running():
                process.kill()


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Command]]:
    """Starts commands; what still runs at the end of the module is stopped, the last one first."""
    started: list[Command] = []

    def begin(*command: object, cwd: Path | None = None, **env: str) -> Command:
        log = tmp_path_factory.mktemp("command") / "log"
        started.append(Command(command, log, {"RAY_ADDRESS": "", "COLUMNS": "200"} | env, cwd))
        return started[-1]

    yield begin
    for command in reversed(started):
        command.stop()


@pytest.fixture(scope="module")
def served(start: Callable[..., Command]) -> Callable[..., tuple[Command, str]]:
    """Starts `pipelines/serve.py` with these arguments on a free port; the command and the URL once it answers."""

    def begin(*arguments: object, **env: str) -> tuple[Command, str]:
        command = start(sys.executable, SERVE, "--port", 0, "--rollout.kv-cache-gib", 0.2, *arguments, **env)
        said = command.says("Ctrl-C stops")
        return command, said.split(") at ")[1].split(";")[0]

    return begin


@dataclass(frozen=True)
class Answer:
    """One attempt at a request. `status` is 0 where the connection was lost before there was an answer."""

    request: int
    began: float
    ended: float
    status: int
    body: dict[str, Any]
    retry_after: str | None


@dataclass
class Load:
    """Clients that ask one request after the other, each until it is answered, coming again when they are told to."""

    url: str
    clients: int = 16
    request: dict[str, Any] = field(default_factory=lambda: {"order": "ab"})
    answers: list[Answer] = field(default_factory=list)
    given_up: list[int] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._all()))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(LONGEST_S)
        assert not self._thread.is_alive(), "a client waits for an answer that never comes"

    async def _all(self) -> None:
        timeout = aiohttp.ClientTimeout(total=150)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
            await asyncio.gather(*(self._client(session, number) for number in range(self.clients)))

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while not self._stop.is_set():
            for _ in range(200):
                answer = await self._ask(session, number)
                self.answers.append(answer)
                if answer.status == 200:
                    break
                await asyncio.sleep(min(float(answer.retry_after or 0.5), 2))
            else:
                self.given_up.append(number)
            number += self.clients

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> Answer:
        pair = {"prompt": f"Which, number {number}?", "response_a": "this", "response_b": "that"} | self.request
        began, status, retry_after, body = time.monotonic(), 0, None, {}
        try:
            async with session.post(f"{self.url}/judge", json=pair) as response:
                retry_after = response.headers.get("Retry-After")
                body = await response.json() if "json" in response.content_type else {"text": await response.text()}
                status = response.status
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
            body = {"error": repr(error)}
        return Answer(number, began, time.monotonic(), status, body, retry_after)

    def good(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status == 200]

    def bad(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]

    def wait(self, count: int, since: float = 0.0) -> None:
        """Until that many requests that began after `since` have been answered."""
        ends = time.monotonic() + LONGEST_S
        while sum(answer.began > since for answer in self.good()) < count:
            assert time.monotonic() < ends, f"no answers; the last attempts: {self.answers[-5:]}"
            time.sleep(0.1)

    def longest_gap(self) -> float:
        """The longest time in which nothing was answered."""
        ended = sorted(answer.ended for answer in self.good())
        return max(after - before for before, after in itertools.pairwise(ended))


@pytest.fixture
def load() -> type[Load]:
    return Load


@pytest.fixture(scope="session")
def contrary(first_is_better: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same judge with one thing changed: it says that the second response is better. Version 8."""
    import torch
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("models") / "contrary"
    shutil.copytree(first_is_better, folder)
    encoder = PromptEncoder(folder)
    tensors = load_file(folder / "model.safetensors")
    for mine, other in (("A", "B"), ("[[A]]", "[[B]]")):
        (one,), (two,) = (encoder.encode_completion(text).tolist()[:-1] for text in (mine, other))
        for name in ("model.embed_tokens.weight", "lm_head.weight"):
            rows = torch.arange(len(tensors[name]))
            rows[[one, two]] = rows[[two, one]]
            tensors[name] = tensors[name][rows].contiguous()
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    card = JudgeCard.load(folder)
    assert card is not None
    card.model_copy(update={"version": 8}).write(folder)
    return folder
