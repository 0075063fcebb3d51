"""Auto-J's pairwise test (arXiv 2310.05470): 1,392 pairs of 58 scenarios, ties among them, judged in both orders.

The rule is that of `codes/leaderboard/pairwise_eval.py` in the repository GAIR-NLP/auto-j: a pair is right where both
orders give the label (agreement), and consistent where both orders give the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from typing_extensions import override

from evals.benchmarks.base import Benchmark, Option, Scoreboard, Stratum, Unit, by_pair, letters
from evals.benchmarks.files import Row, field, rows
from evals.pairs import Message, Pair, PairFileError
from evals.verdicts import Gold, Judgement

GROUPS: Mapping[str, tuple[str, ...]] = {
    "Summarization": ("post_summarization", "text_summarization", "note_summarization"),
    "Exam Questions": (
        "math_reasoning",
        *("solving_exam_question_with_math", "solving_exam_question_without_math"),
    ),
    "Code": (
        *("code_simplification", "code_generation", "explaining_code"),
        *("code_correction_rewriting", "code_to_code_translation"),
    ),
    "Rewriting": (
        *("text_simplification", "language_polishing", "instructional_rewriting"),
        *("text_correction", "paraphrasing"),
    ),
    "Creative Writing": (
        *("writing_song_lyrics", "writing_social_media_post", "writing_blog_post", "writing_personal_essay"),
        *("creative_writing", "writing_advertisement", "writing_marketing_materials"),
        *("writing_presentation_script", "counterfactual"),
    ),
    "Functional Writing": (
        *("writing_product_description", "writing_job_application", "writing_news_article", "writing_biography"),
        *("writing_email", "writing_legal_document", "writing_technical_document", "writing_scientific_paper"),
        *("functional_writing", "writing_cooking_recipe"),
    ),
    "General Communication": (
        *("asking_how_to_question", "open_question", "analyzing_general", "explaining_general", "seeking_advice"),
        *("recommendation", "value_judgement", "verifying_fact", "chitchat", "roleplay", "planning", "brainstorming"),
    ),
    "NLP Tasks": (
        *("ranking", "text_to_text_translation", "data_analysis", "classification_identification"),
        *("title_generation", "question_generation", "reading_comprehension", "keywords_extraction"),
        *("information_extraction", "topic_modeling", "others"),
    ),
}
"""The paper's groups of scenarios, in the order of its table."""

_GOLDS: Mapping[int, Gold] = {0: "a", 1: "b", 2: "tie"}


_GROUP_OF = {letters(scenario): group for group, scenarios in GROUPS.items() for scenario in (group, *scenarios)}


class AutoJ(Benchmark):
    """The scenario is the subset of a pair; the sections are the groups. A pair's id is its row, counted from 0."""

    name = "autoj"
    title = "Auto-J pairwise"
    options: ClassVar = {
        "orders": Option(
            {
                "both": "both orders; a pair is right where both give the label",
                "one": "one order (ab where both were judged), as the authors score judges that rate each response "
                "on its own",
            }
        )
    }

    @override
    def load(self, source: Path | str) -> list[Pair]:
        found = rows(source, self.hub, wanted=lambda file: file.name == "testdata_pairwise.jsonl")
        return [_pair(row, index) for index, row in enumerate(found)]

    @override
    def needs_both_orders(self, options: Mapping[str, str]) -> bool:
        return options["orders"] == "both"

    @override
    def score(self, judgements: Iterable[Judgement], options: Mapping[str, str]) -> Scoreboard:
        both = self.needs_both_orders(options)
        units: dict[str, list[Unit]] = {group: [] for group in GROUPS}
        consistent = 0
        for orders in by_pair(judgements, both_orders=both).values():
            counted = list(orders.values()) if both else [orders.get("ab", next(iter(orders.values())))]
            prompt, subset = self.prompt(counted[0]), counted[0].subset
            group = _GROUP_OF.get(letters(subset), subset or "all")
            right = all(judgement.right for judgement in counted)
            units.setdefault(group, []).append(Unit(prompt, prompt, float(right)))
            consistent += counted[0].verdict == counted[-1].verdict is not None
        strata = [Stratum(group, group, found) for group, found in units.items() if found]
        pairs = sum(len(stratum.units) for stratum in strata)
        figures = {"agreement": sum(unit.credit for stratum in strata for unit in stratum.units) / pairs}
        if both:
            figures["consistency"] = consistent / pairs
        return Scoreboard(
            benchmark=self.name,
            rule=f"agreement with the label, which may be a tie; {self.words(options)}; no verdict is wrong and "
            "agrees with nothing; micro average over all pairs",
            strata=strata,
            section_weights={stratum.name: len(stratum.units) for stratum in strata},
            figures=figures,
        )


def _pair(row: Row, index: int) -> Pair:
    label = field(row, "label", int)
    if label not in _GOLDS:
        raise PairFileError(row.path, [f"{row.place}: field 'label': unknown label {label!r}; known are 0, 1, 2"])
    return Pair(
        id=str(index),
        messages=(Message(role="user", content=field(row, "prompt")),),
        response_a=field(row, "response 1"),
        response_b=field(row, "response 2"),
        gold=_GOLDS[label],
        source="autoj",
        subset=field(row, "scenario"),
    )


AUTOJ = AutoJ()
