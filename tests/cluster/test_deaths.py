"""A served judge loses processes and changes weights while clients keep asking.

The judge says that the first response is better, so every answer is checked; clients ask again when told to, as
trainers do, and none of them may be left without an answer.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

pytestmark = pytest.mark.thorough

Served = tuple[Any, str]
Count = Callable[[Any], None]


@pytest.fixture(scope="module")
def following(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the served judge follows."""
    return tmp_path_factory.mktemp("following")


@pytest.fixture(scope="module")
def judge(served: Callable[..., Served], first_is_better: Path, following: Path) -> Served:
    return served("--model", first_is_better, "--follow", following)


@pytest.fixture
def count(record_property: Callable[[str, object], None]) -> Count:
    """Puts what clients met into pytest's own report (--junitxml), where the benchmark reads it."""

    def put(under: Any) -> None:
        record_property("requests answered", len(under.good()))
        record_property("attempts that failed", len(under.bad()))
        record_property("requests given up", len(under.given_up))
        record_property("longest time without an answer (s)", round(under.longest_gap(), 1))

    return put


def survived(under: Any, verdict: str = "a") -> None:
    """What holds whatever dies."""
    assert not under.given_up, "requests were never answered"
    wrong = [answer for answer in under.good() if answer.body["verdict"] != verdict]
    assert not wrong, f"{len(wrong)} wrong answers, first {wrong[0]}"
    told = [answer for answer in under.bad() if answer.status]
    assert all(answer.status == 503 and answer.retry_after for answer in told), [a for a in told if a.status != 503]
    assert all("try again" in answer.body["detail"] or "replaced" in answer.body["detail"] for answer in told)


def killed(under: Any, *victims: psutil.Process) -> float:
    """Kill them under load; when."""
    assert victims
    under.wait(50)
    for victim in victims:
        os.kill(victim.pid, signal.SIGKILL)
    return time.monotonic()


def test_a_dead_engine_is_replaced_under_load(judge: Served, load: Any, count: Count) -> None:
    command, url = judge
    with load(url) as under:
        when = killed(under, *command.engines())
        under.wait(100, since=when + 5)
    count(under)
    survived(under)
    assert under.bad(), "nothing was lost, so nothing was killed"


def test_a_dead_replica_takes_its_engine_along_and_is_replaced_under_load(
    judge: Served, load: Any, count: Count
) -> None:
    command, url = judge
    (engine,) = command.engines()
    with load(url) as under:
        when = killed(under, *command.replicas())
        under.wait(100, since=when + 5)
    count(under)
    survived(under)
    assert len(under.bad()) <= 2 * under.clients, "only what was in progress is lost; the rest waits for the new one"
    assert not engine.is_running() or engine.status() == psutil.STATUS_ZOMBIE
    assert len(command.engines()) == 1


def test_a_dead_proxy_is_replaced_under_load_and_the_replica_stays(judge: Served, load: Any, count: Count) -> None:
    command, url = judge
    (engine,) = command.engines()
    with load(url) as under:
        when = killed(under, *command.processes("ProxyActor"))
        under.wait(100, since=when + 5)
    count(under)
    survived(under)
    assert {answer.status for answer in under.bad()} == {0}, "connections are lost, and nothing else"
    assert engine.is_running()


def swapped(judge: Served, load: Any, change: Callable[[], object], until: Callable[[], bool]) -> Any:
    """The load under which a checkpoint is changed; nothing may fail, and no process may go."""
    command, url = judge
    processes = {process.pid for process in [*command.replicas(), *command.engines()]}
    with load(url) as under:
        under.wait(50)
        change()
        ends = time.monotonic() + 120
        while not until():
            assert time.monotonic() < ends, command.said
            time.sleep(0.2)
        under.wait(50, since=time.monotonic())
    assert not under.bad(), under.bad()[:3]
    assert {process.pid for process in [*command.replicas(), *command.engines()]} == processes, "in place"
    return under


BAD = {
    "truncated": "cannot be read",
    "other shape": "has shape",
    "not finite": "not finite",
    "missing file": "missing",
    "other tokenizer": "tokenizer.json differs",
}


def spoil(folder: Path, how: str) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    weights = folder / "model.safetensors"
    if how == "truncated":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "missing file":
        (folder / "tokenizer.json").unlink()
    elif how == "other tokenizer":
        file = folder / "tokenizer.json"
        file.write_text(file.read_text().replace('"single_word": false', '"single_word": true', 1))
    else:
        tensors = load_file(weights)
        norm = tensors["model.norm.weight"]
        tensors["model.norm.weight"] = torch.cat([norm, norm]) if how == "other shape" else norm.fill_(torch.nan)
        save_file(tensors, weights, {"format": "pt"})


@pytest.mark.parametrize("how", BAD)
def test_a_bad_checkpoint_is_refused_and_the_old_one_stays(
    judge: Served, following: Path, contrary: Path, load: Any, count: Count, how: str
) -> None:
    command, url = judge
    folder = following / how.replace(" ", "-")

    def change() -> None:
        draft = following / f".{folder.name}"
        shutil.copytree(contrary, draft)
        spoil(draft, how)
        draft.rename(folder)

    under = swapped(judge, load, change, lambda: f"version 7 stays: {folder}" in command.said)
    count(under)
    survived(under)
    shutil.rmtree(folder)
    (line,) = [line for line in command.said.splitlines() if str(folder) in line]
    assert BAD[how] in line
    assert {answer.body["version"] for answer in under.good()} == {7}
    assert httpx.get(f"{url}/version").json()["version"] == 7


def test_a_swap_under_load_loses_nothing_and_mixes_nothing(
    judge: Served, following: Path, contrary: Path, load: Any, count: Count
) -> None:
    command, _ = judge
    newer = following / "newer"
    under = swapped(
        judge,
        load,
        lambda: shutil.copytree(contrary, following / ".newer").rename(newer),
        lambda: f"serving version 8 from {newer}" in command.said,
    )
    count(under)
    counted = Counter((answer.body["version"], answer.body["verdict"]) for answer in under.good())
    assert counted.keys() == {(7, "a"), (8, "b")}, "each answer is of the weights that it names"
    first_of_8 = min(answer.ended for answer in under.good() if answer.body["version"] == 8)
    assert all(answer.body["version"] == 8 for answer in under.good() if answer.began > first_of_8)


def test_a_replica_that_starts_after_a_swap_serves_the_new_weights(judge: Served, load: Any, count: Count) -> None:
    """Last in this file: the swap came before."""
    command, url = judge
    with load(url) as under:
        when = killed(under, *command.replicas())
        under.wait(50, since=when + 5)
    count(under)
    survived(under, "b")
    assert {answer.body["version"] for answer in under.good()} == {8}
