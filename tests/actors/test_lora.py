"""Adapters on real ZeRO-3 ranks, in real vLLM engines, and on disk as others read them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.checkpoint import latest_checkpoint
from actors.config import LoraConfig, OptimizerConfig, PlacementConfig, PolicyConfig, RolloutConfig, WeightsConfig
from actors.errors import PolicyError
from actors.lora import add_adapters
from actors.placement import Placement, plan
from actors.policy import PolicyGroup
from actors.records import Example
from actors.rollout import RolloutEngine, RolloutPool, Sampling, Task, engine_arguments
from evals.synthetic import SyntheticTask

TEXT = [7 + (13 * i) % 290 for i in range(70)]
TOLERANCE = 1e-3
ROLLOUT = RolloutConfig(engines=1, max_model_len=512, max_num_seqs=32, kv_cache_gib=0.25)
SAMPLING = Sampling(samples=2, temperature=1.0, top_p=1.0, max_new_tokens=12)
LORA = LoraConfig(rank=4, alpha=8.0)
OPTIMIZER = OptimizerConfig(lr=0.02)


def train(policy: PolicyGroup) -> float:
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(5, 300, 20).astype(np.int32), prompt_length=4) for _ in range(4)]
    return policy.update_sft(ray.put(examples), [(20, 16)] * 4)["loss"]


def log_probs(model: torch.nn.Module) -> np.ndarray:
    with torch.no_grad():
        logits = model(torch.tensor([TEXT])).logits[0]
    return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(TEXT[1:])[:, None]).squeeze(-1).numpy()


def loaded(folder: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@ray.remote(num_cpus=1)
class Served:
    """Two engines in one process, so that vLLM is imported once."""

    def log_probs(self, model: str, adapter: str | None) -> np.ndarray:
        """vLLM's log-probabilities of the text under a model, with an adapter if one is named."""
        from vllm import LLM, SamplingParams
        from vllm.lora.request import LoRARequest

        lora = {"enable_lora": True, "max_lora_rank": 8} if adapter else {}
        llm = LLM(**engine_arguments(model, "float32", ROLLOUT, "cpu"), **lora)
        params = SamplingParams(max_tokens=1, temperature=0, prompt_logprobs=0, detokenize=False)
        request = LoRARequest("judge", 1, adapter) if adapter else None
        output = llm.generate({"prompt_token_ids": TEXT}, params, use_tqdm=False, lora_request=request)[0]
        return np.array([next(iter(at.values())).logprob for at in output.prompt_logprobs[1:]], np.float32)


@pytest.mark.thorough
@pytest.mark.parametrize("ranks", [1, 2])
def test_adapters_are_trained_reach_the_engine_and_are_saved(
    ray_session: None, make_model: Callable[..., Path], tmp_path: Path, ranks: int
) -> None:
    model = make_model(tied=ranks == 1)
    # Gradient checkpointing cuts the gradient of a frozen model where its inputs do not ask for one.
    policy = PolicyConfig(ranks=ranks, threads=1, persistence_threshold=0, lora=LORA, gradient_checkpointing=ranks == 2)
    placement = Placement.reserve(PlacementConfig(), plan(PlacementConfig(), policy, ROLLOUT, None))
    try:
        engine = RolloutEngine.options(**placement.engine(0, ROLLOUT))
        pool = RolloutPool([engine.remote(str(model), "compact", "float32", ROLLOUT, "shm", "cpu")], timeout_s=400)
        group = PolicyGroup.start(placement, model, policy, OPTIMIZER, total_steps=10)
        base = log_probs(loaded(model))
        np.testing.assert_allclose(group.score(TEXT), base, atol=1e-5)  # adapters begin as nothing
        pool.wait()
        group.connect_engines(pool, 1, WeightsConfig(bucket_mib=1))
        train(group)
        train(group)  # at the first step B is zero, so A has no gradient
        assert group.sync(TEXT, TOLERANCE) <= TOLERANCE
        assert np.abs(pool.score(TEXT)[0] - base).max() > 100 * TOLERANCE
        done = ray.get(next(pool.rollout([Task(0, SyntheticTask(0).pair("heldout", 0), "ab")], SAMPLING, seed=1))[1])
        whole = np.concatenate([done.prompt.ids, done.rollouts[0].ids]).tolist()
        mine = group.score(whole)[len(done.prompt.ids) - 1 :]
        np.testing.assert_allclose(mine, done.rollouts[0].log_probs, atol=TOLERANCE)
        pool.stop()

        group.compare_with(model)  # the base did not move
        group.save(tmp_path / "judge")
        path = group.save_checkpoint(tmp_path / "checkpoints", 2, {})
        trained = group.score(TEXT)
        check_exports(model, tmp_path / "judge", trained)
        check_optimizer(path, tmp_path / "judge" / "adapter", ranks)

        losses = [train(group), train(group)]
        ended = group.score(TEXT)
        group.load(OPTIMIZER, total_steps=10)
        np.testing.assert_allclose(group.score(TEXT), base, atol=1e-5)
        found = latest_checkpoint(path.parent)
        assert found is not None
        group.load_checkpoint(found)
        assert [train(group), train(group)] == losses
        np.testing.assert_array_equal(group.score(TEXT), ended)
    finally:
        placement.release()
    if ranks == 1:
        check_served(model, tmp_path / "judge", trained)


