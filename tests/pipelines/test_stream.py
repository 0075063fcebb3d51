"""Which pairs a run trains on and in which order, over pair files written here."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from actors.rollout import Task
from evals.errors import ReadableError
from evals.pairs import Message, Pair, load_pairs, save_pairs
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


@pytest.fixture
def recipe(tmp_path: Path, train: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"sources: [{{path: {train}}}]\nduplicates: {{near: null}}\nheldout: {{share: 0.1}}\n")
    return path


def by_recipe(recipe: Path, run: Path, **config: object) -> Data:
    return Data.load(DataConfig.model_validate({"train": recipe, **config}), seed=0, heldout=10_000, run=run)


def built(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Every file that stands there: which one it is, and what it holds."""
    return {path.name: (path.stat().st_ino, path.read_bytes()) for path in folder.iterdir()}


def test_a_recipe_is_built_once_into_the_runs_folder(tmp_path: Path, recipe: Path) -> None:
    run = tmp_path / "run"
    data = by_recipe(recipe, run)

    assert data.source == "recipe.yaml"
    assert sorted(built(run / "data")) == ["dropped.jsonl", "heldout.jsonl", "manifest.json", "train.jsonl"]
    assert data.train == load_pairs(run / "data" / "train.jsonl")
    assert sorted(pair.id for pair in data.heldout) == sorted(p.id for p in load_pairs(run / "data" / "heldout.jsonl"))
    assert not asked(data.train) & asked(data.heldout)
    assert {p.id for p in [*data.train, *data.heldout]} == {f"train/{p.id}" for p in pairs(range(QUESTIONS))}
    before = built(run / "data")
    assert by_recipe(recipe, run) == data
    assert built(run / "data") == before


@pytest.mark.parametrize("what", ["recipe", "source", "damage", "filter", "benchmark"])
def test_a_recipe_is_built_anew_where_anything_changed(tmp_path: Path, train: Path, recipe: Path, what: str) -> None:
    run, code, benchmark = tmp_path / "run", tmp_path / "filters.py", tmp_path / "benchmark.jsonl"
    code.write_text("def keep(pair): return True\n")
    save_pairs(benchmark, pairs(range(1000, 1001)))
    with recipe.open("a") as file:
        file.write(f"filters: [{{kind: python, path: {code}}}]\n")
        file.write(f"contamination: {{benchmarks: [{{benchmark: pairs, data: {benchmark}}}]}}\n")
    by_recipe(recipe, run)
    before = built(run / "data")
    if what == "recipe":
        recipe.write_text(recipe.read_text().replace("share: 0.1", "share: 0.3"))
    elif what == "source":
        save_pairs(train, pairs(range(QUESTIONS - 1)))
    elif what == "damage":
        (run / "data" / "train.jsonl").write_text("{}\n")
    elif what == "filter":
        code.write_text("def keep(pair): return not pair.id.endswith('q7-0')\n")
    else:
        save_pairs(benchmark, pairs(range(1)))
    by_recipe(recipe, run)
    after = built(run / "data")

    assert after["train.jsonl"][0] != before["train.jsonl"][0]
    same = {name: held[1] for name, held in after.items()} == {name: held[1] for name, held in before.items()}
    assert same == (what == "damage")


def test_heldout_pairs_of_ones_own_stand_in_for_the_recipes(tmp_path: Path, recipe: Path) -> None:
    heldout = tmp_path / "heldout.jsonl"
    save_pairs(heldout, pairs(range(QUESTIONS, QUESTIONS + 5)))
    data = by_recipe(recipe, tmp_path / "run", heldout=heldout)

    assert asked(data.heldout) == {f"What is {question}?" for question in range(QUESTIONS, QUESTIONS + 5)}
    assert data.train == load_pairs(tmp_path / "run" / "data" / "train.jsonl")


def test_a_recipe_that_holds_none_out_leaves_the_split_to_the_configuration(tmp_path: Path, recipe: Path) -> None:
    recipe.write_text(recipe.read_text().replace("share: 0.1", "share: 0"))
    data = by_recipe(recipe, tmp_path / "run", heldout_share=0.4)

    assert data.train is not None
    assert abs(len(asked(data.heldout)) / QUESTIONS - 0.4) < 4.5 * (0.4 * 0.6 / QUESTIONS) ** 0.5
    assert not asked(data.train) & asked(data.heldout)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sources: [{path: nowhere.jsonl}]", "source 'nowhere', key 'path': there is no file or folder nowhere.jsonl"),
        ("sources: []", "sources: List should have at least 1 item"),
        ("sources: [{path: TRAIN}]\nfilters: [{kind: length, min: 999}]", "nothing is left to train on"),
    ],
)
def test_a_recipe_that_cannot_be_carried_out_says_why(tmp_path: Path, train: Path, text: str, said: str) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text.replace("TRAIN", str(train)))

    with pytest.raises(ReadableError, match=re.escape(said)):
        by_recipe(recipe, tmp_path / "run")
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    with pytest.raises(ReadableError, match="there is no run folder"):
        Data.load(DataConfig(train=recipe), seed=0, heldout=10)


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
