"""An audit as a page and as terminal tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evals.audit import RULE, Audit
from evals.audits.counts import Balance, Lengths
from evals.reports.page import plain, render
from evals.reports.plots import Estimate, forest
from evals.reports.tables import NOTHING, percent
from evals.writing import write_whole

_QUANTILES = ("Smallest", "1 %", "25 %", "Median", "75 %", "99 %", "Largest")
_ROWS = 30
"""Most rows of a table on the page; the JSON has all."""


def write_audit_report(path: Path, audit: Audit) -> Path:
    """Write the page of an audit; returns its path."""
    shown = audit.leaks[:_ROWS]
    plot = None
    if shown:
        estimates = [Estimate(leak.auc, *leak.interval) for leak in shown]
        names = [leak.feature for leak in shown]
        plot = forest("AUC of each leak with its interval", "AUC, %", names, {"AUC": estimates}, mark=0.5)
    text = render(
        "audit.html.j2",
        headline=headline(audit),
        audit=audit,
        findings=audit.findings(),
        leaks=shown,
        plot=plot,
        rule=RULE,
        balances=_balances(audit)[:_ROWS],
        balances_left=max(0, len(_balances(audit)) - _ROWS),
        specials=list(audit.special_tokens.items())[:_ROWS],
        quantiles=_QUANTILES,
        lengths=audit.lengths,
        listed=_listed(audit),
        percent=percent,
    )
    return write_whole(path, text)


def headline(audit: Audit) -> str:
    """What the audit comes to, in a sentence."""
    pairs = f"{audit.pairs:,} pairs" if audit.pairs != 1 else "1 pair"
    if audit.leaks:
        count = "One feature gives" if len(audit.leaks) == 1 else f"{len(audit.leaks):,} features give"
        strongest = max(audit.leaks, key=lambda leak: leak.auc)
        return f"{count} the label away in {pairs}: most of all {plain(strongest.feature)}, AUC {strongest.auc:.2f}"
    findings = audit.findings()
    if findings:
        return f"No leak in {pairs}, but {len(findings)} other finding{'s' if len(findings) > 1 else ''}"
    return f"Nothing found in {pairs}"


def _balances(audit: Audit) -> list[tuple[str, Balance]]:
    """Balances to show: of all, of each file and of each source where there are several."""
    rows = [("All", audit.label_balance)]
    if len(audit.by_file) > 1:
        rows += [(f"File {name}", one) for name, one in audit.by_file.items()]
    if len(audit.by_source) > 1:
        rows += [(f"Source {name or '(none)'}", one) for name, one in audit.by_source.items()]
    return rows


def _listed(audit: Audit) -> list[tuple[str, Sequence[str]]]:
    """Places to look at, by kind of finding; kinds without any are left out."""
    kinds: list[tuple[str, Sequence[str]]] = [
        ("Lines that cannot be used", audit.unreadable_examples),
        ("Contradictory labels", audit.contradiction_examples),
        ("Repeated rows", audit.duplicates.examples),
        ("Broken conversations", audit.broken_examples),
        *((f"Far-out length, {name}", one.examples) for name, one in audit.lengths.items()),
    ]
    return [(name, places) for name, places in kinds if places]


def terminal(audit: Audit) -> RenderableType:
    """What to print with rich: the headline, tables, and the rule by which a leak is one."""
    parts: list[RenderableType] = [Text(headline(audit), style="bold"), ""]
    counts = _table("Rows", ("", "Count"), left=1)
    for name, count in _counts(audit):
        counts.add_row(name, f"{count:,}")
    parts += [counts, "", _balance_table(audit), ""]
    if audit.leaks:
        leaks = _table("Leaks", ("Feature", "What it says", "AUC", "Interval", "Rows", "Whole file"), left=2)
        for leak in audit.leaks:
            low, high = leak.interval
            cells = (f"{leak.auc:.3f}", f"{low:.2f} to {high:.2f}", f"{leak.rows:,}", f"{leak.auc_whole_file:.3f}")
            leaks.add_row(Text(plain(leak.feature)), Text(plain(leak.says)), *cells)
        parts += [leaks, ""]
    if audit.special_tokens:
        special = _table("Special strings", ("String", "In A", "In B", "In better", "In worse", "In questions"), left=1)
        for token, one in list(audit.special_tokens.items())[:_ROWS]:
            numbers = (one.a, one.b, one.better, one.worse, one.conversation)
            special.add_row(Text(plain(token)), *(f"{number:,}" for number in numbers))
        parts += [special, ""]
    lengths = _table("Lengths in characters", ("", *_QUANTILES, "Far out"), left=1)
    for name, one_length in audit.lengths.items():
        lengths.add_row(name, *_length_cells(one_length))
    parts += [lengths, ""]
    for name, places in _listed(audit):
        parts += [Text(name, style="bold"), *(Text(f"  {plain(place)}") for place in places[:3]), ""]
    return Group(*parts, Text(f"{audit.note}. {RULE}", style="dim"))


def _counts(audit: Audit) -> list[tuple[str, int]]:
    return [
        ("pairs", audit.pairs),
        ("lines that cannot be used", audit.unreadable),
        ("repeated rows", audit.duplicates.normalised),
        ("of them letter by letter", audit.duplicates.exact),
        ("of them from another file", audit.duplicates.across_files),
        ("questions in more than one file", audit.duplicates.shared_questions),
        ("contradictory labels", audit.contradictions),
        ("broken conversations", audit.broken_turns),
        ("prompts in an unknown layout", audit.uncut),
    ]


def _balance_table(audit: Audit) -> Table:
    table = _table("Labels", ("", "A", "B", "Tie", "None", "A is better", "Alternates"), left=1)
    for name, one in _balances(audit)[:_ROWS]:
        numbers = (f"{number:,}" for number in (one.a, one.b, one.tie, one.unlabelled))
        share = percent(one.share_a) + (" uneven" if one.uneven else "")
        table.add_row(Text(plain(name)), *numbers, share, percent(one.alternates))
    return table


def _length_cells(one: Lengths) -> list[str]:
    return [*(f"{mark:,}" for mark in one.quantiles), f"{one.far:,}" if one.far else NOTHING]


def _table(title: str, head: Sequence[str], left: int) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for number, name in enumerate(head):
        if number < left:
            table.add_column(name, overflow="fold")
        else:
            table.add_column(name, justify="right", no_wrap=True)
    return table
