"""Rule-based rewards: a verdict held against gold."""

from __future__ import annotations

from evals.verdicts import Gold, Verdict


def rm_r1(verdict: Verdict, gold: Gold) -> float:
    """RM-R1's reward: +1 for the gold verdict, -1 for any other and for none (arXiv 2505.02387, equation 8)."""
    return 1.0 if verdict == gold else -1.0
