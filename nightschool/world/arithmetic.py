"""Addition and subtraction with every column written down.

Each line can be read off the line before: what remains of both numbers with the carry (or borrow), the column worked,
the digits found so far. 472+59+1: 2+9+1=12; 21 says: of 472 and 59, carry 1, the last column makes 12, and the answer
now ends in 21.
"""

from __future__ import annotations

import random

from nightschool.world.problem import Problem, Split, split_of

ASK = (
    "{}",
    "{}=?",
    "What is {}?",
    "Work out {}.",
    "Please work out {} for me.",
    "How much is {}?",
    "Can you tell me what {} makes?",
    "I need the answer to {}.",
)


def columns(a: int, op: str, b: int) -> list[str]:
    """The worked lines of a+b, or of a-b where a >= b."""
    lines, found, carry = [], "", 0
    while True:
        x, y = a % 10, b % 10
        left = f"{a}{op}{b}{f'{op}1' if carry else ''}"
        if op == "+":
            digit = x + y + carry
            worked, next_carry = f"{x}+{y}{'+1' if carry else ''}={digit}", digit >= 10
        else:
            borrow = x - y - carry < 0
            x += 10 * borrow
            digit = x - y - carry
            worked, next_carry = f"{x}-{y}{'-1' if carry else ''}={digit}", borrow
        found = f"{digit % 10}{found}"
        lines.append(f"{left}: {worked}; {found}")
        a, b, carry = a // 10, b // 10, int(next_carry)
        if not (a or b or carry):
            return lines


def arithmetic(rng: random.Random, split: Split, digits: tuple[int, int] = (2, 4)) -> Problem:
    """A sum or difference of two numbers of `digits` (low, high) digits each; differences are never negative."""
    while True:
        op = rng.choice("+-")
        a, b = (rng.randrange(10 ** (n - 1), 10**n) for n in (rng.randint(*digits), rng.randint(*digits)))
        high, low = max(a, b), min(a, b)
        key = f"arithmetic {high}{op}{low}"
        if split_of(key) == split:
            break
    if op == "-":
        a, b = high, low
    answer = a + b if op == "+" else a - b
    return Problem(
        skill="arithmetic",
        kind="add" if op == "+" else "subtract",
        key=key,
        question=rng.choice(ASK).format(f"{a}{op}{b}"),
        steps=tuple(columns(a, op, b)),
        answer=str(answer),
        data={"a": a, "op": op, "b": b},
    )
