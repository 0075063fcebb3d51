"""One typed configuration for every pipeline: a YAML preset, overridden by dotted command-line flags.

Each part belongs to the actor of the same name and stands in `actors.config`; here are the parts that only the
pipelines read. This module imports neither torch nor Ray, so a dry run and `--help` are immediate.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, PositiveFloat, PositiveInt, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    CliSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from actors.config import (
    EmbeddedModelConfig,
    FormatName,
    GrpoConfig,
    OptimizerConfig,
    PlacementConfig,
    PolicyConfig,
    ReferenceConfig,
    RolloutConfig,
    ServeConfig,
    Settings,
    VerifierConfig,
    WeightsConfig,
)
from evals.prompts import FORMATS

PRESETS = Path(__file__).parent / "presets"


class DataConfig(Settings):
    """What is judged. Without `train` the synthetic task is, which never runs out."""

    train: Path | None = Field(
        None,
        description="JSON lines of labelled pairs, or a recipe (.yaml) that makes them; empty: the synthetic task",
    )
    heldout: Path | None = Field(
        None, description="pairs to evaluate on; empty: the recipe's, else split off `train` by question"
    )
    heldout_share: float = Field(0.2, gt=0, lt=1, description="share of questions split off where no file is named")
    format: FormatName = Field("compact", description=f"prompt format: {', '.join(FORMATS)}")
    both_orders: bool = Field(True, description="judge every pair in both orders within one batch")


class DistillOptimizerConfig(OptimizerConfig):
    """What suits a model made from nothing."""

    lr: PositiveFloat = 2e-3
    warmup_steps: int = Field(50, ge=0)
    schedule: Literal["constant_with_warmup", "linear", "cosine"] = "cosine"


class DistillConfig(Settings):
    """Supervised fine-tuning on traces: a teacher's, or the embedded oracle's."""

    traces: str = Field("", description="traces.jsonl of `teach.py`, or a hub data set; empty: the embedded oracle's")
    steps: PositiveInt = 400
    epochs: PositiveInt | None = Field(None, description="in place of steps: times through `traces`")
    batch: PositiveInt = Field(64, description="traces an optimizer step")
    save_every: PositiveInt | None = Field(None, description="steps between checkpoints to resume from; empty: none")
    slip_rate: float = Field(
        0.25, ge=0, le=1, description="how often a trace's reasoning takes a wrong step; more often in the blind spot"
    )
    optimizer: DistillOptimizerConfig = DistillOptimizerConfig()


class EvaluationConfig(Settings):
    """Held-out pairs, each judged in both orders, greedily and sampled."""

    pairs: PositiveInt = 500


class RlhfConfig(Settings):
    """Training a policy with a served judge as its only reward: who judges, and how it is asked."""

    judge: str = Field("", description="folder of a trained judge, to be served in the run's own cluster")
    endpoint: str = Field("", description="in its place: URL of a judge that is being served; key in GAVEL_API_KEY")
    method: Literal["round_robin", "circular"] = Field(
        "round_robin", description="which responses of a group are compared: all, or neighbours in a circle"
    )
    order: Literal["both", "ab"] = Field("both", description="judge every comparison in both orders, or in one")
    concurrency: PositiveInt = Field(32, description="rankings asked for at a time")
    timeout_s: PositiveFloat = Field(120.0, description="longest that a ranking may take")
    evaluate_every: PositiveInt = Field(10, description="steps between measurements on held-out questions")

    @model_validator(mode="after")
    def _one_judge(self) -> RlhfConfig:
        if self.judge and self.endpoint:
            raise ValueError("name either judge or endpoint, and not both")
        return self


class RunConfig(BaseSettings):
    """A whole run. `steps`, `seed` and `run_dir` are the three that change most."""

    model_config = SettingsConfigDict(extra="forbid", validate_default=True)

    run_dir: Path = Field(Path("runs/quickstart"), description="where everything the run writes goes")
    seed: int = 0
    steps: PositiveInt = Field(100, description="GRPO steps")
    tokens: PositiveInt | None = Field(None, description="end with the step by which so many tokens were sampled")
    profile: PositiveInt | None = Field(
        None, description="step in which an engine, the reference and a policy rank record their operations"
    )
    model: str = Field("", description="Hugging Face folder or hub name to start GRPO from; empty: distil first")
    base: str = Field("", description="Hugging Face folder or hub name to distil; empty: the embedded model")
    embedded: EmbeddedModelConfig = EmbeddedModelConfig()
    data: DataConfig = DataConfig()
    distill: DistillConfig = DistillConfig()
    grpo: GrpoConfig = GrpoConfig()
    policy: PolicyConfig = PolicyConfig()
    reference: ReferenceConfig = ReferenceConfig()
    rollout: RolloutConfig = RolloutConfig()
    verifier: VerifierConfig = VerifierConfig()
    weights: WeightsConfig = WeightsConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    placement: PlacementConfig = PlacementConfig()
    serve: ServeConfig = ServeConfig()
    rlhf: RlhfConfig = RlhfConfig()

    @model_validator(mode="after")
    def _fits_together(self) -> RunConfig:
        fitting = "shm" if self.placement.device == "cpu" else "ipc" if self.placement.colocate else "nccl"
        if self.weights.transfer != fitting:
            raise ValueError(
                f"weights.transfer must be {fitting} with placement.device={self.placement.device} and "
                f"placement.colocate={self.placement.colocate}, not {self.weights.transfer}: NCCL cannot join two "
                "ranks on one GPU, CUDA handles cannot leave it, and shared memory is for CPU"
            )
        if self.grpo.baseline == "pair" and not self.data.both_orders:
            raise ValueError("grpo.baseline=pair needs data.both_orders: there is one order of each pair")
        if self.grpo.max_staleness and self.placement.device == "gpu" and self.placement.colocate:
            raise ValueError(
                "grpo.max_staleness needs placement.colocate=false: on shared GPUs rollouts and training take turns"
            )
        if self.rollout.samples < (1 if self.grpo.baseline == "pair" else 2):
            raise ValueError("rollout.samples must be at least 2: a group of one has no advantage")
        if self.rollout.max_new_tokens >= self.rollout.max_model_len:
            raise ValueError("rollout.max_new_tokens must leave room for a prompt under rollout.max_model_len")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Values come from the preset and the command line alone, never from the environment."""
        return (init_settings,)


