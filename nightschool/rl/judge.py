"""A learned judge of steps: an attempt -> for each line, and for the stop, is it right?

It is a copy of the model that asks itself: would I have written this? A line passes where the judge, given the lines
before it, writes just this one with a probability above SURE, and the first line that does not pass is the first error.
The probabilities of all that might stand at a place add up to 1, so at most one line passes there: a policy that
searches ever so hard finds nothing to please this judge but what the judge itself believes. A head that is asked "is
this right?" on the same hidden states has no such bound, and learned far less from as many marks (LOG.md).

It learns from marked attempts, up to their first error: right lines are made likelier, the first wrong one is made
unlikely. And from what a cheat would try first, made of their right lines: stopped short, a line said twice, the work
for another problem. But: where work may go on in several right ways it passes none but one, if any; it cannot judge
what it could not learn to do; made-up cheats have one turn; it needs a task that marks steps.

Sources: unlikelihood (1908.04319); likelihood as reward, PRIME (2502.01456); Tango (2505.15034) and Cooper (2508.05613)
for training with the policy; Master-RM (2507.08794) for negatives that hold nothing.

B batch, T time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from math import exp
from statistics import fmean
from typing import Any

import torch
from torch import nn

from nightschool.model.engine import Completion
from nightschool.model.transformer import Transformer
from nightschool.rl.potential import starts_of_lines
from nightschool.tasks.attempt import Attempt, turns_of
from nightschool.tasks.task import Verdict, lines_of
from nightschool.text.packing import Batch, Item, collate
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import update
from nightschool.train.losses import Losses, log_probs
from nightschool.train.optim import Optimizer
from nightschool.world.problem import Problem

SURE = 0.5  # of a line: at most one passes
LEARNING_RATE = 0.001
BATCH = 32  # marked attempts of a step of `fit`, and a cheat for every other where one can be made
NEWEST = 256  # half of them are drawn from so many of the last


@dataclass(frozen=True)
class Judge:
    """Whoever judges attempts: `learned`, or an outside one (rl/outside.py)."""

    verdicts: Callable[[Sequence[Attempt], Sequence[Attempt]], tuple[list[Attempt], int]]
    """(attempts, those marked so far) -> the attempts, judged, and positions computed"""
    learn: Callable[[Sequence[Attempt], int, int], dict[str, float]]
    """(marked attempts, steps, seed) -> numbers for metrics.jsonl"""
    module: nn.Module  # what of it learns


def learned(model: Transformer, tokenizer: Tokenizer) -> Judge:
    def learn(marked: Sequence[Attempt], num_steps: int, seed: int) -> dict[str, float]:
        loss, positions = fit(model, tokenizer, marked, num_steps, seed)
        return {"judge/loss": loss, "judge/positions": 3 * positions}  # forward and backward

    return Judge(lambda attempts, marked: verdicts(model, tokenizer, attempts), learn, model)


def unmarked(tokenizer: Tokenizer, problem: Problem, completion: Completion) -> Attempt:
    """An attempt that nobody has judged: all of its lines wrong."""
    transcript = turns_of(tokenizer, completion)
    return Attempt(problem, completion, transcript, Verdict(0.0, (False,) * len(lines_of(transcript)), 0))


def spans(tokenizer: Tokenizer, attempt: Attempt) -> list[slice]:
    """The tokens of each line and, where an attempt was not cut off, of the stop, as places in its completion. The
    newline before a line is the line's: whoever writes it has decided to go on."""
    made, num_lines = attempt.completion, len(attempt.verdict.steps)
    starts = starts_of_lines(tokenizer, attempt)
    edges = [start - (0 < i < num_lines) for i, start in enumerate(starts)] + [len(made.ids)]
    found = [slice(a, b) for a, b in pairwise(edges)]
    return found if made.stop == "end" else found[:-1]


def marks(attempt: Attempt) -> list[bool]:
    """What a verifier says of the lines and the stop, up to the first error; where he finds none and yet the answer is
    wrong, it is the stop that is."""
    verdict = attempt.verdict
    num_lines = len(verdict.steps)
    if verdict.first_error is None:
        return [True] * num_lines + [verdict.outcome >= 1]
    return [True] * verdict.first_error + [False]


