"""The bars of `lab credit`, written down before its first run (issue 4), and their verdicts on its rows."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from nightschool.lab.arms import Holds, Interval, Json, verdict
from nightschool.lab.statistics import first_crossing, iqm, paired

START = 0.02, 0.06  # pass@1
UPWEIGHT = 0.10  # of wrong steps in rewarded attempts, made likelier
LUCKY = 0.5  # of outcome's lucky rate
LOSS = -0.03  # of final pass@1, the interval's lower end
GOAL = 0.8  # held-out pass@1, reached at two successive evaluations
FEWER = 2.0  # times fewer rollouts, and FLOPs, than the best of the three outcome arms
PLACEBO = 1.1
NULL = 0.4  # a start above it
OUTCOME_ARMS = ("outcome", "grpo", "dapo")
RIVALS = {"first_error": OUTCOME_ARMS, "small_first_error": (*OUTCOME_ARMS, "small_grpo")}


def bars(arms: dict[str, list[Json]]) -> list[Json]:
    """Every bar whose arms are there; an arm's rows are one a seed, the same seeds for all."""
    found: list[Json] = []

    def bar(name: str, values: Sequence[float], asked: str, holds: Holds, between: Interval | None = None) -> None:
        found.append(verdict(name, values, asked, holds, between))

    def column(arm: str, key: str) -> list[float]:
        return [row.get(key, 0.0) for row in arms[arm]]

    def cost(arm: str, key: str) -> list[float]:
        """Rollouts, or FLOPs, until the goal; the whole budget where it was never reached: a lower bound."""
        return [row[key] / row["rollouts"] * first_crossing(row["curve"], GOAL, row["rollouts"]) for row in arms[arm]]

    def ratio(arm: str, key: str, against: str) -> list[float]:
        return [a / b for a, b in zip(cost(arm, key), cost(against, key), strict=True)]

    def gain(exam: str, arm: str, over: str) -> tuple[list[float], Interval]:
        """Differences of an exam on the same problems, and the 95% interval of their mean."""
        rows = zip(arms[arm], arms[over], strict=True)
        pairs = [paired(ours["right"][exam], theirs["right"][exam]) for ours, theirs in rows]
        means = [mean for mean, _ in pairs]
        half = 1.96 * sum(error**2 for _, error in pairs) ** 0.5 / len(pairs)
        return means, (fmean(means) - half, fmean(means) + half)

    least, most = START
    bar("start", column("first_error", "start"), f"{least} to {most}", lambda v, low, high: least <= v <= most)
    for ours, rivals in RIVALS.items():
        name = ours.removesuffix("first_error").replace("_", " ")  # "small "
        if there := [arm for arm in rivals if arm in arms and ours in arms]:
            best = min(there, key=lambda arm: iqm(cost(arm, "rollouts")))
            cheapest = min(there, key=lambda arm: iqm(cost(arm, "flops")))
            highest = max(there, key=lambda arm: fmean(column(arm, "final")))
            fewer, cheaper = ratio(best, "rollouts", ours), ratio(cheapest, "flops", ours)
            bar(f"{name}rollouts_vs_grpo ({best})", fewer, f">= {FEWER}", lambda v, low, high: v >= FEWER)
            bar(f"{name}flops ({cheapest})", cheaper, f">= {FEWER}", lambda v, low, high: v >= FEWER)
            for exam in ("final", "longer"):
                means, between = gain(exam, ours, highest)
                asked = f"low >= {LOSS}"
                bar(f"{name}{exam} (less {highest})", means, asked, lambda v, low, high: low >= LOSS, between)
    if there := [arm for arm in OUTCOME_ARMS if arm in arms]:
        best = min(there, key=lambda arm: iqm(cost(arm, "rollouts")))
        cheapest = min(there, key=lambda arm: iqm(cost(arm, "flops")))
        for arm in ("again", "implicit", "shown"):
            if arm in arms:
                bar(f"rollouts of {arm}", ratio(best, "rollouts", arm), "beside it", lambda v, low, high: None)
                bar(f"flops of {arm}", ratio(cheapest, "flops", arm), "beside it", lambda v, low, high: None)
        if "placebo" in arms:
            fewer = ratio(best, "rollouts", "placebo")
            bar("placebo", fewer, f"<= {PLACEBO}", lambda v, low, high: v <= PLACEBO)
    if "maxrl" in arms:
        fewer = ratio("maxrl", "rollouts", "first_error")
        bar("rollouts_vs_maxrl", fewer, "low > 1", lambda v, low, high: low > 1)
    if {"lucky_first_error", "lucky_outcome"} <= arms.keys():
        upweight, rate = "wrong_step_upweight_rewarded", "lucky_rate"
        bar("upweight", column("lucky_first_error", upweight), f"<= {UPWEIGHT}", lambda v, low, high: v <= UPWEIGHT)
        bar("upweight of outcome", column("lucky_outcome", upweight), "beside it", lambda v, low, high: None)
        pairs = zip(column("lucky_first_error", rate), column("lucky_outcome", rate), strict=True)
        of_outcome = [ours / max(theirs, 1e-9) for ours, theirs in pairs]
        bar("lucky", of_outcome, f"<= {LUCKY} of outcome's", lambda v, low, high: v <= LUCKY)
    if {"null_first_error", "null_grpo"} <= arms.keys():
        bar("null start", column("null_grpo", "start"), f"> {NULL}", lambda v, low, high: v > NULL)
        bar("null speed-up", ratio("null_grpo", "rollouts", "null_first_error"), "shown", lambda v, low, high: None)
    return found
