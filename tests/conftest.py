"""Fixtures that are dear: one Ray for the session, and the engines that tests share."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    if not SHARED_DATA.is_dir():
        pytest.skip("the real data is not on this machine")
    return SHARED_DATA


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a small random model; the same arguments give the same folder."""
    from actors.config import EmbeddedModelConfig
    from actors.embedded import make_embedded_model

    made: dict[tuple[bool, int], Path] = {}

    def make(tied: bool = True, seed: int = 0) -> Path:
        if (tied, seed) not in made:
            folder = tmp_path_factory.mktemp("model") / "model"
            make_embedded_model(folder, EmbeddedModelConfig(layers=2, tied=tied), seed)
            made[tied, seed] = folder
        return made[tied, seed]

    return make


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A Ray of our own with more logical cores than the machine has; actors mostly wait for each other here."""
    import ray

    os.environ["RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO"] = "0"
    ray.init(address="local", num_cpus=16, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def scripted() -> Callable[[Any, Sequence[set[int]], float], None]:
    """Writes a model's weights by hand: attention and MLP add nothing, so each token decides the next one.

    `said` has the tokens that may stand at each place; those at the next one get a logit of about 11 times `strength`.
    """
    import torch

    def script(model: Any, said: Sequence[set[int]], strength: float) -> None:
        assert sum(map(len, said)) == len(set().union(*said)), "a token that stood twice would need two successors"
        with torch.no_grad():
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.zero_()
                layer.mlp.down_proj.weight.zero_()
            model.model.embed_tokens.weight.zero_()[:, -1] = 1
            model.lm_head.weight.zero_()
            for place, (tokens, following) in enumerate(itertools.pairwise(said)):
                one_hot = torch.nn.functional.one_hot(torch.tensor(place), model.config.hidden_size)
                for token in tokens:
                    model.model.embed_tokens.weight[token] = one_hot
                for token in following:  # RMSNorm scales a one-hot state by sqrt(hidden)
                    model.lm_head.weight[token, place] = strength

    return script


@pytest.fixture(scope="session")
def first_is_better(
    tmp_path_factory: pytest.TempPathFactory, scripted: Callable[[Any, Sequence[set[int]], float], None]
) -> Path:
    """A judge that says one fixed text whatever it is shown: the first response is better.

    At a high temperature it babbles without end. The text is its `says.txt`.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from actors.card import JudgeCard
    from actors.config import EmbeddedModelConfig
    from actors.embedded import make_embedded_model
    from actors.tokens import PromptEncoder

    folder = tmp_path_factory.mktemp("models") / "first-is-better"
    text = "<type>Chat</type><rubric>cold</rubric><eval>A</eval><answer>[[A]]</answer>"
    make_embedded_model(folder, EmbeddedModelConfig(tied=False, layers=1), seed=0)
    encoder = PromptEncoder(folder)
    prompt = encoder.encode_prompt([{"role": "user", "content": "any"}]).tolist()
    said = [prompt[-1], *encoder.encode_completion(text).tolist()]
    model = AutoModelForCausalLM.from_pretrained(folder)
    scripted(model, [{token} for token in said], 0.3)
    with torch.no_grad():
        model.lm_head.weight[encoder.eos, -1] = -1
    model.save_pretrained(folder)
    JudgeCard(format="compact", version=7, max_model_len=2048, max_new_tokens=1900).write(folder)
    (folder / "says.txt").write_text(text)
    return folder


@pytest.fixture(scope="session")
def says(first_is_better: Path) -> str:
    """What the judge `first_is_better` says."""
    return (first_is_better / "says.txt").read_text()


@pytest.fixture(scope="session")
def endpoint(ray_session: None, first_is_better: Path) -> Iterator[str]:
    """URL of a real endpoint with `first_is_better`. Tests share it: what would break it starts one of its own."""
    from ray import serve

    from actors.card import JudgeCard
    from actors.config import RolloutConfig, ServeConfig
    from actors.judge import judge_app

    card = JudgeCard.load(first_is_better)
    assert card is not None
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port, "request_timeout_s": 120})
        serve.run(judge_app(first_is_better, card, RolloutConfig(), ServeConfig(), "cpu"), name="judge")
        yield f"http://127.0.0.1:{port}"
    finally:
        serve.shutdown()


@pytest.fixture(scope="session")
def vllm_url(first_is_better: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real OpenAI-compatible server of `first_is_better`, which it calls "first", in a process group of its own."""
    import httpx

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    served = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--port", str(port)]
    served += ["--model", str(first_is_better), "--served-model-name", "first", "--max-model-len", "2048"]
    served += ["--enforce-eager", "--dtype", "float32"]
    env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
    with log.open("wb") as out:
        process = subprocess.Popen(served, stdout=out, stderr=out, env=env, start_new_session=True)
    try:
        ends = time.monotonic() + 180
        while True:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < ends, log.read_text()
            with suppress(httpx.HTTPError):
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).is_success:
                    break
            time.sleep(0.3)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
