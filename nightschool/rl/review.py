"""Review: a model re-reads an attempt line by line and says of each line whether the work is still right.

It is a conversation like any other: the problem and the first line are said to it, it says "right" or "wrong", the next
line follows, and so on to "That is all.", where an attempt that ends too early or goes on too long is found out. With
each line comes how sure the writer was of it, from 0 to 9, which is most of what there is to know (bench/review.py). A
mark is the probability of "right" against "wrong". All marks of an attempt come from one pass in which every line
before was right; so they multiply to the probability of each line to be the first wrong one.

Whoever has a solution beside the attempt only has to read along: its mark of a line is the probability that it would
have said the same (`aware`). The model learns that first, and then to give the marks of this reference-aware self
without a solution: forward KL. But: attempts of one turn; a solution that can be worded in many ways would want other
marks; lines that the context does not hold are wrong unread.

Sources: STV (2605.30290) for the reference-aware self as teacher; InT (2601.14209) for the first error as what a review
is about; calibration error over bins of equal mass (1909.10155).

B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch

from nightschool.model.transformer import Transformer
from nightschool.rl.credit import Marks, first_wrong, line_of_tokens
from nightschool.tasks.attempt import Attempt
from nightschool.tasks.task import lines_of
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.packing import Batch, Item, collate, trim
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import LossFn
from nightschool.train.losses import Losses, cross_entropy, log_probs
from nightschool.world.problem import Problem

RIGHT, WRONG = "right", "wrong"
END = "That is all."
ROWS = 64  # attempts read at a time


@dataclass(frozen=True)
class Work:
    """An attempt as it is read: the problem, its lines, and how sure the writer was of each and of the end."""

    prompt: str
    lines: tuple[str, ...]
    sure: tuple[int, ...]


def work_of(tokenizer: Tokenizer, attempt: Attempt) -> Work:
    written = by_line(tokenizer, attempt, attempt.completion.log_probs)
    return Work(attempt.problem.prompt, tuple(lines_of(attempt.transcript)), tuple(map(sureness, written)))


def by_line(tokenizer: Tokenizer, attempt: Attempt, token_log_probs: Sequence[float]) -> list[float]:
    """Log-probs of the completion's tokens -> of its lines and of its end, which is impossible where it was cut off."""
    sums = [0.0] * (len(lines_of(attempt.transcript)) + 1)
    for line, log_prob in zip(line_of_tokens(tokenizer, attempt), token_log_probs, strict=True):
        if line >= 0:
            sums[line] += log_prob
    return sums if attempt.completion.stop == "end" else [*sums[:-1], -math.inf]


def sureness(log_prob: float) -> int:
    """9 for a line of which the writer was sure to within 1/64 nat; each doubling of its doubt takes one away."""
    return 9 - max(0, min(9, math.ceil(math.log2(max(-log_prob, 1e-9)) + 6))) if log_prob > -math.inf else 0


def conversation(work: Work, said: Sequence[bool]) -> tuple[Message, ...]:
    """As many of the lines, and then the end, as there are marks to say."""
    lines = [f"{line} ({sure})" for line, sure in zip([*work.lines, END], work.sure, strict=True)][: len(said)]
    lines[0] = f"{work.prompt}\n\nReview:\n{lines[0]}"
    return tuple(
        turn
        for line, right in zip(lines, said, strict=True)
        for turn in (Message("user", line), Message("assistant", RIGHT if right else WRONG))
    )


def to_items(tokenizer: Tokenizer, works: Sequence[Work], marks: Sequence[Marks]) -> list[Item]:
    """Conversations in which each mark's first token, "right", is learned; stream "wrong": how much of it is not so.

    Of each work as many lines as it has marks; all but the last were right.
    """
    shown = [(conversation(work, [True] * len(p)), ()) for work, p in zip(works, marks, strict=True)]
    items = []
    for (ids, mask), p in zip(chat.render_many(tokenizer, shown), marks, strict=True):
        places = [at + 1 for at, (before, now) in enumerate(pairwise(mask)) if now and not before]
        learned, wrong = [0.0] * len(ids), [0.0] * len(ids)
        for place, right in zip(places, p, strict=True):
            learned[place], wrong[place] = 1.0, 1 - right
        items.append(Item(ids, learned, {"wrong": wrong}))
    return items


