"""Distilling traces of a file as a user starts it: by epochs, killed half way and resumed; what is learnt of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from actors import checkpoint
from actors.encoding import TraceEncoder
from actors.tokens import PromptEncoder
from evals.errors import ReadableError
from evals.pairs import Message, Pair, save_pairs
from evals.prompts import COMPACT
from evals.synthetic import SyntheticTask
from evals.traces import Trace, load_traces
from pipelines.config import DataConfig, DistillConfig, RunConfig
from pipelines.distill import _recipe, given_traces
from pipelines.stream import Data, DataError, Lessons

ROOT = Path(__file__).parents[2]
TRACES, BATCH, EPOCHS = 42, 8, 2
"""Six steps an epoch, the last of two traces."""
STEPS = 12


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write_traces(path: Path, pairs: Sequence[Pair]) -> Path:
    """The rows of `teach.py`, each ending in gold, for pairs all shown in one order."""
    lines = []
    for pair in pairs:
        letter = "A" if pair.gold == "a" else "B"
        text = f"<type>Chat</type><rubric>fit</rubric><eval>{letter} fits</eval><answer>[[{letter}]]</answer>"
        row = {"pair_id": pair.id, "order": "ab", "format": "compact", "gold": pair.gold, "text": text}
        lines.append(row | {"messages": COMPACT.render(pair, "ab")})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of the synthetic task; of two more, one is too long, and one neither says its format nor has a verdict."""
    path = write_traces(tmp_path_factory.mktemp("traces") / "traces.jsonl", SyntheticTask(0).pairs("train", TRACES))
    first = rows(path)[0]
    long = first | {"text": "so " * 300 + first["text"]}
    without = {"context_messages": first["messages"], "winner": "model_a"}
    with path.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in (long, without))
    return path


def command(traces: Path, folder: Path, *flags: object) -> list[str]:
    settings = ("--distill.traces", traces, "--distill.epochs", EPOCHS, "--distill.batch", BATCH, "--run-dir", folder)
    settings += ("--distill.optimizer.lr", 2e-3, "--distill.optimizer.schedule", "cosine")
    settings += ("--distill.optimizer.warmup-steps", 2, "--distill.save-every", 2, "--embedded.layers", 1)
    settings += ("--rollout.max-model-len", 256, "--policy.micro-batch-tokens", 512)
    return [sys.executable, "pipelines/distill.py", *map(str, (*settings, *flags))]


