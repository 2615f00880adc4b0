"""Running totals: a two-digit number, a row of digits to add one by one, and the last two digits after each.

"62: 1425" is worked as 63, 67, 69, 74. A line follows from the one before and a single digit, so each step is easy
and the whole is as hard as it is long: made for experiments on credit. `Slips` is a teacher who knows how and is
careless where a ten is passed, which is where pupils are. But: the last line is the answer, no "Answer:" before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from nightschool.world.problem import Problem, Split, split_of

LARGEST = 6  # of the digits; every third step or so passes a ten
MODULUS = 5  # of the last line in `lucky`: many wrong totals leave the right rest


@dataclass(frozen=True)
class Slips:
    """How often a total that passes a ten goes wrong; the work goes on from what was written."""

    carry: float = 0.0  # the ten is forgotten: 38+5=33
    count: float = 0.0  # one too few: 38+5=42


def add(total: int, digit: int, rng: Random, slips: Slips) -> int:
    wrong = 0
    if total % 10 + digit > 9:
        luck = rng.random()
        wrong = 10 if luck < slips.carry else 1 if luck < slips.carry + slips.count else 0
    return (total + digit - wrong) % 100


def totals(
    rng: Random, split: Split, num_steps: tuple[int, int] = (12, 12), slips: Slips = Slips(), lucky: bool = False
) -> Problem:
    """So many (low, high) steps; with slips, what the careless teacher makes of it.

    lucky: a last line says what the total leaves divided by 5, and that alone is the answer.
    """
    while True:
        start, digits = rng.randrange(100), [rng.randint(1, LARGEST) for _ in range(rng.randint(*num_steps))]
        question = f"{start:02}: {''.join(map(str, digits))}{' by 5' if lucky else ''}"
        if split_of(f"totals {question}") == split:
            break
    lines, total = [], start
    for digit in digits:
        total = add(total, digit, rng, slips)
        lines.append(f"{total:02}")
    *steps, closing = (*lines, str(total % MODULUS)) if lucky else lines
    kind = "lucky" if lucky else f"steps_{len(digits)}"
    return Problem("totals", kind, f"totals {question}", question, closing, steps=tuple(steps), closing=closing)
