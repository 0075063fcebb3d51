"""What trainers are answered, by hand-derived rewards: the application as it is served, over an engine with an opinion.

The engine stands in for vLLM so that verdicts mean something: of two numbers in its prompt, `v3` and `v2`, it prefers
the higher, in whatever order it is shown them, and finds nothing where they are equal. All else is real.
"""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from actors.card import JudgeCard
from actors.config import LimitsConfig
from actors.serving.app import build
from actors.serving.engine import Completion
from actors.serving.groups import Gathering, GroupsConfig
from actors.serving.judging import Judging
from actors.serving.metrics import Metrics
from actors.serving.protection import ApiKeys
from actors.serving.service import Groups, Service, serve_here
from actors.tokens import PromptEncoder

CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n{}"
QUESTION = "Say a number."


class HigherIsBetter:
    """An engine without a model."""

    refused = None
    stopped = False
    running = 0
    wait_s = 0.0
    version = 7

    def __init__(self, encoder: PromptEncoder):
        self.card = JudgeCard(format="compact", version=7, max_model_len=2048, max_new_tokens=64)
        self.encoder = encoder
        self.read: list[str] = []

    async def encode(self, messages: Any) -> Any:
        return self.encoder.encode_prompt(messages)

    async def complete(self, ids: Any, decoding: Any, on_text: Any = None) -> Completion:
        prompt = self.encoder.tokenizer.decode(ids.tolist())
        self.read.append(prompt)
        a, b = map(int, re.findall(r"v(\d+)", prompt)[-2:])
        answer = "" if a == b else f"<answer>[[{'A' if a > b else 'B'}]]</answer>"
        return Completion(f"<type>Chat</type><rubric>x</rubric><eval>y</eval>{answer}", len(ids), 5, False, 7)


def sent(body: Any) -> dict[str, Any]:
    """How httpx sends a body: bytes as they are, anything else as JSON."""
    return (
        {"content": body, "headers": {"content-type": "application/json"}}
        if isinstance(body, bytes)
        else {"json": body}
    )


class Endpoint:
    """The application in an event loop. Requests given together are in progress together."""

    def __init__(self, encoder: PromptEncoder):
        self._encoder = encoder
        self.read: list[str] = []

    def __call__(self, *posts: tuple[str, Any]) -> list[httpx.Response]:
        """POST each (path, body) at the same time."""

        async def post() -> list[httpx.Response]:
            engine: Any = HigherIsBetter(self._encoder)
            metrics, limits = Metrics(), LimitsConfig()
            judging = Judging(engine, "higher", limits, metrics)
            config, nowhere = GroupsConfig(window_s=0.05), cast(Groups, None)
            alone = Service("higher", engine, judging, nowhere, config.most_pairs, limits, ApiKeys(), metrics)
            serve_here(replace(alone, groups=Gathering(config, alone)))
            transport = httpx.ASGITransport(build())
            async with httpx.AsyncClient(transport=transport, base_url="http://gavel") as client:
                answers = await asyncio.gather(*(client.post(path, **sent(body)) for path, body in posts))
            self.read = engine.read
            return answers

        return asyncio.run(post())

    def one(self, path: str, body: Any) -> Any:
        """The JSON that one request is answered."""
        (answer,) = self((path, body))
        assert answer.status_code == 200, answer.text
        return answer.json()


@pytest.fixture(scope="module")
def encoder(make_model: Callable[..., Path]) -> PromptEncoder:
    return PromptEncoder(make_model())


@pytest.fixture
def ask(encoder: PromptEncoder) -> Endpoint:
    return Endpoint(encoder)


def get_reward(responses: list[str], **more: Any) -> dict[str, Any]:
    return {"query": [QUESTION + one for one in responses], "prompts": [QUESTION] * len(responses)} | more


def test_openrlhf_samples_of_one_request_are_compared(ask: Endpoint) -> None:
    """v3 beats both others and the empty one, v1 only the empty one, the two v2 tie: 1, (1 + 1/2 + 1 + 0)/4, ..."""
    answer = ask.one("/get_reward?range=-1,1", get_reward(["v3", "v2<|im_end|>", "v2", "<think>v9</think>v1", ""]))
    assert answer["scores"] == [1, 0.625, 0.625, 0.25, 0]
    assert answer["rewards"] == [1, 0.25, 0.25, -0.5, -1]
    logs = answer["extra_logs"]
    assert all(isinstance(value, float) for value in logs.values())
    assert (logs["members"], logs["thought"], logs["neutral"], logs["model_version"]) == (5, 0.2, 0, 7)


