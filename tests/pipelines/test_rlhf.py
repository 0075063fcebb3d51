"""Downstream RLHF as a user starts it, against a real served judge.

The judge `first_is_better` says that whatever it is shown first is better. Asked in one order, what it prefers follows
from the places of the responses alone; asked in both orders, it never decides.
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from datasets import load_dataset

from evals.answers import is_right, questions
from evals.pairs import PairFileError
from pipelines.config import RunConfig, load
from pipelines.prompts import read_prompts
from pipelines.rlhf import asked

ROOT = Path(__file__).parents[2]
TINY = (
    *("--embedded.layers", "1", "--distill.steps", "120", "--distill.batch", "32", "--evaluation.pairs", "12"),
    *("--steps", "3", "--rlhf.evaluate-every", "2", "--grpo.groups", "4", "--rollout.samples", "4"),
    *("--rlhf.order", "ab", "--rollout.kv-cache-gib", "0.25"),
)


def rlhf(*flags: object, timeout: float = 400) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "pipelines/rlhf.py", *map(str, flags)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, check=False)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def write(path: Path, *lines: object) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, first_is_better: Path) -> Path:
    """A short run that serves its judge itself."""
    folder = tmp_path_factory.mktemp("rlhf") / "run"
    run = rlhf("--judge", first_is_better, "--run-dir", folder, *TINY)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "held out" in run.stdout
    assert "WARNING" not in run.stdout + run.stderr, "noise belongs into files"
    return folder


@pytest.fixture(scope="module")
def url(endpoint: str) -> str:
    return endpoint


@pytest.mark.thorough
def test_a_run_leaves_policy_measurements_and_picture(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["judge"] == {"model": "first-is-better", "version": 7, "format": "compact"}
    assert summary["start"]["preferred"] == 0, "its first answers against themselves"
    assert (trained / "policy" / "config.json").exists()
    assert (trained / "learning.png").stat().st_size > 5000
    metrics = rows(trained / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2, 3]
    assert ["held_out" in row for row in metrics] == [False, True, True]
    assert metrics[-1]["held_out"] == summary["rlhf"]
    assert metrics[-1]["version"] > 1, "weights were trained and sent"
    assert all(row["accuracy"] is None for row in metrics), "whether training responses are right is not known"


@pytest.mark.thorough
def test_true_accuracy_can_be_counted_again_from_the_answers_on_disk(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    gold = {pair.id: pair for pair in questions(0, "heldout", 12)}
    for step, name in ((0, "start"), (3, "rlhf")):
        for mode, tries in (("greedy", 1), ("sampled", 4)):
            answered = rows(trained / "eval" / f"step-{step:06d}-{mode}.jsonl")
            assert {row["id"] for row in answered} == gold.keys()
            right = [is_right(gold[row["id"]], text) for row in answered for text in row["responses"]]
            assert len(right) == tries * len(gold)
            assert summary[name][f"accuracy_{mode}"] == pytest.approx(sum(right) / len(right))


@pytest.mark.thorough
def test_rewards_are_the_judges_comparisons_and_nothing_else(trained: Path) -> None:
    """What the judge says follows from places, so every reward can be worked out from the responses alone."""
    for path in sorted((trained / "judgements").iterdir()):
        for row in rows(path):
            texts = row["responses"]
            different = [text for text in dict.fromkeys(texts) if text.strip()]
            wins = [0.0] * len(texts)
            for i, j in itertools.permutations(range(len(texts)), 2):
                one, other = texts[i], texts[j]
                if one == other or not (one.strip() or other.strip()):
                    wins[i] += 0.5
                elif not other.strip():
                    wins[i] += 1
                elif one.strip():  # of two responses an odd number of places apart, the earlier one is shown first
                    apart = different.index(other) - different.index(one)
                    wins[i] += (apart > 0) == (apart % 2 == 1)
            assert row["rewards"] == pytest.approx([2 * won / (len(texts) - 1) - 1 for won in wins])
            assert row["judge_versions"] in ([], [7])


def test_nothing_that_is_trained_on_has_a_label() -> None:
    config, _ = load([], "", "rlhf.yaml")
    data, gold = asked(config)

    assert data.train
    for pair in [*data.train, *data.heldout]:
        assert (pair.response_a, pair.response_b, pair.gold, pair.meta) == ("", "", None, {})
    assert [pair.id for pair in data.heldout] == [pair.id for pair in gold]
    known = {pair.messages[0]["content"] for pair in gold}
    assert not known & {pair.messages[0]["content"] for pair in data.train}


OTHER_TRUTH = """
import sys
import evals.answers
evals.answers.is_right = lambda pair, answer: len(answer) % 2 == 0
from pipelines.rlhf import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.thorough
def test_another_truth_changes_no_weight(trained: Path, tmp_path: Path, first_is_better: Path) -> None:
    """The same run where other answers count as right: it measures something else, and trains the same policy."""
    flags = ("--judge", first_is_better, "--run-dir", tmp_path / "run", "--model", trained / "distill", *TINY)
    for name, start in (("same", ["pipelines/rlhf.py"]), ("other", ["-c", OTHER_TRUTH])):
        command = [sys.executable, *start, *map(str, flags)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        (tmp_path / "run").rename(tmp_path / name)
    weights = [(tmp_path / name / "policy" / "model.safetensors").read_bytes() for name in ("same", "other")]
    measured = [json.loads((tmp_path / name / "summary.json").read_text())["rlhf"] for name in ("same", "other")]
    assert weights[0] == weights[1]
    assert measured[0]["preferred"] == measured[1]["preferred"]
    assert measured[0]["accuracy_sampled"] != measured[1]["accuracy_sampled"]


@pytest.mark.thorough
def test_best_of_n_is_the_judges_choice(trained: Path, url: str, tmp_path: Path) -> None:
    best = tmp_path / "best.jsonl"
    flags = ("--endpoint", url, "--model", trained / "distill", "--n", 3, "--order", "ab", "--output", best)
    run = rlhf("best-of-n", *flags, "--evaluation.pairs", 12, "--rollout.kv-cache-gib", 0.25)

    assert run.returncode == 0, run.stdout + run.stderr
    gold = {pair.id: pair for pair in questions(0, "heldout", 12)}
    assert {row["id"] for row in rows(best)} == gold.keys()
    shares = {"by lot": 0.0, "best of 3": 0.0}
    for row in rows(best):
        assert len(row["responses"]) == len(row["rewards"]) == 3
        assert row["response"] == row["responses"][row["rewards"].index(max(row["rewards"]))]
        shares["by lot"] += sum(is_right(gold[row["id"]], text) for text in row["responses"]) / 3 / len(gold)
        shares["best of 3"] += is_right(gold[row["id"]], row["response"]) / len(gold)
    for name, share in shares.items():
        assert f"{name:<14} true accuracy {share:.3f}" in run.stdout


@pytest.mark.thorough
def test_pairs_are_labelled_in_trls_columns(url: str, tmp_path: Path) -> None:
    """Shown first are, in one order: 0 before 1, 1 before 2, and 2 before 0, so of three none is best."""
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Which?"}]
    given = write(
        tmp_path / "responses.jsonl",
        {"id": "two", "prompt": "Which is it?", "responses": ["this", "that"]},
        {"id": "three", "prompt": turns, "responses": ["one", "two", "three"]},
        {"id": "same", "prompt": "Which is it?", "responses": ["this", "this"]},
        {"id": "blank", "prompt": "Which is it?", "responses": ["", "this"]},
    )
    flags = ("--endpoint", url, "--order", "ab", "--input", given)
    best, every = tmp_path / "best.jsonl", tmp_path / "every.jsonl"
    one, two = rlhf("label", *flags, "--output", best), rlhf("label", *flags, "--output", every, "--all")

    assert one.returncode == two.returncode == 0, one.stdout + one.stderr + two.stderr
    plain = [{"prompt": "Which is it?", "chosen": "this", "rejected": other} for other in ("that", "")]
    assert rows(best) == plain
    assert "2 pairs of 4 prompts, 4 of them asked now; 2 undecided and 0 refused" in one.stdout
    said = {name: [{"role": "assistant", "content": name}] for name in ("one", "two", "three")}
    talk = [
        {"prompt": turns, "chosen": said[won], "rejected": said[lost]}
        for won, lost in (("one", "two"), ("three", "one"), ("two", "three"))
    ]
    assert rows(every)[0] == plain[0]
    assert sorted(rows(every)[1:4], key=str) == sorted(talk, key=str)
    assert rows(every)[4:] == plain[1:]


@pytest.mark.thorough
def test_both_orders_leave_what_depends_on_the_order_undecided(url: str, tmp_path: Path) -> None:
    given = write(tmp_path / "responses.jsonl", {"prompt": "Which?", "responses": ["this", "that"]})
    run = rlhf("label", "--endpoint", url, "--input", given, "--output", tmp_path / "pairs.jsonl")

    assert run.returncode == 0, run.stdout + run.stderr
    assert (tmp_path / "pairs.jsonl").read_text() == ""
    assert "0 pairs of 1 prompts, 1 of them asked now; 1 undecided" in run.stdout


@pytest.mark.thorough
def test_labelling_goes_on_after_a_kill_and_names_what_is_refused(url: str, tmp_path: Path) -> None:
    long = "long " * 300
    given = [{"prompt": f"Which, {i}?", "responses": ["this", "that"]} for i in range(4)]
    file = write(tmp_path / "r.jsonl", *given, {"prompt": "Which?", "responses": [long, "that"]})
    flags = ("label", "--endpoint", url, "--order", "ab", "--input", file, "--output", tmp_path / "pairs.jsonl")
    first = rlhf(*flags)
    assert first.returncode == 0, first.stdout + first.stderr
    whole = (tmp_path / "pairs.jsonl").read_bytes()
    assert f"left out       {file}, line 5: " in first.stdout
    assert "4 pairs of 5 prompts, 5 of them asked now; 0 undecided and 1 refused" in first.stdout

    answers = tmp_path / "pairs.answers.jsonl"
    kept = answers.read_bytes().splitlines(keepends=True)
    answers.write_bytes(b"".join(kept[:3]) + kept[3][:20])  # as a kill leaves it
    (tmp_path / "pairs.jsonl").unlink()
    again = rlhf(*flags)
    assert "4 pairs of 5 prompts, 2 of them asked now" in again.stdout
    assert (tmp_path / "pairs.jsonl").read_bytes() == whole
    assert len(answers.read_bytes().splitlines()) == 5
    assert "0 of them asked now" in rlhf(*flags).stdout
    assert "5 of them asked now" in rlhf(*flags, "--order", "both").stdout, "asked otherwise, it is another question"


@pytest.mark.thorough
def test_trl_takes_the_pairs(url: str, tmp_path: Path, first_is_better: Path) -> None:
    """TRL's own trainer reads both forms: the plain one, and the one of messages through the chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    turns = [{"role": "user", "content": "Which is it?"}]
    tokenizer = AutoTokenizer.from_pretrained(first_is_better)
    for name, prompt in (("plain", "Which is it?"), ("turns", turns)):
        given = write(tmp_path / f"{name}.jsonl", *[{"prompt": prompt, "responses": ["this", "that"]}] * 1)
        output = tmp_path / f"{name}-pairs.jsonl"
        run = rlhf("label", "--endpoint", url, "--order", "ab", "--input", given, "--output", output)
        assert run.returncode == 0, run.stdout + run.stderr
        data = load_dataset("json", data_files=str(output), split="train", cache_dir=str(tmp_path / "cache"))
        assert data.column_names == ["prompt", "chosen", "rejected"]
        settings = DPOConfig(
            *(str(tmp_path / "dpo"),), report_to=[], use_cpu=True, max_steps=1, per_device_train_batch_size=1
        )
        model = AutoModelForCausalLM.from_pretrained(first_is_better)
        trainer = DPOTrainer(model, args=settings, train_dataset=data, processing_class=tokenizer)
        assert trainer.train().training_loss == pytest.approx(0.6931, abs=1e-3), "-log sigmoid(0) before any step"


def test_broken_rows_are_named(tmp_path: Path) -> None:
    file = write(
        tmp_path / "broken.jsonl",
        {"id": 1, "prompt": "Which?", "responses": ["this"]},
        "not JSON",
        {"id": 2, "prompt": " ", "responses": ["this", "that"]},
        {"id": 3, "responses": ["this", "that"]},
        {"id": 4, "prompt": [{"role": "judge", "content": "x"}], "responses": ["this", "that"]},
        {"id": 5, "prompt": "Which?", "responses": ["this", 7]},
        {"id": 6, "prompt": "Which?", "responses": ["this", "that"]},
        {"id": 6, "prompt": "Which?", "responses": ["this", "that"]},
        [],
    )
    with pytest.raises(PairFileError) as broken:
        read_prompts(file, responses=True)
    lines = [problem.removeprefix(f"{file}, ") for problem in broken.value.problems]
    assert [line.split(":")[0] for line in lines] == [f"line {n}" for n in (1, 2, 3, 4, 5, 6, 8, 9)]
    for line, field in zip(
        lines, ("responses", "not JSON", "prompt", "prompt", "prompt.0.role", "responses.1", "'id'"), strict=False
    ):
        assert field in line
    assert "stands on line 7 already" in lines[6]


def test_prompts_of_ones_own_are_split_by_question(tmp_path: Path) -> None:
    given = [{"prompt": f"What of {i % 60}?"} for i in range(90)]
    config = RunConfig(data={"train": write(tmp_path / "prompts.jsonl", *given)}, model="any")
    data, gold = asked(config)

    assert gold == []
    assert data.train is not None
    texts = [[pair.messages[0]["content"] for pair in side] for side in (data.train, data.heldout)]
    assert sorted(texts[0] + texts[1]) == sorted({row["prompt"] for row in given}), "each once, on one side"
    assert 3 <= len(texts[1]) <= 25, "a fifth or so"


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        ((), "--judge FOLDER, or --endpoint URL"),
        *(
            pytest.param(*others, marks=pytest.mark.thorough)
            for others in (
                (("--endpoint", "http://127.0.0.1:9"), "http://127.0.0.1:9: nothing answers there"),
                (("--judge", "nowhere"), "nowhere: there is no such folder"),
                (("--judge", "x", "--data.train", "p.jsonl"), "--model names the policy"),
                (("--judge", "x", "--data.both-orders", "true"), "a question has no order"),
                (("--judge", "x", "--endpoint", "http://x"), "name either judge or endpoint"),
            )
        ),
    ],
)
def test_what_cannot_be_started_says_why(flags: tuple[str, ...], problem: str, tmp_path: Path) -> None:
    run = rlhf(*flags, "--run-dir", tmp_path)

    assert run.returncode in (1, 2)
    assert problem in run.stderr
    assert "Traceback" not in run.stderr
