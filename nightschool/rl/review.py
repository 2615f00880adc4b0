"""Review: a model re-reads an attempt line by line, and marks each by how likely it would have said the same.

A mark is the probability of a line given the problem and the lines before it, so marks multiply to the probability of
each line to be the first wrong one. Of what it has just written that says little: it was sure of many mistakes too.
Whoever has a solution beside the attempt only has to read along; and who has learned to say, with no solution, what
this reference-aware self says (stages/review.py) re-reads the old attempts with better judgement than wrote them.

But: a line that can be worded in many ways gets a low mark however right it is, so this is for worked steps and not for
prose; lines that the context does not hold are wrong unread.

Sources: STV (2605.30290) for the reference-aware self as teacher, STaR (2203.14465) for learning what was written with
the answer in view; InT (2601.14209) for the first error as what a review is about; calibration error over bins of equal
mass (1909.10155).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean

import torch

from nightschool.model.transformer import Transformer
from nightschool.rl.credit import Marks, first_wrong, line_of_tokens
from nightschool.tasks.attempt import Attempt
from nightschool.tasks.task import lines_of
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.packing import Item, collate, trim
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.losses import log_probs
from nightschool.world.problem import Problem

ROWS = 64  # attempts read at a time


def with_solution(problem: Problem) -> Message:
    """How a problem is put to somebody who may look at its solution."""
    return Message("user", f"{problem.prompt}\n\nSolution:\n{problem.solution}")


@torch.no_grad()
def read(
    model: Transformer, tokenizer: Tokenizer, attempts: Sequence[Attempt], aware: bool = False
) -> tuple[list[Marks], int]:
    """Each attempt's marks, of its lines and its end, and positions computed. aware: with the solution at hand."""
    context, found, num_positions = model.config.max_position_embeddings, list[Marks](), 0
    for i in range(0, len(attempts), ROWS):
        some = attempts[i : i + ROWS]
        prompts = [a.completion.prompt_ids for a in some]
        if aware:
            asked = [((with_solution(a.problem),), ()) for a in some]
            prompts = [ids for ids, _ in chat.render_many(tokenizer, asked, generate=True)]
        items = [
            trim(Item([*prompt, *a.completion.ids], [0.0] * len(prompt) + [1.0] * len(a.completion.ids)), context)
            for prompt, a in zip(prompts, some, strict=True)
        ]
        longest = min(-(-max(item.num_positions for item in items) // 32) * 32, context)  # few shapes
        batch = collate([[item] for item in items], longest, tokenizer.end_of_text, packed=False)
        said = log_probs(model, batch.to(model.lm_head.weight.device)).tolist()
        for prompt, a, row in zip(prompts, some, said, strict=True):
            seen = row[len(prompt) - 1 :][: len(a.completion.ids)]  # the target at a place is the next token
            unread = [-math.inf] * (len(a.completion.ids) - len(seen))
            found.append(by_line(tokenizer, a, seen + unread))
        num_positions += batch.ids.numel()
    return found, num_positions


def by_line(tokenizer: Tokenizer, attempt: Attempt, token_log_probs: Sequence[float]) -> Marks:
    """Log-probs of the completion's tokens -> probabilities of its lines, and of its end: 0 where it was cut off."""
    sums = [0.0] * (len(lines_of(attempt.transcript)) + 1)
    for line, log_prob in zip(line_of_tokens(tokenizer, attempt), token_log_probs, strict=True):
        if line >= 0:
            sums[line] += log_prob
    if attempt.completion.stop != "end":
        sums[-1] = -math.inf
    return [math.exp(log_prob) for log_prob in sums]


def guess(marks: Marks) -> int:
    """The likeliest place of the first wrong line; len(marks): nothing is wrong."""
    chances = first_wrong(marks)
    return chances.index(max(chances))


def truth(attempt: Attempt) -> int:
    """The place that a verifier gives."""
    verdict = attempt.verdict
    return len(verdict.steps) + (verdict.outcome >= 1) if verdict.first_error is None else verdict.first_error


def is_right(attempt: Attempt) -> bool:
    return truth(attempt) > len(attempt.verdict.steps)


def measured(attempts: Sequence[Attempt], found: Sequence[Marks]) -> dict[str, float]:
    """first_error: how often the likeliest place is the verifier's; also of the right attempts and of the wrong ones.
    calibration: the error of marks up to the first wrong line; calibration_whole: of the chance that all is right."""
    true = [truth(a) for a in attempts]
    hits = [(t == len(p), guess(p) == t) for t, p in zip(true, found, strict=True)]
    marks = [(p[i], float(i < t)) for t, p in zip(true, found, strict=True) for i in range(min(t + 1, len(p)))]
    wholes = [(first_wrong(p)[-1], float(t == len(p))) for t, p in zip(true, found, strict=True)]
    return {
        "first_error": fmean(hit for _, hit in hits),
        "right": fmean(hit for right, hit in hits if right),
        "wrong": fmean(hit for right, hit in hits if not right),
        "calibration": calibration_error(marks),
        "calibration_whole": calibration_error(wholes),
    }


def calibration_error(pairs: Sequence[tuple[float, float]], num_bins: int = 15) -> float:
    """(said, came true) -> the mean distance between what was said and what came true, over bins of equal mass; the
    plain estimate, which is too high by what chance adds. Where the same was said, the mean came true."""
    came, n = dict[float, list[float]](), len(pairs)
    for said, true in pairs:
        came.setdefault(said, []).append(true)
    ordered = [(said, fmean(came[said])) for said in sorted(came) for _ in came[said]]
    edges = [n * i // num_bins for i in range(num_bins + 1)]
    bins = [ordered[a:b] for a, b in pairwise(edges) if a < b]
    return sum(abs(sum(said - true for said, true in some)) for some in bins) / n
