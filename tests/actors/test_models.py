"""What may be named as a model: folders, and names on the hub by way of its own local cache."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from actors.models import ModelError, model_folder, tensor_files

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ASK = """
import sys
from actors.models import ModelError, model_folder
from actors.tokens import PromptEncoder
for model in sys.argv[1:]:
    try:
        print(model_folder(model), PromptEncoder(model).eos)
    except ModelError as error:
        print("ModelError", error)
"""


def cached(home: Path, name: str, model: Path) -> Path:
    """Puts a model into an empty cache as the hub's client lays it out, as the branch "main"."""
    storage = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = storage / "snapshots" / COMMIT
    shutil.copytree(model, snapshot)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    return snapshot


def offline(home: Path, *models: str) -> list[str]:
    """What a process without network says of these models; its settings are read when the client is imported."""
    environment = os.environ | {"HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    environment.pop("HF_HUB_CACHE", None)
    asked = subprocess.run(
        [sys.executable, "-c", ASK, *models], env=environment, capture_output=True, text=True, check=True, timeout=300
    )
    return asked.stdout.splitlines()


def test_hub_names_are_found_in_the_cache_and_refused_clearly_outside_it(
    make_model: Callable[..., Path], tmp_path: Path
) -> None:
    snapshot = cached(tmp_path, "someone/judge-0.5b", make_model())
    by_branch, by_commit, other_branch, elsewhere = offline(
        tmp_path, "someone/judge-0.5b", f"someone/judge-0.5b@{COMMIT}", "someone/judge-0.5b@v2", "someone/other"
    )
    assert by_branch == by_commit
    assert by_branch.startswith(f"{snapshot} ")
    assert "hf download someone/judge-0.5b --revision v2" in other_branch
    assert elsewhere.startswith("ModelError someone/other is no folder")
    assert "hf download someone/other`" in elsewhere
    assert "cannot be reached" in elsewhere


def test_a_folder_goes_before_a_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "someone" / "judge").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert model_folder("someone/judge") == Path("someone/judge")


@pytest.mark.parametrize("model", ["judge", "/no/such/folder", "a/b/c", "runs/my judge", "owner/name@"])
def test_what_is_neither_says_so(model: str) -> None:
    with pytest.raises(ModelError, match=r"neither a folder nor a name on the Hugging Face hub"):
        model_folder(model)


def test_tensors_of_several_shards(make_model: Callable[..., Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(make_model(tied=False), dtype=torch.float32)
    model.save_pretrained(tmp_path, max_shard_size="300KB")
    where = tensor_files(tmp_path)
    whole = load_file(make_model(tied=False) / "model.safetensors")
    assert len(set(where.values())) > 1
    assert where.keys() == whole.keys()
    for name, file in where.items():
        assert torch.equal(load_file(file)[name], whole[name])
    lost = where["lm_head.weight"]
    lost.unlink()
    with pytest.raises(ModelError, match=lost.name):
        tensor_files(tmp_path)


def test_a_folder_without_safetensors(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(ModelError, match=r"no weights as safetensors"):
        tensor_files(tmp_path)
