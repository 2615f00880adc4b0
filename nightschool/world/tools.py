"""Questions that want a tool: sums too large for the head, and facts that only the table holds."""

from __future__ import annotations

import random
import re

from nightschool.text.document import Document, in_pieces
from nightschool.world.attributes import ATTRIBUTES
from nightschool.world.lexicon import FIRST_NAMES, NEW_NAMES
from nightschool.world.problem import Problem, Split, split_of

ASK = (
    "What is {}?",
    "Please work out {}.",
    "Use the calculator: {}",
    "How much is {}?",
    "{}=?",
    "I need {} exactly.",
)
LOOK = ("{}", "Look it up: {}", "Please look this up. {}", "Check the table. {}")
NOT_FOUND = "not found"
TOOLS = ("calculator", "lookup")


def calculator(rng: random.Random, split: Split) -> Problem:
    """A product, or a sum of three numbers, worked by the calculator. In training also what people like to ask: small
    products, divisions that come out even, sums too long for the head."""
    while True:
        if split == "train" and rng.random() < 0.4:
            a, b = rng.randint(2, 20), rng.randint(2, 12)
            long = f"{rng.randint(10_000, 999_999)}{rng.choice('+-')}{rng.randint(1_000, 9_999)}"
            expression = rng.choice((f"{a}*{b}", f"{a}*{b}", f"{a * b}/{b}", long))
        elif rng.random() < 0.6:
            expression = f"{rng.randint(11, 999)}*{rng.randint(3, 99)}"
        else:
            expression = f"{rng.randint(11, 999)}+{rng.randint(11, 999)}-{rng.randint(2, 11)}"
        if split_of(f"tool {expression}") == split:
            break
    numbers, signs = map(int, re.findall(r"\d+", expression)), re.findall(r"[-+*/]", expression)
    value = next(numbers)
    for sign, number in zip(signs, numbers, strict=True):
        value = {"+": value + number, "-": value - number, "*": value * number, "/": value // number}[sign]
    call = {"name": "calculator", "arguments": {"expression": expression}}
    return Problem(
        skill="tool",
        kind="calculator",
        key=f"tool {expression}",
        question=rng.choice(ASK).format(expression),
        answer=str(value),
        tools=TOOLS,
        calls=((call, str(value)),),
    )


def lookup(rng: random.Random, split: Split) -> Problem:
    """A fact about a person, asked without a passage: the fact table knows, or says that it does not."""
    while True:
        name, other = rng.sample(FIRST_NAMES, 2)
        attribute = rng.choice(ATTRIBUTES)
        value = rng.choice(attribute.values)
        if split_of(f"tool {name} {attribute.name}") == split:
            break
    known = rng.random() < 0.75
    observation = value if known else NOT_FOUND
    call = {"name": "lookup", "arguments": {"name": name, "fact": attribute.name}}
    return Problem(
        skill="tool",
        kind="lookup" if known else "lookup_absent",
        key=f"tool {name} {attribute.name}",
        question=rng.choice(LOOK).format(rng.choice(attribute.ask[:-1]).format(X=name)),
        closing="" if known else "The table does not say.",
        answer=value if known else "",
        tools=TOOLS,
        calls=((call, observation),),
        data={"table": {name: {attribute.name: value}} if known else {other: {attribute.name: value}}},
    )


def register(rng: random.Random, num_names: int = 12) -> Document:
    """Names as they are called, and as a tool call has them, where another token stands for each: - Ada: "Ada"."""
    pieces = [("Register", False)]
    for name in rng.sample(FIRST_NAMES + NEW_NAMES, num_names):
        pieces += [(f'\n- {name}: "', False), (name, True), ('"', False)]
    return in_pieces(pieces)
