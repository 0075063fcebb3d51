"""Data sets built by a recipe, as a user starts it: what comes out, and what an interruption leaves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines.data import main

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, str(ROOT / "pipelines" / "data.py"), "build"]


def run(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    found = os.environ | environment
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT, env=found, timeout=120
    )


def test_the_example_becomes_clean_pairs_the_same_to_the_byte(shared_data: Path, tmp_path: Path) -> None:
    recipe = ROOT / "pipelines" / "presets" / "data" / "example.yaml"
    paths = [
        f"sources.0.path={shared_data / 'gsm8k' / 'gsm8k_right_wrong_pairs.jsonl'}",
        f"sources.1.path={shared_data / 'humanevalpack'}",
        f"contamination.benchmarks.0.data={shared_data / 'llmbar'}",
    ]
    overrides = [word for path in paths for word in ("--set", path)]
    for name, seed in (("one", "1"), ("two", "2")):
        ended = run(recipe, "--output", tmp_path / name, *overrides, PYTHONHASHSEED=seed)
        assert ended.returncode == 0, ended.stderr
    files = ("train.jsonl", "heldout.jsonl", "dropped.jsonl", "manifest.json")
    assert sorted(entry.name for entry in (tmp_path / "one").iterdir()) == sorted(files)
    for name in files:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    manifest = json.loads((tmp_path / "one" / "manifest.json").read_text())
    counts = {source["name"]: source["counts"] for source in manifest["sources"]}
    assert (counts["gsm8k"]["rows"], counts["humanevalpack"]["rows"]) == (2429, 492)
    assert counts["gsm8k"]["contaminated"] == 0
    assert counts["humanevalpack"]["contaminated"] == 2  # LLMBar too asks for Fibonacci numbers, and has that code
    train = manifest["outputs"]["train.jsonl"]
    assert abs(train["gold"]["a"] - train["gold"]["b"]) <= 2
    assert "near duplicate" in ended.stdout


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "chosen": "x", "rejected": "y"}\n{"prompt": "q"}\n')
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"sources: [{{path: {tmp_path / 'a.jsonl'}}}]")
    ended = run(recipe, "--output", tmp_path / "out", "--dry-run")
    assert ended.returncode == 0, ended.stderr
    assert "near: 0.85" in ended.stdout
    assert "line 2: item '2': field 'response_a' is missing" in ended.stdout
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.jsonl", "recipe.yaml"]


def test_errors_are_one_message_without_a_traceback(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"sources: [{{path: {tmp_path / 'none.jsonl'}}}]")
    for arguments, message in (([], "key 'path': there is no file or folder"), (["--set", "sed=1"], "sed: Extra")):
        ended = run(recipe, "--output", tmp_path / "out", *arguments)
        assert ended.returncode == 1
        assert message in ended.stderr
        assert "Traceback" not in ended.stderr
        assert not (tmp_path / "out").exists()


@pytest.mark.thorough
def test_a_killed_build_leaves_the_earlier_output_and_the_next_one_clears_up(tmp_path: Path) -> None:
    source, recipe, out = tmp_path / "a.jsonl", tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(f"sources: [{{path: {source}}}]")
    source.write_text(json.dumps({"prompt": "q", "chosen": "x", "rejected": "y"}) + "\n")
    assert run(recipe, "--output", out, "--set", "heldout.share=0").returncode == 0
    before = {entry.name: entry.read_bytes() for entry in out.iterdir()}
    with source.open("a") as file:
        for i in range(200_000):
            file.write(json.dumps({"prompt": f"q {i}", "chosen": f"x {i}", "rejected": f"y {i}"}) + "\n")
    process = subprocess.Popen(
        [*COMMAND, recipe, "--output", out], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        partial, deadline = tmp_path / ".out.partial" / "spool", time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.05)
        second = run(recipe, "--output", out)
        assert "another build is writing this folder" in second.stderr
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == before
    source.write_text(json.dumps({"prompt": "q", "chosen": "x", "rejected": "y"}) + "\n")
    assert run(recipe, "--output", out, "--set", "heldout.share=0").returncode == 0
    assert {entry.name: entry.read_bytes() for entry in out.iterdir()} == before
    assert not (tmp_path / ".out.partial").exists()


def test_the_other_commands_are_reached(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"id": "1", "prompt": "2 + 2?", "response_a": "4", "response_b": "5", "gold": "a"}\n')
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(pairs), "--json"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["pairs"] == 1
    with pytest.raises(SystemExit, match=r"error: .*nowhere"):
        main(["questions", str(tmp_path / "nowhere.jsonl"), "--output", str(tmp_path / "out.jsonl")])