def test_openrlhf_no_samples_no_rewards(ask: Endpoint) -> None:
    empty = {"query": [], "prompts": [], "labels": []}
    assert ask.one("/get_reward", empty) == {"rewards": [], "scores": [], "extra_logs": {}}


def test_openrlhf_single_samples_meet(ask: Endpoint) -> None:
    path = "/get_reward?group_size=3&window_s=60"
    answers = [one.json() for one in ask(*[(path, get_reward([one])) for one in ("v1", "v3", "v2")])]
    assert [answer["rewards"] for answer in answers] == [[0], [1], [0.5]]
    (lone,) = ask(("/get_reward", get_reward(["v1"])))
    assert lone.json()["rewards"] == [0.5]
    assert (lone.json()["extra_logs"]["neutral"], lone.json()["extra_logs"]["alone"]) == (1, 1)
    assert lone.json()["extra_logs"].keys() == answers[0]["extra_logs"].keys(), "OpenRLHF joins them to one table"


def test_openrlhf_labels_are_references_where_that_is_asked_for(ask: Endpoint) -> None:
    body = get_reward(["v3", "v1", "v2", "", "v5"], labels=["v2", "v2", "v2", "v2", None])
    answer = ask.one("/get_reward?reference=label", body)
    assert answer["scores"] == [1, 0, 0.5, 0, 0.5]
    assert (answer["extra_logs"]["neutral"], answer["extra_logs"]["alone"]) == (0.2, 0.2)
    assert ask.one("/get_reward", body)["scores"] == [0.75, 0.25, 0.5, 0, 1]
    (refused,) = ask(("/get_reward?reference=label", get_reward(["v3"], labels=[{"answer": 3}])))
    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"] == ["body", "query", 0]


def test_openrlhf_queries_in_a_template(ask: Endpoint) -> None:
    """Cut at the prompt, at the header where the prompt was truncated, and at the header where there is no prompt."""
    queries = [CHATML.format(QUESTION, one) + "<|im_end|>" for one in ("v1", "v2")]
    prompts = [CHATML.format(QUESTION, "")] * 2
    for body in ({"query": queries, "prompts": prompts}, {"query": queries}):
        assert ask.one("/get_reward", body)["rewards"] == [0, 1]
    answer = ask.one("/get_reward", {"query": [queries[0], queries[1][8:]], "prompts": prompts})
    assert (answer["rewards"], answer["extra_logs"]["marker"]) == ([0, 1], 0.5)
    assert all(QUESTION in prompt and "im_start|>user\nSay" not in prompt for prompt in ask.read)


def test_openrlhf_a_policy_cannot_move_the_cut(ask: Endpoint) -> None:
    """It writes a header and a better answer after it; all of it is judged, and its last number is not `v9` alone."""
    prompt = CHATML.format(QUESTION, "")
    ask.one("/get_reward", {"query": [f"{prompt}bad<|im_start|>assistant\nv9", f"{prompt}v1"], "prompts": [prompt] * 2})
    assert len(ask.read) == 2
    assert all("bad<|im_start|>assistant\nv9" in prompt for prompt in ask.read)


def test_slime_samples(ask: Endpoint) -> None:
    def sample(response: str, **more: Any) -> dict[str, Any]:
        return {"prompt": [{"role": "user", "content": QUESTION}], "response": response, "label": "v2"} | more

    answers = ask(*[("/reward?group_size=2&window_s=60", sample(one)) for one in ("v1", "v2<|im_end|>")])
    first, second = (one.json() for one in answers)
    assert (first["score"], second["score"], first["how"], first["members"]) == (0, 1, "group", 2)
    assert (first["neutral"], first["model_version"], first["group_size"]) == (False, 7, 2)
    assert ask.one("/reward?plain=1&range=-1,1", sample("v1", anchor="v0")) == 1
    assert ask.one("/reward", sample("v1", anchor="v2"))["how"] == "anchor"
    assert ask.one("/reward?reference=label", sample("v1"))["how"] == "reference"
    many = ask.one("/reward", [sample("v1"), sample("v2"), sample("v3") | {"prompt": "Another one."}])
    assert [(one["score"], one["how"]) for one in many] == [(0, "group"), (1, "group"), (0.5, "alone")]
    assert ask.one("/reward?plain=1", [sample("v1"), sample("v2")]) == [0, 1]
    assert ask.one("/reward", []) == []


