"""The verifier's own class, in this process, on groups whose tokens and rewards are written down by hand."""

from __future__ import annotations

import json
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from actors.config import VerifierConfig
from actors.records import Prompt, Rollout, RolloutGroup, zero_variance
from actors.tokens import PromptEncoder
from actors.verifier import _Verifier, load_rule
from evals.judgements import read_judgements
from evals.pairs import Message, Pair
from evals.prompts import COMPACT
from evals.verdicts import Gold, Judgement, Order

FIRST, SECOND = "<type>Chat</type><answer>[[A]]</answer>", "<answer>[[B]]</answer>"
NEITHER = "<answer>[[A]]</answer><answer>[[B]]</answer>"


@pytest.fixture(scope="module")
def folder(make_model: Callable[..., Path]) -> Path:
    return make_model()


@pytest.fixture(scope="module")
def encoder(folder: Path) -> PromptEncoder:
    return PromptEncoder(folder)


@pytest.fixture(scope="module")
def make_verifier(folder: Path) -> Callable[..., _Verifier]:
    def make(**config: object) -> _Verifier:
        return _Verifier(str(folder), "compact", "made", "judge", VerifierConfig(**config))

    return make


@pytest.fixture
def rules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of a module of reward functions, some of which do not come back."""
    name = "rules_of_the_verifier_test"
    (tmp_path / f"{name}.py").write_text(
        "def loops_on_b(verdict, gold):\n"
        "    while verdict == 'b':\n"
        "        pass\n"
        "    return {'a': 2.0, None: -3.0}[verdict]\n"
        "def loops(verdict, gold):\n"
        "    while True:\n"
        "        pass\n"
        "def breaks(verdict, gold):\n"
        "    raise ZeroDivisionError('a mistake in the rule')\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def group(encoder: PromptEncoder, order: Order, gold: Gold | None, *texts: str, version: int = 3) -> RolloutGroup:
    pair = Pair("p7", (Message(role="user", content="Sing"),), "la", "no", gold, "made", "chat")
    prompt = Prompt(pair, order, encoder.encode_prompt(COMPACT.render(pair, order)))
    rollouts = []
    for text in texts:
        ids = encoder.encode_completion(text)
        rollouts.append(Rollout(ids, np.zeros(len(ids), np.float32), False, np.full_like(ids, version)))
    return RolloutGroup(5, prompt, tuple(rollouts), version)


@pytest.mark.parametrize(
    ("order", "gold", "rewards", "first_shown"),
    [
        ("ab", "a", [1, -1, -1, 1], [True, False, False, True]),
        ("ab", "b", [-1, 1, -1, -1], [True, False, False, True]),
        ("ba", "a", [-1, 1, -1, -1], [True, False, False, True]),
        ("ba", "b", [1, -1, -1, 1], [True, False, False, True]),
    ],
)
def test_rewards_of_a_group_worked_out_by_hand(
    make_verifier: Callable[..., _Verifier],
    encoder: PromptEncoder,
    order: Order,
    gold: Gold,
    rewards: list[float],
    first_shown: list[bool],
) -> None:
    made = group(encoder, order, gold, FIRST, SECOND, NEITHER, FIRST)
    (score,), judged = make_verifier().score(made)

    assert score.index == 5
    assert score.rewards == rewards
    assert score.right == [reward == 1 for reward in rewards]
    assert score.none == [False, False, True, False]
    assert score.first == first_shown
    # <type> + Chat + </type> + <answer> + [[A]] + </answer> + end: Chat is as many tokens as it is
    chat = len(encoder.encode_completion("Chat")) - 1
    assert score.lengths == [6 + chat, 4, 7, 6 + chat]
    assert score.prompt_length == len(made.prompt.ids)
    assert not zero_variance([score])

    shown_first, shown_second = order
    assert [judgement.verdict for judgement, _ in judged] == [shown_first, shown_second, None, shown_first]
    assert [(reward.total, reward.parts) for _, reward in judged] == [(r, {"correctness": r}) for r in rewards]
    assert judged[1][0] == Judgement(
        benchmark="made",
        pair_id="p7",
        subset="chat",
        gold=gold,
        order=order,
        sample=1,
        format="compact",
        text=SECOND,
        verdict=shown_second,
        prompt_tokens=len(made.prompt.ids),
        completion_tokens=4,
        model="judge",
        version=3,
    )


def test_a_truncated_judgement_is_reported_as_such(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder
) -> None:
    made = group(encoder, "ab", "a", FIRST)
    whole = made.rollouts[0]
    cut = Rollout(whole.ids[:3], whole.log_probs[:3], truncated=True, versions=whole.versions[:3])
    (score,), judged = make_verifier().score(RolloutGroup(0, made.prompt, (*made.rollouts, cut), 0))

    assert score.truncated == [False, True]
    assert score.none == [False, True]
    assert score.rewards == [1.0, -1.0]
    assert judged[1][0].completion_tokens == score.lengths[1] == 3


def test_a_pair_without_gold_earns_nothing(make_verifier: Callable[..., _Verifier], encoder: PromptEncoder) -> None:
    (score,), judged = make_verifier().score(group(encoder, "ab", None, FIRST, NEITHER))

    assert score.rewards == [0.0, 0.0]
    assert score.right == [False, False]
    assert [judgement.verdict for judgement, _ in judged] == ["a", None]


def test_equal_rewards_have_no_variance(make_verifier: Callable[..., _Verifier], encoder: PromptEncoder) -> None:
    (score,), _ = make_verifier().score(group(encoder, "ab", "a", SECOND, NEITHER))

    assert zero_variance([score])


def test_a_rule_that_does_not_come_back_costs_its_item_alone(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder, rules: str
) -> None:
    verifier = make_verifier(reward=f"{rules}:loops_on_b", time_limit_s=0.2)
    start = time.perf_counter()
    (score,), judged = verifier.score(group(encoder, "ab", "a", FIRST, SECOND, FIRST, NEITHER))

    assert time.perf_counter() - start < 5
    assert score.rewards == [2.0, -3.0, 2.0, -3.0]  # what the rule gives for no verdict
    assert score.none == [False, True, False, True]
    assert [judgement.verdict for judgement, _ in judged] == ["a", None, "a", None]
    assert [judgement.text for judgement, _ in judged] == [FIRST, SECOND, FIRST, NEITHER]


def test_a_rule_that_never_comes_back_scores_minus_one(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder, rules: str
) -> None:
    verifier = make_verifier(reward=f"{rules}:loops", time_limit_s=0.1)
    (score,), _ = verifier.score(group(encoder, "ba", "b", FIRST, SECOND))

    assert score.rewards == [-1.0, -1.0]
    assert score.none == [True, True]


def test_the_time_limit_is_over_when_the_item_is(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder
) -> None:
    alarms: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda signum, _: alarms.append(signum))
    try:
        make_verifier(time_limit_s=0.1).score(group(encoder, "ab", "a", FIRST))
        time.sleep(0.3)
    finally:
        signal.signal(signal.SIGALRM, before)

    assert not alarms


def test_a_mistake_in_the_rule_is_not_swallowed(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder, rules: str
) -> None:
    with pytest.raises(ZeroDivisionError, match="a mistake in the rule"):
        make_verifier(reward=f"{rules}:breaks").score(group(encoder, "ab", "a", FIRST))


def test_both_orders_in_one_call_are_rewarded_for_agreeing(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder
) -> None:
    """Gold is a: right where a is shown first and [[A]] is said, or shown second and [[B]] is."""
    shown_first = group(encoder, "ab", "a", FIRST, FIRST, SECOND, NEITHER)  # half of them right
    shown_second = group(encoder, "ba", "a", SECOND, FIRST, FIRST, FIRST)  # a quarter right
    (ab, ba), judged = make_verifier(reward="consistent").score(shown_first, shown_second)

    assert ab.rewards == [1.25, 1.25, -1.0, -1.0]
    assert ba.rewards == [1.5, -1.0, -1.0, -1.0]
    assert ab.parts[0] == {"correctness": 1.0, "consistency": 0.25}
    assert [judgement.order for judgement, _ in judged] == ["ab"] * 4 + ["ba"] * 4
    assert [reward.total for _, reward in judged] == ab.rewards + ba.rewards

    (alone,), _ = make_verifier(reward="consistent").score(shown_first)
    assert alone.parts[0] == {"correctness": 1.0}


def test_parts_of_a_reward_are_configured_one_by_one(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder
) -> None:
    reward = {"consistency": {"weight": 0}, "evidence": {"weight": 0}, "length": {"weight": 0}, "format": {"weight": 1}}
    (score,), _ = make_verifier(reward=reward).score(group(encoder, "ab", "a", FIRST))

    assert score.parts == [{"correctness": 1.0, "format": -1.0}], "no rubric and no evaluation"
    assert score.rewards == [0.0]


def test_judgements_are_written_whole_with_reward_and_extra_fields(
    make_verifier: Callable[..., _Verifier], encoder: PromptEncoder, tmp_path: Path
) -> None:
    verifier = make_verifier()
    _, one = verifier.score(group(encoder, "ab", "a", FIRST, SECOND))
    _, two = verifier.score(group(encoder, "ba", "a", NEITHER))
    path = tmp_path / "judgements" / "step-1.jsonl"

    for _ in range(2):  # again, as after a restart
        assert verifier.write(path, {"step": 1, "split": "train"}, one, two) == 3

    written = [judgement for judgement, _ in [*one, *two]]
    assert read_judgements([path], "made", keep_text=True) == {"made": written}
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [row["reward"] for row in rows] == [1.0, -1.0, -1.0]
    assert [row["reward_parts"] for row in rows] == [{"correctness": row["reward"]} for row in rows]
    assert {(row["step"], row["split"]) for row in rows} == {(1, "train")}
    assert [file.name for file in path.parent.iterdir()] == ["step-1.jsonl"]


def test_a_reward_is_found_by_its_name() -> None:
    from evals.rewards import rm_r1

    assert load_rule("evals.rewards:rm_r1") is rm_r1


@pytest.mark.parametrize(
    "path", ["evals.rewards:nothing", "evals.nowhere:rm_r1", "evals.rewards", "evals.rewards:", ":rm_r1", ""]
)
def test_a_reward_that_cannot_be_found_is_named(path: str) -> None:
    with pytest.raises(ValueError, match=r"verifier\.reward") as caught:
        load_rule(path)
    assert repr(path) in str(caught.value)
