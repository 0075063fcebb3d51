"""What every figure of the suite shares: its goal, its record, and the processes that take turns.

A figure is a ratio against a reference of the same run. Both sides live in processes of their own, which start once
and then work one at a time, A B A B: what a machine does over minutes meets both alike. A repetition gives one ratio,
and the figure is the median of them.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal

ROOT = Path(__file__).parents[2]
GRPO = ROOT / "pipelines" / "grpo.py"

START_LIMIT_S = 300.0
TURN_LIMIT_S = 300.0
END_LIMIT_S = 60.0

_SHOWN = 12
"""So many lines of a log stand in an error."""


class MeasurementError(RuntimeError):
    """A figure could not be measured, or what was measured is not what it claims to be."""


@dataclass(frozen=True)
class Goal:
    """What a figure's ratio should come to. `least` is what it must come to where the goal is out of reach."""

    key: str
    what: str
    unit: str
    sense: Literal[">=", "<="]
    ratio: float
    least: float | None = None

    def met(self, ratio: float) -> bool:
        """Whether a ratio reaches the goal."""
        return ratio >= self.ratio if self.sense == ">=" else ratio <= self.ratio


@dataclass
class Figure:
    """One figure: a measurement a repetition, each with `value`, `reference` and whatever else is worth keeping."""

    goal: Goal
    measurements: list[dict[str, Any]] = field(default_factory=list)
    error: str | None = None

    @property
    def ratios(self) -> list[float]:
        """The ratio of every repetition."""
        return [one["value"] / one["reference"] for one in self.measurements]

    @property
    def ratio(self) -> float:
        """Their median."""
        return statistics.median(self.ratios)

    def median(self, name: str) -> float:
        """The median of `value` or `reference`."""
        return statistics.median(one[name] for one in self.measurements)

    def to_json(self) -> dict[str, Any]:
        """The figure as it stands in bench.json."""
        goal = self.goal
        content: dict[str, Any] = {"what": goal.what, "unit": goal.unit, "error": self.error}
        content["goal"] = {"sense": goal.sense, "ratio": goal.ratio, "least": goal.least}
        if self.measurements:
            content |= {"value": self.median("value"), "reference": self.median("reference"), "ratio": self.ratio}
            content |= {"spread": [min(self.ratios), max(self.ratios)], "met": goal.met(self.ratio)}
        return content | {"repetitions": len(self.measurements), "measurements": self.measurements}


