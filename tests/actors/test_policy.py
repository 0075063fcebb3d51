"""The policy on real ZeRO-3 ranks over gloo: loading, updating, saving."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.config import OptimizerConfig, PlacementConfig, PolicyConfig, ReferenceConfig, RolloutConfig
from actors.errors import PolicyError
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from actors.records import Example, RolloutGroup
from actors.reference import ReferenceModel
from tests.dealing import random_groups, update

# With a large epsilon AdamW's first step is lr * gradient / epsilon, as plain as SGD's. With the usual one it is
# lr * sign(gradient), in which the rounding of a gradient near zero shows in full.
OPTIMIZER = OptimizerConfig(lr=100.0, epsilon=10.0)
TEXT = list(range(5, 45))


@pytest.fixture(scope="module")
def start(ray_session: None) -> Iterator[Callable[..., PolicyGroup]]:
    """Gives a policy of so many ranks, freshly loaded from a model; the ranks themselves are started once."""
    started: dict[int, PolicyGroup] = {}
    placements = []

    def start(model: Path, ranks: int, **settings: object) -> PolicyGroup:
        if ranks in started and not settings:
            started[ranks].model = model
            started[ranks].load(OPTIMIZER, total_steps=10)
            return started[ranks]
        # A threshold of 0 shards every parameter, however small.
        common = {"threads": 1, "persistence_threshold": 0, "micro_batch_tokens": 256}
        policy = PolicyConfig(ranks=ranks, **common, **settings)
        request = plan(PlacementConfig(), policy, RolloutConfig(engines=1), None)
        placements.append(Placement.reserve(PlacementConfig(), request))
        group = PolicyGroup.start(placements[-1], model, policy, OPTIMIZER, total_steps=10)
        return group if settings else started.setdefault(ranks, group)

    yield start
    for placement in placements:
        placement.release()


def references(model: Path, batch: list[RolloutGroup]) -> list[list[np.ndarray]]:
    reference = ReferenceModel.remote(str(model), PolicyConfig(), ReferenceConfig(), "cpu")
    *found, _ = reference.log_probs.options(num_returns=len(batch) + 1).remote(1.0, *batch)
    return ray.get(found)


def hugging_face_log_probs(model: Path, ids: list[int]) -> np.ndarray:
    with torch.no_grad():
        logits = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.tensor([ids])).logits[0]
    return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1).numpy()


@pytest.mark.parametrize("loads", [3, pytest.param(20, marks=pytest.mark.thorough)])
def test_every_load_on_two_ranks_is_exact(
    start: Callable[..., PolicyGroup], make_model: Callable[..., Path], loads: int
) -> None:
    model = make_model()
    expected = hugging_face_log_probs(model, TEXT)
    policy = start(model, ranks=2)
    batch = random_groups()
    losses = set()
    for _ in range(loads):
        # Every load gathers each tensor and compares it with the file; a difference raises.
        assert set(policy.load(OPTIMIZER, total_steps=10)) == {len(load_file(model / "model.safetensors"))}
        np.testing.assert_allclose(policy.score(TEXT), expected, atol=1e-5)
        losses.add(update(policy, batch, [])["loss"])
    assert len(losses) == 1


def test_one_and_two_ranks_take_the_same_step(
    start: Callable[..., PolicyGroup], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    model, batch = make_model(), random_groups()
    scored = references(model, batch)
    saved, metrics = {}, {}
    for ranks in (1, 2):
        policy = start(model, ranks=ranks)
        metrics[ranks] = update(policy, batch, scored)
        policy.save(tmp_path / str(ranks))
        saved[ranks] = load_file(tmp_path / str(ranks) / "model.safetensors")
    before = load_file(model / "model.safetensors")
    assert saved[1].keys() == saved[2].keys() == before.keys()
    for name, tensor in saved[1].items():
        assert not torch.equal(tensor, before[name]), f"{name} was not trained"
        step = tensor - before[name]
        torch.testing.assert_close(saved[2][name] - before[name], step, atol=1e-4 * float(step.abs().max()), rtol=1e-3)
    for name in ("loss", "kl", "entropy", "mismatch", "grad_norm", "trained_tokens"):
        assert metrics[2][name] == pytest.approx(metrics[1][name], rel=1e-4), name


def test_statistics_agree_with_plain_torch(start: Callable[..., PolicyGroup], make_model: Callable[..., Path]) -> None:
    model, batch = make_model(), random_groups(count=2)
    metrics = update(start(model, ranks=1), batch, references(make_model(seed=1), batch))
    entropies, mismatches, kls = [], [], []
    policy, other = (AutoModelForCausalLM.from_pretrained(make_model(seed=s), dtype=torch.float32) for s in (0, 1))
    for group in batch:
        for rollout in group.rollouts:
            ids = torch.from_numpy(np.concatenate([group.prompt.ids, rollout.ids]).astype(np.int64))[None]
            span = slice(len(group.prompt.ids) - 1, -1)
            with torch.no_grad():
                mine, theirs = (m(ids).logits[0, span].log_softmax(-1) for m in (policy, other))
            chosen = ids[0, len(group.prompt.ids) :, None]
            mine_chosen, theirs_chosen = mine.gather(-1, chosen)[:, 0], theirs.gather(-1, chosen)[:, 0]
            entropies += (-(mine.exp() * mine).sum(-1)).tolist()
            mismatches += (mine_chosen - torch.from_numpy(rollout.log_probs)).abs().tolist()
            ratio = theirs_chosen - mine_chosen
            kls += (ratio.exp() - ratio - 1).clamp(max=10).tolist()  # OpenRLHF's bound on a token's estimate
    assert metrics["entropy"] == pytest.approx(np.mean(entropies), rel=1e-4)
    assert metrics["mismatch"] == pytest.approx(np.mean(mismatches), rel=1e-4)
    assert metrics["kl"] == pytest.approx(np.mean(kls), rel=1e-3)
    assert metrics["trained_tokens"] == len(kls)


def test_several_minibatches_clip_against_the_policy_that_sampled(
    start: Callable[..., PolicyGroup], make_model: Callable[..., Path]
) -> None:
    batch = random_groups(count=6)
    once = update(start(make_model(), ranks=2), batch, [])
    assert once["clip_ratio"] == 0  # the policy that sampled is the one updated
    many = update(start(make_model(), ranks=2), batch, [], minibatches=3)
    assert many["trained_tokens"] == once["trained_tokens"]
    # Trainer and engine disagree by as much however far the policy has moved within the batch.
    assert many["mismatch"] == pytest.approx(once["mismatch"], rel=1e-5)
    assert many["lr"] == pytest.approx(once["lr"])


def test_supervised_step_lowers_the_loss_of_its_own_batch(
    start: Callable[..., PolicyGroup], make_model: Callable[..., Path]
) -> None:
    policy = start(make_model(), ranks=2)
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(5, 300, n).astype(np.int32), prompt_length=4) for n in (12, 20, 9, 33, 7)]
    lengths = [(len(e.ids), e.completion_length) for e in examples]
    losses = [policy.update_sft(ray.put(examples), lengths)["loss"] for _ in range(6)]
    expected = [
        -hugging_face_log_probs(make_model(), e.ids.tolist())[e.prompt_length - 1 :].astype(np.float64)
        for e in examples
    ]
    assert losses[0] == pytest.approx(np.concatenate(expected).mean(), rel=1e-5)
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [
        ({"share_prompts": False}, 1e-4),
        *(
            pytest.param(*others, marks=pytest.mark.thorough)
            for others in [({"gradient_checkpointing": True}, 1e-4), ({"dtype": "bfloat16"}, 0.03)]
        ),
    ],
)
def test_cheaper_ways_to_the_same_step(
    start: Callable[..., PolicyGroup], make_model: Callable[..., Path], settings: dict, tolerance: float
) -> None:
    exact = update(start(make_model(), ranks=1), random_groups(), [])
    cheap = update(start(make_model(), ranks=2 if "share_prompts" in settings else 1, **settings), random_groups(), [])
    for name in ("loss", "entropy", "grad_norm"):
        assert cheap[name] == pytest.approx(exact[name], rel=tolerance), name


def test_a_rank_without_samples_keeps_step(start: Callable[..., PolicyGroup], make_model: Callable[..., Path]) -> None:
    metrics = update(start(make_model(), ranks=2), random_groups(count=1, samples=1), [])
    assert np.isfinite(metrics["loss"])


def test_saved_model_is_hugging_face(
    start: Callable[..., PolicyGroup], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    for tied in (True, False):
        policy = start(make_model(tied=tied), ranks=2)
        policy.save(tmp_path / "saved")
        np.testing.assert_allclose(hugging_face_log_probs(tmp_path / "saved", TEXT), policy.score(TEXT), atol=1e-5)


def test_a_tensor_that_is_not_the_files_stops_the_load(
    start: Callable[..., PolicyGroup], make_model: Callable[..., Path], tmp_path: Path
) -> None:
    """The comparison after loading is what finds a gather that reads garbage."""
    policy = start(make_model(), ranks=1)
    with pytest.raises(PolicyError, match=r"tensors differ"):
        policy.compare_with(make_model(seed=1))
