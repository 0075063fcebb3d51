"""What a person types becomes a configuration, or an error that names the field."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.config import PRESETS, RunConfig, as_yaml, load


@pytest.fixture
def preset(tmp_path: Path) -> Path:
    path = tmp_path / "preset.yaml"
    path.write_text(
        "steps: 7\npolicy:\n  ranks: 2\n  threads: 3\ngrpo:\n  loss:\n    clip_low: 0.1\n  groups: 5\n",
        encoding="utf-8",
    )
    return path


def resolved(*argv: str) -> RunConfig:
    return load(argv, "a test")[0]


def test_a_preset_changes_what_it_names_and_nothing_else(preset: Path) -> None:
    config, default = resolved("--config", str(preset)), RunConfig()

    assert (config.steps, config.policy.ranks, config.policy.threads) == (7, 2, 3)
    assert (config.grpo.groups, config.grpo.loss.clip_low) == (5, 0.1)
    assert config.grpo.loss.clip_high == default.grpo.loss.clip_high
    assert config.grpo.optimizer == default.grpo.optimizer
    assert config.rollout == default.rollout


@pytest.mark.parametrize(
    "flags",
    [
        ["--steps=9", "--policy.micro-batch-tokens=64", "--grpo.loss.clip-high=0.3"],
        ["--steps", "9", "--policy.micro_batch_tokens", "64", "--grpo.loss.clip_high", "0.3"],
        ["--steps=9", "--policy.micro-batch_tokens=64", "--grpo.loss.clip_high=0.3"],
    ],
    ids=["hyphens", "underscores", "both"],
)
def test_dotted_flags_override_the_preset_and_leave_their_neighbours(preset: Path, flags: list[str]) -> None:
    config = resolved("--config", str(preset), *flags)

    assert (config.steps, config.policy.micro_batch_tokens, config.grpo.loss.clip_high) == (9, 64, 0.3)
    assert (config.policy.ranks, config.policy.threads, config.grpo.groups, config.grpo.loss.clip_low) == (2, 3, 5, 0.1)


def test_a_value_with_underscores_stays_as_typed() -> None:
    config = resolved("--run-dir=/tmp/my_run", "--data.train", "my_pairs.jsonl", "--verifier.reward=my_rules:one_rule")

    assert (str(config.run_dir), str(config.data.train)) == ("/tmp/my_run", "my_pairs.jsonl")
    assert config.verifier.reward == "my_rules:one_rule"


def test_a_part_of_the_distilling_optimizer_leaves_the_rest() -> None:
    config = resolved("--distill.optimizer.warmup-steps", "2")

    assert config.distill.optimizer == RunConfig().distill.optimizer.model_copy(update={"warmup_steps": 2})
    assert config.distill.optimizer.lr != config.grpo.optimizer.lr


def test_lists_and_booleans_are_understood() -> None:
    config = resolved("--grpo.optimizer.betas=[0.8,0.9]", "--data.both_orders=false", "--policy.dtype=bfloat16")

    assert config.grpo.optimizer.betas == (0.8, 0.9)
    assert not config.data.both_orders
    assert config.policy.dtype == "bfloat16"


@pytest.mark.parametrize(("argv", "dry"), [([], False), (["--dry-run"], True), (["--dry_run"], True)])
def test_a_dry_run_is_asked_for_by_flag(argv: list[str], dry: bool) -> None:
    _, arguments = load(argv, "a test")

    assert arguments.dry_run is dry
    assert arguments.config == PRESETS / "quickstart.yaml"


def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STEPS", "steps", "SEED", "POLICY", "policy"):
        monkeypatch.setenv(name, "12345")

    assert resolved() == RunConfig(run_dir=Path("runs/quickstart"))


@pytest.mark.parametrize("path", sorted(PRESETS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_is_valid(path: Path) -> None:
    assert resolved("--config", str(path))


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--nonsense=1"], ["--nonsense"]),
        (["--policy.nonsense=1"], ["--policy.nonsense"]),
        (["stray"], ["stray"]),
        (["--steps=abc"], ["steps", "integer", "'abc'"]),
        (["--steps=0"], ["steps", "greater than 0"]),
        (["--grpo.loss.kl-estimator=k9"], ["grpo.loss.kl_estimator", "'k3'", "'k9'"]),
        (["--distill.slip_rate=1.5"], ["distill.slip_rate", "1.5"]),
        (["--steps=abc", "--policy.ranks=0"], ["steps", "policy.ranks"]),
        (["--weights.transfer=nccl"], ["weights.transfer", "placement.device"]),
        (["--placement.device=gpu"], ["weights.transfer", "placement.device"]),
        (["--placement.device=gpu", "--weights.transfer=nccl"], ["weights.transfer", "placement.colocate"]),
        (["--rollout.samples=1"], ["rollout.samples"]),
        (["--rollout.max-new-tokens=2048"], ["rollout.max_new_tokens", "rollout.max_model_len"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_a_bad_flag_ends_with_status_2_and_names_the_field(
    flags: list[str], named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        load(flags, "a test")

    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert [text for text in named if text not in error] == []


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("nonsense: 1\n", ["nonsense"]),
        ("policy:\n  nonsense: 1\n", ["policy.nonsense"]),
        ("grpo:\n  loss:\n    nonsense: 1\n", ["grpo.loss.nonsense"]),
        ("policy:\n  ranks: two\n", ["policy.ranks", "'two'"]),
        ("policy: 5\n", ["policy"]),
        ("- steps\n", ["mapping"]),
        ("1: 2\n", ["keywords must be strings"]),
        ("steps: [\n", ["line 2"]),
    ],
)
def test_a_bad_preset_ends_with_status_2_and_names_file_and_field(
    tmp_path: Path, content: str, named: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        load(["--config", str(path)], "a test")

    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert [text for text in [str(path), *named] if text not in error] == []


def test_a_missing_preset_ends_with_status_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        load(["--config", str(tmp_path / "nowhere.yaml")], "a test")

    assert ended.value.code == 2
    assert "nowhere.yaml" in capsys.readouterr().err


@pytest.mark.parametrize(("transfer", "colocate"), [("ipc", "true"), ("nccl", "false")])
def test_each_way_to_move_weights_has_its_placement(transfer: str, colocate: str) -> None:
    config = resolved(f"--weights.transfer={transfer}", "--placement.device=gpu", f"--placement.colocate={colocate}")

    assert config.weights.transfer == transfer


def test_a_configuration_written_as_yaml_is_read_back(tmp_path: Path, preset: Path) -> None:
    config = resolved(
        "--config", str(preset), "--model=/tmp/judge", "--data.train=p.jsonl", "--grpo.optimizer.betas=[0.8,0.9]"
    )
    path = tmp_path / "written.yaml"
    path.write_text(as_yaml(config), encoding="utf-8")

    assert resolved("--config", str(path)) == config != RunConfig()
    assert list(yaml.safe_load(path.read_text(encoding="utf-8"))) == list(RunConfig.model_fields)


def test_a_configuration_is_read_without_an_engine() -> None:
    source = (
        "import json, sys; from pipelines.config import load; load(['--dry-run'], 'a test'); "
        "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )

    assert not {"torch", "ray", "vllm", "deepspeed", "transformers", "openrlhf"} & set(json.loads(done.stdout))
