"""Which pairs a run trains on and in which order, over pair files written here."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from actors.rollout import Task
from evals.pairs import Message, Pair, save_pairs
from pipelines.config import DataConfig
from pipelines.stream import Data

QUESTIONS, ANSWERS = 300, 2


def pairs(questions: range) -> list[Pair]:
    """Two pairs for every question."""
    return [
        Pair(f"q{question}-{i}", (Message(role="user", content=f"What is {question}?"),), f"right {i}", "wrong", "a")
        for question in questions
        for i in range(ANSWERS)
    ]


@pytest.fixture
def train(tmp_path: Path) -> Path:
    path = tmp_path / "train.jsonl"
    save_pairs(path, pairs(range(QUESTIONS)))
    return path


def asked(found: list[Pair]) -> set[str]:
    return {message["content"] for pair in found for message in pair.messages}


def shown(tasks: list[Task]) -> list[tuple[int, str, str]]:
    return [(task.index, task.pair.id, task.order) for task in tasks]


def first_tasks(data: Data, count: int, both_orders: bool) -> list[Task]:
    return list(itertools.islice(data.tasks(both_orders), count))


def test_no_question_stands_on_both_sides_and_no_pair_is_lost(train: Path) -> None:
    data = Data.load(DataConfig(train=train, heldout_share=0.3), seed=0, heldout=10_000)

    assert data.train is not None
    assert not asked(data.train) & asked(data.heldout)
    assert {pair.id for pair in [*data.train, *data.heldout]} == {pair.id for pair in pairs(range(QUESTIONS))}
    assert len(data.train) + len(data.heldout) == QUESTIONS * ANSWERS
    share = len(asked(data.heldout)) / QUESTIONS
    assert abs(share - 0.3) < 4.5 * (0.3 * 0.7 / QUESTIONS) ** 0.5


def test_a_question_that_differs_in_outer_space_alone_is_the_same(tmp_path: Path) -> None:
    spaced = [
        Pair(f"{pair.id}-spaced", (Message(role="user", content=f" {pair.messages[0]['content']}\n"),), "x", "y", "b")
        for pair in pairs(range(100))
    ]
    save_pairs(tmp_path / "train.jsonl", [*pairs(range(100)), *spaced])
    data = Data.load(DataConfig(train=tmp_path / "train.jsonl"), seed=0, heldout=10_000)

    assert data.train is not None
    assert not {text.strip() for text in asked(data.train)} & {text.strip() for text in asked(data.heldout)}


def test_the_split_is_the_same_for_every_seed_and_the_heldout_choice_is_not(train: Path) -> None:
    one, two = (Data.load(DataConfig(train=train), seed=seed, heldout=20) for seed in (0, 1))

    assert one.train == two.train
    assert len(one.heldout) == len(two.heldout) == 20
    assert one.heldout != two.heldout


def test_a_heldout_file_is_used_as_it_is(tmp_path: Path, train: Path) -> None:
    heldout = tmp_path / "heldout.jsonl"
    save_pairs(heldout, pairs(range(QUESTIONS, QUESTIONS + 50)))
    data = Data.load(DataConfig(train=train, heldout=heldout), seed=0, heldout=10_000)

    assert data.source == "train.jsonl"
    assert data.train == pairs(range(QUESTIONS))
    assert sorted(pair.id for pair in data.heldout) == sorted(p.id for p in pairs(range(QUESTIONS, QUESTIONS + 50)))


def test_a_heldout_file_that_asks_a_training_question_is_refused(tmp_path: Path, train: Path) -> None:
    heldout = tmp_path / "heldout.jsonl"
    save_pairs(heldout, pairs(range(QUESTIONS - 1, QUESTIONS + 3)))

    with pytest.raises(ValueError, match=r"2 pairs ask a question that data\.train asks too") as caught:
        Data.load(DataConfig(train=train, heldout=heldout), seed=0, heldout=10)
    assert str(heldout) in str(caught.value)
    assert f"'q{QUESTIONS - 1}-0'" in str(caught.value)


def test_a_side_without_pairs_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "one.jsonl"
    save_pairs(path, pairs(range(1)))

    with pytest.raises(ValueError, match="no pair is left"):
        Data.load(DataConfig(train=path, heldout_share=0.5), seed=0, heldout=10)


def test_both_orders_stand_one_behind_the_other(train: Path) -> None:
    tasks = first_tasks(Data.load(DataConfig(train=train), seed=0, heldout=10), 200, both_orders=True)

    assert [task.index for task in tasks] == list(range(200))
    for ab, ba in zip(tasks[::2], tasks[1::2], strict=True):
        assert ab.pair == ba.pair
        assert (ab.order, ba.order) == ("ab", "ba")
    assert len({task.pair.id for task in tasks}) == 100


def test_a_single_order_is_drawn_evenly(train: Path) -> None:
    data = Data.load(DataConfig(train=train), seed=0, heldout=10)
    assert data.train is not None
    count = len(data.train)
    orders = Counter(task.order for task in first_tasks(data, count, both_orders=False))

    assert set(orders) == {"ab", "ba"}
    assert abs(orders["ab"] - count / 2) < 4.5 * (count / 4) ** 0.5


@pytest.mark.parametrize("both_orders", [True, False])
def test_every_epoch_goes_through_all_pairs_in_a_new_order(train: Path, both_orders: bool) -> None:
    data = Data.load(DataConfig(train=train), seed=0, heldout=10)
    assert data.train is not None
    tasks = first_tasks(data, 3 * len(data.train) * (2 if both_orders else 1), both_orders)
    ids = [task.pair.id for task in tasks[:: 2 if both_orders else 1]]
    epochs = [ids[start : start + len(data.train)] for start in range(0, len(ids), len(data.train))]

    assert [task.index for task in tasks] == list(range(len(tasks)))
    assert [sorted(epoch) for epoch in epochs] == [sorted(pair.id for pair in data.train)] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_the_stream_is_the_same_in_every_process_and_follows_the_seed(train: Path) -> None:
    def stream(seed: int) -> list[tuple[int, str, str]]:
        return shown(first_tasks(Data.load(DataConfig(train=train), seed, heldout=10), 50, both_orders=False))

    source = (
        "import itertools, json; from pipelines.config import DataConfig; from pipelines.stream import Data; "
        f"data = Data.load(DataConfig(train={str(train)!r}), 3, heldout=10); print(json.dumps("
        "[[t.index, t.pair.id, t.order] for t in itertools.islice(data.tasks(both_orders=False), 50)]))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", source],
        env=os.environ | {"PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )

    assert stream(3) == [tuple(task) for task in json.loads(elsewhere.stdout.splitlines()[-1])]
    assert [task[1] for task in stream(3)] != [task[1] for task in stream(4)]


def test_the_synthetic_task_never_runs_out_and_holds_out_its_own_questions() -> None:
    data = Data.load(DataConfig(), seed=0, heldout=200)
    tasks = first_tasks(data, 2000, both_orders=True)

    assert (data.source, data.train, len(data.heldout)) == ("synthetic", None, 200)
    assert len({task.pair.id for task in tasks}) == 1000
    assert not asked([task.pair for task in tasks]) & asked(data.heldout)
    assert shown(tasks) == shown(first_tasks(data, 2000, both_orders=True))


def test_only_pairs_that_fit_are_kept(train: Path) -> None:
    data = Data.load(DataConfig(train=train), seed=0, heldout=20)
    assert data.train is not None
    fits = {data.train[0].id, data.train[5].id, data.heldout[3].id}
    kept = data.keep(fits)

    assert kept.train is not None
    assert {pair.id for pair in [*kept.train, *kept.heldout]} == fits
    assert {task.pair.id for task in first_tasks(kept, 8, both_orders=False)} == {pair.id for pair in kept.train}
    with pytest.raises(ValueError, match=r"rollout\.max_model_len"):
        data.keep({data.heldout[0].id})