def load(
    argv: Sequence[str], description: str, preset: str = "quickstart.yaml"
) -> tuple[RunConfig, argparse.Namespace]:
    """Read the preset named by `--config`, else ours of the name `preset`, apply the dotted flags, check the result.

    Returns the configuration and the arguments that are not part of it (`config`, `dry_run`). Flags may be written
    with hyphens or underscores. Bad input ends the program with status 2 and names the field and what it takes.
    """
    parser = argparse.ArgumentParser(
        description=description,
        allow_abbrev=False,
        usage="%(prog)s [--config FILE] [--run-dir FOLDER] [--steps N] [--seed N] [--dry-run] [--part.key VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--config", type=Path, default=PRESETS / preset, help="YAML preset to start from")
    parser.add_argument("--dry-run", action="store_true", help="print the resolved run and what it needs, then end")
    flags: CliSettingsSource[argparse.ArgumentParser] = CliSettingsSource(
        RunConfig, root_parser=parser, cli_kebab_case=True
    )
    arguments = parser.parse_args([_hyphenated(argument) for argument in argv])
    try:
        overrides = flags(parsed_args=vars(arguments))()
        return RunConfig(**_merge(_preset(arguments.config), overrides)), arguments
    except ValidationError as error:
        problems = [
            f"{'.'.join(map(str, e['loc'])) or 'run'}: {e['msg']} (got {e['input']!r:.80})" for e in error.errors()
        ]
        head = f"error: the configuration ({arguments.config} and flags) is not valid:"
        parser.exit(2, "\n  ".join([head, *problems]) + "\n")
    except SettingsError as error:
        parser.exit(2, f"error: a flag cannot be read: {error}\n")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, TypeError) as error:
        parser.exit(2, f"error: cannot read {arguments.config}: {error}\n")


def _hyphenated(argument: str) -> str:
    """`--policy.micro_batch_tokens=1` with hyphens in the flag's name, as the parser knows it."""
    flag = re.match(r"--[\w.\-]+", argument)
    return argument if flag is None else flag.group().replace("_", "-") + argument[flag.end() :]


def _preset(path: Path) -> dict[str, Any]:
    values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    if not isinstance(values, dict):
        raise TypeError("a preset is a mapping of configuration keys")
    return values


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def as_yaml(config: RunConfig) -> str:
    """The configuration as YAML that `--config` reads back."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