@dataclass
class Bench:
    """One run of the suite: which figures are wanted, how often each is measured, and what was found."""

    figures: dict[str, Figure]
    repeats: int
    folder: Path

    def wanted(self, *keys: str) -> list[str]:
        """Those of the keys that this run measures."""
        return [key for key in keys if key in self.figures]

    @contextmanager
    def attempt(self, *keys: str) -> Iterator[None]:
        """Whatever goes wrong inside is the error of these figures, and the others go on."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            text = f"{error}" if isinstance(error, MeasurementError) else f"{type(error).__name__}: {error}"
            for key in self.wanted(*keys):
                self.figures[key].error = self.figures[key].error or text

    def add(self, key: str, value: float, reference: float, **details: Any) -> None:
        """One repetition of a figure, where it is wanted."""
        if key in self.figures:
            self.figures[key].measurements.append({"value": value, "reference": reference, **details})
            print(f"  {key}: {value:.4g} / {reference:.4g} = {value / reference:.3f}", file=sys.stderr, flush=True)

    def log(self, name: str) -> Path:
        """Where what a process prints goes."""
        path = self.folder / "logs" / f"{name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


TakeTurn = Callable[..., Any]
"""Hands over the answer to a request, and waits for the next: None where there is none. The first call has no answer,
or what there is to say at the start."""


class Side:
    """A process that starts once and then works when it is its turn.

    `work(take_turn, *arguments)` runs in it, with what it prints in the log. Entering waits until it takes its first
    turn; leaving ends it, whatever it is doing.
    """

    def __init__(
        self, bench: Bench, name: str, work: Callable[..., None], *arguments: Any, env: Mapping[str, str] | None = None
    ):
        self.name, self._log = name, bench.log(name)
        context = multiprocessing.get_context("spawn")  # a fork would share threads and sockets of other sides
        self._connection, theirs = context.Pipe()
        given = (theirs, self._log, dict(env or {}), work, arguments)
        self._process = context.Process(target=_serve, args=given, name=name)
        self._process.start()
        theirs.close()
        self.said: Any = None
        """What the side said when it was ready."""

    def __enter__(self) -> Side:
        try:
            self.said = self.end(START_LIMIT_S)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(OSError):
            self._connection.send(None)
        self._process.join(END_LIMIT_S)
        with suppress(ProcessLookupError):  # what it started is in its process group
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.join()

    def begin(self, request: Any = True) -> None:
        """Let it work, and do not wait."""
        try:
            self._connection.send(request)
        except OSError as error:
            raise MeasurementError(f"{self.name} has ended:\n{_tail(self._log)}") from error

    def end(self, limit_s: float = TURN_LIMIT_S) -> Any:
        """The answer to what was begun. Raises MeasurementError where there is none within the limit."""
        if not self._connection.poll(limit_s):
            raise MeasurementError(f"{self.name} was not done within {limit_s:.0f} s:\n{_tail(self._log)}")
        try:
            kind, content = self._connection.recv()
        except (EOFError, OSError) as error:
            raise MeasurementError(f"{self.name} has ended:\n{_tail(self._log)}") from error
        if kind == "error":
            raise MeasurementError(f"{self.name}: {content}")
        return content

    def turn(self, request: Any = True, limit_s: float = TURN_LIMIT_S) -> Any:
        """Let it work, and wait for the answer."""
        self.begin(request)
        return self.end(limit_s)


def _serve(
    connection: Connection, log: Path, env: dict[str, str], work: Callable[..., None], arguments: tuple[Any, ...]
) -> None:
    os.setsid()
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update(env)

    def take_turn(answer: Any = None) -> Any:
        connection.send(("answer", answer))
        return connection.recv()

    try:
        work(take_turn, *arguments)
    except BaseException as error:
        traceback.print_exc()
        with suppress(OSError):  # nobody waits for it any more
            connection.send(("error", f"{type(error).__name__}: {error}"))


# ---------------------------------------------------------------- whole commands


@dataclass(frozen=True)
class Training:
    """`pipelines/grpo.py` as a user starts it, and the seconds from the command to the end of each of its steps."""

    ends: list[float]
    metrics: str
    """The lines of metrics.jsonl."""


def training(
    bench: Bench, name: str, run_dir: Path, flags: Mapping[str, object], steps: int, limit_s: float
) -> Training:
    """Run the command until so many steps have ended, and then end it.

    A step has ended when its line stands in metrics.jsonl. Raises MeasurementError where the command ends before.
    """
    path, log = run_dir / "metrics.jsonl", bench.log(name)
    path.unlink(missing_ok=True)  # an earlier run's
    words = [word for flag, value in flags.items() for word in (f"--{flag}", str(value))]
    command = [sys.executable, str(GRPO), "--run-dir", str(run_dir), *words]
    known = os.environ.get("PYTHONPATH")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *([known] if known else [])])}
    ends: list[float] = []
    with log.open("wb") as file:
        begin = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=file, stderr=file, start_new_session=True)
        try:
            while len(ends) < steps:
                time.sleep(0.01)
                now = time.perf_counter() - begin
                ended = process.poll() is not None  # before looking: the last line may just have been written
                there = path.read_bytes().count(b"\n") if path.exists() else 0
                ends += [now] * (min(there, steps) - len(ends))
                if len(ends) < steps and (ended or now > limit_s):
                    why = f"ended with status {process.returncode}" if ended else f"was stopped after {limit_s:.0f} s"
                    raise MeasurementError(f"{name} {why}, {len(ends)} of {steps} steps done:\n{_tail(log)}")
            return Training(ends, path.read_text(encoding="utf-8"))
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGINT)  # so that it takes its Ray down
    with suppress(subprocess.TimeoutExpired):
        process.wait(END_LIMIT_S)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-_SHOWN:])
