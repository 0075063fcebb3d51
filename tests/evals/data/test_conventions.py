import pytest

from evals.data.conventions import pairs_of
from evals.data.recipe import Source
from evals.pairs import RowError
from evals.prompts import FORMATS

SOURCE = Source(name="s", path="s.jsonl")
HUMAN = "\n\nHuman: What is 2 + 2?"
USER = {"role": "user", "content": "What is 2 + 2?"}
MORE = [USER, {"role": "assistant", "content": "Why?"}, {"role": "user", "content": "Tell me."}]


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def only(row: dict, source: Source = SOURCE) -> tuple[list, str, str]:
    """Messages, better and worse response of the one pair of a row."""
    (pair,) = pairs_of(row, source, "1")
    better, worse = pair.response_a, pair.response_b
    return list(pair.messages), *((better, worse) if pair.gold == "a" else (worse, better))


def refused(row: dict, source: Source = SOURCE) -> str:
    with pytest.raises(RowError) as caught:
        pairs_of(row, source, "1")
    return str(caught.value)


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "What is 2 + 2?", "chosen": "4", "rejected": "5"},
        {"prompt": [USER], "chosen": [said("4")], "rejected": [said("5")]},
        {"chosen": [USER, said("4")], "rejected": [USER, said("5")]},
        {"prompt": "What is 2 + 2?", "chosen": [USER, said("4")], "rejected": [USER, said("5")]},
        {"chosen": f"{HUMAN}\n\nAssistant: 4", "rejected": f"{HUMAN}\n\nAssistant: 5"},
        {"chosen": "What is 2 + 2? 4", "rejected": "What is 2 + 2? 5"},
        {"question": "What is 2 + 2?", "response_A": "5", "response_B": "4", "label": "B"},
        {"input": "What is 2 + 2?", "output_1": "4", "output_2": "5", "label": 1},
        {"context_messages": [USER], "response_a": "4", "response_b": "5", "winner": "model_a"},
        {"prompt": "What is 2 + 2?", "responses": ["5", "4"], "scores": [0, 1.5]},
        {"task_id": "P/0", "instruction": "What is 2 + 2?", "declaration": "", "canonical_solution": "4",
         "buggy_solution": "5"},
    ],
)  # fmt: skip
def test_every_convention_becomes_the_same_pair(row: dict) -> None:
    assert only(row) == ([USER], "4", "5")


def test_sides_are_drawn_from_the_id_so_that_neither_is_always_gold() -> None:
    row = {"prompt": "q", "chosen": "x", "rejected": "y"}
    golds = [pairs_of(row | {"id": i}, SOURCE, "1")[0].gold for i in range(200)]
    assert 70 < golds.count("a") < 130


def test_pairs_bear_their_sources_name_and_the_rows_own_as_subset() -> None:
    row = {"id": 5, "prompt": "q", "chosen": "x", "rejected": "y", "source": "magpie"}
    (pair,) = pairs_of(row, SOURCE, "1")
    assert (pair.id, pair.source, pair.subset) == ("s/5", "s", "magpie")
    assert pairs_of(row | {"subset": "hard"}, SOURCE, "1")[0].subset == "hard"
    with pytest.raises(RowError, match="field 'id' holds half a character"):
        pairs_of(row | {"id": "\ud83d"}, SOURCE, "1")


def test_implicit_prompts_of_several_turns_keep_them_all() -> None:
    row = {"chosen": [*MORE, said("4")], "rejected": [*MORE, said("5")]}
    assert only(row) == (MORE, "4", "5")


def test_an_implicit_text_prompt_does_not_end_within_a_word() -> None:
    messages, better, worse = only({"chosen": "The sky is blue.", "rejected": "The sky is black."})
    assert (messages[0]["content"], better, worse) == ("The sky is", "blue.", "black.")


@pytest.mark.parametrize("spelling", ["Chatbot B", "Chabot B"])
@pytest.mark.parametrize("messages", [[USER], MORE])
@pytest.mark.parametrize("name", ["rm_r1", "rm_r1_reasoning"])
def test_rm_r1s_judge_prompts_are_read_back(name: str, messages: list, spelling: str) -> None:
    from evals.pairs import Pair

    pair = Pair("x", tuple(messages), "It is\n\n4.", "It is\n5.", "b")
    prompt = [{**m, "content": m["content"].replace("Chatbot B", spelling)} for m in FORMATS[name].render(pair, "ab")]
    for row in (
        {"context_messages": prompt, "winner": "model_b"},
        {"data_source": "d", "prompt": prompt, "reward_model": {"ground_truth": "model_b"}, "extra_info": {}},
    ):
        assert only(row) == (messages, "It is\n5.", "It is\n\n4.")


def test_a_prompt_with_its_markers_quoted_twice_is_no_pair() -> None:
    from evals.pairs import Pair

    rendered = FORMATS["rm_r1"].render(Pair("x", (USER,), "MARK", "5", "b"), "ab")  # ours would quote the marker
    marked = [{**m, "content": m["content"].replace("MARK", "[The Start of Chatbot B's Response]")} for m in rendered]
    message = refused({"context_messages": marked, "winner": "model_b"})
    assert "'context_messages' does not hold one block of RM-R1's markers" in message


def test_lists_make_pairs_as_they_are_asked_to() -> None:
    row = {"id": "q", "prompt": "q", "responses": ["best", "same", "as good", "bad"], "scores": [9, 5, 5, 1]}

    def ids(**options: object) -> list[str]:
        source = Source.model_validate({"name": "s", "path": "s.jsonl", **options})
        return [pair.id for pair in pairs_of(row, source, "1")]

    assert ids() == ["s/q#0>1", "s/q#0>2", "s/q#0>3"]
    assert ids(margin=5) == ["s/q#0>3"]
    assert ids(pairing="adjacent") == ["s/q#0>1", "s/q#2>3"]
    assert ids(pairing="all") == ["s/q#0>1", "s/q#0>2", "s/q#0>3", "s/q#1>3", "s/q#2>3"]
    assert ids(format="ranked") == ["s/q#0>1", "s/q#1>2", "s/q#2>3"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "q", "chosen": "x"}, "field 'rejected' is missing"),
        ({"chosen": "x", "rejected": "y"}, "share no beginning"),
        ({"prompt": "q", "chosen": "x", "rejected": [said("y")]}, "both be text or both be messages"),
        ({"chosen": [USER], "rejected": [USER]}, "must end with a message of the assistant"),
        ({"chosen": [*MORE, said("x")], "rejected": [USER, said("y")]}, "part before their last message"),
        ({"prompt": "other", "chosen": [USER, said("x")], "rejected": [USER, said("y")]}, "are not the 'prompt'"),
        ({"prompt": "q", "responses": ["x", "y"]}, "set 'format: ranked' for this source"),
        ({"prompt": "q", "responses": ["x", "y"], "scores": [1]}, "a list of 2 numbers"),
        ({"prompt": "q", "responses": ["x", "y"], "scores": [1, float("nan")]}, "holds nan"),
        (
            {"data_source": "math", "prompt": [USER], "reward_model": {"ground_truth": "4"}},
            "must be model_a or model_b",
        ),
        ({"context_messages": [USER], "winner": "model_a"}, "does not hold one block of RM-R1's markers"),
        ({"prompt": "q", "response_a": "x", "response_b": " ", "label": "A"}, "empty response"),
        ({"prompt": "q", "completion": "x", "label": True}, "two responses are needed"),
    ],
)
def test_what_makes_no_pair_is_said_with_item_and_field(row: dict, message: str) -> None:
    said = refused(row | {"id": "item 7"})
    assert message in said
    assert "item 7" in said
