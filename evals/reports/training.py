"""One self-contained HTML page about a training run: what it brought, how it went, where the time went.

The page is made from the files that a run leaves in its folder and from nothing else, so it can be made again at any
time. What a model or a data set wrote is untrusted: the template escapes all of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from evals.pairs import Pair, load_pairs
from evals.reports.page import render
from evals.reports.plots import INK, SERIES, smooth, svg, window
from evals.reports.texts import sections
from evals.verdicts import Judgement, Order, from_shown
from evals.writing import write_whole

STAGES = {"distill": "Distilled", "start": "Start", "grpo": "After GRPO"}
LETTERS = {"a": "A", "b": "B", "tie": "tie", None: "none"}

PHASES = ("ray", "distill", "start", "evaluate", "rollout", "reference", "update", "sync", "other")
WORK = {"engine": "generate", "reference": "reference", "policy": "update"}
"""Actors that can be profiled, and what their work is called in metrics.jsonl."""
MODES = ("sampled", "greedy")

OUTCOMES = {
    (False, True): "Wrong before, right after",
    (True, True): "Right both times",
    (True, False): "Right before, wrong after",
    (False, False): "Wrong both times",
}
_MENDED, _KEPT, _LOST, _MISSED = OUTCOMES
_WANTED = (_MENDED, _MENDED, _KEPT, _MISSED)
_INSTEAD = (_MISSED, _LOST, _MENDED, _KEPT)
"""The outcomes to show examples of, and what to show, in this order, where there is none."""


class Panel(NamedTuple):
    """One plot over the steps: `series` are keys of metrics.jsonl, `a.b` for b in a; `span` is shown at least."""

    title: str
    unit: str
    note: str
    series: tuple[str, ...]
    span: tuple[float, ...] = ()
    mark: float | None = None
    log: bool = False


PANELS = (
    Panel("Reward", "mean reward", "of training judgements", ("reward",), (-1, 1)),
    Panel("Accuracy", "share of judgements", "on training pairs; dashed: by lot", ("accuracy",), (0, 1), 0.5),
    Panel(
        "Parts of the reward",
        "mean, without weight",
        "what is rewarded beside the right verdict",
        tuple(f"reward_parts.{name}" for name in ("consistency", "format", "length", "evidence", "margin")),
        (0,),
    ),
    Panel("KL", "nats per token", "how far the policy is from its reference", ("kl",)),
    Panel("Entropy", "nats per token", "how open the judge's next token is", ("entropy",), (0,)),
    Panel("Judgement length", "tokens", "mean over the batch", ("length",)),
    Panel("Zero-variance groups", "share of groups", "all rewards equal: dropped", ("zero_variance",), (0, 1)),
    Panel("Clipped tokens", "share of tokens", "and left out or cut by correction", ("clip_ratio", "corrected"), (0,)),
    Panel("Mismatch", "nats, log scale", "log-probs of trainer and engine", ("mismatch", "mismatch_max"), log=True),
    Panel(
        "Stale tokens",
        "share of tokens",
        "sampled under weights so many versions older than the policy",
        tuple(f"staleness.{age}" for age in range(1, 9)),
        (0,),
    ),
    Panel("First candidate named", "share of verdicts", "dashed: no preference", ("first_share",), (0, 1), 0.5),
    Panel("Unusable judgements", "share", "without a verdict, or cut off", ("no_verdict", "truncated"), (0,)),
)


@dataclass(frozen=True, slots=True)
class Shown:
    """A judgement with the texts that its prompt showed; they are empty where the file does not have them."""

    judgement: Judgement
    question: str = ""
    first: str = ""
    second: str = ""

    @property
    def right(self) -> bool:
        """Whether the verdict is gold."""
        return self.judgement.verdict == self.judgement.gold


Compared = tuple[Shown, Shown]
"""The same pair in the same order, judged before and after."""


def write_report(run_dir: Path) -> Path:
    """Write `<run_dir>/report.html` from the run's summary, metrics, judgements and configuration.

    Raises FileNotFoundError where `summary.json` or `metrics.jsonl` is missing, and ValueError naming file and line
    where a file does not hold what it should. A missing optional value only leaves its row or plot out.
    """
    path = _needed(run_dir, "summary.json")
    summary, metrics = _object(path.read_bytes(), str(path)), read_metrics(run_dir)
    start = "distill" if "distill" in summary else "start"
    before, after = summary.get(start) or {}, summary.get("grpo") or {}
    held_out = run_dir / "eval" / "pairs.jsonl"
    pairs = {pair.id: pair for pair in load_pairs(held_out)} if held_out.exists() else {}
    judged = {mode: tuple(_judgements(run_dir, stage, mode, pairs) for stage in (start, "grpo")) for mode in MODES}
    compared = compare(*judged["greedy"]) or compare(*judged["sampled"])
    config = run_dir / "config.yaml"
    page = render(
        "training.html.j2",
        name=run_dir.resolve().name,
        headline=headline(before, after),
        summary=summary,
        stages=(STAGES[start], STAGES["grpo"]),
        before=before,
        after=after,
        modes=MODES,
        subsets=subset_accuracy(judged),
        curves=[(panel, svg) for panel in PANELS if (svg := _curve(panel, metrics))],
        window=window(len(metrics)),
        phases=_phases(summary.get("seconds") or {}),
        phase_plot=_phase_plot(metrics),
        profile=_profile(run_dir, metrics),
        outcomes={name: sum((old.right, new.right) == key for old, new in compared) for key, name in OUTCOMES.items()},
        examples=[(OUTCOMES[old.right, new.right], old, new) for old, new in choose_examples(compared)],
        letter=lambda verdict, order: LETTERS[from_shown(verdict, order)],
        sections=sections,
        duration=_duration,
        config=config.read_text(encoding="utf-8") if config.exists() else None,
    )
    return write_whole(run_dir / "report.html", page)


def headline(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    """What the run brought, in one sentence: of sampled accuracy where there is one, else of greedy."""
    where = f" on {after['pairs']} held-out pairs judged in both orders" if after.get("pairs") else ""
    mode = next((mode for mode in MODES if _number(after.get(f"accuracy_{mode}")) is not None), None)
    if mode is None:
        return "This run has no held-out evaluation."
    old, new = _number(before.get(f"accuracy_{mode}")), after[f"accuracy_{mode}"]
    if old is None:
        return f"{mode.capitalize()} accuracy is {new:.2f}{where}."
    if f"{old:.2f}" == f"{new:.2f}":
        return f"{mode.capitalize()} accuracy stayed at {new:.2f}{where}."
    return f"{mode.capitalize()} accuracy {'rose' if new > old else 'fell'} from {old:.2f} to {new:.2f}{where}."


def compare(before: Sequence[Shown], after: Sequence[Shown]) -> list[Compared]:
    """The labelled judgements of the same pair, order and sample, side by side, in the order of `after`."""

    def key(shown: Shown) -> tuple[str, str, int]:
        return shown.judgement.pair_id, shown.judgement.order, shown.judgement.sample

    known = {key(shown): shown for shown in before if shown.judgement.gold is not None}
    return [(known[key(shown)], shown) for shown in after if key(shown) in known]


def choose_examples(compared: Sequence[Compared]) -> list[Compared]:
    """Four instructive judgements: two mended, one right both times, one still wrong; fewer where there are fewer.

    No pair is shown twice and subsets take turns where that can be. Judgements with known texts come first, and
    those that were wrong by their reasoning come before those without a verdict.
    """
    chosen: list[int] = []
    for wanted in _WANTED:
        seen = [compared[number][1].judgement for number in chosen]
        pairs, subsets = [judgement.pair_id for judgement in seen], [judgement.subset for judgement in seen]
        ranked = [
            (
                new.judgement.pair_id in pairs,
                (old.right, new.right) != wanted,
                _INSTEAD.index((old.right, new.right)),
                not new.question,
                subsets.count(new.judgement.subset),
                old.judgement.verdict is None,
                number,
            )
            for number, (old, new) in enumerate(compared)
            if number not in chosen
        ]
        chosen += [min(ranked)[-1]] if ranked else []
    return [compared[number] for number in chosen]


def subset_accuracy(judged: Mapping[str, Sequence[list[Shown]]]) -> dict[str, dict[str, list[float | None]]]:
    """Accuracy as subset -> mode -> [before, after]; None where there is no labelled judgement."""
    everything = [shown.judgement.subset for stages in judged.values() for stage in stages for shown in stage]
    return {
        subset: {mode: [_accuracy(stage, subset) for stage in stages] for mode, stages in judged.items()}
        for subset in sorted(set(everything))
    }


def _accuracy(stage: Sequence[Shown], subset: str) -> float | None:
    right = [shown.right for shown in stage if shown.judgement.subset == subset and shown.judgement.gold is not None]
    return sum(right) / len(right) if right else None


def _object(text: bytes, place: str) -> dict[str, Any]:
    """A JSON object, with None for NaN and the infinities, which Python writes where there is no value."""
    try:
        value = json.loads(text, parse_constant=lambda name: None)
    except ValueError as error:
        raise ValueError(f"{place}: not JSON ({error}); mend or remove it and write the report again") from error
    if not isinstance(value, dict):
        raise ValueError(f"{place}: an object with named fields is needed, not {value!r:.60}")
    return value


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The objects of a JSON-lines file, each with its place to name in an error."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if line.strip():
            yield f"{path}, line {number}", _object(line, f"{path}, line {number}")


def _needed(run_dir: Path, name: str) -> Path:
    if not (path := run_dir / name).is_file():
        raise FileNotFoundError(
            f"run directory {run_dir} has no {name}, so there is nothing to report; name the folder of a training run "
            "that has ended (its run_dir), or start the same command again to finish the run"
        )
    return path


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """One row of metrics.jsonl a step; a resumed run may have written a step twice, and the last one counts.

    Raises FileNotFoundError and ValueError as `write_report` does.
    """
    steps: dict[float, dict[str, Any]] = {}
    for place, row in _rows(_needed(run_dir, "metrics.jsonl")):
        if (step := _number(row.get("step"))) is None:
            raise ValueError(f"{place}: field 'step' must be a number, not {row.get('step')!r:.60}")
        steps[step] = row
    return [steps[step] for step in sorted(steps)]


def _judgements(run_dir: Path, stage: str, mode: str, pairs: Mapping[str, Pair]) -> list[Shown]:
    path, names = run_dir / "eval" / f"{stage}-{mode}.jsonl", [field.name for field in fields(Judgement)]
    shown = []
    for place, row in _rows(path) if path.exists() else ():
        if missing := [name for name in names if name not in row and name != "ratings"]:  # written where there are any
            raise ValueError(f"{place}: field {missing[0]!r} of a judgement is missing; evaluate again to mend it")
        judgement = Judgement(**{name: row[name] for name in names if name in row})
        shown.append(Shown(judgement, *_texts(pairs.get(judgement.pair_id), judgement.order)))
    return shown


def _texts(pair: Pair | None, order: Order) -> tuple[str, ...]:
    """The conversation and the candidates as shown."""
    if pair is None:
        return ()
    question = "\n".join(message["content"] for message in pair.messages)
    return question, *((pair.response_a, pair.response_b) if order == "ab" else (pair.response_b, pair.response_a))


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if seconds < 60:
        return f"{seconds:.1f} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _curve(panel: Panel, metrics: Sequence[Mapping[str, Any]]) -> Markup | None:
    """The plot of a panel; None where no step has a value for it."""
    lines = {}
    for key in panel.series:
        found = [(row["step"], _value(row, key)) for row in metrics]
        if points := [(step, value) for step, value in found if value is not None and (value > 0 or not panel.log)]:
            lines[key.rpartition(".")[2].replace("_", " ")] = points
    return _over_steps(panel.title, panel.unit, lambda axes: _draw_lines(axes, panel, lines)) if lines else None


def _value(row: Mapping[str, Any], key: str) -> float | None:
    outer, _, name = key.rpartition(".")
    inner = row.get(outer) if outer else row
    return _number(inner.get(name)) if isinstance(inner, Mapping) else None


def _over_steps(title: str, unit: str, draw: Callable[[Axes], None]) -> Markup:
    def draw_all(axes: Axes) -> None:
        draw(axes)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
        axes.set(xlabel="step", ylabel=unit)

    return svg(f"{title} over steps", draw_all)


def _draw_lines(axes: Axes, panel: Panel, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    for colour, (name, points) in zip(SERIES, lines.items(), strict=False):
        steps, values = zip(*points, strict=True)
        smoothed, marker = smooth(values), "o" if len(values) < 20 else ""
        axes.plot(steps, values, color=colour, linewidth=0.7, alpha=0.45)
        axes.plot(steps, smoothed, color=colour, linewidth=1.9, marker=marker, markersize=4, label=name)
    everything = [point for points in lines.values() for point in points]
    first, last = min(everything)[0], max(everything)[0]
    axes.set_xlim(first - 0.5, last + 0.5)
    if panel.mark is not None:
        axes.axhline(panel.mark, color=INK, linewidth=1.3, linestyle="--")
    if panel.log:
        exponents = [math.log10(value) for _, value in everything]
        low, high = math.floor(min(exponents)), math.ceil(max(exponents))
        axes.set(yscale="log", ylim=(10.0**low, 10.0 ** max(high, low + 1)))
        axes.yaxis.set_major_locator(LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.update_datalim([(first, value) for value in panel.span])
        axes.autoscale_view()
        axes.yaxis.set_major_locator(MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]))


def _phase_plot(metrics: Sequence[Mapping[str, Any]]) -> Markup | None:
    """Seconds a step, stacked by phase; None where no step has any."""
    rows = [row.get("seconds") or {} for row in metrics]
    names = sorted({name for row in rows for name in row} - {"total"}, key=_place)

    def draw(axes: Axes) -> None:
        edges = [*(row["step"] - 0.5 for row in metrics), metrics[-1]["step"] + 0.5]
        base = [0.0] * len(rows)
        for number, name in enumerate(names):
            top = [below + (_number(row.get(name)) or 0.0) for below, row in zip(base, rows, strict=True)]
            axes.stairs(top, edges, baseline=base, fill=True, color=SERIES[number % len(SERIES)], label=name)
            base = top

    return _over_steps("Seconds by phase", "seconds a step", draw) if names else None


def _profile(run_dir: Path, metrics: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The last profile of the run; for each actor its longest operations and the seconds that it worked in the step."""
    found = sorted((run_dir / "profiles").glob("step-??????.json"))
    if not found:
        return None
    profile = _object(found[-1].read_bytes(), str(found[-1]))
    work = next((row.get("work") or {} for row in metrics if row["step"] == profile["step"]), {})
    actors = [(kind, actor, work.get(WORK[kind])) for kind, actor in profile["actors"].items()]
    return {"step": profile["step"], "actors": actors}


def _place(phase: str) -> tuple[int, str]:
    return PHASES.index(phase) if phase in PHASES else len(PHASES), phase


def _phases(seconds: Mapping[str, Any]) -> list[tuple[str, float, float | None]]:
    """Name, seconds and share of every phase, in the order of the run; what no phase accounts for is "other"."""
    known = {name: value for name in seconds if (value := _number(seconds[name])) is not None}
    total = known.pop("total", None)
    if total and (rest := total - sum(known.values())) > 0.005 * total:
        known["other"] = known.get("other", 0.0) + rest
    return [(name, known[name], known[name] / total if total else None) for name in sorted(known, key=_place)]
