"""Checkpoints to go on from: a folder a step, there whole or not at all.

    step-000040/
        manifest.json     step, state, weight version, what the policy was, size and sha256 of every file
        shards/           what DeepSpeed writes: parameters, optimizer, schedule, and each rank's random numbers

A checkpoint is written under a name that begins with a dot and appears under its own by one rename. What a killed
writer left is removed by the next. On several nodes the folder must be one that all of them share.
"""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.errors import ReadableError
from evals.writing import file_sha256, write_whole

SHARDS = "shards"
_MANIFEST = "manifest.json"
_NAME = re.compile(r"step-(\d{6,})")


class CheckpointError(ReadableError, RuntimeError):
    """A checkpoint is damaged or half-written; the message says in what."""


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint. `state` is the pipeline's own, `policy` the settings that loading depends on."""

    path: Path
    step: int
    state: dict[str, Any]
    version: int
    policy: dict[str, Any]


def begin(folder: Path, step: int) -> Path:
    """An empty hidden folder beside the one of this step; what earlier writers left unfinished is removed."""
    for left in folder.glob(".step-*"):
        shutil.rmtree(left)
    draft = folder / f".{_path(folder, step).name}"
    draft.mkdir(parents=True)
    return draft


def publish(draft: Path, step: int, state: dict[str, Any], version: int, policy: dict[str, Any], keep: int) -> Path:
    """Add the manifest to what was written since `begin`, make it visible, and remove all but the newest `keep`.

    A checkpoint of the same step is replaced; later ones are not touched.
    """
    files = {
        str(file.relative_to(draft)): {"size": file.stat().st_size, "sha256": file_sha256(file)}
        for file in sorted(draft.rglob("*"))
        if file.is_file()
    }
    manifest = {"step": step, "version": version, "policy": policy, "state": state, "files": files}
    write_whole(draft / _MANIFEST, json.dumps(manifest, indent=2) + "\n")
    folder = draft.parent
    target = _path(folder, step)
    if target.exists():
        target.rename(folder / f".{target.name}.replaced")
    draft.rename(target)
    shutil.rmtree(folder / f".{target.name}.replaced", ignore_errors=True)
    for old in [path for number, path in _steps(folder) if number <= step][keep:]:
        shutil.rmtree(old)
    return target


def _log(path: Path, reason: str) -> None:
    logging.getLogger(__name__).warning("the checkpoint %s is left out: %s", path, reason)


def latest_checkpoint(folder: Path, report: Callable[[Path, str], None] = _log) -> Checkpoint | None:
    """The newest checkpoint whose every file has the size and hash that its manifest says; None where there is none.

    `report` is told the path of each newer one that is damaged or half-written, and why.
    """
    for left in sorted(folder.glob(".step-*"), reverse=True):
        report(left, "its writer was stopped before it was complete")
    for _, path in _steps(folder):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            report(path, str(error))
    return None


def read_checkpoint(path: Path) -> Checkpoint:
    """The checkpoint in a folder, every file checked. Raises CheckpointError."""
    try:
        manifest = json.loads((path / _MANIFEST).read_text(encoding="utf-8"))
        files = manifest["files"]
        found = Checkpoint(path, manifest["step"], manifest["state"], manifest["version"], manifest["policy"])
    except FileNotFoundError as error:
        raise CheckpointError(f"it has no {_MANIFEST}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"its {_MANIFEST} cannot be read ({type(error).__name__}: {error})") from error
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError(f"{name} is missing")
        if (size := file.stat().st_size) != expected["size"]:
            raise CheckpointError(f"{name} has {size} bytes instead of {expected['size']}")
        if file_sha256(file) != expected["sha256"]:
            raise CheckpointError(f"{name} has other contents than were written (sha256)")
    return found


def random_state() -> dict[str, Any]:
    """The state of every random number generator of this process: Python's, numpy's, torch's."""
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from where `random_state` was."""
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    torch.cuda.set_rng_state_all(state["cuda"])


def _path(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def _steps(folder: Path) -> list[tuple[int, Path]]:
    """Step and path of every visible checkpoint, the newest first."""
    found = [(int(form[1]), path) for path in folder.glob("step-*") if (form := _NAME.fullmatch(path.name))]
    return sorted(found, reverse=True)