def distill(traces: Path, folder: Path, *flags: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(traces, folder, *flags), cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, traces: Path) -> tuple[Path, str]:
    """The folder of a run that nothing interrupts, and what it says."""
    folder = tmp_path_factory.mktemp("run") / "whole"
    run = distill(traces, folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder, run.stdout


def test_epochs_go_through_every_trace_that_can_be_learnt_from(whole: tuple[Path, str]) -> None:
    folder, said = whole
    steps = rows(folder / "distill-metrics.jsonl")

    assert [row["step"] for row in steps] == list(range(1, STEPS + 1))
    assert [row["epoch"] for row in steps] == [1] * 6 + [2] * 6
    assert [row["traces"] for row in steps] == [8, 8, 8, 8, 8, 2] * 2
    assert f"{TRACES} to learn from" in said
    assert "no verdict     1 traces left out" in said
    assert "too long       1 traces left out, which are over 256 tokens" in said
    assert f"distill {STEPS:>5}  loss {steps[-1]['loss']:.3f}" in said


def test_the_tokens_are_those_of_the_file(whole: tuple[Path, str], traces: Path) -> None:
    folder, _ = whole
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    learnt = rows(traces)[:TRACES]
    texts = [len(tokenizer(row["text"]).input_ids) + 1 for row in learnt]
    prompts = [
        len(tokenizer.apply_chat_template(row["messages"], add_generation_prompt=True, return_dict=True)["input_ids"])
        for row in learnt
    ]

    steps = rows(folder / "distill-metrics.jsonl")
    for epoch in (1, 2):
        mine = [row for row in steps if row["epoch"] == epoch]
        assert sum(row["trained_tokens"] for row in mine) == sum(texts)
        assert sum(row["tokens"] for row in mine) == sum(texts) + sum(prompts)
    assert steps[0]["tokens_per_second"] == pytest.approx(steps[0]["tokens"] / steps[0]["seconds"])


def test_the_loss_falls_and_the_schedule_ends_with_the_last_epoch(whole: tuple[Path, str]) -> None:
    steps = rows(whole[0] / "distill-metrics.jsonl")

    assert steps[-1]["loss"] < steps[0]["loss"] / 2
    assert max(row["lr"] for row in steps) == pytest.approx(2e-3)
    assert steps[-1]["lr"] == pytest.approx(0, abs=1e-9), "cosine over all the steps"


def test_what_the_model_follows_from_is_kept_with_it(whole: tuple[Path, str]) -> None:
    recipe = json.loads((whole[0] / "distill" / "recipe.json").read_text())

    assert recipe["policy"]["ranks"] == 1
    assert recipe["distill"]["epochs"] == EPOCHS
    assert len(recipe["traces"]) == 64
    assert not (whole[0] / "distill-checkpoints").exists(), "a complete model has no use for them"


@pytest.mark.thorough
def test_a_killed_distillation_ends_where_it_would_have(whole: tuple[Path, str], traces: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = subprocess.Popen(
        command(traces, folder), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        ends = time.monotonic() + 240
        while not (folder / "distill-checkpoints" / "step-000004").exists():
            assert process.poll() is None
            assert time.monotonic() < ends
            time.sleep(0.01)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert not (folder / "distill").exists(), "it was killed before the end"
    with (folder / "distill-metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')  # as a kill in the middle of a line leaves it

    other = distill(traces, folder, "--distill.optimizer.max-grad-norm", 0.5)
    assert other.returncode == 1
    assert "steps of another distillation are kept there, which differs in distill;" in other.stderr
    assert "Traceback" not in other.stderr

    run = distill(traces, folder)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "goes on        after step" in run.stdout
    timings = {"seconds", "tokens_per_second"}
    resumed, uninterrupted = (
        [{name: row[name] for name in row.keys() - timings} for row in rows(place / "distill-metrics.jsonl")]
        for place in (folder, whole[0])
    )
    assert resumed == uninterrupted
    one, other_ = (place / "distill" / "model.safetensors" for place in (folder, whole[0]))
    assert one.read_bytes() == other_.read_bytes()
    assert not (folder / "distill-checkpoints").exists()

    left = folder / "distill-checkpoints"  # as a kill after the model was complete leaves it
    recipe = json.loads((folder / "distill" / "recipe.json").read_text())
    checkpoint.publish(checkpoint.begin(left, 10), 10, recipe, version=0, policy={}, keep=2)
    again = distill(traces, folder)
    assert "(as before)" in again.stdout
    assert not left.exists()


def config(data: DataConfig | None = None, **distill: Any) -> RunConfig:
    return RunConfig(data=data or DataConfig(), distill=DistillConfig(**distill))


def test_traces_about_held_out_questions_are_refused(tmp_path: Path) -> None:
    pairs = [
        Pair(f"q{number}", (Message(role="user", content=f"What is {number}?"),), "x", "y", "a") for number in range(9)
    ]
    save_pairs(tmp_path / "train.jsonl", pairs[:4])
    save_pairs(tmp_path / "heldout.jsonl", pairs[4:])
    files = DataConfig(train=tmp_path / "train.jsonl", heldout=tmp_path / "heldout.jsonl")
    data = Data.load(files, seed=0, heldout=100)
    clean = write_traces(tmp_path / "clean.jsonl", pairs[:4])
    mixed = write_traces(tmp_path / "mixed.jsonl", pairs[:6])

    given = given_traces(config(files, traces=str(clean)), data)
    assert given is not None
    assert len(given.traces) == 4
    with pytest.raises(DataError, match=r"2 held-out pairs ask a question that the traces ask too, first 'q[45]'"):
        given_traces(config(files, traces=str(mixed)), data)


def test_traces_about_questions_that_were_split_off_are_left_out(tmp_path: Path) -> None:
    """Whoever makes traces of the pairs to train on has some of the questions that are then held out."""
    pairs = [Pair(f"q{n}", (Message(role="user", content=f"What is {n}?"),), "x", "y", "a") for n in range(40)]
    save_pairs(tmp_path / "train.jsonl", pairs)
    data = Data.load(DataConfig(train=tmp_path / "train.jsonl", heldout_share=0.5), seed=0, heldout=100)
    assert data.train
    path = write_traces(tmp_path / "traces.jsonl", pairs)

    given = given_traces(config(traces=str(path)), data)

    assert given is not None
    assert given.held_out == len(data.heldout) > 0
    assert [trace.messages for trace in given.traces] == [COMPACT.render(pair, "ab") for pair in data.train]
    assert given.sha256 != load_traces(str(path), COMPACT).sha256, "another model follows from fewer traces"
    only = write_traces(tmp_path / "only.jsonl", data.heldout)
    with pytest.raises(DataError, match="every trace asks a question that is held out"):
        given_traces(config(traces=str(only)), data)


def test_another_base_in_the_same_folder_is_another_recipe(make_model: Callable[..., Path], tmp_path: Path) -> None:
    data = Data.load(DataConfig(), seed=0, heldout=5)

    def recipe(model: Path) -> str:
        shutil.rmtree(tmp_path / "base", ignore_errors=True)
        shutil.copytree(model, tmp_path / "base")
        return _recipe(RunConfig(base=str(tmp_path / "base")), data, None)["hash"]

    one, other = make_model(seed=0), make_model(seed=1)
    assert recipe(one) == recipe(one) != recipe(other)


def test_epochs_need_a_file_to_go_through() -> None:
    with pytest.raises(DataError, match=r"distill\.traces, which is empty"):
        given_traces(config(epochs=1), Data.load(DataConfig(), seed=0, heldout=5))


def test_the_oracle_never_runs_out_and_a_file_starts_over() -> None:
    data = Data.load(DataConfig(), seed=0, heldout=5)
    made = Lessons(None, data, COMPACT, 0.25).batches(50)
    first, second = next(made), next(made)
    assert (len(first[1]), len(second[1])) == (50, 50)
    assert first[1] != second[1]

    given = [Trace([], str(number)) for number in range(7)]
    batches = Lessons(given, data, COMPACT, 0.25).batches(3)
    epochs = [[next(batches) for _ in range(3)] for _ in range(2)]
    for number, epoch in enumerate(epochs, start=1):
        assert [(of, len(batch)) for of, batch in epoch] == [(number, 3), (number, 3), (number, 1)]
        assert sorted(trace.text for _, batch in epoch for trace in batch) == [str(n) for n in range(7)]


def thinking_model(folder: Path, target: Path, opens: str, one_token: bool) -> PromptEncoder:
    """A tokenizer whose chat template begins the assistant's turn with `opens`."""
    shutil.copytree(folder, target)
    (target / "chat_template.jinja").write_text(
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n" + opens + "{% endif %}"
    )
    if one_token:  # as R1's is, an added token that is not special
        tokenizer = AutoTokenizer.from_pretrained(target)
        tokenizer.add_tokens(["<think>", "</think>"])
        tokenizer.save_pretrained(target)
    return PromptEncoder(target)


@pytest.mark.parametrize("one_token", [False, True])
@pytest.mark.parametrize(
    ("opens", "text", "learnt"),
    [
        ("<think>\n", "<think>\nhm\n</think>\nso [[A]]", "hm\n</think>\nso [[A]]"),
        ("<think>\n", "\n<think>hm</think>so [[A]]", "hm</think>so [[A]]"),
        ("<think>\n", "hm\n</think>\nso [[A]]", "hm\n</think>\nso [[A]]"),
        ("<think>", "<think>\nhm</think>so [[A]]", "\nhm</think>so [[A]]"),
        ("", "<think>\nhm</think>so [[A]]", "<think>\nhm</think>so [[A]]"),
        ("", "so [[A]]<|im_end|>", "so [[A]]"),
        ("", "it says <|im_end|>, so [[A]]", "it says <|im_end|>, so [[A]]"),
    ],
)
def test_a_trace_is_learnt_as_the_model_would_have_sampled_it(
    make_model: Callable[..., Path], tmp_path: Path, opens: str, text: str, learnt: str, one_token: bool
) -> None:
    """Where the template opens the thinking the trace goes on from there, and there is one end of sequence."""
    encoder = thinking_model(make_model(), tmp_path / "model", opens, one_token)
    example = TraceEncoder(encoder).example(Trace([Message(role="user", content="<think>\n")], text))
    prompt, completion = example.ids[: example.prompt_length].tolist(), example.ids[example.prompt_length :].tolist()

    asked = "(think)" if opens and not one_token else "<think>"  # quoted where the template marks thinking in mere text
    assert encoder.tokenizer.decode(prompt) == f"<|im_start|>user\n{asked}\n<|im_end|>\n<|im_start|>assistant\n{opens}"
    assert encoder.tokenizer.decode(completion) == f"{learnt}<|im_end|>"
    assert completion.count(encoder.eos) == 1
    assert completion[-1] == encoder.eos


def test_errors_end_the_run_before_anything_starts(tmp_path: Path) -> None:
    traces = write_traces(tmp_path / "traces.jsonl", SyntheticTask(0).pairs("train", 2))
    run = distill(traces, tmp_path / "run", "--data.format", "rm_r1")

    assert run.returncode == 1
    assert "set data.format to 'compact'" in run.stderr
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "run").exists()
    assert issubclass(DataError, ReadableError)
