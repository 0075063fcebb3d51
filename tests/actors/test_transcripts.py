"""Text that trainers send, turned back into a conversation. ChatML's oracle is the embedded model's template."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from actors.serving.transcripts import answered, continuation, question, response
from actors.serving.wire import Turn
from actors.tokens import PromptEncoder

CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
LLAMA = (
    "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
DEEPSEEK = "<\uff5cbegin\u2581of\u2581sentence\uff5c><\uff5cUser\uff5c>{}<\uff5cAssistant\uff5c>"
ENDS = {CHATML: "<|im_end|>", LLAMA: "<|eot_id|>", DEEPSEEK: "<\uff5cend\u2581of\u2581sentence\uff5c>"}

HISTORY = [("system", "Be brief."), ("user", "Hello."), ("assistant", "Hi!\n\nAnd?"), ("user", "Compute 1+1.")]


def said(turns: list[Turn]) -> list[tuple[str, str]]:
    return [(turn.role, turn.content) for turn in turns]


def test_a_rendered_conversation_comes_back(make_model: Callable[..., Path]) -> None:
    tokenizer = PromptEncoder(make_model()).tokenizer
    messages = [{"role": role, "content": content} for role, content in HISTORY]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    found = question(rendered)
    assert (said(found.turns), found.begun) == (HISTORY, "")
    whole = tokenizer.apply_chat_template([*messages, {"role": "assistant", "content": "2"}], tokenize=False)
    cut = answered(whole)
    assert cut is not None
    assert (said(cut[0]), cut[1]) == (HISTORY, "2")
    assert answered(rendered) == (found.turns, "")


@pytest.mark.parametrize("template", [CHATML, LLAMA, DEEPSEEK])
def test_templates(template: str) -> None:
    prompt = template.format("Compute 1+1.")
    found = question(prompt)
    assert (said(found.turns), found.begun) == ([("user", "Compute 1+1.")], "")
    query = f"{prompt}It is 2.{ENDS[template]}"
    assert continuation(query, prompt) == (f"It is 2.{ENDS[template]}", "prompt")
    cut = answered(query)
    assert cut is not None
    assert (said(cut[0]), response(cut[1]).text) == ([("user", "Compute 1+1.")], "It is 2.")


def test_deepseek_puts_the_system_message_before_the_first_header() -> None:
    found = question(DEEPSEEK.replace("<\uff5cUser", "Be kind.<\uff5cUser", 1).format("Hi"))
    assert said(found.turns) == [("system", "Be kind."), ("user", "Hi")]


@pytest.mark.parametrize("text", ["Compute 1+1.", "<s>Compute 1+1.</s>", "Compute 1+1. \n"])
def test_other_text_is_one_user_message(text: str) -> None:
    assert question(text) == ([Turn(role="user", content="Compute 1+1.")], None)
    assert answered(text) is None


def test_roles_that_a_judge_does_not_know_are_the_users() -> None:
    found = question("<|im_start|>developer\nBe kind.<|im_end|>\n<|im_start|>tool\n42<|im_end|>\n")
    assert said(found.turns) == [("system", "Be kind."), ("user", "42")]


@pytest.mark.parametrize(
    ("written", "begun", "text", "thought"),
    [
        ("5", None, "5", False),
        ("5<|im_end|>\n<|endoftext|>", None, "5", False),
        ("<think>3 + 2</think>\n\n5</s>", None, "5", True),
        ("3 + 2\n</think>\n5", "<think>\n", "5", True),
        ("3 + 2</think>5", None, "5", True),
        ("<think>3 + 2 and then", None, "", True),
        ("and then", "<think>\n", "", True),
        ("5", "<think>\n\n</think>\n\n", "5", True),
        ("it is 5", "I think ", "I think it is 5", False),
        ("Write <think>x</think> there", None, "Write <think>x</think> there", False),
        ("<|im_end|> stays <|im_end|> inside", None, "stays <|im_end|> inside", False),
        ("  indented\ncode\n", None, "  indented\ncode", False),
        ("", None, "", False),
        (" \n", None, "", False),
    ],
)
def test_what_a_policy_answered(written: str, begun: str | None, text: str, thought: bool) -> None:
    found = response(written, begun)
    assert (found.text.strip(" ") if "stays" in text else found.text, found.thought) == (text, thought)


PROMPT = CHATML.format("a long question, of which the beginning may be cut off")


@pytest.mark.parametrize(
    ("query", "prompt", "written", "cut"),
    [
        ("Compute 1+1. 2", "Compute 1+1.", " 2", "prompt"),
        ("<s>Compute 1+1. 2", "Compute 1+1.", " 2", "prompt"),
        (f"{PROMPT}2", PROMPT, "2", "prompt"),
        (f"{PROMPT[40:]}2", PROMPT, "2", "marker"),
        (f"{PROMPT}junk<|im_start|>assistant\n2", PROMPT, "junk<|im_start|>assistant\n2", "prompt"),
        (f"<s> {PROMPT}junk<|im_start|>assistant\n2", PROMPT, "junk<|im_start|>assistant\n2", "marker"),
        (f"{PROMPT}2", None, "2", "marker"),
        ("compute 1+1.<|im_start|>assistant\n2", "Compute 1+1.", "compute 1+1.<|im_start|>assistant\n2", "whole"),
        ("2", "Compute 1+1.", "2", "whole"),
        ("2", "", "2", "whole"),
    ],
)
def test_where_the_prompt_ends(query: str, prompt: str | None, written: str, cut: str) -> None:
    assert continuation(query, prompt) == (written, cut)


@pytest.mark.parametrize(
    "text",
    ["a" + " " * 10**6 + "b", "a" + "</s> " * 300_000, "<think>" * 200_000, "<|im_start|>" * 150_000, "<s>" * 500_000],
)
def test_hostile_text_takes_no_longer_than_its_length(text: str) -> None:
    begin = time.process_time()
    question(text), response(text), continuation(text, "prompt"), answered(text)
    assert time.process_time() - begin < 20  # a second or less; where it grows with the square, minutes
