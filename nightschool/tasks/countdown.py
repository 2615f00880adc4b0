"""Countdown: reach a target from a few numbers, each used once, with + - * /. A step puts one number for two.

A line may be right in many ways, so a program decides: it is right if it is true, uses numbers that are there, and
leaves a position from which the target can still be reached. That is known exactly, by trying everything; the first
line that throws it away is the first error, whatever the others say.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

from nightschool.tasks.task import Verdict, lines_of
from nightschool.text.document import Message
from nightschool.world.problem import Problem, Split, split_of

LINE = re.compile(r"(\d{1,6})([-+*/])(\d{1,6})=(\d{1,6})")
Numbers = tuple[int, ...]  # in rising order


def apply(x: int, op: str, y: int) -> int | None:
    """None where the result is no positive whole number."""
    if op == "/":
        return x // y if y and x % y == 0 else None
    result = {"+": x + y, "-": x - y, "*": x * y}[op]
    return result if result > 0 else None


def without(numbers: Numbers, *used: int) -> Numbers | None:
    left = list(numbers)
    for number in used:
        if number not in left:
            return None
        left.remove(number)
    return tuple(left)


def moves(numbers: Numbers) -> Iterator[tuple[str, Numbers]]:
    """Every line that can be written, and the numbers after it."""
    for i, x in enumerate(numbers):
        for j, y in enumerate(numbers):
            for op in "+-*/" if i > j else "-/" if i != j else "":
                result = apply(x, op, y)
                if result is not None:
                    left = [n for k, n in enumerate(numbers) if k not in (i, j)]
                    yield f"{x}{op}{y}={result}", tuple(sorted((*left, result)))


@lru_cache(maxsize=1 << 16)
def way(numbers: Numbers, target: int) -> tuple[str, ...] | None:
    """Lines that reach the target using every number, or None where there are none."""
    if len(numbers) == 1:
        return () if numbers[0] == target else None
    for line, after in moves(numbers):
        rest = way(after, target)
        if rest is not None:
            return (line, *rest)
    return None


def countdown(rng: random.Random, split: Split, count: int = 4) -> Problem:
    """A problem that can be solved; its gold is one way of many."""
    while True:
        numbers = tuple(sorted(rng.randint(1, 12) for _ in range(count)))
        after = numbers
        while len(after) > 1:
            _, after = rng.choice(list(moves(after)))
        target = after[0]
        key = f"countdown {' '.join(map(str, numbers))} {target}"
        if 10 <= target <= 99 and split_of(key) == split:
            break
    lines = way(numbers, target)
    assert lines is not None, key
    return Problem(
        skill="countdown",
        kind=f"numbers_{count}",
        key=key,
        question=f"Make {target} from {', '.join(map(str, rng.sample(numbers, count)))}.",
        answer=str(target),
        steps=lines,
        data={"numbers": numbers, "target": target},
    )


def verify_countdown(problem: Problem, transcript: Sequence[Message]) -> Verdict:
    said = [line.strip() for line in lines_of(transcript)]
    numbers, target = problem.data["numbers"], problem.data["target"]
    for place, line in enumerate(said):
        if len(numbers) == 1:
            feedback = "" if line == f"Answer: {target}" else f"should be: Answer: {target}"
            feedback = feedback or ("goes on after the answer" if place + 1 < len(said) else "")
            wrong = place + (line == f"Answer: {target}")
            break
        numbers, feedback = after_line(numbers, line)
        if not feedback and way(numbers, target) is None:
            feedback = f"{target} can no longer be reached"
        wrong = place
        if feedback:
            break
    else:
        wrong, feedback = len(said), "stops before the answer"
    if not feedback:
        return Verdict(1.0, (True,) * len(said))
    return Verdict(0.0, tuple(i < wrong for i in range(len(said))), wrong, f"line {wrong + 1}: {feedback}")


def after_line(numbers: Numbers, line: str) -> tuple[Numbers, str]:
    """The numbers after a line, and what is wrong with it or ''."""
    match = LINE.fullmatch(line)
    if not match:
        return numbers, "is no calculation"
    x, op, y, result = int(match[1]), match[2], int(match[3]), int(match[4])
    left = without(numbers, x, y)
    if left is None:
        return numbers, f"{x} and {y} are not both there"
    if apply(x, op, y) != result:
        return numbers, f"{x}{op}{y} is not {result}"
    return tuple(sorted((*left, result))), ""
