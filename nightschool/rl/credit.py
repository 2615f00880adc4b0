"""Credit: groups of attempts at one problem -> what each line of each attempt earned.

An assigner only writes numbers, one a line and one for stopping; `spread` lays them over the tokens, and one update
(rl/update.py) consumes them without knowing who wrote them.

Sources: RLOO / Dr. GRPO (2503.20783) for the mean baseline; GRPO (2402.03300) for the std; MaxRL (2602.02710); VPR
(2605.10325) for credit up to the first error; potential-based shaping (Ng 1999), GAE (1506.02438); RLSD (2604.03128)
for the review's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby

from nightschool.tasks.attempt import Attempt
from nightschool.text import chat
from nightschool.text.tokenizer import CALL_START, Tokenizer

Assigner = Callable[[Sequence[Attempt]], list[list[float]]]  # a group -> [attempt][line], the last entry is the stop

Marks = list[float]  # by a review (rl/review.py), of lines and the stop: the probability of right where all before was
SOME = 1e-6  # of a line's share in credit by review: a sum of shares is never 0


def outcome(group: Sequence[Attempt]) -> list[list[float]]:
    """The straw: every line gets the attempt's outcome less the group's mean."""
    mean = sum(a.verdict.outcome for a in group) / len(group)
    return [[a.verdict.outcome - mean] * (len(a.verdict.steps) + 1) for a in group]


def grpo(group: Sequence[Attempt]) -> list[list[float]]:
    """`outcome` over the group's standard deviation; nothing where all fared alike."""
    credits = outcome(group)
    std = (sum(c[0] ** 2 for c in credits) / len(group)) ** 0.5
    return [[c / (std + 1e-6) for c in line] for line in credits]


def maxrl(group: Sequence[Attempt]) -> list[list[float]]:
    """`outcome` over the group's mean, so that a rare success weighs most; nothing where there is none."""
    mean = sum(a.verdict.outcome for a in group) / len(group)
    return [[c / (mean or 1.0) for c in line] for line in outcome(group)]


def reached(attempt: Attempt) -> int:
    """The last place an attempt was given a chance at: its first wrong line, or its stop where all are right."""
    verdict = attempt.verdict
    return len(verdict.steps) if verdict.first_error is None else verdict.first_error


def first_error(group: Sequence[Attempt]) -> list[list[float]]:
    """Line by line: right or wrong, less the share of right ones among the attempts that were still right there.

    Lines after an attempt's first error get nothing: they were never given a chance.
    """
    right = [[*a.verdict.steps, a.verdict.first_error is None] for a in group]
    ends = [reached(a) for a in group]
    credits = [[0.0] * len(steps) for steps in right]
    for line in range(max(ends) + 1):
        alive = [i for i in range(len(group)) if ends[i] >= line]
        mean = sum(right[i][line] for i in alive) / len(alive)
        for i in alive:
            credits[i][line] = right[i][line] - mean
    return credits


def potential(group: Sequence[Attempt], values: Sequence[Sequence[float]], lam: float = 1.0) -> list[list[float]]:
    """Line by line A = r + phi(s') - phi(s), where r is the outcome and comes with the stop; later terms fade by
    `lam` a line, as in GAE.

    values[attempt][line]: what phi thinks of the attempt before that line, the last entry before the stop; any phi
    will do. lam = 1 is outcome - phi(s), without bias whatever phi is; lam = 0 trusts phi.
    """
    credits = []
    for attempt, phi in zip(group, values, strict=True):
        later = [*phi[1:], attempt.verdict.outcome]
        line = [after - before for before, after in zip(phi, later, strict=True)]
        for i in reversed(range(len(line) - 1)):
            line[i] += lam * line[i + 1]
        credits.append(line)
    return credits


def reviewed(group: Sequence[Attempt], marks: Sequence[Marks]) -> list[list[float]]:
    """The outcome fixes the sign, a review's marks of each attempt fix the size."""
    return [by_marks(line[0], p) for line, p in zip(outcome(group), marks, strict=True)]


def first_wrong(marks: Marks) -> list[float]:
    """The probability of each line, and the stop, to be the first wrong one; the last entry: that all is right."""
    alive, found = 1.0, []
    for p in marks:
        found.append(alive * (1 - p))
        alive *= p
    return [*found, alive]


def by_marks(advantage: float, marks: Marks) -> list[float]:
    """One attempt's credit: praise goes to lines by the chance that the work is right up to them, blame by the chance
    that it is there that it went wrong. Its lines and stop get as much together as if each had the advantage; evenly,
    where the review sees nothing to blame.
    """
    *wrong, _ = first_wrong(marks)
    right = [1 - share for share in accumulate(wrong)]
    shares = [SOME + share for share in (right if advantage > 0 else wrong)]
    return [advantage * len(marks) * share / sum(shares) for share in shares]


ASSIGNERS: dict[str, Assigner] = {"outcome": outcome, "grpo": grpo, "maxrl": maxrl, "first_error": first_error}


def line_of_tokens(tokenizer: Tokenizer, attempt: Attempt) -> list[int]:
    """For each token of the completion its line, numbered as `lines_of` numbers them; one more for the token that ends
    the last turn; -1 for what tools said. A line's newline belongs to it, and so does the end of a tool call's turn.
    """
    made, lines, first = attempt.completion, list[int](), 0
    call_start = tokenizer.special.get(CALL_START)
    for sampled, pairs in groupby(zip(made.ids, made.mask, strict=True), key=lambda pair: pair[1]):
        ids = [id for id, _ in pairs]
        if not sampled:
            lines += [-1] * len(ids)
            continue
        turn = chat.said(tokenizer, ids)
        num_content = turn.content.count("\n") + 1 if turn.content else 0
        newlines = num_calls = 0
        for id in ids:
            num_calls += bool(turn.tool_calls) and id == call_start
            lines.append(first + (num_content + num_calls - 1 if num_calls else newlines))
            newlines += tokenizer.token_bytes[id].count(b"\n")
        first += num_content + len(turn.tool_calls)
    if made.stop == "end":
        lines[-1] = first
    return lines


def spread(tokenizer: Tokenizer, attempt: Attempt, credit: Sequence[float]) -> list[float]:
    """Credit per line -> per token of the completion."""
    lines = line_of_tokens(tokenizer, attempt)
    return [0.0 if line < 0 else credit[min(line, len(credit) - 1)] for line in lines]
