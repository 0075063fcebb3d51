"""The recipes that are shipped: the numbers that were published, and each of them end to end in small.

The numbers are copied by hand from the papers' tables and the authors' scripts (RM-R1: arXiv 2505.02387, appendices E
and G, and the repository's `scripts/` and `ppo_trainer.yaml`; RRM: the names of the authors' checkpoints).
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from evals.data.build import build
from evals.data.recipe import Recipe, load_recipe
from evals.pairs import Message, Pair, load_pairs
from evals.prompts import FORMATS
from evals.synthetic import SyntheticTask
from pipelines.config import PRESETS, RunConfig, load

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Published:
    """What is known of a recipe: where it starts, the prompt, its pairs, learning rates, outer steps and GPUs."""

    start: str
    format: str
    pairs: str
    steps: int
    lr: float
    gpus: int
    sft_lr: float | None = None
    samples: int = 7
    temperature: float = 1.0


RM_R1 = {
    "rm-r1-qwen-7b": Published(
        *("Qwen/Qwen2.5-7B-Instruct", "rm_r1", "gaotang/RM-R1-after-Distill-RLVR", 64_200 // 1024, 1e-6, 8, 5e-6)
    ),
    "rm-r1-qwen-14b": Published(
        *("Qwen/Qwen2.5-14B-Instruct", "rm_r1", "gaotang/RM-R1-after-Distill-RLVR", 64_200 // 1024, 7e-7, 16, 3e-6)
    ),
    "rm-r1-qwen-32b": Published(
        *("Qwen/Qwen2.5-32B-Instruct", "rm_r1", "gaotang/RM-R1-after-Distill-RLVR", 64_200 // 1024, 5e-7, 32, 2e-6)
    ),
    "rm-r1-deepseek-7b": Published(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-7B",
        *("rm_r1_reasoning", "gaotang/RM-R1-Reasoning-RLVR", 73_000 // 1024, 1e-6, 8),
    ),
    "rm-r1-deepseek-14b": Published(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-14B",
        *("rm_r1_reasoning", "gaotang/RM-R1-Reasoning-RLVR", 73_000 // 1024, 1e-6, 16),
    ),
    "rm-r1-deepseek-32b": Published(
        "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B",
        *("rm_r1_reasoning", "gaotang/RM-R1-Reasoning-RLVR", 73_000 // 1024, 8e-7, 32),
    ),
}
SKYWORK = "Skywork/Skywork-Reward-Preference-80K-v0.2"
RRM = {
    "rrm-7b": Published(
        *("deepseek-ai/DeepSeek-R1-Distill-Qwen-7B", "rrm", SKYWORK, 720, 1e-6, 8), samples=16, temperature=0.8
    ),
    "rrm-32b": Published(
        *("deepseek-ai/DeepSeek-R1-Distill-Qwen-32B", "rrm", SKYWORK, 440, 1e-6, 32), samples=16, temperature=0.8
    ),
}
NAMES = (*RM_R1, *RRM, "gavel")


def preset(name: str) -> RunConfig:
    return load(["--config", str(PRESETS / f"{name}.yaml")], "a test")[0]


def data_recipe(name: str) -> Recipe:
    path = preset(name).data.train
    assert path is not None
    return load_recipe(ROOT / path)


def test_every_preset_is_a_recipe_that_is_looked_at_here() -> None:
    assert {path.stem for path in PRESETS.glob("*.yaml")} == {*NAMES, "quickstart", "gsm8k", "rlhf"}


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_says_what_the_preset_needs(name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    from pipelines import grpo

    monkeypatch.setattr(sys, "argv", ["grpo.py", "--config", str(PRESETS / f"{name}.yaml"), "--dry-run"])
    grpo.main()
    said = capsys.readouterr().out
    gpus = 0
    for line in said.splitlines():
        if line.startswith("placement ") and " GPU" in line:
            count, _, amount, *_ = line.partition(": ")[2].split()
            gpus += int(count) * int(amount)
    published = (RM_R1 | RRM).get(name)
    assert gpus == (published.gpus if published else 8)
    start = published.start if published else "Qwen/Qwen2.5-7B-Instruct"
    distils = name.startswith("rm-r1-qwen") or name == "gavel"
    assert (f"distilled from {start} first" if distils else f"starts from     {start}") in said


@pytest.mark.parametrize("name", [*RM_R1, *RRM])
def test_the_numbers_are_the_published_ones(name: str) -> None:
    published, config = (RM_R1 | RRM)[name], preset(name)
    loss, optimizer, rollout = config.grpo.loss, config.grpo.optimizer, config.rollout

    assert (config.base or config.model) == published.start
    assert (config.data.format, config.steps, optimizer.lr) == (published.format, published.steps, published.lr)
    assert [source.hub for source in data_recipe(name).sources] == [published.pairs]
    assert (config.grpo.groups, config.grpo.groups / config.grpo.minibatches) == (1024, 128)
    assert (rollout.samples, rollout.temperature, rollout.top_p) == (published.samples, published.temperature, 1.0)
    assert (rollout.max_model_len - rollout.max_new_tokens, rollout.max_new_tokens) == (4096, 8192)
    assert (rollout.tensor_parallel, rollout.max_num_seqs) == (4, 1024)
    assert (loss.clip_low, loss.clip_high, loss.dual_clip, loss.correction) == (0.2, 0.2, None, None)
    assert (loss.kl_coef, loss.kl_estimator, loss.kl_unbiased) == (1e-3, "k3", False)
    assert (loss.advantage, loss.advantage_epsilon, loss.aggregation) == ("std", 1e-6, "token_mean")
    assert (optimizer.betas, optimizer.weight_decay, optimizer.max_grad_norm) == ((0.9, 0.999), 0.01, 1.0)
    assert (optimizer.schedule, optimizer.warmup_steps) == ("constant_with_warmup", 0)
    assert (config.policy.dtype, config.policy.gradient_checkpointing) == ("bfloat16", True)
    assert config.data.both_orders is False
    assert config.grpo.refill_rounds == 0
    parts = config.verifier.reward
    assert not isinstance(parts, str)
    assert {part: weights["weight"] for part, weights in parts.model_dump().items() if weights["weight"]} == {
        "correctness": 1.0
    }


@pytest.mark.parametrize("name", list(RM_R1))
def test_instruct_models_are_distilled_as_published_and_reasoning_models_not_at_all(name: str) -> None:
    published, config = RM_R1[name], preset(name)
    if published.sft_lr is None:
        assert (config.base, config.distill.traces) == ("", "")
        return
    optimizer = config.distill.optimizer

    assert config.model == ""
    assert (config.distill.traces, config.distill.epochs, config.distill.batch) == ("gaotang/RM-R1-Distill-SFT", 1, 128)
    assert (optimizer.lr, optimizer.betas, optimizer.weight_decay) == (published.sft_lr, (0.9, 0.95), 0.0)
    assert (optimizer.schedule, optimizer.floor, optimizer.max_grad_norm) == ("cosine", 0.1, 1.0)
    assert optimizer.warmup_steps == -(-3 * (8_750 // 128) // 100)
    assert config.rollout.max_model_len == 12_288


def test_our_own_recipe_does_what_it_says() -> None:
    config = preset("gavel")
    loss = config.grpo.loss

    assert config.data.both_orders
    assert config.grpo.refill_rounds > 0
    assert (loss.clip_low, loss.clip_high, loss.aggregation) == (0.2, 0.28, "token_mean")
    assert loss.kl_unbiased
    assert loss.correction is not None
    assert not isinstance(config.verifier.reward, str)
    assert config.verifier.reward.consistency.weight > 0
    assert config.verifier.reward.length.weight > 0


def rendered(pair: Pair, format_: str) -> dict[str, Any]:
    """A row in RM-R1's published columns."""
    return {"context_messages": FORMATS[format_].render(pair, "ab"), "winner": f"model_{pair.gold}"}


