"""Credit that is tried in the lab alone: what reviewers ask for beside ours (rl/credit.py).

partial    the share of steps before the first error, as one number for the whole attempt
placebo    first_error with the verdicts of a group dealt out at random among its attempts
min_form   PURE (2504.15275): a step is worth the worst that follows
implicit   PRIME (2502.01456): a second model learns from outcomes what a line is worth
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate
from math import exp
from pathlib import Path
from statistics import fmean

import torch
import torch.nn.functional as F

from nightschool.device import place
from nightschool.model import exchange
from nightschool.model.transformer import Transformer
from nightschool.rl.batch import to_batch, to_item
from nightschool.rl.credit import Assigner, first_error, line_of_tokens, reached
from nightschool.tasks.attempt import Attempt
from nightschool.text.packing import Batch
from nightschool.train.loop import update
from nightschool.train.losses import Losses, log_probs
from nightschool.train.optim import Optimizer
from nightschool.train.plan import going_on


def partial(group: Sequence[Attempt]) -> list[list[float]]:
    shares = [reached(a) / max(len(a.verdict.steps), len(a.problem.steps) + 1) for a in group]
    mean = fmean(shares)
    return [[share - mean] * (len(a.verdict.steps) + 1) for a, share in zip(group, shares, strict=True)]


def placebo(group: Sequence[Attempt]) -> list[list[float]]:
    verdicts = [a.verdict for a in group]
    random.Random(group[0].problem.key).shuffle(verdicts)
    credits = first_error([replace(a, verdict=verdict) for a, verdict in zip(group, verdicts, strict=True)])
    lengths = [len(a.verdict.steps) + 1 for a in group]  # each attempt's own: what is missing is as the stop's
    return [[*c, *[c[-1]] * n][:n] for c, n in zip(credits, lengths, strict=True)]


def min_form(group: Sequence[Attempt], temperature: float = 0.1) -> list[list[float]]:
    """What follows a line, a soft minimum of its steps' rewards (right 1, wrong 0), less the group's mean there."""
    returns = []
    for a in group:
        rewards = [float(ok) for ok in (*a.verdict.steps, a.verdict.first_error is None)]
        weights = [exp(-reward / temperature) for reward in rewards]
        terms = [w * r / sum(weights) for w, r in zip(weights, rewards, strict=True)]
        returns.append([sum(terms[i:]) for i in range(len(terms))])
    means = [fmean(r[i] for r in returns if i < len(r)) for i in range(max(map(len, returns)))]
    return [[value - mean for value, mean in zip(r, means, strict=False)] for r in returns]


def implied(group: Sequence[Attempt], rewards: Sequence[Sequence[float]]) -> list[list[float]]:
    """What follows a line, of its attempt's rewards by line, and the outcome: each less what the others have of it.
    Where what follows a line comes to more than 1, a group's rewards are scaled down to that, or they run away."""
    most = max(1.0, *(abs(value) for lines in rewards for value in accumulate(reversed(lines))))
    rewards = [[reward / most for reward in lines] for lines in rewards]
    outcomes, usual = [a.verdict.outcome for a in group], [fmean(lines) for lines in rewards]

    def others(values: Sequence[float], i: int) -> float:
        return (sum(values) - values[i]) / (len(values) - 1)

    credits = []
    for i, lines in enumerate(rewards):
        right, common = outcomes[i] - others(outcomes, i), others(usual, i)
        following = [*accumulate(line - common for line in reversed(lines))]
        credits.append([right + value for value in reversed(following)])
    return credits


def implicit(start: Path, lr_scale: float, beta: float = 0.05) -> Assigner:
    """PRIME: a second model learns to tell right answers from wrong ones by beta times how much likelier than the start
    it finds them, in nats; of a line, that is its reward.

    It learns from a group before it rewards its lines, by AdamW at the policy's own rate; a group that fared alike
    teaches neither. But: it is in no checkpoint, so that a run that was cut off begins anew.
    """
    model, tokenizer = exchange.load(start / "checkpoint", torch.bfloat16)
    reference, _ = exchange.load(start / "checkpoint", torch.bfloat16)
    plan, _ = going_on(model.config, tokenizer.brought, muon=False)
    optimizer = Optimizer(model, embed_lr=lr_scale * plan.embed_lr, norm_lr=lr_scale * plan.norm_lr, muon=False)

    def assign(group: Sequence[Attempt]) -> list[list[float]]:
        rewards = [[0.0] * (len(a.verdict.steps) + 1) for a in group]
        outcomes = torch.tensor([a.verdict.outcome for a in group], device=place())
        if len(outcomes.unique()) == 1:
            return rewards
        batch = to_batch([to_item(tokenizer, a, [0.0]) for a in group], tokenizer).to(place())
        with torch.no_grad():
            before = log_probs(reference, batch)

        def guess(model: Transformer, batch: Batch) -> Losses:
            rewards = beta * (log_probs(model, batch) - before).sum(1)
            missed = F.binary_cross_entropy_with_logits(rewards, outcomes, reduction="sum")
            return {"guess": (missed, missed.new_tensor(len(group)))}

        update(model, optimizer, guess, [batch], lr_scale=1.0, clip_norm=1.0)
        with torch.no_grad():
            likelier = (log_probs(model, batch) - before).tolist()
        for a, lines, row in zip(group, rewards, likelier, strict=True):
            said = row[len(a.completion.prompt_ids) - 1 :]  # a token's number stands where it is the target
            for line, nats in zip(line_of_tokens(tokenizer, a), said, strict=False):
                lines[min(line, len(lines) - 1)] += beta * nats
        return implied(group, rewards)

    return assign
