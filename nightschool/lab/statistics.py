"""What labs report: interquartile means over seeds, bootstrap intervals, paired differences, when a curve crosses."""

from __future__ import annotations

import random
from collections.abc import Sequence
from statistics import fmean, stdev


def iqm(values: Sequence[float]) -> float:
    """The mean of the middle half, the values at its edges counted in part (2108.13264)."""
    ordered, n = sorted(values), len(values)
    low, high = n / 4, 3 * n / 4
    weights = [max(0.0, min(i + 1, high) - max(i, low)) for i in range(n)]
    return sum(w * v for w, v in zip(weights, ordered, strict=True)) / sum(weights)


def bootstrap(values: Sequence[float], draws: int = 2000) -> tuple[float, float]:
    """The 95% interval of the interquartile mean over seeds; with one value there is none but itself."""
    rng = random.Random(0)
    means = sorted(iqm(rng.choices(values, k=len(values))) for _ in range(draws))
    return means[round(0.025 * (draws - 1))], means[round(0.975 * (draws - 1))]


def paired(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float]:
    """The mean difference on the same problems, and its standard error."""
    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    return fmean(differences), stdev(differences) / len(differences) ** 0.5


def first_crossing(curve: Sequence[Sequence[float]], goal: float, budget: float) -> float:
    """Where a curve of (x, y) first reaches the goal and is still there one point later, between points by a straight
    line; the budget where it never does."""
    for i in range(len(curve) - 1):
        if curve[i][1] >= goal and curve[i + 1][1] >= goal:
            x, y = curve[i]
            before_x, before_y = curve[i - 1] if i else (0.0, 0.0)
            return before_x + (x - before_x) * (goal - before_y) / (y - before_y)
    return budget