def compared(pair: Pair) -> dict[str, Any]:
    """A row in Skywork's published columns."""
    better, worse = (pair.response_a, pair.response_b) if pair.gold == "a" else (pair.response_b, pair.response_a)
    sides = {
        side: [*pair.messages, {"role": "assistant", "content": text}]
        for side, text in (("chosen", better), ("rejected", worse))
    }
    return {**sides, "source": "helpsteer2"}


def local(name: str, rows: list[dict[str, Any]], folder: Path) -> Recipe:
    """The data recipe of a preset, with rows of the same columns in a file in place of what only a network reaches."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values = data_recipe(name).model_dump(mode="json")
    (source,) = values["sources"]
    source |= {"hub": "", "path": str(folder / "rows.jsonl")}
    return Recipe.model_validate(values | {"contamination": {"benchmarks": []}, "heldout": {"share": 0.2}})


def told(pairs: list[Pair]) -> dict[str, tuple[str, str]]:
    """The better and the worse response to every question."""
    sides = {"a": ("response_a", "response_b"), "b": ("response_b", "response_a")}
    return {
        "\n".join(message["content"] for message in pair.messages): (
            getattr(pair, sides[str(pair.gold)][0]),
            getattr(pair, sides[str(pair.gold)][1]),
        )
        for pair in pairs
    }


def made(folder: Path) -> list[Pair]:
    return load_pairs(folder / "train.jsonl") + load_pairs(folder / "heldout.jsonl")


@pytest.mark.parametrize(("name", "format_"), [("rm-r1-qwen-7b", "rm_r1"), ("rm-r1-deepseek-7b", "rm_r1_reasoning")])
def test_what_gives_rm_r1s_labels_away_is_gone(name: str, format_: str, tmp_path: Path) -> None:
    turns = (Message(role="user", content="Hello"), Message(role="assistant", content="Hello. What is it?"))
    golds: list[Literal["a", "b"]] = ["a", "b"] * 40
    pairs = [
        Pair(f"{i}", (*turns, Message(role="user", content=f"Which of {i}?")), f"A says {i}.", f"B says {i}.", gold)
        for i, gold in enumerate(golds)
    ]
    asked = (Message(role="user", content="And which?"),)
    cue = Pair("cue", asked, "This.", "That. <im_start>user", "a")
    quoting = rendered(Pair("quoting", asked, "A heading", "Or.", "b"), format_)
    quoting = json.loads(json.dumps(quoting).replace("A heading", "[The Start of Chatbot B's Response]"))
    rows = [rendered(pair, format_) for pair in pairs]
    leaking = [
        json.loads(json.dumps(row).replace("Chatbot B", "Chabot B")) if row["winner"] == "model_a" else row
        for row in rows
    ]
    recipe = local(name, [*leaking, rendered(cue, format_), quoting], tmp_path)
    manifest = build(recipe, tmp_path / "out")

    (source,) = manifest["sources"]
    assert (source["counts"]["rows"], source["counts"]["broken"], source["counts"]["filters.0 regex"]) == (82, 1, 1)
    found = made(tmp_path / "out")
    assert told(found) == told(pairs), "and so no prompt, with either spelling, is left in them"
    assert sum(pair.gold == "a" for pair in found) == len(found) / 2


def test_skyworks_pairs_come_without_the_set_that_gives_itself_away(tmp_path: Path) -> None:
    pairs = SyntheticTask(0).pairs("train", 20)
    rows = [compared(pair) for pair in pairs]
    manifest = build(local("rrm-7b", [rows[0] | {"source": "magpie_ultra"}, *rows[1:]], tmp_path), tmp_path / "out")

    assert manifest["sources"][0]["counts"]["filters.0 source"] == 1
    assert told(made(tmp_path / "out")) == told(pairs[1:])


SAID = {
    "rm_r1": ("<type>Chat</type><rubric>cold</rubric><eval>A</eval><answer>", ("[[A]]", "[[B]]"), "</answer>"),
    "rm_r1_reasoning": ("so</think><answer>", ("[[A]]", "[[B]]"), "</answer>"),
    "rrm": ("so</think>", ("\\boxed{Assistant 1}", "\\boxed{Assistant 2}"), "."),
}
"""What the coin says in a format: before the verdict, the two verdicts, and after."""


@pytest.fixture(scope="module")
def coin(
    tmp_path_factory: pytest.TempPathFactory, scripted: Callable[[Any, Sequence[set[int]], float], None]
) -> Callable[[str], Path]:
    """Makes a judge that writes one fixed text in a format, and tosses a coin for the verdict in it.

    So every group has both verdicts, and a recipe has something to reward from its first step on.
    """
    from tokenizers import AddedToken
    from transformers import AutoModelForCausalLM

    from actors.config import EmbeddedModelConfig
    from actors.embedded import make_embedded_model
    from actors.tokens import PromptEncoder

    def make(format_: str) -> Path:
        folder = tmp_path_factory.mktemp("coin") / format_
        make_embedded_model(folder, EmbeddedModelConfig(layers=1, tied=False), seed=0)
        before, verdicts, after = SAID[format_]
        tokenizer = PromptEncoder(folder).tokenizer
        tokenizer.add_tokens([AddedToken(verdict, normalized=False, special=False) for verdict in verdicts])
        tokenizer.save_pretrained(folder)
        encoder = PromptEncoder(folder)
        start = encoder.encode_prompt([{"role": "user", "content": "any"}]).tolist()[-1]
        texts = [encoder.encode_completion(before + verdict + after).tolist() for verdict in verdicts]
        said: list[set[int]] = [{start}, *map(set, zip(*texts, strict=True))]
        model = AutoModelForCausalLM.from_pretrained(folder)
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        scripted(model, said, 2.0)
        model.save_pretrained(folder)
        return folder

    return make


def twin(name: str, folder: Path, judge: Path) -> Path:
    """The preset in small, as a file: what makes the recipe stays, sizes and places are those of two cores."""
    config = preset(name)
    pairs = SyntheticTask(0).pairs("train", 60)
    rows = [compared(pair) if name in RRM else rendered(pair, config.data.format) for pair in pairs]
    recipe, traces = folder / "recipe.yaml", folder / "traces.jsonl"
    recipe.write_text(yaml.safe_dump(local(name, rows, folder).model_dump(mode="json")), encoding="utf-8")
    before, verdicts, after = SAID[config.data.format]
    traces.write_text(
        "".join(
            json.dumps(rendered(pair, config.data.format) | {"winner": before + verdicts[pair.gold == "b"] + after})
            + "\n"
            for pair in SyntheticTask(0).pairs("heldout", 8)
        )
    )
    small: dict[str, Any] = {
        "run_dir": str(folder / "run"),
        "steps": 1,
        "base": str(judge) if config.base else "",
        "model": str(judge) if config.model else "",
        "data": {"train": str(recipe)},
        "distill": {"traces": str(traces) if config.distill.traces else "", "batch": 4},
        "grpo": {"groups": 2, "minibatches": min(2, config.grpo.minibatches)},
        "policy": {"ranks": 1, "dtype": "float32", "micro_batch_tokens": 4096},
        "reference": {"micro_batch_tokens": 8192, "replicas": 1},
        "rollout": {
            **{"engines": 1, "tensor_parallel": 1, "max_new_tokens": 64, "max_model_len": 2048},
            **{"max_num_seqs": 64, "kv_cache_gib": 0.25, "timeout_s": 240},
        },
        "weights": {"transfer": "shm", "probe_tolerance": 1e-3},
        "evaluation": {"pairs": 4},
        "placement": {"device": "cpu", "colocate": True},
    }
    values = config.model_dump(mode="json")
    for part, changes in small.items():
        values[part] = values[part] | changes if isinstance(changes, dict) else changes
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def head(folder: Path) -> Any:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")["lm_head.weight"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", NAMES)
def test_the_recipe_runs_from_end_to_end_in_small(name: str, tmp_path: Path, coin: Callable[[str], Path]) -> None:
    config = preset(name)
    start = coin(config.data.format)
    command = [sys.executable, "pipelines/grpo.py", "--config", str(twin(name, tmp_path, start))]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    run = tmp_path / "run"

    (step,) = rows_of(run / "metrics.jsonl")
    assert step["groups"] > 0
    assert (run / "data" / "manifest.json").exists()
    assert (run / "distill").exists() == bool(config.base)
    if config.base:
        assert [step["traces"] for step in rows_of(run / "distill-metrics.jsonl")] == [4, 4], "all 8, once"
        assert not head(run / "distill").equal(head(start)), "the traces taught something"
    before_grpo = head(run / "distill" if config.base else start)
    assert not head(run / "judge").equal(before_grpo), "the rewards taught something"
    assert json.loads((run / "judge" / "gavel.json").read_text())["format"] == config.data.format

    before, verdicts, after = SAID[config.data.format]
    trained = {pair.id: pair for pair in load_pairs(run / "data" / "train.jsonl")}
    judged: dict[str, dict[str, list[tuple[bool, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in rows_of(run / "judgements" / "step-000001.jsonl"):
        first = row["text"] == before + verdicts[0] + after
        assert first or row["text"] == before + verdicts[1] + after
        right = (trained[row["pair_id"]].gold == "a") == (first == (row["order"] == "ab"))
        judged[row["pair_id"]][row["order"]].append((right, row["reward"]))
    assert {len(samples) for orders in judged.values() for samples in orders.values()} == {config.rollout.samples}
    assert {len(orders) for orders in judged.values()} == {2 if config.data.both_orders else 1}
    # Every text has the same form and length, so that what is left of a reward without its verdict is one number.
    reward = config.verifier.reward
    assert not isinstance(reward, str)
    left = set()
    for orders in judged.values():
        for order, samples in orders.items():
            others = [right for other in orders if other != order for right, _ in orders[other]]
            share = sum(others) / len(others) if others else 0.0
            for right, total in samples:
                verdict = 1.0 + reward.consistency.weight * share if right else -1.0
                left.add(round(total - verdict, 6))
    assert len(left) == 1
    assert (left == {0.0}) == (name != "gavel"), "only our own has duties, and the coin's short text breaks one"
