"""Checkpoints: complete or ignored, and a run that goes on from one is the run that was not interrupted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file

from actors.checkpoint import Checkpoint, begin, latest_checkpoint, publish
from actors.config import OptimizerConfig, PlacementConfig, PolicyConfig, RolloutConfig
from actors.errors import PolicyError
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from actors.records import Example

# A schedule that changes with every step: one that is not restored shows in the parameters.
OPTIMIZER = OptimizerConfig(lr=0.01, schedule="linear")


def write(folder: Path, step: int, keep: int = 2) -> Path:
    draft = begin(folder, step)
    (draft / "shards").mkdir()
    (draft / "shards" / "rank0.pt").write_bytes(bytes(range(100)) + step.to_bytes(2, "big"))
    return publish(draft, step, {"seen": step * 8}, step, {}, keep)


def latest(folder: Path) -> tuple[Checkpoint | None, dict[str, str]]:
    """The newest complete checkpoint, and the reasons against others by their names."""
    reasons: dict[str, str] = {}
    return latest_checkpoint(folder, lambda path, reason: reasons.update({path.name: reason})), reasons


def test_the_newest_is_found_and_only_so_many_are_kept(tmp_path: Path) -> None:
    assert latest(tmp_path / "never") == (None, {})
    for step in (20, 40, 60):
        path = write(tmp_path, step)
    found, reasons = latest(tmp_path)
    assert found == Checkpoint(path, 60, {"seen": 480}, 60, {})
    assert not reasons
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000040", "step-000060"]
    assert write(tmp_path, 60, keep=1) == path  # the step is written again
    assert [p.name for p in tmp_path.iterdir()] == ["step-000060"]


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (lambda f: f.write_bytes(f.read_bytes()[:-1]), "rank0.pt has 101 bytes instead of 102"),
        (lambda f: f.write_bytes(bytes(102)), "other contents"),
        (lambda f: f.unlink(), "rank0.pt is missing"),
        (lambda f: (f.parents[1] / "manifest.json").unlink(), "no manifest.json"),
        (lambda f: (f.parents[1] / "manifest.json").write_text('{"step": 4'), "manifest.json cannot be read"),
    ],
)
def test_a_damaged_one_is_reported_and_the_one_before_taken(
    tmp_path: Path, harm: Callable[[Path], object], reason: str
) -> None:
    write(tmp_path, 20)
    harm(write(tmp_path, 40) / "shards" / "rank0.pt")
    found, reasons = latest(tmp_path)
    assert found is not None
    assert found.step == 20
    assert reason in reasons["step-000040"]


def test_what_was_not_finished_is_no_checkpoint(tmp_path: Path) -> None:
    write(tmp_path, 20)
    draft = begin(tmp_path, 40)
    (draft / "shards").mkdir()
    (draft / "shards" / "rank0.pt").write_bytes(b"half")
    found, reasons = latest(tmp_path)
    assert found is not None
    assert found.step == 20
    assert list(reasons) == [".step-000040"]
    write(tmp_path, 60)
    assert not draft.exists()


@pytest.fixture(scope="module")
def start(ray_session: None, make_model: Callable[..., Path]) -> Iterator[Callable[[int], PolicyGroup]]:
    placements = []

    def start(ranks: int) -> PolicyGroup:
        policy = PolicyConfig(ranks=ranks, threads=1, persistence_threshold=0)
        placements.append(Placement.reserve(PlacementConfig(), plan(PlacementConfig(), policy, ROLLOUT, None)))
        return PolicyGroup.start(placements[-1], make_model(), policy, OPTIMIZER, total_steps=10)

    yield start
    for placement in placements:
        placement.release()


ROLLOUT = RolloutConfig(engines=1)


def train(policy: PolicyGroup, step: int) -> float:
    rng = np.random.default_rng(step)
    examples = [Example(rng.integers(5, 300, n).astype(np.int32), prompt_length=4) for n in (20, 15, 9)]
    return policy.update_sft(ray.put(examples), [(len(e.ids), e.completion_length) for e in examples])["loss"]


def random_states(path: Path, rank: int) -> dict[str, object]:
    file = path / "shards" / f"zero_pp_rank_{rank}_mp_rank_00_model_states.pt"
    return torch.load(file, weights_only=False)["random"]


@pytest.mark.thorough
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_fresh_policy_goes_on_as_if_nothing_had_happened(
    start: Callable[[int], PolicyGroup], tmp_path: Path, ranks: int
) -> None:
    policy = start(ranks)
    for step in (1, 2):
        train(policy, step)
    policy.version = 5
    path = policy.save_checkpoint(tmp_path / "checkpoints", 2, {"cursor": [3, 4]})
    losses = [train(policy, step) for step in (3, 4)]
    policy.save(tmp_path / "through")
    if ranks == 2:  # killed while it writes: one rank is gone, the other has begun
        ray.kill(policy.ranks[1])
        with pytest.raises(ray.exceptions.RayError):
            policy.save_checkpoint(tmp_path / "checkpoints", 4, {})
    policy.stop()

    found, reasons = latest(tmp_path / "checkpoints")
    assert found is not None
    assert (found.path, found.state) == (path, {"cursor": [3, 4]})
    assert list(reasons) == ([".step-000004"] if ranks == 2 else [])
    fresh = start(ranks)
    assert fresh.load_checkpoint(found) == {"cursor": [3, 4]}
    assert fresh.version == 5
    again = fresh.save_checkpoint(tmp_path / "again", 2, {})
    for rank in range(ranks):  # a new process begins with other random numbers
        mine, before = random_states(again, rank), random_states(path, rank)
        assert mine["python"] == before["python"]
        assert torch.equal(mine["torch"], before["torch"])
        np.testing.assert_array_equal(mine["numpy"][1], before["numpy"][1])
    assert [train(fresh, step) for step in (3, 4)] == losses
    fresh.save(tmp_path / "resumed")
    resumed, through = (load_file(tmp_path / name / "model.safetensors") for name in ("resumed", "through"))
    assert all(torch.equal(resumed[name], tensor) for name, tensor in through.items())
    if ranks == 1:
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["policy"]["ranks"] = 2
        (path / "manifest.json").write_text(json.dumps(manifest))
        two, _ = latest(path.parent)
        assert two is not None
        with pytest.raises(PolicyError, match=r"policy\.ranks=2; this run has policy\.ranks=1"):
            fresh.load_checkpoint(two)
    fresh.stop()
