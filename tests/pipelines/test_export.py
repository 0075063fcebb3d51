"""What stands in a judge's folder after its card was written works without Gavel, as the card says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GenerationConfig

from actors.card import JudgeCard
from actors.tokens import PromptEncoder
from evals.pairs import Message, Pair
from evals.prompts import COMPACT, prompt_format
from evals.reports.card import write_card

AS_PRINTED = """
import functools, json, re, sys
import vllm

vllm.LLM = functools.partial(vllm.LLM, kv_cache_memory_bytes=2**28, enforce_eager=True)
card = {"JUDGE": sys.argv[1]}
answers = []
for block in re.findall(r"^```python\\n(.*?)^```$", open(sys.argv[1] + "/README.md").read(), re.DOTALL | re.MULTILINE):
    exec(block, card)
    if "text" in card:
        answers.append([text := card.pop("text"), card["verdict"](text)])
chat = card["llm"].chat(card["messages"]("What?", "one", "two"), card["sampling"])
default = card["llm"].get_default_sampling_params()
print(json.dumps({"answers": answers, "ids": chat[0].prompt_token_ids, "longest": default.max_tokens}))
"""
"""Runs the blocks of the card as they stand, with little memory."""


@pytest.fixture
def judge(first_is_better: Path, tmp_path: Path) -> Path:
    """A judge's folder in a run of which nothing else is left, with its card."""
    folder = tmp_path / "run" / "judge"
    shutil.copytree(first_is_better, folder)
    write_card(folder, tmp_path / "run")
    return folder


@pytest.mark.thorough
def test_the_card_works_as_printed_in_transformers_and_in_vllm(judge: Path, says: str, tmp_path: Path) -> None:
    env = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "OMP_NUM_THREADS": "1", "VLLM_LOGGING_LEVEL": "ERROR"}
    env |= {"VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    command = [sys.executable, "-c", AS_PRINTED, judge]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["answers"] == [[says, "first"]] * 2
    pair = Pair("", (Message(role="user", content="What?"),), "one", "two", None)
    ids = PromptEncoder(judge).encode_prompt(COMPACT.render(pair, "ab")).tolist()
    assert found["ids"] == ids, "vLLM reads the prompt as Gavel does"
    assert found["longest"] == 1900, "vLLM's default is the folder's"
    plain = AutoTokenizer.from_pretrained(judge).apply_chat_template(
        COMPACT.render(pair, "ab"), add_generation_prompt=True, return_dict=False
    )
    assert plain == ids, "and so does transformers"


def test_the_defaults_of_generation_can_be_saved_again(judge: Path, tmp_path: Path) -> None:
    config = GenerationConfig.from_pretrained(judge)
    config.save_pretrained(tmp_path / "again")  # refuses what contradicts itself
    assert (config.do_sample, config.max_new_tokens, config.eos_token_id) == (False, 1900, PromptEncoder(judge).eos)


def test_a_template_file_moves_with_the_judge(judge: Path, tmp_path: Path) -> None:
    template = {"name": "mine", "user": "{question} {response_a} {response_b}", "verdict": "rm_r1"}
    (tmp_path / "mine.json").write_text(json.dumps(template))
    JudgeCard(format=str(tmp_path / "mine.json"), version=2).write(judge)
    write_card(judge, judge.parent)
    (tmp_path / "mine.json").unlink()
    moved = judge.rename(tmp_path / "elsewhere")
    card = JudgeCard.load(moved)
    assert card is not None
    assert card.version == 2
    assert prompt_format(card.format).name == "mine"
    assert str(tmp_path) not in (moved / "gavel.json").read_text()
    assert str(tmp_path) not in (moved / "README.md").read_text()
