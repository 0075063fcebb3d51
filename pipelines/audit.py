"""The audit of pair files as a command: `python pipelines/data.py audit FILE ... [--json]`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from evals.audit import SAMPLE, audit
from evals.prompts import FORMATS
from evals.reports.audit import terminal, write_audit_report
from pipelines.errors import readable_errors
from pipelines.flags import from_one


def audit_command(argv: Sequence[str]) -> int:
    """Audit the files that the arguments name, show what was found, and write the page where one was asked for.

    Returns 0 whatever was found; ends the program with status 1 and a message where a file cannot be used, and with
    status 2 where an argument cannot.
    """
    arguments = _parser().parse_args(argv)
    with readable_errors():
        found = audit(arguments.files, arguments.format, arguments.sample, arguments.seed)
        console = Console(highlight=False)
        console.print(terminal(found))
        if arguments.report is not None:
            console.print("report", write_audit_report(arguments.report, found), soft_wrap=True)
        if arguments.json:
            print(json.dumps(found.to_json()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="data.py audit",
        description="What is wrong with pair files: above all, what gives their labels away.",
        epilog="Several files are the splits of one data set: rows and questions that they share are found.",
        allow_abbrev=False,
    )
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="pairs, or judge prompts, as JSON lines")
    parser.add_argument(
        "--format", default="rm_r1", help=f"how prompts are shown: a template file, or one of {', '.join(FORMATS)}"
    )
    parser.add_argument("--sample", type=from_one, default=SAMPLE, metavar="N", help=f"rows tested; default {SAMPLE}")
    parser.add_argument("--seed", type=int, default=0, help="draws the rows that are tested; default 0")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the page here")
    parser.add_argument("--json", action="store_true", help="the last line of standard output is one JSON object")
    return parser
