"""The gate: what the morning must not have lost. The same questions in the evening and in the morning, those that the
first evening of a row of nights answered, and how far the model has drifted from its evening self.

Without the first evening many nights could each lose a little, and no gate would see it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import NamedTuple

Outcomes = Mapping[str, Sequence[float]]  # skill -> outcome of each question, in a fixed order


class Decision(NamedTuple):
    passed: bool
    reason: str


def lost(before: Sequence[float], after: Sequence[float], z: float = 1.96) -> tuple[float, float]:
    """Mean paired difference after - before, and the upper end of its 95% interval (normal; others by z)."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    variance = sum((d - mean) ** 2 for d in differences) / max(n - 1, 1)
    return mean, mean + z * math.sqrt(variance / n)


def decide(
    before: Outcomes,
    after: Outcomes,
    news: str = "news",
    tolerance: float = 0.02,
    drift: float = 0.0,
    bar: float = 0.0,
    first: Outcomes | None = None,
) -> Decision:
    """Pass if the news is better known, no other skill is surely more than `tolerance` worse, and the drift (nats a
    token) is not above the bar; bar 0 = the exam alone decides.

    Sure is 95% for all skills together: one night in twenty that loses just `tolerance` is undone for all that.
    first: what the first evening knew, by the questions that both were asked; what was lost since then counts as well.
    But: of 300 questions a skill must fall by about six points until it is sure.
    """
    if bar and drift > bar:
        return Decision(False, f"it drifted {drift:.2f} nats a token from its evening self, over {bar:g}")
    gained, _ = lost(before[news], after[news])
    if gained <= 0:
        return Decision(False, "the news is known no better than in the evening")
    z = NormalDist().inv_cdf(1 - 0.05 / len(before))
    for since, then in (("", before), (" since the first evening", first or {})):
        for skill, outcomes in then.items():
            num_asked = min(len(outcomes), len(after[skill]))
            mean, high = lost(outcomes[:num_asked], after[skill][:num_asked], z)
            if skill != news and high < -tolerance:
                return Decision(False, f"{skill} fell by {-100 * mean:.0f} points{since}")
    return Decision(True, f"{100 * gained:.0f} points more of the news, and nothing lost beyond {100 * tolerance:.0f}")
