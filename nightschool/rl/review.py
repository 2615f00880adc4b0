"""Review: a model re-reads an attempt line by line and says of each line whether the work is still right.

It is a conversation like any other: the problem and the first line are said to it, it says "right" or "wrong", the next
line follows, and so on to "That is all.", where an attempt that ends too early or goes on too long is found out. The
probability of the first token of that word, among the two, is its mark. All marks of an attempt come from one pass, in
which every line before was right; so they multiply to the probability of each line to be the first wrong one.

Whoever has a right solution beside the attempt only has to compare. That is learned first, from solutions with planted
slips, whose place is known without asking anybody; then this reference-aware self marks the day's attempts, and the
model learns to say the same with no solution to look at: forward KL to its marks. But: attempts of one turn; lines that
the context does not hold are wrong unread.

Sources: STV (2605.30290) for the reference-aware self as teacher; RLSD (2604.03128) for marks that fix the size of
credit (credit.py); ECE with bins of equal mass (1909.10155).

B batch, T time, C channels, V vocabulary.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean

import torch

from nightschool.model.transformer import Transformer
from nightschool.tasks.attempt import Attempt
from nightschool.tasks.task import lines_of
from nightschool.text import chat
from nightschool.text.document import Message
from nightschool.text.packing import Batch, Item, collate
from nightschool.text.tokenizer import Tokenizer
from nightschool.train.loop import LossFn
from nightschool.train.losses import Losses, cross_entropy
from nightschool.world.problem import Problem

RIGHT, WRONG = "right", "wrong"
END = "That is all."
Marks = list[float]  # of each line and the end: the probability that it is right where all before it was


@dataclass(frozen=True)
class Work:
    """Something to review: a problem, the lines that somebody wrote, and maybe a right solution to look at."""

    prompt: str
    lines: tuple[str, ...]
    reference: str = ""


def work_of(attempt: Attempt, aware: bool = False) -> Work:
    problem = attempt.problem
    return Work(problem.prompt, tuple(lines_of(attempt.transcript)), problem.solution if aware else "")


def conversation(prompt: str, lines: Sequence[str], said: Sequence[bool], reference: str = "") -> tuple[Message, ...]:
    """As many of the lines, and then the end, as there are marks to say."""
    solution = f"\n\nSolution:\n{reference}" if reference else ""
    first, *rest = [*lines, END][: len(said)]
    lines = [f"{prompt}{solution}\n\nReview:\n{first}", *rest]
    words = [RIGHT if right else WRONG for right in said]
    return tuple(
        turn
        for line, word in zip(lines, words, strict=True)
        for turn in (Message("user", line), Message("assistant", word))
    )


def to_items(tokenizer: Tokenizer, works: Sequence[Work], marks: Sequence[Marks]) -> list[Item]:
    """Conversations in which the marks' first tokens are learned. Stream "right": the probability to give that word.

    Of each work as many lines as it has marks; all but the last were right.
    """
    shown = [
        (conversation(work.prompt, work.lines, [True] * len(p), work.reference), ())
        for work, p in zip(works, marks, strict=True)
    ]
    items = []
    for (ids, mask), p in zip(chat.render_many(tokenizer, shown), marks, strict=True):
        places = [at + 1 for at, (before, now) in enumerate(pairwise(mask)) if now and not before]
        learned, right = [0.0] * len(ids), [0.0] * len(ids)
        for place, probability in zip(places, p, strict=True):
            learned[place], right[place] = 1.0, probability
        items.append(Item(ids, learned, {"right": right}))
    return items


def first_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The tokens by which "right" and "wrong" are told apart."""
    right, wrong = (tokenizer.encode(word)[0] for word in (RIGHT, WRONG))
    assert right != wrong, (right, wrong)
    return right, wrong


def imitation(tokenizer: Tokenizer) -> LossFn:
    """A loss: cross-entropy to marks, which is their forward KL and a constant; the mean over marks, in nats."""
    right, wrong = first_ids(tokenizer)

    def loss(model: Transformer, batch: Batch) -> Losses:
        hidden, p = model.hidden(batch.ids, batch.docs), batch.streams["right"]
        head = model.lm_head.weight.to(hidden.dtype)
        parts = [
            cross_entropy(hidden, head, torch.full_like(batch.targets, id), batch.weights * share)[0]
            for id, share in ((right, p), (wrong, 1 - p))
        ]
        return {"loss": (parts[0] + parts[1], batch.weights.sum())}

    return loss