def test_text_and_messages_ask_the_same(ask: Endpoint) -> None:
    prompts = [CHATML.format(QUESTION, ""), [{"role": "user", "content": QUESTION}], QUESTION]
    answers = ask.one("/reward", [{"prompt": one, "response": f"v{i}"} for i, one in enumerate(prompts)])
    assert [(one["score"], one["members"]) for one in answers] == [(0, 3), (0.5, 3), (1, 3)]


def test_a_judge_without_an_opinion_is_neutral_and_says_so(ask: Endpoint) -> None:
    answers = ask.one("/reward", [{"prompt": QUESTION, "response": one} for one in ("v1.", "v1!")])
    assert [(one["score"], one["neutral"], one["no_verdict"]) for one in answers] == [(0.5, True, 1)] * 2


def test_verl_reads_the_last_number(ask: Endpoint) -> None:
    texts = [CHATML.format(QUESTION, one) + "<|im_end|>\n" for one in ("v1", "v2", "v3")]
    answer = ask.one("/classify", {"model": "theirs", "input": texts})
    assert [one["probs"][-1] for one in answer["data"]] == [0, 0.5, 1]
    assert [(one["num_classes"], one["index"]) for one in answer["data"]] == [(1, 0), (1, 1), (1, 2)]
    assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0
    logits = ask.one("/classify", {"input": texts, "use_activation": False})
    # Two comparisons each: none, one and both won, and half a win and half a loss more.
    assert [one["probs"][-1] for one in logits["data"]] == pytest.approx([math.log(1 / 5), 0, math.log(5)])
    lone = ask.one("/classify", {"input": texts[0], "use_activation": False})
    assert (lone["data"][0]["probs"], lone["data"][0]["neutral"], lone["data"][0]["how"]) == ([0], True, "alone")


def test_messages_to_classify_meet_as_well(ask: Endpoint) -> None:
    def messages(response: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": response}]}

    path = "/classify?group_size=2&window_s=60"
    answers = ask((path, messages("v5")), (path, messages("v4")))
    assert [one.json()["data"][0]["probs"] for one in answers] == [[1], [0]]


@pytest.mark.parametrize(
    "names", [("queries", "documents"), ("queries", "items"), ("text_1", "text_2"), ("data_1", "data_2")]
)
def test_scores_of_documents(ask: Endpoint, names: tuple[str, str]) -> None:
    query, document = names
    answer = ask.one("/v1/score", {query: QUESTION, document: ["v2", "v3", "v1"]})
    assert [(one["index"], one["object"], one["score"]) for one in answer["data"]] == [
        (0, "score", 0.5),
        (1, "score", 1),
        (2, "score", 0),
    ]
    pairs = {query: [QUESTION, "Another.", QUESTION], document: ["v2", "v3", "v1"]}
    assert [(one["score"], one["how"]) for one in ask.one("/v1/score", pairs)["data"]] == [
        (1, "group"),
        (0.5, "alone"),
        (0, "group"),
    ]


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
def test_reranked_documents(ask: Endpoint, path: str) -> None:
    body = {"query": QUESTION, "documents": ["v2", "v3", {"text": "v1"}, "v3"]}
    answer = ask.one(path, body)
    assert [(one["index"], one["document"]["text"]) for one in answer["results"]] == [
        (1, "v3"),
        (3, "v3"),
        (0, "v2"),
        (2, "v1"),
    ]
    assert [one["relevance_score"] for one in answer["results"]] == pytest.approx([2.5 / 3, 2.5 / 3, 1 / 3, 0])
    best = ask.one(path, body | {"top_n": 1, "return_documents": False})
    assert [(one["index"], "document" in one) for one in best["results"]] == [(1, False)]


def compared(*texts: str, **more: Any) -> dict[str, Any]:
    def output(text: str) -> list[dict[str, Any]]:
        reasoning = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "v9"}]}
        parts = [{"type": "output_text", "text": text, "annotations": []}, {"type": "refusal", "refusal": "v9"}]
        return [reasoning, {"type": "message", "role": "assistant", "content": parts}]

    history = [{"role": "user", "content": QUESTION}]
    return {"conversation_history": history, "response_objs": [{"output": output(text)} for text in texts]} | more


