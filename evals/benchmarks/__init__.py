"""The benchmarks, by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

from evals.benchmarks.autoj import AUTOJ
from evals.benchmarks.base import Benchmark, ScoringError, letters
from evals.benchmarks.evalbiasbench import EVALBIASBENCH
from evals.benchmarks.judgebench import JUDGEBENCH
from evals.benchmarks.llmbar import LLMBAR
from evals.benchmarks.pairs import PAIRS
from evals.benchmarks.pandalm import PANDALM
from evals.benchmarks.ppe import PPE
from evals.benchmarks.rewardbench import REWARDBENCH
from evals.benchmarks.rewardbench2 import REWARDBENCH2
from evals.benchmarks.rm_bench import RM_BENCH
from evals.benchmarks.rmb import RMB

_ALL = (
    *(REWARDBENCH, REWARDBENCH2, RM_BENCH, RMB, JUDGEBENCH, LLMBAR),
    *(PANDALM, AUTOJ, EVALBIASBENCH, PPE, PAIRS),
)
BENCHMARKS: Mapping[str, Benchmark] = {benchmark.name: benchmark for benchmark in _ALL}


@cache
def benchmark(name: str) -> Benchmark:
    """The benchmark of a name; case, spaces, hyphens and underscores do not matter. Raises ScoringError."""
    wanted = letters(name)
    for known, found in BENCHMARKS.items():
        if wanted in (letters(known), letters(found.title)):
            return found
    raise ScoringError(f"unknown benchmark {name!r}; known are {', '.join(BENCHMARKS)}")