def imitation(tokenizer: Tokenizer) -> LossFn:
    """A loss: next token where nothing is wrong; else cross-entropy to the two words, forward KL and a constant."""
    _, no = pair(tokenizer)

    def loss(model: Transformer, batch: Batch) -> Losses:
        hidden = model.hidden(batch.ids, batch.docs)
        head = model.lm_head.weight.to(hidden.dtype)
        wrong = batch.weights * batch.streams.get("wrong", torch.zeros_like(batch.weights))
        told, _ = cross_entropy(hidden, head, batch.targets, batch.weights - wrong)
        refused, _ = cross_entropy(hidden, head, torch.full_like(batch.targets, no), wrong)
        return {"loss": (told + refused, batch.weights.sum())}

    return loss


def pair(tokenizer: Tokenizer) -> list[int]:
    """The tokens by which "right" and "wrong" are told apart."""
    return [tokenizer.encode(word)[0] for word in (RIGHT, WRONG)]


@torch.no_grad()
def read(model: Transformer, tokenizer: Tokenizer, works: Sequence[Work]) -> tuple[list[Marks], int]:
    """The model's marks, and positions computed."""
    yes_no, found, num_positions = pair(tokenizer), list[Marks](), 0
    for i in range(0, len(works), ROWS):
        some = works[i : i + ROWS]
        batch = one_a_row(model, tokenizer, to_items(tokenizer, some, [[1.0] * len(work.sure) for work in some]))
        hidden = model.hidden(batch.ids)[batch.weights > 0]
        logits = hidden.float() @ model.lm_head.weight[yes_no].float().t()
        p = iter(logits.softmax(-1)[:, 0].tolist())
        for work, row in zip(some, batch.weights, strict=True):
            seen = [next(p) for _ in range(int(row.sum()))]
            found.append(seen + [0.0] * (len(work.sure) - len(seen)))
        num_positions += batch.ids.numel()
    return found, num_positions


def one_a_row(model: Transformer, tokenizer: Tokenizer, items: Sequence[Item]) -> Batch:
    """Cut where the context ends."""
    longest = -(-max(item.num_positions for item in items) // 32) * 32  # few shapes: see losses.learned
    rows = [[trim(item, model.config.max_position_embeddings)] for item in items]
    batch = collate(rows, min(longest, model.config.max_position_embeddings), tokenizer.end_of_text, packed=False)
    return batch.to(model.lm_head.weight.device)


def with_solution(tokenizer: Tokenizer, problem: Problem, said: Sequence[int]) -> Item:
    """What somebody said who had the solution before him; all of it is learned."""
    asked = Message("user", f"{problem.prompt}\n\nSolution:\n{problem.solution}")
    ids, _ = chat.render(tokenizer, (asked,), generate=True)
    return Item([*ids, *said], [0.0] * len(ids) + [1.0] * len(said))


@torch.no_grad()
def aware(model: Transformer, tokenizer: Tokenizer, attempts: Sequence[Attempt]) -> list[Marks]:
    """The marks of a model that has the solution before it: the probability that it would have said each line, and
    ended there."""
    found = []
    for i in range(0, len(attempts), ROWS):
        some = attempts[i : i + ROWS]
        items = [with_solution(tokenizer, a.problem, a.completion.ids) for a in some]
        said = log_probs(model, one_a_row(model, tokenizer, items)).cpu()
        for a, item, row in zip(some, items, said, strict=True):
            first = len(item.ids) - len(a.completion.ids) - 1  # the target at a place is the next token
            token_log_probs = row[first:].tolist()[: len(a.completion.ids)]
            unread = [-math.inf] * (len(a.completion.ids) - len(token_log_probs))
            found.append([math.exp(x) for x in by_line(tokenizer, a, token_log_probs + unread)])
    return found


def guess(marks: Marks) -> int:
    """The likeliest place of the first wrong line; len(marks): nothing is wrong."""
    chances = first_wrong(marks)
    return chances.index(max(chances))


def truth(attempt: Attempt) -> int:
    """The place that a verifier gives."""
    verdict = attempt.verdict
    return len(verdict.steps) + (verdict.outcome >= 1) if verdict.first_error is None else verdict.first_error


def measured(true: Sequence[int], found: Sequence[Marks]) -> dict[str, float]:
    """first_error: how often the likeliest place is the true one; also among the right attempts and the wrong ones.
    calibration: the error of marks up to the first wrong line; calibration_whole: of the chance that all is right."""
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
