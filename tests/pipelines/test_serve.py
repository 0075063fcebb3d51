"""The command that serves a judge, up to the point where something is started: what it refuses, and what it follows."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from actors.card import JudgeCard
from pipelines import serve
from pipelines.following import Follower


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """What the command says, which must refuse these arguments."""
    assert serve.main([str(argument) for argument in arguments]) == 1
    said = capsys.readouterr()
    assert not said.out
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    return said.err


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GAVEL_API_KEYS", raising=False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "judge.example"])
def test_other_machines_are_answered_with_keys_only(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    first_is_better: Path,
    tmp_path: Path,
    host: str,
) -> None:
    said = refused(capsys, "--model", first_is_better, "--host", host, "--dry-run")
    assert f"--host {host}" in said
    assert "--api-keys" in said
    assert "GAVEL_API_KEYS" in said
    (tmp_path / "keys").write_text("k" * 20)
    given = ["--model", str(first_is_better), "--host", host, "--dry-run"]
    assert serve.main([*given, "--api-keys", str(tmp_path / "keys")]) == 0
    monkeypatch.setenv("GAVEL_API_KEYS", "e" * 20)
    assert serve.main(given) == 0
    assert "e" * 20 not in "".join(capsys.readouterr())


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.7", "::1", "localhost"])
def test_this_machine_is_answered_without_keys(first_is_better: Path, host: str) -> None:
    assert serve.main(["--model", str(first_is_better), "--host", host, "--dry-run"]) == 0


def test_keys_that_cannot_be_used_are_said_before_anything_starts(
    capsys: pytest.CaptureFixture[str], first_is_better: Path, tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text("short")
    said = refused(capsys, "--model", first_is_better, "--api-keys", tmp_path / "keys")
    assert "keys, line 1: an API key needs at least 16 characters" in said
    assert "no-such-file" in refused(capsys, "--model", first_is_better, "--api-keys", "no-such-file")


def test_a_certificate_that_is_none_is_named(
    capsys: pytest.CaptureFixture[str], first_is_better: Path, tmp_path: Path
) -> None:
    (tmp_path / "key").write_text("no key")
    flags = ["--serve.ssl-certfile", tmp_path / "none", "--serve.ssl-keyfile", tmp_path / "key"]
    said = refused(capsys, "--model", first_is_better, *flags)
    assert f"serve.ssl_certfile={tmp_path / 'none'}" in said
    with pytest.raises(SystemExit) as ended:
        serve.main(["--model", str(first_is_better), *map(str, flags[:2])])
    assert ended.value.code == 2
    assert "ssl_certfile and ssl_keyfile, or neither" in capsys.readouterr().err


def test_haproxy_needs_its_programs_and_its_port(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, first_is_better: Path, tmp_path: Path
) -> None:
    flags = ["--model", first_is_better, "--serve.proxy", "haproxy"]
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "needs haproxy and socat on PATH" in refused(capsys, *flags)
    for program in ("haproxy", "socat"):
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    assert "can listen on 127.0.0.1 or 0.0.0.0 alone" in refused(capsys, *flags, "--host", "::1")
    monkeypatch.setenv("RAY_ADDRESS", "192.0.2.1:6379")
    assert "the cluster of RAY_ADDRESS has chosen its proxy" in refused(capsys, *flags)
    monkeypatch.delenv("RAY_ADDRESS")
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("0.0.0.0", 8404))
            taken.listen()
        except OSError:
            pass  # somebody else has it: just as well
        assert "cannot listen on 0.0.0.0:8404" in refused(capsys, *flags)


def test_a_folder_to_follow_must_be_there(capsys: pytest.CaptureFixture[str], first_is_better: Path) -> None:
    assert "--follow nowhere: there is no such folder" in refused(
        capsys, "--model", first_is_better, "--follow", "nowhere"
    )


class Following:
    """A follower of a folder, what it swapped in and what it said."""

    def __init__(self, folder: Path, served: Path):
        self.folder, self.model = folder, served
        self.swapped: list[tuple[str, int]] = []
        self.said: list[str] = []
        self.problem: str | None = None
        card = JudgeCard.load(served)
        assert card is not None
        self.follower = Follower(folder, served, card, self.swap, self.said.append)

    def swap(self, folder: Path, version: int) -> str | None:
        self.swapped.append((folder.name, version))
        return self.problem

    def add(self, name: str, version: int) -> Path:
        folder = self.folder / name
        shutil.copytree(self.model, folder, dirs_exist_ok=True)
        card = JudgeCard.load(folder)
        assert card is not None
        card.model_copy(update={"version": version}).write(folder)
        return folder

    def look(self, times: int = 2) -> list[tuple[str, int]]:
        """What it swapped in when it looked so many times."""
        del self.swapped[:]
        for _ in range(times):
            self.follower.look()
        return self.swapped


@pytest.fixture
def following(tmp_path: Path, first_is_better: Path) -> Following:
    """Version 7 is served."""
    return Following(tmp_path, first_is_better)


def test_the_newest_judge_is_followed_once_it_stays_as_it_is(following: Following) -> None:
    assert following.look() == []
    following.add("run/a", 9)
    following.add("run/b", 8)
    following.add("old", 7)
    following.add(".draft", 12)
    assert following.look(1) == [], "it may still be being written"
    assert following.look(3) == [("a", 9)]
    folder = following.add("run/c", 10)
    following.look(1)
    (folder / "gavel.json").touch()
    assert following.look(1) == [], "it was still being written"
    assert following.look(1) == [("c", 10)]


def test_the_folder_itself_may_be_the_judge(following: Following) -> None:
    following.add("", 8)
    assert following.look() == [(following.folder.name, 8)]
    following.add("", 9)
    assert following.look() == [(following.folder.name, 9)]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 100), "its weights cannot be read"),
        (lambda folder: (folder / "gavel.json").write_text('{"version": 9, "form'), "gavel.json: card: Invalid JSON"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "tokenizer.json is missing"),
    ],
)
def test_what_cannot_be_served_is_said_once_and_tried_again_when_it_changed(
    following: Following, first_is_better: Path, spoil: Callable[[Path], object], says: str
) -> None:
    spoil(folder := following.add("new", 9))
    following.add("next", 8)
    assert following.look(4) == [("next", 8)], "the next best is served"
    (refused,) = [said for said in following.said if "stays" in said]
    assert says in refused
    assert str(folder) in refused
    following.add("new", 9)
    assert following.look() == [("new", 9)]


def test_what_an_engine_refuses_is_said_and_the_next_is_tried(following: Following) -> None:
    following.problem = "the engine could not load it"
    following.add("new", 9)
    assert following.look(4) == [("new", 9)]
    assert following.said == ["version 7 stays: the engine could not load it"]
    following.problem = None
    tensors = load_file(following.add("newer", 10) / "model.safetensors")
    save_file({name: tensor * 0.5 for name, tensor in tensors.items()}, following.folder / "newer/model.safetensors")
    assert following.look() == [("newer", 10)]
    assert following.said[1:] == [f"serving version 10 from {following.folder / 'newer'}"]