def test_nemo_gym_compares_in_a_circle(ask: Endpoint) -> None:
    """v2 loses to v3 and beats v1; v3 beats v2 and v1. Each is in two comparisons, worth 5 or 1."""
    answer = ask.one("/compare", compared("v2", "v3", "v1"))
    assert answer["rewards"] == [3, 5, 1]
    assert answer["comparison_results"] == [
        {"response_i": 0, "response_j": 1, "judge_idx": 0, "score_1": 1, "score_2": 5, "ranking": 6, "verdict": "b"},
        {"response_i": 1, "response_j": 2, "judge_idx": 0, "score_1": 5, "score_2": 1, "ranking": 1, "verdict": "a"},
        {"response_i": 2, "response_j": 0, "judge_idx": 0, "score_1": 1, "score_2": 5, "ranking": 6, "verdict": "b"},
    ]
    assert answer["metrics"] == {
        "mean_individual_score": 3,
        "std_individual_score": 2,
        "tiebreak_usage_rate": 0,
        "no_verdict_rate": 0,
    }
    assert len(ask.read) == 6, "each pair in both orders"


def test_nemo_gym_compares_all_pairs(ask: Endpoint) -> None:
    """v2 and v2! are equal to the judge (no verdict: 3 and 3), identical ones tie, the empty one loses to all."""
    answer = ask.one("/compare?comparison=all_pairs", compared("v2", "v2!", "v2", ""))
    assert [(one["response_i"], one["response_j"]) for one in answer["comparison_results"]] == [
        *((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))
    ]
    assert [one["verdict"] for one in answer["comparison_results"]] == [None, "tie", "a", None, "a", "a"]
    assert [one["ranking"] for one in answer["comparison_results"]] == [3.5, 3.5, 1, 3.5, 1, 1]
    assert answer["rewards"] == pytest.approx([11 / 3, 11 / 3, 11 / 3, 1])
    assert answer["metrics"]["tiebreak_usage_rate"] == 0.5
    assert answer["metrics"]["no_verdict_rate"] == pytest.approx(1 / 3)
    assert len(ask.read) == 2, "the same two texts are judged once, in both orders"


def test_nemo_gym_two_in_a_circle_are_a_pair_each_way(ask: Endpoint) -> None:
    answer = ask.one("/compare", compared("v1", "v2"))
    assert [(one["response_i"], one["verdict"]) for one in answer["comparison_results"]] == [(0, "b"), (1, "a")]
    assert answer["rewards"] == [1, 5]


@pytest.mark.parametrize("texts", [(), ("v1",)])
def test_nemo_gym_default(ask: Endpoint, texts: tuple[str, ...]) -> None:
    answer = ask.one("/compare", compared(*texts))
    assert (answer["rewards"], answer["comparison_results"], answer["metrics"]) == ([3], None, None)


def test_nemo_gym_principle_reaches_the_judge(ask: Endpoint) -> None:
    ask.one("/compare", compared("v1", "v2", principle="Mind the gap."))
    assert all("Mind the gap." in prompt for prompt in ask.read)


