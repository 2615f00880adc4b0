"""Credit: groups of attempts at one problem -> what each line of each attempt earned.

An assigner only writes numbers, one a line and one for stopping; `spread` lays them over the tokens, and one update
(train/losses.py) consumes them without knowing who wrote them.
Sources: RLOO / Dr. GRPO (2503.20783) for the mean baseline; VPR (2605.10325) for credit up to the first error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from nightschool.tasks.attempt import Attempt
from nightschool.tasks.task import lines_of
from nightschool.text.tokenizer import Tokenizer

Assigner = Callable[[Sequence[Attempt]], list[list[float]]]  # [attempt][line], the last entry is the stop


def outcome(group: Sequence[Attempt]) -> list[list[float]]:
    """The straw: every line gets the attempt's outcome less the group's mean."""
    mean = sum(a.verdict.outcome for a in group) / len(group)
    return [[a.verdict.outcome - mean] * (len(a.verdict.steps) + 1) for a in group]


def first_error(group: Sequence[Attempt]) -> list[list[float]]:
    """Line by line: right or wrong, less the share of right ones among the attempts that were still right there.

    Lines after an attempt's first error get nothing: they were never given a chance.
    """
    right = [[*a.verdict.steps, a.verdict.first_error is None] for a in group]
    reached = [len(a.verdict.steps) if a.verdict.first_error is None else a.verdict.first_error for a in group]
    credits = [[0.0] * len(steps) for steps in right]
    for line in range(max(reached) + 1):
        alive = [i for i in range(len(group)) if reached[i] >= line]
        mean = sum(right[i][line] for i in alive) / len(alive)
        for i in alive:
            credits[i][line] = right[i][line] - mean
    return credits


ASSIGNERS: dict[str, Assigner] = {"outcome": outcome, "first_error": first_error}


def line_of_tokens(tokenizer: Tokenizer, attempt: Attempt) -> list[int]:
    """For each token of the completion: the line it belongs to; the last line's number + 1 for the token that ends
    the last turn; -1 for what tools said. A line's newline belongs to it, and so does the end of a tool call's turn.
    """
    completion, lines, line = attempt.completion, [], 0
    num_lines = len(lines_of(attempt.transcript))
    sampled_before = True
    for id, sampled in zip(completion.ids, completion.mask, strict=True):
        if sampled and not sampled_before:
            line += 1
        lines.append(line if sampled else -1)
        line += bool(sampled) and "\n" in tokenizer.decode([id])
        sampled_before = bool(sampled)
    if completion.stop == "end":
        lines[-1] = num_lines
    return lines


def spread(tokenizer: Tokenizer, attempt: Attempt, credit: Sequence[float]) -> list[float]:
    """Credit per line -> per token of the completion."""
    lines = line_of_tokens(tokenizer, attempt)
    return [0.0 if line < 0 else credit[min(line, len(credit) - 1)] for line in lines]