def check_exports(model: Path, judge: Path, trained: np.ndarray) -> None:
    """The merged model is the adapter on its base, and nothing but the adapted weights differs from the base."""
    assert json.loads((judge / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == str(model)
    np.testing.assert_allclose(log_probs(loaded(judge)), trained, atol=1e-4)
    adapted = PeftModel.from_pretrained(loaded(model), judge / "adapter")
    np.testing.assert_allclose(log_probs(adapted), log_probs(loaded(judge)), atol=1e-4)
    before, after = (load_file(folder / "model.safetensors") for folder in (model, judge))
    assert before.keys() == after.keys()
    changed = {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}
    assert changed == {name for name in before if name.endswith("_proj.weight")}


def check_optimizer(path: Path, adapter: Path, ranks: int) -> None:
    """The optimizer works on as many values as the adapters have, and DeepSpeed's padding."""
    held = 0
    for rank in range(ranks):
        file = path / "shards" / f"zero_pp_rank_{rank}_mp_rank_00_optim_states.pt"
        state = torch.load(file, weights_only=False)["optimizer_state_dict"]
        held += sum(flat.numel() for flat in state["fp32_flat_groups"])
    tensors = load_file(adapter / "adapter_model.safetensors")
    size = sum(tensor.numel() for tensor in tensors.values())
    assert size <= held < size + ranks * len(tensors)


def check_served(model: Path, judge: Path, trained: np.ndarray) -> None:
    """vLLM says the same of the merged model and of the base with the adapter."""
    environment = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    served = Served.options(runtime_env={"env_vars": environment}).remote()
    merged = ray.get(served.log_probs.remote(str(judge), None), timeout=400)
    adapted = ray.get(served.log_probs.remote(str(model), str(judge / "adapter")), timeout=400)
    ray.kill(served)
    np.testing.assert_allclose(merged, trained, atol=TOLERANCE)
    np.testing.assert_allclose(adapted, merged, atol=TOLERANCE)


@pytest.mark.parametrize("targets", [["q_proj", "query"], ["lm_head"], ["embed_tokens"], []])
def test_targets_that_are_no_linear_modules(make_model: Callable[..., Path], targets: list[str]) -> None:
    module = loaded(make_model())
    with pytest.raises(PolicyError, match=r"policy\.lora\.targets: .*down_proj, gate_proj, k_proj") as caught:
        add_adapters(module, LoraConfig(targets=targets), "some/model")
    assert "q_proj matches" not in str(caught.value)


def test_first_values_are_the_same_everywhere_and_leave_the_generator_alone(make_model: Callable[..., Path]) -> None:
    drawn = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        module = loaded(make_model())
        state = torch.get_rng_state()
        adapted = add_adapters(module, LoraConfig(rank=2, targets=["q_proj"]), "some/model@v1")
        assert torch.equal(torch.get_rng_state(), state), before
        drawn.append([p for n, p in module.named_parameters() if ".lora_A." in n])
        assert {n.split(".")[-4] for n, p in module.named_parameters() if p.requires_grad} == {"q_proj"}
        assert adapted.peft_config["default"].base_model_name_or_path == "some/model"
        assert adapted.peft_config["default"].revision == "v1"
    assert len(drawn[0]) == 2
    assert all(torch.equal(one, other) for one, other in zip(*drawn, strict=True))