def to_batch(tokenizer: Tokenizer, attempts: Sequence[Attempt]) -> Batch:
    """A row an attempt, what it sampled has weight 1. Streams: the tokens of lines marked "right", and of the one that
    is marked "wrong"."""
    items = []
    for a in attempts:
        made, at = a.completion, len(a.completion.prompt_ids)
        ids, mask = [*made.prompt_ids, *made.ids], [0.0] * at + [float(m) for m in made.mask]
        streams = {True: [0.0] * len(ids), False: [0.0] * len(ids)}
        for span, right in zip(spans(tokenizer, a), marks(a), strict=False):
            streams[right][at + span.start : at + span.stop] = mask[at + span.start : at + span.stop]
        items.append([Item(ids, mask, {"right": streams[True], "wrong": streams[False]})])
    longest = -(-max(item.num_positions for (item,) in items) // 32) * 32  # few shapes: see losses.learned
    return collate(items, longest, tokenizer.end_of_text, packed=False)


def marking(model: Transformer, batch: Batch) -> Losses:
    """ "right": -log p, a mean over tokens of right lines. "wrong": -log(1 - p), a mean over wrong lines, where p is a
    line's, held a hair below 1 so that a judge who is sure of what is wrong can still be moved."""
    logp = log_probs(model, batch)  # (B, T)
    right, wrong = batch.streams["right"], batch.streams["wrong"]
    p = (logp * wrong).sum(1).exp()  # (B,), 1 where nothing is marked wrong
    there = wrong.any(1)
    missed = -torch.log1p(-0.99 * p) * there
    return {"right": (-(logp * right).sum(), right.sum()), "wrong": (missed.sum(), there.float().sum())}


def cheat(tokenizer: Tokenizer, rng: random.Random, a: Attempt, other: Attempt) -> Attempt | None:
    """A wrong attempt made of a's right lines, whose first error is known without asking; None where there is none.

    "short" stops after some of them, which is too soon; "twice" says one again; "swapped" puts them under the other's
    problem, wrong where they first differ from its right ones.
    """
    lines, theirs = (lines_of(x.transcript)[: marks(x).count(True)] for x in (a, other))
    kind, problem = rng.choice(("short", "twice", "swapped")), a
    if len(a.transcript) != 1 or a.transcript[0].tool_calls:
        return None
    if kind == "swapped":
        problem = other
        places = [i for i, (our, their) in enumerate(zip(lines, theirs, strict=False)) if our != their][:1]
    else:
        most = len(lines) - (kind == "short" and all(marks(a)))
        places = [rng.randint(1, most)] if most else []
    if not places:
        return None
    (place,) = places
    again = [lines[place - 1]] * rng.randint(1, 3)
    said = {"short": lines[:place], "twice": lines[:place] + again + lines[place:], "swapped": lines}[kind]
    ids = [*tokenizer.encode("\n".join(said)), tokenizer.turn_end]
    made = Completion(problem.completion.prompt_ids, ids, [0.0] * len(ids), [1] * len(ids), "end")
    steps = tuple(i < place for i in range(len(said)))
    return replace(unmarked(tokenizer, problem.problem, made), verdict=Verdict(0.0, steps, place, kind))


def fit(
    model: Transformer, tokenizer: Tokenizer, pool: Sequence[Attempt], num_steps: int, seed: int
) -> tuple[float, int]:
    """Learn from marked attempts, the newest last -> mean loss in nats, positions computed. A function of its
    arguments: the optimizer begins anew."""
    optimizer = Optimizer(model, embed_lr=LEARNING_RATE, norm_lr=LEARNING_RATE, muon=False)
    losses, num_positions = list[float](), 0
    for step in range(num_steps):
        rng = random.Random(f"judge {seed} {step}")
        chosen = rng.choices(pool, k=BATCH // 2) + rng.choices(pool[-NEWEST:], k=BATCH // 2)
        made_up = (cheat(tokenizer, rng, a, rng.choice(pool)) for a in chosen[::2])
        batch = to_batch(tokenizer, [*chosen, *(a for a in made_up if a)])
        row = update(model, optimizer, marking, [batch], lr_scale=1 - step / num_steps, clip_norm=1.0)
        losses += [row["loss"]] if "loss" in row else []
        num_positions += batch.ids.numel()
    return fmean(losses), num_positions


@torch.no_grad()
def scores(model: Transformer, tokenizer: Tokenizer, attempts: Sequence[Attempt]) -> tuple[list[list[float]], int]:
    """Of each attempt's lines and its stop, how probable the judge finds them; positions computed."""
    found, num_positions = list[list[float]](), 0
    for i in range(0, len(attempts), 128):
        some = attempts[i : i + 128]
        batch = to_batch(tokenizer, some).to(next(model.parameters()).device)
        for a, row in zip(some, log_probs(model, batch).tolist(), strict=True):
            said = row[len(a.completion.prompt_ids) - 1 :]  # a token's number stands where it is the target
            found.append([exp(sum(said[span])) for span in spans(tokenizer, a)])
        num_positions += batch.ids.numel()
    return found, num_positions


def verdicts(model: Transformer, tokenizer: Tokenizer, attempts: Sequence[Attempt]) -> tuple[list[Attempt], int]:
    """The attempts, judged, and positions computed."""
    found, num_positions = scores(model, tokenizer, attempts)
    places = ((i for i, score in enumerate(line) if score <= SURE) for line in found)
    return [judged(a, next(wrong, None)) for a, wrong in zip(attempts, places, strict=True)], num_positions


def judged(a: Attempt, first_error: int | None) -> Attempt:
    """The attempt with a judge's verdict. What was cut off is not whole, whatever the judge thinks."""
    num_lines = len(a.verdict.steps)
    if first_error is None and a.completion.stop != "end":
        first_error = num_lines
    steps = tuple(first_error is None or i < first_error for i in range(num_lines))
    return replace(a, verdict=Verdict(float(first_error is None), steps, first_error, "judged"))


def to_row(a: Attempt) -> dict[str, Any]:
    """A marked attempt as JSON, with all that learning from it needs; `from_row` reads it."""
    made, verdict = a.completion, a.verdict
    return {
        "question": a.problem.prompt,
        "text": a.text,
        "outcome": verdict.outcome,
        "steps": verdict.steps,
        "first_error": verdict.first_error,
        "feedback": verdict.feedback,
        "stop": made.stop,
        "prompt_ids": made.prompt_ids,
        "ids": made.ids,
        "mask": made.mask,
    }


def from_row(tokenizer: Tokenizer, row: dict[str, Any]) -> Attempt:
    made = Completion(row["prompt_ids"], row["ids"], [0.0] * len(row["ids"]), row["mask"], row["stop"])
    verdict = Verdict(row["outcome"], tuple(row["steps"]), row["first_error"], row["feedback"])
    problem = Problem("", "", "", row["question"], "")
    return replace(unmarked(tokenizer, problem, made), verdict=verdict)
