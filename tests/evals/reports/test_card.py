from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from evals.pairs import Message, Pair
from evals.prompts import FORMATS, load_template
from evals.reports.card import CardError, write_card
from evals.reports.card.facts import base_name, hub_name, manifest_of, without_places
from evals.reports.card.prompt import prompt_source, verdict_source
from evals.scores import score
from evals.verdicts import Judgement, Order, Verdict, swap

HOSTILE = "x`|</td><script>alert(1)</script>\n---\nlicense: mit\n[a](http://evil) *b* @c {{d}} $e$"
PAIRWISE = sorted({*FORMATS} - {"pointwise", "listwise"})
PNG = b"\x89PNG\r\n\x1a\n"


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def judged(path: Path, right: int, count: int = 40) -> dict[str, float]:
    """Judgements of a made-up judge that is right on the first pairs in order "ab", and on half of these in "ba"."""
    rows: list[Judgement] = []
    for number in range(count):
        for order in ("ab", "ba"):
            verdict: Verdict = "a" if number < (right if order == "ab" else right // 2) else "b"
            made: Order = order  # type: ignore[assignment]
            rows.append(Judgement("pairs", f"p{number}", "", "a", made, 0, "compact", "", verdict, 9, 5, "m", 1))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    scores = score(rows)
    return {"accuracy": scores.accuracy, "both": scores.both_orders or 0, "bias": scores.position_bias}


def make_run(run: Path, name: str = "pairs.jsonl", subset: str = "chat") -> Path:
    """A run's folder by hand, with a judge's; returns the judge's."""
    config = {
        "run_dir": str(run),
        "seed": 3,
        "steps": 30,
        "model": "",
        "base": "Qwen/Qwen2.5-0.5B-Instruct",
        "data": {"train": f"/home/jane/secret/{name}", "heldout": None, "format": "rm_r1", "both_orders": True},
        "distill": {"traces": "gaotang/RM-R1-Distill-SFT", "steps": 9, "batch": 4, "optimizer": {"lr": 5e-6}},
        "grpo": {"groups": 8, "loss": {"kl_coef": 0.001, "kl_estimator": "k3"}, "optimizer": {"lr": 1e-6}},
        "rollout": {"samples": 8, "temperature": 1.0},
        "verifier": {"reward": {"correctness": {"weight": 1.0}, "format": {"weight": 0.0}}},
        "policy": {"dtype": "bfloat16", "lora": {"rank": 16, "alpha": 32.0, "targets": "all-linear"}},
    }
    run.mkdir(parents=True, exist_ok=True)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    summary: dict[str, Any] = {"steps": 30, "seed": 3, "versions": {"torch": "2.13.0"}, "seconds": {"total": 5400.0}}
    for stage, right in (("distill", 24), ("grpo", 36)):
        greedy = judged(run / "eval" / f"{stage}-greedy.jsonl", right)
        summary[stage] = {
            "accuracy_greedy": greedy["accuracy"],
            "accuracy_both_orders": greedy["both"],
            "accuracy_sampled": greedy["accuracy"] - 1 / 16,  # of judgements that are not there
            "position_bias": greedy["bias"],
            "no_verdict": 0.0125,
            "pairs": 40,
            "by_subset": {subset: 0.5 + right / 100, "math": 0.25},
        }
    summary["data"] = {"source": name, "train_pairs": 160, "heldout_pairs": 40, "too_long": 2}
    (run / "summary.json").write_text(json.dumps(summary))
    steps = [{"step": step, "reward": step / 30 - 0.5, "accuracy": 0.5 + step / 60} for step in range(1, 31)]
    lines(run / "metrics.jsonl", steps)
    judge = run / "judge"
    judge.mkdir(exist_ok=True)
    gavel = {"format": "rm_r1", "version": 30, "dtype": "bfloat16", "max_model_len": 4096, "max_new_tokens": 1024}
    (judge / "gavel.json").write_text(json.dumps(gavel))
    (judge / "config.json").write_text('{"eos_token_id": 7}')
    return judge


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A judge's folder with its card, in the folder of its run."""
    run = tmp_path_factory.mktemp("runs") / "my-judge"
    judge = make_run(run)
    write_card(judge, run)
    return judge


def read(judge: Path) -> tuple[dict[str, Any], str]:
    """A card's metadata and its text."""
    text = (judge / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_the_metadata_is_the_hubs(written: Path) -> None:
    front, _ = read(written)
    assert front["base_model"] == "Qwen/Qwen2.5-0.5B-Instruct"
    assert front["datasets"] == ["gaotang/RM-R1-Distill-SFT"]
    assert (front["library_name"], front["pipeline_tag"]) == ("transformers", "text-generation")
    assert {"reward-model", "llm-as-a-judge", "generative-reward-model", "gavel"} <= set(front["tags"])
    assert "license" not in front, "nobody said which"
    summary = json.loads((written.parent / "summary.json").read_text())["grpo"]
    card = ModelCard.load(written / "README.md")
    found = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert found == {
        "accuracy, sampled": summary["accuracy_sampled"],
        "accuracy, greedy": summary["accuracy_greedy"],
        "right in both orders, greedy": summary["accuracy_both_orders"],
    }
    assert {result.dataset_type for result in card.data.eval_results} == {"pairs.jsonl"}


def test_the_results_are_the_summarys_with_intervals_where_the_judgements_are_there(written: Path) -> None:
    body = read(written)[1]
    rows = {cells[1].strip(): cells[2:4] for line in body.split("\n") if len(cells := line.split("|")) == 5}
    assert [float(cell) for cell in rows["accuracy, sampled"]] == pytest.approx([0.3875, 0.6125], abs=6e-4)
    greedy = [[float(number) for number in re.findall(r"[\d.]+", cell)] for cell in rows["accuracy, greedy"]]
    assert [value for value, _, _ in greedy] == pytest.approx([0.45, 0.675], abs=6e-4)
    assert all(low < value < high for value, low, high in greedy)
    both = [float(cell.split()[0]) for cell in rows["right in both orders, greedy"]]
    assert both == [12 / 40, 18 / 40]
    assert rows["accuracy on `chat`, sampled"] == [" 0.740 ", " 0.860 "]
    first = 36 + 40 - 18  # verdicts for the first shown: "a" in order ab, "b" in order ba
    assert f"got {100 * first / 80:.1f} % of the verdicts" in body


def test_the_pictures_are_drawn(written: Path) -> None:
    shown = re.findall(r"!\[[^]]*\]\((.*?)\)", read(written)[1])
    assert shown == ["plots/results.png", "plots/training.png"]
    for name in shown:
        raw = (written / name).read_bytes()
        assert raw.startswith(PNG)
        assert int.from_bytes(raw[16:20], "big") > 600


def test_no_place_of_the_machine_is_told(tmp_path: Path) -> None:
    judge = make_run(tmp_path)
    lines(
        tmp_path / "data" / "manifest.json",
        [
            {
                "recipe": {"sources": [{"path": "/home/jane/a b/raw.jsonl"}, {"hub": "org/set", "revision": "abc"}]},
                "outputs": {"train.jsonl": {"sha256": "f" * 64, "gold": {"a": 1}}},
                "filters": {"why": "see /home/jane/notes.txt"},
            }
        ],
    )
    adapter = {"base_model_name_or_path": "/home/jane/models/base", "r": 16, "target_modules": ["q_proj"]}
    lines(judge / "adapter" / "adapter_config.json", [adapter])
    write_card(judge, tmp_path)
    for path in judge.rglob("*"):
        if path.suffix in (".md", ".json", ".yaml", ".jsonl"):
            assert "jane" not in (text := path.read_text()), path
            assert str(tmp_path) not in text, path
    given = json.loads((judge / "adapter" / "adapter_config.json").read_text())
    assert given == adapter | {"base_model_name_or_path": "base"}
    front, body = read(judge)
    assert "LoRA adapter" in body
    assert "lora" in front["tags"]
    assert front["datasets"] == ["org/set", "gaotang/RM-R1-Distill-SFT"]
    for text in ("`raw.jsonl`", "`org/set at abc`", "f" * 64):
        assert text in body
    assert json.loads((judge / "training" / "manifest.json").read_text())["filters"] == {"why": "see notes.txt"}
    config = yaml.safe_load((judge / "training" / "config.yaml").read_text())
    assert config["data"]["train"] == "pairs.jsonl"
    assert config["grpo"]["groups"] == 8
    assert (judge / "training" / "metrics.jsonl").read_text() == (tmp_path / "metrics.jsonl").read_text()


def test_a_manifest_beside_the_file_counts_only_where_it_is_about_that_file(tmp_path: Path) -> None:
    train = tmp_path / "set" / "train.jsonl"
    lines(train, [{"any": 1}])
    config, manifest = {"data": {"train": str(train)}}, train.with_name("manifest.json")
    assert manifest_of(tmp_path, config) is None
    sha = subprocess.run(["sha256sum", train], capture_output=True, text=True, check=True).stdout.split()[0]
    for written, found in (("0" * 64, None), (sha, manifest)):
        lines(manifest, [{"outputs": {"train.jsonl": {"sha256": written, "gold": {}}}}])
        assert manifest_of(tmp_path, config) == found


def test_hostile_names_stay_names(tmp_path: Path) -> None:
    judge = make_run(tmp_path / "run", name=HOSTILE.replace("/", "-"), subset=HOSTILE)
    write_card(judge, tmp_path / "run")
    front, body = read(judge)
    assert "license" not in front
    assert front.keys() == {*["library_name", "pipeline_tag", "base_model", "datasets", "tags", "model-index"]}
    text = re.sub(r"(`+)(?!`).*?(?<!`)\1(?!`)", "", body, flags=re.DOTALL)  # what is not code
    assert "<script" not in text
    assert "evil" not in text
    assert "evil" in body
    table = [line for line in body.split("\n") if "evil" in line and line.startswith("|")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table if "sampled" in line] == [4]


def test_a_run_without_anything_gives_a_shorter_card(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "judge").mkdir()
    write_card(tmp_path / "judge", tmp_path / "run")
    front, body = read(tmp_path / "judge")
    assert "model-index" not in front
    assert "# run\n" in body
    for absent in ("## Results", "## Training", "## Data", "## How to ask", "plots/", "demonstration", "None", "nan"):
        assert absent not in body
    assert "has no held-out evaluation" in body
    assert not (tmp_path / "judge" / "training").exists()


def test_the_embedded_judge_says_that_it_is_a_demonstration(tmp_path: Path) -> None:
    judge = make_run(tmp_path)
    config = yaml.safe_load((tmp_path / "config.yaml").read_text())
    config |= {"base": "", "data": {"train": None, "format": "compact"}, "distill": {"traces": "", "steps": 400}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    summary = json.loads((tmp_path / "summary.json").read_text())
    summary["data"] = {"source": "synthetic", "train_pairs": None, "heldout_pairs": 40, "too_long": 0}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    write_card(judge, tmp_path)
    front, body = read(judge)
    assert "**This is a demonstration.**" in body
    assert "base_model" not in front
    assert front["language"] == ["en"]


def test_written_again_it_is_the_same_and_keeps_what_its_owner_said(written: Path, tmp_path: Path) -> None:
    run = shutil.copytree(written.parent, tmp_path / written.parent.name)
    card = run / "judge" / "README.md"
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    card.write_text(card.read_text().replace("library_name:", "license: apache-2.0\nlibrary_name:", 1))
    write_card(run / "judge", run)
    assert read(run / "judge")[0]["license"] == "apache-2.0"
    card.write_text(card.read_text().replace("license: apache-2.0\n", ""))
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_generation_is_greedy_and_ends_where_the_judge_ends(tmp_path: Path) -> None:
    judge = make_run(tmp_path)
    given = {
        "eos_token_id": [5, 7],
        "pad_token_id": 1,
        "do_sample": True,
        "temperature": 0.7,
        "repetition_penalty": 1.05,
    }
    (judge / "generation_config.json").write_text(json.dumps(given))
    (judge / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    (judge / "tokenizer.json").write_text('{"added_tokens": [{"id": 9, "content": "<end>"}]}')
    write_card(judge, tmp_path)
    assert json.loads((judge / "generation_config.json").read_text()) == {
        "eos_token_id": [5, 7, 9],
        "pad_token_id": 1,
        "do_sample": False,
        "max_new_tokens": 1024,
    }


@pytest.mark.parametrize("name", ["config.yaml", "summary.json", "metrics.jsonl", "judge/gavel.json"])
def test_a_broken_file_is_named(tmp_path: Path, name: str) -> None:
    judge = make_run(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(CardError, match=name.rpartition("/")[2]):
        write_card(judge, tmp_path)


def pair(question: str, a: str, b: str) -> Pair:
    return Pair("", (Message(role="user", content=question),), a, b, None)


def function(source: str, name: str) -> Callable[..., Any]:
    defined: dict[str, Any] = {}
    exec(source, defined)
    return defined[name]


@pytest.mark.parametrize("name", PAIRWISE)
def test_the_printed_prompt_is_gavels(name: str) -> None:
    texts = ('What is {x}? \\n {question} """', "{response_b}", 'he said "b"')
    assert function(prompt_source(FORMATS[name]), "messages")(*texts) == FORMATS[name].render(pair(*texts), "ab")


def test_the_printed_prompt_of_a_template_file_is_gavels(tmp_path: Path) -> None:
    values = {
        "name": "mine",
        "system": 'He said """\\ue000 {{question}} {A} \\ and """',
        "user": '"{question}"\n```\n\t{response_a}\x07\n```\n"{response_b}"',
        "verdict": {"first wins": "first", r"/(?i)second\s+wins/": "second", "\"'draw": "tie"},
    }
    (tmp_path / "mine.json").write_text(json.dumps(values))
    format_ = load_template(tmp_path / "mine.json")
    texts = ("q", "{a}\\", "b")
    assert function(prompt_source(format_), "messages")(*texts) == format_.render(pair(*texts), "ab")
    verdict = function(verdict_source(format_) or "", "verdict")
    assert [
        verdict(said) for said in ("first wins", "so SECOND  wins", "a \"'draw", "none", "first wins, second wins")
    ] == [
        "first",
        "second",
        "tie",
        None,
        None,
    ]
    judge = make_run(tmp_path / "run")
    (judge / "gavel.json").write_text(json.dumps({"format": str(tmp_path / "mine.json")}))
    write_card(judge, tmp_path / "run")
    blocks = re.findall(r"^(`{3,})python\n(.*?)^\1$", read(judge)[1], re.DOTALL | re.MULTILINE)
    assert function(blocks[0][1], "messages")(*texts) == format_.render(pair(*texts), "ab")


@pytest.mark.parametrize("name", PAIRWISE)
def test_the_printed_reading_agrees_with_the_formats_own(name: str) -> None:
    read_plainly = function(verdict_source(FORMATS[name]) or "", "verdict")
    said = {
        *("<answer>[[A]]</answer>", "<answer>[[B]]</answer>", "[[A>>B]]", "[[A=B]]", "[[B>A]]", "[[A]]", "[[C]]"),
        *("\\boxed{Assistant 1}", "\\boxed{Assistant 2}", "final decision is Response 2", "Output (a)", "nothing"),
        *("Output (a) is better.", "Output (b) is better.", "final decision is Response 1"),
        *("<answer>4</answer><answer>6.5</answer>", "<answer>4</answer><answer>4</answer>"),
    }
    words: dict[str | None, Verdict] = {"first": "a", "second": "b", "tie": "tie", None: None}
    read_by_gavel = {text: FORMATS[name].parse(text, "ab").verdict for text in said}
    assert {text: words[read_plainly(text)] for text in said} == read_by_gavel
    assert len({*read_by_gavel.values()}) > 2, "it reads something"
    assert {text: swap(verdict) for text, verdict in read_by_gavel.items()} == {
        text: FORMATS[name].parse(text, "ba").verdict for text in said
    }


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("/home/jane/my data/pairs.jsonl", "pairs.jsonl"),
        ("~/x/y", "y"),
        ("../shared/data/z.jsonl", "z.jsonl"),
        (r"C:\Users\jane\z.jsonl", "z.jsonl"),
        ("file:///home/jane/z", "z"),
        ("cannot read '/home/jane/z', sorry", "cannot read 'z', sorry"),
        ("pipelines/presets/gsm8k.yaml", "pipelines/presets/gsm8k.yaml"),
        ("https://host/a/b", "https://host/a/b"),
        (r"\bword\b", r"\bword\b"),
        ("and/or", "and/or"),
        ("rules:reward", "rules:reward"),
    ],
)
def test_paths_are_reduced_to_names(given: str, told: str) -> None:
    assert without_places({given: [given]}) == {told: [told]}


def test_hub_names() -> None:
    assert hub_name("Qwen/Qwen2.5-7B") == "Qwen/Qwen2.5-7B"
    for local in ("", None, "tests/evals", "data/pairs.jsonl", "/a/b", "a/b/c", "plain", "-a/b c"):
        assert hub_name(local) is None
    assert hub_name("Qwen/Qwen2.5-7B@refs/pr/1") == "Qwen/Qwen2.5-7B"
    assert base_name("/a/b/") == "b"
