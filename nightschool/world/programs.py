"""Small programs and lists, worked step by step: tracing, sorting, reversing, repeating, picking.

A trace's program has one statement a line: `a=7`, `b=a*3`, `if b>9: b=b-9`, `repeat 3: a=a+b`. Numbers are written
with no space before them, so that each digit is a token of its own. `run` is the interpreter that checks them.
"""

from __future__ import annotations

import re
from random import Random

from nightschool.world.lexicon import SPELL_WORDS
from nightschool.world.problem import Problem, Split, split_of

STATEMENT = re.compile(
    r"(?:if (?P<left>\w+)(?P<compare>[<>=])(?P<right>\w+): |repeat (?P<times>\d+): )?"
    r"(?P<name>\w)=(?P<x>\w+)(?:(?P<op>[-+*])(?P<y>\w+))?"
)


def trace(rng: Random, split: Split) -> Problem:
    """What a program of three to six lines leaves in a variable. kind: straight, if or repeat."""
    while True:
        kind = rng.choice(("straight", "straight", "if", "repeat"))
        names = rng.sample("bcdxyz", rng.randint(2, 3))
        lines = [f"{name}={rng.randint(1, 12)}" for name in names]
        for i in range(rng.randint(1, 3)):
            target, x, y = rng.choice(names), rng.choice(names), rng.choice((*names, str(rng.randint(1, 9))))
            statement = f"{target}={x}{rng.choice('+++--*')}{y}"
            if i == 0 and kind == "if":
                left, right = rng.sample(names, 2)
                statement = f"if {left}{rng.choice('<>')}{right}: {statement}"
            elif i == 0 and kind == "repeat":
                number = rng.randint(1, 9)
                statement = f"repeat {rng.randint(2, 4)}: {target}={target}{rng.choice('+-')}{number}"
            lines.append(statement)
        asked, program = rng.choice(names), "\n".join(lines)
        steps, values = run(program)
        fits = not any("=-" in step for step in steps) and max(values.values()) < 1000
        if fits and split_of(program) == split:
            break
    question = rng.choice(
        (
            f"What is {asked} at the end?",
            f"Run the program. What is {asked}?",
            f"Which number does {asked} hold after the last line?",
            f"Find {asked}.",
        )
    )
    return Problem(
        "trace",
        kind,
        program,
        question,
        str(values[asked]),
        context=program,
        steps=(*steps, f"{asked}={values[asked]}"),
    )


def run(program: str) -> tuple[list[str], dict[str, int]]:
    """Run a program -> (one line for each thing that happened, the variables at the end).

    b=a*3 with a=7 -> "b=7*3=21"; a line whose condition is false -> "7>9 is false".
    """
    values: dict[str, int] = {}
    steps = []
    for line in program.splitlines():
        statement = STATEMENT.fullmatch(line)
        assert statement, line
        name, compare = statement["name"], statement["compare"]
        if compare:
            left, right = (_value(statement[side], values) for side in ("left", "right"))
            holds = {"<": left < right, ">": left > right, "=": left == right}[compare]
            steps.append(f"{left}{compare}{right} is {'true' if holds else 'false'}")
            if not holds:
                continue
        for _ in range(int(statement["times"] or 1)):
            x = _value(statement["x"], values)
            if not statement["op"]:
                values[name] = x
                steps.append(f"{name}={x}")
                continue
            y = _value(statement["y"], values)
            values[name] = {"+": x + y, "-": x - y, "*": x * y}[statement["op"]]
            steps.append(f"{name}={x}{statement['op']}{y}={values[name]}")
    return steps, values


def _value(operand: str, values: dict[str, int]) -> int:
    return int(operand) if operand.isdigit() else values[operand]


def sort(rng: Random, split: Split) -> Problem:
    """Sort numbers or words, taking the smallest or first each time."""
    while True:
        numbers, count = rng.random() < 0.5, rng.randint(3, 6)
        items: list[str] = (
            [str(n) for n in rng.sample(range(1, 100), count)] if numbers else rng.sample(SPELL_WORDS, count)
        )
        down = numbers and rng.random() < 0.4
        if split_of(key := f"sort {' '.join(sorted(items))}") == split:
            break
    order = sorted(items, key=int if numbers else None, reverse=down)
    kind = "words" if not numbers else "down" if down else "up"
    how = {
        "words": ("in alphabetical order", "from a to z", "by the alphabet"),
        "up": ("from small to large", "in rising order", "with the smallest first"),
        "down": ("from large to small", "in falling order", "with the largest first"),
    }[kind]
    word = {"words": "first", "up": "smallest", "down": "largest"}[kind]
    left, steps = list(items), []
    for item in order[:-1]:
        steps.append(f"{word} of {_join(left)}: {item}")
        left.remove(item)
    question = rng.choice(
        (
            f"Sort {rng.choice(how)}: {_join(items)}.",
            f"Put these {rng.choice(how)}: {_join(items)}.",
            f"{_join(items)}. Write them {rng.choice(how)}.",
        )
    )
    return Problem("sort", kind, key, question, _join(order), steps=tuple(steps))


def rearrange(rng: Random, split: Split) -> Problem:
    """Say a list backwards, say a word some times, or pick one of a list. kind: reverse, repeat, pick."""
    while True:
        kind = rng.choice(("reverse", "repeat", "pick", "pick"))
        items = rng.sample(SPELL_WORDS, rng.randint(3, 7))
        times, place = rng.randint(2, 6), rng.randrange(len(items))
        key = f"repeat {items[0]} {times}" if kind == "repeat" else f"list {' '.join(sorted(items))}"
        if split_of(key) == split:
            break
    listed, nth = _join(items), ORDINALS[place]
    if kind == "reverse":
        ask = rng.choice(("Say this backwards", "Reverse this list", "Write this list from the end to the start"))
        return Problem("reverse", kind, key, f"{ask}: {listed}.", _join(items[::-1]))
    if kind == "repeat":
        question = rng.choice((f"Say {items[0]} {times} times.", f"Write the word {items[0]} {times} times."))
        return Problem("repeat", kind, key, question, " ".join(items[:1] * times))
    steps = tuple(f"{i}: {item}" for i, item in enumerate(items[: place + 1], start=1))
    question = rng.choice((f"Which word is {nth}?", f"What is the {nth} word?", f"Name the {nth} one."))
    return Problem("pick", kind, key, question, items[place], context=listed, steps=steps)


ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh")


def _join(items: list[str]) -> str:
    return ", ".join(items)
