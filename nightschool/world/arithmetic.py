"""Addition and subtraction with every column written down.

Each line can be read off the line before: what remains of both numbers with the carry (or borrow), the column worked,
the digits found so far. 472+59+1: 2+9+1=12; 21 says: of 472 and 59, carry 1, the last column makes 12, and the answer
now ends in 21.
"""

from __future__ import annotations

import random

from nightschool.text.document import Document, in_pieces
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


def small_sum(rng: random.Random) -> str:
    """What word problems and columns are made of: "15+9=24", "4*3=12", "8+7+1=16"."""
    a, n, kind = rng.randint(10, 45), rng.randint(2, 9), rng.choice("++-*||")
    if kind == "*":
        k, m = rng.choice(((rng.randint(2, 20), 2), (rng.randint(2, 5), rng.randint(2, 5))))
        return f"{k}*{m}={k * m}"
    if kind == "|":
        column = rng.choice(columns(rng.randint(50, 99), rng.choice("+-"), rng.randint(10, 49)))
        return column.partition(": ")[2].partition(";")[0]
    return f"{a}+{n}={a + n}" if kind == "+" else f"{a}-{n}={a - n}"


def tables(rng: random.Random, num_sums: int = 14) -> Document:
    """A page of small sums to know by heart. Only results are learned; a whole word problem of dev or test is no
    part of it."""
    sums = [small_sum(rng) for _ in range(num_sums)]
    pieces = [("Sums", False)]
    for left, _, right in (s.partition("=") for s in sums if split_of(f"word_problem {s}") == "train"):
        pieces += [(f"\n{left}=", False), (right, True)]
    return in_pieces(pieces)
