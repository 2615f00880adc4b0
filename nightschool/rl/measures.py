"""What attempts were like, and what credit did to them: numbers for metrics.jsonl, rows for the report."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from math import comb
from statistics import fmean, pstdev
from typing import Any

import torch
from torch import Tensor

from nightschool.model.engine import Engine
from nightschool.model.sampling import Sampling
from nightschool.rl.batch import Groups, in_groups, to_batch, to_item
from nightschool.rl.credit import ASSIGNERS, reached
from nightschool.tasks.attempt import Attempt, attempt
from nightschool.tasks.task import Task, lines_of
from nightschool.tasks.world import draw
from nightschool.text.packing import Batch


def measures(groups: Groups, credits: Sequence[Sequence[Sequence[float]]]) -> dict[str, float]:
    """credits[group][attempt][line]. Shares of nothing are left out."""
    attempts = [a for group in groups for a in group]
    sampled = [p for a in attempts for p, m in zip(a.completion.log_probs, a.completion.mask, strict=True) if m]
    stops = Counter(a.completion.stop for a in attempts)
    outcomes = [[a.verdict.outcome for a in group] for group in groups]
    row = {
        "reward": sum(a.verdict.outcome for a in attempts) / len(attempts),
        "reward_std": fmean(map(pstdev, outcomes)),
        "frac_reward_zero_std": sum(len(set(group)) == 1 for group in outcomes) / len(groups),
        "entropy": -sum(sampled) / len(sampled),  # nats a token, estimated on the samples
        "completions/mean_length": len(sampled) / len(attempts),
        "completions/max_length": max(sum(a.completion.mask) for a in attempts),
        **{f"stop/{reason}": stops[reason] / len(attempts) for reason in ("end", "length", "context")},
        "rollouts": len(attempts),
        "sampled_tokens": len(sampled),
    }
    return row | steps_judged(attempts, [credit for group in credits for credit in group])


def steps_judged(attempts: Sequence[Attempt], credits: Sequence[Sequence[float]]) -> dict[str, float]:
    """Of tasks that verify steps: lucky_rate, right answers with a wrong step in them; wrong_step_upweight, wrong steps
    that credit makes likelier, and the same among the right answers, where outcome reward does it to all of them;
    credit_auc, how often a first wrong step earned less than a right one before it."""
    wrong = [
        (line > 0, a.verdict.outcome >= 1)
        for a, credit in zip(attempts, credits, strict=True)
        for line, ok in zip(credit, a.verdict.steps, strict=False)
        if not ok
    ]
    good = [c for a, credit in zip(attempts, credits, strict=True) for c in credit[: reached(a)]]
    bad = [
        credit[reached(a)]
        for a, credit in zip(attempts, credits, strict=True)
        if a.verdict.first_error is not None and reached(a) < len(a.verdict.steps)
    ]
    row = shares(
        lucky_rate=lucky(attempts),
        wrong_step_upweight=[up for up, _ in wrong],
        wrong_step_upweight_rewarded=[up for up, rewarded in wrong if rewarded],
    )
    return row | ({"credit_auc": auc(good, bad)} if good and bad else {})


def lucky(attempts: Sequence[Attempt]) -> list[bool]:
    """Of each right answer: is it over a wrong step?"""
    return [a.verdict.first_error is not None for a in attempts if a.verdict.outcome >= 1]


def shares(**kinds: Sequence[bool]) -> dict[str, float]:
    """The share of True in each; of nothing there is none."""
    return {name: sum(kind) / len(kind) for name, kind in kinds.items() if kind}


def auc(high: Sequence[float], low: Sequence[float]) -> float:
    """How often a number of `high` is above one of `low`; a tie is half."""
    counts, below, won = Counter(high), 0.0, 0.0
    lows = Counter(low)
    for x in sorted(counts.keys() | lows.keys()):
        won += counts[x] * (below + lows[x] / 2)
        below += lows[x]
    return won / (len(high) * len(low))


def pass_at(k: int, groups: Groups) -> float:
    """The chance that one of k attempts at a problem is right, without bias from n >= k attempts (2107.03374)."""
    missed = 0.0
    for group in groups:
        wrong = sum(a.verdict.outcome < 1 for a in group)
        missed += comb(wrong, k) / comb(len(group), k)
    return 1 - missed / len(groups)


def on_dev(
    engine: Engine, task: Task, origin: Callable[[Batch], Tensor], sampling: Sampling, n: int, k: int, seed: int
) -> dict[str, float]:
    """pass@1 and pass@k on n dev problems, always the same; kl: nats a token from `origin`, which gives its log-probs
    of a batch, on these samples."""
    start = time.perf_counter()
    attempts = attempt(engine, task, draw(task, "dev", n, seed), sampling, k)
    row = {f"pass@{few}": pass_at(few, in_groups(attempts, k)) for few in sorted({1, k})}
    moved = num_tokens = 0.0
    for i in range(0, len(attempts), 128):
        items = [to_item(engine.tokenizer, a, [0.0]) for a in attempts[i : i + 128]]
        batch = to_batch(items, engine.tokenizer)
        with torch.no_grad():
            moved += float((batch.streams["old_logp"] * batch.weights - origin(batch)).sum())
        num_tokens += float(batch.weights.sum())
    more = {"kl": moved / num_tokens, "seconds": time.perf_counter() - start}
    return row | shares(lucky_rate=lucky(attempts)) | more


def rows_of(groups: Groups) -> list[dict[str, Any]]:
    """rollouts.jsonl: attempts with what outcome and step credit would give them."""
    rows = []
    for group in groups:
        by_outcome, by_step = ASSIGNERS["outcome"](group), ASSIGNERS["first_error"](group)
        for j, a in enumerate(group):
            lines = zip(lines_of(a.transcript), a.verdict.steps, by_step[j], strict=False)
            rows.append(
                {
                    "prompt": a.problem.prompt,
                    "answer": a.problem.answer,
                    "outcome": a.verdict.outcome,
                    "feedback": a.verdict.feedback,
                    "outcome_credit": by_outcome[j][0],
                    "steps": [{"text": text, "ok": ok, "credit": credit} for text, ok, credit in lines],
                }
            )
    return rows