@torch.no_grad()
def read(model: Transformer, tokenizer: Tokenizer, works: Sequence[Work]) -> tuple[list[Marks], int]:
    """The model's marks, and positions computed."""
    pair, found, num_positions = list(first_ids(tokenizer)), list[Marks](), 0
    most = model.config.max_position_embeddings
    for i in range(0, len(works), 64):
        some = works[i : i + 64]
        items = to_items(tokenizer, some, [[1.0] * (len(work.lines) + 1) for work in some])
        longest = min(-(-max(item.num_positions for item in items) // 32) * 32, most)  # few shapes: see losses.learned
        items = [
            item._replace(ids=item.ids[: longest + 1], mask=item.mask[: longest + 1], streams={}) for item in items
        ]
        batch = collate([[item] for item in items], longest, tokenizer.end_of_text, packed=False)
        batch = batch.to(model.lm_head.weight.device)
        hidden = model.hidden(batch.ids)[batch.weights > 0]
        logits = (hidden @ model.lm_head.weight[pair].to(hidden.dtype).t()).float()
        p = iter(logits.softmax(-1)[:, 0].tolist())
        for work, row in zip(some, batch.weights, strict=True):
            seen = [next(p) for _ in range(int(row.sum()))]
            found.append(seen + [0.0] * (len(work.lines) + 1 - len(seen)))
        num_positions += batch.ids.numel()
    return found, num_positions


def first_wrong(marks: Marks) -> list[float]:
    """The probability of each line, and the end, to be the first wrong one; the last entry: that all is right."""
    alive, found = 1.0, []
    for p in marks:
        found.append(alive * (1 - p))
        alive *= p
    return [*found, alive]


def guess(marks: Marks) -> int:
    """The likeliest place of the first wrong line; len(marks): nothing is wrong."""
    chances = first_wrong(marks)
    return chances.index(max(chances))


def truth(attempt: Attempt) -> int:
    """The place that a verifier gives."""
    verdict = attempt.verdict
    return len(verdict.steps) + (verdict.outcome >= 1) if verdict.first_error is None else verdict.first_error


def slipped(rng: random.Random, line: str, theirs: Sequence[str]) -> str:
    """The line with one of its digits changed, or one of its words for one of theirs."""
    words = line.split(" ")
    place = rng.randrange(len(words))
    digits = [i for i, c in enumerate(words[place]) if c.isdigit()]
    if digits:
        i = rng.choice(digits)
        words[place] = f"{words[place][:i]}{rng.randrange(10)}{words[place][i + 1 :]}"
    else:
        words[place] = rng.choice(rng.choice(theirs).split(" "))
    return " ".join(words)


def planted(rng: random.Random, problem: Problem, other: Problem) -> tuple[Work, Marks]:
    """A right solution beside itself, in half of the cases with a slip: in the place of a line, or the end, stands
    another of its lines, one of another problem's, or the same with one word or digit changed. And its marks."""
    gold, theirs = [*lines_of(problem.messages[1:]), END], lines_of(other.messages[1:])
    place = rng.randrange(len(gold)) if rng.random() < 0.5 else len(gold)
    lines, marks = gold[:place], [1.0] * place
    if place < len(gold):
        near = gold[min(place, len(gold) - 2)]  # the line itself; of the end, the one before
        slips = [slipped(rng, near, theirs), rng.choice(gold), rng.choice(theirs)]
        said = rng.choice(slips)
        lines, marks = [*lines, said], [*marks, float(said == gold[place])]
    return Work(problem.prompt, tuple(lines[:-1] if lines[-1] == END else lines), problem.solution), marks


def measured(attempts: Sequence[Attempt], found: Sequence[Marks]) -> dict[str, float]:
    """first_error: how often the likeliest place is the verifier's; also of the right attempts and of the wrong ones.
    calibration: of the marks up to the first wrong line; calibration_whole: of the chance that all is right."""
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
    plain estimate, which is too high by what chance adds."""
    ordered, n = sorted(pairs), len(pairs)
    edges = [n * i // num_bins for i in range(num_bins + 1)]
    bins = [ordered[a:b] for a, b in pairwise(edges) if a < b]
    return sum(abs(sum(said - true for said, true in some)) for some in bins) / n
