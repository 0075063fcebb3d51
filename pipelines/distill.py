"""Distillation: supervised fine-tuning of the policy on traces of a judge's reasoning.

    python pipelines/distill.py                                            the embedded oracle's traces
    python pipelines/distill.py --base MODEL --distill.traces FILE --distill.epochs 1 --data.format rm_r1

The traces are those of a file or hub data set (`distill.traces`), gone through in epochs; else the embedded oracle's,
which errs at a stated rate (`distill.slip_rate`); for pairs of your own they are made from the labels and teach the
form of a judgement alone. The student is a model made on the spot, or any Hugging Face model (`--base`). Training runs
on the same ZeRO-3 policy actors as GRPO, with the loss on the completion only, and leaves `distill/` in the run
directory, in Hugging Face format, and a line a step in `distill-metrics.jsonl`.

With `distill.save_every`, the same command goes on from the newest checkpoint, whatever ended it, and ends where it
would have ended.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.actor import ActorHandle
from rich.progress import TaskID

from actors.checkpoint import Checkpoint, latest_checkpoint
from actors.policy import PolicyGroup
from evals.errors import ReadableError
from evals.prompts import prompt_format
from evals.traces import TraceFile, also_asked, load_traces, without_questions
from evals.writing import file_sha256, write_whole
from pipelines.config import RunConfig, load
from pipelines.errors import readable_errors
from pipelines.graph import policy_alone
from pipelines.heldout import fitting
from pipelines.ledger import asked_in
from pipelines.run import Run, checked_model, resolve
from pipelines.stream import Data, DataError, Lessons

_RECIPE = "recipe.json"
_CHECKPOINTS = "distill-checkpoints"
_MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model")
_LINES = 10
"""So many lines about the loss are shown of a distillation, at most."""


class ResumeError(ReadableError, RuntimeError):
    """Checkpoints of another distillation than the one asked for; the message says in what they differ."""


def given_traces(config: RunConfig, data: Data) -> TraceFile | None:
    """The traces of `distill.traces`, where that is set, without those that ask a held-out question.

    What distilling needs is looked at before anything starts: the base model too. Raises ModelError and TraceError; and
    DataError where such traces are among them though `data.heldout` was chosen by hand, and where no other is left.
    """
    if config.base:
        checked_model(config.base)
    named, format_ = config.distill.traces, prompt_format(config.data.format)
    if not named:
        if config.distill.epochs:
            raise DataError("distill.epochs are times through distill.traces, which is empty; set distill.steps")
        return None
    given = load_traces(named, format_)
    shared = also_asked(data.heldout, given.traces, format_)
    if shared and config.data.heldout:
        raise DataError(
            f"distill.traces={named}: {len(shared)} held-out pairs ask a question that the traces ask too, first "
            f"{shared[0].id!r}; remove those traces, or name other pairs with data.heldout"
        )
    given = without_questions(given, shared, format_)
    if not given.traces:
        raise DataError(
            f"distill.traces={named}: every trace asks a question that is held out; lower data.heldout_share, or name "
            "pairs with data.heldout"
        )
    return given


def distilled_model(config: RunConfig, run: Run, data: Data, given: TraceFile | None) -> Path:
    """The folder of the distilled model: the one of an earlier run with the same recipe, or a new one.

    `given` is what `given_traces` found.
    """
    folder, checkpoints = run.folder / "distill", run.folder / _CHECKPOINTS
    recipe = _recipe(config, data, given)
    if (folder / _RECIPE).exists() and json.loads((folder / _RECIPE).read_text())["hash"] == recipe["hash"]:
        run.say(f"distilled      {folder} (as before)")
        left = latest_checkpoint(checkpoints)
        if left is None or left.state["hash"] != recipe["hash"]:  # of another distillation, which may go on yet
            return folder
    else:
        with run.clock("distill"):
            distill(config, run, data, given, recipe)
        write_whole(folder / _RECIPE, json.dumps(recipe, indent=2) + "\n")
    shutil.rmtree(checkpoints, ignore_errors=True)
    return folder


def distill(config: RunConfig, run: Run, data: Data, given: TraceFile | None, recipe: dict[str, Any]) -> None:
    """Fine-tune the base model on traces, for the steps or epochs configured, and save it to `distill/` of the run.

    Goes on from the newest checkpoint where there is one; raises ResumeError where that is not of `recipe`.
    """
    begun = _begun(run, recipe)
    base = checked_model(config.base) if config.base else str(_embedded(config, run))
    with policy_alone(config, base) as (start, encoder):
        lessons = _lessons(config, run, data, given, encoder)
        steps = _steps(config, lessons)
        policy = start(steps)
        done = begun.step if begun else 0
        if begun:
            policy.load_checkpoint(begun)
        log = _Log(run, done, steps)
        batches = itertools.islice(lessons.batches(config.distill.batch), done, steps)
        encode = encoder.examples.options(num_returns=2).remote
        encoded = ((epoch, encode(batch)) for epoch, batch in batches)
        with run.progress("distill", steps) as progress:
            progress.advance(TaskID(0), done)
            upcoming = next(encoded)
            for step in range(done + 1, steps + 1):
                epoch, (examples, lengths) = upcoming
                upcoming = next(encoded, upcoming)  # encoded while this one is trained on
                log.step(step, epoch, policy, examples, ray.get(lengths))
                progress.advance(TaskID(0))
                if config.distill.save_every and step % config.distill.save_every == 0 and step < steps:
                    policy.save_checkpoint(run.folder / _CHECKPOINTS, step, recipe)
        policy.save(run.folder / "distill")


def _begun(run: Run, recipe: dict[str, Any]) -> Checkpoint | None:
    """Where an earlier distillation of the same recipe was ended; says what it found."""
    folder = run.folder / _CHECKPOINTS
    begun = latest_checkpoint(folder, lambda path, reason: run.say(f"left out       {path}: {reason}"))
    if begun is None:
        return None
    if begun.state["hash"] != recipe["hash"]:
        names = sorted((recipe.keys() | begun.state.keys()) - {"hash"})
        changed = [name for name in names if recipe.get(name) != begun.state.get(name)]
        raise ResumeError(
            f"{folder}: {begun.step} steps of another distillation are kept there, which differs in "
            f"{', '.join(changed)}; go back to its settings and traces, or remove the folder to start over"
        )
    run.say(f"goes on        after step {begun.step}, from {begun.path}")
    return begun


def _lessons(config: RunConfig, run: Run, data: Data, given: TraceFile | None, encoder: ActorHandle) -> Lessons:
    """What fits into `rollout.max_model_len`; says what is left out."""
    format_, room = prompt_format(config.data.format), config.rollout.max_model_len
    if given is None:
        return Lessons(None, fitting(data, encoder, config)[0], format_, config.distill.slip_rate)
    lengths = ray.get(encoder.trace_lengths.remote(given.traces))
    traces = [trace for trace, length in zip(given.traces, lengths, strict=True) if length <= room]
    if not traces:
        raise DataError(
            f"distill.traces={given.name}: no trace fits into rollout.max_model_len={room} with its prompt; the "
            f"shortest has {min(lengths)} tokens"
        )
    run.say(f"traces         {given.name}: {len(traces)} to learn from")
    if given.held_out:
        run.say(f"held out       {given.held_out} traces left out, whose question is")
    if given.without_verdict:
        run.say(f"no verdict     {given.without_verdict} traces left out, whose text has none in {format_.name}")
    if too_long := len(lengths) - len(traces):
        run.say(f"too long       {too_long} traces left out, which are over {room} tokens with their prompt")
    return Lessons(traces, data, format_, config.distill.slip_rate)


def _steps(config: RunConfig, lessons: Lessons) -> int:
    if config.distill.epochs is None or lessons.given is None:
        return config.distill.steps
    return config.distill.epochs * math.ceil(len(lessons.given) / config.distill.batch)


class _Log:
    """Trains step by step, and writes a line of each to `distill-metrics.jsonl`; some are shown."""

    def __init__(self, run: Run, done: int, steps: int):
        """Lines of an earlier distillation are dropped but for its first `done` steps, which this one goes on from."""
        self._run, self._steps = run, steps
        self._path = run.folder / "distill-metrics.jsonl"
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True) if self._path.exists() else []
        write_whole(self._path, "".join(lines[:done]))

    def step(
        self, step: int, epoch: int, policy: PolicyGroup, examples: ray.ObjectRef, lengths: list[tuple[int, int]]
    ) -> None:
        """One optimizer step. `tokens` are those of whole sequences, `trained_tokens` those with a loss."""
        started = time.perf_counter()
        found = policy.update_sft(examples, lengths)
        seconds = time.perf_counter() - started
        tokens = sum(whole for whole, _ in lengths)
        row: dict[str, float] = {"step": step, "epoch": epoch, "traces": len(lengths), "tokens": tokens}
        row |= {name: found[name] for name in ("loss", "lr", "grad_norm", "entropy", "trained_tokens")}
        row |= {"seconds": seconds, "tokens_per_second": tokens / seconds}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        if step % max(1, self._steps // _LINES) == 0 or step == self._steps:
            self._run.say(
                f"distill {step:>5}  loss {row['loss']:.3f}  lr {row['lr']:.1e}  {row['trained_tokens']:.0f} tokens "
                f"of {tokens}  {row['tokens_per_second']:.0f} tok/s"
            )


def _embedded(config: RunConfig, run: Run) -> Path:
    from actors.embedded import make_embedded_model

    folder = run.folder / "base"
    make = ray.remote(num_cpus=0)(make_embedded_model)
    ray.get(make.remote(folder, config.embedded, config.seed))
    return folder


def _settings(config: RunConfig) -> dict[str, Any]:
    """What of the configuration the distilled model follows from."""
    distillation = {"batch", "optimizer", "epochs" if config.distill.epochs else "steps"}
    if not config.distill.traces:
        distillation.add("slip_rate")
    return {
        "seed": config.seed,
        "base": _base(config) or config.embedded.model_dump(mode="json"),
        "format": asked_in(config.data.format),
        "distill": config.distill.model_dump(mode="json", include=distillation),
        "policy": config.policy.model_dump(mode="json", include={"dtype", "ranks", "lora"}),
        "room": config.rollout.max_model_len,
    }


def _base(config: RunConfig) -> str:
    """A hub name as it is given; of a folder what is in it, as another model may come to lie there."""
    if not config.base or not Path(config.base).is_dir():
        return config.base
    digest = hashlib.sha256()
    for file in sorted(file for pattern in _MODEL_FILES for file in Path(config.base).glob(pattern)):
        digest.update(f"{file.name} {file_sha256(file)}\n".encode())
    return digest.hexdigest()


def _recipe(config: RunConfig, data: Data, given: TraceFile | None) -> dict[str, Any]:
    """Everything that the distilled model follows from, and the hash by which it is recognised."""
    parts = _settings(config)
    if given:
        parts["traces"] = given.sha256
    elif data.train is not None:
        pairs = json.dumps([asdict(pair) for pair in data.train], sort_keys=True, default=str)
        parts["pairs"] = hashlib.sha256(pairs.encode()).hexdigest()
        parts["answer_room"] = config.rollout.max_new_tokens
    return parts | {"hash": hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()}


def main() -> None:
    """Command line."""
    config, arguments = load(sys.argv[1:], __doc__)
    if arguments.dry_run:
        print(json.dumps(_settings(config), indent=2))
        return
    with readable_errors():
        data = Data.load(config.data, config.seed, config.evaluation.pairs, resolve(config.run_dir))
        given = given_traces(config, data)
        with Run.open(config) as run:
            run.say(f"distilled      {distilled_model(config, run, data, given)}")


if __name__ == "__main__":
    main()