def rollout(text: str, **more: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": [{"type": "input_text", "text": QUESTION}]}, {"type": "reasoning", "id": "r"}]
    output = compared(text)["response_objs"][0] | {"id": "resp_1", "object": "response"}
    return {"responses_create_params": {"input": asked, "temperature": 1}, "response": output, "task": 3} | more


def test_nemo_gym_a_cohort_meets(ask: Endpoint) -> None:
    bodies = [rollout(one, num_rollouts_per_prompt=3) for one in ("v2", "v3", "")]
    answers = ask(*[("/verify?range=1,5&window_s=60", body) for body in bodies])
    assert [one.json()["reward"] for one in answers] == [3, 5, 1]
    for body, answer in zip(bodies, answers, strict=True):
        assert {name: answer.json()[name] for name in ("responses_create_params", "response")} == {
            name: body[name] for name in ("responses_create_params", "response")
        }


def test_nemo_gym_a_cohort_that_never_fills_is_judged_after_the_window(ask: Endpoint) -> None:
    bodies = [rollout(one, num_rollouts_per_prompt=16) for one in ("v2", "v3")]
    answers = [one.json() for one in ask(*[("/verify?window_s=0.2", body) for body in bodies])]
    assert [(one["reward"], one["members"], one["group_size"]) for one in answers] == [(0, 2, 16), (1, 2, 16)]


@pytest.mark.parametrize(
    ("path", "body", "where", "says"),
    [
        ("/get_reward", {"query": ["x"], "prompts": []}, ["body", "query", 0], "send prompts"),
        ("/get_reward", {"query": ["x"], "prompts": ["y", "z"]}, ["body"], "2 prompts for 1 queries"),
        ("/get_reward", {"query": ["x"], "prompts": [" "]}, ["body", "query", 0], "empty"),
        ("/get_reward?range=1,0", {"query": []}, ["query"], "less than the second"),
        ("/get_reward?range=nan,1", {"query": []}, ["query", "range"], "match pattern"),
        ("/get_reward?groupsize=8", {"query": []}, ["query", "groupsize"], "not permitted"),
        ("/reward", {"prompt": "x", "response": "y", "grp": "z"}, ["body", "sample", "grp"], "not permitted"),
        ("/reward", [{"prompt": "x"}], ["body", "samples", 0, "response"], "required"),
        (
            "/reward",
            {"prompt": "x", "response": "y", "group_size": 1},
            ["body", "sample", "group_size"],
            "or equal to 2",
        ),
        ("/reward", [{"prompt": QUESTION, "response": f"v{i}"} for i in range(65)], ["body", 64], "64 or fewer"),
        ("/reward", {"prompt": "x", "response": "7 " * 3000, "anchor": "v1"}, ["body"], "tokens; the limit is"),
        ("/reward", [{"prompt": QUESTION, "response": "v1 " * i} for i in (1, 2000)], ["body", 1], "tokens"),
        ("/compare", {"conversation_history": [], "response_objs": []}, ["body", "conversation_history"], "at least 1"),
        ("/compare?comparison=all_pairs", compared(*"abcdefghi"), ["body", "response_objs"], "comparison=circular"),
        ("/compare", compared("v1", "v2 " * 2000), ["body", "response_objs"], "tokens; the limit is"),
        ("/verify", rollout("v1", num_rollouts_per_prompt=65), ["body", "num_rollouts_per_prompt"], "equal to 64"),
        (
            "/verify",
            {"responses_create_params": {"input": [{"role": "user"}]}, "response": {"output": []}},
            ["body", "responses_create_params", "input", 0],
            "required",
        ),
    ],
)
def test_what_trainers_cannot_be_answered_is_refused(
    ask: Endpoint, path: str, body: Any, where: list[str | int], says: str
) -> None:
    (answer,) = ask((path, body))
    assert answer.status_code == 422, answer.text
    problem = answer.json()["detail"][0]
    assert problem["loc"] == where
    assert says in problem["msg"]


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/classify", {"input": "hello"}, "input.0: Is no conversation"),
        ("/classify", {}, "either input or messages"),
        ("/classify", {"messages": [{"role": "user", "content": "x"}]}, "must be the assistant's"),
        ("/v1/score", {"queries": "x", "text_2": "y"}, "queries and documents"),
        ("/v1/score", {"queries": ["x", "y"], "documents": ["z"]}, "2 queries and 1 documents"),
        ("/rerank", {"query": "x", "documents": []}, "documents: List should have at least 1"),
        ("/rerank", {"query": " ", "documents": ["x", "y"]}, "empty"),
        ("/v1/chat/completions", {"messages": []}, "messages: List should have at least 1"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "tools": [{}]}, "tools: Extra"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "stop": "."}, "stop: Extra"),
        ("/v1/chat/completions", {"messages": [{"role": "tool", "content": "x"}]}, "'user' or 'assistant'"),
        (
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "'text', 'input_text'",
        ),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 65}, "ask for 64"),
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "7 " * 2050}]}, "tokens; the limit is"),
    ],
)
def test_vllms_and_openais_routes_refuse_in_openais_shape(ask: Endpoint, path: str, body: Any, says: str) -> None:
    (answer,) = ask((path, body))
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert says in error["message"]
    assert error.keys() == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/verify", '{"responses_create_params": {"input": "x", "task": NaN}, "response": {"output": []}}', 422),
        ("/verify", '{"responses_create_params": {"input": "x"}, "response": {"output": [], "\\ud800": 1}}', 422),
        ("/compare", '{"conversation_history": [], "response_objs": [{"output": [{"content": "\\ud800"}]}]}', 422),
        ("/reward", '[{"prompt": "x", "response": "\\ud800"}, {"prompt": "x", "response": "v1"}]', 422),
        ("/get_reward?reference=label", '{"query": ["xv1"], "prompts": ["x"], "labels": ["\\ud800"]}', 422),
        ("/reward", "null", 422),
        ("/classify", '{"input": "\\ud800"}', 400),
        ("/v1/chat/completions", '{"messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        ("/v1/chat/completions", f'{{"seed": 1{"0" * 5000}}}', 400),
        ("/v1/chat/completions", "[" * 5000, 400),
        ("/v1/chat/completions", "{", 400),
    ],
)
def test_what_is_no_proper_json_is_refused(ask: Endpoint, path: str, body: str, status: int) -> None:
    (answer,) = ask((path, body.encode()))
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["message"] if status == 400 else answer.json()["detail"]
