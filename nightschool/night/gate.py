"""The gate: what the morning must not have lost. The same questions in the evening and in the morning, and how far the
model has drifted from its evening self."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Outcomes = Mapping[str, Sequence[float]]  # skill -> outcome of each question, in a fixed order


class Decision(NamedTuple):
    passed: bool
    reason: str


def lost(before: Sequence[float], after: Sequence[float]) -> tuple[float, float]:
    """Mean paired difference after - before, and the upper end of its 95% interval (normal)."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / max(n - 1, 1)
    return mean, mean + 1.96 * math.sqrt(variance / n)


def decide(
    before: Outcomes, after: Outcomes, news: str = "news", tolerance: float = 0.02, drift: float = 0.0, bar: float = 0.0
) -> Decision:
    """Pass if the news is better known, no other skill is surely more than `tolerance` worse, and the drift (nats a
    token) is not above the bar; bar 0 = the exam alone decides."""
    if bar and drift > bar:
        return Decision(False, f"it drifted {drift:.2f} nats a token from its evening self, over {bar:g}")
    gained, _ = lost(before[news], after[news])
    if gained <= 0:
        return Decision(False, "the news is known no better than in the evening")
    for skill in before:
        mean, high = lost(before[skill], after[skill])
        if skill != news and mean < -tolerance and high < 0:
            return Decision(False, f"{skill} fell by {-100 * mean:.0f} points")
    return Decision(True, f"{100 * gained:.0f} points more of the news, and nothing lost beyond {100 * tolerance:.0f}")
