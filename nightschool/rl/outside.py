"""A judge from outside: any model that answers a prompt is asked for the first wrong line of each attempt.

It learns from marked attempts by seeing the newest of them, and what was true of them, in the prompt. But: an attempt a
prompt, no confidence, so no pessimism but this: an answer without a number, and a number that is no line's, is a no.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from torch import nn

from nightschool.rl.judge import Judge, judged
from nightschool.tasks.attempt import Attempt
from nightschool.tasks.task import lines_of

SHOWN = 4  # marked attempts in a prompt, half of them right where there are
RULES = """Check a pupil's work line by line. Answer with one number and nothing else: the number of the first wrong \
line; {after} if all lines are right but the work ends too early; 0 if it is right and complete."""


def prompt_of(attempt: Attempt, marked: Sequence[Attempt]) -> str:
    right, wrong = ([a for a in marked if (a.verdict.first_error is None) == is_right] for is_right in (True, False))
    examples = [f"{told(a)}\nYour answer: {answer_of(a)}" for a in (*wrong[-SHOWN // 2 :], *right[-SHOWN // 2 :])]
    rules = RULES.format(after="the number after the last line's")
    return "\n\n".join((rules, *examples, f"{told(attempt)}\nYour answer:"))


def told(a: Attempt) -> str:
    lines = "\n".join(f"{i}. {line}" for i, line in enumerate(lines_of(a.transcript), 1))
    return f"Problem: {a.problem.prompt}\nWork:\n{lines}"


def answer_of(a: Attempt) -> int:
    return 0 if a.verdict.first_error is None else a.verdict.first_error + 1


def verdict_of(a: Attempt, answer: str) -> Attempt:
    found = re.search(r"\d+", answer)
    number = int(found[0]) if found else 1
    return judged(a, None if number == 0 else min(number - 1, len(a.verdict.steps)))


def outside(ask: Callable[[Sequence[str]], Sequence[str]]) -> Judge:
    """ask: prompts -> answers."""

    def verdicts(attempts: Sequence[Attempt], marked: Sequence[Attempt]) -> tuple[list[Attempt], int]:
        answers = ask([prompt_of(a, marked) for a in attempts])
        return [verdict_of(a, answer) for a, answer in zip(attempts, answers, strict=True)], 0

    return Judge(verdicts, lambda marked, num_steps, seed: {}, nn.Module())
